//! The first start: nodes that know each other's addresses find out who they all are, and begin one cluster alike.
//!
//! Before its first start a node asks the peers that its flags name, round after round, and answers them in turn with what it
//! knows: a [`Statement`]. It begins once everyone it knows has stated the same members as itself.
//!
//! **Why no two nodes begin with different members.** A node begins with the set S only after a round in which (1) its own
//! statement was S, complete, from the round's start on, and (2) every other member of S stated S, complete, within the round.
//! From then on its statement does not change. Say two nodes, each in the other's set, begin with S and with S'. Each stated the
//! other's set within the other's round, which can't have been within or after its own round, so before it: each before the other,
//! which is impossible. What a node states before its start needs no disk: a node that forgets it has not begun.
//!
//! The cluster's id follows from the set, so all who begin together also agree on it, and nobody else can have it.

use std::collections::BTreeMap;
use std::sync::Mutex;
use std::time::Duration;

use raft_core::membership::Membership;
use raft_core::port::Stored;
use raft_core::types::{ClusterId, Incarnation, Member, NodeId};
use raft_store_sqlite::{Contract, ContractMismatch};
use raft_transport_grpc::handshake::PROTOCOL;
use sha2::{Digest, Sha256};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep};
use tracing::{info, warn};

use crate::peer::Peer;

/// How long to wait between rounds in which nothing changed.
const ROUND_PAUSE: Duration = Duration::from_millis(150);
/// How long something must be missing to be worth a line: peers that start together need a moment to find each other.
const REPORT_DELAY: Duration = Duration::from_millis(500);
/// How often to say what is still missing.
const REPORT_INTERVAL: Duration = Duration::from_secs(4);

/// Nodes by id.
pub type Members = BTreeMap<NodeId, Member>;

/// What a node says of itself and of whom it knows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Statement {
    /// The protocol version it speaks.
    pub protocol: u32,
    /// Its id.
    pub id: NodeId,
    /// Its address and disk.
    pub member: Member,
    /// The cluster it belongs to; zero if it has not begun.
    pub cluster: ClusterId,
    /// Before it has begun: itself and those it has identified. Afterwards: the cluster's members.
    pub members: Members,
    /// Whether `members` has all whom its flags name. Always true once it has begun.
    pub complete: bool,
    /// What it applies commands with.
    pub contract: Contract,
}

impl Statement {
    /// What a node states that knows nobody yet.
    fn alone(id: NodeId, member: Member, peers: &[Peer], contract: Contract) -> Self {
        let (cluster, members) = (ClusterId::default(), [(id, member.clone())].into());
        Self { protocol: PROTOCOL, id, member, cluster, members, complete: peers.is_empty(), contract }
    }
}

/// What came of asking a peer who it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Answer {
    /// It said this.
    Stated(Statement),
    /// It said nothing, and this is why.
    Silent(String),
    /// It does not talk to this node, for this reason.
    Refused(String),
}

/// What a node begins with.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Beginning {
    /// The cluster's id.
    pub cluster: ClusterId,
    /// What the log holds at first.
    pub stored: Stored,
}

/// What to do after a round.
#[derive(Debug, PartialEq, Eq)]
pub enum Decision {
    /// Begin with this.
    Begin(Box<Beginning>),
    /// State this from now on, and ask again.
    Continue {
        /// The members known now.
        members: Members,
        /// Whether they are all whom the flags name.
        complete: bool,
        /// What keeps this node from beginning, for the person who waits. Empty if it will be done in a moment.
        obstacles: Vec<Obstacle>,
    },
}

