//! The replicated store: a request becomes a command, the command an entry, and what comes of it an answer or a [`Failure`].
//!
//! All services go through here, so that each rule stands once: who may answer, how long it may take, what is known afterwards.

mod consistency;
mod failure;

use std::fmt;
use std::ops::ControlFlow;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use raft_core::effect::RoleKind;
use raft_core::status::Status;
use raft_core::types::{Index, NodeId};
use raft_store_sqlite::{
    Action, Answer, Command, Error, Found, Kind, Lease, Lookup, Operation, Outcome, Piece, ReadLimits, Reader, Seen,
    SessionId, Statement, StatementResult, Step, StepResult, Upkeep,
};
use raft_transport_grpc::GrpcTransport;
use tokio::sync::Semaphore;
use tokio::sync::mpsc::{Receiver, Sender, channel};
use tokio::time::timeout;

use crate::node::{Handle, RequestError};
use crate::room::Room;
use consistency::Freshness;
pub use consistency::{Consistency, Level};
pub(crate) use failure::unexpected;
pub use failure::{Failure, Leader};
use failure::{busy, refused, unreadable};

/// How long a request may take before its outcome is called unknown.
const DEADLINE: Duration = Duration::from_secs(10);
/// How long a read that may be a little stale waits at the least for the confirmation that it is not more than that.
const SHORTEST_CONFIRMATION: Duration = Duration::from_secs(1);
/// How long a read may stream its rows.
const STREAM_TIME: Duration = Duration::from_secs(300);
/// How many rows of a stream may wait to be sent.
const STREAMED_PIECES: usize = 256;
/// How many reads may use the state file at a time. Others wait for their turn.
const CONCURRENT_READS: usize = 16;

/// How many bytes of a backup are sent at a time.
const BACKUP_PIECE_BYTES: usize = 256 << 10;

/// A piece of a backup.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum BackupPiece {
    /// The first: the state that it holds, and how large it will be.
    Begun {
        /// The state.
        position: Position,
        /// The size of all bytes that follow.
        size_bytes: u64,
    },
    /// What follows on the bytes before.
    Bytes(Bytes),
}

/// Runs commands and reads on a node.
#[derive(Clone)]
pub struct Store {
    node: Handle<Answer>,
    reader: Reader,
    reads: Arc<Semaphore>,
    backups: Arc<Semaphore>,
    freshness: Freshness,
    transport: GrpcTransport,
    /// Where others reach this node.
    address: String,
    room: Room,
}

/// The state that an answer comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Position {
    /// Its revision.
    pub revision: u64,
    /// An entry that it includes, with all before it.
    pub index: Index,
}

/// A program that ran.
#[derive(Clone, Debug, PartialEq)]
pub struct Ran {
    /// What came of each step.
    pub results: Vec<StepResult>,
    /// The state after it, or, of one that only reads, that it saw.
    pub position: Position,
}

impl Store {
    /// The store of a running node, which others reach at `address`.
    pub(crate) fn new(
        node: Handle<Answer>,
        reader: Reader,
        transport: GrpcTransport,
        address: String,
        room: Room,
    ) -> Self {
        let reads = Arc::new(Semaphore::new(CONCURRENT_READS));
        Self {
            node,
            reader,
            reads,
            backups: Arc::new(Semaphore::new(1)),
            freshness: Freshness::default(),
            transport,
            address,
            room,
        }
    }

    /// The room on this node's disk.
    pub(crate) fn room(&self) -> &Room {
        &self.room
    }

    /// What the node says of itself.
    pub fn status(&self) -> Status {
        self.node.status()
    }

    /// Runs a program: as a read if that is all it does, else replicated.
    pub async fn run(
        &self,
        steps: Vec<Step>,
        session: Option<SessionId>,
        consistency: Consistency,
    ) -> Result<Ran, Failure> {
        let (kind, steps) = self.prepare(steps).await?;
        if kind == Kind::Read {
            let (results, position) = self.read(consistency, move |reader| reader.run(&steps)).await?;
            return Ok(Ran { results, position });
        }
        self.write(steps, session).await
    }

