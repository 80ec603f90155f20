//! Everything that can go wrong here, and whose fault it is.

use std::io;
use std::path::{Path, PathBuf};

use raft_core::types::{ClusterId, EntryId, Index, NodeId};

/// What went wrong. The text says what to do next.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The folder can't be made or written. Another folder may do.
    #[error("the data folder {} can't be used: {source}; give a folder that this user may write", path.display())]
    Unwritable {
        /// The folder.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// Another process has the folder, or a file in it, open.
    #[error("{} is in use by another process{holder}; stop it, or give another data folder", path.display())]
    InUse {
        /// The folder or file.
        path: PathBuf,
        /// ` (pid 123)`, or empty where it is not known.
        holder: String,
    },
    /// The folder belongs to another node.
    #[error(
        "the data folder {} belongs to node {stored}, but this is node {given}: \
         start it as {stored}, or give another folder",
        path.display()
    )]
    OtherNode {
        /// The folder.
        path: PathBuf,
        /// Whose it is.
        stored: NodeId,
        /// Who asked.
        given: NodeId,
    },
    /// The files belong to another cluster than they are used for.
    #[error(
        "{} belongs to cluster {stored}, but cluster {given} is expected: \
         one of the two files or folders is from elsewhere",
        path.display()
    )]
    OtherCluster {
        /// The file or folder.
        path: PathBuf,
        /// Whose it is.
        stored: ClusterId,
        /// What was expected.
        given: ClusterId,
    },
    /// The folder was begun before.
    #[error("the data folder {} has begun in cluster {cluster} already", path.display())]
    BegunAlready {
        /// The folder.
        path: PathBuf,
        /// Its cluster.
        cluster: ClusterId,
    },
    /// The folder belongs to no cluster yet.
    #[error("the data folder {} belongs to no cluster yet: begin it first", path.display())]
    NotBegun {
        /// The folder.
        path: PathBuf,
    },
    /// A state file without the log that it came from, or with a log that lost its end.
    #[error(
        "the state in {} has applied entry {applied}, which its log does not hold (it ends at {last}): \
         part of the log was lost, and with it what this node has promised, so it does not start; the others go on without it. Move the \
         folder away, start the node with its old flags, and then give its place to the new disk: raftkv-cli member replace ID",
        path.display()
    )]
    StateAhead {
        /// The state file.
        path: PathBuf,
        /// The last entry applied.
        applied: EntryId,
        /// The last index of the log.
        last: Index,
    },
    /// A state that lacks entries which its log has dropped, since the state held them, durably.
    #[error(
        "the state in {} has applied entry {applied}, but its log begins only after {snapshot}: the state was lost, or \
         replaced by an older one; put the right file back, or remove this node from the cluster and let it join again \
         with an empty folder",
        path.display()
    )]
    StateBehind {
        /// The state file.
        path: PathBuf,
        /// The last entry applied.
        applied: EntryId,
        /// The entry that the log begins after.
        snapshot: EntryId,
    },
    /// The state was found to differ from that of the other nodes, and the folder must not be used any more.
    #[error(
        "the node in {} must not serve any more, because its state is not that of the cluster: {why}; the others go on without it. Move the \
         folder away, start the node with its old flags, and then give its place to the new disk: raftkv-cli member replace ID",
        path.display()
    )]
    Diverged {
        /// The folder.
        path: PathBuf,
        /// How that was found.
        why: String,
    },
    /// A snapshot that the log says is to replace the state is gone.
    #[error(
        "the state in {} has applied entry {applied}, and is to be replaced by the snapshot at {snapshot}, but {} is not \
         there: put it back, or remove this node from the cluster and let it join again with an empty folder",
        path.display(), staged.display()
    )]
    SnapshotMissing {
        /// The state file.
        path: PathBuf,
        /// Where the snapshot should be.
        staged: PathBuf,
        /// The last entry applied.
        applied: EntryId,
        /// The last entry that the snapshot includes.
        snapshot: EntryId,
    },
    /// A snapshot from a peer is not what it should be. It is thrown away, and can be received again.
    #[error("the snapshot at {last} can't be used: {what}")]
    InvalidSnapshot {
        /// The last entry that it should include.
        last: EntryId,
        /// What does not fit.
        what: String,
    },
    /// A snapshot is not received in order. It can be begun again.
    #[error("a piece of a snapshot does not fit: {0}")]
    OutOfOrder(String),
    /// The file system failed.
    #[error("{doing} {} failed: {source}", path.display())]
    Io {
        /// What was being done.
        doing: &'static str,
        /// To which file or folder.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// A file of another program, or none at all.
    #[error("{} is not a file of RaftKV: move it away, or give another folder", path.display())]
    NotOurs {
        /// The file.
        path: PathBuf,
    },
    /// Written by a version so old that this one can't read it.
    #[error(
        "{} has format {stored}, and this version knows formats from {oldest} on: use the version that wrote it, or \
         rebuild this node from its peers",
        path.display()
    )]
    OlderFormat {
        /// The file.
        path: PathBuf,
        /// Its format.
        stored: u32,
        /// The oldest known one.
        oldest: u32,
    },
    /// Written by a newer version.
    #[error(
        "{} has format {stored}, and this version knows formats up to {known}: use the newer version",
        path.display()
    )]
    NewerFormat {
        /// The file.
        path: PathBuf,
        /// The format of the file.
        stored: u32,
        /// The newest format known here.
        known: u32,
    },
    /// SQLite did not take a setting that durability rests on.
    #[error(
        "{} can't be opened with {pragma}={wanted} (SQLite says {got}): its file system may not support it",
        path.display()
    )]
    Setting {
        /// The file.
        path: PathBuf,
        /// The setting.
        pragma: &'static str,
        /// What was asked for.
        wanted: &'static str,
        /// What is in force.
        got: String,
    },
    /// An entry is damaged.
    #[error(
        "entry {index} of the log is damaged ({what}): the disk may be failing, and what this node has promised may be lost, so it does \
         not start; the others go on without it. Move the folder away, start the node with its old flags, and then give its place to \
         the new disk: raftkv-cli member replace ID"
    )]
    Damaged {
        /// Which entry.
        index: Index,
        /// What does not fit.
        what: String,
    },
    /// Something besides the entries is damaged.
    #[error(
        "{} is damaged ({what}): the disk may be failing, and what this node has promised may be lost, so it does not start; the others \
         go on without it. Move the folder away, start the node with its old flags, and then give its place to the new disk: \
         raftkv-cli member replace ID",
        path.display()
    )]
    DamagedFile {
        /// The file.
        path: PathBuf,
        /// What does not fit.
        what: String,
    },
    /// An earlier call failed, so nothing may be assumed of the file.
    #[error("{} failed before and is not used any more: restart the node", path.display())]
    Poisoned {
        /// The file.
        path: PathBuf,
    },
    /// SQLite failed. Where this was a write, the node must stop.
    #[error("{doing} failed: {source}")]
    Sqlite {
        /// What was being done.
        doing: &'static str,
        /// What SQLite said.
        source: rusqlite::Error,
    },
    /// The system has no randomness to give.
    #[error("no random number could be had from the system: {0}")]
    Random(getrandom::Error),
    /// A command, an answer or a membership that this version can't read.
    #[error("{what} can't be decoded: {why}; it may have been made by a newer version")]
    Undecodable {
        /// What it should have been.
        what: &'static str,
        /// What does not fit.
        why: String,
    },
    /// A committed command that this version can't read. It is never skipped: the node must stop.
    #[error("the command in entry {id} can't be applied: {source}")]
    UnknownCommand {
        /// The entry.
        id: EntryId,
        /// What does not fit.
        source: Box<Error>,
    },
    /// The caller asked for more than is allowed.
    #[error("{what} is too large: {actual}, and at most {limit} are allowed")]
    TooLarge {
        /// What is too large, with its unit, as in `the key (bytes)`.
        what: &'static str,
        /// The most that is allowed.
        limit: u64,
        /// What was given.
        actual: u64,
    },
    /// The caller left something out or mixed something up.
    #[error("{0}")]
    Invalid(String),
    /// What was at a revision is forgotten.
    #[error("revision {revision} is compacted: what was from revision {first} on can be read")]
    Compacted {
        /// The revision that was asked for.
        revision: u64,
        /// The first that can be read.
        first: u64,
    },
    /// A step of a program that only reads did not count what the program expects.
    #[error("{0}")]
    Unexpected(String),
    /// SQL that may not be replicated or run. Certainly nothing happened.
    #[error("{0}")]
    Refused(String),
    /// SQL that is wrong, or a read that failed.
    #[error("{0}")]
    Statement(String),
    /// A state's checksum could not be computed while so much was written.
    #[error(
        "the state changes too fast: its write-ahead log has grown by more than {room_bytes} bytes while the checksum was computed; compare states \
         when less is written"
    )]
    ChangesTooFast {
        /// How much it may grow.
        room_bytes: u64,
    },
    /// A read took too long.
    #[error("the read was stopped after {0} ms: ask for less, or use an index")]
    ReadTimeout(u64),
}

impl Error {
    /// For `map_err`: names what SQLite was doing.
    pub(crate) fn sqlite(doing: &'static str) -> impl FnOnce(rusqlite::Error) -> Self {
        move |source| Self::Sqlite { doing, source }
    }

    /// For `map_err`: names what was being done to which file.
    pub(crate) fn io(doing: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Self {
        move |source| Self::Io { doing, path: path.to_owned(), source }
    }
}
