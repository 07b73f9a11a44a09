//! Watches: every change once, in the order of revisions, whoever leads, and by name where that cannot be.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use bytes::Bytes;
use client::proto::MoveHomeRequest;
use client::{Client, Event, KeyRange, Watch, WatchError, WatchFrom, WatchOptions, WatchPosition};

use super::harness::{Cluster, PATIENCE, godwit, keys, write_all};

/// The next events of a watch, at least `count`, each with the first key of its part.
pub(crate) async fn events(watch: &mut Watch, count: usize) -> Vec<(Bytes, Event)> {
    let mut all = Vec::new();
    let gathering = async {
        while all.len() < count {
            let update = watch.next().await.unwrap();
            let part = update.part;
            all.extend(update.events.into_iter().map(|event| (part.clone(), event)));
        }
    };
    let gathered = tokio::time::timeout(PATIENCE, gathering).await;
    assert!(gathered.is_ok(), "{} events instead of {count}", all.len());
    all
}

fn from(from: WatchFrom) -> WatchOptions {
    WatchOptions { from, previous: true }
}

/// Checks that events are each key's changes in their order, each following on the one before.
pub(crate) fn check_chains(events: &[(Bytes, Event)]) {
    let mut revisions: BTreeMap<&Bytes, u64> = BTreeMap::new();
    let mut held: BTreeMap<_, Option<(u64, u64)>> = BTreeMap::new();
    for (part, event) in events {
        let pair = &event.pair;
        let last = revisions.insert(part, pair.mod_revision);
        assert!(
            last.is_none_or(|last| last < pair.mod_revision),
            "{part:?}: {event:?} after {last:?}"
        );
        let previous = event
            .previous
            .as_ref()
            .map(|previous| (previous.mod_revision, previous.version));
        if let Some(before) = held.get(&pair.key) {
            assert_eq!(previous, *before, "{event:?} leaves something out");
        }
        let now = (!event.is_deletion()).then_some((pair.mod_revision, pair.version));
        held.insert(pair.key.clone(), now);
    }
}

async fn write_rounds(client: &Client, rounds: u32) -> usize {
    let keys = keys(24);
    for round in 0..rounds {
        write_all(client, &keys, &format!("round {round}")).await;
    }
    keys.len() * rounds as usize
}

