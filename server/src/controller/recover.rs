//! Orders of a forced recovery.

use placement::{Action, HostId, MigrationId, ReplicaId, ShardId};

use super::Controller;
use crate::control::{FenceReplicaOrder, ReopenReplicaOrder};

impl Controller {
    pub(super) async fn fence(
        &self,
        shard: ShardId,
        host: HostId,
        replica: ReplicaId,
        migration: MigrationId,
    ) -> Result<(), String> {
        let order = FenceReplicaOrder {
            order: self.order(host),
            shard_id: shard.0,
            replica_id: replica.0,
            migration: migration.0,
        };
        let reply = self.control(host)?.fence_replica(order).await;
        self.obeyed(host, reply)?;
        self.look_at(host).await;
        Ok(())
    }

    pub(super) async fn reopen(&self, shard: ShardId, action: &Action) -> Result<(), String> {
        let Action::ReopenReplica {
            host,
            from,
            replica,
            generation,
            conf_ver,
            raft_term,
            migration,
        } = *action
        else {
            return Ok(());
        };
        let order = ReopenReplicaOrder {
            order: self.order(host),
            shard_id: shard.0,
            from_replica: from.0,
            replica_id: replica.0,
            r#gen: generation,
            conf_ver,
            raft_term,
            migration: migration.0,
        };
        let reply = self.control(host)?.reopen_replica(order).await;
        self.obeyed(host, reply)
    }

    /// What an order left behind shows at the next look, which need not wait for its turn.
    async fn look_at(&self, host: HostId) {
        if let Ok(address) = self.address(host) {
            self.observer.look(host, address).await;
        }
    }
}
