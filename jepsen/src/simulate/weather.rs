//! The faults of a schedule: drawn one after another from the plan's classes, each for a while, then undone.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use raft::Role;
use storage::failpoint::{Action, Firing};

use super::invariants::Invariants;
use super::links::{self, Link, name};
use super::plan::{FaultClass, Plan, pick};
use super::spoil;
use super::world::World;
use crate::events::Happening;
use crate::generate::Chance;
use crate::record::Recorder;

/// Faults in force at one time.
const ACTIVE_MAX: usize = 2;

/// Fail points that are armed together.
const POINTS_ARMED: usize = 4;

/// How long after a host was cut off its replicas may still act on what they had heard before.
const HEARD_BEFORE: Duration = Duration::from_millis(1_000);

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
    /// The host that may find bits flipped on its disk.
    rotten: Option<usize>,
}

/// A host and a fail point of its.
type Armed = (usize, &'static str);

struct Active {
    class: FaultClass,
    since: Duration,
    until: Duration,
    /// Hosts that are down or will be, until it is undone.
    hosts: Vec<usize>,
    links: Vec<Link>,
    /// Fail points that wait for their step.
    armed: Vec<Armed>,
}

impl Active {
    fn new(class: FaultClass, since: Duration, until: Duration) -> Self {
        Self {
            class,
            since,
            until,
            hosts: Vec::new(),
            links: Vec::new(),
            armed: Vec::new(),
        }
    }

    fn targets(&self) -> Vec<String> {
        let points = self
            .armed
            .iter()
            .map(|(host, point)| format!("{}:{point}", name(*host)));
        let hosts = self.hosts.iter().map(|host| name(*host));
        let links = self.links.iter().map(|(a, b)| format!("{a}-{b}"));
        hosts.chain(links).chain(points).collect()
    }
}

impl Weather {
    pub(super) fn new(plan: &Plan, start: Duration) -> Self {
        let driven = |class: &FaultClass| {
            !matches!(
                class,
                FaultClass::ClockRates | FaultClass::WildClockRates | FaultClass::TransferStorm
            )
        };
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
            rotten: None,
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
        self.count_fired(world);
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
        checks.alone = self.cut_off(now);
    }

    /// Hosts that have heard from no other host for a while.
    fn cut_off(&self, now: Duration) -> BTreeSet<String> {
        let isolated = self
            .active
            .iter()
            .filter(|fault| fault.class == FaultClass::IsolateLeader && fault.since + HEARD_BEFORE <= now);
        isolated
            .filter_map(|fault| Some(fault.links.first()?.0.clone()))
            .collect()
    }

    /// Ends every fault.
    pub(super) fn clear(&mut self, world: &mut World<'_>, checks: &mut Invariants, recorder: &Recorder) {
        for fault in std::mem::take(&mut self.active) {
            self.undo(fault, world, checks, recorder);
        }
        checks.alone.clear();
        for number in 0..world.hosts.len() {
            // One without power may not have noticed yet, and nobody would start it when it has.
            if world.hosts[number].ended().is_some() || world.hosts[number].disk.is_doomed() {
                self.restart(number, world, checks);
            }
        }
    }

    /// A host that ended by itself, as it must after a disk error, is started again after a while.
    fn revive(&mut self, now: Duration, world: &World<'_>) {
        for number in 0..world.hosts.len() {
            if world.hosts[number].ended().is_some() && !self.is_down(number) {
                let until = now + Duration::from_millis(200 + self.chance.below(1_500));
                let mut death = Active::new(FaultClass::Crash, now, until);
                death.hosts.push(number);
                self.active.push(death);
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
        let mut fault = Active::new(class, now, now + lasts);
        let count = world.hosts.len();
        let victim = pick(&mut self.chance, count);
        let down = self.is_down(victim);
        match class {
            FaultClass::PowerCut | FaultClass::SyncError | FaultClass::DiskFull if down => return,
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
                fault.links = links::sides(&mut self.chance, count);
            }
            FaultClass::IsolateLeader => {
                let leader = leader(&mut self.chance, world).unwrap_or(victim);
                fault.links = links::around(leader, count);
            }
            FaultClass::Wipe | FaultClass::BitRot => {
                let Some(victim) = self.spoil(class, world, checks) else {
                    return;
                };
                fault.hosts.push(victim);
            }
            FaultClass::StepCrash => fault.armed = self.arm(victim, world),
            FaultClass::Stranger => {
                // Not at the first host's address: a host on an empty disk asks there whom to join.
                let victim = victim.max(1);
                if self.is_down(victim) || !world.invite(victim) {
                    return;
                }
                checks.host_died(victim);
                fault.hosts.push(victim);
            }
            FaultClass::ClockRates | FaultClass::WildClockRates | FaultClass::TransferStorm => return,
        }
        links::impose(class, &fault.links, world);
        let targets = fault.targets();
        if targets.is_empty() {
            return;
        }
        // A step at which the power is to go off may never come.
        if fault.armed.is_empty() {
            *self.tally.entry(class.name().to_owned()).or_default() += 1;
        }
        recorder.event(Happening::FaultStart {
            fault: class.name().to_owned(),
            targets,
        });
        self.active.push(fault);
    }

    /// Whether some fault has taken the host down, or will.
    fn is_down(&self, number: usize) -> bool {
        self.active.iter().any(|fault| fault.hosts.contains(&number))
    }

    /// Arms fail points that some host has passed before: on one host or on all, each for the first, second or third
    /// time. Several at once, so that steps which are rare are met too.
    fn arm(&mut self, victim: usize, world: &World<'_>) -> Vec<Armed> {
        let passed = world.hosts.iter().flat_map(|host| host.points.passed());
        let known: BTreeSet<&'static str> = passed.map(|((_, point), _)| point).collect();
        let known: Vec<&'static str> = known.into_iter().collect();
        if known.is_empty() {
            return Vec::new();
        }
        let mut armed = Vec::new();
        for _ in 0..POINTS_ARMED {
            let point = known[pick(&mut self.chance, known.len())];
            let hosts = match self.chance.permille(500) {
                true => victim..victim + 1,
                false => 0..world.hosts.len(),
            };
            for host in hosts {
                let nth = Firing::Nth(1 + self.chance.below(3));
                world.hosts[host].points.arm(0, point, Action::Continue, nth);
                armed.push((host, point));
            }
        }
        armed
    }

    fn count_fired(&mut self, world: &World<'_>) {
        let fired: usize = world.hosts.iter().map(|host| host.take_fired().len()).sum();
        if fired > 0 {
            *self
                .tally
                .entry(FaultClass::StepCrash.name().to_owned())
                .or_default() += fired as u64;
        }
    }

    /// Kills what may still run, and starts the host anew; on an empty disk, if it found its own spoilt, as an operator
    /// would.
    fn restart(&mut self, number: usize, world: &mut World<'_>, checks: &mut Invariants) {
        let refused = world.hosts[number].ended().is_some() && self.rotten == Some(number);
        world.crash(number);
        checks.host_died(number);
        if refused {
            world.hosts[number].disk.wipe();
            checks.disk_lost(number);
            // Once: what is on it from now on is sound.
            self.rotten = None;
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
            if self.is_down(victim) {
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
        if self.spoilt.is_some() || self.is_down(victim) || !spoil::may_spoil(world) {
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
            if spoil::flip(&mut self.chance, &world.hosts[victim].disk) {
                self.spoilt = Some(victim);
                self.rotten = Some(victim);
                checks.disk_lost(victim);
            }
        }
        Some(victim)
    }

    fn undo(&mut self, fault: Active, world: &mut World<'_>, checks: &mut Invariants, recorder: &Recorder) {
        for (host, point) in &fault.armed {
            world.hosts[*host].points.disarm(0, point);
        }
        for host in fault.hosts {
            if fault.class == FaultClass::Stranger {
                world.dismiss(host);
            }
            world.hosts[host].disk.mend();
            let sound = matches!(fault.class, FaultClass::DiskFull) && world.hosts[host].ended().is_none();
            if !sound {
                self.restart(host, world, checks);
            }
        }
        links::lift(fault.class, &fault.links, self.latency_max, world);
        for other in &self.active {
            let both = other.links.iter().filter(|(a, b)| {
                let between = |(x, y): &Link| (x == a && y == b) || (x == b && y == a);
                fault.links.iter().any(between)
            });
            links::impose(other.class, &both.cloned().collect::<Vec<_>>(), world);
        }
        recorder.event(Happening::FaultStop {
            fault: fault.class.name().to_owned(),
        });
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
