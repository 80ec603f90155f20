//! Three nodes of openraft.

#![expect(clippy::result_large_err, reason = "the errors of openraft are that large")]

use std::collections::BTreeMap;
use std::fmt::Debug;
use std::io::Cursor;
use std::ops::{Bound, RangeBounds};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use openraft::error::{InstallSnapshotError, RPCError, RaftError, RemoteError};
use openraft::network::{RPCOption, RaftNetwork, RaftNetworkFactory};
use openraft::raft::{
    AppendEntriesRequest, AppendEntriesResponse, InstallSnapshotRequest, InstallSnapshotResponse, VoteRequest,
    VoteResponse,
};
use openraft::storage::{LogFlushed, LogState, RaftLogStorage, RaftStateMachine};
use openraft::{
    BasicNode, Config, Entry, EntryPayload, LogId, OptionalSend, Raft, RaftLogReader, RaftSnapshotBuilder, Snapshot,
    SnapshotMeta, SnapshotPolicy, StorageError, StoredMembership, Vote,
};
use tokio::runtime::{Builder, Runtime};

use crate::{Applied, Cluster, Load};

openraft::declare_raft_types!(
    /// Commands of bytes, and answers of nothing.
    pub Types: D = Bytes, R = ()
);

type Stored<T> = Result<T, StorageError<u64>>;
type Answered<T, E> = Result<T, RPCError<u64, BasicNode, RaftError<u64, E>>>;

/// Three nodes, and the runtime in which their tasks run.
pub struct OpenraftCluster {
    runtime: Runtime,
    nodes: Nodes,
    leader: Raft<Types>,
    machines: Vec<Machine>,
}

impl Cluster for OpenraftCluster {
    const NAME: &str = "openraft";

    fn start() -> Self {
        let runtime = Builder::new_current_thread().enable_all().build().expect("a runtime starts");
        let nodes = Nodes::default();
        let machines: Vec<Machine> = (0..3).map(|_| Machine::default()).collect();
        let leader = runtime.block_on(start_nodes(&nodes, &machines));
        Self { runtime, nodes, leader, machines }
    }

    fn replicate(&mut self, load: &Load) {
        let goal = self.machines[0].applied().after(load);
        self.runtime.block_on(async {
            for batches in load.rounds() {
                let mut answers = Vec::with_capacity(batches * load.batch);
                for _ in 0..batches * load.batch {
                    answers.push(self.leader.client_write_ff(load.payload.clone()).await.expect("the node runs"));
                }
                for answer in answers {
                    answer.await.expect("the node answers").expect("the leader leads");
                }
            }
            while self.machines.iter().any(|machine| machine.applied() != goal) {
                tokio::task::yield_now().await;
            }
        });
    }
}

impl Drop for OpenraftCluster {
    fn drop(&mut self) {
        self.nodes.0.lock().expect("no thread has panicked").clear();
    }
}

async fn start_nodes(nodes: &Nodes, machines: &[Machine]) -> Raft<Types> {
    let config = Config {
        // Nothing stands in for another leader when a run keeps the thread busy.
        heartbeat_interval: 50,
        election_timeout_min: 2_000,
        election_timeout_max: 4_000,
        max_payload_entries: 4096,
        snapshot_policy: SnapshotPolicy::Never,
        ..Config::default()
    };
    let config = Arc::new(config.validate().expect("the settings are in their ranges"));
    let mut members = BTreeMap::new();
    for (id, machine) in (1..).zip(machines) {
        let raft = Raft::new(id, config.clone(), nodes.clone(), Log::default(), machine.clone()).await;
        nodes.0.lock().expect("no thread has panicked").insert(id, raft.expect("a new node starts"));
        members.insert(id, BasicNode::default());
    }
    let first = nodes.of(1);
    first.initialize(members).await.expect("a new cluster begins");
    let wait = first.wait(Some(Duration::from_secs(10)));
    wait.current_leader(1, "the first stands first").await.expect("it is elected");
    first
}

/// The network: who is where.
#[derive(Clone, Default)]
struct Nodes(Arc<Mutex<BTreeMap<u64, Raft<Types>>>>);

impl Nodes {
    fn of(&self, id: u64) -> Raft<Types> {
        self.0.lock().expect("no thread has panicked")[&id].clone()
    }
}

impl RaftNetworkFactory<Types> for Nodes {
    type Network = Peer;

    async fn new_client(&mut self, target: u64, _: &BasicNode) -> Peer {
        Peer { id: target, raft: self.of(target) }
    }
}

/// A way to one node: a call.
struct Peer {
    id: u64,
    raft: Raft<Types>,
}

impl RaftNetwork<Types> for Peer {
    async fn append_entries(
        &mut self,
        request: AppendEntriesRequest<Types>,
        _: RPCOption,
    ) -> Answered<AppendEntriesResponse<u64>, openraft::error::Infallible> {
        self.raft.append_entries(request).await.map_err(|error| RemoteError::new(self.id, error).into())
    }

    async fn install_snapshot(
        &mut self,
        request: InstallSnapshotRequest<Types>,
        _: RPCOption,
    ) -> Answered<InstallSnapshotResponse<u64>, InstallSnapshotError> {
        self.raft.install_snapshot(request).await.map_err(|error| RemoteError::new(self.id, error).into())
    }

