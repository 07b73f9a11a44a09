//! Placement policies on real access traces, against the optimum: which forecasts well, and which is worth its moves.
//!
//! Each trace is cut into windows and shards in several ways (`study.rs`). The first half of its time is history, from
//! which models are trained and settings are tuned; the second half is scored. All policies decide by `ml`'s protocol,
//! which lets a decision see windows that have ended and serve the window after the next.

mod interval;
mod maps;
mod page;
mod row;
mod study;
mod system;
mod table;
mod trace;
mod verdict;

use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

use clap::ValueEnum;
use serde::Serialize;

pub use interval::Interval;
pub use maps::ShardMap;
pub use page::render_page;
pub use row::{ForecastRow, PolicyRow};
pub use study::SHARDS;
pub use system::{SystemRow, SystemVerdict};
pub use verdict::{Comparison, HeadRoomVerdict, Verdict};

use row::{CutRows, Trial, measure};
use study::{Cut, cuts_of, system_window_h};
use system::system_rows;
use trace::{Trace, read_traces};

/// What the command is told.
#[derive(Clone, Debug)]
pub struct PlacementOptions {
    /// A folder with a subfolder for each trace.
    pub traces: PathBuf,
    /// Where the history of a trace of the same name is read from instead.
    pub train: Option<PathBuf>,
    /// Only traces whose names contain one of these; all if there is none.
    pub only: Vec<String>,
    /// Only these maps; all if there is none.
    pub maps: Vec<ShardMap>,
    /// Only windows of these hours; all if there is none.
    pub windows_h: Vec<u64>,
    /// Shards wanted of a map that can be cut into any number.
    pub shards: usize,
    /// How many seeds each model is trained from.
    pub seeds: u64,
    /// Costs of a move, in remote accesses.
    pub costs: Vec<f64>,
    /// Passes over the samples of a training.
    pub epochs: usize,
    /// Cuts measured at a time.
    pub threads: usize,
    /// Which parts to measure.
    pub parts: Parts,
}

impl PlacementOptions {
    /// Hours of a window of the whole system: the shortest that is asked for.
    fn system_window_h(&self, trace: &Trace) -> u64 {
        let asked = self.windows_h.iter().copied().min();
        asked.unwrap_or_else(|| system_window_h(trace))
    }
}

/// Which parts to measure.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum Parts {
    /// Both.
    #[default]
    All,
    /// Forecasters and policies, cut by cut.
    Policies,
    /// The whole system, trace by trace.
    System,
}

/// All that was measured.
#[derive(Clone, Debug, Default, Serialize)]
pub struct PlacementReport {
    /// A row a trace, window, map and forecaster.
    pub forecasts: Vec<ForecastRow>,
    /// A row a trace, window, map, policy and cost of a move.
    pub policies: Vec<PolicyRow>,
    /// What the rows come to.
    pub verdict: Verdict,
    /// A row a trace, map and policy of the whole system, in round trips.
    pub system: Vec<SystemRow>,
    /// What those come to.
    pub system_verdicts: Vec<SystemVerdict>,
    /// Seconds that the longest training took.
    pub train_s_max: f64,
    /// Seconds that the longest replay of all policies took.
    pub replay_s_max: f64,
}

/// Runs everything; `told` hears of each cut as it is done.
///
/// # Errors
/// When a trace cannot be read, or its history is too short to train on.
pub fn placement(options: &PlacementOptions, told: impl Fn(&str) + Sync) -> anyhow::Result<PlacementReport> {
    anyhow::ensure!(options.shards > 0, "a map has one shard at least");
    let mut traces = read_traces(&options.traces, options.train.as_deref())?;
    traces
        .retain(|trace| options.only.is_empty() || options.only.iter().any(|part| trace.name.contains(part)));
    let cuts = |trace| match options.parts {
        Parts::System => Vec::new(),
        Parts::All | Parts::Policies => cuts_of(trace, options.shards),
    };
    let tasks: Vec<(&Trace, Cut)> = traces
        .iter()
        .flat_map(|trace| cuts(trace).into_iter().map(move |cut| (trace, cut)))
        .filter(|(_, cut)| options.maps.is_empty() || options.maps.contains(&cut.map))
        .filter(|(_, cut)| options.windows_h.is_empty() || options.windows_h.contains(&cut.window_h))
        .collect();
    anyhow::ensure!(
        !tasks.is_empty() || (options.parts == Parts::System && !traces.is_empty()),
        "no trace, window and map is left to measure"
    );
    let trial = Trial {
        seeds: (1..=options.seeds.max(1)).collect(),
        costs: options.costs.clone(),
        epochs: options.epochs,
    };
    let mut report = PlacementReport::default();
    for rows in side_by_side(&tasks, options.threads, |(trace, cut)| {
        let rows = measure(trace, *cut, &trial);
        told(&format!("{}, {} h, {}", trace.name, cut.window_h, cut.map.name()));
        rows
    }) {
        let rows: CutRows = rows?;
        report.train_s_max = report.train_s_max.max(rows.train_s);
        report.replay_s_max = report.replay_s_max.max(rows.replay_s);
        report.forecasts.extend(rows.forecasts);
        report.policies.extend(rows.policies);
    }
    report.verdict = Verdict::of(&report.forecasts, &report.policies);
    if options.parts != Parts::Policies {
        for rows in side_by_side(&traces, options.threads, |trace| {
            let rows = system_rows(trace, options.system_window_h(trace), options.shards, &trial);
            told(&format!("{}, the whole system", trace.name));
            rows
        }) {
            report.system.extend(rows?);
        }
        report.system_verdicts = SystemVerdict::of(&report.system);
    }
    Ok(report)
}

/// The tasks' results in order, from this many threads.
fn side_by_side<T: Sync, R: Send>(tasks: &[T], threads: usize, work: impl Fn(&T) -> R + Sync) -> Vec<R> {
    let (next, done) = (AtomicUsize::new(0), Mutex::new(Vec::new()));
    std::thread::scope(|scope| {
        for _ in 0..threads.clamp(1, tasks.len().max(1)) {
            scope.spawn(|| {
                while let Some(task) = tasks.get(next.fetch_add(1, Ordering::Relaxed)) {
                    let place = tasks
                        .iter()
                        .position(|other| std::ptr::eq(other, task))
                        .unwrap_or(0);
                    let result = work(task);
                    done.lock()
                        .unwrap_or_else(std::sync::PoisonError::into_inner)
                        .push((place, result));
                }
            });
        }
    });
    let mut done = done
        .into_inner()
        .unwrap_or_else(std::sync::PoisonError::into_inner);
    done.sort_by_key(|(place, _)| *place);
    done.into_iter().map(|(_, result)| result).collect()
}

/// Where the traces are, unless it is told: beside the checkout, in it, or those that it carries.
pub fn default_traces() -> PathBuf {
    ["shared/traces", "../shared/traces", "traces"]
        .map(Path::new)
        .into_iter()
        .find(|folder| folder.is_dir())
        .unwrap_or(Path::new("traces"))
        .to_path_buf()
}