/// Something that keeps a node from beginning, and that may still pass.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Obstacle {
    /// A peer does not answer.
    #[error("{peer} does not answer ({why})")]
    Silent {
        /// The peer.
        peer: Peer,
        /// Why.
        why: String,
    },
    /// A peer does not talk to this node.
    #[error("{peer} refuses this node: {why}")]
    Refused {
        /// The peer.
        peer: Peer,
        /// Why.
        why: String,
    },
    /// A peer is of another version.
    #[error("{peer} speaks protocol {theirs}, this node {PROTOCOL}: run the same version on all nodes")]
    Protocol {
        /// The peer.
        peer: Peer,
        /// Its version.
        theirs: u32,
    },
    /// A peer would apply commands otherwise than this node.
    #[error("{peer} {why}")]
    OtherContract {
        /// The peer.
        peer: Peer,
        /// What differs.
        why: ContractMismatch,
    },
    /// A peer is not the node that the flags say it is.
    #[error("{peer} is node {}: correct --peers here, or --id there", .actual.0)]
    WrongId {
        /// The peer.
        peer: Peer,
        /// The id it states.
        actual: NodeId,
    },
    /// The flags name a peer twice. Perhaps another was meant, so this is not passed over: what begins can't be taken back.
    #[error("{peer} is node {} again: let --peers name each of the other nodes once", .id.0)]
    NamedTwice {
        /// The peer.
        peer: Peer,
        /// Who it is.
        id: NodeId,
    },
    /// Two peers state one id.
    #[error("{first} and {second} both say they are node {}: give each node its own --id", .id.0)]
    SharedId {
        /// The id.
        id: NodeId,
        /// One of them.
        first: String,
        /// The other.
        second: String,
    },
    /// A peer's flags name other nodes than this node's.
    #[error("node {} ({}) names {theirs}, this node {ours}: let each node's --peers name all the others", .id.0, .address)]
    OtherMembers {
        /// The peer.
        id: NodeId,
        /// Its address.
        address: String,
        /// Whom it states.
        theirs: String,
        /// Whom this node states.
        ours: String,
    },
    /// A peer has not found all whom it names.
    #[error("node {} ({}) still looks for others than this node does", .id.0, .address)]
    PeerWaits {
        /// The peer.
        id: NodeId,
        /// Its address.
        address: String,
    },
    /// The cluster has begun without this node. It may be that of a node that began alone by mistake.
    #[error(
        "the cluster {cluster} of {peer} has begun without node {}: its members are {members}; to add this node to it, run: \
         raftkv-cli -e {} member add {} {address}; if it was begun by mistake, start {peer} with an empty data directory and the right \
         --peers", .id.0, .peer.address, .id.0
    )]
    NotAMember {
        /// This node.
        id: NodeId,
        /// Its address.
        address: String,
        /// The cluster.
        cluster: ClusterId,
        /// Who said so.
        peer: Peer,
        /// Its members.
        members: String,
    },
    /// The cluster knows this id with another disk, which this one must not stand in for.
    #[error(
        "the cluster {cluster} knows node {} with another data directory ({theirs}, this one is {ours}), and a new one may have \
         forgotten what the old one promised: start this node with its old data directory, or, if that is lost, run: \
         raftkv-cli -e {} member replace {} --address {address}", .id.0, .peer.address, .id.0
    )]
    OtherDisk {
        /// This node.
        id: NodeId,
        /// Its address.
        address: String,
        /// The cluster.
        cluster: ClusterId,
        /// Who said so.
        peer: Peer,
        /// This node's disk.
        ours: Incarnation,
        /// The disk that the cluster knows.
        theirs: Incarnation,
    },
    /// Two peers belong to different clusters.
    #[error("the peers belong to different clusters, {first} and {second}: let --peers name nodes of one cluster only")]
    TwoClusters {
        /// One cluster.
        first: ClusterId,
        /// The other.
        second: ClusterId,
    },
}

/// Why a node can't begin, whatever the others do.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum BeginError {
    /// Another node has this node's id.
    #[error("{peer} is node {} as well: give each node its own --id", .id.0)]
    DuplicateId {
        /// The id.
        id: NodeId,
        /// The other node.
        peer: Peer,
    },
}

