//! The node: what drives the core, and the one place that has threads.
//!
//! ```text
//!   Handle ── requests ──►┐                ┌── writes, loads ─► log writer ─ Persisted, Loaded ──┐
//!                         ├──►  driver  ───┤                                                    ├──► driver
//!   Mailbox ─ messages ──►┘  (steps core)  ├── entries ───────► applier ─── Applied ────────────┘
//!             and reports                  │   and snapshots      │         and snapshots
//!                                          └── messages ──────► transport
//!   Handle ◄─────────────────────────────── outcomes ◄────────────┘
//! ```
//!
//! Three threads. The *driver* takes what has arrived, steps the core and carries out its effects; it never waits for anything but its
//! queues and the clock. The *log writer* makes one durable write of all that has queued up, and reads back between writes what has left memory. The
//! *applier* owns the state machine: it makes one transaction of what has queued up and answers the clients that wait for it, and takes, copies and
//! installs snapshots, in the order in which the core said so. A copy of the state that the applier has made goes through the driver to the transport,
//! which reads it at its own pace; what the transport receives for this node goes into the state machine's
//! [`Staging`](raft_core::port::Staging), past the core, which hears of it when all has arrived.
//!
//! It is generic over the three ports of [`raft_core::port`], so a user's own state machine runs under it: see `examples/src/bin/embedded.rs`.
//!
//! # What is bounded, and by what
//!
//! - Requests: a [`Handle`] admits at most [`Options::max_waiting_requests`] and [`Options::max_waiting_bytes`] at a time, counted
//!   from the call to the outcome, wherever in the node they are. Beyond that it answers [`RequestError::Overloaded`]. On a leader this bounds
//!   the log writer's and the applier's queues as well, for what they hold came from requests.
//! - Messages: a [`Mailbox`] takes at most [`Options::max_inbox_messages`] and [`Options::max_inbox_bytes`], and drops the rest, which Raft allows.
//! - Reports of snapshots: progress is dropped as messages are; there is one end for each transfer.
//! - What waits for the log writer: on a follower, the leader's window (`max_inflight_bytes`). Loads: the core asks for one at a time for each follower and
//!   one for itself, each of at most `max_append_bytes` or `max_applying_bytes`, and asks for no more until it is answered.
//! - What waits for the applier: `max_applying_bytes`, beyond which the core hands out no more before it hears `Applied`. Snapshots: one is taken at a
//!   time, one is copied for each follower, and one is installed.
//! - Completions: exactly one for each piece of work handed out, save that one `Persisted` or `Applied` stands for all that it covers. Each thread
//!   reports in the order of its work.
//!
//! So every channel between the threads can be unbounded in type, no thread ever blocks on a full one, and there is no cycle to deadlock in.
//!
//! # When it ends
//!
//! A failed write, a failed read of the log, a failed transaction, a panic in any thread and a proven breach of Raft's rules by a peer end the node. Nothing is retried and
//! nothing is acknowledged after it: every request that is dropped on the way answers its client by itself, with
//! [`RequestError::Unknown`] where the command may yet be applied. [`Running::wait`] tells the reason.
//!
//! A leader that is asked to stop hands over first, so that the others need not wait for an election timeout to miss it.

mod applier;
mod budget;
mod changes;
mod clients;
mod clock;
mod driver;
mod handle;
mod log_writer;
mod mailbox;
pub mod memory;
mod options;
mod promise;
mod report;
mod requests;
mod running;
mod start;
mod stopping;
mod waiters;

pub use handle::{Changed, Handle, Proposed};
pub use mailbox::{Inbox, Mailbox, mailbox};
pub use options::Options;
pub use promise::RequestError;
pub use running::{Ended, Running};
pub use start::{StartError, start};
