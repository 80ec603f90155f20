//! Changes of who belongs to the cluster and who leads it, as people ask for them: what the core does not look into, such as who really is at an
//! address and whether enough would be left, is checked here.

use std::time::Duration;

use raft_core::effect::{Refusal, RoleKind};
use raft_core::membership::{Change, MembershipChange};
use raft_core::status::Status;
use raft_core::types::{ClusterId, Identity, Incarnation, Member, NodeId};
use raft_store_sqlite::{Answer, Contract};
use raft_transport_grpc::{Options, identify};
use raftkv_proto::raft::v1::IdentifyRequest;
use tokio::time::timeout;

use crate::begin::Statement;
use crate::node::{Handle, RequestError};
use crate::peer::split_address;
use crate::store::{Failure, Leader, Store};

/// How long a change may take before its outcome is called unknown.
const DEADLINE: Duration = Duration::from_secs(10);
/// How long to wait for signs of life from voters who are needed: a new leader has not heard from all yet.
const LIFE_PATIENCE: Duration = Duration::from_secs(1);
/// How long a new leader may take to make itself known.
const SUCCESSION_PATIENCE: Duration = Duration::from_secs(5);

/// What a node is added as.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    /// A voter at once.
    Voter,
    /// A learner; whether it becomes a voter by itself.
    Learner {
        /// Whether it does.
        promote: bool,
    },
}

/// A node to be added.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Addition {
    /// Its id.
    pub id: NodeId,
    /// Where others reach it.
    pub address: String,
    /// Its disk; zero if whatever is found there will do.
    pub incarnation: Incarnation,
    /// What it is added as.
    pub place: Place,
}

/// A node whose disk is a new one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Replacement {
    /// Its id.
    pub id: NodeId,
    /// Where it is; empty for where it is recorded.
    pub address: String,
    /// The disk to be replaced; zero for the recorded one.
    pub old: Incarnation,
    /// Whether to do it also to a node that runs with the recorded disk.
    pub force: bool,
}

/// Whether there was something to do.
pub type IsChanged = bool;

/// Changes the membership and leadership through a running node.
#[derive(Clone, Debug)]
pub struct Admin {
    identity: Identity,
    contract: Contract,
    node: Handle<Answer>,
    store: Store,
}

impl Admin {
    /// Of the running node `identity`, which applies commands with `contract`.
    pub fn new(identity: Identity, contract: Contract, node: Handle<Answer>, store: Store) -> Self {
        Self { identity, contract, node, store }
    }

    /// The node's status, no older than the call, which tells the members and how far each is. Only the leader can tell.
    pub async fn status(&self) -> Result<Status, Failure> {
        self.lead()?;
        self.store.confirm().await?;
        self.lead()
    }

    /// Adds a node, after asking it who it is.
    pub async fn add(&self, addition: Addition) -> Result<IsChanged, Failure> {
        let Addition { id, address, incarnation, place } = addition;
        self.lead()?;
        let found = self.ask(id, &address).await?;
        if incarnation != Incarnation(0) && incarnation != found {
            return Err(Failure::Failed(format!(
                "node {} at {address} has another data directory than expected ({found}, not {incarnation}): two nodes share an id or \
                 an address",
                id.0
            )));
        }
        let membership = self.lead()?.membership;
        match membership.members.get(&id) {
            Some(known) if known.incarnation != found => Err(Failure::Failed(format!(
                "node {} is a member with another data directory ({}, this one is {found}): if the old one is lost, run: raftkv-cli -e {} \
                 member replace {} --address {address}",
                id.0,
                known.incarnation,
                self.store.own_address(),
                id.0
            ))),
            Some(known) if known.address == address => Ok(false),
            Some(known) => self.change([Change::Update(id, Member { address, ..known.clone() })]).await,
            None => self.change([addition_of(id, address, found, place)]).await,
        }
    }

    /// Makes a voter of a learner.
    pub async fn promote(&self, id: NodeId) -> Result<IsChanged, Failure> {
        if self.lead()?.membership.voters.contains(&id) {
            return Ok(false);
        }
        self.change([Change::Promote(id)]).await
    }

