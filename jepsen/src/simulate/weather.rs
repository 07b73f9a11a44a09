//! The faults of a schedule: drawn one after another from the plan's classes, each for a while, then undone.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use placement::Role::Voter;
use placement::Shard;
use raft::Role;
use server::host::Host;
use storage::disk::Disk;
use storage::sim_disk::SimDisk;

use super::invariants::Invariants;
use super::plan::{FaultClass, Plan, pick};
use super::world::{CLIENTS, SimHost, World};
use crate::events::Happening;
use crate::generate::Chance;
use crate::record::Recorder;

/// Hosts without which no disk is spoilt: three replicas, and one host to make a new one on.
const HOSTS_TO_SPOIL_MIN: usize = 4;
/// Voters of every group when a disk is spoilt.
const VOTERS_MIN: usize = 3;
/// Faults in force at one time.
const ACTIVE_MAX: usize = 2;

/// What strikes, and what is in force.
pub(super) struct Weather {
    chance: Chance,
    classes: Vec<FaultClass>,
    pause: Duration,
    latency_max: Duration,
    next: Duration,
    active: Vec<Active>,
    /// How often each class struck.
    pub(super) tally: BTreeMap<String, u64>,
    turn: usize,
    /// The host whose disk was spoilt.
    spoilt: Option<usize>,
}

struct Active {
    class: FaultClass,
    until: Duration,
    hosts: Vec<usize>,
    pairs: Vec<(String, String)>,
}

impl Weather {
    pub(super) fn new(plan: &Plan, start: Duration) -> Self {
        let driven =
            |class: &FaultClass| !matches!(class, FaultClass::ClockRates | FaultClass::TransferStorm);
        Self {
            chance: Chance::new(plan.seed ^ 0x0f00_1bad),
            classes: plan.faults.iter().copied().filter(driven).collect(),
            pause: plan.fault_pause,
            latency_max: plan.latency_max,
            next: start,
            active: Vec::new(),
            tally: BTreeMap::new(),
            turn: 0,
            spoilt: None,
        }
    }

    /// Undoes what is over, and strikes when it is time.
    pub(super) fn step(
        &mut self,
        now: Duration,
        world: &mut World<'_>,
        checks: &mut Invariants,
        recorder: &Recorder,
    ) {
        let (over, active) = std::mem::take(&mut self.active)
            .into_iter()
            .partition(|fault| fault.until <= now);
        self.active = active;
        for fault in over {
            self.undo(fault, world, checks, recorder);
        }
        self.revive(now, world);
        if now >= self.next && !self.classes.is_empty() {
            let pause = self.pause.as_millis() as u64;
            self.next = now + Duration::from_millis(pause / 2 + self.chance.below(pause));
            if self.active.len() < ACTIVE_MAX {
                // Each class in turn, so that each happens.
                let class = self.classes[self.turn % self.classes.len()];
                self.turn += 1;
                self.strike(class, now, world, checks, recorder);
            }
        }
    }

    /// Ends every fault.
    pub(super) fn clear(&mut self, world: &mut World<'_>, checks: &mut Invariants, recorder: &Recorder) {
        for fault in std::mem::take(&mut self.active) {
            self.undo(fault, world, checks, recorder);
        }
        for number in 0..world.hosts.len() {
            if world.hosts[number].ended().is_some() {
                self.restart(number, world, checks);
            }
        }
    }

    /// A host that ended by itself, as it must after a disk error, is started again after a while.
    fn revive(&mut self, now: Duration, world: &World<'_>) {
        for number in 0..world.hosts.len() {
            let waiting = self.active.iter().any(|fault| fault.hosts.contains(&number));
            if world.hosts[number].ended().is_some() && !waiting {
                let until = now + Duration::from_millis(200 + self.chance.below(1_500));
                self.active.push(Active {
                    class: FaultClass::Crash,
                    until,
                    hosts: vec![number],
                    pairs: Vec::new(),
                });
            }
        }
    }

