//! Changes of where data lies, as an operator asks for them.

use std::fmt;
use std::time::Duration;

use anyhow::Context;
use clap::ValueEnum;
use client::proto::{
    ChangeAdmissionRequest, DepartureRequest, MergeShardRequest, MigrationReply, MigrationsRequest,
    MoveReplicaRequest, ShardStatus, ShardsRequest, SplitShardRequest,
};
use client::{AdminClient, ClientConfig};
use serde::{Deserialize, Serialize};
use tokio::time::Instant;

use crate::peer::Cluster;

/// A change that takes longer fails the run.
const CHANGE_MAX: Duration = Duration::from_secs(300);
const LOOK_PAUSE: Duration = Duration::from_millis(20);
/// A look at a drain is a question about every shard.
const DRAIN_LOOK_PAUSE: Duration = Duration::from_millis(250);
const REASON: &str = "bench";

/// What a layout is changed from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Layout {
    /// Hosts of the cluster.
    pub hosts: usize,
    /// Shards of the cluster.
    pub shards: u32,
}

/// A state that a change has come to.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Reached {
    /// As operators read it.
    pub state: String,
    /// When it was seen first, in seconds since the load began.
    pub at_s: f64,
}

/// A change of the layout.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum LayoutChange {
    /// A replica that does not lead moves to a host that has none.
    #[default]
    Move,
    /// The shard is split where its data has two halves.
    Split,
    /// The halves that it was split into before are merged again.
    Merge,
    /// A host parts with all that it holds.
    Drain,
}

impl LayoutChange {
    /// The cluster in which the change is made.
    pub fn layout(self) -> Layout {
        let (hosts, shards) = match self {
            Self::Move | Self::Split | Self::Merge => (4, 1),
            Self::Drain => (6, 64),
        };
        Layout { hosts, shards }
    }

    /// What must be done before there is load.
    ///
    /// # Errors
    /// When it is refused or does not end in time.
    pub async fn prepare(self, cluster: &Cluster) -> anyhow::Result<()> {
        match self {
            Self::Move | Self::Split | Self::Drain => Ok(()),
            Self::Merge => Self::Split.make(cluster, Instant::now()).await.map(drop),
        }
    }

    /// Makes the change, of the cluster's first shard or its home, under a load that `began` then, and waits until it has
    /// ended well. Returns the states that it came through; a drain, which is many changes, has none.
    ///
    /// # Errors
    /// When it is refused or does not end in time.
    pub async fn make(self, cluster: &Cluster, began: Instant) -> anyhow::Result<Vec<Reached>> {
        let admin = AdminClient::new(ClientConfig::new(cluster.endpoints.iter().cloned()))?;
        let request = ShardsRequest {
            shard_id: 0,
            placement_group: false,
        };
        let shards = admin.shards(request).await?.shards;
        let first = shards.iter().min_by(|a, b| a.start.cmp(&b.start));
        let shard = first.context("no shard")?;
        let (shard_id, reason) = (shard.shard_id, REASON.to_owned());
        let reply = match self {
            Self::Move => admin.move_replica(a_move(&admin, shard).await?).await?,
            Self::Split => {
                let at = bytes::Bytes::new();
                admin
                    .split_shard(SplitShardRequest { shard_id, at, reason })
                    .await?
            }
            Self::Merge => admin.merge_shard(MergeShardRequest { shard_id, reason }).await?,
            Self::Drain => return drain(&admin, shard.home).await.map(|()| Vec::new()),
        };
        wait_for(&admin, &reply, began).await
    }
}

impl fmt::Display for LayoutChange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Move => "the move of a replica",
            Self::Split => "the split of a shard",
            Self::Merge => "the merge of two shards",
            Self::Drain => "the drain of a host",
        })
    }
}

async fn a_move(admin: &AdminClient, shard: &ShardStatus) -> anyhow::Result<MoveReplicaRequest> {
    let holds = |host: u64| shard.replicas.iter().any(|replica| replica.host_id == host);
    let hosts = admin.hosts().await?.hosts;
    let to = hosts.iter().find(|host| !holds(host.host_id));
    let mut replicas = shard.replicas.iter();
    let from = replicas.find(|replica| replica.host_id != shard.home);
    Ok(MoveReplicaRequest {
        shard_id: shard.shard_id,
        from_host: from.context("no replica but the home")?.host_id,
        to_host: to.context("no host without a replica")?.host_id,
        reason: REASON.to_owned(),
    })
}

/// Drains a host, and waits until it holds nothing.
async fn drain(admin: &AdminClient, host_id: u64) -> anyhow::Result<()> {
    let request = ChangeAdmissionRequest {
        host_id,
        admission: "draining".to_owned(),
        reason: REASON.to_owned(),
    };
    let refused = admin.change_admission(request).await?.refused;
    anyhow::ensure!(refused.is_empty(), "refused: {refused}");
    let deadline = Instant::now() + CHANGE_MAX;
    loop {
        let left = admin.departure(DepartureRequest { host_id }).await?.remnants;
        if left.is_empty() {
            return Ok(());
        }
        anyhow::ensure!(Instant::now() < deadline, "the host still holds {left:?}");
        tokio::time::sleep(DRAIN_LOOK_PAUSE).await;
    }
}

async fn wait_for(
    admin: &AdminClient,
    reply: &MigrationReply,
    began: Instant,
) -> anyhow::Result<Vec<Reached>> {
    anyhow::ensure!(reply.refused.is_empty(), "refused: {}", reply.refused);
    let mut reached: Vec<Reached> = Vec::new();
    let deadline = Instant::now() + CHANGE_MAX;
    loop {
        let request = MigrationsRequest {
            include_ended: true,
            limit: 0,
        };
        let known = admin.migrations(request).await?.migrations;
        let ours = known
            .iter()
            .find(|migration| migration.migration_id == reply.migration_id);
        if let Some(migration) = ours
            && reached.last().is_none_or(|last| last.state != migration.state)
        {
            let (state, at_s) = (migration.state.clone(), began.elapsed().as_secs_f64());
            reached.push(Reached { state, at_s });
        }
        let ended = ours.filter(|migration| migration.ended_ms > 0);
        match ended {
            Some(ended) if ended.state == "Done" => return Ok(reached),
            Some(ended) => anyhow::bail!("the change ended as {}", ended.state),
            None => anyhow::ensure!(Instant::now() < deadline, "no end of the change: {ours:?}"),
        }
        tokio::time::sleep(LOOK_PAUSE).await;
    }
}
