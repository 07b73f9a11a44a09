//! What the parts of a running host share.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, OnceLock, RwLock};

use client::Connector;
use placement::{HostId, NewHost, Refusal, Region, ReplicaId, ShardId, Zone};
use raft::{Group, RaftHost};
use storage::clock::Clock;
use storage::disk::Disk;
use storage::failpoint::HostFailpoints;
use storage::log::LogHub;
use storage::shard::RowCache;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::accesses::AccessSamples;
use super::channels::Channels;
use super::folder::{DataFolder, Identity, Orders};
use super::map::ShardMap;
use super::merges::Neighbours;
use super::replicas::LocalShard;
use super::scrub::Scrubs;
use super::space::Space;
use super::successors::Successions;
use crate::config::HostConfig;
use crate::controller::Controller;
use crate::machine::PlacementMachine;
use crate::monitor::Metrics;
use crate::profiler::Profiler;

/// What a host is handed by its composition root.
#[derive(Clone)]
pub struct HostEnv {
    /// Clock, chance and work of the Raft groups.
    pub raft: raft::Env,
    /// How other hosts are reached.
    pub connector: Arc<dyn Connector>,
    /// Where the data folder lies.
    pub disk: Arc<dyn Disk>,
    /// Mechanism time.
    pub clock: Arc<dyn Clock>,
    /// Armed by tests; without debug assertions they are nothing.
    pub failpoints: HostFailpoints,
}

/// This host's replica of the placement group.
#[derive(Clone)]
pub(crate) struct LocalPlacement {
    /// The group.
    pub(crate) group: Group,
    /// Its state.
    pub(crate) machine: PlacementMachine,
}

/// One running host.
#[derive(Clone)]
pub struct Host {
    pub(crate) shared: Arc<Shared>,
}

pub(crate) struct Shared {
    pub(crate) config: HostConfig,
    pub(crate) address: String,
    pub(crate) env: HostEnv,
    pub(crate) folder: DataFolder,
    pub(crate) identity: watch::Sender<Identity>,
    pub(crate) orders: Mutex<Orders>,
    pub(crate) log: LogHub,
    pub(crate) row_cache: RowCache,
    pub(crate) space: Space,
    pub(crate) scrubs: Scrubs,
    pub(crate) raft: Arc<OnceLock<RaftHost>>,
    pub(crate) placement: RwLock<Option<LocalPlacement>>,
    pub(crate) shards: RwLock<BTreeMap<ShardId, LocalShard>>,
    /// What splits ask for here.
    pub(crate) successions: Arc<Successions>,
    /// What merges find here.
    pub(crate) neighbours: Neighbours,
    /// Creating and destroying replicas, one at a time.
    pub(crate) changing: tokio::sync::Mutex<()>,
    pub(crate) map: watch::Sender<Arc<ShardMap>>,
    pub(crate) channels: Channels,
    pub(crate) profiler: OnceLock<Profiler>,
    pub(crate) access_samples: OnceLock<AccessSamples>,
    /// The controller, while this host leads the placement group.
    pub(crate) controller: RwLock<Option<Controller>>,
    /// What is counted as it happens.
    pub(crate) metrics: Metrics,
    /// Whether the host belongs to a cluster and has opened its replicas.
    pub(crate) is_member: AtomicBool,
    pub(crate) stop: CancellationToken,
    /// Why the host stops by itself.
    pub(crate) failure: OnceLock<HostFailure>,
}

/// Why a host stops by itself.
#[derive(Debug, Clone, thiserror::Error)]
pub enum HostFailure {
    /// A replica's disk failed. What the disk holds is not known any more: it must be read anew.
    #[error("a replica failed: {shard}: {reason}")]
    Replica {
        /// The shard.
        shard: ShardId,
        /// What failed.
        reason: String,
    },
    /// The cluster has no place for this host any more.
    #[error("the cluster does not take this host back: {0}")]
    NotTakenBack(Refusal),
    /// The host has left the cluster for good.
    #[error(
        "this host ({0}) was decommissioned and has left the cluster for good; to use the machine again, start with an \
         empty data folder"
    )]
    Decommissioned(HostId),
}

impl Host {
    /// The host's id; 0 before it belongs to a cluster.
    pub fn id(&self) -> HostId {
        HostId(self.shared.identity.borrow().host_id)
    }

    /// The cluster's id, once known.
    pub fn cluster_id(&self) -> Option<String> {
        self.shared.identity.borrow().cluster_id.clone()
    }

    /// Where others reach this host.
    pub fn address(&self) -> &str {
        &self.shared.address
    }

    /// The configuration.
    pub fn config(&self) -> &HostConfig {
        &self.shared.config
    }

    /// Mechanism time, in milliseconds.
    pub fn now_ms(&self) -> u64 {
        self.shared.env.clock.now_ms()
    }

    /// How long this host's clock has run; it never goes back.
    pub(crate) fn uptime(&self) -> std::time::Duration {
        self.shared.env.raft.context.uptime()
    }

