//! What the snapshots of whole shards may take from this host: as it is configured, and as the cluster says.

use placement::ReplicaId;
use raft::{SnapshotLimits, SnapshotRates};

use super::state::Host;
use crate::control::ObserveRequest;

impl Host {
    /// As configured.
    pub(super) fn snapshot_limits(&self) -> SnapshotLimits {
        let limits = &self.config().snapshot;
        SnapshotLimits {
            sends_max: limits.sends_max as usize,
            receives_max: limits.receives_max as usize,
            rates: SnapshotRates {
                bytes_per_s: limits.bytes_per_s,
                move_bytes_per_s: limits.move_bytes_per_s,
            },
        }
    }

    /// Sends snapshots at the cluster's rates, or at the configured ones, and holds none of `repairs` to that of moves.
    pub(crate) fn follow_snapshot_pace(&self, of_cluster: &ObserveRequest) {
        let Some(raft) = self.raft() else {
            return;
        };
        let own = self.snapshot_limits().rates;
        let rates = SnapshotRates {
            bytes_per_s: of_cluster.snapshot_bytes_per_s.unwrap_or(own.bytes_per_s),
            move_bytes_per_s: of_cluster.move_bytes_per_s.unwrap_or(own.move_bytes_per_s),
        };
        raft.pace_snapshots(rates, of_cluster.repairs.iter().copied().map(ReplicaId));
    }
}
