//! Splits: reads, writes, scans, watches and leases go on over them, and they end whoever dies.

use std::collections::BTreeMap;
use std::time::Duration;

use client::proto::MoveReplicaRequest;
use client::{KeyRange, WatchFrom, WatchOptions};

use super::harness::{Cluster, check_all, eventually, godwit, keys, write_all};
use super::reshaping::{Change, dies_at, ranges, split};
use super::watches::{check_chains, events};

/// Keys that hang on a lease, one on each side of the first split.
const LEASED: [&str; 2] = ["$leased", "leased"];

#[tokio::test(flavor = "multi_thread")]
async fn everything_goes_on_while_a_shard_is_split() {
    let cluster = Cluster::start(4, 1).await;
    let client = cluster.client().await;
    let shard = cluster.shards().await.remove(0).shard_id;
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
            let mut scans = 0;
            loop {
                let pairs = client.scan(KeyRange::all(), usize::MAX).collect().await.unwrap();
                let found: Vec<_> = pairs.iter().map(|pair| pair.key.clone()).collect();
                assert!(found.is_sorted() && found.len() <= 42, "{found:?}");
                if scans > 0 && found.len() < 42 {
                    panic!("a scan misses keys: {found:?}");
                }
                // The first may run before all keys are there.
                scans += u32::from(found.len() == 42);
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        }
    });
    assert_eq!(split(&cluster, shard, "4key19").await, "");
    let upper = cluster
        .shards()
        .await
        .into_iter()
        .find(|known| known.shard_id != shard);
    let upper = upper.unwrap().shard_id;
    assert_eq!(split(&cluster, upper, "=key28").await, "");
    assert_eq!(split(&cluster, shard, "").await, "", "where it has two halves");
    let ranges = ranges(&cluster).await;
    assert_eq!(ranges.len(), 4);
    assert!(ranges.windows(2).all(|pair| pair[0].1 == pair[1].0), "{ranges:?}");
    assert_ne!(split(&cluster, shard, "zzz").await, "", "a key of another shard");

    acknowledged.extend(writer.await.unwrap());
    assert!(!scanner.is_finished(), "{:?}", scanner.await);
    scanner.abort();
    check_all(&client, &acknowledged).await;
    let seen = events(&mut watch, 2 + written.len() * 30).await;
    assert_eq!(seen.len(), 2 + written.len() * 30, "each change once");
    check_chains(&seen);
    // Leased keys stay on both sides for as long as the one lease is kept.
    tokio::time::sleep(Duration::from_secs(4)).await;
    assert!(!keeping.is_finished(), "{:?}", keeping.await);
    check_all(&client, &acknowledged).await;
    keeping.abort();
    eventually("leased keys go once nobody keeps them", || async {
        let left = [
            client.get("k005").await.unwrap(),
            client.get("leased").await.unwrap(),
        ];
        match left.iter().all(|found| found.pair.is_none()) {
            true => Ok(()),
            false => Err(format!("{left:?}")),
        }
    })
    .await;
}

/// The new shard is a shard like any other: its replicas move, and a host that was away gets its own.
#[tokio::test(flavor = "multi_thread")]
async fn a_new_shard_moves_and_survives_a_power_cut() {
    let mut cluster = Cluster::start(4, 1).await;
    let client = cluster.client().await;
    let acknowledged = write_all(&client, &keys(60), "kept").await;
    let parent = cluster.shards().await.remove(0);
    assert_eq!(split(&cluster, parent.shard_id, "?key30").await, "");
    let shards = cluster.shards().await;
    let made = shards
        .iter()
        .find(|known| known.shard_id != parent.shard_id)
        .unwrap();
    let held: Vec<u64> = made.replicas.iter().map(|replica| replica.host_id).collect();
    let to = (1..=4).find(|host| !held.contains(host)).unwrap();
    let request = MoveReplicaRequest {
        shard_id: made.shard_id,
        from_host: made.home,
        to_host: to,
        reason: "test".into(),
    };
    let reply = cluster.admin().move_replica(request).await.unwrap();
    assert_eq!(reply.refused, "");
    assert_eq!(cluster.wait_for(reply.migration_id).await.state, "Done");
    check_all(&client, &acknowledged).await;
    // So do the old shard's: a new replica reads the log from before the split.
    let held: Vec<u64> = parent.replicas.iter().map(|replica| replica.host_id).collect();
    let request = MoveReplicaRequest {
        shard_id: parent.shard_id,
        from_host: parent.home,
        to_host: (1..=4).find(|host| !held.contains(host)).unwrap(),
        reason: "test".into(),
    };
    let reply = cluster.admin().move_replica(request).await.unwrap();
    assert_eq!(reply.refused, "");
    assert_eq!(cluster.wait_for(reply.migration_id).await.state, "Done");
    // It leads afterwards, as the one did that it took over from.
    cluster.wait_until_settled(2).await;
    check_all(&client, &acknowledged).await;
    for host in &mut cluster.hosts {
        host.kill();
    }
    for host in &mut cluster.hosts {
        host.start("");
    }
    cluster.wait_until_settled(2).await;
    check_all(&cluster.client().await, &acknowledged).await;
    let endpoint = cluster.hosts[0].address.as_str();
    let (code, _, error) = godwit(&["--connect", endpoint, "admin", "split", "77", "--at", "x"]);
    assert!(code != Some(0) && error.contains("no shard 77"), "{error}");
}

/// A shard that grows is parted by itself, until its parts are small enough.
#[tokio::test(flavor = "multi_thread")]
async fn a_shard_that_becomes_too_large_is_split() {
    let settings = ["shards.bytes_max=65536", "shards.count_max=4"];
    let cluster = Cluster::start_with(3, 1, &settings).await;
    let client = cluster.client().await;
    let mut acknowledged = BTreeMap::new();
    for round in 0..4 {
        let some: Vec<String> = (0..16).map(|number| format!("{round}{number:02}")).collect();
        acknowledged.extend(write_all(&client, &some, &"v".repeat(4_096)).await);
    }
    eventually("there are as many shards as there may be", || async {
        match cluster.shards().await.len() {
            4 => Ok(()),
            count => Err(format!("{count}")),
        }
    })
    .await;
    cluster.wait_until_settled(4).await;
    check_all(&client, &acknowledged).await;
    let reasons: Vec<String> = cluster
        .migrations()
        .await
        .into_iter()
        .filter(|known| known.kind == "split")
        .map(|known| known.reason)
        .collect();
    assert!(
        reasons.iter().all(|reason| reason.contains("65536 at most")),
        "{reasons:?}"
    );
}

macro_rules! dies {
    ($($name:ident: $point:literal;)*) => { $(
        #[tokio::test(flavor = "multi_thread")]
        async fn $name() {
            dies_at($point, Change::Split).await;
        }
    )* };
}

dies! {
    controller_dies_before_the_range_is_parted: "controller.leave_proposed.after";
    controller_dies_when_the_range_is_parted: "controller.leave_splitting.before";
    controller_dies_when_the_split_is_taken_over: "controller.leave_splitting.after";
    controller_dies_when_the_replicas_are_made: "controller.leave_settling.before";
    all_hosts_die_before_they_copy_ahead: "shard.split.stage";
    all_hosts_die_before_they_make_their_replicas: "shard.split.before_write";
    all_hosts_die_before_their_replicas_have_a_name: "shard.split.before_rename";
    all_hosts_die_when_their_replicas_are_made: "shard.split.after_rename";
}