    /// The Raft groups, once the host belongs to a cluster.
    pub fn raft(&self) -> Option<&RaftHost> {
        self.shared.raft.get()
    }

    /// The newest shard map.
    pub fn map(&self) -> Arc<ShardMap> {
        self.shared.map.borrow().clone()
    }

    /// This host's replica of the placement group, if it has one.
    pub(crate) fn placement(&self) -> Option<LocalPlacement> {
        self.shared
            .placement
            .read()
            .expect("no panic under this lock")
            .clone()
    }

    /// Looks at the placement state as applied here; `None` where there is no replica of it.
    pub fn look_at_placement<T>(&self, look: impl FnOnce(&placement::Placement) -> T) -> Option<T> {
        self.placement().map(|local| look(&local.machine.state()))
    }

    /// A shard's replica on this host.
    pub fn shard(&self, shard: ShardId) -> Option<LocalShard> {
        self.shared
            .shards
            .read()
            .expect("no panic under this lock")
            .get(&shard)
            .cloned()
    }

    /// Every shard with a replica here.
    pub fn shards(&self) -> Vec<LocalShard> {
        self.shared
            .shards
            .read()
            .expect("no panic under this lock")
            .values()
            .cloned()
            .collect()
    }

    /// What is known of the space on this host's disk and on others'.
    pub(crate) fn space(&self) -> &Space {
        &self.shared.space
    }

    /// What is known of scrubs.
    pub(crate) fn scrubs(&self) -> &Scrubs {
        &self.shared.scrubs
    }

    /// The access counters, once the host has an id.
    pub fn profiler(&self) -> Option<&Profiler> {
        self.shared.profiler.get()
    }

    /// What is counted as it happens.
    pub(crate) fn metrics(&self) -> &Metrics {
        &self.shared.metrics
    }

    /// Whether the host belongs to a cluster and has opened its replicas.
    pub(crate) fn is_member(&self) -> bool {
        self.shared.is_member.load(Ordering::Acquire)
    }

    /// The fail points of this host.
    pub fn failpoints(&self) -> &HostFailpoints {
        &self.shared.env.failpoints
    }

    /// Channels to other hosts.
    pub fn channels(&self) -> &Channels {
        &self.shared.channels
    }

    /// Cancelled when the host is to stop.
    pub fn stop(&self) -> &CancellationToken {
        &self.shared.stop
    }

    /// Stops the host. The first reason is the one that is told.
    pub(crate) fn fail(&self, failure: HostFailure) {
        if self.shared.stop.is_cancelled() {
            return;
        }
        tracing::error!(%failure, "the host stops");
        // A second failure says nothing new.
        let _ = self.shared.failure.set(failure);
        self.shared.stop.cancel();
    }

    pub(crate) fn clock(&self) -> Arc<dyn Clock> {
        self.shared.env.clock.clone()
    }

    /// Runs work that blocks or computes for long, beside the host's own tasks.
    pub(crate) async fn blocking<T: Send + 'static>(&self, job: impl FnOnce() -> T + Send + 'static) -> T {
        self.shared.env.raft.blocking(job).await
    }

    /// Runs work that blocks or computes for long and that no request waits for, behind what one does.
    pub(crate) async fn background<T: Send + 'static>(&self, job: impl FnOnce() -> T + Send + 'static) -> T {
        self.shared.env.raft.background(job).await
    }

    /// Spawns a task in this host's context; it ends when the host stops.
    pub fn spawn(&self, task: impl Future<Output = ()> + Send + 'static) {
        let stop = self.shared.stop.clone();
        drop(self.shared.env.raft.spawn(async move {
            stop.run_until_cancelled(task).await;
        }));
    }

    /// What this host says of itself when it joins.
    pub(crate) fn description(&self) -> NewHost {
        NewHost {
            address: self.shared.address.clone(),
            zone: Zone(self.shared.config.zone.clone()),
            region: Region(self.shared.config.region.clone()),
            capacity_bytes: self.shared.config.capacity_bytes,
            token: self.shared.identity.borrow().token.clone(),
        }
    }

    pub(crate) fn set_placement(&self, local: Option<LocalPlacement>) {
        *self.shared.placement.write().expect("no panic under this lock") = local;
    }

    pub(crate) fn set_controller(&self, controller: Option<Controller>) {
        *self.shared.controller.write().expect("no panic under this lock") = controller;
    }

    /// The controller, if this host leads the placement group.
    pub(crate) fn controller(&self) -> Option<Controller> {
        self.shared
            .controller
            .read()
            .expect("no panic under this lock")
            .clone()
    }

    pub(crate) fn replica_file(&self, shard: ShardId, replica: ReplicaId) -> PathBuf {
        self.shared.folder.replica(shard, replica)
    }
}

impl std::fmt::Debug for Host {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Host")
            .field("id", &self.id())
            .field("address", &self.shared.address)
            .finish_non_exhaustive()
    }
}
