//! A shard whose majority is gone for good goes on from what one survivor has, and the dead do no harm when they return.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use client::proto::{HostStatus, ShardStatus};
use client::{Client, ClientConfig};

use super::harness::{Cluster, PATIENCE, check_all, eventually, godwit, keys, write_all};

const HOSTS: usize = 5;
const SHARDS: u32 = 4;
const PAUSE: Duration = Duration::from_millis(100);

/// A cluster in which some shard has lost two of its three voters.
struct Loss {
    cluster: Cluster,
    /// What was acknowledged, and had reached every replica.
    acknowledged: BTreeMap<String, String>,
    /// The dead hosts, by index.
    dead: Vec<usize>,
    /// A shard that lost its majority, as it was.
    shard: ShardStatus,
}

impl Loss {
    /// `points` are fail points at which each host would end itself.
    async fn start(points: &str) -> Self {
        let mut cluster = Cluster::processes(HOSTS);
        cluster.hosts[0].settings = vec!["balancer.dead_after_ms=1000".to_owned()];
        cluster.hosts.iter_mut().for_each(|host| host.start(points));
        cluster.init(SHARDS).await;
        cluster.wait_until_settled(SHARDS as usize).await;
        let acknowledged = write_all(&cluster.client().await, &keys(80), "kept").await;
        let shard = cluster.shards().await.remove(0);
        same_everywhere(&cluster, &shard).await;
        let mut dead = Vec::new();
        for replica in &shard.replicas[..2] {
            dead.push(cluster.index_of(replica.host_id).await);
        }
        Self {
            cluster,
            acknowledged,
            dead,
            shard,
        }
    }

    async fn strike(&mut self) {
        self.dead.iter().for_each(|host| self.cluster.hosts[*host].kill());
        eventually("the two are declared dead", || async {
            let hosts = self.hosts().await;
            let state = |replica: usize| &hosts[&self.shard.replicas[replica].host_id].state;
            match (state(0).as_str(), state(1).as_str()) {
                ("dead", "dead") => Ok(()),
                other => Err(format!("{other:?}")),
            }
        })
        .await;
    }

    fn alive(&self) -> Vec<usize> {
        (0..HOSTS).filter(|host| !self.dead.contains(host)).collect()
    }

    fn addresses(&self) -> Vec<String> {
        let alive = self.alive().into_iter();
        alive
            .map(|host| self.cluster.hosts[host].address.clone())
            .collect()
    }

    async fn hosts(&self) -> BTreeMap<u64, HostStatus> {
        let admin = self.cluster.admin_of(&self.alive());
        let reply = eventually("hosts are listed", || async {
            admin.hosts().await.map_err(|e| e.to_string())
        })
        .await;
        reply.hosts.into_iter().map(|host| (host.host_id, host)).collect()
    }

    async fn admin(&self, verb: &[&str]) -> (Option<i32>, String, String) {
        let mut line = vec![
            "--connect".to_owned(),
            self.addresses().join(","),
            "admin".to_owned(),
        ];
        line.extend(verb.iter().map(|word| (*word).to_owned()));
        let run = move || godwit(&line.iter().map(String::as_str).collect::<Vec<_>>());
        tokio::task::spawn_blocking(run).await.unwrap()
    }

    /// A client that knows the live hosts alone.
    async fn client(&self) -> Client {
        let config = ClientConfig {
            deadline: Duration::from_secs(30),
            ..ClientConfig::new(self.addresses())
        };
        eventually("a client connects", || async {
            Client::connect(config.clone()).await.map_err(|e| e.to_string())
        })
        .await
    }

    /// The shards that lost their majority.
    async fn lost(&self) -> Vec<u64> {
        let gone: Vec<u64> = self.shard.replicas[..2]
            .iter()
            .map(|replica| replica.host_id)
            .collect();
        let lost = |shard: &&ShardStatus| {
            let voters = shard.replicas.iter().filter(|replica| replica.role == "voter");
            voters.filter(|replica| gone.contains(&replica.host_id)).count() > 1
        };
        let shards = self.cluster.shards().await;
        shards.iter().filter(lost).map(|shard| shard.shard_id).collect()
    }

    /// Orders the recovery of a shard, and returns its migration.
    async fn order(&self, shard: u64) -> u64 {
        let named = shard.to_string();
        let recover = ["recover", &named, "--unsafe", "--reason", "fire", "--json"];
        eventually("the recovery is ordered", || async {
            let (code, told, error) = self.admin(&recover).await;
            let document: serde_json::Value = match code {
                Some(0) => serde_json::from_str(&told).unwrap(),
                _ => return Err(error),
            };
            Ok(document["migration_id"].as_u64().unwrap())
        })
        .await
    }

    async fn repaired(&self) {
        let gone: Vec<u64> = self.shard.replicas[..2]
            .iter()
            .map(|replica| replica.host_id)
            .collect();
        eventually("every shard has three voters again", || async {
            let shards = self.cluster.shards().await;
            let whole = |shard: &ShardStatus| {
                let voters = shard.replicas.iter().filter(|replica| replica.role == "voter");
                shard.replicas.len() == 3 && voters.filter(|at| !gone.contains(&at.host_id)).count() == 3
            };
            match shards.iter().find(|shard| !whole(shard)) {
                None => Ok(()),
                Some(shard) => Err(format!("{shard:?}")),
            }
        })
        .await;
    }
}

