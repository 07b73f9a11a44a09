//! Snapshots leave a host at a limited rate and in turns, and what waits for them is not given up.

use std::time::{Duration, Instant};

use client::proto::MoveReplicaRequest;

use super::harness::{Cluster, check_all, keys, write_all};

/// What each of two shards holds, roughly.
const SHARD_BYTES: usize = 1 << 20;
const VALUES: u32 = 30;
/// Both snapshots together take about four seconds.
const BYTES_PER_S: usize = SHARD_BYTES / 2;

#[tokio::test(flavor = "multi_thread")]
async fn two_moves_from_one_host_end_under_a_small_limit() {
    let mut cluster = Cluster::processes(2);
    for host in &mut cluster.hosts {
        host.settings = vec![
            format!("snapshot.bytes_per_s={BYTES_PER_S}"),
            "snapshot.sends_max=1".to_owned(),
            "snapshot.receives_max=1".to_owned(),
            // What is moved lies in snapshots, not in the log.
            "raft.snapshot_entries=10".to_owned(),
            "raft.keep_entries=0".to_owned(),
            "balancer.enabled=false".to_owned(),
        ];
        host.start("");
    }
    let admin = cluster.admin_of(&[0]);
    let request = client::proto::InitRequest {
        shards: 2,
        replication_factor: 1,
        hosts: 1,
        ..Default::default()
    };
    super::harness::eventually("the cluster is made", || async {
        admin
            .init(request.clone())
            .await
            .map(drop)
            .map_err(|e| e.to_string())
    })
    .await;
    cluster.wait_until_settled(2).await;
    super::harness::eventually("the second host has joined", || async {
        let hosts = admin.hosts().await.map_err(|e| e.to_string())?.hosts;
        match hosts.len() {
            2 => Ok(()),
            joined => Err(format!("{joined} hosts")),
        }
    })
    .await;
    let client = cluster.client().await;
    let value = "v".repeat(SHARD_BYTES / VALUES as usize);
    let mut names = keys(VALUES);
    names.extend(keys(VALUES).iter().map(|key| format!("\u{e9}{key}")));
    let acknowledged = write_all(&client, &names, &value).await;
    let shards = cluster.shards().await;
    let from = shards[0].home;
    assert!(shards.iter().all(|shard| shard.home == from), "{shards:?}");
    let began = Instant::now();
    let mut moves = Vec::new();
    for shard in &shards {
        let request = MoveReplicaRequest {
            shard_id: shard.shard_id,
            from_host: from,
            to_host: 3 - from,
            reason: "test".into(),
        };
        let reply = admin.move_replica(request).await.unwrap();
        assert_eq!(reply.refused, "");
        moves.push(reply.migration_id);
    }
    for migration in moves {
        let ended = cluster.wait_for(migration).await;
        assert_eq!(ended.state, "Done", "{ended:?}");
    }
    let took = began.elapsed();
    assert!(took > Duration::from_secs(3), "{took:?} for both snapshots");
    check_all(&client, &acknowledged).await;
}
