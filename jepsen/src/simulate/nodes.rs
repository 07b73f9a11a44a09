//! Those who use the simulated cluster: its clients, and an operator who makes it, moves shards about, and says when
//! it is well again.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use client::proto::{
    InitRequest, MergeShardRequest, MigrationsRequest, MoveHomeRequest, MoveReplicaRequest, ShardStatus,
    ShardsRequest, SplitShardRequest,
};
use client::{AdminClient, Client, ClientConfig};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::plan::{FaultClass, Plan, pick};
use super::world::{CLIENTS, STRANGER, World, addresses, client_config, endpoint};
use crate::generate::Chance;
use crate::ranges::{first_bytes_within, first_gap, mergeable};
use crate::record::Recorder;
use crate::workload::{self, Connect, ReadAll, Used, WorkloadName, WorkloadPlan};

const PAUSE: Duration = Duration::from_millis(100);
/// Shards that splits may add.
const SPLITS_MAX: usize = 4;
/// The numbers of clients that are no clients of a workload, so that their sessions are their own.
const READER: u64 = 1 << 32;
const OPERATOR: u64 = 1 << 33;

/// How far a schedule has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Stage {
    /// Hosts start; there is no cluster yet.
    Forming,
    /// Clients work, shards move, faults strike.
    Faults,
    /// Clients work, faults are over.
    Healed,
    /// Clients have stopped; every key is read.
    Reading,
}

/// What the nodes tell the driver.
#[derive(Default)]
pub(super) struct Told {
    /// The cluster is made, and every shard has a home.
    pub(super) formed: bool,
    /// The id of that cluster.
    cluster_id: Option<String>,
    /// Since when every shard has had a home again.
    pub(super) homes_at: Option<Duration>,
    /// Since when no migration has been active.
    pub(super) migrations_at: Option<Duration>,
    /// Migrations that were accepted, by kind.
    pub(super) asked: BTreeMap<String, u64>,
    /// What the clients used, and what was read in the end.
    pub(super) closed: Option<(Used, ReadAll)>,
    /// What could not be done at all.
    pub(super) failure: Option<String>,
}

/// The line between the driver and the nodes.
#[derive(Clone)]
pub(super) struct Line {
    pub(super) stage: Arc<watch::Sender<Stage>>,
    told: Arc<Mutex<Told>>,
}

impl Line {
    pub(super) fn new() -> Self {
        Self {
            stage: Arc::new(watch::Sender::new(Stage::Forming)),
            told: Arc::default(),
        }
    }

    pub(super) fn told(&self) -> MutexGuard<'_, Told> {
        self.told.lock().expect("no panic under this lock")
    }

    fn now(&self) -> Stage {
        *self.stage.borrow()
    }

    async fn reached(&self, stage: Stage) {
        let mut stages = self.stage.subscribe();
        // The driver holds the sender until the end.
        let _ = stages.wait_for(|now| *now >= stage).await;
    }
}

/// Puts the clients and the operator into the simulation.
pub(super) fn join(world: &mut World<'_>, plan: &Plan, line: &Line, recorder: &Recorder) {
    let (clients, operator) = (line.clone(), line.clone());
    let (plan_of_clients, plan_of_operator) = (plan.clone(), plan.clone());
    let recorder = recorder.clone();
    world.sim.client(CLIENTS, async move {
        run_clients(plan_of_clients, &clients, recorder).await;
        Ok(())
    });
    world.sim.client("operator", async move {
        operate(plan_of_operator, &operator).await;
        Ok(())
    });
}

