//! The node: what drives the core, and the one place that has threads.
//!
//! ```text
//!   Handle ── requests ──►┐                ┌── writes ──► log writer ── Persisted ──┐
//!                         ├──►  driver  ───┤                                        ├──► driver
//!   Mailbox ─ messages ──►┘  (steps core)  ├── entries ─► applier ───── Applied ────┘
//!                                          └── messages ► transport       │
//!   Handle ◄──────────────────────── outcomes ◄───────────────────────────┘
//! ```
//!
//! Three threads. The *driver* takes what has arrived, steps the core and carries out its effects; it never waits for anything but its
//! queues and the clock. The *log writer* makes one durable write of all that has queued up. The *applier* makes one transaction of what
//! has queued up and answers the clients that wait for it.
//!
//! It is generic over the three ports of [`raft_core::port`], so a user's own state machine runs under it: see `examples/src/bin/embedded.rs`.
//!
//! # What is bounded, and by what
//!
//! - Requests: a [`Handle`] admits at most [`Options::max_waiting_requests`] and [`Options::max_waiting_bytes`] at a time, counted
//!   from the call to the outcome, wherever in the node they are. Beyond that it answers [`RequestError::Overloaded`]. On a leader this bounds
//!   the log writer's and the applier's queues as well, for what they hold came from requests.
//! - Messages: a [`Mailbox`] takes at most [`Options::max_inbox_messages`] and [`Options::max_inbox_bytes`], and drops the rest, which Raft allows.
//! - On a follower, the leader's window (`max_inflight_bytes`) bounds what waits for the log writer. What waits for the applier is
//!   part of the log that the core holds: the queue shares its bytes.
//! - Completions: at most one for each piece of work handed out.
//!
//! So every channel between the threads can be unbounded in type, no thread ever blocks on a full one, and there is no cycle to deadlock in.
//!
//! # When it ends
//!
//! A failed write, a failed transaction, a panic in any thread and a proven breach of Raft's rules by a peer end the node. Nothing is retried and
//! nothing is acknowledged after it: every request that is dropped on the way answers its client by itself, with
//! [`RequestError::Unknown`] where the command may yet be applied. [`Running::wait`] tells the reason.

mod applier;
mod budget;
mod clock;
mod driver;
mod handle;
mod log_writer;
mod mailbox;
mod options;
mod promise;
mod report;
mod running;
mod start;
mod waiters;

pub use handle::{Handle, Proposed};
pub use mailbox::{Inbox, Mailbox, mailbox};
pub use options::Options;
pub use promise::RequestError;
pub use running::{Ended, Running};
pub use start::{StartError, start};
