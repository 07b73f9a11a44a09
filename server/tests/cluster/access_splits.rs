//! Shards are split for what they are asked, and the reason is told.

use std::collections::BTreeMap;

use client::Client;
use client::proto::MigrationStatus;

use super::harness::{Cluster, check_all, eventually, write_all};

/// Three hosts with short windows, one shard, and splits by access as the settings say.
async fn start(settings: &[&str]) -> Cluster {
    let settings = [&["profiler.window_ms=1000", "shards.count_max=2"], settings].concat();
    Cluster::start_with(3, 1, &settings).await
}

/// Keys in order.
fn keys(count: u32) -> Vec<String> {
    (0..count).map(|at| format!("k{at:03}")).collect()
}

/// Reads keys from their places until the one shard has become two; what that split says of itself.
async fn split_while_read(cluster: &Cluster, places: &[(Client, Vec<String>)]) -> MigrationStatus {
    eventually("the shard is split", || async {
        for (client, keys) in places {
            for key in keys {
                client.get(key.clone()).await.unwrap();
            }
        }
        let migrations = cluster.migrations().await;
        let done = migrations
            .iter()
            .find(|known| known.kind == "split" && known.state == "Done");
        done.cloned().ok_or(format!("{migrations:?}"))
    })
    .await
}

/// Where the second of two shards begins.
async fn cut(cluster: &Cluster) -> Vec<u8> {
    let starts = cluster.shards().await.into_iter().map(|shard| shard.start);
    starts.max().unwrap().to_vec()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_shard_that_is_asked_too_much_is_split_where_its_load_has_two_parts() {
    let cluster = start(&["shards.accesses_max_per_s=100", "shards.affinity_gain_min_ppm=0"]).await;
    let client = cluster.client_from("west").await;
    let acknowledged = write_all(&client, &keys(400), "kept").await;
    // The load lies in a tenth of the keys, and so does the cut.
    let hot: Vec<String> = keys(400).split_off(360);
    let bounds = (hot[5].clone(), hot[35].clone());
    let split = split_while_read(&cluster, &[(client.clone(), hot)]).await;
    assert!(split.reason.contains("should be 100 times at most"), "{split:?}");
    assert_eq!(split.origin, "balance");
    cluster.wait_until_settled(2).await;
    let at = String::from_utf8(cut(&cluster).await).unwrap();
    assert!(bounds.0 <= at && at <= bounds.1, "{at} of {bounds:?}");
    check_all(&client, &acknowledged).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_shard_of_two_places_is_split_between_them() {
    let cluster = start(&[
        "shards.accesses_max_per_s=0",
        "shards.affinity_gain_min_ppm=200000",
    ])
    .await;
    let (east, west) = (
        cluster.client_from("east").await,
        cluster.client_from("west").await,
    );
    let mut lower = keys(200);
    let upper = lower.split_off(120);
    let mut acknowledged = BTreeMap::new();
    acknowledged.extend(write_all(&east, &lower, "kept").await);
    acknowledged.extend(write_all(&west, &upper, "kept").await);
    let first_of_west = upper[0].clone();
    let split = split_while_read(&cluster, &[(east.clone(), lower), (west, upper)]).await;
    assert!(split.reason.contains("from different places"), "{split:?}");
    cluster.wait_until_settled(2).await;
    // A sample knows the border but for a few keys.
    let at = String::from_utf8(cut(&cluster).await).unwrap();
    let border = keys(200).iter().position(|key| *key >= at).unwrap();
    assert!(
        (115..=130).contains(&border),
        "{at}, west begins at {first_of_west}"
    );
    check_all(&east, &acknowledged).await;
}