    /// Replicates a program, and waits until it is applied.
    pub async fn write(&self, steps: Vec<Step>, session: Option<SessionId>) -> Result<Ran, Failure> {
        match self.execute(Operation::Run(steps), session).await? {
            (Outcome::Ran(results), position) => Ok(Ran { results, position }),
            _ => Err(unexpected()),
        }
    }

    /// Runs statements as one program.
    pub async fn sql(
        &self,
        statements: Vec<Statement>,
        session: Option<SessionId>,
        consistency: Consistency,
    ) -> Result<(Vec<StatementResult>, Position), Failure> {
        let Ran { results, position } =
            self.run(statements.into_iter().map(Step::from).collect(), session, consistency).await?;
        let of_step = |result| match result {
            StepResult::Sql(results) => Ok(results),
            _ => Err(unexpected()),
        };
        let results = results.into_iter().map(of_step).collect::<Result<Vec<_>, _>>()?;
        Ok((results.into_iter().flatten().collect(), position))
    }

    /// Replicates a command, and waits until it is applied.
    async fn execute(&self, operation: Operation, session: Option<SessionId>) -> Result<(Outcome, Position), Failure> {
        let command = Command::now(operation, session);
        let command = command.map_err(|_| Failure::NoLeader("the system of this node gives no random numbers"))?;
        command.check().map_err(refused)?;
        self.expect_room(&command.operation)?;
        let proposed = timeout(DEADLINE, self.node.propose(command.encode())).await;
        let proposed = proposed
            .map_err(|_| Failure::Unknown("no majority has confirmed the command in time"))?
            .map_err(|error| self.failure(error))?;
        let Answer { revision, outcome } = proposed.response;
        let position = Position { revision, index: proposed.id.index };
        Failure::of_outcome(outcome).map(|outcome| (outcome, position))
    }

    /// Refuses what takes room while this node leads and has too little. What its leader sends, a follower takes as long as it can.
    fn expect_room(&self, operation: &Operation) -> Result<(), Failure> {
        match self.room.shortage() {
            Some(shortage) if takes_room(operation) && self.status().role == RoleKind::Leader => {
                Err(Failure::NoRoom(shortage))
            }
            _ => Ok(()),
        }
    }

    /// Makes a lease: the one asked for, or one with a number of its own if that is 0. Returns its number.
    pub async fn grant_lease(
        &self,
        lease: u64,
        ttl_ms: u64,
        session: Option<SessionId>,
    ) -> Result<(u64, Position), Failure> {
        match self.execute(Operation::GrantLease { lease, ttl_ms }, session).await? {
            (Outcome::LeaseGranted { lease }, position) => Ok((lease, position)),
            _ => Err(unexpected()),
        }
    }

    /// Lets a lease last anew from now on. Returns for how long, in milliseconds.
    pub async fn keep_lease(&self, lease: u64) -> Result<(u64, Position), Failure> {
        match self.execute(Operation::KeepLease { lease }, None).await? {
            (Outcome::LeaseKept { ttl_ms }, position) => Ok((ttl_ms, position)),
            _ => Err(unexpected()),
        }
    }

    /// Ends a lease. Returns how many keys went with it.
    pub async fn revoke_lease(&self, lease: u64, session: Option<SessionId>) -> Result<(u64, Position), Failure> {
        match self.execute(Operation::RevokeLease { lease }, session).await? {
            (Outcome::LeaseRevoked { deleted }, position) => Ok((deleted, position)),
            _ => Err(unexpected()),
        }
    }

    /// Forgets what keys were before `revision`.
    pub async fn compact(&self, revision: u64) -> Result<Position, Failure> {
        match self.execute(Operation::Compact { revision }, None).await? {
            (Outcome::Compacted, position) => Ok(position),
            _ => Err(unexpected()),
        }
    }

