//! A simulated cluster: hosts on simulated disks, in one turmoil simulation.

use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, SystemTime};

use client::{Client, ClientConfig, ConnectError, TokioClock};
use raft::{ClockSkew, HostContext};
use server::config::HostConfig;
use server::host::{self, Host, HostEnv};
use server::serve::PeerConnector;
use storage::failpoint::HostFailpoints;
use storage::sim_disk::SimDisk;
use tokio_util::sync::CancellationToken;
use turmoil::{Builder, Sim};

use super::plan::{FaultClass, Plan};
use super::seams::{PORT, SimConnector, SimExecutor, SimListener, SimTime, SimWallClock};
use crate::generate::Chance;

/// Longer than any schedule: the driver decides when it is over.
const DURATION_MAX: Duration = Duration::from_secs(3_600);

/// The name of the machine that the clients run on.
pub(super) const CLIENTS: &str = "clients";

/// One simulated host, seen from outside.
pub(super) struct SimHost {
    /// Its name in the simulated network.
    pub(super) name: String,
    pub(super) disk: SimDisk,
    shared: Arc<Mutex<Running>>,
}

#[derive(Default)]
struct Running {
    host: Option<Host>,
    /// Why it ended by itself.
    ended: Option<String>,
    starts: u64,
}

impl SimHost {
    /// The running host, for those who check it.
    pub(super) fn host(&self) -> Option<Host> {
        self.lock().host.clone()
    }

    /// Why the host ended by itself, if it did.
    pub(super) fn ended(&self) -> Option<String> {
        self.lock().ended.clone()
    }

    /// How often it was started.
    pub(super) fn starts(&self) -> u64 {
        self.lock().starts
    }

    /// Lets go of the host: before a crash, or its state would outlive it.
    pub(super) fn forget(&self) {
        let mut running = self.lock();
        running.host = None;
        running.ended = None;
    }

    fn lock(&self) -> MutexGuard<'_, Running> {
        self.shared.lock().expect("no panic under this lock")
    }
}

/// The simulation, and what stands outside of it.
pub(super) struct World<'a> {
    pub(super) sim: Sim<'a>,
    pub(super) hosts: Vec<SimHost>,
    pub(super) time: SimTime,
}

impl<'a> World<'a> {
    /// Hosts that run, and belong to no cluster yet but for the first.
    pub(super) fn new(plan: &Plan) -> Self {
        let mut sim = Builder::new()
            .rng_seed(plan.seed)
            .enable_random_order()
            .epoch(SystemTime::UNIX_EPOCH)
            .tick_duration(Duration::from_millis(1))
            .simulation_duration(DURATION_MAX)
            .min_message_latency(Duration::from_millis(1))
            .max_message_latency(plan.latency_max)
            .tcp_capacity(65_536)
            .build();
        let time = SimTime::default();
        let mut chance = Chance::new(plan.seed ^ 0x0057_a7e5);
        let mut hosts = Vec::new();
        for number in 0..plan.hosts {
            let skew = skew(plan, &mut chance);
            let host = SimHost {
                name: format!("h{number}"),
                disk: SimDisk::new(chance.draw()),
                shared: Arc::default(),
            };
            let start = Start {
                config: config(plan, number),
                skew,
                seed: chance.draw(),
                sync_max: plan.sync_max,
                disk: host.disk.clone(),
                time: time.clone(),
                shared: host.shared.clone(),
                name: host.name.clone(),
            };
            sim.host(host.name.as_str(), move || start.clone().run());
            hosts.push(host);
        }
        Self { sim, hosts, time }
    }

    /// One step of simulated time.
    pub(super) fn step(&mut self) {
        if let Err(e) = self.sim.step() {
            panic!("the simulation broke: {e}");
        }
        self.time.set(self.sim.elapsed());
    }

    /// Kills a host; its disk loses what a power cut loses.
    pub(super) fn crash(&mut self, number: usize) {
        let host = &self.hosts[number];
        host.forget();
        self.sim.crash(host.name.as_str());
        host.disk.crash();
    }

    /// Starts a host that was killed.
    pub(super) fn bounce(&mut self, number: usize) {
        self.sim.bounce(self.hosts[number].name.as_str());
    }
}

