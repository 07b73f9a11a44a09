//! A replica that holds something else than its peers is found, named and shown, and no other is.

use std::sync::Arc;

use client::proto::InitRequest;
use client::{AdminClient, ClientConfig};
use placement::ShardId;
use serde_json::Value;
use storage::sim_disk::SimDisk;

use super::harness::{eventually, free_address, godwit};
use super::simulated::{Powered, connect, power_on};

const HOSTS: usize = 3;

fn scrub(address: &str) -> Value {
    let (code, out, err) = godwit(&["--connect", address, "admin", "scrub", "--json"]);
    assert_eq!(code, Some(0), "{err}");
    serde_json::from_str(&out).unwrap()
}

fn alarms(address: &str) -> Vec<Value> {
    let (code, out, err) = godwit(&["--connect", address, "admin", "alarms", "--json"]);
    assert_eq!(code, Some(0), "{err}");
    let document: Value = serde_json::from_str(&out).unwrap();
    assert_eq!(document["silent_hosts"], Value::Array(Vec::new()));
    document["alarms"].as_array().unwrap().clone()
}

/// The replicas of the only shard, as a scrub shows them.
fn replicas(scrubbed: &Value) -> Vec<Value> {
    let shards = scrubbed["shards"].as_array().unwrap();
    assert_eq!(shards.len(), 1, "{scrubbed}");
    assert_eq!(shards[0]["error"], Value::Null, "{scrubbed}");
    shards[0]["replicas"].as_array().unwrap().clone()
}

/// A scrub that reached all replicas; one that has just joined may not have.
async fn whole_scrub(address: &str) -> Vec<Value> {
    eventually("all replicas are scrubbed", || async {
        let replicas = replicas(&scrub(address));
        let known = |replica: &&Value| replica["verdict"] != "unknown";
        match replicas.iter().filter(known).count() {
            HOSTS => Ok(replicas),
            _ => Err(format!("{replicas:?}")),
        }
    })
    .await
}

/// The number of a host that does not lead the shard, and the shard.
fn follower(hosts: &[Powered]) -> Option<(usize, ShardId)> {
    hosts.iter().enumerate().find_map(|(number, powered)| {
        let shards = powered.host.get()?.shards();
        let local = shards.first()?;
        (!local.group.is_leader()).then(|| (number, local.group.id()))
    })
}

#[tokio::test(flavor = "multi_thread")]
async fn a_replica_that_differs_is_found_and_named() {
    let addresses: Vec<String> = (0..HOSTS).map(|_| free_address()).collect();
    let disk = Arc::new(SimDisk::new(1));
    let hosts: Vec<Powered> = (0..HOSTS)
        .map(|number| power_on(&disk, number, &addresses, number as u64))
        .collect();
    let admin = AdminClient::new(ClientConfig::new([addresses[0].clone()])).unwrap();
    let request = InitRequest {
        shards: 1,
        replication_factor: HOSTS as u32,
        hosts: HOSTS as u32,
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
    let client = connect(&addresses).await;
    for number in 0..40 {
        client.put(format!("key{number}"), "value").await.unwrap();
    }

    let sound = whole_scrub(&addresses[0]).await;
    let first = &sound[0]["checksum"];
    assert!(first.is_string(), "{sound:?}");
    for replica in &sound {
        assert_eq!(
            (&replica["checksum"], &replica["verdict"]),
            (first, &"sound".into())
        );
        assert_eq!(replica["keys"], 40);
    }
    assert!(alarms(&addresses[0]).is_empty());

    let (spoilt, shard) = follower(&hosts).expect("two of three do not lead");
    let local = hosts[spoilt].host.get().unwrap().shard(shard).unwrap();
    assert!(local.store.spoil(b"key7"));
    let replica_id = local.group.replica().0;
    for replica in whole_scrub(&addresses[0]).await {
        let expected = match replica["replica_id"] == replica_id {
            true => "corrupt",
            false => "sound",
        };
        assert_eq!(replica["verdict"], expected, "{replica}");
    }
    let raised = alarms(&addresses[0]);
    assert_eq!(raised.len(), 1, "{raised:?}");
    assert_eq!(raised[0]["kind"], "CORRUPT");
    assert_eq!(raised[0]["shard_id"], shard.0);
    assert_eq!(raised[0]["replica_id"], replica_id);

    // What differed is not visible any more: the alarm ends.
    client.put("key7", "again").await.unwrap();
    let mended = whole_scrub(&addresses[0]).await;
    assert!(
        mended.iter().all(|replica| replica["verdict"] == "sound"),
        "{mended:?}"
    );
    assert!(alarms(&addresses[0]).is_empty());
    for host in hosts {
        host.runtime.shutdown_background();
    }
}
