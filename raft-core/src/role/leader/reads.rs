//! Reads that wait for a majority to confirm that this node still leads (thesis §6.4).

use alloc::collections::VecDeque;
use alloc::vec::Vec;

use crate::types::{Index, RequestId, Round};

/// Reads in rounds. Every `AppendEntries` carries the latest round, and followers echo it: an echo of a round shows that its sender followed
/// this leader after the round began, and so after all reads of the round came in. A read that comes while a round is under way waits for the next, so
/// that one round answers all who wait, and no late echo can confirm a younger read.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Reads {
    /// The latest round that was begun.
    round: Round,
    /// The latest round that a majority has echoed. Never above `round`.
    confirmed_round: Round,
    /// In the order in which they came; neither rounds nor indexes fall.
    waiting: VecDeque<Waiting>,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Waiting {
    id: RequestId,
    round: Round,
    /// What was committed when the read came, or the entry that began the term, if that is later.
    index: Index,
}

impl Reads {
    /// The latest round that was begun.
    pub fn round(&self) -> Round {
        self.round
    }

    /// Adds a read that must see what is committed up to `index`. True if this begins a round.
    pub fn add(&mut self, id: RequestId, index: Index) -> bool {
        self.waiting.push_back(Waiting { id, round: self.round.next(), index });
        self.begin_round()
    }

    /// Notes that a majority has echoed `round`. True if this begins another.
    pub fn confirm(&mut self, round: Round) -> bool {
        self.confirmed_round = self.confirmed_round.max(round);
        self.begin_round()
    }

    /// Begins a round if none is under way and a read waits for one.
    fn begin_round(&mut self) -> bool {
        let begins =
            self.confirmed_round == self.round && self.waiting.back().is_some_and(|waiting| waiting.round > self.round);
        if begins {
            self.round = self.round.next();
        }
        begins
    }

    /// Takes the reads that are confirmed and whose index is committed.
    pub fn take_ready(&mut self, commit_index: Index) -> Vec<(RequestId, Index)> {
        let is_ready = |waiting: &Waiting| waiting.round <= self.confirmed_round && waiting.index <= commit_index;
        let ready = self.waiting.iter().take_while(|waiting| is_ready(waiting)).count();
        self.waiting.drain(..ready).map(|waiting| (waiting.id, waiting.index)).collect()
    }

    /// Takes all reads: this node does not lead any more.
    pub fn take_all(&mut self) -> Vec<RequestId> {
        self.waiting.drain(..).map(|waiting| waiting.id).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ready(reads: &mut Reads, commit: u64) -> Vec<u64> {
        reads.take_ready(Index(commit)).into_iter().map(|(id, _)| id.0).collect()
    }

    #[test]
    fn one_round_answers_all_who_wait_for_it() {
        let mut reads = Reads::default();
        assert!(reads.add(RequestId(1), Index(1)), "nobody waits: a round begins");
        assert!(!reads.add(RequestId(2), Index(1)) && !reads.add(RequestId(3), Index(1)), "one is under way");
        assert!(reads.confirm(Round(1)), "the next begins for those who came meanwhile");
        assert_eq!(ready(&mut reads, 1), [1]);
        assert!(!reads.confirm(Round(1)), "an echo of the first confirms nothing more");
        assert_eq!(ready(&mut reads, 1), []);
        assert!(!reads.confirm(Round(2)), "nobody waits for another");
        assert_eq!(ready(&mut reads, 1), [2, 3]);
    }

    #[test]
    fn a_read_waits_for_its_index() {
        let mut reads = Reads::default();
        reads.add(RequestId(1), Index(5));
        reads.confirm(Round(1));
        assert_eq!(ready(&mut reads, 4), []);
        assert_eq!(ready(&mut reads, 5), [1]);
    }

    #[test]
    fn all_reads_end_with_the_term() {
        let mut reads = Reads::default();
        reads.add(RequestId(1), Index(1));
        reads.add(RequestId(2), Index(1));
        assert_eq!(reads.take_all(), [RequestId(1), RequestId(2)]);
        assert_eq!(reads.take_all(), []);
    }
}
