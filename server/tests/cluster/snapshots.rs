//! Snapshots leave a host at limited rates, are received in turns, and none that waits is given up.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use client::Client;
use client::proto::{
    ChangeLimitsRequest, InitRequest, MigrationStatus, MoveHomeRequest, MoveReplicaRequest, Replica,
    ShardStatus, UsageReply,
};

use super::harness::{Cluster, check_all, eventually, keys, write_all};

/// What each of two shards holds, roughly.
const SHARD_BYTES: usize = 1 << 20;
const VALUES: u32 = 30;
/// Of one snapshot after the other: about four seconds for both.
const BYTES_PER_S: usize = SHARD_BYTES / 2;

/// One snapshot after the other, at a small rate.
fn in_turn() -> Vec<String> {
    vec![
        format!("snapshot.bytes_per_s={BYTES_PER_S}"),
        "snapshot.sends_max=1".to_owned(),
        "snapshot.receives_max=1".to_owned(),
    ]
}

fn settings(more: &[String]) -> Vec<String> {
    let mut settings = vec![
        // What is moved lies in snapshots, not in the log.
        "raft.snapshot_entries=10".to_owned(),
        "raft.keep_entries=0".to_owned(),
        "balancer.enabled=false".to_owned(),
    ];
    settings.extend_from_slice(more);
    settings
}

/// Two shards on three hosts, and a fourth that has nothing yet.
async fn start(more: &[String]) -> Cluster {
    let mut cluster = Cluster::processes(3);
    for host in &mut cluster.hosts {
        host.settings = settings(more);
        host.start("");
    }
    let admin = cluster.admin_of(&[0]);
    let request = InitRequest {
        shards: 2,
        replication_factor: 3,
        hosts: 3,
        ..InitRequest::default()
    };
    cluster.init_as(request).await;
    cluster.wait_until_settled(2).await;
    let fourth = cluster.add_host();
    cluster.hosts[fourth].settings = settings(more);
    cluster.hosts[fourth].start("");
    eventually("the fourth host has joined", || async {
        let hosts = admin.hosts().await.map_err(|e| e.to_string())?.hosts;
        match hosts.len() {
            4 => Ok(()),
            joined => Err(format!("{joined} hosts")),
        }
    })
    .await;
    cluster
}

async fn usage(cluster: &Cluster, host: usize) -> UsageReply {
    let admin = cluster.admin();
    let address = &cluster.hosts[host].address;
    // A host that was just taken in is known before it knows its own id.
    eventually("a host tells what it uses", || async {
        let told = admin.usage_of(address).await.map_err(|e| e.to_string())?;
        match told.host_id {
            0 => Err("it has no id yet".to_owned()),
            _ => Ok(told),
        }
    })
    .await
}

/// Writes what both shards hold; what was acknowledged.
async fn fill_both(client: &Client) -> BTreeMap<String, String> {
    let mut names = keys(VALUES);
    names.extend(keys(VALUES).iter().map(|key| format!("\u{e9}{key}")));
    write_all(client, &names, &"v".repeat(SHARD_BYTES / VALUES as usize)).await
}

/// Moves a replica that is not the home; the migration's id.
async fn begin_move(cluster: &Cluster, shard: &ShardStatus, to_host: u64) -> u64 {
    let others = |replica: &&Replica| replica.host_id != shard.home;
    let from = shard.replicas.iter().find(others).expect("three replicas");
    let request = MoveReplicaRequest {
        shard_id: shard.shard_id,
        from_host: from.host_id,
        to_host,
        reason: "test".into(),
    };
    let reply = cluster.admin().move_replica(request).await.unwrap();
    assert_eq!(reply.refused, "");
    reply.migration_id
}

/// The shards in the order of their keys.
async fn in_order(cluster: &Cluster) -> Vec<ShardStatus> {
    let mut shards = cluster.shards().await;
    shards.sort_by(|a, b| a.start.cmp(&b.start));
    shards
}

/// Gives a shard's home to a host that has a replica of it.
async fn lead_from(cluster: &Cluster, shard: &ShardStatus, host: u64) {
    if shard.home == host {
        return;
    }
    let request = MoveHomeRequest {
        shard_id: shard.shard_id,
        to_host: host,
        reason: "test".into(),
    };
    let reply = cluster.admin().move_home(request).await.unwrap();
    assert_eq!(reply.refused, "");
    let ended = cluster.wait_for(reply.migration_id).await;
    assert_eq!(ended.state, "Done", "{ended:?}");
}

/// Writes a key time and again.
struct Busy {
    is_over: Arc<AtomicBool>,
    writer: tokio::task::JoinHandle<u64>,
}

impl Busy {
    fn begin(client: Client, key: &'static str) -> Self {
        let is_over = Arc::new(AtomicBool::new(false));
        let told = is_over.clone();
        let writer = tokio::spawn(async move {
            let mut writes = 0;
            while !told.load(Ordering::Relaxed) {
                client.put(key, "x").await.expect("a write");
                writes += 1;
            }
            writes
        });
        Self { is_over, writer }
    }

    /// How many writes there were.
    async fn end(self) -> u64 {
        self.is_over.store(true, Ordering::Relaxed);
        self.writer.await.expect("no write failed")
    }
}