    /// Puts a mark in the log, at which all nodes compare their states. Returns where.
    pub async fn mark(&self) -> Result<Index, Failure> {
        match self.execute(Operation::Mark, None).await? {
            (Outcome::Marked, position) => Ok(position.index),
            _ => Err(unexpected()),
        }
    }

    /// Reads keys.
    pub async fn find(&self, lookup: Lookup, consistency: Consistency) -> Result<(Found, Position), Failure> {
        self.read(consistency, move |reader| reader.find(&lookup)).await
    }

    /// The leases, or only the one; with their keys, if `keys`.
    pub async fn leases(
        &self,
        only: Option<u64>,
        keys: bool,
        consistency: Consistency,
    ) -> Result<(Vec<Lease>, Position), Failure> {
        self.read(consistency, move |reader| reader.leases(only, keys)).await
    }

    /// Runs SQL that only reads, and yields what it finds piece by piece, as fast as that is taken. Dropping the receiver ends it.
    pub async fn stream(
        &self,
        statements: Vec<Statement>,
        consistency: Consistency,
    ) -> Result<Receiver<Result<Piece, Failure>>, Failure> {
        let steps = statements.iter().cloned().map(Step::from).collect();
        if self.prepare(steps).await?.0 == Kind::Write {
            return Err(Failure::Invalid("a query can't change anything".to_owned()));
        }
        self.freshen(consistency).await?;
        let (sender, pieces) = channel(STREAMED_PIECES);
        let store = self.clone();
        tokio::spawn(async move {
            let limits = ReadLimits { rows: usize::MAX, bytes: usize::MAX, time: STREAM_TIME };
            let rows = sender.clone();
            let read = move |reader: &Reader| {
                let mut give = |piece| match rows.blocking_send(Ok(piece)) {
                    Ok(()) => ControlFlow::Continue(()),
                    Err(_) => ControlFlow::Break(()),
                };
                reader.with_limits(limits).stream(&statements, &mut give)
            };
            if let Err(failure) = store.look(read).await.and_then(|read| read.map_err(refused)) {
                // Nobody may be there to hear it.
                let _ = sender.send(Err(failure)).await;
            }
        });
        Ok(pieces)
    }

    /// Makes a copy of the state, as fresh as is asked for, and yields what it will be before it is made, and then its bytes, as fast as they are
    /// taken. One at a time, for each takes as much room as the state. Dropping the receiver ends it.
    pub async fn back_up(&self, consistency: Consistency) -> Result<Receiver<Result<BackupPiece, Failure>>, Failure> {
        self.freshen(consistency).await?;
        let turn = self.backups.clone().try_acquire_owned();
        let turn = turn.map_err(|_| Failure::Busy("this node makes another backup: ask again later".to_owned()))?;
        let (sender, pieces) = channel(2);
        let reader = self.reader.clone();
        tokio::task::spawn_blocking(move || {
            let _turn = turn;
            if let Err(error) = send_backup(&reader, &sender) {
                // Nobody may be there to hear it.
                let _ = sender.blocking_send(Err(unreadable(&error)));
            }
        });
        Ok(pieces)
    }

    /// The state's revision on this node; zero if it can't be read.
    pub async fn revision(&self) -> u64 {
        self.look(Reader::revision).await.and_then(|read| read.map_err(|error| unreadable(&error))).unwrap_or(0)
    }

    /// What this node's state says about what there is to do in the course of time.
    pub(crate) async fn upkeep(&self) -> Result<Upkeep, Failure> {
        self.look(Reader::upkeep).await?.map_err(|error| unreadable(&error))
    }

    /// Replicates a command that is nobody's but the cluster's own, and returns what came of it.
    pub(crate) async fn propose(&self, operation: Operation) -> Result<Outcome, Failure> {
        self.execute(operation, None).await.map(|(outcome, _)| outcome)
    }

