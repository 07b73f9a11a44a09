//! Rows for the terminal.

use std::fmt;

use comfy_table::Table;

use super::PlacementReport;
use super::interval::Interval;
use super::row::{ForecastRow, PolicyRow};
use super::system::SystemRow;
use super::verdict::HeadRoomVerdict;

pub(super) const FORECAST_COLUMNS: [&str; 10] = [
    "trace",
    "window",
    "map",
    "shards",
    "forecaster",
    "LAR",
    "mean ms",
    "nearest ms",
    "ECE",
    "NLL",
];
pub(super) const POLICY_COLUMNS: [&str; 13] = [
    "trace", "window", "map", "c", "policy", "cost", "regret", "LAR", "mean ms", "p99 ms", "moves", "MB",
    "setting",
];

pub(super) const SYSTEM_COLUMNS: [&str; 13] = [
    "trace",
    "window",
    "map",
    "policy",
    "mean ms",
    "known ms",
    "p99 ms",
    "quorum ms",
    "LAR",
    "moves/1000",
    "copies/1000",
    "busiest",
    "setting",
];

impl fmt::Display for PlacementReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(
            f,
            "{}\n",
            table(&FORECAST_COLUMNS, self.forecasts.iter().map(ForecastRow::cells))
        )?;
        writeln!(
            f,
            "{}\n",
            table(&POLICY_COLUMNS, self.policies.iter().map(PolicyRow::cells))
        )?;
        writeln!(
            f,
            "{}\n",
            table(&SYSTEM_COLUMNS, self.system.iter().map(SystemRow::cells))
        )?;
        for system in &self.system_verdicts {
            writeln!(f, "{system}")?;
        }
        for cut in &self.verdict.head_room {
            writeln!(f, "{cut}")?;
        }
        for comparison in &self.verdict.comparisons {
            writeln!(f, "{comparison}")?;
        }
        writeln!(
            f,
            "longest training {:.1} s, longest replay of all policies {:.1} s",
            self.train_s_max, self.replay_s_max
        )
    }
}

fn table(columns: &[&str], rows: impl Iterator<Item = Vec<String>>) -> Table {
    let mut table = Table::new();
    table.load_style(comfy_table::presets::NOTHING);
    table.set_header(columns);
    rows.for_each(|row| {
        table.add_row(row);
    });
    table
}

fn with(interval: &Interval, decimals: usize) -> String {
    match interval.half_width > 0.0 {
        true => format!("{:.decimals$} ±{:.decimals$}", interval.mean, interval.half_width),
        false => format!("{:.decimals$}", interval.mean),
    }
}

impl ForecastRow {
    pub(super) fn cells(&self) -> Vec<String> {
        let perhaps =
            |interval: &Option<Interval>| interval.as_ref().map_or(String::new(), |known| with(known, 3));
        vec![
            self.trace.clone(),
            format!("{} h", self.window_h),
            self.map.name().to_owned(),
            self.shards.to_string(),
            self.forecaster.clone(),
            with(&self.local_access_ratio, 4),
            with(&self.mean_ms, 2),
            with(&self.mean_ms_nearest, 2),
            perhaps(&self.ece),
            perhaps(&self.nll),
        ]
    }
}

impl PolicyRow {
    pub(super) fn cells(&self) -> Vec<String> {
        vec![
            self.trace.clone(),
            format!("{} h", self.window_h),
            self.map.name().to_owned(),
            self.move_cost.to_string(),
            self.policy.clone(),
            with(&self.cost, 4),
            with(&self.regret, 4),
            with(&self.local_access_ratio, 4),
            with(&self.mean_ms, 2),
            with(&self.p99_ms, 1),
            with(&self.moves, 0),
            format!("{:.1}", self.bytes_moved.mean / 1e6),
            self.setting.clone(),
        ]
    }
}

impl SystemRow {
    pub(super) fn cells(&self) -> Vec<String> {
        vec![
            self.trace.clone(),
            format!("{} h", self.window_h),
            self.map.name().to_owned(),
            self.policy.clone(),
            with(&self.mean_ms, 2),
            with(&self.mean_ms_known, 2),
            with(&self.p99_ms, 1),
            self.mean_quorum_ms
                .as_ref()
                .map_or(String::new(), |mean| with(mean, 2)),
            with(&self.local_access_ratio, 3),
            with(&self.moves_per_1000, 1),
            format!("{:.1}", self.copies_per_1000),
            with(&self.fair_share_max, 2),
            self.setting.clone(),
        ]
    }
}

impl fmt::Display for HeadRoomVerdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{}, {} h, {}: model {:+.1} points to the best rule ({}), {:+.1} to the best EWMA, ECE {:.3}{}",
            self.trace,
            self.window_h,
            self.map.name(),
            self.above_best_points,
            self.best_rule,
            self.above_ewma_points,
            self.ece,
            if self.met { "" } else { " (misses a bar)" }
        )
    }
}
