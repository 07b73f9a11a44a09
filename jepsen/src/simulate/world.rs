//! A simulated cluster: hosts on simulated disks, in one turmoil simulation.

use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, SystemTime};

use client::{ClientConfig, TokioClock};
use raft::{ClockSkew, HostContext};
use server::config::HostConfig;
use server::host::{self, Host, HostEnv};
use server::serve::PeerConnector;
use storage::failpoint::Failpoints;
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

/// The name of the machine that belongs to another cluster.
pub(super) const STRANGER: &str = "stranger";

/// One simulated host, seen from outside.
pub(super) struct SimHost {
    /// Its name in the simulated network.
    pub(super) name: String,
    pub(super) disk: SimDisk,
    /// Its fail points. The power goes off where one fires.
    pub(super) points: Failpoints,
    /// The points that fired.
    fired: Arc<Mutex<Vec<&'static str>>>,
    shared: Arc<Mutex<Running>>,
}

#[derive(Default)]
struct Running {
    host: Option<Host>,
    /// The disk of the stranger that runs here instead.
    guest: Option<SimDisk>,
    /// Why it ended by itself.
    ended: Option<String>,
    starts: u64,
}

impl SimHost {
    fn new(name: String, seed: u64) -> Self {
        let (disk, points) = (SimDisk::new(seed), Failpoints::new(seed));
        let fired: Arc<Mutex<Vec<&'static str>>> = Arc::default();
        let (power, told) = (disk.clone(), fired.clone());
        points.when_fired(move |point| {
            power.cut_power_after(0);
            told.lock().expect("no panic under this lock").push(point);
        });
        Self {
            name,
            disk,
            points,
            fired,
            shared: Arc::default(),
        }
    }

    /// The running host, for those who check it.
    pub(super) fn host(&self) -> Option<Host> {
        self.lock().host.clone()
    }

    /// Why the host ended by itself, if it did.
    pub(super) fn ended(&self) -> Option<String> {
        self.lock().ended.clone()
    }

    /// The points that fired since this was last asked.
    pub(super) fn take_fired(&self) -> Vec<&'static str> {
        std::mem::take(&mut *self.fired.lock().expect("no panic under this lock"))
    }

    /// Who runs here from the next start on: a stranger with this disk, or the host itself.
    pub(super) fn set_guest(&self, guest: Option<SimDisk>) {
        self.lock().guest = guest;
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
    /// A cluster of its own, of one host, if the plan wants one.
    pub(super) stranger: Option<SimHost>,
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
        let mut settle = |name: String, join: Vec<String>| {
            let skew = skew(plan, &mut chance);
            let host = SimHost::new(name, chance.draw());
            let start = Start {
                config: config(plan, &host.name, join),
                skew,
                seed: chance.draw(),
                sync_max: plan.sync_max,
                disk: host.disk.clone(),
                points: host.points.clone(),
                time: time.clone(),
                shared: host.shared.clone(),
                name: host.name.clone(),
            };
            sim.host(host.name.as_str(), move || start.clone().run());
            host
        };
        let hosts = (0..plan.hosts)
            .map(|number| settle(format!("h{number}"), addresses(number.min(1))))
            .collect();
        let wanted = plan.faults.contains(&FaultClass::Stranger);
        let stranger = wanted.then(|| settle(STRANGER.to_owned(), Vec::new()));
        Self {
            sim,
            hosts,
            stranger,
            time,
        }
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

    /// Kills a host and puts the stranger in its place, if there is one and it is at home; whether it did.
    pub(super) fn invite(&mut self, number: usize) -> bool {
        let Some(stranger) = self.stranger.as_ref().filter(|known| known.host().is_some()) else {
            return false;
        };
        stranger.forget();
        self.sim.crash(stranger.name.as_str());
        stranger.disk.crash();
        self.hosts[number].set_guest(Some(stranger.disk.clone()));
        self.crash(number);
        self.bounce(number);
        true
    }

    /// Sends the stranger home from the place of a host, which stays down.
    pub(super) fn dismiss(&mut self, number: usize) {
        self.crash(number);
        self.hosts[number].set_guest(None);
        if let Some(stranger) = &self.stranger {
            stranger.disk.crash();
            self.sim.bounce(stranger.name.as_str());
        }
    }

    /// Starts a host that was killed.
    pub(super) fn bounce(&mut self, number: usize) {
        self.sim.bounce(self.hosts[number].name.as_str());
    }
}

fn skew(plan: &Plan, chance: &mut Chance) -> ClockSkew {
    let rates = if plan.faults.contains(&FaultClass::WildClockRates) {
        // The fastest at most twice as fast as the slowest.
        667_000..1_333_000
    } else if plan.faults.contains(&FaultClass::ClockRates) {
        // At most 10% between any two: what lease reads allow.
        955_000..1_045_000
    } else {
        return ClockSkew::default();
    };
    ClockSkew {
        rate_ppm: rates.start + chance.below(rates.end - rates.start),
        ahead: Duration::from_millis(chance.below(60_000)),
    }
}

/// Where the host of this name listens.
pub(super) fn endpoint(name: &str) -> String {
    format!("{name}:{PORT}")
}

/// Addresses of all hosts.
pub(super) fn addresses(hosts: usize) -> Vec<String> {
    (0..hosts).map(|number| endpoint(&format!("h{number}"))).collect()
}

fn config(plan: &Plan, name: &str, join: Vec<String>) -> HostConfig {
    let mut config = HostConfig {
        data_dir: "/data".into(),
        listen: endpoint(name),
        zone: format!("zone of {name}"),
        region: "simulated".into(),
        join,
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
    // Disks are filled to see what comes of it.
    config.storage.free_bytes_min = 0;
    // A watcher waits for it at the end.
    config.watch.progress_interval_ms = 500;
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
    points: Failpoints,
    time: SimTime,
    shared: Arc<Mutex<Running>>,
    name: String,
}

impl Start {
    async fn run(mut self) -> turmoil::Result {
        let (starts, guest) = {
            let mut running = self.shared.lock().expect("no panic under this lock");
            running.starts += 1;
            (running.starts, running.guest.clone())
        };
        let is_guest = guest.is_some();
        if let Some(disk) = guest {
            self.disk = disk;
            self.config.join.clear();
        }
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
            failpoints: self.points.host(0),
        };
        let shared = self.shared.clone();
        let ready = move |host: &Host| {
            // A stranger is none of the cluster's hosts, and is not looked at.
            if is_guest {
                return;
            }
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
