//! Upkeep of the data folder: checkpoints, spread over time, and log space given back.

use std::collections::BTreeMap;
use std::time::Duration;

use placement::ShardId;
use raft::{Group, Urgency};
use storage::shard::{RewriteError, RewriteLimits};
use tokio::time::Instant;

use super::state::{Host, HostFailure};
use crate::config::CheckpointConfig;

/// How often the host looks for something to do.
const LOOK_PAUSE: Duration = Duration::from_millis(200);
/// How often shard files are looked at that may be mostly empty.
const REWRITE_PAUSE: Duration = Duration::from_secs(30);
/// The same while there is no space left.
const REWRITE_PAUSE_SHORT: Duration = Duration::from_secs(2);
/// What is rewritten then: nothing that is removed gives its space back otherwise.
const REWRITE_SHORT: RewriteLimits = RewriteLimits {
    file_bytes_min: 1 << 20,
    live_percent_min: 75,
};

/// A checkpoint is left to the background for as long as that keeps up: what is unsaved takes memory, and is read again at
/// a start.
fn urgency(config: &CheckpointConfig, late: Duration, dirty_bytes: u64) -> Urgency {
    let is_behind = late > Duration::from_millis(config.interval_ms) || dirty_bytes >= config.dirty_bytes_max;
    match is_behind {
        true => Urgency::Awaited,
        false => Urgency::Background,
    }
}

impl Host {
    /// Checkpoints each replica that changed, one at a time: at its interval, or sooner when much is unsaved. A replica
    /// whose disk failed stops the host: its log could never be purged again, and no new replica be made from it.
    pub(crate) async fn keep_checkpoints(self) {
        let config = self.config().checkpoint.clone();
        let interval = Duration::from_millis(config.interval_ms);
        // Measured by the runtime's clock: after a jump back of the wall clock nothing would be due for as long.
        let mut due_at: BTreeMap<ShardId, Instant> = BTreeMap::new();
        loop {
            tokio::time::sleep(LOOK_PAUSE).await;
            for group in self.groups() {
                if let Some(reason) = group.failure() {
                    return self.replica_failed(group.id(), reason);
                }
                let now = Instant::now();
                let due = *due_at
                    .entry(group.id())
                    .or_insert_with(|| now + self.stagger(config.interval_ms));
                let dirty = group.dirty_bytes();
                if dirty == 0 || (now < due && dirty < config.dirty_bytes_max) {
                    continue;
                }
                due_at.insert(group.id(), now + interval);
                if let Some(local) = self.shard(group.id()) {
                    local.store.keep_written_rows(group.is_leader());
                }
                let urgency = urgency(&config, now.saturating_duration_since(due), dirty);
                match group.checkpoint(urgency).await {
                    Err(e) if !e.is_harmless() => return self.replica_failed(group.id(), e.to_string()),
                    Ok(()) | Err(_) => {}
                }
            }
        }
    }

    fn replica_failed(&self, shard: ShardId, reason: String) {
        self.fail(HostFailure::Replica { shard, reason });
    }

    /// Rewrites shard files of which little is live.
    pub(crate) async fn keep_files_dense(self) {
        let mut waited = Duration::ZERO;
        loop {
            tokio::time::sleep(REWRITE_PAUSE_SHORT).await;
            waited += REWRITE_PAUSE_SHORT;
            let is_short = self.space().own().1.is_some();
            if !is_short && waited < REWRITE_PAUSE {
                continue;
            }
            waited = Duration::ZERO;
            for local in self.shards() {
                let (shard, store) = (local.group.id(), local.store.clone());
                let rewriting = self.background(move || match is_short {
                    true => store.rewrite_if_sparser(REWRITE_SHORT),
                    false => store.rewrite_if_sparse(),
                });
                match rewriting.await {
                    Ok(Some(report)) => tracing::info!(%shard, ?report, "rewrote a sparse shard file"),
                    Ok(None) | Err(RewriteError::Busy(_)) => {}
                    Err(e) => tracing::error!(%shard, error = %e, "a sparse shard file was not rewritten"),
                }
            }
        }
    }

    /// Lets groups that hold the oldest log segments give them up.
    pub(crate) async fn keep_log_short(self) {
        loop {
            tokio::time::sleep(LOOK_PAUSE * 10).await;
            let pinning = self.shared.log.pinning_groups();
            for group in self.groups() {
                if !pinning.iter().any(|pin| pin.0 == group.replica().0) {
                    continue;
                }
                if let Err(e) = group.release_log().await {
                    tracing::warn!(shard = %group.id(), error = %e, "log space was not given back");
                }
            }
        }
    }

    /// The first checkpoint of each shard falls at a random time of the interval, so that they do not meet.
    fn stagger(&self, interval_ms: u64) -> Duration {
        Duration::from_millis(self.shared.env.raft.context.random_below(interval_ms.max(1)))
    }

    pub(crate) fn groups(&self) -> Vec<Group> {
        let shards = self.shards().into_iter().map(|local| local.group);
        shards.chain(self.placement().map(|local| local.group)).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn checkpoints_are_left_to_the_background_until_they_fall_behind() {
        let config = CheckpointConfig::default();
        let interval = Duration::from_millis(config.interval_ms);
        let urgency = |late, dirty_bytes| urgency(&config, late, dirty_bytes);
        assert_eq!(urgency(Duration::ZERO, 1), Urgency::Background);
        assert_eq!(urgency(interval, config.dirty_bytes_max - 1), Urgency::Background);
        assert_eq!(urgency(interval + Duration::from_millis(1), 1), Urgency::Awaited);
        assert_eq!(urgency(Duration::ZERO, config.dirty_bytes_max), Urgency::Awaited);
    }
}
