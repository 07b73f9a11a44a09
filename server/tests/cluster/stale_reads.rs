//! Reads that may be stale: by a replica nearby, from a moment that is not too long ago, also while nobody leads.

use std::time::Duration;

use client::{Client, ClientConfig, ReadMode};

use super::harness::{Cluster, eventually, godwit};

/// Longer than anything here takes but the test's own waiting.
const STALENESS: Duration = Duration::from_secs(10);

/// A client next to a host.
async fn client_near(cluster: &Cluster, host: usize) -> Client {
    let config = ClientConfig {
        origin: cluster.hosts[host].zone.clone(),
        deadline: Duration::from_secs(30),
        ..ClientConfig::new([cluster.hosts[host].address.clone()])
    };
    Client::connect(config).await.unwrap()
}

async fn value(client: &Client) -> Option<String> {
    let read = client.get("k").await.ok()?;
    Some(String::from_utf8(read.pair?.value.to_vec()).unwrap())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_replica_serves_what_it_knew_a_moment_ago_and_no_longer() {
    let mut cluster = Cluster::start(3, 1).await;
    let home = cluster.shards().await[0].home;
    let home = cluster.index_of(home).await;
    let near = (home + 1) % 3;
    let client = client_near(&cluster, near).await;
    let stale = client.with_read_mode(ReadMode::Stale(STALENESS));
    client.put("k", "one").await.unwrap();
    // Nothing was confirmed there yet, so it is now.
    assert_eq!(value(&stale).await.as_deref(), Some("one"));
    client.put("k", "two").await.unwrap();
    let current = client.with_read_mode(ReadMode::Stale(Duration::ZERO));
    assert_eq!(
        value(&current).await.as_deref(),
        Some("two"),
        "no staleness is no licence"
    );

    for host in (0..3).filter(|host| *host != near) {
        cluster.hosts[host].kill();
    }
    let hasty = |client: &Client| client.with_deadline(Duration::from_millis(500));
    assert_eq!(
        value(&hasty(&stale)).await.as_deref(),
        Some("two"),
        "nobody leads, and it may be that old"
    );
    assert_eq!(
        value(&hasty(&client)).await,
        None,
        "a linearizable read needs a quorum"
    );
    eventually("what is known is too old", || async {
        match value(&hasty(&stale)).await {
            None => Ok(()),
            Some(value) => Err(value),
        }
    })
    .await;
    assert_eq!(
        value(&hasty(&client.with_read_mode(ReadMode::Stale(STALENESS * 100))))
            .await
            .as_deref(),
        Some("two")
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn the_verbs_name_how_to_read() {
    let cluster = Cluster::start(3, 1).await;
    cluster.client().await.put("k", "v").await.unwrap();
    let (connect, zone) = (cluster.hosts[2].address.clone(), cluster.hosts[2].zone.clone());
    tokio::task::spawn_blocking(move || {
        for read in ["index", "lease", "follower", "stale"] {
            let line = [
                "kv",
                "--connect",
                &connect,
                "--origin",
                &zone,
                "get",
                "k",
                "--read",
                read,
            ];
            let (code, out, err) = godwit(&line);
            assert_eq!((code, out.as_str()), (Some(0), "v\n"), "{read}: {err}");
        }
    })
    .await
    .unwrap();
}
