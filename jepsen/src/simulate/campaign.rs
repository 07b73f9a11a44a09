//! Many schedules, each in a process of its own, and what they came to together.

use std::collections::{BTreeMap, VecDeque};
use std::fmt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::mpsc;

use anyhow::Context;
use serde::{Deserialize, Serialize};

use super::plan::FaultClass;
use super::schedule::Report;

/// Lines of a broken process that are kept.
const LAST_LINES: usize = 12;

/// What to run.
#[derive(Clone, Debug)]
pub struct Campaign {
    /// This program: it is started as `simulate --seed N --json`.
    pub program: PathBuf,
    /// One schedule a seed.
    pub seeds: Vec<u64>,
    /// The classes of fault of every schedule; empty: those that its seed draws.
    pub faults: Vec<FaultClass>,
    /// Processes at a time.
    pub jobs: usize,
    /// More environment for each, as `GODWIT_BUG`.
    pub environment: Vec<(String, String)>,
}

/// What all schedules came to.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Summary {
    /// Schedules that ended.
    pub schedules: u64,
    /// How many had each verdict.
    pub verdicts: BTreeMap<String, u64>,
    /// Seeds that were not ok, with their verdicts.
    pub failed: BTreeMap<u64, String>,
    /// The classes of fault that all schedules had; empty: those that their seeds drew.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub nemesis: Vec<String>,
    /// Simulated time, in milliseconds.
    pub simulated_ms: u64,
    /// Operations recorded.
    pub operations: u64,
    /// Those that the linearizability checker had to explain.
    pub checked: u64,
    /// Those that were acknowledged.
    pub acknowledged: u64,
    /// The fewest acknowledged operations of one schedule.
    pub acknowledged_min: Option<u64>,
    /// Operations of unknown outcome.
    pub unknown: u64,
    /// Migrations that ended as wanted.
    pub migrations_done: u64,
    /// How often each fault struck.
    pub faults: BTreeMap<String, u64>,
    /// States of replicas that were checked.
    pub states_checked: u64,
    /// Those that were different from all others of their schedule.
    pub states_distinct: u64,
}

impl Summary {
    /// What a file of totals holds; nothing, where there is none.
    ///
    /// # Errors
    /// When the file cannot be read, or holds something else.
    pub fn of_file(file: &Path) -> anyhow::Result<Self> {
        match std::fs::read_to_string(file) {
            Ok(text) => serde_json::from_str(&text).with_context(|| file.display().to_string()),
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(Self::default()),
            Err(e) => Err(e).with_context(|| file.display().to_string()),
        }
    }

    /// Both together.
    #[must_use]
    pub fn and(mut self, other: &Self) -> Self {
        self.schedules += other.schedules;
        add_counts(&mut self.verdicts, &other.verdicts);
        self.failed.extend(
            other
                .failed
                .iter()
                .map(|(seed, verdict)| (*seed, verdict.clone())),
        );
        self.simulated_ms += other.simulated_ms;
        self.operations += other.operations;
        self.checked += other.checked;
        self.acknowledged += other.acknowledged;
        self.acknowledged_min = [self.acknowledged_min, other.acknowledged_min]
            .into_iter()
            .flatten()
            .min();
        self.unknown += other.unknown;
        self.migrations_done += other.migrations_done;
        add_counts(&mut self.faults, &other.faults);
        self.states_checked += other.states_checked;
        self.states_distinct += other.states_distinct;
        self
    }

    /// Whether all schedules were ok, and there was one.
    pub fn is_ok(&self) -> bool {
        self.schedules > 0 && self.failed.is_empty()
    }

    fn add(&mut self, report: &Report) {
        let broken = (report.verdict != "ok").then(|| (report.seed, report.verdict.clone()));
        let one = Self {
            schedules: 1,
            verdicts: BTreeMap::from([(report.verdict.clone(), 1)]),
            failed: broken.into_iter().collect(),
            nemesis: Vec::new(),
            simulated_ms: report.simulated_ms,
            operations: report.operations,
            checked: report.checked,
            acknowledged: report.acknowledged,
            acknowledged_min: Some(report.acknowledged),
            unknown: report.unknown,
            migrations_done: report.migrations_done,
            faults: report.faults.clone(),
            states_checked: report.states_checked,
            states_distinct: report.states_distinct,
        };
        *self = std::mem::take(self).and(&one);
    }
}

fn add_counts(to: &mut BTreeMap<String, u64>, from: &BTreeMap<String, u64>) {
    for (what, count) in from {
        *to.entry(what.clone()).or_default() += count;
    }
}

impl fmt::Display for Summary {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{} schedules: {:?}", self.schedules, self.verdicts)?;
        writeln!(
            f,
            "{:.0} simulated seconds, {} operations ({} to explain, {} acknowledged, at least {} a schedule, {} unknown)",
            self.simulated_ms as f64 / 1e3,
            self.operations,
            self.checked,
            self.acknowledged,
            self.acknowledged_min.unwrap_or(0),
            self.unknown
        )?;
        writeln!(
            f,
            "{} migrations done, {} states of replicas checked, {} distinct",
            self.migrations_done, self.states_checked, self.states_distinct
        )?;
        writeln!(f, "faults: {:?}", self.faults)?;
        for (seed, verdict) in &self.failed {
            write!(f, "{verdict}: REPRODUCE WITH: jepsen simulate --seed {seed}")?;
            match self.nemesis.as_slice() {
                [] => writeln!(f)?,
                named => writeln!(f, " --nemesis {}", named.join(","))?,
            }
        }
        Ok(())
    }
}

