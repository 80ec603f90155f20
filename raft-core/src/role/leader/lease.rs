//! How long a leader may answer reads without asking (thesis §6.4.1).

use crate::types::Moment;

/// The time for which a majority has promised not to elect another leader. Rests on clocks, see [`Config::lease`](crate::config::Config::lease).
///
/// The leader has no clock, only the times that it is told. The latest of these when a round begins is no later than the round, and a follower
/// that echoes the round makes its promise after that: so a lease that is counted from there ends before the promises do.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Lease {
    /// How long a confirmed round is good for; none without leases, or once given up.
    length: Option<u64>,
    /// The latest time that was told.
    now: Option<Moment>,
    /// The time that was known when the latest round began.
    round_began: Option<Moment>,
    /// The first moment that no confirmed round covers.
    end: Option<Moment>,
}

impl Lease {
    /// No lease yet; each may last for `length`.
    pub fn new(length: Option<u64>) -> Self {
        Self { length, now: None, round_began: None, end: None }
    }

    /// Notes the time, which never falls. True if the lease covers it.
    pub fn covers(&mut self, now: Moment) -> bool {
        self.now = self.now.max(Some(now));
        self.length.is_some() && self.now < self.end
    }

    /// Whether another round would give a longer lease than the latest that was begun.
    pub fn can_grow(&self) -> bool {
        self.length.is_some() && self.now > self.round_began
    }

    /// A round begins.
    pub fn begin_round(&mut self) {
        self.round_began = self.now;
    }

    /// The latest round is confirmed by a majority.
    pub fn confirm_round(&mut self) {
        if let (Some(length), Some(Moment(began))) = (self.length, self.round_began) {
            self.end = self.end.max(Some(Moment(began.saturating_add(length))));
        }
    }

    /// The voters change, and a round begins. The promises of those before need not hold back those to come, who must make their own.
    pub fn begin_anew(&mut self) {
        self.end = None;
        self.begin_round();
    }

    /// Does without, from now on: another may be elected in spite of all promises.
    pub fn give_up(&mut self) {
        self.length = None;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn confirmed_at(now: u64) -> Lease {
        let mut lease = Lease::new(Some(10));
        assert!(!lease.covers(Moment(now)), "nobody has promised anything");
        lease.begin_round();
        lease.confirm_round();
        lease
    }

    #[test]
    fn a_lease_begins_with_its_round_and_ends_in_time() {
        let mut lease = confirmed_at(100);
        assert!(lease.covers(Moment(109)));
        assert!(!lease.covers(Moment(110)));
    }

    #[test]
    fn a_lease_ends_when_the_voters_change() {
        let mut lease = confirmed_at(100);
        lease.begin_anew();
        assert!(!lease.covers(Moment(101)));
        lease.confirm_round();
        assert!(lease.covers(Moment(109)));
    }

    #[test]
    fn a_round_under_way_gives_no_lease() {
        let mut lease = Lease::new(Some(10));
        lease.covers(Moment(100));
        lease.begin_round();
        assert!(!lease.covers(Moment(101)));
        assert!(lease.can_grow(), "time has passed since the round began");
        lease.confirm_round();
        assert!(lease.covers(Moment(109)) && !lease.covers(Moment(110)), "counted from the round's begin");
    }

    #[test]
    fn time_never_falls() {
        let mut lease = confirmed_at(100);
        assert!(!lease.covers(Moment(110)));
        assert!(!lease.covers(Moment(105)), "it was later than that already");
    }

    #[test]
    fn a_round_that_began_at_no_known_time_gives_no_lease() {
        let mut lease = Lease::new(Some(10));
        lease.begin_round();
        lease.confirm_round();
        assert!(!lease.covers(Moment(0)));
    }

    #[test]
    fn a_lease_that_is_given_up_does_not_come_back() {
        let mut lease = confirmed_at(100);
        lease.give_up();
        assert!(!lease.covers(Moment(101)) && !lease.can_grow());
        lease.begin_round();
        lease.confirm_round();
        assert!(!lease.covers(Moment(102)));
    }

    #[test]
    fn without_leases_nothing_is_covered() {
        let mut lease = Lease::new(None);
        lease.covers(Moment(1));
        lease.begin_round();
        lease.confirm_round();
        assert!(!lease.covers(Moment(1)) && !lease.can_grow());
        let mut endless = Lease::new(Some(u64::MAX));
        endless.covers(Moment(1));
        endless.begin_round();
        endless.confirm_round();
        assert!(endless.covers(Moment(u64::MAX - 1)));
    }
}
