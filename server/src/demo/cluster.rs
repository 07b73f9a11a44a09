//! The demo's hosts: six processes of this binary on free loopback ports, one a zone.

use std::collections::BTreeMap;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use client::proto::{
    CloseWindowReply, CloseWindowRequest, InitRequest, MigrationsRequest, MoveHomeRequest,
    MoveReplicaRequest, PlanOutcome, SetBalancerRequest, ShardStatus, ShardsRequest,
};
use client::{AdminClient, Client, ClientConfig, Connector, TcpConnector};
use placement::{WindowId, Zone};
use tokio::process::{Child, Command};

use super::prepare::{Prepared, Site};
use super::{DemoError, write_file};
use crate::cli::DemoArgs;
use crate::config::PolicyName;
use crate::net::{AddressZones, DelayedConnector};
use crate::program;

/// How long the hosts may take to find each other and start every shard.
const START_TIMEOUT: Duration = Duration::from_secs(90);
const STOP_TIMEOUT: Duration = Duration::from_secs(10);
const LOOK_PAUSE: Duration = Duration::from_millis(200);
/// An explicit plan with replica moves takes this long at most.
const PLAN_DEADLINE: Duration = Duration::from_secs(150);
/// Plans that move replicas to where the training part was read.
const PLACEMENT_ROUNDS_MAX: usize = 8;
/// The rest before a plan that was refused whole is made again.
const PLACEMENT_PAUSE: Duration = Duration::from_secs(1);
/// Some hundred replicas on two cores: calmer clocks than a host's default.
const CLOCKS: [&str; 3] = [
    "raft.heartbeat_ms=500",
    "raft.election_min_ms=2000",
    "raft.election_max_ms=3000",
];

/// Begins the reason that no further attempt can mend.
const END_OF_HOST: &str = "the host at";

/// One host process.
struct Process {
    site: Site,
    address: String,
    folder: PathBuf,
    child: Mutex<Option<Child>>,
}

impl Process {
    fn put_child(&self, child: Child) {
        *self.child.lock().expect("no panic under this lock") = Some(child);
    }

    fn take_child(&self) -> Option<Child> {
        self.child.lock().expect("no panic under this lock").take()
    }
}

/// The hosts and how to reach them.
pub(crate) struct Cluster {
    processes: Vec<Process>,
    folder: PathBuf,
    _temporary: Option<TemporaryFolder>,
    zones: Arc<AddressZones>,
    rtt: Arc<placement::planner::RttMatrix>,
    arguments: Vec<String>,
}

/// Removed when the demo ends.
struct TemporaryFolder(PathBuf);

impl Drop for TemporaryFolder {
    fn drop(&mut self) {
        if let Err(e) = std::fs::remove_dir_all(&self.0) {
            eprintln!("could not remove {}: {e}", self.0.display());
        }
    }
}

impl Cluster {
    /// Starts the hosts, makes the cluster and waits until every shard has a home.
    pub(crate) async fn start(args: &DemoArgs, prepared: &Prepared) -> Result<Self, DemoError> {
        let (folder, temporary) = data_folder(args)?;
        let cluster = Self::describe(prepared, folder, temporary)?;
        println!(
            "\nStarting {} hosts in {}; the network between zones is emulated, up to {:.0} ms a round trip",
            cluster.processes.len(),
            cluster.folder.display(),
            f64::from(prepared.rtt.micros_max()) / 1000.0
        );
        for at in 0..cluster.processes.len() {
            cluster.spawn(at)?;
        }
        let request = InitRequest {
            split_at: prepared
                .ranges
                .splits()
                .iter()
                .map(|key| key.clone().into())
                .collect(),
            shards: args.shards,
            replication_factor: super::REPLICATION_FACTOR,
            hosts: cluster.processes.len() as u32,
        };
        let first = cluster.admin_at(vec![cluster.processes[0].address.clone()], START_TIMEOUT)?;
        retry(START_TIMEOUT, || async {
            cluster.check_alive()?;
            first.init(request.clone()).await.map_err(|e| e.to_string())
        })
        .await?;
        cluster
            .wait_until_served(prepared.ranges.splits().len() + 1)
            .await?;
        Ok(cluster)
    }