fn skew(plan: &Plan, chance: &mut Chance) -> ClockSkew {
    if !plan.faults.contains(&FaultClass::ClockRates) {
        return ClockSkew::default();
    }
    ClockSkew {
        // At most 10% between any two: what lease reads allow.
        rate_ppm: 955_000 + chance.below(90_000),
        ahead: Duration::from_millis(chance.below(60_000)),
    }
}

/// Addresses of all hosts.
pub(super) fn addresses(hosts: usize) -> Vec<String> {
    (0..hosts).map(|number| format!("h{number}:{PORT}")).collect()
}

fn config(plan: &Plan, number: usize) -> HostConfig {
    let mut config = HostConfig {
        data_dir: "/data".into(),
        listen: format!("h{number}:{PORT}"),
        zone: format!("z{number}"),
        region: "simulated".into(),
        join: addresses(plan.hosts).into_iter().take(number.min(1)).collect(),
        ..HostConfig::default()
    };
    config.raft.heartbeat_ms = plan.heartbeat_ms;
    config.raft.election_min_ms = plan.election_min_ms;
    config.raft.election_max_ms = plan.election_min_ms * 3 / 2;
    config.raft.snapshot_entries = plan.snapshot_entries;
    config.raft.keep_entries = plan.keep_entries;
    config.log.segment_bytes = plan.segment_bytes;
    config.log.live_bytes_max = plan.live_bytes_max;
    config.checkpoint.interval_ms = plan.checkpoint_ms;
    config.balancer.enabled = false;
    config.balancer.dead_after_ms = 6_000;
    config
}

/// All that a start of a host needs.
#[derive(Clone)]
struct Start {
    config: HostConfig,
    skew: ClockSkew,
    seed: u64,
    sync_max: Duration,
    disk: SimDisk,
    time: SimTime,
    shared: Arc<Mutex<Running>>,
    name: String,
}

impl Start {
    async fn run(self) -> turmoil::Result {
        let starts = {
            let mut running = self.shared.lock().expect("no panic under this lock");
            running.starts += 1;
            running.starts
        };
        let listener = SimListener::bind().await?;
        let seed = self.seed.wrapping_add(starts);
        let connector: Arc<dyn client::Connector> = Arc::new(SimConnector);
        let env = HostEnv {
            raft: raft::Env {
                context: HostContext::new(seed, self.skew),
                executor: Arc::new(SimExecutor::new(seed, self.sync_max)),
                connector: Arc::new(PeerConnector(connector.clone())),
            },
            connector,
            disk: Arc::new(self.disk.clone()),
            clock: Arc::new(SimWallClock {
                time: self.time.clone(),
                rate_ppm: self.skew.rate_ppm,
                ahead_ms: self.skew.ahead.as_millis() as u64,
            }),
            failpoints: HostFailpoints::disarmed(),
        };
        let shared = self.shared.clone();
        let ready = move |host: &Host| {
            shared.lock().expect("no panic under this lock").host = Some(host.clone());
        };
        let address = self.config.listen.clone();
        let outcome = host::run(
            self.config,
            address,
            listener,
            env,
            CancellationToken::new(),
            ready,
        )
        .await;
        let reason = match outcome {
            Ok(()) => "it ended without a reason".to_owned(),
            Err(e) => e.to_string(),
        };
        tracing::info!(host = self.name, reason, "a host ended by itself");
        let mut running = self.shared.lock().expect("no panic under this lock");
        running.host = None;
        running.ended = Some(reason);
        Ok(())
    }
}

/// How a simulated client is set up; `number` makes its choices its own.
pub(super) fn client_config(hosts: usize, seed: u64, number: u64) -> ClientConfig {
    let mut config = ClientConfig {
        seed: Some(Chance::new(seed ^ number.wrapping_mul(0x9e37_79b9)).draw()),
        deadline: Duration::from_secs(2),
        connector: Arc::new(SimConnector),
        clock: Arc::new(TokioClock::start()),
        ..ClientConfig::new(addresses(hosts))
    };
    config.retry.attempt_timeout = Duration::from_millis(700);
    config.transport.connect_timeout = Duration::from_millis(500);
    config.transport.keep_alive_interval = Duration::from_millis(500);
    config.transport.keep_alive_timeout = Duration::from_millis(700);
    config
}

/// Connects a simulated client.
///
/// # Errors
/// When no host answers.
pub(super) async fn connect(hosts: usize, seed: u64, number: u64) -> Result<Client, ConnectError> {
    Client::connect(client_config(hosts, seed, number)).await
}
