//! A node's storage: the Raft log and a deterministic key-value and SQL state machine, each in one SQLite file.
//!
//! | file | holds | promise |
//! |---|---|---|
//! | `raft_log_<id>.db` | entries with checksums, the hard state, who the node is | it survives a power loss |
//! | `raft_node_<id>.db` | keys, the users' tables, sessions, what was applied | whole, if behind the log |
//! | `snapshots/` | copies of states on their way to another node, or from one | none: they can be sent again |
//!
//! [`DataDir`] opens a node's folder and locks it. It hands out the [`Parts`]: the log and the state machine, which
//! implement the ports of `raft-core`, and a [`Reader`]. What is replicated is a [`Command`], encoded; what comes of it
//! is an [`Answer`], the same on every node.
//!
//! The state file is plain SQLite, and anyone may open it to read, also while the node runs: `sqlite3 -readonly
//! raft_node_1.db 'SELECT * FROM kv'`.
//!
//! # Example
//!
//! ```
//! use raft_core::membership::Membership;
//! use raft_core::port::{LogStore, StateMachine, Stored};
//! use raft_core::types::{ClusterId, Entry, EntryId, Index, NodeId, Payload, Term};
//! use raft_store_sqlite::{Command, DataDir, Operation, Outcome, Parts, StepResult};
//!
//! # fn main() -> Result<(), raft_store_sqlite::Error> {
//! # let folder = tempfile::tempdir().unwrap();
//! // The first start: make the folder's node part of a cluster.
//! let mut folder = DataDir::open(folder.path(), NodeId(1))?;
//! folder.begin(ClusterId(7), &Stored::first(Membership::default()))?;
//! let Parts { mut log, mut state_machine, reader } = folder.into_parts()?;
//!
//! // What a driver does with a command, less the consensus: store it, then apply it.
//! let operation = Operation::put("colour", "blue");
//! let command = Command { time_ms: 1_795_437_296_789, seed: [1; 16], session: None, operation };
//! let entry = Entry { id: EntryId::new(Index(2), Term(1)), payload: Payload::Command(command.encode()) };
//! log.write(&[raft_core::effect::Persist { entries: vec![entry].into(), ..Default::default() }])?;
//! let answers = state_machine.apply(&log.read(Index(1), u64::MAX)?)?;
//! let put = StepResult::Put { replaced: false, previous: None };
//! assert_eq!(answers[1].as_ref().unwrap().outcome, Outcome::Ran(vec![put]));
//!
//! // Anyone may read meanwhile.
//! let seen = reader.get(&"colour".into())?;
//! assert_eq!((seen.value.unwrap().value, seen.revision), ("blue".into(), 2));
//! # Ok(())
//! # }
//! ```

mod answer;
mod backup;
mod change;
mod checksum;
mod clock;
mod codec;
mod command;
mod contract;
mod data_dir;
mod dump;
mod error;
mod execution;
mod folder;
mod kv;
pub mod limits;
mod log;
mod moment;
mod position;
mod program;
mod reader;
mod refusal;
mod restore;
mod rows;
mod rules;
mod sandbox;
mod schema;
mod snapshot;
mod state_file;
mod state_machine;
mod step;

pub use answer::{Answer, Found, KeyValue, Outcome, StatementResult, StepResult};
pub use backup::{Backup, PendingBackup};
pub use change::{Change, Changed, RowChange, RowChanges};
pub use checksum::{Checksum, Marked, Marks, StateDigest, checksum};
pub use command::{Command, Operation, SessionId};
pub use contract::{Contract, ContractMismatch};
pub use data_dir::{DataDir, Parts, log_path, state_path};
pub use dump::dump;
pub use error::Error;
pub use kv::lease::Lease;
pub use log::SqliteLog;
pub use reader::{Kind, Piece, ReadLimits, Reader, Seen, Upkeep};
pub use refusal::refuse_later_starts;
pub use restore::Restored;
pub use state_machine::SqliteStateMachine;
pub use step::{
    Action, Argument, Compare, Detail, Expect, KeyRange, Lookup, Output, Parameter, Put, Relation, Statement, Step,
    Target, Value,
};