/// The id of the cluster that `members` begin.
pub fn cluster_id(members: &Members) -> ClusterId {
    let mut hash = Sha256::new();
    hash.update(b"raftkv cluster v1\0");
    for (id, member) in members {
        hash.update(id.0.to_be_bytes());
        hash.update(member.incarnation.0.to_be_bytes());
        hash.update((member.address.len() as u64).to_be_bytes());
        hash.update(member.address.as_bytes());
    }
    let digest: [u8; 32] = hash.finalize().into();
    let (head, _) = digest.split_first_chunk().expect("a digest has 32 bytes");
    // Zero means "not begun".
    ClusterId(u64::from_be_bytes(*head).max(1))
}

/// What follows from a round: `own` was stated from its start on, and each of `peers` has given the answer of the same place.
pub fn decide(own: &Statement, peers: &[Peer], answers: &[Answer]) -> Result<Decision, BeginError> {
    assert_eq!(peers.len(), answers.len(), "each peer was asked");
    let mut round = Round::new(own);
    for (peer, answer) in peers.iter().zip(answers) {
        match answer {
            Answer::Stated(statement) => round.hear(peer, statement)?,
            Answer::Silent(why) => round.obstacles.push(Obstacle::Silent { peer: peer.clone(), why: why.clone() }),
            Answer::Refused(why) => round.obstacles.push(Obstacle::Refused { peer: peer.clone(), why: why.clone() }),
        }
    }
    Ok(round.conclude())
}

/// What a round has yielded so far.
struct Round<'a> {
    own: &'a Statement,
    members: Members,
    /// The valid statements of others.
    statements: Vec<&'a Statement>,
    /// The cluster that a peer has begun, in which this node stands.
    begun: Option<&'a Statement>,
    obstacles: Vec<Obstacle>,
}

impl<'a> Round<'a> {
    fn new(own: &'a Statement) -> Self {
        let members = [(own.id, own.member.clone())].into();
        Self { own, members, statements: Vec::new(), begun: None, obstacles: Vec::new() }
    }

    fn hear(&mut self, peer: &Peer, statement: &'a Statement) -> Result<(), BeginError> {
        let Statement { protocol, id, member, .. } = statement;
        if *protocol != PROTOCOL {
            self.obstacles.push(Obstacle::Protocol { peer: peer.clone(), theirs: *protocol });
        } else if *id == self.own.id && member.incarnation != self.own.member.incarnation {
            return Err(BeginError::DuplicateId { id: *id, peer: peer.clone() });
        } else if peer.id.is_some_and(|named| named != *id) {
            self.obstacles.push(Obstacle::WrongId { peer: peer.clone(), actual: *id });
        } else if *id == self.own.id {
            // A list of all nodes, this one included, is fine.
        } else if let Err(why) = self.own.contract.check(&statement.contract) {
            self.obstacles.push(Obstacle::OtherContract { peer: peer.clone(), why });
        } else if statement.cluster != ClusterId::default() {
            self.find_begun(peer, statement);
        } else {
            self.find_waiting(peer, statement);
        }
        Ok(())
    }

    /// A peer has begun: this node stands in its cluster, with this disk, or waits until it does.
    fn find_begun(&mut self, peer: &Peer, statement: &'a Statement) {
        let Statement { cluster, members, .. } = statement;
        let (id, ours) = (self.own.id, self.own.member.incarnation);
        let (address, cluster, peer) = (self.own.member.address.clone(), *cluster, peer.clone());
        match (members.get(&id).map(|member| member.incarnation), self.begun) {
            (None, _) => {
                let members = list(members);
                self.obstacles.push(Obstacle::NotAMember { id, address, cluster, peer, members });
            }
            (Some(theirs), _) if theirs != ours => {
                // All peers will say so: one line is enough.
                let is_said =
                    |it: &Obstacle| matches!(it, Obstacle::OtherDisk { cluster: said, .. } if *said == cluster);
                if !self.obstacles.iter().any(is_said) {
                    self.obstacles.push(Obstacle::OtherDisk { id, address, cluster, peer, ours, theirs });
                }
            }
            (_, Some(other)) if other.cluster != cluster => {
                self.obstacles.push(Obstacle::TwoClusters { first: other.cluster, second: cluster });
            }
            _ => self.begun = Some(statement),
        }
    }