    fn strike(
        &mut self,
        class: FaultClass,
        now: Duration,
        world: &mut World<'_>,
        checks: &mut Invariants,
        recorder: &Recorder,
    ) {
        let lasts = Duration::from_millis(200 + self.chance.below(4_000));
        let mut fault = Active {
            class,
            until: now + lasts,
            hosts: Vec::new(),
            pairs: Vec::new(),
        };
        let count = world.hosts.len();
        let victim = pick(&mut self.chance, count);
        match class {
            FaultClass::Crash => self.kill(vec![victim], &mut fault, world, checks),
            FaultClass::CrashAll => self.kill((0..count).collect(), &mut fault, world, checks),
            FaultClass::PowerCut => {
                world.hosts[victim].disk.cut_power_after(self.chance.below(60));
                fault.hosts.push(victim);
            }
            FaultClass::SyncError => {
                world.hosts[victim].disk.fail_sync(1 + self.chance.below(20));
                fault.hosts.push(victim);
            }
            FaultClass::DiskFull => {
                world.hosts[victim]
                    .disk
                    .limit_writes(Some(self.chance.below(64 << 10)));
                fault.hosts.push(victim);
            }
            FaultClass::Partition | FaultClass::OneWay | FaultClass::Hold | FaultClass::Slow => {
                fault.pairs = self.sides(count);
                cut(class, &fault.pairs, world);
            }
            FaultClass::IsolateLeader => {
                let leader = leader(&mut self.chance, world).unwrap_or(victim);
                fault.pairs = (0..count)
                    .filter(|other| *other != leader)
                    .map(|other| (name(leader), name(other)))
                    .collect();
                cut(class, &fault.pairs, world);
            }
            FaultClass::Wipe | FaultClass::BitRot => {
                let Some(victim) = self.spoil(class, world, checks) else {
                    return;
                };
                fault.hosts.push(victim);
            }
            FaultClass::ClockRates | FaultClass::TransferStorm => return,
        }
        let targets = fault
            .hosts
            .iter()
            .map(|host| name(*host))
            .chain(fault.pairs.iter().map(|(a, b)| format!("{a}-{b}")));
        recorder.event(Happening::FaultStart {
            fault: class.name().to_owned(),
            targets: targets.collect(),
        });
        *self.tally.entry(class.name().to_owned()).or_default() += 1;
        self.active.push(fault);
    }

    /// Kills what may still run, and starts the host anew; on an empty disk, if it found its own spoilt, as an operator
    /// would.
    fn restart(&mut self, number: usize, world: &mut World<'_>, checks: &mut Invariants) {
        let refused = world.hosts[number].ended().is_some() && self.spoilt == Some(number);
        world.crash(number);
        checks.host_died(number);
        if refused {
            world.hosts[number].disk.wipe();
            checks.disk_lost(number);
        }
        world.bounce(number);
    }

    fn kill(
        &mut self,
        victims: Vec<usize>,
        fault: &mut Active,
        world: &mut World<'_>,
        checks: &mut Invariants,
    ) {
        for victim in victims {
            // One that is down already stays with whoever took it down.
            if self.active.iter().any(|other| other.hosts.contains(&victim)) {
                continue;
            }
            world.crash(victim);
            checks.host_died(victim);
            fault.hosts.push(victim);
        }
    }

    /// Spoils one disk. At most one a schedule, and only where a majority of every shard's replicas keeps theirs.
    fn spoil(&mut self, class: FaultClass, world: &mut World<'_>, checks: &mut Invariants) -> Option<usize> {
        let hosts = world.hosts.len();
        // The first host has nobody to join.
        let victim = 1 + pick(&mut self.chance, hosts - 1);
        let down = self.active.iter().any(|other| other.hosts.contains(&victim));
        if self.spoilt.is_some() || down || !may_spoil(world) {
            return None;
        }
        world.crash(victim);
        checks.host_died(victim);
        if class == FaultClass::Wipe {
            world.hosts[victim].disk.wipe();
            checks.disk_lost(victim);
            self.spoilt = Some(victim);
            return Some(victim);
        }
        let flips = 1 + self.chance.below(4);
        for _ in 0..flips {
            if flip(&mut self.chance, &world.hosts[victim].disk) {
                self.spoilt = Some(victim);
                checks.disk_lost(victim);
            }
        }
        Some(victim)
    }

