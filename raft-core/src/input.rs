//! What the core is told. Data without behaviour.

use alloc::vec::Vec;
use bytes::Bytes;

use crate::message::Envelope;
use crate::types::{Index, RequestId, WriteId};

/// Something that happened, for [`Node::step`](crate::node::Node::step).
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Input {
    /// One tick of the clock has passed.
    Tick,
    /// A message has arrived.
    Receive(Envelope),
    /// Replicate these commands, in this order. Ends in [`Effect::Appended`](crate::effect::Effect::Appended) or
    /// [`Effect::Refuse`](crate::effect::Effect::Refuse).
    Propose {
        /// Names the batch in its outcome.
        id: RequestId,
        /// The commands, at least one.
        commands: Vec<Bytes>,
    },
    /// A linearizable read is wanted. Ends in [`Effect::ServeRead`](crate::effect::Effect::ServeRead) or
    /// [`Effect::Refuse`](crate::effect::Effect::Refuse).
    Read {
        /// Names the read in its outcome. The core makes its own tokens, so a repeated id is harmless.
        id: RequestId,
    },
    /// All writes up to this one are durable. May be repeated, and may skip numbers.
    Persisted(WriteId),
    /// The state machine has applied all entries up to this one.
    Applied(Index),
}
