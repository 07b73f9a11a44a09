//! One schedule from its beginning to its verdict.

use std::collections::BTreeMap;
use std::time::Duration;

use raft::{Group, Role};
use serde::{Deserialize, Serialize};

use super::chronicle::{Chronicle, Telling};
use super::invariants::Invariants;
use super::nodes::{Line, Stage, join};
use super::plan::{FaultClass, Plan};
use super::weather::Weather;
use super::world::World;
use crate::events::Happening;
use crate::judge::{Demands, Evidence, Facts, Finding, Judgement, Recovery, judge};
use crate::placement::PlacementLine;
use crate::record::{Recorded, Recorder};
use crate::workload::{ReadAll, Used, WorkloadName};

/// How long hosts may take to make a cluster.
const FORMING_MAX: Duration = Duration::from_secs(60);
/// After the heal: until every shard has a home.
pub(super) const HOMES_MAX: Duration = Duration::from_secs(10);
/// After the heal: until every migration has ended.
pub(super) const MIGRATIONS_MAX: Duration = Duration::from_secs(60);
/// After recovery: how long clients go on.
const WORK_ON: Duration = Duration::from_secs(2);
/// How long clients may take to stop and to read every key.
const CLOSING_MAX: Duration = Duration::from_secs(120);
/// How long replicas may take to be equal once nobody writes.
const AGREE_MAX: Duration = Duration::from_secs(20);

/// Acknowledged operations that a schedule must have.
const ACKNOWLEDGED_MIN: u64 = 200;
/// Classes of fault that must have struck.
const CLASSES_MIN: usize = 2;

/// What a schedule came to, before it is judged.
pub(super) struct Ended {
    pub(super) recorded: Recorded,
    pub(super) placement: Vec<PlacementLine>,
    pub(super) closed: Option<(Used, ReadAll)>,
    pub(super) recovery: Recovery,
    pub(super) differences: Vec<String>,
    pub(super) report: Report,
}

/// The figures of a schedule.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Report {
    /// The seed.
    pub seed: u64,
    /// "ok", "violation", "unknown" or "invalid".
    pub verdict: String,
    /// What is wrong, in words; empty when all is well.
    pub broken: Vec<String>,
    /// Hosts and shards.
    pub hosts: usize,
    /// Shards.
    pub shards: u32,
    /// Simulated time, in milliseconds.
    pub simulated_ms: u64,
    /// Operations recorded.
    pub operations: u64,
    /// Those that the linearizability checker had to explain.
    pub checked: u64,
    /// Those that were acknowledged.
    pub acknowledged: u64,
    /// Those of unknown outcome.
    pub unknown: u64,
    /// Migrations that ended as wanted.
    pub migrations_done: u64,
    /// How often each fault struck, and each kind of migration was accepted.
    pub faults: BTreeMap<String, u64>,
    /// States of replicas that were checked.
    pub states_checked: u64,
    /// Different ones among them.
    pub states_distinct: u64,
    /// A hash over every state in order: equal for equal runs.
    pub print: String,
}

/// Runs the schedule of a plan.
pub(super) fn run(plan: &Plan) -> Ended {
    let mut world = World::new(plan);
    let recorder = Recorder::new(std::sync::Arc::new(world.time.clone()));
    let line = Line::new();
    join(&mut world, plan, &line, &recorder);
    let mut course = Course {
        world,
        recorder,
        line,
        checks: Invariants::default(),
        chronicle: Chronicle::default(),
        broken: Vec::new(),
    };
    let mut weather = None;
    if course.form(plan.shards as usize) {
        course.storm(plan, &mut weather);
        course.recover();
        course.close();
    }
    course.end(plan, weather)
}

struct Course<'a> {
    world: World<'a>,
    recorder: Recorder,
    line: Line,
    checks: Invariants,
    chronicle: Chronicle,
    broken: Vec<String>,
}

