//! Becoming part of a cluster, and coming back to it.
//!
//! The first host makes the cluster: its identity file names the cluster and holds the first command of the placement
//! log until that command is applied, so a crash at any point of `init` is resumed at the next start. Another host asks
//! the placement group for an id; the token in its folder makes asking again harmless.

use std::collections::BTreeMap;
use std::time::Duration;

use client::proto::{InitRequest, JoinRequest};
use futures_util::future::join_all;
use placement::{
    Accepted, Bootstrap, Command, HostId, Limits, Partition, Refusal, ReplicaId, Response, Rules, ShardId,
    TrustLimits,
};
use raft::{HostIdentity, RaftHost, RaftOptions};

use super::folder::{FORMAT, FolderError, Identity};
use super::map::ShardMap;
use super::replicas::ReplicaError;
use super::state::{Host, HostFailure};
use crate::control::MapUpdate;
use crate::profiler::Profiler;

const RETRY_PAUSE: Duration = Duration::from_millis(300);
/// The replica of the placement group on the first host.
const FIRST_REPLICA: ReplicaId = ReplicaId(1);

/// Why a cluster was not made.
#[derive(Debug, thiserror::Error)]
pub enum InitError {
    /// The host belongs to one.
    #[error("this host belongs to cluster {0} already")]
    AlreadyMember(String),
    /// The host was told to join another.
    #[error("this host is configured to join a cluster")]
    Joining,
    /// The request makes no sense.
    #[error("{0}")]
    Invalid(String),
    /// The host cannot do it.
    #[error(transparent)]
    Folder(#[from] FolderError),
    /// The placement group does not start.
    #[error(transparent)]
    Replica(#[from] ReplicaError),
    /// The placement group does not answer.
    #[error("the placement group does not answer: {0}")]
    Placement(String),
}

/// The data folder and a host that it was to join are of different clusters.
#[derive(Debug, thiserror::Error)]
#[error("the data folder belongs to cluster {ours}, but {seed} to cluster {theirs}; nothing was changed")]
pub struct OtherCluster {
    seed: String,
    ours: String,
    theirs: String,
}

/// Where a refusal to let a host join names the id under which it was decommissioned.
pub(crate) const DECOMMISSIONED: &str = "godwit-decommissioned";

/// Why a host has no identity.
enum NotJoined {
    /// It may have one later.
    Yet(String),
    /// It had one: it joined, did not hear of it, and was decommissioned.
    Decommissioned(HostId),
}

impl NotJoined {
    fn of(status: &tonic::Status) -> Self {
        let named = status.metadata().get(DECOMMISSIONED);
        let id = named.and_then(|id| id.to_str().ok()?.parse().ok());
        match id {
            Some(id) => Self::Decommissioned(HostId(id)),
            None => Self::Yet(status.message().to_owned()),
        }
    }
}

/// How long a seed may take to say which cluster it belongs to.
const SEED_TIMEOUT: Duration = Duration::from_millis(500);

impl Host {
    /// Makes this host the first of a new cluster.
    pub(crate) async fn init(&self, request: InitRequest) -> Result<String, InitError> {
        let _changing = self.shared.changing.lock().await;
        if let Some(cluster) = self.cluster_id() {
            return Err(InitError::AlreadyMember(cluster));
        }
        if !self.config().join.is_empty() {
            return Err(InitError::Joining);
        }
        let random = &self.shared.env.raft.context;
        let cluster_id = format!("{:016x}{:016x}", random.next_u64(), random.next_u64());
        let command = Command::Bootstrap(self.bootstrap_command(&cluster_id, request)?);
        let encoded = placement::encode(&command).map_err(|e| InitError::Invalid(e.to_string()))?;
        let identity = Identity {
            cluster_id: Some(cluster_id.clone()),
            host_id: HostId::FIRST.0,
            bootstrap: Some(encoded),
            ..self.shared.identity.borrow().clone()
        };
        self.shared.folder.write_identity(&identity)?;
        self.adopt(identity);
        self.finish_init().await?;
        Ok(cluster_id)
    }

    fn bootstrap_command(&self, cluster_id: &str, request: InitRequest) -> Result<Bootstrap, InitError> {
        let partition = match request.split_at.is_empty() {
            true => Partition::Count(request.shards),
            false => Partition::SplitAt(request.split_at.iter().map(|key| key.to_vec()).collect()),
        };
        partition.ranges().map_err(InitError::Invalid)?;
        let mut rules = Rules::default();
        if request.replication_factor > 0 {
            rules.replication_factor = request.replication_factor;
        }
        Ok(Bootstrap {
            cluster_id: cluster_id.to_owned(),
            host: self.description(),
            rules,
            limits: Limits {
                moves_in_max: self.config().balancer.host_moves_max,
                moves_out_max: self.config().balancer.host_moves_max,
                home_dwell_windows: u64::from(self.config().balancer.dwell_windows),
                move_dwell_windows: u64::from(self.config().balancer.replica_dwell_windows),
                dead_after_ms: self.config().balancer.dead_after_ms,
                trust: TrustLimits {
                    moves: self.config().balancer.trust_moves,
                    share_ppm: self.config().balancer.trust_share_ppm,
                    windows: self.config().balancer.trust_windows,
                },
                ..Limits::default()
            },
            partition,
            hosts_before_create: request.hosts,
            now_ms: self.now_ms(),
        })
    }

    /// Makes the placement group of a host whose identity says that it is the first, as far as that was not done.
    pub(crate) async fn finish_init(&self) -> Result<(), InitError> {
        let Some(command) = self.shared.identity.borrow().bootstrap.clone() else {
            return Ok(());
        };
        if self.placement().is_none() {
            self.open_placement(FIRST_REPLICA).await?;
        }
        let Some(local) = self.placement() else {
            return Ok(());
        };
        let members = BTreeMap::from([(FIRST_REPLICA, HostId::FIRST)]);
        let failed = |e: raft::ProposeError| InitError::Placement(e.to_string());
        local.group.initialize(&members).await.map_err(failed)?;
        while local.machine.state().cluster_id().is_none() {
            match self.propose_here(command.clone().into()).await {
                Ok(Some(Response::Refused(refusal))) if local.machine.state().cluster_id().is_none() => {
                    return Err(InitError::Invalid(refusal.to_string()));
                }
                Ok(Some(_)) => break,
                Ok(None) | Err(_) => tokio::time::sleep(RETRY_PAUSE).await,
            }
        }
        let identity = Identity {
            bootstrap: None,
            ..self.shared.identity.borrow().clone()
        };
        self.shared.folder.write_identity(&identity)?;
        self.shared.identity.send_replace(identity);
        Ok(())
    }

    /// Asks the cluster for an identity, until it has one, or hears that it had one and was let go.
    pub(crate) async fn join(&self) -> Result<(), FolderError> {
        loop {
            for seed in &self.config().join {
                match self.ask_to_join(seed).await {
                    Ok(identity) => {
                        self.pass_identity_failpoint()?;
                        self.shared.folder.write_identity(&identity)?;
                        self.adopt(identity);
                        return Ok(());
                    }
                    Err(NotJoined::Decommissioned(id)) => {
                        self.fail(HostFailure::Decommissioned(id));
                        return std::future::pending().await;
                    }
                    Err(NotJoined::Yet(reason)) => tracing::info!(seed, reason, "cannot join yet"),
                }
            }
            tokio::time::sleep(RETRY_PAUSE).await;
        }
    }

    fn pass_identity_failpoint(&self) -> Result<(), FolderError> {
        let passed = storage::failpoint!(self.failpoints(), "host.join.before_identity");
        passed.map_err(|source| FolderError::Io {
            path: "identity".into(),
            source,
        })
    }

    async fn ask_to_join(&self, seed: &str) -> Result<Identity, NotJoined> {
        let channel = self.channels().channel(seed);
        let channel = channel.map_err(|e| NotJoined::Yet(e.to_string()))?;
        let description = self.description();
        let request = JoinRequest {
            cluster_id: String::new(),
            host_id: 0,
            address: description.address,
            zone: description.zone.0,
            region: description.region.0,
            capacity_bytes: description.capacity_bytes,
            token: description.token,
        };
        let mut admin = client::proto::admin_client::AdminClient::new(channel);
        let reply = admin
            .join(request)
            .await
            .map_err(|status| NotJoined::of(&status))?
            .into_inner();
        self.learn_peers(&reply.peers);
        Ok(Identity {
            format: FORMAT,
            cluster_id: Some(reply.cluster_id),
            host_id: reply.host_id,
            ..self.shared.identity.borrow().clone()
        })
    }

    /// Finds out whether a seed belongs to another cluster than this host's folder. A seed that does not answer at once
    /// says nothing.
    pub(crate) async fn check_seeds(&self) -> Result<(), OtherCluster> {
        let ours = self.cluster_id().unwrap_or_default();
        let asking = self.config().join.iter().map(|seed| async move {
            let theirs = tokio::time::timeout(SEED_TIMEOUT, self.cluster_of(seed))
                .await
                .ok()??;
            Some((seed.clone(), theirs))
        });
        let other = join_all(asking)
            .await
            .into_iter()
            .flatten()
            .find(|(_, theirs)| *theirs != ours);
        match other {
            Some((seed, theirs)) => Err(OtherCluster { seed, ours, theirs }),
            None => Ok(()),
        }
    }

    async fn cluster_of(&self, seed: &str) -> Option<String> {
        let mut kv = client::proto::kv_client::KvClient::new(self.channels().channel(seed).ok()?);
        let reply = kv
            .shard_map(client::proto::ShardMapRequest { known_version: 0 })
            .await
            .ok()?;
        Some(reply.into_inner().cluster_id).filter(|id| !id.is_empty())
    }

    fn learn_peers(&self, encoded: &[u8]) {
        let map = <MapUpdate as prost::Message>::decode(encoded)
            .ok()
            .and_then(|u| ShardMap::from_update(u).ok());
        if let Some(map) = map {
            self.set_map(map);
        }
    }

    /// Takes on an identity: from now on the host can hold replicas.
    pub(crate) fn adopt(&self, identity: Identity) {
        let cluster_id = identity.cluster_id.clone().unwrap_or_default();
        let id = identity.host_id;
        let raft_identity = HostIdentity { cluster_id, host: id };
        self.shared.identity.send_replace(identity);
        let env = self.shared.env.raft.clone();
        self.shared
            .raft
            .get_or_init(|| RaftHost::new(raft_identity, self.raft_options(), env, self.shared.log.clone()));
        let seed = self.shared.env.raft.context.next_u64();
        self.shared
            .profiler
            .get_or_init(|| Profiler::new(HostId(id), seed));
    }

    fn raft_options(&self) -> RaftOptions {
        let timings = &self.config().raft;
        RaftOptions {
            heartbeat: Duration::from_millis(timings.heartbeat_ms),
            election_min: Duration::from_millis(timings.election_min_ms),
            election_max: Duration::from_millis(timings.election_max_ms),
            snapshot_entries: timings.snapshot_entries,
            keep_entries: timings.keep_entries,
            snapshots: self.snapshot_limits(),
            ..RaftOptions::default()
        }
    }

    /// Tells the placement group that this host is here, at this address, and carries out what it is owed.
    pub(crate) async fn announce(&self) {
        loop {
            let command = Command::JoinHost {
                host_id: self.id(),
                host: self.description(),
                now_ms: self.now_ms(),
            };
            match self.propose(&command).await {
                Ok(Response::Accepted(Accepted::Joined { owed, .. })) => {
                    for tombstone in owed {
                        self.pay_tombstone(tombstone.shard, tombstone.replica).await;
                    }
                    return;
                }
                Ok(Response::Accepted(_)) => return,
                // Its predecessor at this address is not known to be gone yet.
                Ok(Response::Refused(refusal @ Refusal::AddressInUse(_))) => {
                    tracing::warn!(%refusal, "cannot announce this host yet");
                }
                Ok(Response::Refused(Refusal::HostRemoved(id))) => {
                    return self.fail(HostFailure::Decommissioned(id));
                }
                Ok(Response::Refused(refusal)) => return self.fail(HostFailure::NotTakenBack(refusal)),
                Err(e) => tracing::info!(error = %e, "cannot announce this host yet"),
            }
            tokio::time::sleep(RETRY_PAUSE).await;
        }
    }

    async fn pay_tombstone(&self, shard: ShardId, replica: ReplicaId) {
        if let Err(e) = self.destroy_replica(shard, replica).await {
            tracing::error!(%shard, %replica, error = %e, "cannot destroy a replica that must not live");
            return;
        }
        let ack = Command::AckTombstone {
            host: self.id(),
            replica,
            now_ms: self.now_ms(),
        };
        if let Err(e) = self.propose(&ack).await {
            tracing::warn!(%shard, %replica, error = %e, "a tombstone could not be acknowledged");
        }
    }
}
