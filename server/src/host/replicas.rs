//! The replicas on this host: opened at start, created and destroyed by order.
//!
//! Destroying is tombstone first, durably, then the log and the file: a crash in between leaves a tombstone, and what
//! is left over is deleted at the next start. Creating refuses a replica that has a tombstone, so an order that was
//! late or repeated brings nothing back.

use std::io;
use std::sync::Arc;

use bytes::Bytes;
use placement::{KeyRange, ReplicaId, ShardId};
use raft::{Group, Machine, MachineFault, OpenGroupError, StartGroup, Urgency};
use storage::shard::{
    CreateShardError, Heir, Limits, OpenShardError, ShardIdentity, ShardOptions, ShardStore,
};

use super::folder::{FolderError, Orders};
use super::leases::LeaseClock;
use super::state::{Host, LocalPlacement};
use crate::machine::{KvMachine, OpenPlacementError, PlacementMachine};
use crate::service::Lanes;
use crate::watch::Feed;

/// Why a replica cannot be had here.
#[derive(Debug, thiserror::Error)]
pub enum ReplicaError {
    /// It was destroyed here.
    #[error("replica {0} was destroyed on this host")]
    Destroyed(ReplicaId),
    /// The replica of the shard that was split may still make it.
    #[error("replica {0} is to come from the shard that was split")]
    ToCome(ReplicaId),
    /// What it holds may still be needed by the replica that absorbs it.
    #[error("replica {0} may still need what it is to absorb, or is not here")]
    InUse(ReplicaId),
    /// It was taken out of its group for good.
    #[error("replica {0} was fenced on this host")]
    Fenced(ReplicaId),
    /// The host belongs to no cluster yet.
    #[error("this host belongs to no cluster")]
    NoCluster,
    /// Its state cannot be used.
    #[error(transparent)]
    Open(#[from] OpenShardError),
    /// Its state cannot be made.
    #[error(transparent)]
    Create(#[from] CreateShardError),
    /// The placement state cannot be used.
    #[error(transparent)]
    Placement(#[from] OpenPlacementError),
    /// Its group does not start.
    #[error(transparent)]
    Group(#[from] OpenGroupError),
    /// The data folder fails.
    #[error(transparent)]
    Folder(#[from] FolderError),
    /// The log fails.
    #[error(transparent)]
    Log(#[from] raft::DestroyError),
    /// The placement state cannot be written.
    #[error("the placement state cannot be written: {0}")]
    Checkpoint(#[from] MachineFault),
}

/// A shard's replica on this host.
#[derive(Clone)]
pub struct LocalShard {
    /// Its group.
    pub group: Group,
    /// Its state.
    pub store: ShardStore,
    /// What clients wait for here.
    pub(crate) lanes: Arc<Lanes>,
    /// Who watches it.
    pub(crate) feed: Feed,
    /// How old its leases are.
    pub(crate) lease_clock: Arc<LeaseClock>,
}

impl Host {
    /// Opens every replica of the data folder. Orders are served meanwhile; those that change replicas wait.
    pub(crate) async fn open_replicas(&self) -> Result<(), ReplicaError> {
        let _changing = self.shared.changing.lock().await;
        let Orders {
            tombstones, fenced, ..
        } = self
            .shared
            .orders
            .lock()
            .expect("no panic under this lock")
            .clone();
        let raft = self.raft().ok_or(ReplicaError::NoCluster)?;
        tombstones
            .iter()
            .for_each(|replica| raft.bury(ReplicaId(*replica)));
        for (shard, replica) in self.shared.folder.replicas()? {
            if tombstones.contains(&replica.0) {
                // A crash came between the tombstone and the deletion.
                self.delete_replica(shard, replica).await?;
            } else if fenced.contains_key(&replica.0) {
                // It never votes again; its data waits for a recovery.
            } else if shard == ShardId::PLACEMENT {
                self.open_placement(replica).await?;
            } else {
                self.open_shard(shard, replica).await?;
            }
        }
        Ok(())
    }

    /// Makes a replica, or finds it made already.
    pub(crate) async fn create_replica(
        &self,
        shard: ShardId,
        replica: ReplicaId,
        range: KeyRange,
        generation: u64,
    ) -> Result<(), ReplicaError> {
        let _changing = self.shared.changing.lock().await;
        if self.has_tombstone(replica) {
            return Err(ReplicaError::Destroyed(replica));
        }
        if self.fenced_by(replica).is_some() {
            return Err(ReplicaError::Fenced(replica));
        }
        let raft = self.raft().ok_or(ReplicaError::NoCluster)?;
        if raft.group(shard).is_some_and(|open| open.replica() == replica) {
            return Ok(());
        }
        if shard == ShardId::PLACEMENT {
            return self.open_placement(replica).await;
        }
        let identity = ShardIdentity {
            start: range.start.into(),
            end: range.end.map(Bytes::from),
            r#gen: generation,
            ..self.shard_identity(shard, replica)?
        };
        let (disk, path) = (self.shared.env.disk.clone(), self.replica_file(shard, replica));
        let options = self.shard_options();
        let made = self
            .shared
            .env
            .raft
            .blocking(move || ShardStore::create(disk, &path, identity, options))
            .await;
        match made {
            Ok(store) => self.start_shard(shard, replica, store).await,
            // Made before a crash, and not in use: go on with it.
            Err(CreateShardError::Exists) => self.open_shard(shard, replica).await,
            Err(e) => Err(e.into()),
        }
    }

    /// Destroys a replica for good, even one that never was here.
    pub(crate) async fn destroy_replica(
        &self,
        shard: ShardId,
        replica: ReplicaId,
    ) -> Result<(), ReplicaError> {
        let _changing = self.shared.changing.lock().await;
        self.write_tombstone(replica)?;
        self.pass_failpoint(
            storage::failpoint!(self.failpoints(), "replica.destroy.after_tombstone"),
            shard,
            replica,
        )?;
        self.delete_replica(shard, replica).await
    }

    async fn delete_replica(&self, shard: ShardId, replica: ReplicaId) -> Result<(), ReplicaError> {
        let raft = self.raft().ok_or(ReplicaError::NoCluster)?;
        if shard == ShardId::PLACEMENT {
            if self
                .placement()
                .is_some_and(|local| local.group.replica() == replica)
            {
                self.set_placement(None);
            }
        } else {
            let mut shards = self.shared.shards.write().expect("no panic under this lock");
            if shards
                .get(&shard)
                .is_some_and(|local| local.group.replica() == replica)
            {
                shards.remove(&shard);
                self.shared.neighbours.go(shard);
            }
        }
        raft.destroy_replica(shard, replica).await?;
        Ok(self
            .shared
            .folder
            .remove_replica(shard, replica, self.failpoints())?)
    }

    pub(super) fn pass_failpoint(
        &self,
        passed: io::Result<()>,
        shard: ShardId,
        replica: ReplicaId,
    ) -> Result<(), FolderError> {
        passed.map_err(|source| FolderError::Io {
            path: self.replica_file(shard, replica),
            source,
        })
    }

    pub(super) fn write_tombstone(&self, replica: ReplicaId) -> Result<(), FolderError> {
        let mut orders = self.shared.orders.lock().expect("no panic under this lock");
        if orders.tombstones.contains(&replica.0) {
            return Ok(());
        }
        let mut changed = orders.clone();
        changed.tombstones.insert(replica.0);
        changed.fenced.remove(&replica.0);
        self.shared.folder.write_orders(&changed)?;
        *orders = changed;
        Ok(())
    }

    pub(crate) fn has_tombstone(&self, replica: ReplicaId) -> bool {
        self.shared
            .orders
            .lock()
            .expect("no panic under this lock")
            .tombstones
            .contains(&replica.0)
    }

    pub(crate) async fn open_placement(&self, replica: ReplicaId) -> Result<(), ReplicaError> {
        let path = self.replica_file(ShardId::PLACEMENT, replica);
        let disk = self.shared.env.disk.clone();
        let is_new = !disk.exists(&path).map_err(|source| FolderError::Io {
            path: path.clone(),
            source,
        })?;
        let machine = self
            .shared
            .env
            .raft
            .blocking(move || PlacementMachine::open(disk, &path))
            .await?;
        let group = self
            .start_group(ShardId::PLACEMENT, replica, Arc::new(machine.clone()))
            .await?;
        // The file marks the replica as present: without one a restart would not find it, and what it has promised as a
        // voter would be forgotten.
        if is_new && let Err(e) = self.first_checkpoint(&group).await {
            self.raft()
                .ok_or(ReplicaError::NoCluster)?
                .close_group(ShardId::PLACEMENT)
                .await;
            return Err(e);
        }
        self.set_placement(Some(LocalPlacement { group, machine }));
        Ok(())
    }

    async fn first_checkpoint(&self, group: &Group) -> Result<(), ReplicaError> {
        self.pass_failpoint(
            storage::failpoint!(self.failpoints(), "placement.create.before_checkpoint"),
            ShardId::PLACEMENT,
            group.replica(),
        )?;
        Ok(group.checkpoint(Urgency::Awaited).await?)
    }

    pub(super) async fn open_shard(&self, shard: ShardId, replica: ReplicaId) -> Result<(), ReplicaError> {
        let identity = self.shard_identity(shard, replica)?;
        let (disk, path) = (self.shared.env.disk.clone(), self.replica_file(shard, replica));
        let options = self.shard_options();
        let store = self
            .shared
            .env
            .raft
            .blocking(move || ShardStore::open(disk, &path, &identity, options))
            .await?;
        self.start_shard(shard, replica, store).await
    }

    /// Opens a replica that was just made by a split, from what the old replica handed over.
    pub(super) async fn open_heir(
        &self,
        shard: ShardId,
        replica: ReplicaId,
        heir: Arc<Heir>,
    ) -> Result<(), ReplicaError> {
        let identity = self.shard_identity(shard, replica)?;
        let (disk, path) = (self.shared.env.disk.clone(), self.replica_file(shard, replica));
        let options = self.shard_options();
        let opening = move || ShardStore::open_heir(disk, &path, &identity, options, &heir);
        let store = self.shared.env.raft.blocking(opening).await?;
        self.start_shard(shard, replica, store).await
    }

    async fn start_shard(
        &self,
        shard: ShardId,
        replica: ReplicaId,
        store: ShardStore,
    ) -> Result<(), ReplicaError> {
        let feed = Feed::new(store.revision());
        self.shared.neighbours.come(shard, &store);
        let machine = Arc::new(self.machine(&store, feed.clone()));
        let group = self.start_group(shard, replica, machine).await?;
        let local = LocalShard {
            group,
            store,
            lanes: Arc::default(),
            feed,
            lease_clock: Arc::default(),
        };
        self.shared
            .shards
            .write()
            .expect("no panic under this lock")
            .insert(shard, local);
        // What it applied before it was listed may have split it.
        self.shared.successions.asked.notify_one();
        self.shared.neighbours.frozen();
        Ok(())
    }

    /// What drives a replica's state.
    pub(super) fn machine(&self, store: &ShardStore, feed: Feed) -> KvMachine {
        let shared = &self.shared;
        KvMachine::new(
            store.clone(),
            feed,
            shared.successions.clone(),
            shared.neighbours.clone(),
            shared.env.raft.clone(),
            shared.metrics.applied_entries.clone(),
        )
    }

    async fn start_group(
        &self,
        group: ShardId,
        replica: ReplicaId,
        machine: Arc<dyn Machine>,
    ) -> Result<Group, ReplicaError> {
        let raft = self.raft().ok_or(ReplicaError::NoCluster)?;
        Ok(raft
            .open_group(StartGroup {
                group,
                replica,
                machine,
            })
            .await?)
    }

    pub(super) fn shard_identity(
        &self,
        shard: ShardId,
        replica: ReplicaId,
    ) -> Result<ShardIdentity, ReplicaError> {
        Ok(ShardIdentity {
            cluster_id: self.cluster_id().ok_or(ReplicaError::NoCluster)?,
            shard_id: shard.0,
            replica_id: replica.0,
            start: Bytes::new(),
            end: None,
            r#gen: 0,
        })
    }

    pub(super) fn shard_options(&self) -> ShardOptions {
        let limits = &self.config().limits;
        let limits = Limits {
            key_bytes_max: limits.key_bytes_max,
            value_bytes_max: limits.value_bytes_max,
            transaction_actions_max: limits.transaction_actions_max,
            transaction_pairs_max: limits.transaction_pairs_max,
            transaction_bytes_max: limits.transaction_bytes_max,
            leases_max: limits.leases_max,
            lease_keys_max: limits.lease_keys_max,
            retention_ms: limits.retention_ms,
            ..Limits::default()
        };
        ShardOptions {
            limits,
            failpoints: self.failpoints().clone(),
            row_cache: self.shared.row_cache.clone(),
            cache_bytes: usize::try_from(self.config().checkpoint.cache_bytes).unwrap_or(usize::MAX),
            ..ShardOptions::default()
        }
    }
}

#[cfg(test)]
mod tests {
    use storage::failpoint::{Action, Failpoints, Firing};
    use storage::sim_disk::SimDisk;

    use super::*;
    use crate::host::testing::{Served, eventually, on_a_runtime};

    /// An order to destroy a replica may come while the host still opens what it has; the host must not end of it.
    #[test]
    fn replicas_are_not_destroyed_while_they_are_opened() {
        let disk = Arc::new(SimDisk::new(1));
        let (shard, replica) = on_a_runtime(async {
            let first = Served::start(&disk, |_, _| {}).await;
            first.init().await;
            let replicas = first.host.shared.folder.replicas().unwrap();
            first.stop().await;
            let doomed = replicas
                .into_iter()
                .find(|(shard, _)| *shard != ShardId::PLACEMENT);
            doomed.unwrap()
        });
        disk.crash();
        let ready = move |host: &Host, _: &str| {
            // An order has the lock before the host opens anything.
            let host: &'static Host = Box::leak(Box::new(host.clone()));
            let changing = host.shared.changing.try_lock().unwrap();
            tokio::spawn(async move {
                tokio::time::sleep(std::time::Duration::from_millis(50)).await;
                host.write_tombstone(replica).unwrap();
                drop(changing);
            });
        };
        on_a_runtime(async {
            let again = Served::start(&disk, ready).await;
            let folder = &again.host.shared.folder;
            eventually(|| !folder.replicas().unwrap().contains(&(shard, replica))).await;
            eventually(|| again.host.placement().is_some()).await;
            assert!(again.host.shard(shard).is_none());
            again.stop().await;
        });
    }

    /// A replica that was acknowledged and could not be found after a restart was lost to the placement group as a voter.
    #[test]
    fn a_placement_replica_is_made_only_if_a_restart_finds_it() {
        const REPLICA: ReplicaId = ReplicaId(77);
        let disk = Arc::new(SimDisk::new(1));
        let registry = Failpoints::new(1);
        on_a_runtime(async {
            let served = Served::start_with(&disk, registry.host(0), |_, _| {}).await;
            served.init().await;
            let host = &served.host;
            // As on a host that has none yet.
            host.raft().unwrap().close_group(ShardId::PLACEMENT).await;
            let make = || host.create_replica(ShardId::PLACEMENT, REPLICA, KeyRange::full(), 1);
            let point = "placement.create.before_checkpoint";
            registry.arm(0, point, Action::ReturnError, Firing::Nth(1));
            let refused = make().await;
            assert!(matches!(refused, Err(ReplicaError::Folder(_))), "{refused:?}");
            assert!(host.raft().unwrap().group(ShardId::PLACEMENT).is_none());
            make().await.expect("nothing is in the way any more");
            let found = host.shared.folder.replicas().unwrap();
            assert!(found.contains(&(ShardId::PLACEMENT, REPLICA)), "{found:?}");
            served.stop().await;
        });
    }
}
