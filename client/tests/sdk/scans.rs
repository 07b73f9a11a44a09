//! Scans: pages across shards, in order and without gaps, while ranges change.

use client::{Client, KeyRange};
use futures_util::{StreamExt, TryStreamExt};

use crate::fake::{FakeCluster, FakeHost, Fault};

async fn twenty_keys() -> (std::sync::Arc<FakeCluster>, Vec<FakeHost>, Client) {
    let (cluster, hosts) = FakeCluster::start(2, &["k05", "k11"]).await;
    cluster.move_home(2, 2);
    let mut config = cluster.config();
    config.limits.scan_page_pairs = 3;
    let client = Client::connect(config).await.unwrap();
    for n in 0..20 {
        client.put(format!("k{n:02}"), format!("{n}")).await.unwrap();
    }
    (cluster, hosts, client)
}

async fn keys(client: &Client, range: KeyRange, limit: usize) -> Vec<String> {
    let pairs = client.scan(range, limit).collect().await.unwrap();
    pairs
        .into_iter()
        .map(|pair| String::from_utf8(pair.key.to_vec()).unwrap())
        .collect()
}

fn expected(numbers: std::ops::Range<usize>) -> Vec<String> {
    numbers.map(|n| format!("k{n:02}")).collect()
}

#[tokio::test]
async fn a_scan_pages_across_shards_in_key_order() {
    let (cluster, _hosts, client) = twenty_keys().await;
    assert_eq!(keys(&client, KeyRange::all(), usize::MAX).await, expected(0..20));
    assert!(client.stats().scan_pages >= 7, "20 pairs, 3 a page");
    cluster.limit_pages(2);
    assert_eq!(
        keys(&client, KeyRange::all(), usize::MAX).await,
        expected(0..20),
        "a host may send less than asked"
    );
}

#[tokio::test]
async fn a_scan_keeps_to_its_range_and_limit() {
    let (_cluster, _hosts, client) = twenty_keys().await;
    assert_eq!(
        keys(&client, KeyRange::of("k03".."k13"), 100).await,
        expected(3..13)
    );
    assert_eq!(
        keys(&client, KeyRange::of("k03"..="k13"), 100).await,
        expected(3..14)
    );
    assert_eq!(keys(&client, KeyRange::prefix("k1"), 100).await, expected(10..20));
    assert_eq!(
        keys(&client, KeyRange::of("k05".."k11"), 100).await,
        expected(5..11),
        "exactly one shard"
    );
    assert_eq!(keys(&client, KeyRange::all(), 7).await, expected(0..7));
    for empty in [
        KeyRange::of("k13".."k03"),
        KeyRange::of("k03".."k03"),
        KeyRange::prefix("z"),
    ] {
        assert!(keys(&client, empty.clone(), 100).await.is_empty(), "{empty:?}");
    }
    let before = client.stats().scan_pages;
    assert!(keys(&client, KeyRange::all(), 0).await.is_empty());
    assert_eq!(client.stats().scan_pages, before, "nothing is asked for nothing");
}

#[tokio::test]
async fn splits_and_merges_during_a_scan_change_nothing_for_it() {
    let (cluster, _hosts, client) = twenty_keys().await;
    let mut scan = client.scan(KeyRange::all(), usize::MAX);
    let mut found = Vec::new();
    while let Some(pair) = scan.next().await.unwrap() {
        found.push(String::from_utf8(pair.key.to_vec()).unwrap());
        match found.len() {
            2 => drop(cluster.split(1, "k04")),
            8 => assert!(cluster.merge_right(2)),
            13 => drop(cluster.split(2, "k15")),
            _ => {}
        }
    }
    assert_eq!(found, expected(0..20));
}

#[tokio::test]
async fn a_page_that_got_lost_is_read_again() {
    let (cluster, _hosts, client) = twenty_keys().await;
    for fault in [Fault::DropAfter, Fault::DropBefore, Fault::UnknownAfter] {
        cluster.inject(fault);
        assert_eq!(keys(&client, KeyRange::all(), usize::MAX).await, expected(0..20));
    }
}

#[tokio::test]
async fn a_scan_is_a_stream() {
    let (_cluster, _hosts, client) = twenty_keys().await;
    let stream = client.scan(KeyRange::all(), usize::MAX).into_stream();
    let values: Vec<_> = stream
        .skip(4)
        .take(3)
        .map_ok(|pair| pair.value)
        .try_collect()
        .await
        .unwrap();
    assert_eq!(values, ["4", "5", "6"]);
}