    /// Makes a learner of a voter.
    pub async fn demote(&self, id: NodeId) -> Result<IsChanged, Failure> {
        let membership = self.lead()?.membership;
        if membership.learners.contains(&id) && !membership.promotable.contains(&id) {
            return Ok(false);
        }
        self.spare(id).await?;
        self.change([Change::Demote(id)]).await
    }

    /// Removes a member.
    pub async fn remove(&self, id: NodeId) -> Result<IsChanged, Failure> {
        if !self.lead()?.membership.members.contains_key(&id) {
            return Ok(false);
        }
        self.spare(id).await?;
        self.change([Change::Remove(id)]).await
    }

    /// Changes what is recorded of a member.
    pub async fn update(
        &self,
        id: NodeId,
        address: Option<String>,
        priority: Option<u32>,
    ) -> Result<IsChanged, Failure> {
        let membership = self.lead()?.membership;
        let known = membership.members.get(&id).ok_or_else(|| no_member(id))?;
        let address = address.unwrap_or_else(|| known.address.clone());
        check_address(&address)?;
        let member = Member { address, priority: priority.unwrap_or(known.priority), ..known.clone() };
        if member == *known {
            return Ok(false);
        }
        self.change([Change::Update(id, member)]).await
    }

    /// Puts a node with a new disk in the place of the same node with the old one.
    ///
    /// In two steps: a leader forgets what it knew of the old disk when that is removed. If the second step does not come about, a repeated call makes up for
    /// it.
    pub async fn replace(&self, replacement: Replacement) -> Result<IsChanged, Failure> {
        let Replacement { id, address, old, force } = replacement;
        let known = self.lead()?.membership.members.get(&id).cloned();
        let address = match (&known, address.is_empty()) {
            (Some(known), true) => known.address.clone(),
            (None, true) => return Err(no_member(id)),
            (_, false) => address,
        };
        let found = self.ask(id, &address).await?;
        if let Some(known) = known {
            if known.incarnation == found && old != Incarnation(0) && old != found {
                return Ok(false);
            }
            self.check_replacement(id, &address, found, known.incarnation, force)?;
            self.spare(id).await?;
            self.change([Change::Remove(id)]).await?;
        }
        self.change([addition_of(id, address, found, Place::Learner { promote: true })]).await
    }

    fn check_replacement(
        &self,
        id: NodeId,
        address: &str,
        found: Incarnation,
        recorded: Incarnation,
        force: bool,
    ) -> Result<(), Failure> {
        if id == self.identity.node {
            return Err(Failure::Failed(format!(
                "node {} leads, so its data directory is not lost; if you must, hand leadership over first: raftkv-cli transfer-leader",
                id.0
            )));
        }
        if found == recorded && !force {
            return Err(Failure::Failed(format!(
                "node {} runs at {address} with the data directory on record ({recorded}), so there is nothing to replace; if that is an \
                 old copy, which may have forgotten what it promised, use --force",
                id.0
            )));
        }
        Ok(())
    }

    /// Hands leadership to `to`, or to the best [successor](Status::successor), and returns who leads then.
    pub async fn transfer(&self, to: Option<NodeId>) -> Result<(Leader, Status), Failure> {
        let status = self.lead()?;
        let to = match to {
            Some(to) => to,
            None => self.successor().await?,
        };
        if to == status.id {
            return Ok((self.store.leader(to, &status), status));
        }
        self.hand_over(to).await?;
        let mut watched = self.node.watch_status();
        let leads = |status: &Status| status.leader.is_some_and(|leader| leader != status.id);
        let followed = timeout(SUCCESSION_PATIENCE, watched.wait_for(leads)).await;
        let status = match followed {
            Ok(Ok(status)) => status.clone(),
            _ => return Err(Failure::ChangeUnknown),
        };
        let leader = status.leader.ok_or(Failure::ChangeUnknown)?;
        Ok((self.store.leader(leader, &status), status))
    }

