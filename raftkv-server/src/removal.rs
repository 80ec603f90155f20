//! A node that was removed, and is not told: the last that it hears may be older than that. So a node that has no leader for a while asks its
//! peers whether it is still one of them, and tells a person if it is not.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use raft_core::types::{ClusterId, Identity, NodeId};
use raft_transport_grpc::{Options, identify};
use raftkv_proto::raft::v1::IdentifyRequest;
use tokio::time::{MissedTickBehavior, interval};
use tracing::{info, warn};

use crate::begin::Statement;
use crate::store::Store;

/// How often to look.
const LOOK: Duration = Duration::from_secs(2);

/// Whether this node was removed, as far as is known. Clones share it.
#[derive(Clone, Debug, Default)]
pub(crate) struct Removal(Arc<Mutex<Option<String>>>);

impl Removal {
    /// What a person should know.
    pub(crate) fn alarm(&self) -> Option<String> {
        self.lock().clone()
    }

    /// Looks from time to time for as long as it is polled.
    pub(crate) async fn watch(self, store: Store, identity: Identity) {
        let mut looks = interval(LOOK);
        looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut had_leader = true;
        loop {
            looks.tick().await;
            let has_leader = store.status().leader.is_some();
            // An election is soon over.
            if has_leader || had_leader {
                self.note(None);
            } else {
                self.note(who_says_so(&store, identity).await);
            }
            had_leader = has_leader;
        }
    }

    fn note(&self, says_so: Option<NodeId>) {
        let alarm = says_so.map(|node| {
            format!(
                "it was removed from the cluster, as node {} says: stop it. To have it back, start it with an empty folder and --join",
                node.0
            )
        });
        let mut known = self.lock();
        match (&*known, &alarm) {
            (None, Some(alarm)) => warn!("this node has no leader: {alarm}"),
            (Some(_), None) => info!("this node belongs to the cluster again"),
            _ => (),
        }
        *known = alarm;
    }

    fn lock(&self) -> MutexGuard<'_, Option<String>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The first of the peers that knows the cluster without this node's disk.
async fn who_says_so(store: &Store, identity: Identity) -> Option<NodeId> {
    let status = store.status();
    if !status.membership.members.contains_key(&identity.node) {
        return Some(identity.node);
    }
    for &id in status.membership.members.keys().filter(|id| **id != identity.node) {
        if is_unknown_to(&store.address(id, &status), identity).await {
            return Some(id);
        }
    }
    None
}

async fn is_unknown_to(address: &str, identity: Identity) -> bool {
    // Asked as a node that has not begun: any node answers such a one.
    let from = Identity { cluster: ClusterId::default(), ..identity };
    let reply = identify(address, from, IdentifyRequest::default(), &Options::default()).await;
    let statement = reply.ok().and_then(|reply| Statement::try_from(reply).ok());
    statement.is_some_and(|Statement { cluster, members, complete, .. }| {
        let is_known = || members.get(&identity.node).is_some_and(|member| member.incarnation == identity.incarnation);
        cluster == identity.cluster && complete && !is_known()
    })
}
