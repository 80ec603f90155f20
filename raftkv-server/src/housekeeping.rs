//! What a cluster does of itself: its leader proposes to remove what has expired.
//!
//! Nothing is proposed by any but the leader, nor while there is nothing to do. A proposal that is refused is made again at a later look, for
//! what it was to remove is still there.

use std::time::{Duration, SystemTime};

use raft_core::effect::RoleKind;
use raft_core::types::Index;
use raft_store_sqlite::{Operation, Outcome};
use tokio::time::{MissedTickBehavior, interval};
use tracing::debug;

use crate::store::{Failure, Store};

/// How often a node looks whether there is something to do: what has expired is removed about so late.
const LOOK: Duration = Duration::from_millis(500);

/// Keeps the house of a node for as long as it is polled.
pub(crate) async fn keep_house(store: Store) {
    let mut housekeeper = Housekeeper { store, applied: None, next_expiry_ms: None };
    let mut looks = interval(LOOK);
    looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        looks.tick().await;
        if let Err(failure) = housekeeper.look().await {
            debug!("housekeeping goes on later: {failure}");
        }
    }
}

struct Housekeeper {
    store: Store,
    /// What the node had applied when the state was looked into; a state that has not changed is not looked into again.
    applied: Option<Index>,
    /// Log time when there is something to remove.
    next_expiry_ms: Option<u64>,
}

impl Housekeeper {
    async fn look(&mut self) -> Result<(), Failure> {
        let status = self.store.status();
        if status.role != RoleKind::Leader {
            return Ok(());
        }
        if self.applied != Some(status.applied_index) {
            self.next_expiry_ms = self.store.next_expiry_ms().await?;
            self.applied = Some(status.applied_index);
        }
        self.expire().await
    }

    /// Removes what has expired, piece by piece.
    async fn expire(&self) -> Result<(), Failure> {
        if self.next_expiry_ms.is_none_or(|next| next > now_ms()) {
            return Ok(());
        }
        while let Outcome::Expired { more: true } = self.store.propose(Operation::Expire).await? {}
        Ok(())
    }
}

/// The wall clock, in milliseconds since 1970, by which the leader stamps commands.
fn now_ms() -> u64 {
    let since_1970 = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since_1970.as_millis()).unwrap_or(u64::MAX)
}
