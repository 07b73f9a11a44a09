//! Leases: keys go when nobody keeps what they hang on, never sooner, whoever leads, and a lock changes hands.

use std::time::{Duration, Instant};

use client::{Client, Expect, KeyRange, MutationError, WatchOptions};

use super::harness::{Cluster, PATIENCE, eventually, godwit};
use super::reshaping::{merge, split};

const TTL: Duration = Duration::from_millis(1_500);
/// Of a lease that is kept on a busy machine.
const KEPT_TTL: Duration = Duration::from_secs(3);

async fn exists(client: &Client, key: &str) -> bool {
    client.get(key.to_owned()).await.unwrap().pair.is_some()
}

async fn goes(client: &Client, key: &str) {
    eventually("the key goes", || async {
        match exists(client, key).await {
            false => Ok(()),
            true => Err("it is there".to_owned()),
        }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn keys_stay_while_their_lease_is_kept_and_go_afterwards_whoever_leads() {
    let mut cluster = Cluster::start(3, 3).await;
    let client = cluster.client().await;
    let lease = client.lease(KEPT_TTL);
    // On several shards, and one key that hangs on none any more.
    let keys = ["!a", "Pa", "~a", "~b"];
    for key in keys {
        lease.put(key, "v").await.unwrap();
    }
    client.put("~b", "stays").await.unwrap();
    let keeping = tokio::time::timeout(KEPT_TTL * 3, lease.keep_alive());
    let home = cluster.shards().await[0].home;
    let home = cluster.index_of(home).await;
    let killing = async {
        tokio::time::sleep(KEPT_TTL).await;
        cluster.hosts[home].kill();
    };
    let (kept, ()) = tokio::join!(keeping, killing);
    assert!(kept.is_err(), "{kept:?}");
    for key in keys {
        assert!(
            exists(&client, key).await,
            "{key} went although its lease was kept"
        );
    }
    cluster.hosts[home].start("");
    let pair = client.get("~a").await.unwrap().pair.unwrap();
    assert_eq!(pair.lease, lease.id());
    for key in &keys[..3] {
        goes(&client, key).await;
    }
    let ended = lease.keep().await;
    assert!(matches!(ended, Err(MutationError::NoLease { .. })), "{ended:?}");
    let late = lease.put("~a", "v").await;
    assert!(matches!(late, Err(MutationError::NoLease { .. })), "{late:?}");
    assert!(exists(&client, "~b").await);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lease_lasts_at_least_as_long_as_it_says() {
    let cluster = Cluster::start(3, 1).await;
    let client = cluster.client().await;
    for _ in 0..3 {
        let lease = client.lease(TTL);
        let mut watch = client
            .watch(KeyRange::all(), WatchOptions::default())
            .await
            .unwrap();
        // The grant itself may take a while; the put comes after it, so it is the earlier bound.
        lease.put("k", "v").await.unwrap();
        let sent = Instant::now();
        lease.keep().await.unwrap();
        let gone = async {
            loop {
                let events = watch.next().await.unwrap().events;
                if events.iter().any(client::Event::is_deletion) {
                    return sent.elapsed();
                }
            }
        };
        let lasted = tokio::time::timeout(PATIENCE, gone).await.unwrap();
        assert!(lasted >= TTL, "it lasted {lasted:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lease_that_ended_on_one_side_of_a_split_is_over_after_the_merge() {
    let cluster = Cluster::start(3, 1).await;
    let client = cluster.client().await;
    let shard = cluster.shards().await.remove(0).shard_id;
    let lease = client.lease(KEPT_TTL);
    for key in ["a", "z"] {
        lease.put(key, "v").await.unwrap();
    }
    assert_eq!(split(&cluster, shard, "m").await, "");
    let keeping = async {
        loop {
            client.keep_lease("a", lease.id()).await.unwrap();
            tokio::time::sleep(KEPT_TTL / 10).await;
        }
    };
    tokio::select! {
        () = keeping => {}
        () = goes(&client, "z") => {}
    }
    client.keep_lease("a", lease.id()).await.unwrap();
    assert_eq!(merge(&cluster, shard).await, "");
    client.keep_lease("a", lease.id()).await.unwrap();
    let ended = lease.keep().await;
    assert!(matches!(ended, Err(MutationError::NoLease { .. })), "{ended:?}");
    assert_eq!(client.lease_status("z", lease.id()).await.unwrap(), None);
    assert!(exists(&client, "a").await, "it is kept at this key");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lease_that_ended_is_over_although_it_is_used_on_keys_beyond() {
    let cluster = Cluster::start(3, 1).await;
    let client = cluster.client().await;
    let shard = cluster.shards().await.remove(0).shard_id;
    assert_eq!(split(&cluster, shard, "m").await, "");
    client.refresh_map().await.unwrap();
    let lease = client.lease(TTL);
    lease.put("a", "v").await.unwrap();
    goes(&client, "a").await;
    assert_eq!(merge(&cluster, shard).await, "");
    client.refresh_map().await.unwrap();
    lease.put("z", "v").await.unwrap();
    let ended = lease.keep().await;
    assert!(matches!(ended, Err(MutationError::NoLease { .. })), "{ended:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lock_changes_hands_when_its_holder_falls_silent() {
    let cluster = Cluster::start(3, 2).await;
    let (first, second) = (cluster.client().await, cluster.client().await);
    let (one, two) = (first.lease(TTL), second.lease(TTL * 20));
    assert!(
        one.compare_and_set("lock", Expect::Absent, "one")
            .await
            .unwrap()
            .applied
    );
    let refused = two.compare_and_set("lock", Expect::Absent, "two").await.unwrap();
    assert!(!refused.applied);
    eventually("the lock is free", || async {
        match two
            .compare_and_set("lock", Expect::Absent, "two")
            .await
            .unwrap()
            .applied
        {
            true => Ok(()),
            false => Err("it is held".to_owned()),
        }
    })
    .await;
    let status = second.lease_status("lock", two.id()).await.unwrap().unwrap();
    assert_eq!((status.ttl, status.keys_total), (TTL * 20, 1));
    assert!(
        status.left <= status.ttl && status.left > Duration::ZERO,
        "{status:?}"
    );
    two.revoke().await.unwrap();
    assert!(!exists(&first, "lock").await);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_verbs_make_keep_and_end_leases() {
    let cluster = Cluster::start(3, 1).await;
    let connect = cluster.hosts[0].address.clone();
    let run = move |arguments: &[&str]| {
        let arguments = [&["kv", "--connect", &connect][..], arguments].concat();
        let (code, out, err) = godwit(&arguments);
        (code, out.trim().to_owned(), err)
    };
    tokio::task::spawn_blocking(move || {
        let (code, id, err) = run(&["lease", "grant", "k", "--ttl-ms", "600000"]);
        assert_eq!(code, Some(0), "{err}");
        assert_eq!(
            run(&["lease", "grant", "k", "--ttl-ms", "5", "--id", &id]).0,
            Some(2)
        );
        assert_eq!(run(&["put", "k", "v", "--lease", &id]).0, Some(0));
        assert_eq!(run(&["lease", "keep", "k", &id]).0, Some(0));
        let (code, status, _) = run(&["lease", "status", "k", &id]);
        assert_eq!(code, Some(0));
        assert!(status.ends_with("of 600000, 1 keys\nk"), "{status}");
        assert_eq!(run(&["lease", "revoke", "k", &id]).0, Some(0));
        assert_eq!(run(&["get", "k"]).0, Some(2));
        assert_eq!(run(&["lease", "status", "k", &id]).0, Some(2));
        let (code, _, err) = run(&["put", "k", "v", "--lease", &id]);
        assert_eq!(code, Some(1), "{err}");
        assert!(err.contains("no such lease"), "{err}");
    })
    .await
    .unwrap();
}
