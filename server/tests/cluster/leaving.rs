//! Hosts are drained and decommissioned without anybody noticing, and those that have left do not come back.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use client::Client;
use client::proto::HostStatus;

use super::harness::{Cluster, check_all, eventually, godwit, keys, write_all};

/// Runs `godwit admin` against the other hosts of a cluster.
async fn admin(cluster: &Cluster, without: usize, verb: &[&str]) -> (Option<i32>, String, String) {
    let others = (0..cluster.hosts.len()).filter(|host| *host != without);
    let addresses: Vec<String> = others.map(|host| cluster.hosts[host].address.clone()).collect();
    let mut line = vec!["--connect".to_owned(), addresses.join(","), "admin".to_owned()];
    line.extend(verb.iter().map(|word| (*word).to_owned()));
    let run = move || godwit(&line.iter().map(String::as_str).collect::<Vec<_>>());
    tokio::task::spawn_blocking(run).await.unwrap()
}

/// The hosts by id, as one that is no longer asked tells of them.
async fn hosts(cluster: &Cluster, without: usize) -> BTreeMap<u64, HostStatus> {
    let others: Vec<usize> = (0..cluster.hosts.len()).filter(|host| *host != without).collect();
    let admin = cluster.admin_of(&others);
    let reply = eventually("hosts are listed", || async {
        admin.hosts().await.map_err(|e| e.to_string())
    })
    .await;
    reply.hosts.into_iter().map(|host| (host.host_id, host)).collect()
}

/// The hosts of every group's replicas, the placement group's first.
async fn replica_sets(cluster: &Cluster) -> Vec<BTreeSet<u64>> {
    let mut groups = vec![cluster.placement_group().await];
    groups.extend(cluster.shards().await);
    let hosts_of = |group: &client::proto::ShardStatus| {
        let replicas = group.replicas.iter();
        replicas.map(|replica| replica.host_id).collect()
    };
    groups.iter().map(hosts_of).collect()
}

/// Writes and reads all the time. An operation that fails ends the test.
struct Traffic {
    stop: Arc<AtomicBool>,
    writer: tokio::task::JoinHandle<(usize, BTreeMap<String, String>)>,
}