    /// Says which host has ended by itself, and why.
    fn check_alive(&self) -> Result<(), String> {
        for process in &self.processes {
            let mut child = process.child.lock().expect("no panic under this lock");
            if let Some(Ok(Some(status))) = child.as_mut().map(Child::try_wait) {
                let log = std::fs::read_to_string(process.folder.join("host.log")).unwrap_or_default();
                return Err(format!(
                    "{END_OF_HOST} {} ended with {status}: {log}",
                    process.address
                ));
            }
        }
        Ok(())
    }

    fn describe(
        prepared: &Prepared,
        folder: PathBuf,
        temporary: Option<TemporaryFolder>,
    ) -> Result<Self, DemoError> {
        let addresses = free_addresses(prepared.sites.len())?;
        let zones = Arc::new(AddressZones::default());
        let mut listed = "address,zone\n".to_owned();
        for (site, address) in prepared.sites.iter().zip(&addresses) {
            zones.insert(address, site.zone.clone());
            listed.push_str(&format!("{address},{}\n", site.zone));
        }
        let (rtt_file, zone_file, model_file) = (
            folder.join("rtt.csv"),
            folder.join("addresses.csv"),
            folder.join("model"),
        );
        write_file(&rtt_file, rtt_csv(prepared).as_bytes())?;
        write_file(&zone_file, listed.as_bytes())?;
        prepared
            .model
            .save(&model_file)
            .map_err(|e| DemoError::Train(e.to_string()))?;
        let mut arguments = vec![
            format!("--rtt-matrix={}", rtt_file.display()),
            format!("--rtt-addresses={}", zone_file.display()),
            "--log-filter=warn".to_owned(),
        ];
        let settings = [
            format!("profiler.window_ms={}", super::HOUR_MS),
            "profiler.access_log_sample_ppm=1000000".to_owned(),
            "balancer.external_windows=true".to_owned(),
            "balancer.dwell_windows=0".to_owned(),
            "balancer.replica_dwell_windows=0".to_owned(),
            "balancer.host_moves_max=32".to_owned(),
            // Policies are compared as they are, good or bad.
            "balancer.trust_moves=0".to_owned(),
            format!("balancer.model_file={}", model_file.display()),
            format!("balancer.history={}", absolute(&prepared.trace_file).display()),
            format!(
                "balancer.history_zones={}",
                absolute(&prepared.zones_file).display()
            ),
            format!("balancer.history_until_ms={}", prepared.plan.slice.from_ms),
            "balancer.lease_reads_ppm=1000000".to_owned(),
            // Six hosts on one machine: less memory each than a host of its own would take.
            "log.tail_bytes=2097152".to_owned(),
            "checkpoint.cache_bytes=262144".to_owned(),
        ];
        let settings = settings.into_iter().chain(CLOCKS.map(str::to_owned));
        arguments.extend(settings.map(|setting| format!("--set={setting}")));
        let processes = prepared
            .sites
            .iter()
            .zip(addresses)
            .enumerate()
            .map(|(at, (site, address))| Process {
                site: site.clone(),
                address,
                folder: folder.join(format!("host{}", at + 1)),
                child: Mutex::default(),
            });
        Ok(Self {
            processes: processes.collect(),
            folder,
            _temporary: temporary,
            zones,
            rtt: Arc::new(prepared.rtt.clone()),
            arguments,
        })
    }