    /// Two sides drawn at random, and every pair between them.
    fn sides(&mut self, hosts: usize) -> Vec<(String, String)> {
        let mut names: Vec<String> = (0..hosts).map(name).collect();
        // Clients are cut off from some hosts, too.
        if self.chance.permille(400) {
            names.push(CLIENTS.to_owned());
        }
        let (mut left, mut right) = (Vec::new(), Vec::new());
        for name in names {
            if self.chance.permille(500) {
                left.push(name)
            } else {
                right.push(name)
            }
        }
        left.iter()
            .flat_map(|a| right.iter().map(|b| (a.clone(), b.clone())))
            .collect()
    }

    fn undo(&mut self, fault: Active, world: &mut World<'_>, checks: &mut Invariants, recorder: &Recorder) {
        for host in fault.hosts {
            world.hosts[host].disk.mend();
            let sound = matches!(fault.class, FaultClass::DiskFull) && world.hosts[host].ended().is_none();
            if !sound {
                self.restart(host, world, checks);
            }
        }
        for (a, b) in &fault.pairs {
            match fault.class {
                FaultClass::Hold => world.sim.release(a.as_str(), b.as_str()),
                FaultClass::OneWay => world.sim.repair_oneway(a.as_str(), b.as_str()),
                FaultClass::Slow => {
                    world
                        .sim
                        .set_link_max_message_latency(a.as_str(), b.as_str(), self.latency_max);
                }
                _ => world.sim.repair(a.as_str(), b.as_str()),
            }
        }
        recorder.event(Happening::FaultStop {
            fault: fault.class.name().to_owned(),
        });
    }
}

fn name(host: usize) -> String {
    format!("h{host}")
}

/// Whether every group has a majority without any one host.
fn may_spoil(world: &World<'_>) -> bool {
    let whole = |host: Host| {
        host.look_at_placement(|placement| {
            let voters = |shard: &Shard| {
                shard
                    .replicas
                    .values()
                    .filter(|replica| replica.role == Voter)
                    .count()
            };
            !placement.shards().is_empty()
                && placement
                    .shards()
                    .values()
                    .all(|shard| voters(shard) >= VOTERS_MIN)
        })
    };
    let running = world.hosts.iter().filter_map(SimHost::host);
    world.hosts.len() >= HOSTS_TO_SPOIL_MIN && running.filter_map(whole).any(|whole| whole)
}

/// Flips a bit of some file that the host keeps; whether there was one.
fn flip(chance: &mut Chance, disk: &SimDisk) -> bool {
    let folder = ["/data/replicas", "/data/replicas", "/data"][pick(chance, 3)];
    let files: Vec<(PathBuf, u64)> = disk
        .list(Path::new(folder))
        .unwrap_or_default()
        .into_iter()
        .filter_map(|path| Some((path.clone(), disk.image(&path).ok()?.len() as u64)))
        .filter(|(_, bytes)| *bytes > 0)
        .collect();
    if files.is_empty() {
        return false;
    }
    let (path, bytes) = &files[pick(chance, files.len())];
    let bit = u8::try_from(chance.below(8)).unwrap_or(0);
    disk.flip(path, chance.below(*bytes), bit).is_ok()
}

fn cut(class: FaultClass, pairs: &[(String, String)], world: &World<'_>) {
    for (a, b) in pairs {
        match class {
            FaultClass::Hold => world.sim.hold(a.as_str(), b.as_str()),
            FaultClass::OneWay => world.sim.partition_oneway(a.as_str(), b.as_str()),
            FaultClass::Slow => {
                world
                    .sim
                    .set_link_max_message_latency(a.as_str(), b.as_str(), Duration::from_millis(400));
            }
            _ => world.sim.partition(a.as_str(), b.as_str()),
        }
    }
}

/// A host that leads some group.
fn leader(chance: &mut Chance, world: &World<'_>) -> Option<usize> {
    let leads = |number: &usize| {
        let Some(host) = world.hosts[*number].host() else {
            return false;
        };
        let Some(raft) = host.raft() else { return false };
        raft.groups()
            .iter()
            .any(|group| group.vitals().role == Role::Leader)
    };
    let leaders: Vec<usize> = (0..world.hosts.len()).filter(leads).collect();
    (!leaders.is_empty()).then(|| leaders[pick(chance, leaders.len())])
}