impl Traffic {
    fn start(client: Client) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = stop.clone();
        let writer = tokio::spawn(async move {
            let (mut rounds, mut acknowledged) = (0, BTreeMap::new());
            while !stopped.load(Ordering::Relaxed) {
                rounds += 1;
                acknowledged.extend(write_all(&client, &keys(40), &format!("round {rounds}")).await);
                check_all(&client, &acknowledged).await;
            }
            (rounds, acknowledged)
        });
        Self { stop, writer }
    }

    async fn end(self) -> BTreeMap<String, String> {
        self.stop.store(true, Ordering::Relaxed);
        let (rounds, acknowledged) = self.writer.await.expect("no operation failed");
        assert!(rounds > 1, "the traffic went on meanwhile");
        acknowledged
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_controllers_host_is_drained_under_writes_and_leaves_for_good() {
    let mut cluster = Cluster::start(4, 6).await;
    let traffic = Traffic::start(cluster.client().await);
    let id = cluster.placement_group().await.home;
    let leaving = cluster.index_of(id).await;
    let named = id.to_string();

    let drain = [
        "drain",
        &named,
        "--wait",
        "--timeout",
        "120",
        "--reason",
        "new disk",
    ];
    let (code, told, error) = admin(&cluster, leaving, &drain).await;
    assert_eq!(code, Some(0), "{error}");
    assert!(told.contains("left\n") && told.contains("is drained"), "{told}");
    let drained = hosts(&cluster, leaving).await.remove(&id).unwrap();
    assert_eq!(
        (drained.state.as_str(), drained.replicas, drained.homes),
        ("draining", 0, 0)
    );
    for set in replica_sets(&cluster).await {
        assert!(set.len() == 3 && !set.contains(&id), "{set:?}");
    }
    let migrations = cluster.migrations().await;
    let away = |origin: &str| migrations.iter().any(|known| known.origin == origin);
    assert!(away("drain"), "{migrations:?}");

    // Nobody could take what another one holds.
    let other = if id == 1 { "2" } else { "1" };
    let (code, _, error) = admin(&cluster, leaving, &["drain", other]).await;
    assert_eq!(code, Some(1));
    assert!(
        error.contains("needs 3 voters, and only 2 other hosts can hold one"),
        "{error}"
    );

    let decommission = ["decommission", &named, "--wait", "--timeout", "60"];
    let (code, told, error) = admin(&cluster, leaving, &decommission).await;
    assert_eq!(code, Some(0), "{error}");
    assert!(
        told.contains(&format!("host {id} has left the cluster for good")),
        "{told}"
    );
    let acknowledged = traffic.end().await;

    // Its process hears of it, and when it is started again.
    for _ in 0..2 {
        assert!(!cluster.hosts[leaving].wait_for_end().success());
        let log = std::fs::read_to_string(cluster.hosts[leaving].folder.join("host.log")).unwrap();
        assert!(log.contains("was decommissioned"), "{log}");
        std::fs::remove_file(cluster.hosts[leaving].folder.join("host.log")).unwrap();
        cluster.hosts[leaving].start("");
    }
    cluster.hosts[leaving].wait_for_end();
    assert!(!hosts(&cluster, leaving).await.contains_key(&id));
    let (_, all, _) = admin(&cluster, leaving, &["hosts", "--all", "--json"]).await;
    assert!(all.contains("\"decommissioned\""), "{all}");
    let (_, history, _) = admin(
        &cluster,
        leaving,
        &["history", "--host", &named, "--limit", "1000"],
    )
    .await;
    for words in [
        "Open -> Draining by Manual: new disk",
        "Draining -> Decommissioning",
        "Up -> Removed",
        "Move by Drain",
    ] {
        assert!(history.contains(words), "{words} is not in {history}");
    }

    // Its address is free for a new host, which gets an id of its own.
    let address = cluster.hosts[leaving].address.clone();
    let joined = cluster.add_host();
    cluster.hosts[joined].address = address.clone();
    let seed = if leaving == 0 { 1 } else { 0 };
    cluster.hosts[joined].join = Some(cluster.hosts[seed].address.clone());
    cluster.hosts[joined].start("");
    eventually("the new host joins", || async {
        let known = hosts(&cluster, leaving).await;
        match known.values().find(|host| host.address == address) {
            Some(host) if host.host_id == 5 && host.state == "up" => Ok(()),
            other => Err(format!("{other:?}")),
        }
    })
    .await;
    check_all(&cluster.client().await, &acknowledged).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dead_host_is_decommissioned_once_what_it_held_is_rebuilt() {
    let mut cluster = Cluster::start(4, 6).await;
    let acknowledged = write_all(&cluster.client().await, &keys(60), "kept").await;
    let sets = replica_sets(&cluster).await;
    let id = *sets[0].last().unwrap();
    let dead = cluster.index_of(id).await;
    let named = id.to_string();
    cluster.hosts[dead].kill();
    let without_it = cluster_without(&cluster, dead).await;
    check_all(&without_it, &acknowledged).await;
    eventually("the dead host is known to be down", || async {
        match hosts(&cluster, dead).await[&id].state.as_str() {
            "down" => Ok(()),
            other => Err(other.to_owned()),
        }
    })
    .await;
    // It would be declared dead by itself only after five minutes.
    let decommission = ["decommission", &named, "--wait", "--timeout", "60", "--json"];
    let (code, told, error) = admin(&cluster, dead, &decommission).await;
    assert_eq!(code, Some(0), "{error}");
    let document: serde_json::Value = serde_json::from_str(&told).unwrap();
    assert_eq!(document["host"]["state"], "decommissioned");
    let live: BTreeSet<u64> = (1..=4).filter(|host| *host != id).collect();
    for set in replica_sets(&cluster).await {
        assert_eq!(set, live);
    }
    cluster.hosts[dead].start("");
    assert!(!cluster.hosts[dead].wait_for_end().success());
    let log = std::fs::read_to_string(cluster.hosts[dead].folder.join("host.log")).unwrap();
    assert!(log.contains("was decommissioned"), "{log}");
    check_all(&without_it, &acknowledged).await;

    // A new process with an empty folder takes its place, under an id of its own.
    std::fs::remove_dir_all(cluster.hosts[dead].folder.join("data")).unwrap();
    let seed = usize::from(dead == 0);
    cluster.hosts[dead].join = Some(cluster.hosts[seed].address.clone());
    cluster.hosts[dead].start("");
    eventually("the new host joins", || async {
        match hosts(&cluster, dead).await.get(&5) {
            Some(host) if host.state == "up" && host.address == cluster.hosts[dead].address => Ok(()),
            other => Err(format!("{other:?}")),
        }
    })
    .await;
    let away = live.first().unwrap().to_string();
    let (code, _, error) = admin(&cluster, dead, &["drain", &away, "--wait", "--timeout", "60"]).await;
    assert_eq!(
        code,
        Some(0),
        "the new host takes what another one holds: {error}"
    );
    for set in replica_sets(&cluster).await {
        assert!(set.contains(&5), "{set:?}");
    }
    check_all(&cluster.client().await, &acknowledged).await;
}

/// A client that knows the other hosts alone.
async fn cluster_without(cluster: &Cluster, host: usize) -> Client {
    let others = cluster.hosts.iter().enumerate().filter(|(at, _)| *at != host);
    let config = client::ClientConfig {
        deadline: std::time::Duration::from_secs(30),
        ..client::ClientConfig::new(others.map(|(_, host)| host.address.clone()))
    };
    eventually("a client connects", || async {
        Client::connect(config.clone()).await.map_err(|e| e.to_string())
    })
    .await
}

/// The cluster knows it by the token in its folder, and it knows nothing of the cluster.
#[tokio::test(flavor = "multi_thread")]
async fn a_host_that_never_heard_its_id_hears_that_it_was_decommissioned() {
    let mut cluster = Cluster::start(3, 2).await;
    let fourth = cluster.add_host();
    cluster.hosts[fourth].start("host.join.before_identity");
    assert!(!cluster.hosts[fourth].wait_for_end().success());
    eventually("it is a member all the same", || async {
        match hosts(&cluster, fourth).await.contains_key(&4) {
            true => Ok(()),
            false => Err("it is not".to_owned()),
        }
    })
    .await;
    let decommission = ["decommission", "4", "--wait", "--timeout", "60"];
    let (code, _, error) = admin(&cluster, fourth, &decommission).await;
    assert_eq!(code, Some(0), "{error}");
    cluster.hosts[fourth].start("");
    assert!(!cluster.hosts[fourth].wait_for_end().success());
    let log = std::fs::read_to_string(cluster.hosts[fourth].folder.join("host.log")).unwrap();
    assert!(log.contains("this host (h4) was decommissioned"), "{log}");

    // With an empty folder it is another host.
    std::fs::remove_dir_all(cluster.hosts[fourth].folder.join("data")).unwrap();
    cluster.hosts[fourth].start("");
    eventually("the new host joins", || async {
        match hosts(&cluster, fourth).await.get(&5) {
            Some(host) if host.state == "up" => Ok(()),
            other => Err(format!("{other:?}")),
        }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_drain_that_cannot_go_on_says_what_it_waits_for() {
    let mut cluster = Cluster::start(4, 4).await;
    // Only the fourth host could take what a shard's three hosts hold.
    let set = &replica_sets(&cluster).await[1];
    let fourth = (1..=4).find(|host| !set.contains(host)).unwrap();
    let (down, id) = (cluster.index_of(fourth).await, *set.first().unwrap());
    let (named, fourth) = (id.to_string(), fourth.to_string());

    let (code, told, error) = admin(&cluster, down, &["cordon", &fourth]).await;
    assert_eq!(code, Some(0), "{error}");
    assert!(told.contains("is cordoned: it keeps"), "{told}");
    let (code, _, error) = admin(&cluster, down, &["drain", &named]).await;
    assert_eq!(code, Some(1));
    assert!(error.contains("let a host join first"), "{error}");
    assert_eq!(admin(&cluster, down, &["uncordon", &fourth]).await.0, Some(0));

    cluster.hosts[down].kill();
    eventually("it is known to be down", || async {
        match hosts(&cluster, down).await[&fourth.parse::<u64>().unwrap()]
            .state
            .as_str()
        {
            "down" => Ok(()),
            other => Err(other.to_owned()),
        }
    })
    .await;
    let (code, _, error) = admin(&cluster, down, &["drain", &named, "--wait", "--timeout", "5"]).await;
    assert_eq!(code, Some(1));
    assert!(
        error.contains("shard 1: no other host is up and can take it"),
        "{error}"
    );
    eventually("its homes are elsewhere all the same", || async {
        let drained = &hosts(&cluster, down).await[&id];
        match (drained.state.as_str(), drained.homes, drained.replicas) {
            ("draining", 0, 1..) => Ok(()),
            other => Err(format!("{other:?}")),
        }
    })
    .await;
    cluster.hosts[down].start("");
    let (code, told, error) = admin(&cluster, down, &["drain", &named, "--wait"]).await;
    assert_eq!(code, Some(0), "{error}");
    assert!(told.contains("is drained"), "{told}");
}
