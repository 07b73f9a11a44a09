//! What an operator stops stays stopped, over restarts of all hosts, until it is to go on; a migration that is given up ends
//! where it began; and rates change while they hold something back.

use std::time::Duration;

use client::proto::{ChangeLimitsRequest, InitRequest, MigrationStatus, MoveHomeRequest, MoveReplicaRequest};
use serde_json::Value;

use super::harness::{Cluster, admin, check_all, eventually, godwit, keys, write_all};

/// Two hosts with a shard, and one that has nothing yet.
async fn start() -> Cluster {
    let mut cluster = Cluster::processes(3);
    for host in &mut cluster.hosts {
        host.settings = vec![
            // What is moved lies in snapshots, not in the log.
            "raft.snapshot_entries=10".to_owned(),
            "raft.keep_entries=0".to_owned(),
            "balancer.enabled=false".to_owned(),
        ];
        host.start("");
    }
    let request = InitRequest {
        shards: 1,
        replication_factor: 2,
        hosts: 3,
        ..InitRequest::default()
    };
    cluster.init_as(request).await;
    cluster.wait_until_settled(1).await;
    cluster
}

/// A follower's host, the home, and the host without a replica.
async fn places(cluster: &Cluster) -> (u64, u64, u64) {
    let shard = cluster.shards().await.remove(0);
    let holds = |host: u64| shard.replicas.iter().any(|replica| replica.host_id == host);
    let follower = shard
        .replicas
        .iter()
        .find(|replica| replica.host_id != shard.home);
    let free = (1..=3)
        .find(|host| !holds(*host))
        .expect("a host without a replica");
    (follower.expect("two replicas").host_id, shard.home, free)
}

async fn move_replica(cluster: &Cluster, from_host: u64, to_host: u64) -> u64 {
    let request = MoveReplicaRequest {
        shard_id: cluster.shards().await[0].shard_id,
        from_host,
        to_host,
        reason: "test".into(),
    };
    let reply = cluster.admin().move_replica(request).await.unwrap();
    assert_eq!(reply.refused, "");
    reply.migration_id
}

