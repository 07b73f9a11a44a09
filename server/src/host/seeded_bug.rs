//! Seeded bug B20, the half that takes more than a line: a host that lost its folder makes its replicas anew, empty
//! and under the ids they had, and votes with them as if it had never voted or acknowledged anything.

use client::proto::ShardsRequest;
use client::proto::admin_client::AdminClient;
use placement::{KeyRange, ReplicaId, ShardId};

use super::state::Host;

impl Host {
    /// Makes every replica that the placement group believes to be here.
    pub(super) async fn recreate_lost_replicas(&self) {
        if !storage::seeded_bug::is_on("B20") {
            return;
        }
        for seed in &self.config().join {
            let Ok(channel) = self.channels().channel(seed) else {
                continue;
            };
            let asked = AdminClient::new(channel).shards(ShardsRequest::default()).await;
            let shards = asked.map(|reply| reply.into_inner().shards).unwrap_or_default();
            for shard in shards {
                let range = KeyRange {
                    start: shard.start.to_vec(),
                    end: (!shard.end.is_empty()).then(|| shard.end.to_vec()),
                };
                let mut replicas = shard.replicas.iter();
                let Some(lost) = replicas.find(|replica| replica.host_id == self.id().0) else {
                    continue;
                };
                let (id, replica) = (ShardId(shard.shard_id), ReplicaId(lost.replica_id));
                if let Err(error) = self.create_replica(id, replica, range, shard.r#gen).await {
                    tracing::warn!(shard = %id, %replica, %error, "a lost replica was not made anew");
                }
            }
        }
    }
}