impl Course<'_> {
    fn now(&self) -> Duration {
        self.world.sim.elapsed()
    }

    fn step(&mut self) {
        self.world.step();
        let now_ms = self.now().as_millis() as u64;
        self.checks.step(now_ms, &self.world.hosts);
        self.chronicle.step(&self.world.hosts, &self.recorder);
    }

    /// Steps until `done`, or says that it took too long.
    fn until(&mut self, what: &str, limit: Duration, done: impl Fn(&Self) -> bool) -> bool {
        let end = self.now() + limit;
        while !done(self) {
            if self.now() >= end {
                self.broken
                    .push(format!("{what}: not within {} s", limit.as_secs()));
                return false;
            }
            self.step();
        }
        true
    }

    fn enter(&self, stage: Stage) {
        self.line.stage.send_replace(stage);
    }

    fn form(&mut self, shards: usize) -> bool {
        self.until("the cluster forms", FORMING_MAX, |course| {
            let failed = course.line.told().failure.is_some();
            failed || (course.line.told().formed && course.groups_led() == shards)
        }) && self.line.told().failure.is_none()
    }

    /// How many shards' groups have a leader, and members that have all applied something. A group that loses a member
    /// for good before has nobody to replace that member, so faults wait for all of them.
    fn groups_led(&self) -> usize {
        let mut groups: BTreeMap<u64, (bool, bool)> = BTreeMap::new();
        for host in self.world.hosts.iter().filter_map(|host| host.host()) {
            for local in host.shards() {
                let vitals = local.group.vitals();
                let (led, applied) = groups.entry(local.group.id().0).or_insert((false, true));
                *led |= vitals.role == Role::Leader;
                *applied &= vitals.applied.is_some();
            }
        }
        groups.values().filter(|(led, applied)| *led && *applied).count()
    }

    fn storm(&mut self, plan: &Plan, weather: &mut Option<Weather>) {
        self.enter(Stage::Faults);
        let weather = weather.insert(Weather::new(plan, self.now()));
        let end = self.now() + plan.faults_for;
        while self.now() < end {
            let now = self.now();
            weather.step(now, &mut self.world, &mut self.checks, &self.recorder);
            self.step();
        }
        weather.clear(&mut self.world, &mut self.checks, &self.recorder);
        self.recorder.event(Happening::Healed);
    }

    fn recover(&mut self) {
        self.enter(Stage::Healed);
        let homes = self.until("every shard has a home after the heal", HOMES_MAX, |course| {
            course.line.told().homes_at.is_some()
        });
        if homes {
            self.until("every migration ends after the heal", MIGRATIONS_MAX, |course| {
                // The operator may have asked a host that lags behind.
                course.line.told().migrations_at.is_some() && !course.chronicle.is_open()
            });
        }
        self.chronicle.settle();
        let end = self.now() + WORK_ON;
        while self.now() < end {
            self.step();
        }
    }

    fn close(&mut self) {
        self.enter(Stage::Reading);
        self.chronicle.told = Telling::PlacementOnly;
        self.until("clients stop and every key is read", CLOSING_MAX, |course| {
            course.line.told().closed.is_some()
        });
        self.until("replicas agree", AGREE_MAX, |course| {
            course.differences().is_empty()
        });
    }

    /// Replicas that have not applied the same, or are not the same.
    fn differences(&self) -> Vec<String> {
        let mut states: BTreeMap<u64, Vec<String>> = BTreeMap::new();
        for host in self.world.hosts.iter().filter_map(|host| host.host()) {
            for local in host.shards() {
                let group: &Group = &local.group;
                let state = format!("{:?} {:016x}", group.vitals().applied, local.store.state_hash());
                states.entry(group.id().0).or_default().push(state);
            }
        }
        let differ = |states: &[String]| states.iter().any(|state| *state != states[0]);
        states
            .into_iter()
            .filter(|(_, states)| differ(states))
            .map(|(shard, states)| format!("shard {shard}: {states:?}"))
            .collect()
    }

    fn end(mut self, plan: &Plan, weather: Option<Weather>) -> Ended {
        let healed_at = self.recorder.recorded().events.iter().find_map(|event| {
            matches!(event.what, Happening::Healed).then(|| Duration::from_nanos(event.at_ns))
        });
        let since = |at: Option<Duration>| Some(at?.saturating_sub(healed_at?).as_millis() as u64);
        let differences = self.differences();
        let simulated_ms = self.now().as_millis() as u64;
        let mut told = self.line.told();
        self.broken.extend(told.failure.take());
        let mut faults = weather.map(|weather| weather.tally).unwrap_or_default();
        for rates in [FaultClass::ClockRates, FaultClass::WildClockRates] {
            if plan.faults.contains(&rates) {
                faults.insert(rates.name().to_owned(), 1);
            }
        }
        for (kind, count) in &told.asked {
            faults.insert(kind.clone(), *count);
        }
        let mut broken = std::mem::take(&mut self.checks.broken);
        broken.append(&mut self.chronicle.broken);
        broken.append(&mut self.broken);
        let report = Report {
            seed: plan.seed,
            verdict: String::new(),
            broken,
            hosts: plan.hosts,
            shards: plan.shards,
            simulated_ms,
            operations: 0,
            checked: 0,
            acknowledged: 0,
            unknown: 0,
            migrations_done: self.chronicle.done.len() as u64,
            faults,
            states_checked: self.checks.checked,
            states_distinct: self.checks.distinct.len() as u64,
            print: format!("{:016x}", self.checks.print),
        };
        Ended {
            recorded: self.recorder.recorded(),
            placement: std::mem::take(&mut self.chronicle.lines),
            closed: told.closed.take(),
            recovery: Recovery {
                homes_ms: since(told.homes_at),
                migrations_ms: since(told.migrations_at),
                failure: None,
            },
            differences,
            report,
        }
    }
}

