//! A network that delivers what it is told to, when it is told to.

use std::collections::BTreeSet;

use raft_core::message::Envelope;
use raft_core::types::NodeId;

use crate::support::trace;

/// Messages under way, in the order in which they were sent, and links that are cut.
///
/// What is sent over a cut link is lost. What was under way before stays so until the link heals.
#[derive(Clone, Debug, Default)]
pub struct Network {
    under_way: Vec<Envelope>,
    /// From whom to whom nothing gets through.
    cut: BTreeSet<(NodeId, NodeId)>,
}

/// Which messages are meant: those that fit all that is given.
#[derive(Clone, Debug, Default)]
pub struct Filter {
    /// Sent by this node.
    pub from: Option<NodeId>,
    /// Addressed to this node.
    pub to: Option<NodeId>,
    /// Of this kind, as [`trace::kind`] names it.
    pub kind: Option<String>,
    /// So many, the oldest first.
    pub count: Option<usize>,
}

impl Filter {
    fn fits(&self, envelope: &Envelope) -> bool {
        self.from.is_none_or(|from| from == envelope.from)
            && self.to.is_none_or(|to| to == envelope.to)
            && self.kind.as_ref().is_none_or(|kind| kind == trace::kind(&envelope.message))
    }
}

impl Network {
    /// Takes a message. False if it is lost on a cut link.
    pub fn send(&mut self, envelope: Envelope) -> bool {
        let connected = self.connects(envelope.from, envelope.to);
        if connected {
            self.under_way.push(envelope);
        }
        connected
    }

    /// Whether messages get through from one node to another.
    pub fn connects(&self, from: NodeId, to: NodeId) -> bool {
        !self.cut.contains(&(from, to))
    }

    /// Cuts the way from one node to another.
    pub fn cut(&mut self, from: NodeId, to: NodeId) {
        self.cut.insert((from, to));
    }

    /// Mends all links.
    pub fn heal(&mut self) {
        self.cut.clear();
    }

    /// All messages under way.
    pub fn under_way(&self) -> &[Envelope] {
        &self.under_way
    }

    /// Takes the messages that `filter` means and that can arrive.
    pub fn take(&mut self, filter: &Filter) -> Vec<Envelope> {
        let Self { under_way, cut } = self;
        let limit = filter.count.unwrap_or(usize::MAX);
        let mut taken = 0;
        let mut take = |envelope: &mut Envelope| {
            let takes = taken < limit && filter.fits(envelope) && !cut.contains(&(envelope.from, envelope.to));
            taken += usize::from(takes);
            takes
        };
        under_way.extract_if(.., &mut take).collect()
    }
}
