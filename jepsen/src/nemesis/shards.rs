//! Replicas and homes are moved, shards are split and merged, and hosts join.

use client::proto::{MergeShardRequest, MoveHomeRequest, MoveReplicaRequest, ShardStatus, SplitShardRequest};
use futures_util::future::join_all;

use super::fault::{Cure, Struck};
use super::field::{Field, host_name};
use crate::process::{Cluster, Layout};
use crate::ranges::{first_bytes_within, mergeable};

pub(super) const NAMES: [&str; 6] = [
    "move-replica",
    "move-home",
    "transfer-storm",
    "split",
    "merge",
    "join",
];

/// Hosts that may join beyond those that the cluster was started with.
const JOINS_MAX: u64 = 2;
/// Shards at most, those that splits made included.
const SHARDS_MAX: usize = 24;
/// Replicas of a shard: with no more hosts than that, there is nowhere to move one.
const REPLICAS: usize = 3;
/// Home moves in one storm, asked for at a time.
const BURSTS: usize = 4;
const BURST: usize = 6;

pub(super) fn unavailable(cluster: &Cluster, name: &str) -> Option<String> {
    let crowded = name == "move-replica" && cluster.numbers().len() <= REPLICAS;
    crowded.then(|| format!("every one of {REPLICAS} hosts holds every shard"))
}

pub(super) async fn strike(name: &str, field: &Field<'_>) -> anyhow::Result<Option<Struck>> {
    let Some(layout) = field.layout().await else {
        return Ok(None);
    };
    let happened = match name {
        "move-replica" => move_replica(name, field, &layout).await.is_some(),
        "move-home" => move_home(name, field, &layout).await.is_some(),
        "transfer-storm" => storm(name, field, layout).await,
        "split" => split(name, field, &layout).await,
        "merge" => merge(name, field, &layout).await,
        _ => join(name, field).await?,
    };
    Ok(happened.then(|| Struck {
        name: name.to_owned(),
        taken: Vec::new(),
        cure: Cure::Nothing,
    }))
}

/// Asks for a random shard's random replica to go to a host that has none. The migration, if it was accepted.
pub(super) async fn move_replica(name: &str, field: &Field<'_>, layout: &Layout) -> Option<u64> {
    let free: Vec<&ShardStatus> = layout
        .shards
        .iter()
        .filter(|shard| shard.migration_id == 0)
        .collect();
    let shard = field.pick(&free)?;
    let replica = field.pick(&shard.replicas)?;
    let without = |host: &u64| shard.replicas.iter().all(|replica| replica.host_id != *host);
    let hosts: Vec<u64> = layout.up().filter(without).collect();
    let to_host = field.pick(&hosts)?;
    let request = MoveReplicaRequest {
        shard_id: shard.shard_id,
        from_host: replica.host_id,
        to_host,
        reason: format!("jepsen: {name}"),
    };
    field.begin(
        name,
        vec![
            format!("s{}", shard.shard_id),
            format!("{}->{to_host}", replica.host_id),
        ],
    );
    let reply = field.cluster.admin().ok()?.move_replica(request).await;
    let accepted = reply.ok().filter(|reply| reply.refused.is_empty());
    accepted.iter().for_each(|_| field.count(name));
    accepted.map(|reply| reply.migration_id)
}

/// Asks for a random shard's home to go to another of its hosts. The migration, if it was accepted.
pub(super) async fn move_home(name: &str, field: &Field<'_>, layout: &Layout) -> Option<u64> {
    let (shard_id, to_host) = draw_home(field, layout)?;
    field.begin(name, vec![format!("s{shard_id}"), format!("->{to_host}")]);
    let id = ask_for_home(name, field, shard_id, to_host).await;
    id.iter().for_each(|_| field.count(name));
    id
}