async fn run_clients(plan: Plan, line: &Line, recorder: Recorder) {
    line.reached(Stage::Faults).await;
    let stop = CancellationToken::new();
    let (hosts, seed) = (plan.hosts, plan.seed);
    // Named, or a client that begins with a stranger would stay with it.
    let cluster_id = line.told().cluster_id.clone();
    let config_of = move |number| ClientConfig {
        cluster_id: cluster_id.clone(),
        ..client_config(hosts, seed, number)
    };
    let reader = config_of(READER);
    let connect_one: Connect = Arc::new(move |number| Box::pin(Client::connect(config_of(number))));
    let load = WorkloadPlan {
        names: WorkloadName::ALL.to_vec(),
        seed,
        clients: plan.clients,
        watchers: 1,
        operations_per_s: plan.operations_per_s,
        keys_live: 3,
        read_mode: plan.read_mode,
        ..WorkloadPlan::default()
    };
    let running = workload::start(load, recorder.clone(), connect_one, stop.clone());
    line.reached(Stage::Reading).await;
    stop.cancel();
    let used = running.finish().await;
    let reader = loop {
        match Client::connect(reader.clone()).await {
            Ok(reader) => break reader.with_deadline(Duration::from_secs(10)),
            Err(_) => tokio::time::sleep(PAUSE).await,
        }
    };
    let read = workload::read_all(&used, &reader, &recorder).await;
    line.told().closed = Some((used, read));
}

/// The operator of a simulated cluster.
struct Operator {
    admin: AdminClient,
    chance: Chance,
    hosts: Vec<u64>,
}

async fn operate(plan: Plan, line: &Line) {
    let config = ClientConfig {
        deadline: Duration::from_secs(3),
        ..client_config(plan.hosts, plan.seed, OPERATOR)
    };
    let admin = match AdminClient::new(config) {
        Ok(admin) => admin,
        Err(e) => {
            line.told().failure = Some(e.to_string());
            return;
        }
    };
    let mut operator = Operator {
        admin,
        chance: Chance::new(plan.seed ^ 0x0be7_a704),
        hosts: Vec::new(),
    };
    let cluster_id = operator.form(&plan).await;
    {
        let mut told = line.told();
        told.cluster_id = cluster_id;
        told.formed = true;
    }
    line.reached(Stage::Faults).await;
    while line.now() == Stage::Faults {
        let pause = plan.move_pause.as_millis() as u64;
        tokio::time::sleep(Duration::from_millis(pause / 2 + operator.chance.below(pause))).await;
        operator.ask(&plan, line).await;
    }
    operator.watch_recovery(line).await;
}

/// Makes a cluster of which the host at one of `endpoints` is the first; its id.
async fn init(plan: &Plan, endpoints: Vec<String>, request: InitRequest) -> Option<String> {
    let config = ClientConfig {
        endpoints,
        ..client_config(plan.hosts, plan.seed, OPERATOR + 1)
    };
    let first = AdminClient::new(config).ok()?;
    loop {
        match first.init(request.clone()).await {
            Ok(reply) => return Some(reply.cluster_id),
            Err(_) => tokio::time::sleep(PAUSE).await,
        }
    }
}

impl Operator {
    /// The id of the cluster that was made.
    async fn form(&mut self, plan: &Plan) -> Option<String> {
        let request = InitRequest {
            shards: plan.shards,
            split_at: Vec::new(),
            replication_factor: 3,
            hosts: plan.hosts as u32,
        };
        let cluster_id = init(plan, addresses(1), request.clone()).await;
        if plan.faults.contains(&FaultClass::Stranger) {
            let request = InitRequest {
                replication_factor: 1,
                hosts: 1,
                ..request
            };
            init(plan, vec![endpoint(STRANGER)], request).await;
        }
        while !self.homes_are_known().await {
            tokio::time::sleep(PAUSE).await;
        }
        while self.hosts.len() < plan.hosts {
            if let Ok(reply) = self.admin.hosts().await {
                self.hosts = reply.hosts.iter().map(|host| host.host_id).collect();
            }
            tokio::time::sleep(PAUSE).await;
        }
        cluster_id
    }

    async fn shards(&self) -> Option<Vec<ShardStatus>> {
        let all = ShardsRequest {
            shard_id: 0,
            placement_group: false,
        };
        self.admin.shards(all).await.ok().map(|reply| reply.shards)
    }

    async fn homes_are_known(&self) -> bool {
        let shards = self.shards().await.unwrap_or_default();
        // Splits make more of them, merges fewer.
        first_gap(&shards).is_none() && shards.iter().all(|shard| shard.home != 0)
    }