    /// Sorts a program into reads and writes, and refuses what is wrong whatever tables there are.
    async fn prepare(&self, steps: Vec<Step>) -> Result<(Kind, Vec<Step>), Failure> {
        let look = move |reader: &Reader| reader.prepare(&steps).map(|kind| (kind, steps));
        self.look(look).await?.map_err(|error| match error {
            Error::Statement(message) => Failure::Invalid(message),
            error => refused(error),
        })
    }

    /// Reads the state once it is as fresh as is asked for.
    pub(crate) async fn read<T: Send + 'static>(
        &self,
        consistency: Consistency,
        read: impl FnOnce(&Reader) -> Result<Seen<T>, Error> + Send + 'static,
    ) -> Result<(T, Position), Failure> {
        self.freshen(consistency).await?;
        let Seen { revision, applied, value } = self.look(read).await?.map_err(refused)?;
        Ok((value, Position { revision, index: applied.index }))
    }

    /// Returns once the state is as fresh as is asked for.
    async fn freshen(&self, Consistency { level, applied_index }: Consistency) -> Result<(), Failure> {
        match level {
            Level::Linearizable => self.confirm().await?,
            Level::Lease => self.confirm_by(self.node.lease_read()).await?,
            Level::Stale { max_age_ms: Some(max_age_ms) } => self.confirm_within(max_age_ms).await?,
            Level::Stale { max_age_ms: None } => (),
        }
        self.await_applied(applied_index).await
    }

    /// Returns once this node has applied everything that was acknowledged before the call.
    pub(crate) async fn confirm(&self) -> Result<(), Failure> {
        self.confirm_by(self.node.read_index()).await
    }

    async fn confirm_by(&self, confirmation: impl Future<Output = Result<Index, RequestError>>) -> Result<(), Failure> {
        let asked_at = Instant::now();
        let confirmed = timeout(DEADLINE, confirmation).await;
        let confirmed = confirmed.map_err(|_| Failure::NoLeader("no majority has confirmed the read in time"))?;
        match confirmed {
            Ok(_) => {
                self.freshness.confirmed(asked_at);
                Ok(())
            }
            // A read changes nothing, whatever becomes of it.
            Err(RequestError::Unknown) => Err(Failure::NoLeader("this node stopped before the read was confirmed")),
            Err(error) => Err(self.failure(error)),
        }
    }

    /// Returns at once if the state is fresh enough; otherwise sees that it is.
    async fn confirm_within(&self, max_age_ms: u64) -> Result<(), Failure> {
        let max_age = Duration::from_millis(max_age_ms);
        if self.freshness.is_within(max_age) {
            return Ok(());
        }
        let too_stale = Failure::TooStale(
            "the state of this node may be older than the read allows, and no majority says otherwise",
        );
        timeout(max_age.max(SHORTEST_CONFIRMATION), self.confirm())
            .await
            .map_err(|_| too_stale.clone())?
            .map_err(|_| too_stale)
    }

    /// Returns once this node has applied the entry.
    async fn await_applied(&self, index: Index) -> Result<(), Failure> {
        let mut status = self.node.watch_status();
        let applied = timeout(DEADLINE, status.wait_for(|status| status.applied_index >= index)).await;
        let too_stale = Failure::TooStale("this node has not applied the entry that the read must include");
        applied.map_err(|_| too_stale)?.map(|_| ()).map_err(|_| Failure::NoLeader("this node is stopping"))
    }

    /// Looks into the state file, on a thread that may block, when it is this request's turn.
    async fn look<T: Send + 'static>(&self, look: impl FnOnce(&Reader) -> T + Send + 'static) -> Result<T, Failure> {
        let turn = timeout(DEADLINE, self.reads.clone().acquire_owned()).await.map_err(|_| busy())?;
        let reader = self.reader.clone();
        let looked = tokio::task::spawn_blocking(move || {
            // Given back when the look is over, also where nobody waits for it any more.
            let _turn = turn;
            look(&reader)
        });
        looked.await.map_err(|_| Failure::NoLeader("the read broke off on this node"))
    }

    /// The address at which clients and peers reach `id`: where it is connected, else where the membership says.
    pub fn address(&self, id: NodeId, status: &Status) -> String {
        if id == status.id {
            return self.address.clone();
        }
        let connected = self.transport.peers().into_iter().find(|peer| peer.id == id && peer.connected);
        let recorded = || status.membership.members.get(&id).map(|member| member.address.clone());
        connected.map(|peer| peer.address).or_else(recorded).unwrap_or_default()
    }

    /// The node `id` as a leader.
    pub fn leader(&self, id: NodeId, status: &Status) -> Leader {
        Leader { id, address: self.address(id, status) }
    }

    /// Who leads, as far as this node knows.
    pub fn known_leader(&self) -> Option<Leader> {
        let status = self.status();
        status.leader.map(|id| self.leader(id, &status))
    }

    /// Where others reach this node.
    pub(crate) fn own_address(&self) -> &str {
        &self.address
    }

    pub(crate) fn failure(&self, error: RequestError) -> Failure {
        match error {
            RequestError::NotLeader { leader } => self.elsewhere(leader),
            RequestError::Lost => self.elsewhere(self.status().leader),
            RequestError::Overloaded => busy(),
            RequestError::Transferring => Failure::NoLeader("leadership is being handed over"),
            RequestError::Unknown => Failure::Unknown("this node can't tell what became of the command"),
            RequestError::Stopped => Failure::NoLeader("this node is stopping"),
            error @ (RequestError::Refused(_) | RequestError::NoSuccessor(_) | RequestError::TransferTimedOut) => {
                Failure::Invalid(error.to_string())
            }
        }
    }

    /// This node can't answer: the leader can, if there is one.
    pub(crate) fn elsewhere(&self, leader: Option<NodeId>) -> Failure {
        let status = self.status();
        match leader.filter(|id| *id != status.id).map(|id| self.leader(id, &status)) {
            Some(leader) if !leader.address.is_empty() => Failure::NotLeader(leader),
            _ => Failure::NoLeader("no leader is known"),
        }
    }
}