fn draw_home(field: &Field<'_>, layout: &Layout) -> Option<(u64, u64)> {
    let shard = field.pick(&layout.shards)?;
    let others: Vec<u64> = shard
        .replicas
        .iter()
        .map(|replica| replica.host_id)
        .filter(|host| *host != shard.home && layout.up().any(|up| up == *host))
        .collect();
    Some((shard.shard_id, field.pick(&others)?))
}

async fn ask_for_home(name: &str, field: &Field<'_>, shard_id: u64, to_host: u64) -> Option<u64> {
    let request = MoveHomeRequest {
        shard_id,
        to_host,
        reason: format!("jepsen: {name}"),
    };
    let reply = field.cluster.admin().ok()?.move_home(request).await.ok()?;
    reply.refused.is_empty().then_some(reply.migration_id)
}

/// Asks for a random shard to be split. Keys that a transaction takes together begin with the same byte and stay together.
/// It happened if it was accepted.
async fn split(name: &str, field: &Field<'_>, layout: &Layout) -> bool {
    if layout.shards.len() >= SHARDS_MAX {
        return false;
    }
    let Some(shard) = field.pick(&layout.shards) else {
        return false;
    };
    let keys: Vec<u8> = first_bytes_within(&shard).collect();
    let Some(at) = field.pick(&keys) else {
        return false;
    };
    field.begin(name, vec![format!("s{}", shard.shard_id), format!("{at:02x}")]);
    let request = SplitShardRequest {
        shard_id: shard.shard_id,
        at: vec![at].into(),
        reason: format!("jepsen: {name}"),
    };
    let Ok(admin) = field.cluster.admin() else {
        return false;
    };
    let reply = admin.split_shard(request).await;
    let is_accepted = reply.is_ok_and(|reply| reply.refused.is_empty());
    if is_accepted {
        field.count(name);
    }
    is_accepted
}

/// Asks for a shard to be merged with the next one: one that can be, if there is any. It happened if it was accepted.
async fn merge(name: &str, field: &Field<'_>, layout: &Layout) -> bool {
    let fit: Vec<u64> = mergeable(&layout.shards).collect();
    let (Some(shard_id), Ok(admin)) = (field.pick(&fit), field.cluster.admin()) else {
        return false;
    };
    field.begin(name, vec![format!("s{shard_id}")]);
    let request = MergeShardRequest {
        shard_id,
        reason: format!("jepsen: {name}"),
    };
    let reply = admin.merge_shard(request).await;
    let is_accepted = reply.is_ok_and(|reply| reply.refused.is_empty());
    if is_accepted {
        field.count(name);
    }
    is_accepted
}

/// Many home moves, some at a time. It happened if any was accepted.
async fn storm(name: &str, field: &Field<'_>, mut layout: Layout) -> bool {
    field.begin(name, Vec::new());
    let mut accepted = 0;
    for _ in 0..BURSTS {
        let moves: Vec<(u64, u64)> = (0..BURST).filter_map(|_| draw_home(field, &layout)).collect();
        let asked = moves
            .iter()
            .map(|(shard, to)| ask_for_home(name, field, *shard, *to));
        accepted += join_all(asked).await.into_iter().flatten().count();
        field.pause((50, 200)).await;
        let Some(newer) = field.layout().await else { break };
        layout = newer;
    }
    if accepted > 0 {
        field.count(name);
    }
    accepted > 0
}

/// Starts one more host, up to a bound. It happened when the cluster knows it.
async fn join(name: &str, field: &Field<'_>) -> anyhow::Result<bool> {
    let cluster = field.cluster;
    let joined = cluster.numbers().len().saturating_sub(cluster.options().hosts) as u64;
    if joined >= JOINS_MAX {
        return Ok(false);
    }
    field.begin(name, vec![host_name(cluster.numbers().len() + 1)]);
    let number = cluster.add_host().await?;
    for _ in 0..100 {
        if field
            .layout()
            .await
            .is_some_and(|layout| layout.id_of(number).is_some())
        {
            field.count(name);
            return Ok(true);
        }
        field.pause((100, 1)).await;
    }
    // It goes on trying; it is there, only not counted.
    Ok(true)
}
