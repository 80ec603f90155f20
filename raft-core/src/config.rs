//! A node's settings.

use crate::types::NodeId;

/// What a node is told once, at its start. Times are in ticks; the driver says how long one is.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Config {
    /// This node: from 1 to [`NodeId::LAST`].
    pub id: NodeId,
    /// The least time without a leader before an election. The actual one is drawn anew each time, from this up to twice
    /// this. At least twice `heartbeat_ticks`, at most 2^31 - 1.
    pub election_timeout_ticks: u32,
    /// The time between heartbeats. At least 1.
    pub heartbeat_ticks: u32,
    /// Where the randomness of the timeouts starts from, and the names of questions to the leader. Differs between nodes, so that they don't stand at
    /// once, and between starts, so that no late answer to a question of an earlier start is taken for one of this: draw it at random.
    pub seed: u64,
    /// How many bytes of entries an `AppendEntries` carries at the most; a single larger entry still goes, alone.
    pub max_append_bytes: u64,
    /// How many `AppendEntries` with entries may be under way to a follower. At least 1.
    pub max_inflight_messages: usize,
    /// How many bytes of entries may be under way to a follower, not counting the message that passes the limit.
    pub max_inflight_bytes: u64,
    /// Proposals are refused while more than this many bytes wait to be committed.
    pub max_uncommitted_bytes: u64,
    /// How many bytes of entries stay in memory once they are committed and durable; older ones are loaded when they are needed.
    pub max_cached_bytes: u64,
    /// How many bytes of entries the state machine is given ahead of what it has reported applied, not counting the entry that passes the limit.
    pub max_applying_bytes: u64,
    /// A snapshot is worth taking when this many entries were applied since the last.
    pub snapshot_after_entries: u64,
    /// How many entries before a snapshot stay in the log, for followers that are a little behind.
    pub kept_entries: u64,
    /// How long a leader may answer lease reads after a majority was asked, in the unit of [`Moment`](crate::types::Moment); none: not at all, and
    /// lease reads wait for a quorum. To be safe, it must be shorter than `election_timeout_ticks` ticks take on the fastest
    /// clock among the voters, measured on this node's, and must be there on all nodes or on none: those who have it don't vote within an election
    /// timeout of their start.
    pub lease: Option<u64>,
}

impl Config {
    /// Defaults for node `id`: elections after 15 to 30 ticks, a heartbeat every 5. With ticks of 10 ms these are the paper's
    /// 150 to 300 ms (§9.3).
    pub fn new(id: NodeId) -> Self {
        Self {
            id,
            election_timeout_ticks: 15,
            heartbeat_ticks: 5,
            seed: id.0,
            max_append_bytes: 1 << 20,
            max_inflight_messages: 64,
            max_inflight_bytes: 16 << 20,
            max_uncommitted_bytes: 64 << 20,
            max_cached_bytes: 64 << 20,
            max_applying_bytes: 16 << 20,
            snapshot_after_entries: 100_000,
            kept_entries: 10_000,
            lease: None,
        }
    }

    /// Checks the ranges.
    pub fn validate(&self) -> Result<(), ConfigError> {
        if !self.id.is_possible() {
            return Err(ConfigError::Id);
        }
        if self.heartbeat_ticks == 0 {
            return Err(ConfigError::Heartbeat);
        }
        if self.election_timeout_ticks < self.heartbeat_ticks.saturating_mul(2) {
            return Err(ConfigError::ElectionTimeout(self.election_timeout_ticks, self.heartbeat_ticks));
        }
        if self.election_timeout_ticks > u32::MAX / 2 {
            return Err(ConfigError::EndlessElectionTimeout(self.election_timeout_ticks));
        }
        if self.max_inflight_messages == 0 {
            return Err(ConfigError::Inflight);
        }
        if self.snapshot_after_entries == 0 {
            return Err(ConfigError::Snapshot);
        }
        Ok(())
    }
}

/// A setting out of its range.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ConfigError {
    /// The id is zero or too large.
    #[error("a node's id is from 1 to {}", NodeId::LAST.0)]
    Id,
    /// No time between heartbeats.
    #[error("heartbeat_ticks is 1 or more")]
    Heartbeat,
    /// The election timeout leaves no room for a lost heartbeat.
    #[error("election_timeout_ticks ({0}) must be at least twice heartbeat_ticks ({1})")]
    ElectionTimeout(u32, u32),
    /// The election timeout leaves no room to draw from.
    #[error("election_timeout_ticks ({0}) must be below 2^31")]
    EndlessElectionTimeout(u32),
    /// Nothing could be sent.
    #[error("max_inflight_messages is 1 or more")]
    Inflight,
    /// A snapshot would be taken for ever.
    #[error("snapshot_after_entries is 1 or more")]
    Snapshot,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn settings_out_of_range_are_refused() {
        let config = || Config::new(NodeId(1));
        let limits = [
            (Config::new(NodeId::NONE), Err(ConfigError::Id)),
            (Config::new(NodeId(NodeId::LAST.0 + 1)), Err(ConfigError::Id)),
            (Config::new(NodeId::LAST), Ok(())),
            (Config { heartbeat_ticks: 0, ..config() }, Err(ConfigError::Heartbeat)),
            (Config { election_timeout_ticks: 9, ..config() }, Err(ConfigError::ElectionTimeout(9, 5))),
            (Config { election_timeout_ticks: 10, ..config() }, Ok(())),
            (Config { max_inflight_messages: 0, ..config() }, Err(ConfigError::Inflight)),
            (Config { snapshot_after_entries: 0, ..config() }, Err(ConfigError::Snapshot)),
            (Config { election_timeout_ticks: (1 << 31) - 1, ..config() }, Ok(())),
            (Config { election_timeout_ticks: 1 << 31, ..config() }, Err(ConfigError::EndlessElectionTimeout(1 << 31))),
            (Config { max_append_bytes: 0, max_inflight_bytes: 0, max_uncommitted_bytes: 0, ..config() }, Ok(())),
            (config(), Ok(())),
        ];
        for (config, result) in limits {
            assert_eq!(config.validate(), result, "{config:?}");
        }
    }
}
