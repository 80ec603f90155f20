//! Joining a cluster that runs: a new node has itself added as a learner, and begins with an empty log.

use std::path::Path;
use std::time::Duration;

use raft_core::types::{ClusterId, Identity, NodeId};
use raftkv_cli::reply::MemberRole;
use raftkv_cli::request::AddMemberRequest;
use raftkv_cli::{Client, Error};
use tokio::time::{Instant, sleep};
use tracing::{info, warn};

use crate::begin::Lobby;
use crate::config::Join;
use crate::storage;

/// How long one attempt may take, redirects and elections included.
const ATTEMPT: Duration = Duration::from_secs(3);
/// How long to wait before the next attempt.
const PAUSE: Duration = Duration::from_millis(500);
/// How often to say what is in the way.
const REPORT_INTERVAL: Duration = Duration::from_secs(5);

/// Why a node does not join with the id it has.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the cluster has given the id {} to another node meanwhile", .0.0)]
pub struct IdTaken(pub NodeId);

/// The id of the node that keeps its files in `folder`: the one that it had before, or the next that is free in the cluster. Asks until someone knows.
///
/// # Errors
/// If the folder can't be read.
pub async fn find_id(join: &Join, folder: &Path) -> Result<NodeId, raft_store_sqlite::Error> {
    if let Some(id) = storage::find_id(folder)? {
        return Ok(id);
    }
    let client = client(join);
    let mut reporter = Reporter::default();
    loop {
        match client.members().await {
            Ok(reply) => {
                let id = NodeId(1 + reply.members.iter().map(|member| member.id).max().unwrap_or_default());
                info!("no --id: {} is the next free one of cluster {}", id.0, ClusterId(reply.cluster_id));
                return Ok(id);
            }
            Err(error) => reporter.report(&sentence(&error)),
        }
        sleep(PAUSE).await;
    }
}

/// Has the node `identity`, which others reach at `address`, added to the cluster, and returns that. Asks until it is: where the cluster can't be
/// reached or refuses, a person may yet mend that, and is told how.
///
/// # Errors
/// If another node has its id, and it was not the person who chose it.
pub async fn join(
    join: &Join,
    identity: Identity,
    address: &str,
    lobby: &Lobby,
    is_id_chosen: bool,
) -> Result<ClusterId, IdTaken> {
    let client = client(join);
    let mut reporter = Reporter::default();
    let role = if join.learner { MemberRole::Learner } else { MemberRole::Promotable };
    let request = AddMemberRequest {
        id: identity.node.0,
        address: address.to_owned(),
        role: role.into(),
        incarnation: identity.incarnation.0,
    };
    loop {
        match client.add_member(request.clone()).await {
            Ok(reply) => return Ok(ClusterId(reply.cluster_id)),
            Err(Error::Failed(_)) if !is_id_chosen && is_taken(&client, identity).await => {
                return Err(IdTaken(identity.node));
            }
            Err(error) => {
                let sentence = sentence(&error);
                reporter.report(&sentence);
                lobby.wait_for(vec![sentence]);
            }
        }
        sleep(PAUSE).await;
    }
}

fn client(join: &Join) -> Client {
    let endpoints = join.nodes.iter().map(|peer| peer.address.clone());
    Client::builder().endpoints(endpoints).timeout(ATTEMPT).build().expect("the flags were checked")
}

/// Whether another node has this one's id.
async fn is_taken(client: &Client, identity: Identity) -> bool {
    let members = client.members().await.map(|reply| reply.members).unwrap_or_default();
    members.iter().any(|member| member.id == identity.node.0 && member.incarnation != identity.incarnation.0)
}

fn sentence(error: &Error) -> String {
    match error {
        Error::Failed(why) | Error::Invalid(why) => format!("the cluster refuses this node: {why}"),
        error => error.to_string(),
    }
}

/// Says what is in the way, when that changes and every few seconds.
#[derive(Default)]
struct Reporter {
    last: Option<(String, Instant)>,
}

impl Reporter {
    fn report(&mut self, sentence: &str) {
        let is_said = |(said, at): &(String, Instant)| said == sentence && at.elapsed() < REPORT_INTERVAL;
        if !self.last.as_ref().is_some_and(is_said) {
            warn!("waiting to join: {sentence}");
            self.last = Some((sentence.to_owned(), Instant::now()));
        }
    }
}