    /// Asks for a migration, or for a burst of home moves.
    async fn ask(&mut self, plan: &Plan, line: &Line) {
        let Some(shards) = self.shards().await.filter(|shards| !shards.is_empty()) else {
            return;
        };
        let storm = plan.faults.contains(&FaultClass::TransferStorm) && self.chance.permille(200);
        if storm {
            *line.told().asked.entry("transfer-storm".to_owned()).or_default() += 1;
        }
        for _ in 0..if storm { 6 } else { 1 } {
            let shard = &shards[pick(&mut self.chance, shards.len())];
            let may_split = !storm && shards.len() < plan.shards as usize + SPLITS_MAX;
            let kind = if may_split && self.chance.permille(150) {
                self.split(shard).await.then_some("split")
            } else if !storm && self.chance.permille(150) {
                self.merge(&shards).await.then_some("merge")
            } else if storm || self.chance.permille(400) {
                self.move_home(shard).await.then_some("move-home")
            } else {
                self.move_replica(shard).await.then_some("move-replica")
            };
            if let Some(kind) = kind {
                *line.told().asked.entry(kind.to_owned()).or_default() += 1;
            }
        }
    }

    /// Whether the split was accepted. Keys that a transaction takes together begin with the same byte and stay together.
    async fn split(&mut self, shard: &ShardStatus) -> bool {
        let keys: Vec<u8> = first_bytes_within(shard).collect();
        if keys.is_empty() {
            return false;
        }
        let at = keys[pick(&mut self.chance, keys.len())];
        let request = SplitShardRequest {
            shard_id: shard.shard_id,
            at: vec![at].into(),
            reason: "the schedule".into(),
        };
        self.admin
            .split_shard(request)
            .await
            .is_ok_and(|reply| reply.refused.is_empty())
    }

    /// Whether a merge was accepted.
    async fn merge(&mut self, shards: &[ShardStatus]) -> bool {
        let fit: Vec<u64> = mergeable(shards).collect();
        if fit.is_empty() {
            return false;
        }
        let request = MergeShardRequest {
            shard_id: fit[pick(&mut self.chance, fit.len())],
            reason: "the schedule".into(),
        };
        self.admin
            .merge_shard(request)
            .await
            .is_ok_and(|reply| reply.refused.is_empty())
    }

    /// Whether the move was accepted.
    async fn move_home(&mut self, shard: &ShardStatus) -> bool {
        let others: Vec<u64> = shard
            .replicas
            .iter()
            .map(|replica| replica.host_id)
            .filter(|host| *host != shard.home)
            .collect();
        if others.is_empty() {
            return false;
        }
        let request = MoveHomeRequest {
            shard_id: shard.shard_id,
            to_host: others[pick(&mut self.chance, others.len())],
            reason: "the schedule".into(),
        };
        self.admin
            .move_home(request)
            .await
            .is_ok_and(|reply| reply.refused.is_empty())
    }

    /// Whether the move was accepted.
    async fn move_replica(&mut self, shard: &ShardStatus) -> bool {
        let holders: Vec<u64> = shard.replicas.iter().map(|replica| replica.host_id).collect();
        let free: Vec<u64> = self
            .hosts
            .iter()
            .copied()
            .filter(|host| !holders.contains(host))
            .collect();
        if free.is_empty() || holders.is_empty() {
            return false;
        }
        let request = MoveReplicaRequest {
            shard_id: shard.shard_id,
            from_host: holders[pick(&mut self.chance, holders.len())],
            to_host: free[pick(&mut self.chance, free.len())],
            reason: "the schedule".into(),
        };
        self.admin
            .move_replica(request)
            .await
            .is_ok_and(|reply| reply.refused.is_empty())
    }

    /// After the heal: since when is it well?
    async fn watch_recovery(&self, line: &Line) {
        let now = || turmoil::sim_elapsed().unwrap_or_default();
        while !self.homes_are_known().await {
            tokio::time::sleep(PAUSE).await;
        }
        line.told().homes_at = Some(now());
        let active = MigrationsRequest {
            include_ended: false,
            limit: 100,
        };
        loop {
            let migrations = self.admin.migrations(active).await;
            if migrations.is_ok_and(|reply| reply.migrations.is_empty()) {
                break;
            }
            tokio::time::sleep(PAUSE).await;
        }
        line.told().migrations_at = Some(now());
    }
}
