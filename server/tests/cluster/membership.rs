//! Hosts join a running cluster; shards and the placement group grow onto them.

use std::collections::BTreeSet;

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

/// A new controller has asked nobody yet: that a host is not known to be silent does not mean that it is there. Were a
/// lost host called up at each change of the controller, it would never be declared dead.
#[tokio::test(flavor = "multi_thread")]
async fn a_new_controller_does_not_call_a_silent_host_up() {
    let mut cluster = Cluster::start(5, 2).await;
    let lost = cluster.hosts.len() - 1;
    let lost_address = cluster.hosts[lost].address.clone();
    cluster.hosts[lost].kill();
    for _ in 0..2 {
        // Each of them: a replica that lags behind its leader tells what was, until there is a new leader.
        eventually("everyone knows that the lost host is down", || async {
            for asked in 0..4 {
                let hosts = cluster_hosts(&cluster.admin_of(&[asked])).await?;
                let lost = hosts.into_iter().find(|(address, _)| *address == lost_address);
                if lost.as_ref().is_none_or(|(_, state)| state != "down") {
                    return Err(format!("host {asked} says {lost:?}"));
                }
            }
            Ok(())
        })
        .await;
        let leader = controller_of(&cluster).await;
        cluster.hosts[leader].kill();
        let others: Vec<usize> = (0..4).filter(|host| *host != leader).collect();
        let admin = cluster.admin_of(&others);
        // Longer than an election and a few rounds of the new controller.
        let ends = tokio::time::Instant::now() + std::time::Duration::from_secs(5);
        while tokio::time::Instant::now() < ends {
            for (address, state) in cluster_hosts(&admin).await.unwrap_or_default() {
                assert!(
                    address != lost_address || state == "down",
                    "the lost host is {state}"
                );
            }
            tokio::time::sleep(std::time::Duration::from_millis(20)).await;
        }
        cluster.hosts[leader].start("");
        cluster.wait_until_settled(2).await;
    }
}

/// The others begin without it.
#[tokio::test(flavor = "multi_thread")]
async fn shards_begin_although_one_of_their_first_hosts_is_lost_for_good() {
    let mut cluster = Cluster::processes(4);
    cluster.hosts[0].settings = vec!["balancer.dead_after_ms=1000".to_owned()];
    cluster.hosts[..3].iter_mut().for_each(|host| host.start(""));
    cluster.init(4).await;
    eventually("the placement group has its voters", || async {
        match voters(&cluster.placement_group().await) {
            3 => Ok(()),
            other => Err(format!("it has {other}")),
        }
    })
    .await;
    cluster.hosts[3].start("shard.create.before_write");
    assert!(!cluster.hosts[3].wait_for_end().success());
    eventually("every shard lies on the three that are left", || async {
        let shards = cluster.shards().await;
        let replicas = shards.iter().flat_map(|shard| &shard.replicas);
        let hosts: BTreeSet<u64> = replicas.map(|replica| replica.host_id).collect();
        match shards.len() == 4 && hosts.len() == 3 && shards.iter().all(|shard| voters(shard) == 3) {
            true => Ok(()),
            false => Err(format!("{shards:?}")),
        }
    })
    .await;
    cluster.wait_until_settled(4).await;
    let acknowledged = write_all(&cluster.client().await, &keys(30), "without it").await;
    check_all(&cluster.client().await, &acknowledged).await;
}

async fn cluster_hosts(admin: &client::AdminClient) -> Result<Vec<(String, String)>, String> {
    let reply = admin.hosts().await.map_err(|e| e.to_string())?;
    Ok(reply
        .hosts
        .into_iter()
        .map(|host| (host.address, host.state))
        .collect())
}

/// The index of the host that leads the placement group.
async fn controller_of(cluster: &Cluster) -> usize {
    let admin = cluster.admin_of(&[0, 1, 2, 3]);
    let leader = eventually("the placement group has a leader", || async {
        match admin.status().await.map_err(|e| e.to_string())?.placement_leader {
            0 => Err("none is known".to_owned()),
            leader => Ok(leader),
        }
    })
    .await;
    cluster.index_of(leader).await
}
