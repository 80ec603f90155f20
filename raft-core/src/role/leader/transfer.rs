//! Handing leadership over (thesis §3.10).

use crate::config::Config;
use crate::effect::{Effect, Refusal};
use crate::message::Message;
use crate::replica::Replica;
use crate::timer::Timer;
use crate::types::{Index, NodeId, RequestId};

/// How many election timeouts a leader waits after a transfer of its own has failed: a preferred node that is deaf must not stop writes again and
/// again.
const PATIENCE: u32 = 10;

/// The transfer under way, if any, and when the leader may next begin one by itself.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Handover {
    transfer: Option<Transfer>,
    /// How many looks for a better leader to skip.
    skipped_looks: u32,
}

/// First the successor gets all entries, no new ones coming in meanwhile; then it is told to stand.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Transfer {
    to: NodeId,
    /// Who asked for it; nobody if the leader prefers another by itself.
    id: Option<RequestId>,
    /// Whether `TimeoutNow` was sent since the last heartbeat.
    is_told: bool,
    deadline: Timer,
}

impl Handover {
    /// To whom leadership is being handed over, if it is.
    pub fn successor(&self) -> Option<NodeId> {
        self.transfer.as_ref().map(|transfer| transfer.to)
    }

    /// Begins a transfer that has one election timeout to succeed. There is none yet.
    pub fn begin(&mut self, config: &Config, id: Option<RequestId>, to: NodeId) {
        assert!(self.transfer.is_none(), "one transfer at a time");
        let deadline = Timer::new(config.election_timeout_ticks);
        self.transfer = Some(Transfer { to, id, is_told: false, deadline });
    }

    /// Tells the successor to stand, once its log, which matches up to `matched`, is complete.
    pub fn advance(&mut self, replica: &mut Replica, matched: Index) {
        if let Some(transfer) = &mut self.transfer
            && !transfer.is_told
            && matched == replica.log().last().index
        {
            transfer.is_told = true;
            replica.send(transfer.to, Message::TimeoutNow);
        }
    }

    /// With each heartbeat, what was said may have to be said again.
    pub fn repeat(&mut self) {
        if let Some(transfer) = &mut self.transfer {
            transfer.is_told = false;
        }
    }

    /// Counts one tick. A transfer that takes too long is given up.
    pub fn tick(&mut self, replica: &mut Replica) {
        if self.transfer.as_mut().is_some_and(|transfer| transfer.deadline.tick()) {
            self.give_up(replica, Refusal::TransferTimedOut);
        }
    }

    /// Gives up the transfer, if there is one.
    pub fn give_up(&mut self, replica: &mut Replica, reason: Refusal) {
        match self.transfer.take() {
            Some(Transfer { id: Some(id), .. }) => {
                let leader = Some(replica.id());
                replica.order(Effect::Refuse { id, reason, leader });
            }
            Some(Transfer { id: None, .. }) => self.skipped_looks = PATIENCE,
            None => (),
        }
    }

    /// This node does not lead any more: what the transfer was for.
    pub fn conclude(&mut self, replica: &mut Replica) {
        if let Some(Transfer { id: Some(id), .. }) = self.transfer.take() {
            replica.order(Effect::SteppedDown { id });
        }
    }

    /// Whether it is time to look for a better leader. Asked once per election timeout.
    pub fn may_look(&mut self) -> bool {
        let may = self.skipped_looks == 0 && self.transfer.is_none();
        self.skipped_looks = self.skipped_looks.saturating_sub(1);
        may
    }
}