async fn migration(cluster: &Cluster, id: u64) -> MigrationStatus {
    let known = cluster.migrations().await.into_iter();
    let mut found = known.filter(|known| known.migration_id == id);
    found.next().expect("it is known")
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_paused_stays_so_over_restarts() {
    let mut cluster = start().await;
    assert_eq!(admin(&cluster, &["status"])["paused"], serde_json::json!([]));
    let paused = admin(&cluster, &["pause", "manual", "model", "--reason", "night"]);
    assert_eq!(paused["paused"], serde_json::json!(["manual", "model"]));
    for host in &mut cluster.hosts {
        host.kill();
    }
    for host in &mut cluster.hosts {
        host.start("");
    }
    cluster.wait_until_settled(1).await;
    assert_eq!(admin(&cluster, &["status"])["paused"], paused["paused"]);
    let (follower, _, _) = places(&cluster).await;
    let request = MoveHomeRequest {
        shard_id: cluster.shards().await[0].shard_id,
        to_host: follower,
        reason: "test".into(),
    };
    let refused = cluster.admin().move_home(request.clone()).await.unwrap().refused;
    assert!(refused.contains("paused"), "{refused}");
    let history = admin(&cluster, &["history", "--since", "10m"]);
    assert!(history.to_string().contains("night"), "{history}");
    let before = admin(&cluster, &["history", "--until", "10m"]);
    assert_eq!(
        before["events"],
        serde_json::json!([]),
        "all of it happened just now"
    );

    admin(&cluster, &["resume", "manual"]);
    assert_eq!(
        admin(&cluster, &["limits"])["paused"],
        serde_json::json!(["model"])
    );
    let (follower, _, _) = places(&cluster).await;
    let request = MoveHomeRequest {
        to_host: follower,
        ..request
    };
    let moved = cluster.admin().move_home(request).await.unwrap();
    assert_eq!(moved.refused, "");
    assert_eq!(cluster.wait_for(moved.migration_id).await.state, "Done");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_slow_move_is_given_up_and_another_hurried() {
    let cluster = start().await;
    let client = cluster.client().await;
    // Four mebibytes: more than a minute at the rate below.
    let written = write_all(&client, &keys(64), &"v".repeat(64 << 10)).await;
    let slow = admin(
        &cluster,
        &["limits", "--snapshot-rate", "65536", "--dead-after", "600000"],
    );
    assert_eq!(slow["snapshot_bytes_per_s"], 65_536);
    assert_eq!(slow["dead_after_ms"], 600_000);
    // The hosts hear of it with the controller's next look.
    tokio::time::sleep(Duration::from_secs(1)).await;
    let (follower, _, free) = places(&cluster).await;
    let id = move_replica(&cluster, follower, free).await;
    eventually("the new replica is catching up", || async {
        let state = migration(&cluster, id).await.state;
        (state == "CatchingUp").then_some(()).ok_or(state)
    })
    .await;
    let cancelled = admin(&cluster, &["cancel", &id.to_string()]);
    assert_eq!(cancelled["state"], "Aborting");
    let ended = cluster.wait_for(id).await;
    assert_eq!(ended.state, "Aborted", "{ended:?}");
    assert!(ended.reason.contains("Cancelled"), "{ended:?}");
    assert_eq!(places(&cluster).await.2, free, "it is where it was");
    let (code, _, err) = godwit(&[
        "--connect",
        &cluster.hosts[0].address,
        "admin",
        "cancel",
        &id.to_string(),
    ]);
    assert_ne!(code, Some(0));
    assert!(err.contains("past the point"), "{err}");

    let id = move_replica(&cluster, follower, free).await;
    eventually("the new replica is catching up", || async {
        let state = migration(&cluster, id).await.state;
        (state == "CatchingUp").then_some(()).ok_or(state)
    })
    .await;
    let began = std::time::Instant::now();
    admin(&cluster, &["limits", "--snapshot-rate", "0"]);
    assert_eq!(cluster.wait_for(id).await.state, "Done");
    assert!(began.elapsed() < Duration::from_secs(30), "{:?}", began.elapsed());
    check_all(&client, &written).await;
    let again = admin(&cluster, &["limits", "--snapshot-rate", "configured"]);
    assert_eq!(again["snapshot_bytes_per_s"], Value::Null);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_restarted_host_tells_of_what_was_changed_meanwhile() {
    let settings = [
        "raft.heartbeat_ms=50",
        "raft.election_min_ms=300",
        "raft.election_max_ms=600",
        // What it begins with is in its snapshot.
        "raft.snapshot_entries=10",
        "raft.keep_entries=0",
        "balancer.enabled=false",
    ];
    let mut cluster = Cluster::start_with(3, 1, &settings).await;
    let others = cluster.admin_of(&[0, 1]);
    let change = |rate: u64| {
        let others = &others;
        eventually("limits are changed", move || async move {
            let request = ChangeLimitsRequest {
                snapshot_bytes_per_s: Some(rate),
                reason: "test".into(),
                ..ChangeLimitsRequest::default()
            };
            others.change_limits(request).await.map_err(|e| e.to_string())
        })
    };
    for rate in 1_000_001..=1_000_024 {
        change(rate).await;
    }
    cluster.hosts[2].kill();
    change(2_000_000).await;
    cluster.hosts[0].kill();
    cluster.hosts[1].kill();
    cluster.hosts[2].start("");
    let restarted = cluster.admin_of(&[2]);
    eventually("the restarted host is up", || async {
        restarted.status().await.map_err(|e| e.to_string())
    })
    .await;
    // It answers before anyone is elected, if it does not wait for that.
    let asked = tokio::spawn(async move {
        eventually("limits are known", || async {
            restarted.limits().await.map_err(|e| e.to_string())
        })
        .await
    });
    cluster.hosts[0].start("");
    let limits = asked.await.unwrap().limits.unwrap();
    assert_eq!(limits.snapshot_bytes_per_s, Some(2_000_000));
}
