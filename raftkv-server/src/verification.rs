//! Nodes compare their states, and one that differs from most of the others stops.
//!
//! The leader proposes a mark, and each node that applies it computes the checksum of its state just there, on its own time. Then it tells
//! every other member, and learns what that has: so whichever of two nodes is later, both know both. Each node judges for itself. One that finds that most of
//! the voters have a checksum other than its own notes in its folder that it must not start again, and stops. Where no checksum is that of most voters,
//! nobody can tell who is right: all say so, and nobody stops.

mod findings;

use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use raft_core::status::Status;
use raft_core::types::{EntryId, Identity, Incarnation, Index, NodeId, Term};
use raft_store_sqlite::{Answer, Checksum, Error, Marked, Marks, StateDigest, refuse_later_starts};
use raft_transport_grpc::GrpcTransport;
use raftkv_proto::raft::v1 as wire;
use tokio::sync::{mpsc, watch};
use tokio::task::{JoinSet, spawn_blocking};
use tokio::time::{sleep, timeout};
use tracing::{debug, error, info};

use crate::node::Handle;
use crate::store::Failure;
pub use findings::Progress;
use findings::{Checksums, Findings, Verdict, describe, judge, name};

/// The pause before a peer that did not answer is told again: the first, and the longest.
const PAUSE_MIN: Duration = Duration::from_millis(250);
const PAUSE_MAX: Duration = Duration::from_secs(10);
/// How long a node that must not serve any more tries to tell the others what it has found.
const FAREWELL: Duration = Duration::from_secs(2);

/// Compares a node's state with those of the others. Cheap to clone.
#[derive(Clone)]
pub struct Verification(Arc<Inner>);

struct Inner {
    identity: Identity,
    folder: PathBuf,
    node: Handle<Answer>,
    transport: GrpcTransport,
    marks: Marks,
    findings: Mutex<Findings>,
    /// What was last logged of the states, so that it is not said again.
    logged: Mutex<String>,
    /// Whether a comparison is wanted: since the last, a node was started, and anything may have been done to its files before.
    is_wanted: AtomicBool,
    /// Whether the node has begun to stop.
    stops: AtomicBool,
    /// Why the node must not serve any more, once that is noted in its folder.
    diverged: watch::Sender<Option<String>>,
}

/// What a node knows of the checksums at an entry.
#[derive(Clone, Debug)]
pub struct Known {
    /// How far its own is.
    pub progress: Progress,
    /// Whether its own may still come, if it has not begun.
    pub comes: bool,
    /// Those of members.
    pub checksums: Checksums,
}

impl Verification {
    /// Of a running node whose files are in `folder`, and whose state machine shows itself at `marks`.
    pub fn new(
        identity: Identity,
        folder: PathBuf,
        node: Handle<Answer>,
        transport: GrpcTransport,
        marks: Marks,
    ) -> Self {
        // This one was started just now.
        let (is_wanted, stops) = (AtomicBool::new(true), AtomicBool::new(false));
        let (findings, logged) = (Mutex::default(), Mutex::default());
        let diverged = watch::Sender::new(None);
        Self(Arc::new(Inner { identity, folder, node, transport, marks, findings, logged, is_wanted, stops, diverged }))
    }

    /// Computes and compares for as long as the node runs.
    pub(crate) async fn run(self) {
        let (sender, mut computed) = mpsc::channel(1);
        let computing = self.clone();
        spawn_blocking(move || computing.compute_all(&sender));
        let mut exchanges = self.exchange_with_all(None);
        while let Some(checksum) = computed.recv().await {
            // What is still to be told of an earlier mark need not be told any more.
            exchanges.abort_all();
            exchanges = self.exchange_with_all(Some(&checksum));
            self.conclude(checksum.at.index);
        }
    }

    /// Whether this node stops since it differs from the others.
    pub(crate) fn stops(&self) -> bool {
        self.0.stops.load(Ordering::Acquire)
    }

    /// Waits until this node is found to differ from the others, and must stop serving. By then that is noted, the others have been told, and the node
    /// stops.
    pub(crate) async fn diverged(&self) -> Error {
        let mut diverged = self.0.diverged.subscribe();
        let why = diverged.wait_for(Option::is_some).await.ok().and_then(|why| why.clone());
        Error::Diverged { path: self.0.folder.clone(), why: why.unwrap_or_default() }
    }

    /// What this node knows at an entry.
    pub(crate) fn known(&self, index: Index) -> Known {
        let status = self.status();
        // Asked in this order: what is applied has been shown.
        let comes = status.applied_index < index || self.0.marks.last() == index;
        let findings = self.findings();
        let checksums = findings.at(index, &status.membership.members);
        Known { progress: findings.progress(index), comes, checksums }
    }

