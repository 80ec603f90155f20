//! Reads that a follower answers, having asked its leader what they must see (thesis §6.4).

use alloc::vec::Vec;
use core::mem;

use crate::effect::{Effect, Refusal};
use crate::message::Message;
use crate::replica::Replica;
use crate::timer::Timer;
use crate::types::{Index, NodeId, ReadToken, RequestId};

/// One question is under way at a time. Reads that come meanwhile wait for the next, since the answer may be older than they are.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Reads {
    question: Option<Question>,
    waiting: Vec<RequestId>,
}

/// What the leader was asked, for these reads.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Question {
    token: ReadToken,
    ids: Vec<RequestId>,
    /// When to ask again: the question or its answer may be lost.
    repeat: Timer,
}

impl Reads {
    /// Adds a read, of which the leader is asked now or with the next question.
    pub fn add(&mut self, replica: &mut Replica, leader: NodeId, id: RequestId) {
        self.waiting.push(id);
        self.ask(replica, leader);
    }

    /// Asks for all reads that wait, if no question is under way.
    fn ask(&mut self, replica: &mut Replica, leader: NodeId) {
        if self.question.is_some() || self.waiting.is_empty() {
            return;
        }
        let token = replica.next_read_token();
        let repeat = Timer::new(replica.config().heartbeat_ticks);
        self.question = Some(Question { token, ids: mem::take(&mut self.waiting), repeat });
        replica.send(leader, Message::ReadIndex { token });
    }

    /// Counts one tick, and asks again if the answer is long in coming.
    pub fn tick(&mut self, replica: &mut Replica, leader: NodeId) {
        if let Some(question) = &mut self.question
            && question.repeat.tick()
        {
            replica.send(leader, Message::ReadIndex { token: question.token });
        }
    }

    /// Takes the leader's answer, unless it is a late one to an earlier question.
    pub fn answered(&mut self, replica: &mut Replica, leader: NodeId, token: ReadToken, index: Option<Index>) {
        let Some(Question { ids, .. }) = self.question.take_if(|question| question.token == token) else { return };
        for id in ids {
            replica.order(match index {
                Some(index) => Effect::ServeRead { id, index },
                None => Effect::Refuse { id, reason: Refusal::NotLeader, leader: None },
            });
        }
        self.ask(replica, leader);
    }

    /// Gives up all reads: the leader that could answer is not followed any more.
    pub fn give_up(&mut self, replica: &mut Replica) {
        let asked = self.question.take().map(|question| question.ids).unwrap_or_default();
        for id in asked.into_iter().chain(mem::take(&mut self.waiting)) {
            replica.order(Effect::Refuse { id, reason: Refusal::LeadershipLost, leader: None });
        }
    }
}