    fn find_waiting(&mut self, peer: &Peer, statement: &'a Statement) {
        let Statement { id, member, .. } = statement;
        match self.members.get(id) {
            None => {
                self.members.insert(*id, member.clone());
                self.statements.push(statement);
            }
            Some(known) if known.incarnation == member.incarnation => {
                self.obstacles.push(Obstacle::NamedTwice { peer: peer.clone(), id: *id });
            }
            Some(known) => self.obstacles.push(Obstacle::SharedId {
                id: *id,
                first: known.address.clone(),
                second: member.address.clone(),
            }),
        }
    }

    fn conclude(mut self) -> Decision {
        let two_clusters = self.obstacles.iter().any(|obstacle| matches!(obstacle, Obstacle::TwoClusters { .. }));
        if let Some(begun) = self.begun.filter(|_| !two_clusters) {
            return Decision::Begin(Box::new(adopt(begun)));
        }
        let complete = self.obstacles.is_empty();
        let was_stated = self.own.complete && self.own.members == self.members;
        if complete && was_stated {
            let members = &self.members;
            let differ =
                self.statements.iter().filter(|statement| !statement.complete || statement.members != *members);
            self.obstacles.extend(differ.map(|statement| disagreement(statement, members)));
            if self.obstacles.is_empty() {
                return Decision::Begin(Box::new(begin(self.members)));
            }
        }
        Decision::Continue { members: self.members, complete, obstacles: self.obstacles }
    }
}

/// Begins the cluster of these members.
fn begin(members: Members) -> Beginning {
    Beginning { cluster: cluster_id(&members), stored: Stored::first(Membership::of_voters(members)) }
}

/// Joins a cluster that has begun with this node. If its members are still the first ones, the first entry is known too; else the log comes from
/// the leader.
fn adopt(begun: &Statement) -> Beginning {
    let first = begin(begun.members.clone());
    if first.cluster == begun.cluster { first } else { Beginning { cluster: begun.cluster, stored: Stored::default() } }
}

fn disagreement(statement: &Statement, ours: &Members) -> Obstacle {
    let (id, address) = (statement.id, statement.member.address.clone());
    if statement.complete {
        Obstacle::OtherMembers { id, address, theirs: list(&statement.members), ours: list(ours) }
    } else {
        Obstacle::PeerWaits { id, address }
    }
}

/// The members in one line: `1 (localhost:50051), 2 (localhost:50052)`.
pub fn list(members: &Members) -> String {
    let member = |(id, member): (&NodeId, &Member)| format!("{} ({})", id.0, member.address);
    members.iter().map(member).collect::<Vec<_>>().join(", ")
}

/// What this node answers to Identify before it has begun.
#[derive(Debug)]
pub struct Lobby {
    statement: Mutex<Statement>,
    waits_for: Mutex<Vec<String>>,
}

impl Lobby {
    /// The lobby of node `id`, which others reach and know as `member`, whose flags name `peers`, and which applies commands with
    /// `contract`.
    pub fn new(id: NodeId, member: Member, peers: &[Peer], contract: Contract) -> Self {
        Self { statement: Mutex::new(Statement::alone(id, member, peers, contract)), waits_for: Mutex::default() }
    }

    /// What this node states now.
    pub fn statement(&self) -> Statement {
        self.lock().clone()
    }

    /// What keeps this node from beginning, a sentence each, as of the last attempt.
    pub fn waits_for(&self) -> Vec<String> {
        self.waits_for.lock().expect("nothing panics while it holds the reasons").clone()
    }

