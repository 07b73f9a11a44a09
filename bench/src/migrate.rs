//! What clients notice of a change of the layout: throughput and latency before, during and after.
//!
//! A cluster gets a part of the load that it can bear, at a fixed rate, so that an answer that is late delays no clock. Then
//! the layout changes: of four hosts with one shard, a replica moves to the host that has none, or the shard is split, or
//! its halves are merged; of six hosts with 64 shards, one is drained.

use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::Context;
use comfy_table::Table;
use serde::{Deserialize, Serialize};
use tokio::sync::Notify;
use tokio::time::Instant;

use crate::layout_change::{LayoutChange, Reached};
use crate::load::{Latencies, Load, Measured, Pace, Slice, run};
use crate::peer::{Godwit, Peer, Route};
use crate::workload::{Keys, Kind, Workload};

const CLIENTS: usize = 256;
const VALUE_BYTES: usize = 1024;
const WARM_UP_S: f64 = 2.0;
/// How long the peak is looked for.
const PEAK_S: f64 = 5.0;
const SLICE_S: f64 = 0.25;
/// The shortest time before the change, and after it.
const CALM: Duration = Duration::from_secs(15);

/// What is measured.
#[derive(Clone, Debug)]
pub struct MigrateOptions {
    /// What happens under load.
    pub change: LayoutChange,
    /// Bytes of all values, in MiB.
    pub mebibytes: u64,
    /// The rate under which the layout changes, by the most that the cluster bears.
    pub load_share: f64,
    /// Clients of the SDK, each with a connection to a host, that the load goes through.
    pub connections: usize,
    /// Seconds of load; the change must end well within.
    pub seconds: f64,
    /// Where the cluster's data lies meanwhile.
    pub folder: PathBuf,
    /// More settings of the hosts, as `field=value`.
    pub settings: Vec<String>,
    /// Of every random choice.
    pub seed: u64,
}

/// What came of it.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct MigrateReport {
    /// What happened.
    pub change: LayoutChange,
    /// Bytes of all values, in MiB.
    pub mebibytes: u64,
    /// Operations begun a second.
    pub per_s: f64,
    /// How long the change took.
    pub change_s: f64,
    /// Before it...
    pub before: Phase,
    /// ... while it went on...
    pub during: Phase,
    /// ... and after it.
    pub after: Phase,
    /// Latency at 99 %, during the change by before it.
    pub p99_ratio: f64,
    /// What the change came through, in order, and when.
    pub states: Vec<Reached>,
    /// Each second of the load.
    pub timeline: Vec<Phase>,
}

/// What clients saw in a while.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Phase {
    /// Its length.
    pub seconds: f64,
    /// Operations a second that ended well.
    pub ops_s: f64,
    /// Operations that failed.
    pub failures: u64,
    /// Half of the operations took no longer, in microseconds.
    pub p50_us: f64,
    /// 99 of 100 took no longer.
    pub p99_us: f64,
    /// The longest that one took.
    pub max_us: f64,
}

impl Phase {
    /// Of the slices that ended within `from..to`, in seconds since the load began.
    fn of(slices: &[Slice], from: f64, to: f64) -> Self {
        let mut phase = Phase::default();
        let (mut latencies, mut operations, mut begun) = (Latencies::default(), 0, 0.0);
        for slice in slices {
            if slice.until_s > from && slice.until_s <= to {
                phase.seconds += slice.until_s - begun;
                phase.failures += slice.failures;
                operations += slice.operations;
                latencies.add(&slice.latencies);
            }
            begun = slice.until_s;
        }
        Self {
            ops_s: operations as f64 / phase.seconds,
            p50_us: latencies.quantile_us(0.5),
            p99_us: latencies.quantile_us(0.99),
            max_us: latencies.quantile_us(1.0),
            ..phase
        }
    }
}

/// Fills a cluster, loads it, and changes the layout; `told` hears what it comes to.
///
/// # Errors
/// When the cluster does not start, the change is refused or does not end in time.
pub async fn migrate(options: &MigrateOptions, told: impl Fn(&str)) -> anyhow::Result<MigrateReport> {
    std::fs::create_dir_all(&options.folder)?;
    let folder = tempfile::tempdir_in(&options.folder).context("a folder for the cluster")?;
    let layout = options.change.layout();
    let mut godwit = Godwit::own(layout.shards, Route::Stream)?;
    godwit.settings.clone_from(&options.settings);
    let cluster = godwit.start(folder.path(), layout.hosts).await?;
    let mut accesses = godwit.accesses(&cluster, options.connections).await?;
    let fill = Load {
        access: accesses.pop().context("a peer without a way to reach it")?,
        workload: Workload {
            kind: Kind::Mix,
            keys: Keys::Uniform,
            key_count: (options.mebibytes << 20) / VALUE_BYTES as u64,
            value_bytes: VALUE_BYTES,
        },
        pace: Pace::Fill { clients: CLIENTS },
        warm_up_s: WARM_UP_S,
        seconds: PEAK_S,
        slice_s: 0.0,
        seed: options.seed,
        steps: None,
    };
    told(&format!("{} MiB are written", options.mebibytes));
    let (filled, _) = run(&fill, || cluster.usage()).await?;
    anyhow::ensure!(filled.failures == 0, "{:?}", filled.first_failure);
    options.change.prepare(&cluster).await?;
    told("the most that the cluster bears is looked for");
    let closed = Load {
        pace: Pace::Closed { clients: CLIENTS },
        ..fill.clone()
    };
    let (peak, _) = run(&closed, || cluster.usage()).await?;
    let per_s = peak.operations as f64 / peak.seconds * options.load_share;
    let load = Load {
        pace: Pace::Open { per_s },
        seconds: options.seconds,
        slice_s: SLICE_S,
        ..fill
    };
    told(&format!(
        "{per_s:.0} operations a second for {:.0} s",
        options.seconds
    ));
    let begun = Notify::new();
    let loaded = run(&load, || {
        begun.notify_one();
        cluster.usage()
    });
    let changing = async {
        begun.notified().await;
        let began = Instant::now();
        tokio::time::sleep(CALM).await;
        let from = began.elapsed();
        let states = options.change.make(&cluster, began).await?;
        anyhow::Ok((from.as_secs_f64(), began.elapsed().as_secs_f64(), states))
    };
    let ((measured, _), (from, to, states)) = tokio::try_join!(loaded, changing)?;
    let report = report(options, per_s, &measured, from, to)?;
    Ok(MigrateReport { states, ..report })
}

