//! Where the transport puts messages from peers.

use crossbeam_channel::{Receiver, Sender, unbounded};
use raft_core::message::{Envelope, Message};
use raft_core::types::Entry;

use super::budget::{Budget, Permit};
use super::options::Options;

/// Where the transport delivers messages from peers. Made before the node, since the transport is. Clones share one inbox.
#[derive(Clone, Debug)]
pub struct Mailbox {
    messages: Sender<Letter>,
    budget: Budget,
}

/// The node's end of a [`Mailbox`].
#[derive(Debug)]
pub struct Inbox {
    pub(super) messages: Receiver<Letter>,
    /// Keeps the channel open where the transport has dropped its mailboxes: a closed one would always be ready.
    _mailbox: Mailbox,
}

/// A message that waits.
#[derive(Debug)]
pub(super) struct Letter {
    pub(super) envelope: Envelope,
    _permit: Permit,
}

/// A mailbox, and the inbox to start the node with.
pub fn mailbox(options: &Options) -> (Mailbox, Inbox) {
    let (sender, receiver) = unbounded();
    let budget = Budget::new(options.max_inbox_messages, options.max_inbox_bytes);
    let mailbox = Mailbox { messages: sender, budget };
    (mailbox.clone(), Inbox { messages: receiver, _mailbox: mailbox })
}

impl Mailbox {
    /// Hands a message to the node; never blocks. False if it was dropped because too much waits or the node has stopped.
    pub fn deliver(&self, envelope: Envelope) -> bool {
        let Some(permit) = self.budget.take(size_bytes(&envelope)) else { return false };
        self.messages.send(Letter { envelope, _permit: permit }).is_ok()
    }
}

/// What a message counts towards limits: its entries and a fixed share for the rest.
fn size_bytes(envelope: &Envelope) -> u64 {
    const ENVELOPE_BYTES: u64 = 128;
    ENVELOPE_BYTES
        + match &envelope.message {
            Message::AppendEntries(append) => append.entries.iter().map(Entry::size_bytes).sum(),
            _ => 0,
        }
}

#[cfg(test)]
mod tests {
    use raft_core::types::{EntryId, NodeId, Term};

    use super::*;

    fn envelope() -> Envelope {
        let message = Message::RequestVote { last: EntryId::ZERO };
        Envelope { from: NodeId(2), to: NodeId(1), term: Term(1), message }
    }

    #[test]
    fn a_full_mailbox_drops_and_a_read_one_takes_again() {
        let options = Options { max_inbox_messages: 2, ..Options::new(NodeId(1)) };
        let (mailbox, inbox) = mailbox(&options);
        assert!(mailbox.deliver(envelope()));
        assert!(mailbox.deliver(envelope()));
        assert!(!mailbox.deliver(envelope()));
        drop(inbox.messages.recv().unwrap());
        assert!(mailbox.deliver(envelope()));
    }

    #[test]
    fn a_mailbox_whose_node_is_gone_drops() {
        let (mailbox, inbox) = mailbox(&Options::new(NodeId(1)));
        drop(inbox);
        assert!(!mailbox.deliver(envelope()));
    }
}
