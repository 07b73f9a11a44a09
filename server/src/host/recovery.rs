//! A host's part in the forced recovery of a shard that lost its majority.
//!
//! Fencing takes a replica out of its group for good: first it is stopped, then what it has is made durable, and last
//! the fence is written down. Whoever reads of the fence therefore reads of the log's true end, and a crash before it
//! leaves the replica as it was. A fenced replica is never opened; only a tombstone ends the fence.
//!
//! Reopening makes another replica of what the fenced one has (see [`raft::Succession`]), under its own name last.

use std::sync::Arc;

use bytes::Bytes;
use placement::{ReplicaId, ShardId};
use raft::{ConfStamp, MachineFault, Succession};
use storage::shard::{NewGroup, ShardStore, encode_new_group};

use super::folder::{FencedBy, FolderError};
use super::replicas::ReplicaError;
use super::state::Host;
use crate::control::{FencedReplica, ReopenReplicaOrder};
use crate::watch::Feed;

/// Revisions that a recovered shard leaves out: more than the lost replicas can have given out unseen.
const REVISIONS_SKIPPED: u64 = 1_000_000_000;

/// Why a recovery's order is not carried out.
#[derive(Debug, thiserror::Error)]
pub(crate) enum RecoverError {
    #[error(transparent)]
    Replica(#[from] ReplicaError),
    #[error("the placement group is not recovered by its own orders")]
    PlacementGroup,
    #[error("replica {0} is fenced for recovery {1}, which came later")]
    FencedLater(ReplicaId, u64),
    #[error("replica {0} is not fenced for recovery {1}")]
    NotFenced(ReplicaId, u64),
    #[error("replica {0} of the shard is open here")]
    InTheWay(ReplicaId),
    #[error(transparent)]
    Copy(#[from] storage::shard::SurvivorError),
    #[error(transparent)]
    Succession(#[from] raft::SuccessionError),
    #[error(transparent)]
    Checkpoint(#[from] MachineFault),
    #[error("the log of replica {0} cannot be made durable: {1}")]
    Log(ReplicaId, std::io::Error),
}

impl From<FolderError> for RecoverError {
    fn from(error: FolderError) -> Self {
        Self::Replica(error.into())
    }
}

impl Host {
    /// What a replica was fenced for.
    pub(super) fn fenced_by(&self, replica: ReplicaId) -> Option<FencedBy> {
        let orders = self.shared.orders.lock().expect("no panic under this lock");
        orders.fenced.get(&replica.0).copied()
    }

    /// The replicas that are fenced here, and where their logs end. One whose log cannot be read is left out: it is no
    /// survivor.
    pub(crate) fn fenced_replicas(&self) -> Vec<FencedReplica> {
        let fenced = self
            .shared
            .orders
            .lock()
            .expect("no panic under this lock")
            .fenced
            .clone();
        let view = |(replica, by): (u64, FencedBy)| {
            let end = self.raft()?.log_end(ReplicaId(replica));
            let end = end
                .inspect_err(
                    |error| tracing::error!(replica, %error, "a fenced replica's log cannot be read"),
                )
                .ok()?
                .unwrap_or_default();
            Some(FencedReplica {
                shard_id: by.shard,
                replica_id: replica,
                migration: by.migration,
                last_term: end.term,
                last_leader: end.leader,
                last_index: end.index,
            })
        };
        fenced.into_iter().filter_map(view).collect()
    }

    /// Takes a replica out of its group for good. Where there is nothing of it, a tombstone sees to it that nothing
    /// comes.
    pub(crate) async fn fence_replica(
        &self,
        shard: ShardId,
        replica: ReplicaId,
        migration: u64,
    ) -> Result<(), RecoverError> {
        if shard == ShardId::PLACEMENT {
            return Err(RecoverError::PlacementGroup);
        }
        let _changing = self.shared.changing.lock().await;
        if self.has_tombstone(replica) {
            return Ok(());
        }
        match self.fenced_by(replica) {
            Some(by) if by.migration > migration => {
                return Err(RecoverError::FencedLater(replica, by.migration));
            }
            Some(by) if by.migration == migration => return Ok(()),
            _ => {}
        }
        if !self.shared.folder.replicas()?.contains(&(shard, replica)) {
            return Ok(self.write_tombstone(replica)?);
        }
        self.stop_replica(shard, replica).await?;
        self.write_fence(shard, replica, migration)?;
        tracing::warn!(%shard, %replica, migration, "a replica is fenced for a forced recovery");
        Ok(())
    }

    /// Stops a replica, and makes durable what its log has.
    async fn stop_replica(&self, shard: ShardId, replica: ReplicaId) -> Result<(), RecoverError> {
        let raft = self.raft().ok_or(ReplicaError::NoCluster)?;
        if raft.group(shard).is_some_and(|open| open.replica() == replica) {
            self.shared
                .shards
                .write()
                .expect("no panic under this lock")
                .remove(&shard);
            raft.close_group(shard).await;
        }
        let flushed = raft.flush_log(replica).await;
        flushed.map_err(|error| RecoverError::Log(replica, error))
    }

    fn write_fence(&self, shard: ShardId, replica: ReplicaId, migration: u64) -> Result<(), FolderError> {
        let mut orders = self.shared.orders.lock().expect("no panic under this lock");
        let mut changed = orders.clone();
        let by = FencedBy {
            shard: shard.0,
            migration,
        };
        changed.fenced.insert(replica.0, by);
        self.shared.folder.write_orders(&changed)?;
        *orders = changed;
        Ok(())
    }

    /// Opens a fenced replica's data as a group of one, or finds it open already.
    pub(crate) async fn reopen_replica(
        &self,
        order: &ReopenReplicaOrder,
        controller_term: u64,
    ) -> Result<(), RecoverError> {
        let shard = ShardId(order.shard_id);
        let (from, to) = (ReplicaId(order.from_replica), ReplicaId(order.replica_id));
        let _changing = self.shared.changing.lock().await;
        if self.has_tombstone(to) {
            return Err(ReplicaError::Destroyed(to).into());
        }
        if self.fenced_by(to).is_some() {
            return Err(ReplicaError::Fenced(to).into());
        }
        let raft = self.raft().ok_or(ReplicaError::NoCluster)?;
        match raft.group(shard).map(|open| open.replica()) {
            Some(open) if open == to => return Ok(()),
            Some(open) => return Err(RecoverError::InTheWay(open)),
            None => {}
        }
        if !self.shared.folder.replicas()?.contains(&(shard, to)) {
            if self.fenced_by(from).map(|by| by.migration) != Some(order.migration) {
                return Err(RecoverError::NotFenced(from, order.migration));
            }
            self.begin_anew(order, controller_term).await?;
        }
        Ok(self.open_shard(shard, to).await?)
    }

    async fn begin_anew(&self, order: &ReopenReplicaOrder, controller_term: u64) -> Result<(), RecoverError> {
        let shard = ShardId(order.shard_id);
        let (from, to) = (ReplicaId(order.from_replica), ReplicaId(order.replica_id));
        let raft = self.raft().ok_or(ReplicaError::NoCluster)?;
        let store = self.copy_survivor(shard, from, to).await?;
        let command = encode_new_group(NewGroup {
            stamped_ms: self.now_ms(),
            r#gen: order.r#gen,
            revisions_skipped: REVISIONS_SKIPPED,
        });
        let succession = Succession {
            from,
            to,
            term: order.raft_term,
            stamp: ConfStamp {
                conf_ver: order.conf_ver,
                migration: order.migration,
                controller_term,
            },
            machine: Arc::new(self.machine(&store, Feed::new(store.revision()))),
            command,
        };
        let mark = raft.succeed(succession).await?;
        self.write_down(shard, from, store, mark).await?;
        self.pass_failpoint(
            storage::failpoint!(self.failpoints(), "replica.reopen.before_rename"),
            shard,
            to,
        )?;
        self.make_over(shard, from, to).await?;
        tracing::warn!(%shard, %from, %to, "a shard goes on from this host alone");
        Ok(())
    }

    async fn copy_survivor(
        &self,
        shard: ShardId,
        from: ReplicaId,
        to: ReplicaId,
    ) -> Result<ShardStore, RecoverError> {
        let disk = self.shared.env.disk.clone();
        let identity = self.shard_identity(shard, from)?;
        let (old, new) = (self.replica_file(shard, from), self.replica_file(shard, to));
        let options = self.shard_options();
        let copying = move || ShardStore::copy_survivor(disk, &identity, &old, &new, options);
        Ok(self.blocking(copying).await?)
    }

    /// Makes durable what a survivor has come to. If its log split the shard, its part of the new shard comes first.
    async fn write_down(
        &self,
        shard: ShardId,
        from: ReplicaId,
        store: ShardStore,
        mark: Bytes,
    ) -> Result<(), RecoverError> {
        let (host, identity) = (self.clone(), self.shard_identity(shard, from)?);
        let writing = move || {
            let mut made = Vec::new();
            for heir in store.heirs() {
                made.extend(host.settle_heir(&heir, &identity)?);
                // It is opened from its file, later.
                heir.renounce();
            }
            let failed = |error: &dyn std::fmt::Display| MachineFault::Storage(error.to_string());
            let capture = store.capture(mark).map_err(|e| failed(&e))?;
            capture.write().map_err(|e| failed(&e))?;
            Ok::<_, RecoverError>(made)
        };
        for (shard, replica) in self.blocking(writing).await? {
            self.open_shard(shard, replica).await?;
        }
        Ok(())
    }

    async fn make_over(&self, shard: ShardId, from: ReplicaId, to: ReplicaId) -> Result<(), RecoverError> {
        let disk = self.shared.env.disk.clone();
        let (survivor, replica) = (self.shard_identity(shard, from)?, self.shard_identity(shard, to)?);
        let (path, options) = (self.replica_file(shard, to), self.shard_options());
        let naming = move || ShardStore::make_over(&*disk, &survivor, &replica, &path, &options);
        Ok(self.blocking(naming).await?)
    }
}