#[tokio::test(flavor = "multi_thread")]
async fn changes_come_once_and_in_order_while_homes_are_killed_and_moved() {
    let mut cluster = Cluster::start(3, 3).await;
    let client = cluster.client().await;
    let mut watch = client.watch(KeyRange::all(), from(WatchFrom::Now)).await.unwrap();
    // Until the end: a watch that is read late is told of many changes at once, and there must be some for each step.
    let is_over = Arc::new(AtomicBool::new(false));
    let writer = tokio::spawn({
        let (client, is_over) = (client.clone(), is_over.clone());
        async move {
            let mut written = 0;
            while !is_over.load(Ordering::Relaxed) {
                written += write_rounds(&client, 1).await;
            }
            written
        }
    });
    let mut seen = events(&mut watch, 24).await;
    for host in 0..2 {
        cluster.hosts[host].kill();
        seen.extend(events(&mut watch, 24).await);
        cluster.hosts[host].start("");
    }
    for shard in cluster.shards().await {
        let elsewhere = shard
            .replicas
            .iter()
            .find(|replica| replica.host_id != shard.home)
            .unwrap();
        // Refused where the home has just moved by itself.
        let request = MoveHomeRequest {
            shard_id: shard.shard_id,
            to_host: elsewhere.host_id,
            reason: "a watch goes on".to_owned(),
        };
        let reply = cluster.admin().move_home(request).await.unwrap();
        if reply.refused.is_empty() {
            cluster.wait_for(reply.migration_id).await;
        }
    }
    is_over.store(true, Ordering::Relaxed);
    let written = writer.await.unwrap();
    let left = written - seen.len();
    seen.extend(events(&mut watch, left).await);
    assert_eq!(seen.len(), written);
    check_chains(&seen);

    // Another watch goes on where this one is, and one after the beginning sees the same again.
    let position = WatchPosition::from_bytes(&watch.position().to_bytes()).unwrap();
    drop(watch);
    client.put("k000", "after").await.unwrap();
    let mut resumed = client
        .watch(KeyRange::all(), from(WatchFrom::Position(position)))
        .await
        .unwrap();
    let news = events(&mut resumed, 1).await;
    assert_eq!((news.len(), &news[0].1.pair.value[..]), (1, &b"after"[..]));
    let first = seen[0].1.pair.clone();
    let of_key = KeyRange::of(first.key.clone()..=first.key.clone());
    let mut again = client.watch(of_key, from(WatchFrom::After(0))).await.unwrap();
    let once = seen.iter().map(|(_, event)| event);
    let once: Vec<_> = once.filter(|event| event.pair.key == first.key).collect();
    let again = events(&mut again, once.len()).await;
    assert_eq!(
        again[..once.len()]
            .iter()
            .map(|(_, event)| event)
            .collect::<Vec<_>>(),
        once
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_watched_is_said_by_name() {
    let cluster = Cluster::start(3, 2).await;
    let client = cluster.client().await;
    let last = client.put("a", "1").await.unwrap().revision;
    let whole = client.watch(KeyRange::all(), from(WatchFrom::After(1))).await;
    assert!(
        matches!(whole, Err(WatchError::Invalid { .. })),
        "two shards, one revision: {whole:?}"
    );
    let empty = client.watch(KeyRange::of("b".."a"), from(WatchFrom::Now)).await;
    assert!(matches!(empty, Err(WatchError::Invalid { .. })), "{empty:?}");
    client.put("a", "2").await.unwrap();
    client.compact("a", last + 1).await.unwrap();
    let forgotten = client
        .watch(KeyRange::of("a".."b"), from(WatchFrom::After(last)))
        .await;
    assert!(
        matches!(&forgotten, Err(WatchError::Compacted { oldest, .. }) if *oldest == last + 1),
        "{forgotten:?}"
    );
    // Ahead of the shard: nothing until it gets there.
    let mut ahead = client
        .watch(KeyRange::of("a".."b"), from(WatchFrom::After(last + 2)))
        .await
        .unwrap();
    client.put("a", "3").await.unwrap();
    let revision = client.put("a", "4").await.unwrap().revision;
    let told = events(&mut ahead, 1).await;
    assert_eq!(told[0].1.pair.mod_revision, revision);
}

/// A watch that is not read for long loses nothing: what does not fit into its queues waits in the shard.
#[tokio::test(flavor = "multi_thread")]
async fn a_watch_that_is_read_late_misses_nothing() {
    let mut cluster = Cluster::processes(3);
    for host in &mut cluster.hosts {
        let settings = ["watch.queue_bytes_max=8192", "watch.page_rows_max=8"];
        host.settings.extend(settings.map(str::to_owned));
    }
    cluster.hosts.iter_mut().for_each(|host| host.start(""));
    cluster.init(1).await;
    cluster.wait_until_settled(1).await;
    let client = cluster.client().await;
    let mut late = client.watch(KeyRange::all(), from(WatchFrom::Now)).await.unwrap();
    let value = "v".repeat(1_024);
    let keys = keys(8);
    for _ in 0..60 {
        write_all(&client, &keys, &value).await;
    }
    let told = events(&mut late, 480).await;
    assert_eq!(told.len(), 480);
    check_chains(&told);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_verb_prints_changes() {
    let cluster = Cluster::start(3, 2).await;
    let client = cluster.client().await;
    let first = client.put("a/1", "one").await.unwrap().revision;
    client.delete("a/1").await.unwrap();
    client.put("b", "elsewhere").await.unwrap();
    client.put("a/2", "two").await.unwrap();
    let connect = cluster.hosts[0].address.clone();
    let after = (first - 1).to_string();
    let arguments = [
        "kv",
        "--connect",
        &connect,
        "watch",
        "a/",
        "--prefix",
        "--after",
        &after,
        "--count",
        "3",
    ];
    let arguments = arguments.map(str::to_owned);
    let printed = tokio::task::spawn_blocking(move || {
        let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
        godwit(&arguments)
    });
    let (code, out, err) = printed.await.unwrap();
    assert_eq!(code, Some(0), "{err}");
    let lines: Vec<Vec<&str>> = out.lines().map(|line| line.split('\t').collect()).collect();
    assert_eq!(lines.len(), 3, "{out}");
    assert_eq!((lines[0][0], lines[0][2], lines[0][3]), ("put", "a/1", "one"));
    assert_eq!((lines[1][0], lines[1][2], lines[1].len()), ("delete", "a/1", 3));
    assert_eq!((lines[2][0], lines[2][2], lines[2][3]), ("put", "a/2", "two"));
}
