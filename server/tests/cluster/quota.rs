//! A host that has used up its quota refuses what adds data, everywhere where it has a voter, and serves all else; and
//! once there is room again, it takes writes by itself.

use std::time::Duration;

use client::proto::{InitRequest, MoveHomeRequest};
use client::{Action, Client, MutationError, Transaction};

use super::harness::{Cluster, PATIENCE, eventually, godwit};

const QUOTA_BYTES: u64 = 4 << 20;
const VALUE_BYTES: usize = 16 << 10;

/// A small log, and checkpoints that follow what is written.
fn settings(host: usize) -> Vec<String> {
    let mut settings = vec![
        "log.segment_bytes=65536".to_owned(),
        "log.live_bytes_max=262144".to_owned(),
        "raft.snapshot_entries=20".to_owned(),
        "raft.keep_entries=5".to_owned(),
        "checkpoint.interval_ms=200".to_owned(),
        "balancer.enabled=false".to_owned(),
    ];
    // One host alone has a quota, and it is to be a follower.
    if host == 1 {
        settings.push(format!("storage.quota_bytes={QUOTA_BYTES}"));
    }
    settings
}

async fn start() -> Cluster {
    let mut cluster = Cluster::processes(2);
    for (number, host) in cluster.hosts.iter_mut().enumerate() {
        host.settings = settings(number);
        host.start("");
    }
    let admin = cluster.admin_of(&[0]);
    let request = InitRequest {
        shards: 1,
        replication_factor: 2,
        hosts: 2,
        ..InitRequest::default()
    };
    eventually("the cluster is made", || async {
        admin
            .init(request.clone())
            .await
            .map(drop)
            .map_err(|e| e.to_string())
    })
    .await;
    cluster.wait_until_settled(1).await;
    cluster
}

/// Moves the shard's home away from the host with the quota.
async fn lead_elsewhere(cluster: &Cluster, full: u64) {
    let shard = cluster.shards().await.remove(0);
    if shard.home != full {
        return;
    }
    let other = shard.replicas.iter().find(|replica| replica.host_id != full);
    let request = MoveHomeRequest {
        shard_id: shard.shard_id,
        to_host: other.expect("two replicas").host_id,
        reason: "test".into(),
    };
    let reply = cluster.admin().move_home(request).await.unwrap();
    assert_eq!(reply.refused, "");
    let ended = cluster.wait_for(reply.migration_id).await;
    assert_eq!(ended.state, "Done", "{ended:?}");
}

/// Writes until there is no space: how many values there are.
async fn fill(client: &Client) -> u32 {
    let filling = async {
        for number in 0.. {
            match client.put(format!("key{number}"), "v".repeat(VALUE_BYTES)).await {
                Ok(_) => {}
                Err(MutationError::NoSpace { message }) => {
                    assert!(message.contains("no space left"), "{message}");
                    return number;
                }
                Err(other) => panic!("put {number}: {other}"),
            }
        }
        unreachable!("there are numbers enough")
    };
    tokio::time::timeout(PATIENCE, filling)
        .await
        .expect("the quota is met at some time")
}

fn alarms(cluster: &Cluster) -> String {
    let (code, out, err) = godwit(&["--connect", &cluster.hosts[0].address, "admin", "alarms"]);
    assert_eq!(code, Some(0), "{err}");
    out
}

#[tokio::test(flavor = "multi_thread")]
async fn a_follower_without_space_refuses_what_adds_and_nothing_else() {
    let cluster = start().await;
    let full = cluster.admin_of(&[1]).status().await.unwrap().host_id;
    lead_elsewhere(&cluster, full).await;
    let client = cluster.client().await.with_deadline(Duration::from_secs(5));
    assert!(alarms(&cluster).contains("no alarms"));
    let written = fill(&client).await;
    assert!(written > 50, "{written} values");

    let shown = alarms(&cluster);
    assert!(shown.contains("NOSPACE"), "{shown}");
    let hosts = godwit(&["--connect", &cluster.hosts[0].address, "admin", "hosts"]).1;
    assert!(hosts.contains("NOSPACE"), "{hosts}");
    let lease = client.grant_lease("key0", 7, Duration::from_secs(60)).await;
    assert!(matches!(lease, Err(MutationError::NoSpace { .. })), "{lease:?}");
    let adding = Transaction::new().then(Action::put("key0", "new"));
    let refused = client.transact(adding).await;
    assert!(
        matches!(refused, Err(MutationError::NoSpace { .. })),
        "{refused:?}"
    );
    let read = client.get("key1").await.unwrap().pair.expect("it was written");
    assert_eq!(read.value.len(), VALUE_BYTES);
    assert!(client.get("key0").await.unwrap().pair.is_some());

    let mut newest = 0;
    for number in 0..written {
        newest = client.delete(format!("key{number}")).await.unwrap().revision;
    }
    client.compact("key0", newest).await.unwrap();
    eventually("there is space again", || async {
        client
            .put("key0", "new")
            .await
            .map(drop)
            .map_err(|e| e.to_string())
    })
    .await;
    eventually("the alarm has ended", || async {
        match alarms(&cluster) {
            none if none.contains("no alarms") => Ok(()),
            some => Err(some),
        }
    })
    .await;
}