    /// What is wrong, for people.
    pub(crate) fn alarms(&self) -> Vec<String> {
        let membership = self.status().membership;
        let Some(known) = self.findings().last_compared(&membership.members) else { return Vec::new() };
        self.alarm(judge(&membership, &known), &known).into_iter().collect()
    }

    /// The last mark that this node has applied since it was started; zero if there was none.
    pub(crate) fn last(&self) -> Index {
        self.0.marks.last()
    }

    /// Whether this node computes.
    pub(crate) fn is_under_way(&self) -> bool {
        self.findings().is_computing()
    }

    /// Whether a node has been started since the last mark, and so had better be looked at.
    pub(crate) fn is_wanted(&self) -> bool {
        self.0.is_wanted.load(Ordering::Relaxed)
    }

    /// Takes what a member tells, and returns what this node has at the same entry; or notes that it asks for a comparison. Others are not listened to: ids
    /// are free to make up.
    pub(crate) fn compare(
        &self,
        from: &Identity,
        told: Option<wire::StateChecksum>,
    ) -> Result<Option<wire::StateChecksum>, Failure> {
        let members = self.status().membership.members;
        if members.get(&from.node).is_none_or(|member| member.incarnation != from.incarnation) {
            return Err(Failure::NoLeader("this node does not know the caller as a member"));
        }
        if told.is_none() {
            self.0.is_wanted.store(true, Ordering::Relaxed);
        }
        let Some(told) = told.and_then(from_wire) else { return Ok(None) };
        let index = told.at.index;
        self.hear(from.node, from.incarnation, told);
        let own = self.findings().at(index, &members).remove(&self.0.identity.node);
        Ok(own.map(to_wire))
    }

    /// Computes checksums at marks, one after the other. Blocks until the state machine is gone.
    fn compute_all(&self, computed: &mpsc::Sender<Checksum>) {
        while let Some(marked) = self.0.marks.next() {
            self.0.is_wanted.store(false, Ordering::Relaxed);
            let (at, checksum) = match marked {
                Ok(marked) => (marked.at().index, self.compute(marked)),
                Err(error) => (self.0.marks.last(), Err(error)),
            };
            match checksum {
                Ok(Some(checksum)) => {
                    let Identity { node, incarnation, .. } = self.0.identity;
                    let mut findings = self.findings();
                    findings.note(node, incarnation, checksum.clone());
                    findings.set_progress(at, Progress::Computed);
                    drop(findings);
                    if computed.blocking_send(checksum).is_err() {
                        return;
                    }
                }
                Ok(None) => return,
                Err(error) => {
                    error!("the state can't be compared with those of the other nodes: {error}");
                    self.findings().set_progress(at, Progress::Failed(error.to_string()));
                }
            }
        }
    }

    fn compute(&self, marked: Marked) -> Result<Option<Checksum>, Error> {
        let (at, state_bytes) = (marked.at(), marked.size_bytes());
        let hashed = Arc::new(AtomicU64::new(0));
        let progress = Progress::Computing { hashed: hashed.clone(), state_bytes };
        self.findings().set_progress(at.index, progress);
        let checksum = marked.checksum(&hashed)?;
        if let Some(Checksum { digest, fault, .. }) = &checksum {
            info!("the checksum of the state at {at} is {}", digest.short());
            if let Some(fault) = fault {
                error!("SQLite finds a fault in the state at {at}: {fault}");
            }
        }
        Ok(checksum)
    }

    fn exchange_with_all(&self, own: Option<&Checksum>) -> JoinSet<()> {
        let others = self.status().membership.members.into_keys().filter(|id| *id != self.0.identity.node);
        others.map(|peer| self.clone().exchange(peer, own.cloned())).collect()
    }

    /// Tells a member this node's checksum, and hears its own; or asks for a comparison. However often that takes.
    async fn exchange(self, peer: NodeId, own: Option<Checksum>) {
        let mut pause = PAUSE_MIN;
        loop {
            // As it is when the peer is asked: whoever answers is checked against it.
            let Some(recorded) = self.status().membership.members.remove(&peer) else { return };
            match self.0.transport.compare_checksums(peer, own.clone().map(to_wire)).await {
                Ok(theirs) => {
                    let theirs = theirs.and_then(from_wire);
                    return theirs.into_iter().for_each(|theirs| self.hear(peer, recorded.incarnation, theirs));
                }
                Err(error) => debug!(%peer, "no comparison of states yet: {error}"),
            }
            sleep(pause).await;
            pause = (pause * 2).min(PAUSE_MAX);
        }
    }

    fn hear(&self, node: NodeId, incarnation: Incarnation, checksum: Checksum) {
        let index = checksum.at.index;
        self.findings().note(node, incarnation, checksum);
        self.conclude(index);
    }

