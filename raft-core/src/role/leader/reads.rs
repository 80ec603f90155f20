//! Reads that wait for a majority to confirm that this node still leads (thesis §6.4).

use alloc::collections::VecDeque;
use alloc::vec::Vec;

use crate::role::leader::lease::Lease;
use crate::types::{Index, Moment, NodeId, ReadToken, RequestId, Round};

/// Reads in rounds. Every `AppendEntries` carries the latest round, and followers echo it: an echo of a round shows that its sender followed
/// this leader after the round began, and so after all reads of the round came in. A read that comes while a round is under way waits for the next, so
/// that one round answers all who wait, and no late echo can confirm a younger read.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Reads {
    /// The latest round that was begun.
    round: Round,
    /// The latest round that a majority has echoed. Never above `round`.
    confirmed_round: Round,
    /// In the order in which they came; neither rounds nor indexes fall.
    waiting: VecDeque<Waiting>,
    lease: Lease,
}

/// Who wants to know what a state must include.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Reader {
    /// A client of this node.
    Client(RequestId),
    /// A follower, for clients of its own.
    Follower {
        /// Which.
        id: NodeId,
        /// Its name for the question.
        token: ReadToken,
    },
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Waiting {
    reader: Reader,
    round: Round,
    /// What was committed when the read came, or the entry that began the term, if that is later.
    index: Index,
}

impl Reads {
    /// No reads, and no lease yet, each of which may last for `lease`.
    pub fn new(lease: Option<u64>) -> Self {
        Self {
            round: Round::default(),
            confirmed_round: Round::default(),
            waiting: VecDeque::new(),
            lease: Lease::new(lease),
        }
    }

    /// The latest round that was begun.
    pub fn round(&self) -> Round {
        self.round
    }

    /// Adds a read that must see what is committed up to `index`. True if this begins a round.
    pub fn add(&mut self, reader: Reader, index: Index) -> bool {
        if self.admit(reader) {
            self.waiting.push_back(Waiting { reader, round: self.round.next(), index });
        }
        self.begin_round_if_wanted()
    }

    /// A follower has one question at a time, so its latest takes the place of an older one. A late copy does not.
    fn admit(&mut self, reader: Reader) -> bool {
        let Reader::Follower { id, token } = reader else { return true };
        let is_its = |waiting: &Waiting| matches!(waiting.reader, Reader::Follower { id: other, .. } if other == id);
        let waiting = self.waiting.iter().position(is_its);
        match waiting.map(|position| (position, self.waiting[position].reader)) {
            Some((_, Reader::Follower { token: known, .. })) if token <= known => false,
            Some((position, _)) => self.waiting.remove(position).is_some(),
            None => true,
        }
    }

    /// Whether nobody waits, and no round is under way.
    pub fn are_settled(&self) -> bool {
        self.waiting.is_empty() && self.confirmed_round == self.round
    }

    /// Notes that a majority has echoed `round`. True if this begins another.
    pub fn confirm(&mut self, round: Round) -> bool {
        if round > self.confirmed_round {
            self.confirmed_round = round;
            if round == self.round {
                self.lease.confirm_round();
            }
        }
        self.begin_round_if_wanted()
    }

    /// Begins a round for other voters, beside the one that may be under way. The reads that wait for either are older than both.
    pub fn begin_round_of_other_voters(&mut self) {
        self.round = self.round.next();
        self.lease.begin_anew();
    }

    /// Begins a round if none is under way and a read waits for one.
    fn begin_round_if_wanted(&mut self) -> bool {
        let is_wanted = self.waiting.back().is_some_and(|waiting| waiting.round > self.round);
        is_wanted && self.begin_round()
    }

    /// Begins a round if none is under way.
    fn begin_round(&mut self) -> bool {
        let begins = self.confirmed_round == self.round;
        if begins {
            self.round = self.round.next();
            self.lease.begin_round();
        }
        begins
    }

    /// Whether a read at this time needs no round, because of the lease.
    pub fn is_leased(&mut self, now: Moment) -> bool {
        self.lease.covers(now)
    }

    /// Begins a round if that makes the lease longer, so that whoever reads much keeps it.
    pub fn renew_lease(&mut self) {
        if self.lease.can_grow() {
            self.begin_round();
        }
    }

    /// Answers nothing by a lease any more.
    pub fn give_up_lease(&mut self) {
        self.lease.give_up();
    }