/// Sends a backup to its end, or until nobody takes it any more.
fn send_backup(reader: &Reader, sender: &Sender<Result<BackupPiece, Failure>>) -> Result<(), Error> {
    let pending = reader.begin_backup()?;
    let (revision, size_bytes) = (pending.revision, pending.size_bytes);
    let begun = BackupPiece::Begun { position: Position { revision, index: pending.applied.index }, size_bytes };
    if sender.blocking_send(Ok(begun)).is_err() {
        return Ok(());
    }
    let backup = pending.copy()?;
    let mut sent = 0;
    while sent < size_bytes {
        let bytes = backup.read(sent, BACKUP_PIECE_BYTES)?;
        sent += bytes.len() as u64;
        if sender.blocking_send(Ok(BackupPiece::Bytes(bytes))).is_err() {
            break;
        }
    }
    Ok(())
}

/// Whether a command adds to what is stored, more than its own trace.
fn takes_room(operation: &Operation) -> bool {
    match operation {
        Operation::Run(steps) => {
            !steps.iter().all(|step| matches!(step.action, Action::Delete { .. } | Action::Get(_)))
        }
        Operation::GrantLease { .. } => true,
        Operation::KeepLease { .. }
        | Operation::RevokeLease { .. }
        | Operation::Compact { .. }
        | Operation::Expire
        | Operation::Mark => false,
    }
}

impl fmt::Debug for Store {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Store").field("node", &self.node).field("address", &self.address).finish_non_exhaustive()
    }
}