    /// Hands leadership to `to`. A successor that does not take over in time, as where the machine is busy, is asked once more.
    async fn hand_over(&self, to: NodeId) -> Result<(), Failure> {
        let hand_over = async || timeout(DEADLINE, self.node.transfer_leadership(to)).await;
        let handed = match hand_over().await {
            Ok(Err(RequestError::TransferTimedOut)) => hand_over().await,
            handed => handed,
        };
        handed.map_err(|_| Failure::ChangeUnknown)?.map_err(|error| self.refused(error))
    }

    /// Who had better lead next, as soon as there is someone.
    async fn successor(&self) -> Result<NodeId, Failure> {
        let mut watched = self.node.watch_status();
        let found = timeout(LIFE_PATIENCE, watched.wait_for(|status| status.successor().is_some())).await;
        let found = found.ok().and_then(Result::ok).and_then(|status| status.successor());
        found
            .ok_or_else(|| Failure::Failed("there is no other voter that is alive, so nobody can take over".to_owned()))
    }

    /// The status of a node that leads, or where to turn.
    fn lead(&self) -> Result<Status, Failure> {
        let status = self.node.status();
        if status.role == RoleKind::Leader { Ok(status) } else { Err(self.store.elsewhere(status.leader)) }
    }

    async fn change<const N: usize>(&self, changes: [Change; N]) -> Result<IsChanged, Failure> {
        let change = MembershipChange { changes: changes.into(), stay_joint: false };
        let changed = timeout(DEADLINE, self.node.change_membership(change)).await;
        changed.map_err(|_| Failure::ChangeUnknown)?.map(|_| true).map_err(|error| self.refused(error))
    }

    /// Asks whoever is at `address` for its disk, and makes sure that it is `id`, of this cluster or of none, and comes to the same state as
    /// this node.
    async fn ask(&self, id: NodeId, address: &str) -> Result<Incarnation, Failure> {
        if !id.is_possible() {
            return Err(Failure::Invalid(format!("a node's id is from 1 to {}", NodeId::LAST.0)));
        }
        check_address(address)?;
        // Asked as a node that has not begun: any node answers such a one.
        let from = Identity { cluster: ClusterId::default(), ..self.identity };
        let answer = identify(address, from, IdentifyRequest::default(), &Options::default()).await;
        let statement = answer.map_err(|error| {
            Failure::Failed(format!(
                "no node answers at {address} ({error}): start node {} there, or give the address at which this node ({}) reaches it",
                id.0, self.identity.node.0
            ))
        })?;
        let statement = Statement::try_from(statement).map_err(|error| Failure::Failed(error.to_string()))?;
        if statement.id != id {
            return Err(Failure::Failed(format!("the node at {address} is node {}, not {}", statement.id.0, id.0)));
        }
        if statement.cluster != ClusterId::default() && statement.cluster != self.identity.cluster {
            return Err(Failure::Failed(format!(
                "node {} at {address} belongs to another cluster, {}: start it with an empty data directory",
                id.0, statement.cluster
            )));
        }
        let checked = self.contract.check(&statement.contract);
        checked.map_err(|why| Failure::Failed(format!("node {} at {address} {why}", id.0)))?;
        Ok(statement.member.incarnation)
    }

    /// Makes sure that the voters without `id` have a majority that is alive.
    async fn spare(&self, id: NodeId) -> Result<(), Failure> {
        let mut watched = self.node.watch_status();
        let enough = timeout(LIFE_PATIENCE, watched.wait_for(|status| without(id, status).is_ok())).await;
        match enough {
            Ok(_) => Ok(()),
            Err(_) => without(id, &self.lead()?),
        }
    }

    fn refused(&self, error: RequestError) -> Failure {
        match error {
            RequestError::Refused(
                reason @ (Refusal::TermNotCommitted | Refusal::ChangeUnderWay | Refusal::NotCaughtUp(_)),
            ) => Failure::Busy(reason.to_string()),
            RequestError::Refused(reason) => Failure::Failed(reason.to_string()),
            RequestError::NoSuccessor(_) | RequestError::TransferTimedOut => Failure::Failed(error.to_string()),
            RequestError::Unknown => Failure::ChangeUnknown,
            error => self.store.failure(error),
        }
    }
}

