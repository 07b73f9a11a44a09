//! The replicas that a split makes: each host writes its own, from what its replica of the split shard holds.
//!
//! The new replica is durable before it votes or answers anyone, and the old one's checkpoints wait for that, so after a
//! crash the host either has the new replica or applies the split again. An empty replica of the new shard is made only
//! where the old one certainly cannot make it any more: it passed the split in a snapshot, or was destroyed.

use std::sync::Arc;
use std::time::Duration;

use placement::{KeyRange, ReplicaId, ShardId};
use raft::Group;
use storage::shard::{CreateShardError, Heir, ShardIdentity};
use tokio::sync::Notify;

use super::replicas::{LocalShard, ReplicaError};
use super::state::{Host, HostFailure};

/// How long the host that led the shard stands for the new one's election, again and again: the others' replicas come to be
/// at about the same time.
const CAMPAIGN: Duration = Duration::from_secs(2);
const CAMPAIGN_PAUSE: Duration = Duration::from_millis(20);

/// What splits ask of a host, and what it has done about it.
#[derive(Debug, Default)]
pub(crate) struct Successions {
    /// A shard here was split, and a replica of the new one is to be made.
    pub(crate) asked: Notify,
    /// One was made, or need not be.
    pub(crate) settled: Arc<Notify>,
}

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
            self.shared.successions.asked.notified().await;
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
                    self.shared.successions.settled.notify_waiters();
                }
            }
        }
    }

    async fn make_successor(&self, parent: &LocalShard, heir: Arc<Heir>) -> Result<(), ReplicaError> {
        let _changing = self.shared.changing.lock().await;
        let identity = self.shard_identity(parent.group.id(), parent.group.replica())?;
        let host = self.clone();
        let settling = {
            let heir = heir.clone();
            move || host.settle_heir(&heir, &identity)
        };
        let settled = self.blocking(settling).await?;
        let Some((shard, replica)) = settled else {
            return Ok(());
        };
        self.open_heir(shard, replica, heir).await?;
        tracing::info!(parent = %parent.group.id(), %shard, %replica, "made a replica of a new shard");
        if parent.group.is_leader()
            && let Some(made) = self.shard(shard)
        {
            self.spawn(campaign(made.group));
        }
        Ok(())
    }

    /// Writes the file of a new shard's replica, unless it was made before a crash, after which the split was applied
    /// again, and perhaps destroyed since: then there is nothing to be opened. Blocks.
    pub(super) fn settle_heir(
        &self,
        heir: &Heir,
        identity: &ShardIdentity,
    ) -> Result<Option<(ShardId, ReplicaId)>, ReplicaError> {
        let (shard, replica) = (ShardId(heir.shard_id), ReplicaId(heir.replica_id));
        let written = match self.has_tombstone(replica) {
            true => Err(CreateShardError::Exists),
            false => heir.write(
                &*self.shared.env.disk,
                &self.replica_file(shard, replica),
                identity,
                self.shard_options().cache_bytes,
                self.failpoints(),
            ),
        };
        match written {
            Err(CreateShardError::Exists) => {
                heir.renounce();
                Ok(None)
            }
            written => Ok(written.map(|()| Some((shard, replica)))?),
        }
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
