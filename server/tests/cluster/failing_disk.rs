//! A host whose disk is full or fails stops with the reason, and has everything acknowledged when it is sound again.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use client::ClientConfig;
use storage::sim_disk::SimDisk;

use super::harness::{check_all, eventually, free_address};
use super::simulated::{connect, power_on};

/// What the disk still takes when it begins to fill up.
const LEFT_BYTES: u64 = 512 << 10;
const VALUE_BYTES: usize = 16 << 10;

#[tokio::test(flavor = "multi_thread")]
async fn a_full_disk_stops_the_host_and_loses_nothing_acknowledged() {
    let addresses = [free_address()];
    let disk = Arc::new(SimDisk::new(1));
    let mut host = power_on(&disk, 0, &addresses, 1);
    init_alone(&addresses).await;
    let client = connect(&addresses).await.with_deadline(Duration::from_secs(2));
    disk.limit_writes(Some(LEFT_BYTES));
    let acknowledged = write_until_refused(&client, VALUE_BYTES).await;
    assert!(!acknowledged.is_empty());
    let ended = tokio::time::timeout(super::harness::PATIENCE, &mut host.ended).await;
    let error = ended.expect("the host stops").unwrap().unwrap_err().to_string();
    assert!(
        error.contains("the log failed") || error.contains("a replica failed"),
        "{error}"
    );
    let off = move || host.runtime.shutdown_timeout(Duration::from_secs(5));
    tokio::task::spawn_blocking(off).await.unwrap();
    disk.limit_writes(None);
    disk.crash();
    let host = power_on(&disk, 0, &addresses, 2);
    check_all(&connect(&addresses).await, &acknowledged).await;
    host.runtime.shutdown_background();
}

/// Syncs fail again and again, of the log or of a shard's checkpoint; one of a file that may be lost is survived.
#[tokio::test(flavor = "multi_thread")]
async fn a_failed_sync_stops_the_host_and_loses_nothing_acknowledged() {
    for nth in [1, 2, 3, 5, 8, 13] {
        let addresses = [free_address()];
        let disk = Arc::new(SimDisk::new(nth));
        let mut host = power_on(&disk, 0, &addresses, nth);
        init_alone(&addresses).await;
        let client = connect(&addresses).await.with_deadline(Duration::from_secs(2));
        let failing = disk.clone();
        let again = tokio::spawn(async move {
            loop {
                failing.fail_sync(nth);
                tokio::time::sleep(Duration::from_millis(300)).await;
            }
        });
        let acknowledged = write_until_refused(&client, 8).await;
        again.abort();
        disk.mend();
        let ended = tokio::time::timeout(super::harness::PATIENCE, &mut host.ended).await;
        let error = ended.expect("the host stops").unwrap().unwrap_err().to_string();
        assert!(error.contains("failed"), "sync {nth}: {error}");
        let off = move || host.runtime.shutdown_timeout(Duration::from_secs(5));
        tokio::task::spawn_blocking(off).await.unwrap();
        disk.crash();
        let host = power_on(&disk, 0, &addresses, nth + 1);
        check_all(&connect(&addresses).await, &acknowledged).await;
        host.runtime.shutdown_background();
    }
}

async fn init_alone(addresses: &[String]) {
    let admin = client::AdminClient::new(ClientConfig::new(addresses.iter().cloned())).unwrap();
    let request = client::proto::InitRequest {
        shards: 1,
        split_at: Vec::new(),
        replication_factor: 1,
        hosts: 1,
    };
    eventually("the cluster is made", || async {
        admin.init(request.clone()).await.map_err(|e| e.to_string())
    })
    .await;
}

/// Writes until a write is refused: what was acknowledged.
async fn write_until_refused(client: &client::Client, value_bytes: usize) -> BTreeMap<String, String> {
    let mut acknowledged = BTreeMap::new();
    let writing = async {
        for number in 0.. {
            let (key, value) = (format!("key{number}"), format!("{number:0value_bytes$}"));
            if client.put(key.clone(), value.clone()).await.is_err() {
                return;
            }
            acknowledged.insert(key, value);
        }
    };
    tokio::time::timeout(super::harness::PATIENCE, writing)
        .await
        .expect("the host stops at some time");
    acknowledged
}
