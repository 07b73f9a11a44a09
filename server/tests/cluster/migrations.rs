//! Migrations by hand, and resumed wherever the controller dies.

use super::harness::{Cluster, check_all, eventually, keys, write_all};

/// How often a move is tried until it passes through the state that a test is about.
const ATTEMPTS: u32 = 5;

async fn replica_move(cluster: &Cluster, shard: usize) -> (u64, u64, u64) {
    let known = &cluster.shards().await[shard];
    let held: Vec<u64> = known.replicas.iter().map(|replica| replica.host_id).collect();
    let to = (1..=4)
        .find(|host| !held.contains(host))
        .expect("four hosts, three replicas");
    (known.shard_id, known.home, to)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_replica_and_a_home_move_under_writes() {
    let cluster = Cluster::start(4, 4).await;
    let client = cluster.client().await;
    let mut acknowledged = write_all(&client, &keys(40), "before").await;
    let (shard, from, to) = replica_move(&cluster, 0).await;
    let writer = {
        let client = client.clone();
        tokio::spawn(async move { write_all(&client, &keys(40), "during").await })
    };
    let request = client::proto::MoveReplicaRequest {
        shard_id: shard,
        from_host: from,
        to_host: to,
        reason: "test".into(),
    };
    let reply = cluster.admin().move_replica(request).await.unwrap();
    assert_eq!(reply.refused, "");
    let ended = cluster.wait_for(reply.migration_id).await;
    assert_eq!(ended.state, "Done", "{ended:?}");
    acknowledged.extend(writer.await.unwrap());
    check_all(&client, &acknowledged).await;
    let shards = cluster.shards().await;
    let moved = shards.iter().find(|known| known.shard_id == shard).unwrap();
    let hosts: Vec<u64> = moved.replicas.iter().map(|replica| replica.host_id).collect();
    assert!(
        hosts.contains(&to) && !hosts.contains(&from) && hosts.len() == 3,
        "{moved:?}"
    );
    assert_eq!(moved.conf_ver, 2);

    // The moved replica was the home, so a home move of its own follows.
    cluster.wait_until_settled(4).await;
    let moved = &cluster.shards().await[0];
    let target = *hosts.iter().find(|host| **host != moved.home).unwrap();
    let request = client::proto::MoveHomeRequest {
        shard_id: shard,
        to_host: target,
        reason: "test".into(),
    };
    let reply = cluster.admin().move_home(request).await.unwrap();
    assert_eq!(reply.refused, "");
    let ended = cluster.wait_for(reply.migration_id).await;
    assert_eq!(ended.state, "Done", "{ended:?}");
    eventually("the map shows the new home", || async {
        let shards = cluster.shards().await;
        let home = shards
            .iter()
            .find(|known| known.shard_id == shard)
            .map(|known| known.home);
        if home == Some(target) {
            Ok(())
        } else {
            Err(format!("{home:?}"))
        }
    })
    .await;
    check_all(&client, &acknowledged).await;
}

/// How often another replica was seen to lead a shard.
async fn homes_observed(cluster: &Cluster, shard: u64) -> usize {
    let request = client::proto::HistoryRequest {
        shard_id: shard,
        limit: 1000,
        ..Default::default()
    };
    let admin = cluster.admin();
    let reply = eventually("the history is read", || async {
        admin.history(request).await.map_err(|e| e.to_string())
    })
    .await;
    reply
        .events
        .iter()
        .filter(|event| event.what == "HomeObserved")
        .count()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_transfer_whose_target_dies_costs_at_most_one_election() {
    let mut cluster = Cluster::start(3, 1).await;
    let client = cluster.client().await;
    let mut acknowledged = write_all(&client, &keys(20), "before").await;
    let known = cluster.shards().await.remove(0);
    let controller = cluster.placement_group().await.home;
    let hosts = known.replicas.iter().map(|replica| replica.host_id);
    let targets = hosts.filter(|host| *host != known.home && *host != controller);
    let target = targets
        .max()
        .expect("one of three hosts has neither home nor control");
    let before = homes_observed(&cluster, known.shard_id).await;
    let at = cluster.index_of(target).await;
    cluster.hosts[at].kill();
    let request = client::proto::MoveHomeRequest {
        shard_id: known.shard_id,
        to_host: target,
        reason: "its target is dead".into(),
    };
    let reply = cluster.admin().move_home(request).await.unwrap();
    acknowledged.extend(write_all(&client, &keys(20), "during").await);
    if reply.refused.is_empty() {
        let ended = cluster.wait_for(reply.migration_id).await;
        assert_ne!(ended.state, "Done", "{ended:?}");
    }
    let elections = homes_observed(&cluster, known.shard_id).await - before;
    assert!(elections <= 1, "{elections} elections");
    acknowledged.extend(write_all(&client, &keys(20), "after").await);
    check_all(&client, &acknowledged).await;
}

/// Kills the controller at a fail point while it moves a replica away from the shard's home, and checks that another
/// one ends the migration.
async fn controller_dies_at(point: &str) {
    let mut cluster = Cluster::start(4, 2).await;
    let client = cluster.client().await;
    let acknowledged = write_all(&client, &keys(20), "kept").await;
    // Whoever is in control later must be armed; restarting one at a time moves nothing.
    for host in 0..4 {
        cluster.hosts[host].kill();
        cluster.hosts[host].start(point);
        cluster.wait_until_settled(2).await;
    }
    // An election since the restarts may have taken the home elsewhere; then the move skips states, the point among
    // them, and the next one tries again.
    let mut deaths = 0;
    for attempt in 1..=ATTEMPTS {
        deaths += move_a_home_replica(&mut cluster, &format!("{point}, attempt {attempt}")).await;
        if deaths > 0 {
            break;
        }
        cluster.wait_until_settled(2).await;
    }
    assert!(deaths > 0, "{point}: nobody died, so this showed nothing");
    check_all(&cluster.client().await, &acknowledged).await;
}

/// Moves a home's replica, restarts (unarmed) what dies meanwhile, and counts it.
async fn move_a_home_replica(cluster: &mut Cluster, reason: &str) -> usize {
    let (shard, from, to) = replica_move(cluster, 0).await;
    let request = client::proto::MoveReplicaRequest {
        shard_id: shard,
        from_host: from,
        to_host: to,
        reason: reason.to_owned(),
    };
    // The host in control may die with the answer in hand.
    match cluster.admin().move_replica(request).await {
        Ok(reply) => assert_eq!(reply.refused, "", "{reason}"),
        Err(client::AdminError::UnknownOutcome { .. }) => {}
        Err(e) => panic!("{reason}: {e}"),
    }
    let started = std::time::Instant::now();
    let mut deaths = 0;
    loop {
        for host in &mut cluster.hosts {
            if !host.runs() {
                deaths += 1;
                host.start("");
            }
        }
        let known = cluster.migrations().await;
        let migration = known
            .iter()
            .find(|known| known.kind == "move" && known.reason.ends_with(reason));
        // The move of a home's replica is followed by a home move, in which a host may die too.
        if let Some(migration) = migration.filter(|_| known.iter().all(|known| known.ended_ms > 0)) {
            assert_eq!(migration.state, "Done", "{migration:?}");
            return deaths;
        }
        assert!(
            started.elapsed() < super::harness::PATIENCE,
            "{reason}: {migration:?}"
        );
        tokio::time::sleep(std::time::Duration::from_millis(100)).await;
    }
}

macro_rules! controller_dies {
    ($($name:ident: $point:literal;)*) => { $(
        #[tokio::test(flavor = "multi_thread")]
        async fn $name() {
            controller_dies_at($point).await;
        }
    )* };
}

controller_dies! {
    controller_dies_before_adding: "controller.leave_proposed.before";
    controller_dies_after_adding_began: "controller.leave_proposed.after";
    controller_dies_before_catching_up: "controller.leave_adding.before";
    controller_dies_after_catching_up_began: "controller.leave_adding.after";
    controller_dies_when_caught_up: "controller.leave_catching_up.before";
    controller_dies_before_transferring: "controller.leave_catching_up.after";
    controller_dies_after_the_transfer: "controller.leave_transferring.before";
    controller_dies_before_switching: "controller.leave_transferring.after";
    controller_dies_after_the_switch: "controller.leave_switching.before";
    controller_dies_before_removing: "controller.leave_switching.after";
    controller_dies_after_the_removal: "controller.leave_removing.before";
    controller_dies_before_cleaning: "controller.leave_removing.after";
    controller_dies_after_cleaning: "controller.leave_cleaning.before";
}
