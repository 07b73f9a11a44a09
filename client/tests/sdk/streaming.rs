//! The stream: batches form under load, replies come in any order, nothing is lost when it breaks, and a slow host
//! slows its callers instead of filling memory.

use std::{
    future::Future,
    task::{Context, Waker},
};

use client::{Client, Transaction};
use futures_util::future::join_all;

use crate::fake::{FakeCluster, Fault};

#[tokio::test]
async fn what_is_queued_at_once_travels_in_few_frames() {
    let (cluster, _hosts) = FakeCluster::start(1, &[]).await;
    let client = cluster.client().await;
    client.get("warm up").await.unwrap();
    let before = cluster.frames().len();
    join_all((0..500).map(|n| client.get(format!("k{n}"))))
        .await
        .into_iter()
        .for_each(|got| drop(got.unwrap()));
    let frames = cluster.frames().split_off(before);
    assert_eq!(frames.iter().sum::<usize>(), 500);
    assert!(
        frames.len() <= 10,
        "500 requests made at once took frames of {frames:?}"
    );
    let stats = client.stats();
    assert_eq!(
        (stats.requests, stats.frames as usize),
        (501, cluster.frames().len())
    );
}

#[tokio::test]
async fn a_frame_keeps_within_its_limits() {
    let (cluster, _hosts) = FakeCluster::start(1, &[]).await;
    let mut config = cluster.config();
    (config.limits.frame_requests_max, config.limits.frame_bytes_max) = (7, 4000);
    let client = Client::connect(config).await.unwrap();
    client.put("warm", "up").await.unwrap();
    let before = cluster.frames().len();
    join_all((0..50).map(|n| client.get(format!("k{n}"))))
        .await
        .into_iter()
        .for_each(|got| drop(got.unwrap()));
    let frames = cluster.frames().split_off(before);
    assert_eq!(*frames.iter().max().unwrap(), 7, "{frames:?}");
    let before = cluster.frames().len();
    join_all((0..9).map(|n| client.put(format!("k{n}"), vec![0; 1500])))
        .await
        .into_iter()
        .for_each(|put| drop(put.unwrap()));
    let frames = cluster.frames().split_off(before);
    assert_eq!(
        *frames.iter().max().unwrap(),
        2,
        "1,500 bytes each, 4,000 a frame: {frames:?}"
    );
    client
        .put("k", vec![0; 10_000])
        .await
        .expect("a request above the frame's limit travels alone");
}

#[tokio::test]
async fn replies_find_their_requests_in_any_order() {
    let (cluster, hosts) = FakeCluster::start(1, &[]).await;
    let client = cluster.client().await;
    for n in 0..20 {
        client.put(format!("k{n}"), format!("v{n}")).await.unwrap();
    }
    hosts[0].hold_until(20);
    let found = join_all((0..20).map(|n| client.get(format!("k{n}")))).await;
    assert_eq!(hosts[0].most_held(), 20, "all replies were sent last first");
    for (n, found) in found.into_iter().enumerate() {
        assert_eq!(found.unwrap().pair.unwrap().value, format!("v{n}"));
    }
}

#[tokio::test]
async fn a_stream_that_breaks_under_load_loses_nothing() {
    let (cluster, _hosts) = FakeCluster::start(1, &[]).await;
    let client = cluster.client().await;
    client.put("warm", "up").await.unwrap();
    for round in 0..5 {
        cluster.inject(if round % 2 == 0 {
            Fault::DropAfter
        } else {
            Fault::DropBefore
        });
        let puts = join_all((0..200).map(|n| client.put(format!("{round}-{n}"), "v"))).await;
        puts.into_iter().for_each(|put| drop(put.unwrap()));
        for n in 0..200 {
            assert_eq!(
                cluster.version_of(&format!("{round}-{n}")),
                1,
                "put {n} of round {round}"
            );
        }
    }
    assert_eq!(cluster.faults_left(), 0);
    assert!(client.stats().connections >= 6, "each break cost a connection");
}

#[tokio::test]
async fn no_more_is_in_flight_than_allowed() {
    let (cluster, hosts) = FakeCluster::start(1, &[]).await;
    let mut config = cluster.config();
    config.limits.in_flight_max = 4;
    let client = Client::connect(config).await.unwrap();
    client.get("warm up").await.unwrap();
    hosts[0].hold_until(4);
    join_all((0..20).map(|n| client.get(format!("k{n}"))))
        .await
        .into_iter()
        .for_each(|got| drop(got.unwrap()));
    assert_eq!(
        hosts[0].most_held(),
        4,
        "the fifth request was sent only after a reply"
    );
    assert!(
        cluster.frames().iter().all(|requests| *requests <= 4),
        "{:?}",
        cluster.frames()
    );
}

#[tokio::test]
async fn connections_are_used_in_turn() {
    let (cluster, hosts) = FakeCluster::start(1, &[]).await;
    let mut config = cluster.config();
    config.limits.connections_per_host = 3;
    let client = Client::connect(config).await.unwrap();
    for _ in 0..9 {
        client.get("k").await.unwrap();
    }
    assert_eq!(client.stats().connections, 3);
    assert_eq!(hosts[0].hellos().len(), 3);
}

#[tokio::test]
async fn what_is_given_up_while_it_is_queued_is_not_sent() {
    let (cluster, _hosts) = FakeCluster::start(1, &[]).await;
    let client = cluster.client().await;
    client.get("warm up").await.unwrap();
    {
        let mut get = std::pin::pin!(client.get("given up"));
        // One poll puts the request in the queue; the connection's task has no chance to run before the drop.
        assert!(
            get.as_mut()
                .poll(&mut Context::from_waker(Waker::noop()))
                .is_pending()
        );
    }
    client.get("after").await.unwrap();
    assert_eq!(cluster.seen().len(), 2, "{:?}", cluster.seen());
}

#[tokio::test]
async fn the_last_handle_closes_the_streams() {
    let (cluster, hosts) = FakeCluster::start(2, &["m"]).await;
    cluster.move_home(2, 2);
    let client = cluster.client().await;
    client.put("a", "1").await.unwrap();
    client.put("z", "1").await.unwrap();
    let other = client.with_user("bob");
    drop(client);
    other.get("a").await.unwrap();
    drop(other);
    for host in &hosts {
        host.has_streams(0).await;
    }
}

/// Thousands may wait at once, and each takes the memory of its future, however far it has come.
#[tokio::test]
async fn an_operation_under_way_is_small() {
    const BYTES_MAX: usize = 2_560;
    let (cluster, _hosts) = FakeCluster::start(1, &[]).await;
    let client = cluster.client().await;
    let sizes = [
        size_of_val(&client.get("k")),
        size_of_val(&client.put("k", "v")),
        size_of_val(&client.delete("k")),
        size_of_val(&client.transact(Transaction::new())),
    ];
    assert!(sizes.iter().all(|size| *size <= BYTES_MAX), "{sizes:?}");
}
