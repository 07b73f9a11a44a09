//! The tables of the demo's end, for a terminal.

use comfy_table::presets::UTF8_BORDERS_ONLY;
use comfy_table::{Cell, CellAlignment, Table};

use super::{DemoReport, HeadRoom, PolicyResult};
use crate::config::PolicyName;

/// Short, so that the table fits a terminal of 100 columns. Latencies are milliseconds; `mean` is
/// over all operations, `moves` counts migrations done, those of homes among them.
pub(super) const POLICY_COLUMNS: [&str; 9] = [
    "policy",
    "local",
    "RTT ms",
    "mean",
    "read p50",
    "read p99",
    "write p99",
    "moves",
    "moved",
];

/// One line a policy and one for the offline optimum.
pub fn policy_table(report: &DemoReport) -> Table {
    let mut table = empty(&POLICY_COLUMNS);
    for (policy, result) in report.policies.iter() {
        table.add_row(row(policy_texts(policy, result)));
    }
    if let Some(optimum) = report.optimum() {
        let blank = String::new;
        let (ratio, rtt) = (percent(optimum.local_access_ratio), millis(optimum.rtt_mean_us));
        let name = format!("({})", optimum.name);
        table.add_row(row([
            name,
            ratio,
            rtt,
            blank(),
            blank(),
            blank(),
            blank(),
            blank(),
            blank(),
        ]));
    }
    table
}

/// A policy's line, in the order of [`POLICY_COLUMNS`].
pub(super) fn policy_texts(policy: PolicyName, result: &PolicyResult) -> [String; 9] {
    [
        policy.to_string(),
        percent(result.local_access_ratio),
        millis(result.rtt_mean_us),
        millis(result.latency_mean_us),
        millis(result.read_p50_us as f64),
        millis(result.read_p99_us as f64),
        millis(result.write_p99_us as f64),
        result.migrations_done.to_string(),
        bytes(result.bytes_moved),
    ]
}

/// What policies can gain on the slice, from the trace alone.
pub fn head_room_table(rules: &[HeadRoom]) -> Table {
    let mut table = empty(&["rule, on the trace alone", "local", "RTT ms"]);
    for rule in rules {
        table.add_row(row([
            rule.name.clone(),
            percent(rule.local_access_ratio),
            millis(rule.rtt_mean_us),
        ]));
    }
    table
}

fn empty(columns: &[&str]) -> Table {
    let mut table = Table::new();
    table.load_style(UTF8_BORDERS_ONLY).set_header(columns.to_vec());
    table
}

/// The first column is a name, the others are numbers.
fn row<const N: usize>(texts: [String; N]) -> Vec<Cell> {
    let align = |(column, text)| {
        let alignment = if column == 0 {
            CellAlignment::Left
        } else {
            CellAlignment::Right
        };
        Cell::new(text).set_alignment(alignment)
    };
    texts.into_iter().enumerate().map(align).collect()
}

pub(super) fn percent(ratio: f64) -> String {
    format!("{:.1} %", 100.0 * ratio)
}

pub(super) fn millis(micros: f64) -> String {
    format!("{:.2}", micros / 1_000.0)
}

fn bytes(count: u64) -> String {
    match count {
        0..10_000 => format!("{count} B"),
        10_000..1_000_000 => format!("{:.0} kB", count as f64 / 1e3),
        1_000_000..1_000_000_000 => format!("{:.1} MB", count as f64 / 1e6),
        _ => format!("{:.1} GB", count as f64 / 1e9),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::figures::tests::sample;

    #[test]
    fn every_policy_and_the_optimum_have_a_line() {
        let text = policy_table(&sample()).to_string();
        let line = |name: &str| {
            text.lines()
                .find(|line| line.contains(name))
                .unwrap()
                .split_whitespace()
                .count()
        };
        assert!(
            text.contains("65.0 %") && text.contains("7.5 MB") && text.contains("9.50"),
            "{text}"
        );
        // Nine columns, a "%", a unit and two borders; the optimum has only three columns, and two words.
        assert_eq!((line("burn-model"), line("(per-window oracle)")), (13, 7));
        assert_eq!(text.lines().filter(|line| line.contains(" %")).count(), 7);
        assert!(text.lines().all(|line| line.chars().count() <= 100), "{text}");
    }

    #[test]
    fn the_head_room_is_listed_in_order() {
        let text = head_room_table(&sample().details.head_room).to_string();
        let places = ["static majority", "per-window oracle"].map(|name| text.find(name).unwrap());
        assert!(
            places.is_sorted() && text.contains("84.0 %") && text.contains("4.10"),
            "{text}"
        );
    }
}