/// Waits until all replicas of a shard have applied the same.
async fn same_everywhere(cluster: &Cluster, shard: &ShardStatus) {
    let admin = cluster.admin();
    eventually("all replicas have the same", || async {
        let mut found = Vec::new();
        for replica in &shard.replicas {
            let host = cluster.index_of(replica.host_id).await;
            let address = &cluster.hosts[host].address;
            let reply = admin.replica_ends_of(address, shard.shard_id).await;
            let states = reply.map_err(|e| e.to_string())?.replicas;
            found.extend(
                states
                    .iter()
                    .map(|state| (state.last_term, state.last_index, state.applied_index)),
            );
        }
        match found.len() == 3 && found.iter().all(|state| *state == found[0] && state.1 == state.2) {
            true => Ok(()),
            false => Err(format!("{found:?}")),
        }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_shard_goes_on_from_its_survivor_and_the_dead_do_no_harm() {
    let mut loss = Loss::start("").await;
    let named = loss.shard.shard_id.to_string();
    let (code, told, _) = loss.admin(&["recover", &named]).await;
    assert_eq!(code, Some(0));
    assert!(
        told.contains("a forced recovery is refused: 0 of the 3 voters"),
        "{told}"
    );
    let (code, _, error) = loss.admin(&["recover", &named, "--unsafe"]).await;
    assert_eq!(code, Some(1));
    assert!(error.contains("0 of the 3 voters"), "{error}");

    let before = loss.client().await;
    loss.strike().await;
    let (code, told, error) = loss.admin(&["recover", &named]).await;
    assert_eq!(code, Some(0), "{error}");
    assert!(
        told.contains("voters on dead hosts: replica") && told.contains("--unsafe` goes on from replica"),
        "{told}"
    );
    let lost = loss.lost().await;
    assert!(lost.contains(&loss.shard.shard_id), "{lost:?}");
    for shard in &lost {
        let migration = loss.order(*shard).await;
        let ended = loss.cluster.wait_for(migration).await;
        assert_eq!(
            (ended.kind.as_str(), ended.state.as_str()),
            ("recover", "Done"),
            "{ended:?}"
        );
    }

    // All that the survivors had is there, and new writes are taken: from a client that knows the old map, too.
    check_all(&before, &loss.acknowledged).await;
    let client = loss.client().await;
    check_all(&client, &loss.acknowledged).await;
    let acknowledged = write_all(&before, &keys(80), "after").await;
    check_all(&client, &acknowledged).await;
    loss.repaired().await;
    let (_, history, _) = loss
        .admin(&["history", "--shard", &named, "--limit", "1000"])
        .await;
    for words in [
        "ForcedRecovery",
        "forced by Manual: fire",
        "goes on as",
        "is lost",
    ] {
        assert!(history.contains(words), "{words} is not in {history}");
    }

    // The dead come back with what they had of the old group, and destroy it.
    for host in loss.dead.clone() {
        loss.cluster.hosts[host].start("");
    }
    let old: Vec<String> = loss.shard.replicas[..2]
        .iter()
        .map(|replica| format!("s{named}-r{}", replica.replica_id))
        .collect();
    eventually("the old replicas are gone", || async {
        let hosts = loss.hosts().await;
        let state = |replica: usize| hosts[&loss.shard.replicas[replica].host_id].state.clone();
        let file = |at: usize| {
            loss.cluster.hosts[loss.dead[at]]
                .folder
                .join("data/replicas")
                .join(&old[at])
        };
        match (
            state(0).as_str(),
            state(1).as_str(),
            file(0).exists(),
            file(1).exists(),
        ) {
            ("up", "up", false, false) => Ok(()),
            other => Err(format!("{other:?}")),
        }
    })
    .await;
    check_all(&loss.cluster.client().await, &acknowledged).await;
    let later = write_all(&loss.cluster.client().await, &keys(80), "later").await;
    check_all(&client, &later).await;
}

/// Whoever dies in the middle of it, the recovery goes on once that host is back.
async fn goes_on_after(point: &str) {
    let mut loss = Loss::start(point).await;
    loss.strike().await;
    let migration = loss.order(loss.shard.shard_id).await;
    let victim = wait_for_end_of_one(&mut loss).await;
    loss.cluster.hosts[victim].start("");
    finish(&mut loss, migration).await;
    for shard in loss.lost().await {
        let migration = loss.order(shard).await;
        finish(&mut loss, migration).await;
    }
    check_all(&loss.client().await, &loss.acknowledged).await;
}

/// Waits until a recovery is done, and starts again whoever meets the point meanwhile.
async fn finish(loss: &mut Loss, migration: u64) {
    let started = Instant::now();
    loop {
        if let Some(victim) = ended_one(loss) {
            loss.cluster.hosts[victim].start("");
        }
        let known = loss.cluster.migrations().await;
        let found = known.iter().find(|known| known.migration_id == migration);
        if found.is_some_and(|found| found.state == "Done") {
            return;
        }
        assert!(started.elapsed() < PATIENCE, "{found:?}");
        tokio::time::sleep(PAUSE).await;
    }
}

fn ended_one(loss: &mut Loss) -> Option<usize> {
    let alive = loss.alive();
    alive.into_iter().find(|host| !loss.cluster.hosts[*host].runs())
}

async fn wait_for_end_of_one(loss: &mut Loss) -> usize {
    let started = Instant::now();
    loop {
        if let Some(host) = ended_one(loss) {
            return host;
        }
        assert!(started.elapsed() < PATIENCE, "no host met the point");
        tokio::time::sleep(PAUSE).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_survivor_dies_before_the_new_group_has_its_name() {
    goes_on_after("replica.reopen.before_rename").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_controller_dies_after_the_survivors_were_asked() {
    goes_on_after("controller.leave_collecting.after").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_controller_dies_before_it_writes_of_the_new_group() {
    goes_on_after("controller.leave_reopening.before").await;
}