    /// Does what follows from what is known at an entry.
    fn conclude(&self, index: Index) {
        let membership = self.status().membership;
        let known = self.findings().at(index, &membership.members);
        let verdict = judge(&membership, &known);
        if matches!(&verdict, Verdict::Minority(nodes) if nodes.contains(&self.0.identity.node)) {
            self.stop(&known);
        }
        let alarm = self.alarm(verdict, &known);
        let is_alarm = alarm.is_some();
        let alike = || format!("the states of all nodes are the same at entry {index}");
        let Some(said) = alarm.or_else(|| (known.len() == membership.members.len()).then(alike)) else { return };
        let mut logged = self.0.logged.lock().unwrap_or_else(PoisonError::into_inner);
        if *logged == said {
            return;
        }
        if is_alarm {
            error!("{said}");
        } else {
            info!("{said}");
        }
        *logged = said;
    }

    fn alarm(&self, verdict: Verdict, known: &Checksums) -> Option<String> {
        let at = known.values().next()?.at;
        let found = match verdict {
            Verdict::Alike => return None,
            Verdict::Minority(nodes) if nodes.contains(&self.0.identity.node) => "this node must not serve".to_owned(),
            Verdict::Minority(nodes) => format!(
                "{} must not serve any more: move the data folder away, start the node with its old flags, and give its place to the new \
                 disk: raftkv-cli member replace ID",
                name(&nodes)
            ),
            Verdict::Split => "no state is that of most voters as far as is known, so nobody can tell which is right; compare what the \
                               nodes' files hold"
                .to_owned(),
        };
        Some(format!("the states of the nodes differ at entry {at}: {}: {found}", describe(known)))
    }

    /// Notes that this node must not serve any more, stops it, and tells the others why.
    fn stop(&self, known: &Checksums) {
        if self.0.stops.swap(true, Ordering::AcqRel) {
            return;
        }
        let own = known.get(&self.0.identity.node).cloned();
        let at = own.as_ref().map_or(EntryId::ZERO, |own| own.at);
        let why = format!("at entry {at}, {}", describe(known));
        let this = self.clone();
        tokio::spawn(async move {
            let (folder, reason) = (this.0.folder.clone(), why.clone());
            let noted = spawn_blocking(move || refuse_later_starts(&folder, &reason)).await;
            if let Ok(Err(error)) = noted {
                error!("{error}; do not start this node again");
            }
            this.0.node.shutdown();
            // Who is gone or slow will see that this node is.
            let _ = timeout(FAREWELL, this.exchange_with_all(own.as_ref()).join_all()).await;
            this.0.diverged.send_replace(Some(why));
        });
    }

    fn status(&self) -> Status {
        self.0.node.status()
    }

    fn findings(&self) -> MutexGuard<'_, Findings> {
        self.0.findings.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl std::fmt::Debug for Verification {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Verification").field("findings", &self.0.findings).finish_non_exhaustive()
    }
}

fn to_wire(Checksum { at, digest, fault }: Checksum) -> wire::StateChecksum {
    wire::StateChecksum {
        at: Some(wire::EntryId { index: at.index.0, term: at.term.0 }),
        digest: digest.0.to_vec().into(),
        fault: fault.unwrap_or_default(),
        kind: Checksum::kind(),
    }
}

/// None for what is no checksum, or one that can't be compared with those of this node.
fn from_wire(told: wire::StateChecksum) -> Option<Checksum> {
    let wire::StateChecksum { at, digest, fault, kind } = told;
    if kind != Checksum::kind() {
        info!("a node that computes checksums otherwise ({kind:.100}, not {}) is not compared", Checksum::kind());
        return None;
    }
    let at = at.filter(|at| at.index > 0)?;
    let at = EntryId::new(Index(at.index), Term(at.term));
    let digest = StateDigest(digest.as_ref().try_into().ok()?);
    /// People read it; a peer may not fill the memory with it.
    const FAULT_BYTES: usize = 1000;
    let fault = Some(fault.chars().take(FAULT_BYTES).collect()).filter(|fault: &String| !fault.is_empty());
    Some(Checksum { at, digest, fault })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_checksum_survives_the_wire_and_nonsense_is_none() {
        let checksum = Checksum {
            at: EntryId::new(Index(7), Term(2)),
            digest: StateDigest([9; 32]),
            fault: Some("row 1 missing".to_owned()),
        };
        let told = to_wire(checksum.clone());
        assert_eq!(from_wire(told.clone()), Some(checksum));
        let short = wire::StateChecksum { digest: vec![9; 31].into(), ..told.clone() };
        let nowhere = wire::StateChecksum { at: None, ..told.clone() };
        let other = wire::StateChecksum { kind: "2 2 4.0".to_owned(), ..told };
        assert!(
            [short, nowhere, other, wire::StateChecksum::default()].into_iter().all(|told| from_wire(told).is_none())
        );
    }
}