fn report(
    options: &MigrateOptions,
    per_s: f64,
    measured: &Measured,
    from: f64,
    to: f64,
) -> anyhow::Result<MigrateReport> {
    let end = measured.seconds;
    anyhow::ensure!(
        to + CALM.as_secs_f64() <= end,
        "the change ended {to:.0} s after the load began, which is too near its end; give it more than {end:.0} s"
    );
    let (before, during, after) = (
        Phase::of(&measured.slices, 0.0, from),
        // The slice in which it ended belongs to it.
        Phase::of(&measured.slices, from, to + SLICE_S),
        Phase::of(&measured.slices, to + SLICE_S, end),
    );
    Ok(MigrateReport {
        change: options.change,
        mebibytes: options.mebibytes,
        per_s,
        change_s: to - from,
        before,
        during,
        after,
        p99_ratio: during.p99_us / before.p99_us,
        states: Vec::new(),
        timeline: timeline(&measured.slices, end),
    })
}

/// What clients saw second by second.
fn timeline(slices: &[Slice], end: f64) -> Vec<Phase> {
    let seconds = (0..end as u32).map(f64::from);
    seconds
        .map(|second| Phase::of(slices, second, second + 1.0))
        .collect()
}

impl fmt::Display for MigrateReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut table = Table::new();
        table.load_style(comfy_table::presets::NOTHING);
        table.set_header(["", "seconds", "ops/s", "failed", "p50 us", "p99 us", "max us"]);
        for (name, phase) in [
            ("before", &self.before),
            ("during", &self.during),
            ("after", &self.after),
        ] {
            table.add_row([
                name.to_owned(),
                format!("{:.1}", phase.seconds),
                format!("{:.0}", phase.ops_s),
                phase.failures.to_string(),
                format!("{:.0}", phase.p50_us),
                format!("{:.0}", phase.p99_us),
                format!("{:.0}", phase.max_us),
            ]);
        }
        writeln!(
            f,
            "{} of {} MiB in {:.1} s under {:.0} operations a second; p99 during / before: {:.2}\n{table}",
            self.change, self.mebibytes, self.change_s, self.per_s, self.p99_ratio
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn slice(until_s: f64, micros: u64) -> Slice {
        let mut latencies = Latencies::default();
        (0..100).for_each(|_| latencies.record(Duration::from_micros(micros)));
        Slice {
            until_s,
            operations: 100,
            failures: u64::from(micros > 1_000),
            latencies,
        }
    }

    #[test]
    fn phases_take_the_slices_that_ended_in_them() {
        let slices = (1..=120).map(|number| {
            let until_s = f64::from(number) * 0.5;
            slice(
                until_s,
                if (20.0..30.0).contains(&until_s) {
                    2_000
                } else {
                    1_000
                },
            )
        });
        let measured = Measured {
            seconds: 60.0,
            slices: slices.collect(),
            ..Measured::default()
        };
        let options = MigrateOptions {
            change: LayoutChange::Move,
            mebibytes: 1,
            load_share: 0.5,
            connections: 16,
            seconds: 60.0,
            folder: PathBuf::new(),
            settings: Vec::new(),
            seed: 1,
        };
        let report = report(&options, 200.0, &measured, 19.9, 29.9).expect("it ended in time");
        assert!((report.before.ops_s - 200.0).abs() < 1.0 && report.before.failures == 0);
        assert!((report.during.p99_us / 2_000.0 - 1.0).abs() < 1e-2, "{report:?}");
        assert_eq!(report.during.failures, 20);
        assert!((report.p99_ratio - 2.0).abs() < 0.02);
        assert!((report.after.seconds - 30.0).abs() < 1.0, "{report:?}");
        assert!(
            super::report(&options, 200.0, &measured, 40.0, 50.0).is_err(),
            "too near the end"
        );
    }
}
