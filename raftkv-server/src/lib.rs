//! A RaftKV server: a node of a cluster that serves keys and SQL.
//!
//! ```text
//!     main ─► flags ─► config ─► server ─► storage            open the files
//!                                  ├─────► begin, join        find out who the peers are, or have the cluster add this node
//!                                  ├─────► node               drives the core (threads)
//!                                  ├─────► housekeeping       has the leader remove what has expired or is old enough, and states compared
//!                                  ├─────► verification       compares the nodes' states, and stops one that differs
//!                                  └─────► service ─► store   turns calls into commands and reads (tasks)
//!                                               └► admin      changes the membership, and who leads
//! ```
//!
//! [`run`] is the whole server; [`Server`] is one to embed; [`node`] runs any state machine.

pub mod admin;
pub mod begin;
pub mod command_text;
pub mod config;
pub mod demo;
pub mod flags;
pub mod gate;
pub mod health;
mod housekeeping;
pub mod join;
pub mod node;
pub mod peer;
pub mod peers;
mod removal;
mod room;
pub mod server;
pub mod service;
pub mod signals;
pub mod storage;
pub mod store;
pub mod verification;

pub use config::Config;
pub use server::{Error, Server, run};