fn addition_of(id: NodeId, address: String, incarnation: Incarnation, place: Place) -> Change {
    let member = Member { address, incarnation, ..Member::default() };
    match place {
        Place::Voter => Change::AddVoter(id, member),
        Place::Learner { promote } => Change::AddLearner { id, member, promote },
    }
}

fn no_member(id: NodeId) -> Failure {
    Failure::Failed(format!("node {} is not a member", id.0))
}

fn check_address(address: &str) -> Result<(), Failure> {
    match split_address(address) {
        Some(_) => Ok(()),
        None => Err(Failure::Invalid(format!(
            "`{address}` is no address: write it as host:port, as in db4.example.com:50051"
        ))),
    }
}

/// Whether the voters other than `id` have a majority that is alive, as a leader's status says.
fn without(id: NodeId, status: &Status) -> Result<(), Failure> {
    let voters = &status.membership.voters;
    let is_alive = |voter: NodeId| {
        voter == status.id || status.followers.iter().any(|follower| follower.id == voter && follower.active)
    };
    let left: Vec<NodeId> = voters.iter().copied().filter(|voter| *voter != id).collect();
    let silent: Vec<String> = left.iter().filter(|voter| !is_alive(**voter)).map(|voter| voter.0.to_string()).collect();
    let alive = left.len() - silent.len();
    // That the last voter stays is the core's concern.
    if left.is_empty() || !voters.contains(&id) || alive > left.len() / 2 {
        return Ok(());
    }
    Err(Failure::Failed(format!(
        "without node {}, only {alive} of {} voters would be alive, which is no majority, and nothing could be written any more: \
         bring back node {} first, or remove it first",
        id.0,
        left.len(),
        silent.join(" and node ")
    )))
}

#[cfg(test)]
mod tests {
    use raft_core::config::Config;
    use raft_core::membership::Membership;
    use raft_core::node::Node;
    use raft_core::port::Stored;
    use raft_core::status::{FollowerStatus, ProgressKind};
    use raft_core::types::{EntryId, Index};

    use super::*;

    /// A leader, node 1, of as many voters, of whom these are heard of.
    fn leader(voters: u64, active: &[u64]) -> Status {
        let members = (1..=voters).map(|id| (NodeId(id), Member::default())).collect();
        let follower = |id| FollowerStatus {
            id: NodeId(id),
            match_index: Index(id),
            next_index: Index(10),
            active: active.contains(&id),
            progress: ProgressKind::Replicate,
        };
        let stored = Stored::first(Membership::of_voters(members));
        let node = Node::new(Config::new(NodeId(1)), stored, EntryId::ZERO).unwrap();
        Status { role: RoleKind::Leader, followers: (2..=voters).map(follower).collect(), ..node.status() }
    }

    #[test]
    fn a_majority_must_be_left_and_alive() {
        for (voters, active, removed, expected) in [
            (3, &[2, 3][..], 3, true),
            (3, &[2], 3, true),
            (3, &[2], 2, false),
            (3, &[2, 3], 1, true),
            (2, &[2], 2, true),
            (2, &[], 2, true),
            (5, &[2, 3], 4, true),
            (5, &[2, 3], 2, false),
            (4, &[2, 3], 1, true),
            // Not a voter, not even a member; and the last one.
            (3, &[2], 9, true),
            (1, &[], 1, true),
        ] {
            let left = without(NodeId(removed), &leader(voters, active));
            assert_eq!(left.is_ok(), expected, "{removed} of {voters}: {left:?}");
        }
        let refused = without(NodeId(2), &leader(3, &[2])).unwrap_err().to_string();
        assert!(refused.contains("only 1 of 2 voters") && refused.contains("bring back node 3 first"), "{refused}");
    }
}