    /// Says what keeps this node from beginning.
    pub fn wait_for(&self, what: Vec<String>) {
        *self.waits_for.lock().expect("nothing panics while it holds the reasons") = what;
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Statement> {
        self.statement.lock().expect("nothing panics while it holds a statement")
    }

    /// Asks `peers`, round after round, until it is clear what to begin with. `ask` asks one of them who it is, in bounded time; it is handed what this
    /// node states.
    ///
    /// Once this returns `Ok`, the statement stays as it is: that is what makes all begin alike.
    pub async fn agree<F, Asked>(&self, peers: &[Peer], ask: F) -> Result<Beginning, BeginError>
    where
        F: Fn(Peer, Statement) -> Asked,
        Asked: Future<Output = Answer> + Send + 'static,
    {
        let mut reporter = Reporter::new();
        loop {
            let own = self.statement();
            let answers = ask_all(peers, |peer| ask(peer, own.clone())).await;
            reporter.report_self(&own, peers, &answers);
            match decide(&own, peers, &answers)? {
                Decision::Begin(beginning) => return Ok(*beginning),
                Decision::Continue { members, complete, obstacles } => {
                    self.wait_for(obstacles.iter().map(ToString::to_string).collect());
                    reporter.report(&obstacles);
                    if members == own.members && complete == own.complete {
                        sleep(ROUND_PAUSE).await;
                    }
                    let mut statement = self.lock();
                    statement.members = members;
                    statement.complete = complete;
                }
            }
        }
    }
}

/// Asks all peers at once; the answers stand in the peers' places.
async fn ask_all<Asked>(peers: &[Peer], ask: impl Fn(Peer) -> Asked) -> Vec<Answer>
where
    Asked: Future<Output = Answer> + Send + 'static,
{
    let mut asking = JoinSet::new();
    for (place, peer) in peers.iter().enumerate() {
        let asked = ask(peer.clone());
        asking.spawn(async move { (place, asked.await) });
    }
    let mut answers = asking.join_all().await;
    answers.sort_by_key(|(place, _)| *place);
    answers.into_iter().map(|(_, answer)| answer).collect()
}

/// Says what keeps this node waiting: when it has lasted a moment, and again every few seconds.
struct Reporter {
    lines: Vec<String>,
    /// When to say it.
    due: Instant,
    /// Whether it was said that the flags name this node itself.
    said_self: bool,
}

impl Reporter {
    fn new() -> Self {
        Self { lines: Vec::new(), due: Instant::now() + REPORT_DELAY, said_self: false }
    }

    fn report_self(&mut self, own: &Statement, peers: &[Peer], answers: &[Answer]) {
        for (peer, answer) in peers.iter().zip(answers) {
            if matches!(answer, Answer::Stated(statement) if statement.id == own.id) && !self.said_self {
                self.said_self = true;
                info!("--peers names this node itself ({peer}): passed over");
            }
        }
    }