    /// Starts (or restarts) one host process. Its output goes to a file in its folder.
    pub(crate) fn spawn(&self, at: usize) -> Result<(), DemoError> {
        let join = self.processes[0].address.clone();
        let process = &self.processes[at];
        let failed = |source: std::io::Error| DemoError::File {
            path: process.folder.display().to_string(),
            source,
        };
        std::fs::create_dir_all(&process.folder).map_err(failed)?;
        let log = std::fs::OpenOptions::new()
            .create(true)
            .append(true)
            .open(process.folder.join("host.log"));
        let log = log.map_err(failed)?;
        let own = program::own_command().map_err(failed)?;
        let mut command = Command::new(&own[0]);
        command
            .args(&own[1..])
            // glibc keeps a heap for each thread otherwise, and gives little of them back.
            .env("MALLOC_ARENA_MAX", "1")
            .arg("serve")
            .arg(format!("--data-dir={}", process.folder.join("data").display()))
            .arg(format!("--listen={}", process.address))
            .arg(format!("--zone={}", process.site.zone))
            .arg(format!("--region={}", process.site.region))
            .args(&self.arguments)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log)
            .kill_on_drop(true);
        if at > 0 {
            command.arg(format!("--join={join}"));
        }
        process.put_child(command.spawn().map_err(failed)?);
        Ok(())
    }

    /// Kills one host with SIGKILL.
    pub(crate) async fn kill(&self, at: usize) -> Result<(), DemoError> {
        let Some(mut child) = self.processes[at].take_child() else {
            return Ok(());
        };
        child
            .kill()
            .await
            .map_err(|e| DemoError::Cluster(format!("cannot kill host {}: {e}", at + 1)))
    }

    /// Stops every host gracefully.
    pub(crate) async fn stop(&self) {
        let mut children: Vec<Child> = self.processes.iter().filter_map(Process::take_child).collect();
        for id in children.iter().filter_map(Child::id) {
            drop(
                Command::new("kill")
                    .arg("-TERM")
                    .arg(id.to_string())
                    .status()
                    .await,
            );
        }
        for child in &mut children {
            if tokio::time::timeout(STOP_TIMEOUT, child.wait()).await.is_err() {
                drop(child.kill().await);
            }
        }
    }

    /// The zones, in the order of the hosts.
    pub(crate) fn sites(&self) -> impl Iterator<Item = &Site> {
        self.processes.iter().map(|process| &process.site)
    }

    /// The host's number among the processes, by its address.
    fn position(&self, address: &str) -> Option<usize> {
        self.processes
            .iter()
            .position(|process| process.address == address)
    }

    /// A client that stands in a zone.
    pub(crate) async fn client(&self, site: &Site, deadline: Duration) -> Result<Client, DemoError> {
        let inner: Arc<dyn Connector> = Arc::new(TcpConnector);
        let connector = DelayedConnector::new(inner, site.zone.clone(), self.rtt.clone(), self.zones.clone());
        let config = ClientConfig {
            origin: site.zone.0.clone(),
            user_id: "demo".to_owned(),
            deadline,
            connector: Arc::new(connector),
            ..ClientConfig::new(self.addresses())
        };
        Client::connect(config)
            .await
            .map_err(|e| DemoError::Cluster(e.to_string()))
    }

    /// The zone of an address.
    pub(crate) fn zone_of(&self, address: Option<String>) -> Option<Zone> {
        self.zones.zone_of(&address?)
    }

    fn addresses(&self) -> Vec<String> {
        self.processes
            .iter()
            .map(|process| process.address.clone())
            .collect()
    }

    fn admin_at(&self, endpoints: Vec<String>, deadline: Duration) -> Result<AdminClient, DemoError> {
        let config = ClientConfig {
            deadline,
            ..ClientConfig::new(endpoints)
        };
        AdminClient::new(config).map_err(|e| DemoError::Cluster(e.to_string()))
    }

    /// The operators' client, on every host.
    pub(crate) fn admin(&self) -> Result<AdminClient, DemoError> {
        self.admin_at(self.addresses(), PLAN_DEADLINE)
    }

    /// Every shard, as the placement group knows it.
    pub(crate) async fn shards(&self) -> Result<Vec<ShardStatus>, DemoError> {
        let admin = self.admin()?;
        let request = ShardsRequest {
            shard_id: 0,
            placement_group: false,
        };
        let reply = retry(START_TIMEOUT, || async {
            admin.shards(request).await.map_err(|e| e.to_string())
        })
        .await?;
        Ok(reply.shards)
    }

    /// The process whose host leads most shards.
    pub(crate) async fn busiest_home(&self) -> Result<usize, DemoError> {
        let admin = self.admin()?;
        let hosts = retry(START_TIMEOUT, || async {
            admin.hosts().await.map_err(|e| e.to_string())
        })
        .await?
        .hosts;
        let busiest = hosts.iter().max_by_key(|host| host.homes);
        busiest
            .and_then(|host| self.position(&host.address))
            .ok_or_else(|| DemoError::Cluster("no host leads a shard".into()))
    }

    /// Waits until so many shards have an observed home and nothing moves.
    pub(crate) async fn wait_until_served(&self, shards: usize) -> Result<(), DemoError> {
        let admin = self.admin()?;
        retry(START_TIMEOUT, || async {
            let known = admin
                .shards(ShardsRequest {
                    shard_id: 0,
                    placement_group: false,
                })
                .await
                .map_err(|e| e.to_string())?
                .shards;
            let homeless = known.iter().filter(|shard| shard.home == 0).count();
            if known.len() < shards || homeless > 0 {
                return Err(format!(
                    "{} of {shards} shards are there, {homeless} without a home",
                    known.len()
                ));
            }
            let moving = MigrationsRequest {
                include_ended: false,
                limit: 1,
            };
            let moving = admin
                .migrations(moving)
                .await
                .map_err(|e| e.to_string())?
                .migrations;
            match moving.first() {
                None => Ok(()),
                Some(migration) => Err(format!("migration {} is under way", migration.migration_id)),
            }
        })
        .await
    }

    /// Moves replicas and homes to where the training part was read most cheaply.
    pub(crate) async fn place_replicas(&self, open: WindowId) -> Result<PlanOutcome, DemoError> {
        // One plan moves one replica of a shard, and as many as the hosts have slots for.
        let mut total = PlanOutcome::default();
        for _ in 0..PLACEMENT_ROUNDS_MAX {
            let outcome = self.balance(Some(PolicyName::StaticMajority), open, true).await?;
            total.proposed += outcome.proposed;
            total.done += outcome.done;
            total.bytes_moved += outcome.bytes_moved;
            total.refused += outcome.refused;
            match (outcome.done, outcome.refused) {
                (0, 0) => break,
                // What was refused may be possible soon: a shard was busy, or a host not known to be up yet.
                (0, _) => tokio::time::sleep(PLACEMENT_PAUSE).await,
                _ => {}
            }
        }
        Ok(total)
    }

    /// Puts every home where each policy begins.
    pub(crate) async fn reset_homes(&self, open: WindowId) -> Result<(), DemoError> {
        self.balance(Some(PolicyName::StaticHash), open, false)
            .await
            .map(|_| ())
    }

    /// Starts a policy afresh.
    pub(crate) async fn set_policy(
        &self,
        policy: PolicyName,
        open: WindowId,
    ) -> Result<PlanOutcome, DemoError> {
        self.balance(Some(policy), open, false).await
    }

    async fn balance(
        &self,
        policy: Option<PolicyName>,
        open: WindowId,
        replicas: bool,
    ) -> Result<PlanOutcome, DemoError> {
        let admin = self.admin()?;
        let request = SetBalancerRequest {
            policy: policy.map_or_else(String::new, |policy| policy.as_str().to_owned()),
            window: open.0,
            replicas,
        };
        let reply = retry(START_TIMEOUT, || async {
            admin
                .set_balancer(request.clone())
                .await
                .map_err(|e| e.to_string())
        });
        Ok(reply.await?.outcome.unwrap_or_default())
    }

    /// Ends a window and waits for the next one's moves.
    pub(crate) async fn close_window(
        &self,
        window: WindowId,
        settle_ms: u32,
    ) -> Result<CloseWindowReply, DemoError> {
        let admin = self.admin()?;
        let request = CloseWindowRequest {
            window: window.0,
            settle_ms,
        };
        retry(START_TIMEOUT, || async {
            admin.close_window(request).await.map_err(|e| e.to_string())
        })
        .await
    }

    /// The zone of each host.
    pub(crate) async fn host_zones(&self) -> Result<BTreeMap<u64, Zone>, DemoError> {
        let listed = self
            .admin()?
            .hosts()
            .await
            .map_err(|e| DemoError::Cluster(e.to_string()))?;
        Ok(listed
            .hosts
            .into_iter()
            .map(|host| (host.host_id, Zone(host.zone)))
            .collect())
    }

    /// Asks for a home move; returns the migration.
    pub(crate) async fn move_home(&self, shard: u64, to: u64) -> Result<u64, DemoError> {
        let request = MoveHomeRequest {
            shard_id: shard,
            to_host: to,
            reason: "closing segment".to_owned(),
        };
        let reply = self
            .admin()?
            .move_home(request)
            .await
            .map_err(|e| DemoError::Cluster(e.to_string()))?;
        migration_of(reply)
    }

    /// Asks for a replica move; returns the migration.
    pub(crate) async fn move_replica(&self, shard: u64, from: u64, to: u64) -> Result<u64, DemoError> {
        let request = MoveReplicaRequest {
            shard_id: shard,
            from_host: from,
            to_host: to,
            reason: "closing segment".to_owned(),
        };
        let reply = self
            .admin()?
            .move_replica(request)
            .await
            .map_err(|e| DemoError::Cluster(e.to_string()))?;
        migration_of(reply)
    }

    /// Waits until a migration has ended, and says in what state.
    pub(crate) async fn wait_for(&self, migration: u64) -> Result<String, DemoError> {
        let admin = self.admin()?;
        retry(START_TIMEOUT, || async {
            let request = MigrationsRequest {
                include_ended: true,
                limit: 1000,
            };
            let known = admin
                .migrations(request)
                .await
                .map_err(|e| e.to_string())?
                .migrations;
            let found = known.into_iter().find(|known| known.migration_id == migration);
            match found {
                Some(found) if found.ended_ms > 0 => Ok(found.state),
                _ => Err(format!("migration {migration} is under way")),
            }
        })
        .await
    }
}

