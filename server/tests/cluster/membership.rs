//! Hosts join a running cluster; shards and the placement group grow onto them.

use super::harness::{Cluster, check_all, eventually, keys, write_all};

fn voters(shard: &client::proto::ShardStatus) -> usize {
    shard
        .replicas
        .iter()
        .filter(|replica| replica.role == "voter")
        .count()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cluster_grows_from_one_host_and_then_survives_the_loss_of_any() {
    let mut cluster = Cluster::processes(1);
    cluster.hosts[0].start("");
    let admin = cluster.admin();
    let request = client::proto::InitRequest {
        shards: 3,
        split_at: Vec::new(),
        replication_factor: 3,
        hosts: 1,
    };
    eventually("the cluster is made", || async {
        admin.init(request.clone()).await.map_err(|e| e.to_string())
    })
    .await;
    cluster.wait_until_settled(3).await;
    let mut acknowledged = write_all(&cluster.client().await, &keys(30), "alone").await;
    for _ in 0..2 {
        let joined = cluster.add_host();
        cluster.hosts[joined].start("");
    }
    eventually("every group has three voters", || async {
        let placement = voters(&cluster.placement_group().await);
        let shards: Vec<usize> = cluster.shards().await.iter().map(voters).collect();
        match placement == 3 && shards.iter().all(|voters| *voters == 3) {
            true => Ok(()),
            false => Err(format!("placement {placement}, shards {shards:?}")),
        }
    })
    .await;
    cluster.wait_until_settled(3).await;
    let client = cluster.client().await;
    for victim in 0..3 {
        cluster.hosts[victim].kill();
        acknowledged.extend(write_all(&client, &keys(30), &format!("without host {victim}")).await);
        // The placement group must be writable too: a home move is an entry of its log.
        let shard = &cluster.shards().await[0];
        let to = shard
            .replicas
            .iter()
            .map(|replica| replica.host_id)
            .find(|host| *host != shard.home)
            .unwrap();
        let request = client::proto::MoveHomeRequest {
            shard_id: shard.shard_id,
            to_host: to,
            reason: "written".into(),
        };
        let reply = cluster.admin().move_home(request).await.unwrap();
        assert!(reply.migration_id > 0 || !reply.refused.is_empty());
        cluster.hosts[victim].start("");
        cluster.wait_until_settled(3).await;
    }
    check_all(&client, &acknowledged).await;
}
