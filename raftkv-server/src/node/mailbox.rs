//! Where the transport puts messages from peers, and what becomes of the snapshots it carries.

use crossbeam_channel::{Receiver, Sender, unbounded};
use raft_core::input::Input;
use raft_core::message::{Envelope, Message};
use raft_core::types::{Entry, NodeId};

use super::budget::{Budget, Permit};
use super::options::Options;

/// Where the transport delivers messages from peers, and reports on snapshots under way. Made before the node, since the transport is. Clones share one inbox.
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

/// A message or a report that waits.
#[derive(Debug)]
pub(super) struct Letter {
    pub(super) input: Input,
    _permit: Option<Permit>,
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
        let size_bytes = size_bytes(&envelope);
        self.put(Input::Receive(envelope), size_bytes)
    }

    /// Part of the snapshot for `to` has arrived there. May be dropped as a message may: the next part says the same.
    pub fn snapshot_progress(&self, to: NodeId) -> bool {
        self.put(Input::SnapshotProgress { to }, LETTER_BYTES)
    }

    /// The transfer of the snapshot for `to` has ended; to be said once for each. Always taken, since the core waits for it: there are no more of these than
    /// transfers. False if the node has stopped.
    pub fn snapshot_sent(&self, to: NodeId, arrived: bool) -> bool {
        self.messages.send(Letter { input: Input::SnapshotSent { to, arrived }, _permit: None }).is_ok()
    }

    fn put(&self, input: Input, size_bytes: u64) -> bool {
        let Some(permit) = self.budget.take(size_bytes) else { return false };
        self.messages.send(Letter { input, _permit: Some(permit) }).is_ok()
    }
}

/// What a letter without entries counts towards limits.
const LETTER_BYTES: u64 = 128;

/// What a message counts towards limits: its entries and a fixed share for the rest.
fn size_bytes(envelope: &Envelope) -> u64 {
    LETTER_BYTES
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
        let message = Message::RequestVote { last: EntryId::ZERO, transfer: false };
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
    fn the_end_of_a_snapshot_is_heard_in_a_full_mailbox() {
        let options = Options { max_inbox_messages: 1, ..Options::new(NodeId(1)) };
        let (mailbox, inbox) = mailbox(&options);
        assert!(mailbox.deliver(envelope()));
        assert!(!mailbox.snapshot_progress(NodeId(2)));
        assert!(mailbox.snapshot_sent(NodeId(2), true));
        let inputs: Vec<_> = inbox.messages.try_iter().map(|letter| letter.input).collect();
        assert_eq!(inputs, [Input::Receive(envelope()), Input::SnapshotSent { to: NodeId(2), arrived: true }]);
    }

    #[test]
    fn a_mailbox_whose_node_is_gone_drops() {
        let (mailbox, inbox) = mailbox(&Options::new(NodeId(1)));
        drop(inbox);
        assert!(!mailbox.deliver(envelope()));
    }
}