    async fn vote(
        &mut self,
        request: VoteRequest<u64>,
        _: RPCOption,
    ) -> Answered<VoteResponse<u64>, openraft::error::Infallible> {
        self.raft.vote(request).await.map_err(|error| RemoteError::new(self.id, error).into())
    }
}

/// A log in memory. The first entry has index 0.
#[derive(Clone, Default)]
struct Log(Arc<Mutex<Disk>>);

#[derive(Default)]
struct Disk {
    vote: Option<Vote<u64>>,
    entries: Vec<Entry<Types>>,
}

impl Log {
    fn with<T>(&self, work: impl FnOnce(&mut Disk) -> T) -> Stored<T> {
        Ok(work(&mut self.0.lock().expect("no thread has panicked")))
    }
}

impl RaftLogReader<Types> for Log {
    async fn try_get_log_entries<R: RangeBounds<u64> + Clone + Debug + OptionalSend>(
        &mut self,
        range: R,
    ) -> Stored<Vec<Entry<Types>>> {
        self.with(|disk| {
            let end = disk.entries.len();
            let start = match range.start_bound() {
                Bound::Included(&start) => start as usize,
                Bound::Excluded(&before) => before as usize + 1,
                Bound::Unbounded => 0,
            };
            let end = match range.end_bound() {
                Bound::Included(&last) => end.min(last as usize + 1),
                Bound::Excluded(&after) => end.min(after as usize),
                Bound::Unbounded => end,
            };
            disk.entries[start..end].to_vec()
        })
    }
}

impl RaftLogStorage<Types> for Log {
    type LogReader = Self;

    async fn get_log_state(&mut self) -> Stored<LogState<Types>> {
        self.with(|disk| LogState {
            last_purged_log_id: None,
            last_log_id: disk.entries.last().map(|entry| entry.log_id),
        })
    }

    async fn get_log_reader(&mut self) -> Self {
        self.clone()
    }

    async fn save_vote(&mut self, vote: &Vote<u64>) -> Stored<()> {
        self.with(|disk| disk.vote = Some(*vote))
    }

    async fn read_vote(&mut self) -> Stored<Option<Vote<u64>>> {
        self.with(|disk| disk.vote)
    }

    async fn append<I>(&mut self, entries: I, flushed: LogFlushed<Types>) -> Stored<()>
    where
        I: IntoIterator<Item = Entry<Types>> + OptionalSend,
        I::IntoIter: OptionalSend,
    {
        self.with(|disk| disk.entries.extend(entries))?;
        flushed.log_io_completed(Ok(()));
        Ok(())
    }

    async fn truncate(&mut self, from: LogId<u64>) -> Stored<()> {
        self.with(|disk| disk.entries.truncate(from.index as usize))
    }

    async fn purge(&mut self, _: LogId<u64>) -> Stored<()> {
        Ok(())
    }
}

/// A state machine that counts.
#[derive(Clone, Default)]
struct Machine(Arc<Mutex<State>>);

#[derive(Default)]
struct State {
    applied: Applied,
    last: Option<LogId<u64>>,
    membership: StoredMembership<u64, BasicNode>,
}

impl Machine {
    fn applied(&self) -> Applied {
        self.0.lock().expect("no thread has panicked").applied
    }
}

impl RaftStateMachine<Types> for Machine {
    type SnapshotBuilder = Self;

    async fn applied_state(&mut self) -> Stored<(Option<LogId<u64>>, StoredMembership<u64, BasicNode>)> {
        let state = self.0.lock().expect("no thread has panicked");
        Ok((state.last, state.membership.clone()))
    }

    async fn apply<I>(&mut self, entries: I) -> Stored<Vec<()>>
    where
        I: IntoIterator<Item = Entry<Types>> + OptionalSend,
        I::IntoIter: OptionalSend,
    {
        let mut state = self.0.lock().expect("no thread has panicked");
        let answers = entries.into_iter().map(|entry| state.apply(entry)).collect();
        Ok(answers)
    }

    async fn get_snapshot_builder(&mut self) -> Self {
        self.clone()
    }

    async fn begin_receiving_snapshot(&mut self) -> Stored<Box<Cursor<Vec<u8>>>> {
        Ok(Box::default())
    }

    async fn install_snapshot(&mut self, _: &SnapshotMeta<u64, BasicNode>, _: Box<Cursor<Vec<u8>>>) -> Stored<()> {
        unreachable!("no node falls behind a snapshot: none is taken")
    }

    async fn get_current_snapshot(&mut self) -> Stored<Option<Snapshot<Types>>> {
        Ok(None)
    }
}

impl RaftSnapshotBuilder<Types> for Machine {
    async fn build_snapshot(&mut self) -> Stored<Snapshot<Types>> {
        unreachable!("the policy is to take none")
    }
}

impl State {
    fn apply(&mut self, entry: Entry<Types>) {
        self.last = Some(entry.log_id);
        match entry.payload {
            EntryPayload::Blank => (),
            EntryPayload::Normal(command) => self.applied.add(&command),
            EntryPayload::Membership(membership) => {
                self.membership = StoredMembership::new(Some(entry.log_id), membership);
            }
        }
    }
}
