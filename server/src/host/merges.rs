//! What merges ask of a host: a replica that absorbs another finds it here, and one that was absorbed goes only once the
//! other can do without it.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use placement::{ReplicaId, ShardId};
use raft::{Env, MachineFault, Preparation, Urgency};
use storage::shard::{Absorb, ShardStore};
use tokio::sync::Notify;

use super::replicas::ReplicaError;
use super::state::{Host, HostFailure};

/// A replica that waits for the one that it is to absorb says so this often.
const COMPLAINT_PERIOD: Duration = Duration::from_secs(10);

/// The states of this host's replicas by shard, for those that absorb one of them. A cheap handle.
#[derive(Clone, Default)]
pub(crate) struct Neighbours {
    inner: Arc<Inner>,
}

#[derive(Default)]
struct Inner {
    stores: Mutex<BTreeMap<ShardId, ShardStore>>,
    /// One has come, was frozen, or was written down so.
    changed: Notify,
}

/// The replica that has absorbed another one.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Absorber {
    pub(crate) shard: ShardId,
    pub(crate) replica: ReplicaId,
    /// The version of the range that has it all.
    pub(crate) generation: u64,
}

impl Neighbours {
    fn stores(&self) -> MutexGuard<'_, BTreeMap<ShardId, ShardStore>> {
        self.inner.stores.lock().expect("no panic under this lock")
    }

    pub(super) fn come(&self, shard: ShardId, store: &ShardStore) {
        self.stores().insert(shard, store.clone());
        self.inner.changed.notify_waiters();
    }

    pub(super) fn go(&self, shard: ShardId) {
        self.stores().remove(&shard);
    }

    /// A replica here was frozen.
    pub(crate) fn frozen(&self) {
        self.inner.changed.notify_waiters();
    }

    /// The replica to absorb, once it is here and frozen, durably: after a crash nobody may be left who could tell it
    /// again that it is.
    async fn frozen_one(&self, absorb: &Absorb) -> ShardStore {
        loop {
            let mut changed = std::pin::pin!(self.inner.changed.notified());
            // Begun before the look: what happens in between is not missed.
            changed.as_mut().enable();
            let there = self.stores().get(&ShardId(absorb.shard)).cloned();
            if let Some(store) = there.filter(|store| store.is_durably_frozen_at(absorb.shard_gen)) {
                return store;
            }
            if tokio::time::timeout(COMPLAINT_PERIOD, changed).await.is_err() {
                tracing::warn!(
                    shard = absorb.shard,
                    "the replica to be absorbed is not here, or not frozen"
                );
            }
        }
    }

    /// Makes a replica ready for the entry that absorbs.
    pub(crate) fn preparation(&self, store: &ShardStore, env: &Env, absorb: Absorb) -> Preparation {
        let (neighbours, store, env) = (self.clone(), store.clone(), env.clone());
        Box::pin(async move {
            let other = neighbours.frozen_one(&absorb).await;
            let prepared = env.blocking(move || store.prepare_absorb(&absorb, &other)).await;
            prepared.map_err(|e| MachineFault::Storage(e.to_string()))
        })
    }
}

impl Host {
    /// Makes durable that replicas are frozen.
    pub(crate) async fn keep_frozen(self) {
        loop {
            let neighbours = self.shared.neighbours.clone();
            let mut changed = std::pin::pin!(neighbours.inner.changed.notified());
            changed.as_mut().enable();
            for local in self.shards() {
                if !local.store.must_keep_frozen() {
                    continue;
                }
                match local.group.checkpoint(Urgency::Awaited).await {
                    Ok(()) => neighbours.frozen(),
                    Err(e) if e.is_harmless() => {}
                    Err(e) => {
                        return self.fail(HostFailure::Replica {
                            shard: local.group.id(),
                            reason: e.to_string(),
                        });
                    }
                }
            }
            changed.await;
        }
    }

    /// Destroys a replica that was absorbed, once the one that has absorbed it needs it no more: not after a crash, and
    /// not for a member that would be sent the log.
    pub(crate) async fn destroy_absorbed(
        &self,
        shard: ShardId,
        replica: ReplicaId,
        by: Absorber,
    ) -> Result<(), ReplicaError> {
        self.outlive(by).await?;
        self.destroy_replica(shard, replica).await
    }

    async fn outlive(&self, by: Absorber) -> Result<(), ReplicaError> {
        // Whatever is on the disk has been opened, then.
        drop(self.shared.changing.lock().await);
        if self.has_tombstone(by.replica) {
            return Ok(());
        }
        let local = self.shard(by.shard);
        let local = local.filter(|local| local.group.replica() == by.replica);
        let local = local.ok_or(ReplicaError::InUse(by.replica))?;
        if local.store.generation() < by.generation {
            return Err(ReplicaError::InUse(by.replica));
        }
        local.group.checkpoint(Urgency::Awaited).await?;
        let left_behind = local.group.leave_log_behind().await;
        left_behind.map_err(|e| ReplicaError::Checkpoint(MachineFault::Storage(e.to_string())))
    }
}