impl Ended {
    /// Judges the schedule like a run against real processes, and by what the observer saw.
    pub(super) fn judge(mut self) -> (Report, Evidence, Judgement) {
        let (used, read) = self.closed.take().unwrap_or_default();
        let mut facts = Facts {
            faults_wanted: true,
            tally: self.report.faults.clone(),
            recovery: Some(self.recovery),
            replica_differences: self.differences,
            invariants: std::mem::take(&mut self.report.broken),
            shortfalls: shortfalls(&self.report),
            ..Facts::new(self.report.seed, &WorkloadName::ALL, &used, &read)
        };
        if used.keys.is_empty() && facts.invariants.is_empty() {
            facts.invariants.push("the clients never stopped".to_owned());
        }
        let evidence = Evidence {
            recorded: self.recorded,
            placement: self.placement,
            facts: Some(facts),
            demands: Demands {
                ok_min: ACKNOWLEDGED_MIN,
                homes_max: HOMES_MAX,
                migrations_max: MIGRATIONS_MAX,
                ..Demands::default()
            },
        };
        let judgement = judge(&evidence);
        let mut report = self.report;
        report.verdict = judgement.verdict.to_string();
        report.operations = judgement.counts.operations;
        report.checked = judgement.counts.operations_checked;
        report.acknowledged = judgement.counts.outcomes.ok;
        report.unknown = judgement.counts.outcomes.info;
        let wrong = judgement
            .checks
            .iter()
            .filter(|check| check.verdict != Finding::Ok);
        report.broken = wrong
            .map(|check| format!("{}: {}", check.name, check.details.join("; ")))
            .collect();
        (report, evidence, judgement)
    }
}

/// What a schedule must show and did not.
fn shortfalls(report: &Report) -> Vec<String> {
    let mut shortfalls = Vec::new();
    let struck = FaultClass::ALL
        .iter()
        .chain(&[FaultClass::WildClockRates])
        .filter(|class| report.faults.contains_key(class.name()))
        .count();
    if struck < CLASSES_MIN {
        shortfalls.push(format!("{struck} classes of fault"));
    }
    if report.migrations_done == 0 {
        shortfalls.push("no migration was done".to_owned());
    }
    shortfalls
}
