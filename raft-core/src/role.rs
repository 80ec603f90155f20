//! What a node is in its term: each role holds only its own data, and answers every message.

pub mod candidate;
pub mod follower;
pub mod leader;

use crate::role::candidate::Candidate;
use crate::role::follower::Follower;
use crate::role::leader::Leader;

/// A node's role (§5.1).
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Role {
    /// Follows a leader, or waits for one.
    Follower(Follower),
    /// Stands for election, or asks whether it should.
    Candidate(Candidate),
    /// Leads the term.
    Leader(Leader),
}