/// The log behind a snapshot is kept while it is on its way: or it would have to be sent again and again.
#[tokio::test(flavor = "multi_thread")]
async fn a_shard_that_is_written_to_all_the_while_is_copied_once() {
    let cluster = start(&in_turn()).await;
    let client = cluster.client().await;
    let to_host = usage(&cluster, 3).await.host_id;
    let value = "v".repeat(SHARD_BYTES / VALUES as usize);
    let acknowledged = write_all(&client, &keys(VALUES), &value).await;
    let busy = Busy::begin(cluster.client().await, "busy");
    let shards = in_order(&cluster).await;
    let moving = begin_move(&cluster, &shards[0], to_host).await;
    let ended = cluster.wait_for(moving).await;
    let writes = busy.end().await;
    assert_eq!(ended.state, "Done", "{ended:?} beside {writes} writes");
    assert!(writes > 100, "{writes} writes are no load");
    check_all(&client, &acknowledged).await;
    let received = usage(&cluster, 3).await.snapshots.unwrap().received_bytes;
    let twice = 2 * SHARD_BYTES as u64;
    assert!(
        received < twice * 9 / 10,
        "{received} bytes beside {writes} writes"
    );
}

/// A snapshot that waits behind another has been followed by later ones when its turn comes, and the log behind it is gone.
#[tokio::test(flavor = "multi_thread")]
async fn a_shard_that_is_written_to_while_it_waits_for_its_turn_is_copied_once() {
    let cluster = start(&in_turn()).await;
    let client = cluster.client().await;
    let to_host = usage(&cluster, 3).await.host_id;
    let acknowledged = fill_both(&client).await;
    let shards = in_order(&cluster).await;
    lead_from(&cluster, &shards[1], shards[0].home).await;
    let shards = in_order(&cluster).await;
    let first = begin_move(&cluster, &shards[0], to_host).await;
    let busy = Busy::begin(cluster.client().await, "\u{e9}busy");
    let second = begin_move(&cluster, &shards[1], to_host).await;
    for migration in [first, second] {
        let ended = cluster.wait_for(migration).await;
        assert_eq!(ended.state, "Done", "{ended:?}");
    }
    let writes = busy.end().await;
    assert!(writes > 100, "{writes} writes are no load");
    check_all(&client, &acknowledged).await;
    let received = usage(&cluster, 3).await.snapshots.unwrap().received_bytes;
    let thrice = 3 * SHARD_BYTES as u64;
    assert!(
        received < thrice * 9 / 10,
        "{received} bytes beside {writes} writes"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn two_moves_to_one_host_end_under_a_small_limit() {
    let cluster = start(&in_turn()).await;
    let client = cluster.client().await;
    let to_host = usage(&cluster, 3).await.host_id;
    let acknowledged = fill_both(&client).await;
    let began = Instant::now();
    let mut moves = Vec::new();
    for shard in cluster.shards().await {
        moves.push(begin_move(&cluster, &shard, to_host).await);
    }
    for migration in moves {
        let ended = cluster.wait_for(migration).await;
        assert_eq!(ended.state, "Done", "{ended:?}");
    }
    let took = began.elapsed();
    assert!(took > Duration::from_secs(3), "{took:?} for both snapshots");
    check_all(&client, &acknowledged).await;
    let received = usage(&cluster, 3).await.snapshots.unwrap();
    assert!(
        received.received_bytes >= 2 * (SHARD_BYTES as u64) * 9 / 10,
        "{received:?}"
    );
    assert_eq!((received.receiving, received.sending), (0, 0));
    let mut held_back_ms = 0;
    for host in 0..3 {
        held_back_ms += usage(&cluster, host).await.snapshots.unwrap().held_back_ms;
    }
    assert!(held_back_ms > 2_000, "{held_back_ms} ms");
}

/// Where a copy is missing, it does not wait behind what is merely to lie elsewhere.
#[tokio::test(flavor = "multi_thread")]
async fn a_repair_is_not_held_to_the_rate_of_moves() {
    let mut cluster = start(&[
        "snapshot.move_bytes_per_s=65536".to_owned(),
        "balancer.dead_after_ms=1000".to_owned(),
    ])
    .await;
    let client = cluster.client().await;
    let acknowledged = fill_both(&client).await;
    let spare = usage(&cluster, 3).await.host_id;
    let shards = cluster.shards().await;
    let (moved, repaired) = (&shards[0], shards[1].shard_id);
    let moving = begin_move(&cluster, moved, spare).await;
    let of_move = |all: Vec<MigrationStatus>| all.into_iter().find(|one| one.migration_id == moving);
    let source = of_move(cluster.migrations().await).unwrap().from_host;
    let hosts = moved.replicas.iter().map(|replica| replica.host_id);
    let is_bystander = |host: &u64| ![moved.home, source].contains(host);
    let lost = hosts.filter(is_bystander).min().expect("three replicas");
    let index = cluster.index_of(lost).await;
    cluster.hosts[index].kill();
    let repair = eventually("the other shard is repaired", || async {
        let all = cluster.migrations().await;
        let repair = all
            .iter()
            .find(|one| one.shard_id == repaired && one.origin == "repair");
        repair.map(|one| one.migration_id).ok_or(format!("{all:?}"))
    })
    .await;
    assert_eq!(cluster.wait_for(repair).await.state, "Done");
    let meanwhile = of_move(cluster.migrations().await).unwrap();
    assert_ne!(
        meanwhile.state, "Done",
        "the move began first, and has half a minute to go"
    );
    let request = ChangeLimitsRequest {
        move_bytes_per_s: Some(0),
        ..ChangeLimitsRequest::default()
    };
    let changed = cluster.admin().change_limits(request).await.unwrap();
    assert_eq!(changed.limits.unwrap().move_bytes_per_s, Some(0));
    eventually("every shard has three replicas on hosts that live", || async {
        let shards = cluster.shards().await;
        let is_whole = |shard: &ShardStatus| {
            let mut replicas = shard.replicas.iter();
            shard.replicas.len() == 3 && replicas.all(|replica| replica.host_id != lost)
        };
        match shards.iter().all(is_whole) {
            true => Ok(()),
            false => Err(format!("{shards:?}")),
        }
    })
    .await;
    check_all(&client, &acknowledged).await;
}
