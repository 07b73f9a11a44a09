//! A host that is killed loses nothing that was acknowledged, and the others go on.

use super::harness::{Cluster, check_all, eventually, keys, write_all};

#[tokio::test(flavor = "multi_thread")]
async fn every_host_in_turn_is_killed_under_writes_and_nothing_is_lost() {
    let mut cluster = Cluster::start(3, 6).await;
    let client = cluster.client().await;
    let keys = keys(60);
    let mut acknowledged = write_all(&client, &keys, "first").await;
    for victim in 0..3 {
        let writer = {
            let (client, keys) = (client.clone(), keys.clone());
            let value = format!("while host {victim} was killed");
            tokio::spawn(async move { write_all(&client, &keys, &value).await })
        };
        cluster.hosts[victim].kill();
        acknowledged.extend(writer.await.unwrap());
        check_all(&client, &acknowledged).await;
        cluster.hosts[victim].start("");
        cluster.wait_until_settled(6).await;
    }
    check_all(&client, &acknowledged).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn all_hosts_killed_at_once_come_back_with_every_acknowledged_write() {
    let mut cluster = Cluster::start(3, 4).await;
    let acknowledged = write_all(&cluster.client().await, &keys(40), "kept").await;
    cluster.hosts.iter_mut().for_each(|host| host.kill());
    cluster.hosts.iter_mut().for_each(|host| host.start(""));
    let client = cluster.client().await;
    check_all(&client, &acknowledged).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_host_that_stops_gracefully_hands_its_homes_over_first() {
    let mut cluster = Cluster::start(3, 6).await;
    let client = cluster.client().await;
    let acknowledged = write_all(&client, &keys(30), "kept").await;
    let home = cluster.shards().await[0].home;
    let stopping = cluster.index_of(home).await;
    cluster.hosts[stopping].signal("TERM");
    assert!(cluster.hosts[stopping].wait_for_end().success());
    let others: Vec<usize> = (0..3).filter(|host| *host != stopping).collect();
    let admin = cluster.admin_of(&others);
    eventually("the homes are elsewhere", || async {
        let shards = admin
            .shards(client::proto::ShardsRequest {
                shard_id: 0,
                placement_group: false,
            })
            .await
            .map_err(|e| e.to_string())?;
        match shards.shards.iter().filter(|shard| shard.home == home).count() {
            0 => Ok(()),
            left => Err(format!("{left} shards still have their home there")),
        }
    })
    .await;
    check_all(&client, &acknowledged).await;
}
