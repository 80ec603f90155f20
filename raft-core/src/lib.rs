//! Raft as a pure function.
//!
//! [`Node::step`](node::Node::step) takes one [`Input`](input::Input) (a tick, a message, a proposal, a completed write) and returns the
//! [`Effect`](effect::Effect)s that it calls for. There is no clock in here, no thread, no socket, no disk, and no randomness
//! but a seed: equal inputs give equal effects. Whatever can wait or fail lives outside, in the driver.
//!
//! # The contract
//!
//! *Carry out each effect when you see it, [`Persist`](effect::Effect::Persist) in order, and say
//! [`Persisted(n)`](input::Input::Persisted) when write `n` is durable.* That is all. Whatever may only be said after a write is withheld in
//! here and leaves in the step that confirms it, so no driver can get the order wrong.
//!
//! Inputs may be taken one by one, by [`Node::step`](node::Node::step), or all that have come together at once, by
//! [`Node::step_all`](node::Node::step_all): then they share a write and messages, which is what makes a busy node fast.
//!
//! # A whole cluster in a page
//!
//! Three nodes, whose network is a queue, and whose disks are quick:
//!
//! ```
//! use std::collections::{BTreeMap, VecDeque};
//!
//! use raft_core::config::Config;
//! use raft_core::effect::Effect;
//! use raft_core::input::Input;
//! use raft_core::membership::Membership;
//! use raft_core::node::Node;
//! use raft_core::port::Stored;
//! use raft_core::types::{EntryId, Member, NodeId, Payload, RequestId};
//!
//! let ids = [NodeId(1), NodeId(2), NodeId(3)];
//! let membership = Membership::of_voters(ids.map(|id| (id, Member::default())).into());
//! let mut nodes: BTreeMap<NodeId, Node> = ids
//!     .into_iter()
//!     .map(|id| (id, Node::new(Config::new(id), Stored::first(membership.clone()), EntryId::ZERO).unwrap()))
//!     .collect();
//!
//! // What waits to be taken in by which node, and what each state machine was given.
//! let mut inputs: VecDeque<(NodeId, Input)> = VecDeque::new();
//! let mut applied: BTreeMap<NodeId, Vec<bytes::Bytes>> = BTreeMap::new();
//! let mut proposed = false;
//!
//! for _ in 0..100 {
//!     inputs.extend(ids.map(|id| (id, Input::Tick)));
//!     while let Some((id, input)) = inputs.pop_front() {
//!         for effect in nodes.get_mut(&id).unwrap().step(input) {
//!             match effect {
//!                 // A real driver writes to disk first, and answers when the write is durable.
//!                 Effect::Persist(write) => inputs.push_back((id, Input::Persisted(write.id))),
//!                 Effect::Send(envelope) => inputs.push_back((envelope.to, Input::Receive(envelope))),
//!                 Effect::Apply(entries) => {
//!                     inputs.push_back((id, Input::Applied(entries.last().unwrap().id.index)));
//!                     applied.entry(id).or_default().extend(entries.iter().filter_map(|entry| match &entry.payload {
//!                         Payload::Command(command) => Some(command.clone()),
//!                         Payload::Noop | Payload::Membership(_) => None,
//!                     }));
//!                 }
//!                 Effect::Became { leader: Some(leader), .. } if !proposed => {
//!                     proposed = true;
//!                     let commands = vec!["set x=1".into()];
//!                     inputs.push_back((leader, Input::Propose { id: RequestId(1), commands }));
//!                 }
//!                 _ => (),
//!             }
//!         }
//!     }
//! }
//! assert!(ids.iter().all(|id| applied[id] == ["set x=1"]), "every state machine has applied the command, once");
//! ```
//!
//! # Where to look
//!
//! Data flows one way: [`Node`](node::Node) holds the rules for all servers and the changes of role; a role (follower, candidate,
//! leader) works on the replica (term, vote, log, membership), which queues effects. What adapters implement is in [`port`].
//!
//! In comments, `§5.4.2` is a section of the Raft paper (Ongaro and Ousterhout, "In Search of an Understandable Consensus Algorithm", extended
//! version), and `thesis §4.2.3` one of Ongaro's thesis, "Consensus: Bridging Theory and Practice".

#![no_std]
#![forbid(unsafe_code)]
#![deny(missing_docs)]

extern crate alloc;

pub mod config;
pub mod effect;
pub mod entries;
pub mod input;
pub mod membership;
pub mod message;
pub mod node;
pub mod port;
pub mod quorum;
pub mod status;
pub mod types;

mod feed;
mod log;
mod numbers;
mod recent;
mod replica;
mod role;
mod terms;
mod timer;
