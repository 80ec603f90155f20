//! What the flags say of peers once the node has begun: the stored membership rules, and the flags only help to find its members.

use std::time::Duration;

use raft_core::membership::Membership;
use raft_core::types::{ClusterId, Identity, NodeId};
use raft_transport_grpc::{GrpcTransport, Options, identify};
use raftkv_proto::raft::v1::IdentifyRequest;
use tokio::task::JoinSet;
use tokio::time::sleep;
use tracing::{info, warn};

use crate::begin::list;
use crate::peer::Peer;

/// How long to wait before an address that did not answer is asked again.
const PAUSE: Duration = Duration::from_millis(250);

/// What a flag means for a node that has begun.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Meaning {
    /// What the membership says as well.
    Known,
    /// The member may be found at this address now.
    Moved(NodeId),
    /// It is not in the membership.
    Stranger(NodeId),
    /// No member is recorded at this address; whoever is there can be asked, for a member may have moved.
    Unknown,
}

/// Reports flags that contradict the membership, and passes on addresses that only they know.
pub async fn check_flags(identity: Identity, peers: Vec<Peer>, membership: Membership, transport: GrpcTransport) {
    let mut asked = JoinSet::new();
    for peer in peers {
        match meaning(&peer, &membership) {
            Meaning::Known => (),
            Meaning::Moved(id) => transport.set_address(id, peer.address),
            Meaning::Stranger(id) => contradicts(&peer, id, &membership),
            Meaning::Unknown => {
                warn!(
                    "--peers names {peer}, where no member is recorded: the stored membership rules, and it has {}",
                    list(&membership.members)
                );
                asked.spawn(async move { (find(identity, &peer.address).await, peer) });
            }
        }
    }
    while let Some(Ok((id, peer))) = asked.join_next().await {
        if id == identity.node {
            continue;
        }
        if membership.members.contains_key(&id) {
            info!("{id} is at {} now", peer.address);
            transport.set_address(id, peer.address);
        } else {
            contradicts(&peer, id, &membership);
        }
    }
}

fn meaning(peer: &Peer, membership: &Membership) -> Meaning {
    let recorded = membership.members.iter().find(|(_, member)| member.address == peer.address);
    match (peer.id, recorded) {
        (Some(id), _) if !membership.members.contains_key(&id) => Meaning::Stranger(id),
        (Some(id), Some((recorded, _))) if *recorded == id => Meaning::Known,
        (Some(id), _) => Meaning::Moved(id),
        (None, Some(_)) => Meaning::Known,
        (None, None) => Meaning::Unknown,
    }
}

fn contradicts(peer: &Peer, id: NodeId, membership: &Membership) {
    warn!(
        "--peers names {peer}, node {}, which is not a member: the stored membership rules, and it has {}",
        id.0,
        list(&membership.members)
    );
}

/// Asks who is at an address until someone answers.
async fn find(identity: Identity, address: &str) -> NodeId {
    loop {
        // Asked as a node that has not begun: any node answers such a one.
        let from = Identity { cluster: ClusterId::default(), ..identity };
        let answer = identify(address, from, IdentifyRequest::default(), &Options::default()).await;
        if let Some(member) = answer.ok().and_then(|reply| reply.self_) {
            return NodeId(member.id);
        }
        sleep(PAUSE).await;
    }
}

#[cfg(test)]
mod tests {
    use raft_core::types::Member;

    use super::*;

    #[test]
    fn the_membership_rules_and_flags_help() {
        let member = |address: &str| Member { address: address.to_owned(), ..Member::default() };
        let members = [(NodeId(1), member("a:1")), (NodeId(2), member("b:1"))].into();
        let membership = Membership::of_voters(members);
        for (flag, expected) in [
            ("b:1", Meaning::Known),
            ("2=b:1", Meaning::Known),
            ("2=c:1", Meaning::Moved(NodeId(2))),
            ("2=a:1", Meaning::Moved(NodeId(2))),
            ("3=b:1", Meaning::Stranger(NodeId(3))),
            ("c:1", Meaning::Unknown),
        ] {
            assert_eq!(meaning(&flag.parse().unwrap(), &membership), expected, "{flag}");
        }
    }
}
