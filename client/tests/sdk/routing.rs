//! Operations find their shard's home: through moved homes, changed ranges, wrong hints and dead hosts.

use client::{Client, ClientConfig, ConnectError, KeyRange, proto::Code};
use futures_util::future::join_all;

use crate::fake::{FakeCluster, Fault};

#[tokio::test]
async fn a_redirect_is_followed_once_and_remembered() {
    let (cluster, _hosts) = FakeCluster::start(3, &["m"]).await;
    cluster.move_home_silently(1, 3);
    let client = cluster.client().await;
    client.get("a").await.unwrap();
    assert_eq!(client.stats().redirects, 1);
    for _ in 0..5 {
        client.get("a").await.unwrap();
        client.get("z").await.unwrap();
    }
    assert_eq!(
        client.stats().redirects,
        1,
        "later operations go to the new home directly"
    );
    assert_eq!(client.stats().refreshes, 1, "the map was fetched only to connect");
}

#[tokio::test]
async fn hosts_that_point_at_each_other_are_left_once_the_home_is_known() {
    let (cluster, _hosts) = FakeCluster::start(3, &[]).await;
    let client = cluster.client().await;
    for _ in 0..10 {
        cluster.inject(Fault::PointAt(2));
        cluster.inject(Fault::PointAt(1));
    }
    client.put("k", "v").await.unwrap();
    assert_eq!((cluster.version_of("k"), cluster.faults_left()), (1, 0));
}

#[tokio::test]
async fn without_a_hint_the_map_tells() {
    let (cluster, _hosts) = FakeCluster::start(2, &[]).await;
    let client = cluster.client().await;
    cluster.hide_homes();
    cluster.move_home(1, 2);
    client.put("k", "v").await.unwrap();
    assert_eq!(client.stats().redirects, 0);
    assert!(client.stats().refreshes >= 2);
}

#[tokio::test]
async fn many_operations_on_a_stale_map_share_few_refreshes() {
    let (cluster, _hosts) = FakeCluster::start(2, &[]).await;
    let client = cluster.client().await;
    cluster.split(1, "m");
    let served = cluster.maps_served();
    let gets = (0..200).map(|n| {
        let client = client.clone();
        async move {
            client
                .get(format!("{}{n}", if n % 2 == 0 { "a" } else { "z" }))
                .await
                .unwrap()
        }
    });
    join_all(gets).await;
    let fetched = cluster.maps_served() - served;
    assert_eq!(fetched, 1, "200 stale operations at once fetch the map once");
    assert_eq!(
        client.locate(b"z").range,
        KeyRange {
            start: "m".into(),
            end: "".into()
        }
    );
}

#[tokio::test]
async fn a_dead_home_costs_no_operation() {
    let (cluster, mut hosts) = FakeCluster::start(3, &[]).await;
    let client = cluster.client().await;
    client.put("k", "0").await.unwrap();
    hosts.remove(0).kill().await;
    cluster.move_home_silently(1, 2);
    let puts = (0..100).map(|n| {
        let client = client.clone();
        async move { client.put(format!("k{n}"), "v").await.unwrap() }
    });
    join_all(puts).await;
    for n in 0..100 {
        assert_eq!(cluster.version_of(&format!("k{n}")), 1);
    }
}

#[tokio::test]
async fn an_election_is_waited_out() {
    let (cluster, mut hosts) = FakeCluster::start(3, &[]).await;
    let client = cluster.client().await;
    client.put("k", "1").await.unwrap();
    hosts.remove(0).kill().await;
    // Until the new home is elected, the others still believe in the old one.
    let before = cluster.seen().len();
    let put = tokio::spawn({
        let client = client.clone();
        async move { client.put("k", "2").await }
    });
    cluster.saw(before + 3).await;
    cluster.move_home(1, 2);
    put.await.unwrap().unwrap();
    assert_eq!(cluster.version_of("k"), 2);
}

#[tokio::test]
async fn connecting_passes_over_dead_endpoints() {
    let (cluster, mut hosts) = FakeCluster::start(2, &[]).await;
    cluster.move_home(1, 2);
    let config = cluster.config();
    hosts.remove(0).kill().await;
    for seed in 0..4 {
        let client = Client::connect(ClientConfig {
            seed: Some(seed),
            ..config.clone()
        })
        .await
        .unwrap();
        client.get("k").await.unwrap();
    }
}

/// It says nothing of its cluster, so it must not be taken for one of another.
#[tokio::test]
async fn a_host_that_has_just_joined_is_passed_over() {
    let (cluster, _hosts) = FakeCluster::start(2, &[]).await;
    cluster.serve_no_map(3);
    let client = Client::connect(cluster.config()).await.unwrap();
    client.put("k", "v").await.unwrap();
    assert_eq!(cluster.maps_served(), 4);
}

#[tokio::test]
async fn a_host_of_another_cluster_is_refused() {
    let (cluster, _hosts) = FakeCluster::start(1, &[]).await;
    let mut config = cluster.config();
    config.cluster_id = Some("mine".into());
    let error = Client::connect(config).await.unwrap_err();
    assert!(
        matches!(&error, ConnectError::WrongCluster { message } if message.contains("mine")),
        "{error}"
    );
}

#[tokio::test]
async fn a_configuration_that_cannot_work_is_refused_at_once() {
    let none: [&str; 0] = [];
    let error = Client::connect(ClientConfig::new(none)).await.unwrap_err();
    assert!(matches!(error, ConnectError::Invalid { .. }), "{error}");
    let error = Client::connect(ClientConfig::new(["no spaces allowed:1"]))
        .await
        .unwrap_err();
    assert!(matches!(error, ConnectError::Invalid { .. }), "{error}");
}

#[tokio::test]
async fn hosts_are_told_who_is_calling_and_from_where() {
    let (cluster, hosts) = FakeCluster::start(1, &[]).await;
    let mut config = cluster.config();
    (config.user_id, config.origin) = ("alice".into(), "zone-a".into());
    let client = Client::connect(config).await.unwrap();
    client.get("k").await.unwrap();
    client.with_user("bob").get("k").await.unwrap();
    let hello = hosts[0].hellos().remove(0);
    assert_eq!(
        (hello.user_id.as_str(), hello.origin.as_str()),
        ("alice", "zone-a")
    );
    let users: Vec<_> = cluster
        .seen()
        .iter()
        .map(|seen| seen.request.user_id.clone())
        .collect();
    assert_eq!(
        users,
        ["", "bob"],
        "a request names its user only where it differs"
    );
}

#[tokio::test]
async fn an_overloaded_host_is_asked_again() {
    let (cluster, _hosts) = FakeCluster::start(1, &[]).await;
    let client = cluster.client().await;
    for _ in 0..5 {
        cluster.inject(Fault::Refuse(Code::Overloaded));
    }
    client.get("k").await.unwrap();
    assert_eq!(client.stats().retries, 5);
}
