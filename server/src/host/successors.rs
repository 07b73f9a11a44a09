//! The replicas that a split makes: each host writes its own, from what its replica of the split shard holds.
//!
//! The new replica is durable before it votes or answers anyone, and the old one's checkpoints wait for that, so after a
//! crash the host either has the new replica or applies the split again. An empty replica of the new shard is made only
//! where the old one certainly cannot make it any more: it passed the split in a snapshot, or was destroyed.

use std::sync::Arc;
use std::time::Duration;

use placement::{KeyRange, ReplicaId, ShardId};
use raft::Group;
use storage::shard::{CreateShardError, Heir};

use super::folder::FolderError;
use super::replicas::{LocalShard, ReplicaError};
use super::state::{Host, HostFailure};

/// How long the host that led the shard stands for the new one's election, again and again: the others' replicas come to be
/// at about the same time.
const CAMPAIGN: Duration = Duration::from_secs(2);
const CAMPAIGN_PAUSE: Duration = Duration::from_millis(20);

/// Which replica a new one takes over from.
pub(crate) struct Predecessor {
    pub(crate) shard: ShardId,
    pub(crate) replica: ReplicaId,
    /// The version of its range after the split.
    pub(crate) generation: u64,
}

impl Host {
    /// Makes the replicas of new shards, as splits ask for them.
    pub(crate) async fn make_successors(self) {
        loop {
            self.shared.heirs.notified().await;
            for local in self.shards() {
                for heir in local.store.heirs() {
                    let (shard, replica) = (ShardId(heir.shard_id), ReplicaId(heir.replica_id));
                    if let Err(e) = self.make_successor(&local, heir).await {
                        tracing::error!(%shard, %replica, error = %e, "a new shard's replica was not made");
                        return self.fail(HostFailure::Replica {
                            shard,
                            reason: e.to_string(),
                        });
                    }
                }
            }
        }
    }

    async fn make_successor(&self, parent: &LocalShard, heir: Arc<Heir>) -> Result<(), ReplicaError> {
        let (shard, replica) = (ShardId(heir.shard_id), ReplicaId(heir.replica_id));
        let _changing = self.shared.changing.lock().await;
        // Made before a crash, after which the split was applied again; destroyed since, perhaps.
        if self.has_tombstone(replica) || self.has_file(shard, replica)? {
            heir.renounce();
            return Ok(());
        }
        let identity = self.shard_identity(shard, replica)?;
        let (disk, path) = (self.shared.env.disk.clone(), self.replica_file(shard, replica));
        let (cache_bytes, points) = (self.shard_options().cache_bytes, self.failpoints().clone());
        let written = self
            .blocking(move || heir.write(&*disk, &path, &identity, cache_bytes, &points))
            .await;
        match written {
            Ok(()) | Err(CreateShardError::Exists) => {}
            Err(e) => return Err(e.into()),
        }
        self.open_shard(shard, replica).await?;
        tracing::info!(parent = %parent.group.id(), %shard, %replica, "made a replica of a new shard");
        if parent.group.is_leader()
            && let Some(made) = self.shard(shard)
        {
            self.spawn(campaign(made.group));
        }
        Ok(())
    }

    fn has_file(&self, shard: ShardId, replica: ReplicaId) -> Result<bool, FolderError> {
        let path = self.replica_file(shard, replica);
        let exists = self.shared.env.disk.exists(&path);
        exists.map_err(|source| FolderError::Io { path, source })
    }

    /// Makes an empty replica of a new shard, where its predecessor cannot make it any more.
    pub(crate) async fn create_successor(
        &self,
        shard: ShardId,
        replica: ReplicaId,
        range: KeyRange,
        generation: u64,
        of: Predecessor,
    ) -> Result<(), ReplicaError> {
        let cannot_come = match self.shard(of.shard) {
            Some(old) if old.group.replica() == of.replica => {
                old.store.generation() >= of.generation && old.store.heirs().is_empty()
            }
            _ => self.has_tombstone(of.replica),
        };
        match cannot_come {
            true => self.create_replica(shard, replica, range, generation).await,
            false => Err(ReplicaError::ToCome(replica)),
        }
    }
}

/// Stands for election until the group has a leader: at the first moment, most others are not there yet.
async fn campaign(group: Group) {
    let campaigning = async {
        while group.leader().is_none() {
            group.campaign().await;
            let _leader = group.wait_for_leader(CAMPAIGN_PAUSE).await;
        }
    };
    drop(tokio::time::timeout(CAMPAIGN, campaigning).await);
}
