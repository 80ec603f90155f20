//! How a node that was asked to stop comes to its end.

use std::time::Instant;

use raft_core::types::RequestId;

/// A node that was asked to stop: it takes no requests any more.
#[derive(Debug)]
pub(super) struct Stopping {
    /// Until when it waits for the requests under way.
    pub(super) by: Instant,
    /// There while it hands over leadership.
    pub(super) handover: Option<Handover>,
}

/// Leadership that is being handed over.
#[derive(Clone, Copy, Debug)]
pub(super) struct Handover {
    /// The request to the core.
    pub(super) id: RequestId,
    /// When it is given up.
    pub(super) by: Instant,
}

impl Stopping {
    /// Whether nothing is to be waited for any more.
    pub(super) fn is_done(&self, is_idle: bool, now: Instant) -> bool {
        let hands_over = self.handover.is_some_and(|handover| now < handover.by);
        !hands_over && (is_idle || now >= self.by)
    }

    /// The request `id` was refused: if that was the handover, it is over.
    pub(super) fn refused(&mut self, id: RequestId) {
        self.handover.take_if(|handover| handover.id == id);
    }

    /// Another node leads: there is nothing to hand over any more.
    pub(super) fn follows(&mut self) {
        self.handover = None;
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn a_node_waits_for_its_requests_and_its_handover() {
        let now = Instant::now();
        let later = now + Duration::from_secs(1);
        let mut stopping = Stopping { by: later, handover: Some(Handover { id: RequestId(7), by: later }) };
        assert!(!stopping.is_done(true, now));
        stopping.refused(RequestId(6));
        assert!(!stopping.is_done(true, now));
        stopping.refused(RequestId(7));
        assert!(stopping.is_done(true, now));
        assert!(!stopping.is_done(false, now));
        assert!(stopping.is_done(false, later));
    }
}