    /// Takes the reads that are confirmed and whose index is committed.
    pub fn take_ready(&mut self, commit_index: Index) -> Vec<(Reader, Index)> {
        let is_ready = |waiting: &Waiting| waiting.round <= self.confirmed_round && waiting.index <= commit_index;
        let ready = self.waiting.iter().take_while(|waiting| is_ready(waiting)).count();
        self.waiting.drain(..ready).map(|waiting| (waiting.reader, waiting.index)).collect()
    }

    /// Takes all reads of clients: this node does not lead any more. Followers ask again, and hear that from whoever they ask.
    pub fn take_all(&mut self) -> Vec<RequestId> {
        let client = |waiting: Waiting| match waiting.reader {
            Reader::Client(id) => Some(id),
            Reader::Follower { .. } => None,
        };
        self.waiting.drain(..).filter_map(client).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn client(id: u64) -> Reader {
        Reader::Client(RequestId(id))
    }

    fn follower(id: u64, token: u64) -> Reader {
        Reader::Follower { id: NodeId(id), token: ReadToken(token) }
    }

    fn take(reads: &mut Reads, commit: u64) -> Vec<Reader> {
        reads.take_ready(Index(commit)).into_iter().map(|(reader, _)| reader).collect()
    }

    fn ready(reads: &mut Reads, commit: u64) -> Vec<u64> {
        let id = |reader| match reader {
            Reader::Client(id) => id.0,
            Reader::Follower { .. } => panic!("only clients read here"),
        };
        take(reads, commit).into_iter().map(id).collect()
    }

    #[test]
    fn one_round_answers_all_who_wait_for_it() {
        let mut reads = Reads::new(None);
        assert!(reads.add(client(1), Index(1)), "nobody waits: a round begins");
        assert!(!reads.add(client(2), Index(1)) && !reads.add(client(3), Index(1)), "one is under way");
        assert!(reads.confirm(Round(1)), "the next begins for those who came meanwhile");
        assert_eq!(ready(&mut reads, 1), [1]);
        assert!(!reads.confirm(Round(1)), "an echo of the first confirms nothing more");
        assert_eq!(ready(&mut reads, 1), []);
        assert!(!reads.confirm(Round(2)), "nobody waits for another");
        assert_eq!(ready(&mut reads, 1), [2, 3]);
    }

    #[test]
    fn a_read_waits_for_its_index() {
        let mut reads = Reads::new(None);
        reads.add(client(1), Index(5));
        reads.confirm(Round(1));
        assert_eq!(ready(&mut reads, 4), []);
        assert_eq!(ready(&mut reads, 5), [1]);
    }

    #[test]
    fn all_reads_end_with_the_term() {
        let mut reads = Reads::new(None);
        reads.add(client(1), Index(1));
        reads.add(client(2), Index(1));
        assert_eq!(reads.take_all(), [RequestId(1), RequestId(2)]);
        assert_eq!(reads.take_all(), []);
    }

    #[test]
    fn a_follower_waits_with_its_latest_question() {
        let mut reads = Reads::new(None);
        reads.add(follower(2, 5), Index(1));
        reads.add(follower(2, 5), Index(1));
        reads.add(follower(3, 1), Index(1));
        reads.add(follower(2, 6), Index(1));
        reads.add(follower(2, 5), Index(1));
        reads.confirm(Round(1));
        reads.confirm(Round(2));
        assert_eq!(take(&mut reads, 1), [follower(3, 1), follower(2, 6)]);
    }

    #[test]
    fn followers_are_not_told_of_the_end() {
        let mut reads = Reads::new(None);
        reads.add(follower(2, 1), Index(1));
        reads.add(client(1), Index(1));
        assert_eq!(reads.take_all(), [RequestId(1)]);
    }

    #[test]
    fn a_lease_needs_the_round_that_began_with_it() {
        let mut reads = Reads::new(Some(10));
        assert!(!reads.is_leased(Moment(100)));
        reads.add(client(1), Index(1));
        assert!(!reads.is_leased(Moment(105)));
        reads.confirm(Round(1));
        assert!(reads.is_leased(Moment(109)) && !reads.is_leased(Moment(110)));
    }

    #[test]
    fn a_lease_is_renewed_only_where_time_has_passed_and_no_round_is_under_way() {
        let mut reads = Reads::new(Some(10));
        reads.renew_lease();
        assert_eq!(reads.round(), Round(0), "nobody reads");
        reads.is_leased(Moment(100));
        reads.renew_lease();
        reads.renew_lease();
        assert_eq!(reads.round(), Round(1));
        reads.confirm(Round(1));
        reads.renew_lease();
        assert_eq!(reads.round(), Round(1), "no time has passed");
        reads.is_leased(Moment(105));
        reads.renew_lease();
        assert_eq!(reads.round(), Round(2));
    }
}