    fn report(&mut self, obstacles: &[Obstacle]) {
        let lines: Vec<_> = obstacles.iter().map(ToString::to_string).collect();
        if lines != self.lines {
            self.lines = lines;
            self.due = self.due.min(Instant::now() + REPORT_DELAY);
        }
        if Instant::now() < self.due {
            return;
        }
        self.due = Instant::now() + REPORT_INTERVAL;
        for (obstacle, line) in obstacles.iter().zip(&self.lines) {
            match obstacle {
                Obstacle::Silent { .. } | Obstacle::PeerWaits { .. } => info!("waiting to begin: {line}"),
                _ => warn!("waiting to begin: {line}"),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;

    fn member(id: u64) -> Member {
        Member { address: format!("localhost:5005{id}"), incarnation: Incarnation(100 + id), priority: 0 }
    }

    fn members(ids: &[u64]) -> Members {
        ids.iter().map(|id| (NodeId(*id), member(*id))).collect()
    }

    fn peers(ids: &[u64]) -> Vec<Peer> {
        ids.iter().map(|id| Peer { id: None, address: member(*id).address }).collect()
    }

    fn states(id: u64, known: &[u64], complete: bool) -> Statement {
        let cluster = ClusterId::default();
        let (id, member, members) = (NodeId(id), member(id), members(known));
        Statement { protocol: PROTOCOL, id, member, cluster, members, complete, contract: Contract::from("rules=1") }
    }

    fn has_begun(id: u64, known: &[u64]) -> Statement {
        Statement { cluster: cluster_id(&members(known)), ..states(id, known, true) }
    }

    fn silent() -> Answer {
        Answer::Silent("connection refused".to_owned())
    }

    fn obstacles(own: &Statement, answers: &[Answer]) -> String {
        match decide(own, &peers(&[2, 3]), answers) {
            Ok(Decision::Continue { obstacles, .. }) => {
                obstacles.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n")
            }
            other => panic!("expected obstacles, got {other:?}"),
        }
    }

    #[test]
    fn a_node_without_peers_begins_alone() {
        let decision = decide(&states(1, &[1], true), &[], &[]);
        assert_eq!(decision, Ok(Decision::Begin(Box::new(begin(members(&[1]))))));
    }

    #[test]
    fn it_begins_once_all_state_what_it_stated_itself() {
        let own = states(1, &[1, 2, 3], true);
        let answers = [2, 3].map(|id| Answer::Stated(states(id, &[1, 2, 3], true)));
        let decision = decide(&own, &peers(&[2, 3]), &answers);
        assert_eq!(decision, Ok(Decision::Begin(Box::new(begin(members(&[1, 2, 3]))))));
    }

    #[test]
    fn it_first_states_what_it_has_learnt() {
        let answers = [2, 3].map(|id| Answer::Stated(states(id, &[1, 2, 3], true)));
        for own in [states(1, &[1], false), states(1, &[1, 2], false), states(1, &[1, 2, 3], false)] {
            let decision = decide(&own, &peers(&[2, 3]), &answers);
            let expected = Decision::Continue { members: members(&[1, 2, 3]), complete: true, obstacles: vec![] };
            assert_eq!(decision, Ok(expected));
        }
    }

    #[test]
    fn it_waits_for_a_silent_peer_also_if_it_knew_it_before() {
        let own = states(1, &[1, 2, 3], true);
        let answers = [Answer::Stated(states(2, &[1, 2, 3], true)), silent()];
        let expected = Decision::Continue {
            members: members(&[1, 2]),
            complete: false,
            obstacles: vec![Obstacle::Silent { peer: peers(&[3])[0].clone(), why: "connection refused".to_owned() }],
        };
        assert_eq!(decide(&own, &peers(&[2, 3]), &answers), Ok(expected));
    }

    #[test]
    fn it_waits_for_a_peer_that_waits_for_others() {
        let own = states(1, &[1, 2, 3], true);
        let answers = [Answer::Stated(states(2, &[1, 2, 3], true)), Answer::Stated(states(3, &[1, 3], false))];
        assert!(obstacles(&own, &answers).contains("node 3 (localhost:50053) still looks"));
    }

    #[test]
    fn sets_that_differ_are_named() {
        let own = states(1, &[1, 2, 3], true);
        let answers = [Answer::Stated(states(2, &[1, 2, 3], true)), Answer::Stated(states(3, &[1, 3, 4], true))];
        let text = obstacles(&own, &answers);
        assert!(text.contains("node 3 (localhost:50053) names 1 (localhost:50051), 3 (localhost:50053), 4"), "{text}");
    }

    #[test]
    fn an_address_that_differs_is_a_different_set() {
        let own = states(1, &[1, 2, 3], true);
        let mut other = states(2, &[1, 2, 3], true);
        other.members.get_mut(&NodeId(1)).unwrap().address = "127.0.0.1:50051".to_owned();
        let answers = [Answer::Stated(other), Answer::Stated(states(3, &[1, 2, 3], true))];
        assert!(obstacles(&own, &answers).contains("127.0.0.1:50051"));
    }

    #[test]
    fn contradictions_are_reported_and_waited_for() {
        let own = states(1, &[1], false);
        let future = Statement { protocol: 2, ..states(2, &[2], false) };
        assert!(obstacles(&own, &[Answer::Stated(future), silent()]).contains("speaks protocol 2, this node 1"));

        let newer = Statement { contract: Contract::from("rules=2"), ..states(2, &[2], false) };
        assert!(
            obstacles(&own, &[Answer::Stated(newer), silent()]).contains("only here: rules=1; only there: rules=2")
        );
        let older = Statement { contract: Contract::default(), ..states(2, &[2], false) };
        assert!(obstacles(&own, &[Answer::Stated(older), silent()]).contains("run this version, rules=1, there too"));

        let twin = Statement { member: member(9), ..states(2, &[2], false) };
        let text = obstacles(&own, &[Answer::Stated(states(2, &[2], false)), Answer::Stated(twin)]);
        assert!(text.contains("localhost:50052 and localhost:50059 both say they are node 2"), "{text}");

        let refused = Answer::Refused("run versions that understand each other".to_owned());
        assert!(obstacles(&own, &[refused, silent()]).contains("refuses this node: run versions"));

        let node2 = Answer::Stated(states(2, &[2], false));
        assert!(obstacles(&own, &[node2.clone(), node2]).contains("localhost:50053 is node 2 again"));

        let named = [Peer { id: Some(NodeId(2)), address: "localhost:50053".to_owned() }];
        let decision = decide(&own, &named, &[Answer::Stated(own.clone())]);
        let Ok(Decision::Continue { complete: false, obstacles, .. }) = decision else { panic!("{decision:?}") };
        assert_eq!(obstacles, [Obstacle::WrongId { peer: named[0].clone(), actual: NodeId(1) }]);
        let decision = decide(&own, &named, &[Answer::Stated(states(3, &[3], false))]);
        let Ok(Decision::Continue { complete: false, obstacles, .. }) = decision else { panic!("{decision:?}") };
        assert_eq!(obstacles, [Obstacle::WrongId { peer: named[0].clone(), actual: NodeId(3) }]);
    }

    #[test]
    fn a_list_of_all_nodes_is_fine() {
        let own = states(1, &[1, 2], true);
        let answers = [Answer::Stated(own.clone()), Answer::Stated(states(2, &[1, 2], true))];
        let decision = decide(&own, &peers(&[1, 2]), &answers);
        assert_eq!(decision, Ok(Decision::Begin(Box::new(begin(members(&[1, 2]))))));
    }

    #[test]
    fn another_node_with_this_id_ends_the_start() {
        let twin = Statement { member: member(9), ..states(1, &[1], false) };
        let error = decide(&states(1, &[1], false), &peers(&[2]), &[Answer::Stated(twin)]).unwrap_err();
        assert!(error.to_string().contains("give each node its own --id"), "{error}");
    }

    #[test]
    fn a_cluster_that_has_begun_with_this_node_is_adopted_without_waiting_for_the_rest() {
        let own = states(1, &[1], false);
        let answers = [Answer::Stated(has_begun(2, &[1, 2, 3])), silent()];
        let decision = decide(&own, &peers(&[2, 3]), &answers);
        assert_eq!(decision, Ok(Decision::Begin(Box::new(begin(members(&[1, 2, 3]))))));
    }

    #[test]
    fn a_cluster_whose_members_have_changed_is_adopted_with_an_empty_log() {
        let begun = Statement { cluster: ClusterId(7), ..states(2, &[1, 2, 4], true) };
        let decision = decide(&states(1, &[1], false), &peers(&[2]), &[Answer::Stated(begun)]);
        let expected = Beginning { cluster: ClusterId(7), stored: Stored::default() };
        assert_eq!(decision, Ok(Decision::Begin(Box::new(expected))));
    }

    #[test]
    fn a_cluster_that_has_begun_without_this_node_is_waited_for_with_what_to_do() {
        let own = states(1, &[1], false);
        let text = obstacles(&own, &[Answer::Stated(has_begun(2, &[2, 3])), silent()]);
        assert!(text.contains("has begun without node 1"), "{text}");
        assert!(text.contains("run: raftkv-cli -e localhost:50052 member add 1 localhost:50051;"), "{text}");
    }

    #[test]
    fn a_cluster_that_knows_another_disk_is_waited_for_with_what_to_do_once() {
        let wiped = Statement { member: member(9), ..states(1, &[1], false) };
        let answers = [2, 3].map(|id| Answer::Stated(has_begun(id, &[1, 2, 3])));
        let text = obstacles(&wiped, &answers);
        assert!(text.contains("with another data directory"), "{text}");
        assert!(
            text.contains("run: raftkv-cli -e localhost:50052 member replace 1 --address localhost:50059"),
            "{text}"
        );
        assert_eq!(text.lines().count(), 1, "{text}");
    }

    #[test]
    fn a_disk_that_the_cluster_has_put_in_the_place_of_the_old_one_begins_with_an_empty_log() {
        let wiped = Statement { member: member(9), ..states(1, &[1], false) };
        let mut stale = has_begun(2, &[1, 2, 3]);
        let mut begun = stale.clone();
        begun.members.insert(NodeId(1), member(9));
        stale.id = NodeId(3);
        // A peer that is behind does not keep it.
        let decision = decide(&wiped, &peers(&[3, 2]), &[Answer::Stated(stale), Answer::Stated(begun.clone())]);
        assert_eq!(
            decision,
            Ok(Decision::Begin(Box::new(Beginning { cluster: begun.cluster, stored: Stored::default() })))
        );
    }

    #[test]
    fn a_peer_that_has_begun_alone_does_not_end_the_start_of_the_others() {
        let own = states(1, &[1, 3], true);
        let answers = [Answer::Stated(has_begun(2, &[2])), Answer::Stated(states(3, &[1, 3], true))];
        assert!(obstacles(&own, &answers).contains("has begun without node 1"));
    }

    #[test]
    fn two_clusters_are_reported() {
        let own = states(1, &[1], false);
        let answers = [Answer::Stated(has_begun(2, &[1, 2])), Answer::Stated(has_begun(3, &[1, 3]))];
        assert!(obstacles(&own, &answers).contains("different clusters"));
    }

    #[test]
    fn the_clusters_id_depends_on_everything_in_the_set() {
        let base = members(&[1, 2]);
        assert_eq!(cluster_id(&base), cluster_id(&base.clone()));
        let change = |change: &dyn Fn(&mut Member)| {
            let mut members = base.clone();
            change(members.get_mut(&NodeId(2)).unwrap());
            cluster_id(&members)
        };
        assert_ne!(cluster_id(&base), change(&|member| member.incarnation = Incarnation(1)));
        assert_ne!(cluster_id(&base), change(&|member| member.address.push('0')));
        assert_ne!(cluster_id(&base), cluster_id(&members(&[1, 3])));
    }

    /// Nodes that ask each other in memory, started one after the other.
    #[tokio::test(start_paused = true)]
    async fn nodes_started_one_after_the_other_begin_alike() {
        let lobbies: Arc<Mutex<BTreeMap<String, Arc<Lobby>>>> = Arc::default();
        let mut starting = JoinSet::new();
        for id in [3, 1, 2] {
            let others = peers(&[1, 2, 3].into_iter().filter(|other| *other != id).collect::<Vec<_>>());
            let lobby = Arc::new(Lobby::new(NodeId(id), member(id), &others, Contract::default()));
            lobbies.lock().unwrap().insert(member(id).address, lobby.clone());
            let directory = lobbies.clone();
            starting.spawn(async move {
                let ask = |peer: Peer, _| {
                    let found = directory.lock().unwrap().get(&peer.address).map(|lobby| lobby.statement());
                    std::future::ready(found.map_or_else(silent, Answer::Stated))
                };
                lobby.agree(&others, ask).await
            });
            sleep(Duration::from_secs(2)).await;
        }
        for beginning in starting.join_all().await {
            assert_eq!(beginning, Ok(begin(members(&[1, 2, 3]))));
        }
    }
}