fn migration_of(reply: client::proto::MigrationReply) -> Result<u64, DemoError> {
    match reply.refused.is_empty() {
        true => Ok(reply.migration_id),
        false => Err(DemoError::Cluster(reply.refused)),
    }
}

/// Tries again until it works or the time is over; then says what was the matter last.
pub(crate) async fn retry<T, F: Future<Output = Result<T, String>>>(
    limit: Duration,
    mut attempt: impl FnMut() -> F,
) -> Result<T, DemoError> {
    let started = tokio::time::Instant::now();
    loop {
        match attempt().await {
            Ok(done) => return Ok(done),
            Err(reason) if started.elapsed() >= limit || reason.starts_with(END_OF_HOST) => {
                return Err(DemoError::Cluster(reason));
            }
            Err(_) => tokio::time::sleep(LOOK_PAUSE).await,
        }
    }
}

fn data_folder(args: &DemoArgs) -> Result<(PathBuf, Option<TemporaryFolder>), DemoError> {
    let (folder, temporary) = match &args.data_dir {
        Some(folder) => (folder.clone(), None),
        None => {
            let folder = std::env::temp_dir().join(format!("godwit-demo-{}", std::process::id()));
            (folder.clone(), Some(TemporaryFolder(folder)))
        }
    };
    let failed = |source| DemoError::File {
        path: folder.display().to_string(),
        source,
    };
    std::fs::create_dir_all(&folder).map_err(failed)?;
    Ok((folder, temporary))
}

/// Addresses that were free a moment ago; a host that finds its own taken says so and the demo ends.
fn free_addresses(count: usize) -> Result<Vec<String>, DemoError> {
    let failed = |e: std::io::Error| DemoError::Cluster(format!("no free port: {e}"));
    let listeners: Result<Vec<_>, _> = (0..count).map(|_| TcpListener::bind("127.0.0.1:0")).collect();
    let listeners = listeners.map_err(failed)?;
    listeners
        .iter()
        .map(|listener| Ok(listener.local_addr().map_err(failed)?.to_string()))
        .collect()
}

fn rtt_csv(prepared: &Prepared) -> String {
    let mut lines = "from,to,micros\n".to_owned();
    for from in &prepared.sites {
        for to in &prepared.sites {
            let micros = prepared.rtt.micros(&from.zone, &to.zone);
            lines.push_str(&format!("{},{},{micros}\n", from.zone, to.zone));
        }
    }
    lines
}

fn absolute(path: &Path) -> PathBuf {
    std::fs::canonicalize(path).unwrap_or_else(|_| path.to_owned())
}