impl Campaign {
    /// The seeds in a file: one a line, `#` begins a comment.
    ///
    /// # Errors
    /// When the file cannot be read, or a line is no number.
    pub fn seeds_of(file: &Path) -> anyhow::Result<Vec<u64>> {
        let text = std::fs::read_to_string(file).with_context(|| file.display().to_string())?;
        let lines = text
            .lines()
            .map(|line| line.split('#').next().unwrap_or_default().trim());
        lines
            .filter(|line| !line.is_empty())
            .map(|line| {
                line.parse()
                    .with_context(|| format!("{}: {line:?}", file.display()))
            })
            .collect()
    }

    /// Runs every schedule and tells of each as it ends, and of all so far.
    ///
    /// # Errors
    /// When a process cannot be started.
    pub fn run(&self, mut told: impl FnMut(&Report, &Summary)) -> anyhow::Result<Summary> {
        let seeds = std::sync::Mutex::new(self.seeds.iter().copied().collect::<VecDeque<u64>>());
        let (done, reports) = mpsc::channel();
        let mut summary = Summary {
            nemesis: self.faults.iter().map(|class| class.name().to_owned()).collect(),
            ..Summary::default()
        };
        std::thread::scope(|scope| {
            for _ in 0..self.jobs.max(1) {
                let (done, seeds) = (done.clone(), &seeds);
                scope.spawn(move || {
                    loop {
                        let next = seeds.lock().ok().and_then(|mut seeds| seeds.pop_front());
                        let Some(seed) = next else { return };
                        if done.send(self.one(seed)).is_err() {
                            return;
                        }
                    }
                });
            }
            drop(done);
            for report in reports {
                let report = report?;
                summary.add(&report);
                told(&report, &summary);
            }
            Ok::<(), anyhow::Error>(())
        })?;
        Ok(summary)
    }

    /// Runs one schedule in a process; one that breaks down is a violation with its last words.
    ///
    /// # Errors
    /// When the process cannot be started.
    pub fn one(&self, seed: u64) -> anyhow::Result<Report> {
        let names: Vec<&str> = self.faults.iter().map(|class| class.name()).collect();
        let nemesis = (!names.is_empty()).then(|| format!("--nemesis={}", names.join(",")));
        let output = Command::new(&self.program)
            .args(["simulate", "--json", "--seed", &seed.to_string()])
            .args(nemesis)
            .envs(self.environment.iter().cloned())
            .env("RUST_LOG", "error")
            .stdin(Stdio::null())
            .output()
            .with_context(|| format!("cannot start {}", self.program.display()))?;
        let said = String::from_utf8_lossy(&output.stdout);
        if let Ok(report) = serde_json::from_str(said.trim()) {
            return Ok(report);
        }
        let complained = String::from_utf8_lossy(&output.stderr);
        let mut last: Vec<String> = complained
            .lines()
            .rev()
            .take(LAST_LINES)
            .map(without_registry)
            .collect();
        last.reverse();
        // The first panic tells most; a second one only while the first unwinds.
        let panic = complained
            .lines()
            .skip_while(|line| !line.contains("panicked at"))
            .take(2)
            .map(without_registry);
        let panic: Vec<String> = panic.collect();
        last.insert(
            0,
            format!("the process ended with {}: {}", output.status, panic.join(" ")),
        );
        Ok(Report {
            seed,
            verdict: "violation".to_owned(),
            broken: last,
            ..Report::default()
        })
    }
}

/// A line of a panic, in which the sources of other crates are named without where this machine keeps them.
fn without_registry(line: &str) -> String {
    const KEPT: &str = "/registry/src/";
    let words = line.split(' ').map(|word| match word.split_once(KEPT) {
        Some((_, source)) => source.split_once('/').map_or(source, |(_, path)| path),
        None => word,
    });
    words.collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_soak_may_be_run_in_pieces() {
        let report = |seed, verdict: &str, acknowledged| Report {
            seed,
            verdict: verdict.to_owned(),
            acknowledged,
            faults: BTreeMap::from([("crash".to_owned(), seed)]),
            ..Report::default()
        };
        let reports = [
            report(1, "ok", 500),
            report(2, "violation", 300),
            report(3, "ok", 400),
        ];
        let of = |reports: &[Report]| {
            let mut summary = Summary::default();
            reports.iter().for_each(|report| summary.add(report));
            summary
        };
        let whole = of(&reports);
        assert_eq!(of(&reports[..1]).and(&of(&reports[1..])), whole);
        assert_eq!(
            (
                whole.acknowledged_min,
                whole.faults["crash"],
                &whole.failed[&2][..]
            ),
            (Some(300), 6, "violation")
        );
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("totals.json");
        assert_eq!(Summary::of_file(&file).unwrap(), Summary::default());
        std::fs::write(&file, serde_json::to_string(&whole).unwrap()).unwrap();
        assert_eq!(Summary::of_file(&file).unwrap(), whole);
    }

    #[test]
    fn last_words_do_not_tell_where_crates_are_kept() {
        let line =
            "thread 'main' panicked at /home/u/.cargo/registry/src/mirror-1f/validit-0.2.6/src/valid.rs:9:1:";
        assert_eq!(
            without_registry(line),
            "thread 'main' panicked at validit-0.2.6/src/valid.rs:9:1:"
        );
        assert_eq!(
            without_registry("  at jepsen/src/main.rs"),
            "  at jepsen/src/main.rs"
        );
    }
}
