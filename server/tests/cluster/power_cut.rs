//! Three hosts in this process over simulated disks lose power at once: unsynced writes are dropped, torn and reordered,
//! and every acknowledged write is still there.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use client::ClientConfig;
use storage::sim_disk::SimDisk;

use super::harness::{check_all, eventually, free_address, keys};
use super::simulated::{Powered, connect, power_on};

const HOSTS: usize = 3;
const CUTS: u64 = 3;

#[tokio::test(flavor = "multi_thread")]
async fn a_power_cut_of_all_hosts_loses_nothing_acknowledged() {
    let seed = 20_26;
    eprintln!("seed {seed}");
    let addresses: Vec<String> = (0..HOSTS).map(|_| free_address()).collect();
    let disks: Vec<Arc<SimDisk>> = (0..HOSTS)
        .map(|host| Arc::new(SimDisk::new(seed + host as u64)))
        .collect();
    let power = |cut: u64| -> Vec<Powered> {
        (0..HOSTS)
            .map(|host| power_on(&disks[host], host, &addresses, seed + 100 * cut + host as u64))
            .collect()
    };
    let mut hosts = power(0);
    let admin = client::AdminClient::new(ClientConfig::new([addresses[0].clone()])).unwrap();
    let request = client::proto::InitRequest {
        shards: 3,
        split_at: Vec::new(),
        replication_factor: 3,
        hosts: HOSTS as u32,
    };
    eventually("the cluster is made", || async {
        admin.init(request.clone()).await.map_err(|e| e.to_string())
    })
    .await;
    let mut acknowledged = BTreeMap::new();
    for cut in 1..=CUTS {
        let client = connect(&addresses).await;
        for key in keys(30) {
            let value = format!("before cut {cut}");
            client
                .put(key.clone(), value.clone())
                .await
                .unwrap_or_else(|e| panic!("put {key}: {e}"));
            acknowledged.insert(key, value);
        }
        // The cut comes while more is being written; what of that is kept is open, but each key holds one of the two.
        let unacknowledged = {
            let client = client.clone();
            tokio::spawn(async move {
                for number in 0..200 {
                    drop(client.put(format!("~late{number}"), "late").await);
                }
            })
        };
        tokio::time::sleep(Duration::from_millis(50)).await;
        disks.iter().for_each(|disk| disk.cut_power_after(0));
        let off = move || {
            hosts
                .into_iter()
                .for_each(|host| host.runtime.shutdown_timeout(Duration::from_secs(5)))
        };
        tokio::task::spawn_blocking(off).await.unwrap();
        unacknowledged.abort();
        disks.iter().for_each(|disk| disk.crash());
        hosts = power(cut);
        check_all(&connect(&addresses).await, &acknowledged).await;
    }
    hosts
        .into_iter()
        .for_each(|host| host.runtime.shutdown_background());
}
