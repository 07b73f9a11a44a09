//! A group's timing and limits, and what openraft must be told to be safe here.

use std::sync::Arc;
use std::time::Duration;

use openraft::{Config, SnapshotPolicy};
use storage::seeded_bug;

use crate::transfers::SnapshotLimits;

/// Timing and limits of every group on a host.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RaftOptions {
    /// How often a leader speaks when it has nothing to say.
    pub heartbeat: Duration,
    /// The shortest election timeout.
    pub election_min: Duration,
    /// The longest election timeout; also the leader's lease.
    pub election_max: Duration,
    /// A snapshot is taken, and the log purged, after this many entries.
    pub snapshot_entries: u64,
    /// Entries kept in the log behind a snapshot, for followers that lag a little.
    pub keep_entries: u64,
    /// The largest number of entries in one append.
    pub append_entries_max: u64,
    /// A snapshot transfer is given up when it takes longer.
    pub snapshot_timeout: Duration,
    /// Requests queued in front of one group; when full, callers wait.
    pub queue_max: u64,
    /// What snapshots may take from a host.
    pub snapshots: SnapshotLimits,
}

impl Default for RaftOptions {
    fn default() -> Self {
        Self {
            heartbeat: Duration::from_millis(250),
            election_min: Duration::from_millis(1000),
            election_max: Duration::from_millis(1500),
            snapshot_entries: 10_000,
            keep_entries: 10_000,
            append_entries_max: 512,
            snapshot_timeout: Duration::from_secs(600),
            queue_max: 4096,
            snapshots: SnapshotLimits::default(),
        }
    }
}

/// Why a set of options is refused.
#[derive(Debug, thiserror::Error)]
#[error("raft options: {0}")]
pub struct RaftOptionsError(String);

impl RaftOptions {
    /// openraft's configuration for these options.
    pub(crate) fn to_openraft(&self, group: u64) -> Result<Arc<Config>, RaftOptionsError> {
        let millis = |duration: Duration| duration.as_millis() as u64;
        let config = Config {
            cluster_name: format!("group {group}"),
            heartbeat_interval: millis(self.heartbeat),
            // An acknowledged append is as good as a heartbeat.
            heartbeat_min_interval: Some(millis(self.heartbeat)),
            election_timeout_min: millis(self.election_min),
            election_timeout_max: millis(self.election_max),
            install_snapshot_timeout: millis(self.snapshot_timeout),
            max_payload_entries: self.append_entries_max,
            snapshot_policy: SnapshotPolicy::LogsSinceLast(self.snapshot_entries),
            max_in_snapshot_log_to_keep: self.keep_entries,
            replication_lag_threshold: self.snapshot_entries * 2,
            api_channel_size: Some(self.queue_max),
            notification_channel_size: Some(self.queue_max),
            // A host that restarts must not resume as leader with a state it has not re-applied yet.
            enable_leader_restore: Some(false),
            // Seeded bug B25: a replica that was cut off comes back with a higher term and deposes the leader.
            enable_pre_vote: Some(!seeded_bug::is_on("B25")),
            // A follower whose log shrank has lost acknowledged entries: never replicate over that.
            allow_log_reversion: Some(false),
            // Without it a leader that lost its quorum keeps refusing proposals and never campaigns again.
            // Of times that are recorded for nobody.
            log_stage_capacity: Some(1),
            quorum_loss_probe_interval: Some(millis(self.election_max) * 2),
            ..Config::default()
        };
        let config = config.validate().map_err(|e| RaftOptionsError(e.to_string()))?;
        Ok(Arc::new(config))
    }
}
