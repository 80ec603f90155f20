//! The replicated store: a request becomes a command, the command an entry, and what comes of it an answer or a [`Failure`].
//!
//! All services go through here, so that each rule stands once: who may answer, how long it may take, what is known afterwards.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use raft_core::status::Status;
use raft_core::types::{Index, NodeId};
use raft_store_sqlite::{
    Answer, Command, Error, KeyValue, Kind, Operation, Outcome, Reader, Seen, SessionId, Statement, StatementResult,
    Step, StepResult,
};
use raft_transport_grpc::GrpcTransport;
use tokio::sync::Semaphore;
use tokio::time::timeout;
use tracing::error;

use crate::node::{Handle, RequestError};

/// How long a request may take before its outcome is called unknown.
const DEADLINE: Duration = Duration::from_secs(10);
/// How many reads may use the state file at a time. Others wait for their turn.
const CONCURRENT_READS: usize = 16;

/// Runs commands and reads on a node.
#[derive(Clone)]
pub struct Store {
    node: Handle<Answer>,
    reader: Reader,
    reads: Arc<Semaphore>,
    transport: GrpcTransport,
    /// Where others reach this node.
    address: String,
}

/// The state that an answer comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Position {
    /// Its revision.
    pub revision: u64,
    /// An entry that it includes, with all before it.
    pub index: Index,
}

/// A program that was committed and applied.
#[derive(Clone, Debug, PartialEq)]
pub struct Applied {
    /// What came of each step.
    pub results: Vec<StepResult>,
    /// The state after it.
    pub position: Position,
}

/// A node that leads.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Leader {
    /// The node.
    pub id: NodeId,
    /// Where to reach it.
    pub address: String,
}

/// Why a request has no answer. Each says whether a command can have taken effect.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Failure {
    /// Certainly not applied.
    #[error("this node does not lead; ask node {} at {}", .0.id.0, .0.address)]
    NotLeader(Leader),
    /// Certainly not applied.
    #[error("{0}; try again in a moment")]
    NoLeader(&'static str),
    /// Certainly not applied.
    #[error("this node has not begun: it waits for its peers; raftkv-cli status says for which")]
    NotBegun,
    /// Certainly not applied: the request is malformed, too large, or not allowed.
    #[error("{0}")]
    Invalid(String),
    /// The command failed alike on every node, and changed nothing.
    #[error("{0}")]
    Failed(String),
    /// It may or may not be applied.
    #[error("{0}; retry with the same client id and sequence to find out")]
    Unknown(&'static str),
    /// It may have been applied before. It was not applied now.
    #[error(
        "the answer to this sequence is no longer kept, since its client had confirmed it: the command may have been applied, and \
         asking again will not tell; read the data to find out"
    )]
    Forgotten,
    /// Not applied now. It may have been applied before, if it was sent before.
    #[error(
        "the session has ended, or was not opened near the cluster's time: not applied now; send a first attempt again in a new \
         session; of a retry, only the data can tell"
    )]
    SessionExpired {
        /// The cluster's time: a session that is opened then can begin.
        log_time_ms: u64,
    },
    /// A change of the membership or of leadership that may or may not come about.
    #[error("whether the change came about is not known; ask for it again, which does no harm if it did")]
    ChangeUnknown,
    /// Certainly not applied: something else must end first.
    #[error("{0}")]
    Busy(String),
}

/// For an answer of another kind than the command's, which a state machine does not give.
pub(crate) fn unexpected() -> Failure {
    Failure::Unknown("the answer does not fit the command")
}

impl Store {
    /// The store of a running node, which others reach at `address`.
    pub fn new(node: Handle<Answer>, reader: Reader, transport: GrpcTransport, address: String) -> Self {
        let reads = Arc::new(Semaphore::new(CONCURRENT_READS));
        Self { node, reader, reads, transport, address }
    }

    /// What the node says of itself.
    pub fn status(&self) -> Status {
        self.node.status()
    }

    /// Replicates a program, and waits until it is applied.
    pub async fn run(&self, steps: Vec<Step>, session: Option<SessionId>) -> Result<Applied, Failure> {
        let (outcome, position) = self.execute(Operation::Run(steps), session).await?;
        let Outcome::Ran(results) = outcome else { return Err(unexpected()) };
        Ok(Applied { results, position })
    }

