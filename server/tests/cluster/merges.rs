//! Merges: reads, writes, scans, watches and leases go on over them, and they end whoever dies.

use std::collections::BTreeMap;
use std::time::Duration;

use client::proto::MoveReplicaRequest;
use client::{KeyRange, WatchFrom, WatchOptions};

use super::harness::{Cluster, check_all, eventually, godwit, keys, write_all};
use super::reshaping::{Change, dies_at, merge, ranges, split};
use super::watches::{check_chains, events};

/// Keys that hang on a lease, in the first and the last shard.
const LEASED: [&str; 2] = ["$leased", "\u{7f}leased"];

#[tokio::test(flavor = "multi_thread")]
async fn everything_goes_on_while_shards_are_merged() {
    let cluster = Cluster::start(3, 1).await;
    let client = cluster.client().await;
    let first = cluster.shards().await.remove(0).shard_id;
    for at in ["=key28", "4key19", "(key07"] {
        assert_eq!(split(&cluster, first, at).await, "");
    }
    let options = WatchOptions {
        from: WatchFrom::Now,
        previous: true,
    };
    let mut watch = client.watch(KeyRange::all(), options).await.unwrap();
    let lease = client.lease(Duration::from_secs(3));
    for key in LEASED {
        lease.put(key, "kept").await.unwrap();
    }
    let mut acknowledged = BTreeMap::from(LEASED.map(|key| (key.to_owned(), "kept".to_owned())));
    let keeping = tokio::spawn(async move { lease.keep_alive().await });
    let written = keys(40);
    let writer = tokio::spawn({
        let (client, written) = (client.clone(), written.clone());
        async move {
            let mut last = BTreeMap::new();
            for round in 0..30 {
                last = write_all(&client, &written, &format!("round {round}")).await;
            }
            last
        }
    });
    let scanner = tokio::spawn({
        let client = client.clone();
        async move {
            let mut is_whole = false;
            loop {
                let pairs = client.scan(KeyRange::all(), usize::MAX).collect().await.unwrap();
                let found: Vec<_> = pairs.iter().map(|pair| pair.key.clone()).collect();
                // The first may run before all keys are there.
                is_whole |= found.len() == 42;
                assert!(found.is_sorted() && (!is_whole || found.len() == 42), "{found:?}");
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        }
    });
    let second = by_start(&cluster, "(key07").await;
    assert_eq!(merge(&cluster, second).await, "");
    assert_eq!(merge(&cluster, first).await, "");
    assert_eq!(merge(&cluster, first).await, "");
    assert_eq!(ranges(&cluster).await, [(String::new(), String::new())]);
    let refused = merge(&cluster, first).await;
    assert!(refused.contains("no shard after it"), "{refused}");

    acknowledged.extend(writer.await.unwrap());
    assert!(!scanner.is_finished(), "{:?}", scanner.await);
    scanner.abort();
    check_all(&client, &acknowledged).await;
    let seen = events(&mut watch, 2 + written.len() * 30).await;
    assert_eq!(seen.len(), 2 + written.len() * 30, "each change once");
    check_chains(&seen);
    // The lease is one again, and is kept as one.
    tokio::time::sleep(Duration::from_secs(4)).await;
    assert!(!keeping.is_finished(), "{:?}", keeping.await);
    check_all(&client, &acknowledged).await;
    keeping.abort();
    eventually("leased keys go once nobody keeps them", || async {
        for key in LEASED {
            if client.get(key).await.unwrap().pair.is_some() {
                return Err(key.to_owned());
            }
        }
        Ok(())
    })
    .await;
}

/// The shard that begins with this key.
async fn by_start(cluster: &Cluster, start: &str) -> u64 {
    let shards = cluster.shards().await;
    let found = shards.iter().find(|shard| shard.start == start);
    found.expect("a shard begins there").shard_id
}

/// A member that comes later has nothing to absorb: it is sent the whole.
#[tokio::test(flavor = "multi_thread")]
async fn a_merged_shard_moves_and_survives_a_power_cut() {
    let mut cluster = Cluster::start(4, 1).await;
    let client = cluster.client().await;
    let mut acknowledged = write_all(&client, &keys(60), "before").await;
    let whole = cluster.shards().await.remove(0);
    assert_eq!(split(&cluster, whole.shard_id, "?key30").await, "");
    acknowledged.extend(write_all(&client, &keys(50), "apart").await);
    for key in keys(60).split_off(55) {
        client.delete(key.clone()).await.unwrap();
        acknowledged.remove(&key);
    }
    assert_eq!(merge(&cluster, whole.shard_id).await, "");
    check_all(&client, &acknowledged).await;
    let held: Vec<u64> = whole.replicas.iter().map(|replica| replica.host_id).collect();
    let request = MoveReplicaRequest {
        shard_id: whole.shard_id,
        from_host: whole.home,
        to_host: (1..=4).find(|host| !held.contains(host)).unwrap(),
        reason: "test".into(),
    };
    let reply = cluster.admin().move_replica(request).await.unwrap();
    assert_eq!(reply.refused, "");
    assert_eq!(cluster.wait_for(reply.migration_id).await.state, "Done");
    for host in &mut cluster.hosts {
        host.kill();
    }
    for host in &mut cluster.hosts {
        host.start("");
    }
    cluster.wait_until_settled(1).await;
    let client = cluster.client().await;
    check_all(&client, &acknowledged).await;
    let pairs = client.scan(KeyRange::all(), usize::MAX).collect().await.unwrap();
    assert_eq!(
        pairs.len(),
        acknowledged.len(),
        "nothing of before the split is back"
    );
    // Split and merged again, over what the first round left in the files.
    assert_eq!(split(&cluster, whole.shard_id, "4key19").await, "");
    acknowledged.extend(write_all(&client, &keys(30), "again").await);
    assert_eq!(merge(&cluster, whole.shard_id).await, "");
    check_all(&client, &acknowledged).await;
    let pairs = client.scan(KeyRange::all(), usize::MAX).collect().await.unwrap();
    assert_eq!(pairs.len(), acknowledged.len());
}

#[tokio::test(flavor = "multi_thread")]
async fn shards_on_different_hosts_are_not_merged() {
    let cluster = Cluster::start(4, 1).await;
    let whole = cluster.shards().await.remove(0);
    assert_eq!(split(&cluster, whole.shard_id, "m").await, "");
    let held: Vec<u64> = whole.replicas.iter().map(|replica| replica.host_id).collect();
    let request = MoveReplicaRequest {
        shard_id: whole.shard_id,
        from_host: held[0],
        to_host: (1..=4).find(|host| !held.contains(host)).unwrap(),
        reason: "test".into(),
    };
    let reply = cluster.admin().move_replica(request).await.unwrap();
    assert_eq!(cluster.wait_for(reply.migration_id).await.state, "Done");
    let (code, _, error) = godwit(&[
        "--connect",
        cluster.hosts[0].address.as_str(),
        "admin",
        "merge",
        &whole.shard_id.to_string(),
    ]);
    assert!(
        code != Some(0) && error.contains("not on the same hosts"),
        "{error}"
    );
    assert_eq!(ranges(&cluster).await.len(), 2);
}

macro_rules! dies {
    ($($name:ident: $point:literal;)*) => { $(
        #[tokio::test(flavor = "multi_thread")]
        async fn $name() {
            dies_at($point, Change::Merge).await;
        }
    )* };
}

dies! {
    controller_dies_before_a_shard_is_frozen: "controller.leave_proposed.after";
    controller_dies_when_a_shard_is_frozen: "controller.leave_freezing.before";
    controller_dies_when_it_is_to_be_absorbed: "controller.leave_freezing.after";
    controller_dies_when_it_is_absorbed: "controller.leave_absorbing.before";
    controller_dies_when_the_range_has_changed_hands: "controller.leave_absorbing.after";
    controller_dies_when_nothing_is_left_of_it: "controller.leave_dissolving.before";
    all_hosts_die_before_they_copy_what_they_absorb: "shard.absorb.before_copy";
    all_hosts_die_when_they_have_copied_what_they_absorb: "shard.absorb.after_copy";
}