    /// Replicates a command, and waits until it is applied.
    async fn execute(&self, operation: Operation, session: Option<SessionId>) -> Result<(Outcome, Position), Failure> {
        let command = Command::now(operation, session);
        let command = command.map_err(|_| Failure::NoLeader("the system of this node gives no random numbers"))?;
        command.check().map_err(refused)?;
        let proposed = timeout(DEADLINE, self.node.propose(command.encode())).await;
        let proposed = proposed
            .map_err(|_| Failure::Unknown("no majority has confirmed the command in time"))?
            .map_err(|error| self.failure(error))?;
        let Answer { revision, outcome } = proposed.response;
        let position = Position { revision, index: proposed.id.index };
        match outcome {
            Outcome::Failed { message } | Outcome::Unexpected { message } => Err(Failure::Failed(message)),
            Outcome::Forgotten => Err(Failure::Forgotten),
            Outcome::TooManyUnanswered => Err(Failure::Invalid(
                "this client has too many commands whose answers it has not confirmed; confirm some with `answered`"
                    .to_owned(),
            )),
            Outcome::SessionExpired { time_ms } => Err(Failure::SessionExpired { log_time_ms: time_ms }),
            Outcome::TooManySessions => {
                Err(Failure::Busy("there are too many sessions; those that are not used end within an hour".to_owned()))
            }
            outcome => Ok((outcome, position)),
        }
    }

    /// Reads a key, linearizably.
    pub async fn get(&self, key: Bytes) -> Result<(Option<KeyValue>, Position), Failure> {
        self.read(move |reader| reader.get(&key)).await
    }

    /// Runs statements as one: as a linearizable read if that is all they do, else as a command.
    pub async fn sql(
        &self,
        statements: Vec<Statement>,
        session: Option<SessionId>,
    ) -> Result<(Vec<StatementResult>, Position), Failure> {
        let (kind, statements) = self.prepare(statements).await?;
        if kind == Kind::Read {
            return self.read(move |reader| reader.query(&statements)).await;
        }
        let applied = self.run(statements.into_iter().map(Step::from).collect(), session).await?;
        let of_step = |result| match result {
            StepResult::Sql(results) => Ok(results),
            _ => Err(unexpected()),
        };
        let results = applied.results.into_iter().map(of_step).collect::<Result<Vec<_>, _>>()?;
        Ok((results.into_iter().flatten().collect(), applied.position))
    }

    /// The state's revision on this node; zero if it can't be read.
    pub async fn revision(&self) -> u64 {
        self.look(Reader::revision).await.and_then(|read| read.map_err(|error| unreadable(&error))).unwrap_or(0)
    }

    /// Log time when this node's state has something to remove; none if there is nothing that can expire.
    pub(crate) async fn next_expiry_ms(&self) -> Result<Option<u64>, Failure> {
        self.look(Reader::next_expiry_ms).await?.map_err(|error| unreadable(&error))
    }

    /// Replicates a command that is nobody's but the cluster's own, and returns what came of it.
    pub(crate) async fn propose(&self, operation: Operation) -> Result<Outcome, Failure> {
        self.execute(operation, None).await.map(|(outcome, _)| outcome)
    }

    /// Sorts statements into reads and writes, and refuses what is wrong whatever tables there are.
    async fn prepare(&self, statements: Vec<Statement>) -> Result<(Kind, Vec<Statement>), Failure> {
        let look = move |reader: &Reader| reader.prepare(&statements).map(|kind| (kind, statements));
        self.look(look).await?.map_err(|error| match error {
            Error::Statement(message) => Failure::Invalid(message),
            error => refused(error),
        })
    }

    /// Returns once this node has applied everything that was acknowledged before the call.
    pub(crate) async fn confirm(&self) -> Result<(), Failure> {
        let confirmed = timeout(DEADLINE, self.node.read_index()).await;
        let confirmed = confirmed.map_err(|_| Failure::NoLeader("no majority has confirmed the read in time"))?;
        match confirmed {
            Ok(_) => Ok(()),
            // A read changes nothing, whatever becomes of it.
            Err(RequestError::Unknown) => Err(Failure::NoLeader("this node stopped before the read was confirmed")),
            Err(error) => Err(self.failure(error)),
        }
    }

    /// Reads the state once it includes everything that was acknowledged before the call.
    async fn read<T: Send + 'static>(
        &self,
        read: impl FnOnce(&Reader) -> Result<Seen<T>, Error> + Send + 'static,
    ) -> Result<(T, Position), Failure> {
        self.confirm().await?;
        let Seen { revision, applied, value } = self.look(read).await?.map_err(refused)?;
        Ok((value, Position { revision, index: applied.index }))
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

impl fmt::Debug for Store {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Store").field("node", &self.node).field("address", &self.address).finish_non_exhaustive()
    }
}

fn busy() -> Failure {
    Failure::Busy("too many requests are waiting; try again later".to_owned())
}

/// What the store says of a request that it does not carry out.
fn refused(error: Error) -> Failure {
    match error {
        Error::TooLarge { .. } | Error::Invalid(_) | Error::Refused(_) => Failure::Invalid(error.to_string()),
        Error::Statement(_) | Error::ReadTimeout(_) => Failure::Failed(error.to_string()),
        error => unreadable(&error),
    }
}

/// The state file can't be read. A read changes nothing, and another node may answer it.
fn unreadable(error: &Error) -> Failure {
    error!("{error}");
    Failure::NoLeader("the state of this node can't be read, see its log")
}
