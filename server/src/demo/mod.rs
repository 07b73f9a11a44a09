//! `godwit demo`: the main job, end to end, on a real trace.
//!
//! Six hosts in six zones and three regions run as processes of this binary. The trace before the measured slice trains
//! the model; the slice is replayed under each policy in turn, each from the same placement, and what clients saw is
//! measured. A closing segment moves homes and replicas by hand and kills a host. At the end every acknowledged write is
//! read back.
//!
//! `prepare` reads, cuts and trains; `cluster` runs the hosts; `replayer` drives windows; `ledger` remembers what was
//! acknowledged; `closing` measures pauses and the kill.

mod closing;
mod cluster;
mod ledger;
mod prepare;
mod replayer;

use std::path::Path;
use std::time::Duration;

use client::proto::PlanOutcome;
use indicatif::{ProgressBar, ProgressStyle};
use ml::{ZoneFileError, ZoneMapError};
use tokio::time::Instant;

use crate::cli::DemoArgs;
use crate::config::PolicyName;
use crate::replay::{PlanError, TraceError};
use crate::report::{
    Catalogue, DemoReport, Details, PolicyResult, Settings, WindowPoint, head_room_table, policy_table,
    render_page,
};
use cluster::Cluster;
use ledger::Ledger;
use prepare::Prepared;
use replayer::{Measured, Replayer};

const HOUR_MS: u64 = 3_600_000;
const DAYS: u32 = 7;
const QUICK_DAYS: u32 = 2;
const REPLICATION_FACTOR: u32 = 3;
/// How long a window's planned moves may take before the replay goes on without them.
const SETTLE_MS: u32 = 5_000;

/// Why the demo did not come to its end.
#[derive(Debug, thiserror::Error)]
pub enum DemoError {
    /// The trace.
    #[error(transparent)]
    Trace(#[from] TraceError),
    /// The zone file.
    #[error(transparent)]
    ZoneFile(#[from] ZoneFileError),
    /// The zones, named anew.
    #[error(transparent)]
    Zones(#[from] ZoneMapError),
    /// The slice.
    #[error(transparent)]
    Plan(#[from] PlanError),
    /// Training.
    #[error("training: {0}")]
    Train(String),
    /// The hosts.
    #[error("the cluster: {0}")]
    Cluster(String),
    /// A file.
    #[error("{path}: {source}")]
    File {
        /// The file.
        path: String,
        /// Why.
        source: std::io::Error,
    },
    /// The user.
    #[error("interrupted; every host was stopped")]
    Interrupted,
    /// The result.
    #[error("{lost} acknowledged writes were lost and {errors} operations failed")]
    Failed {
        /// Acknowledged writes that could not be read back.
        lost: u64,
        /// Failed operations.
        errors: u64,
    },
}

/// Runs the demo. Ctrl-C stops every host.
pub async fn demo(args: DemoArgs) -> Result<(), DemoError> {
    tokio::select! {
        done = run(args) => done,
        _ = tokio::signal::ctrl_c() => Err(DemoError::Interrupted),
    }
}

async fn run(args: DemoArgs) -> Result<(), DemoError> {
    let days = if args.quick { QUICK_DAYS } else { DAYS };
    let prepared = prepare::prepare(&args, days)?;
    println!("\nWhat there is to gain on these days, from the trace alone (homes among 3 voters):");
    println!("{}", head_room_table(&prepared.head_room));
    let cluster = Cluster::start(&args, &prepared).await?;
    println!("\nMoving replicas to where the training part was read ...");
    let moved = cluster.place_replicas(prepared.open_window()).await?;
    println!(
        "  {} of {} replica and home moves done, {} bytes copied",
        moved.done, moved.proposed, moved.bytes_moved
    );
    let mut ledger = Ledger::new(prepared.trace.keys().len());
    let replayer = Replayer::new(&cluster, &prepared);
    replayer.load(&mut ledger).await?;
    let mut report = DemoReport {
        ops: 0,
        lost_writes: 0,
        errors: 0,
        policies: Catalogue::default(),
        details: Details {
            settings: settings(&args, &prepared, days),
            head_room: prepared.head_room.clone(),
            notes: notes(),
            ..Details::default()
        },
    };
    let started = Instant::now();
    for policy in args.policies() {
        measure_policy(policy, &cluster, &replayer, &prepared, &mut ledger, &mut report).await?;
    }
    let real_ms = started.elapsed().as_millis().max(1) as f64;
    let replayed_ms = (prepared.plan.windows.len() * args.policies().len()) as f64 * HOUR_MS as f64;
    report.details.settings.time_compression = replayed_ms / real_ms;
    closing::measure(&args, &cluster, &replayer, &prepared, &mut ledger, &mut report).await?;
    println!("\nReading back every acknowledged write ...");
    report.lost_writes = replayer.verify(&mut ledger).await?;
    report.errors = ledger.errors();
    finish(&args, &report)?;
    cluster.stop().await;
    match (report.lost_writes, report.errors) {
        (0, 0) => Ok(()),
        (lost, errors) => Err(DemoError::Failed { lost, errors }),
    }
}

fn settings(args: &DemoArgs, prepared: &Prepared, days: u32) -> Settings {
    Settings {
        trace: prepared.name.clone(),
        days,
        window_ms: HOUR_MS,
        shards: args.shards,
        hosts: prepared.sites.len() as u32,
        replication_factor: REPLICATION_FACTOR,
        seed: args.seed,
        time_compression: 0.0,
    }
}

fn notes() -> Vec<String> {
    vec![
        "Hosts are processes on one machine with real files; the round trips between zones are emulated where \
         connections are opened."
            .to_owned(),
        "Time is compressed: after each window the replay waits until the moves planned for the next one have ended, \
         since a window is an hour and a move takes well under a second, and until the clients have asked for the new shard \
         map, as they would within the hour."
            .to_owned(),
    ]
}

async fn measure_policy(
    policy: PolicyName,
    cluster: &Cluster,
    replayer: &Replayer<'_>,
    prepared: &Prepared,
    ledger: &mut Ledger,
    report: &mut DemoReport,
) -> Result<(), DemoError> {
    println!("\n{policy}");
    cluster.reset_homes(prepared.open_window()).await?;
    let first = cluster.set_policy(policy, prepared.open_window()).await?;
    let bar = ProgressBar::new(prepared.plan.windows.len() as u64);
    let style = ProgressStyle::with_template("  {bar:32} {pos:>3}/{len} windows  {elapsed}  {msg}");
    bar.set_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()));
    let mut total = Measured::new();
    let mut points = Vec::new();
    let mut result = PolicyResult {
        home_moves: u64::from(first.done),
        ..PolicyResult::default()
    };
    result.migrations_done = u64::from(first.done);
    let (mut replaying, mut moving) = (Duration::ZERO, Duration::ZERO);
    for window in &prepared.plan.windows {
        let begun = Instant::now();
        let measured = replayer.replay(window, ledger).await?;
        replaying += begun.elapsed();
        let begun = Instant::now();
        let closed = cluster.close_window(window.window, SETTLE_MS).await?;
        let outcome = closed.outcome.unwrap_or_default();
        if outcome.proposed > 0 {
            replayer.refresh_maps().await;
        }
        moving += begun.elapsed();
        let point = point(window.starts_at_ms, &measured, &outcome);
        bar.println(line(&point));
        bar.inc(1);
        result.home_moves += u64::from(outcome.done);
        result.migrations_done += u64::from(outcome.done);
        result.bytes_moved += outcome.bytes_moved;
        total.add(&measured);
        points.push(point);
    }
    bar.finish_and_clear();
    result.local_access_ratio = total.local_access_ratio();
    result.rtt_mean_us = total.rtt_mean_us();
    result.latency_mean_us = total.latency_mean_us();
    result.read_p50_us = total.reads.value_at_quantile(0.5);
    result.read_p99_us = total.reads.value_at_quantile(0.99);
    result.write_p99_us = total.writes.value_at_quantile(0.99);
    report.ops += total.operations();
    report.policies.insert(policy, result);
    report.details.windows.insert(policy, points);
    println!(
        "  local {:.3}, mean RTT {:.2} ms, mean latency {:.1} ms, reads p50 {:.1} ms, {} home moves; a window took {:.0} ms \
         to replay and {:.0} ms to plan and move",
        result.local_access_ratio,
        result.rtt_mean_us / 1000.0,
        result.latency_mean_us / 1000.0,
        result.read_p50_us as f64 / 1000.0,
        result.home_moves,
        replaying.as_secs_f64() * 1000.0 / prepared.plan.windows.len().max(1) as f64,
        moving.as_secs_f64() * 1000.0 / prepared.plan.windows.len().max(1) as f64
    );
    Ok(())
}

fn point(starts_at_ms: u64, measured: &Measured, outcome: &PlanOutcome) -> WindowPoint {
    WindowPoint {
        starts_at_ms,
        accesses: measured.accesses,
        local_accesses: measured.local,
        read_p50_us: measured.reads.value_at_quantile(0.5),
        read_p99_us: measured.reads.value_at_quantile(0.99),
        write_p50_us: measured.writes.value_at_quantile(0.5),
        write_p99_us: measured.writes.value_at_quantile(0.99),
        home_moves: u64::from(outcome.done),
        migrations_started: u64::from(outcome.proposed),
        migrations_done: u64::from(outcome.done),
        migrations_aborted: u64::from(outcome.aborted),
    }
}

fn line(point: &WindowPoint) -> String {
    let hour = point.starts_at_ms / HOUR_MS % 24;
    let day = point.starts_at_ms / HOUR_MS / 24;
    let millis = |us: u64| us as f64 / 1000.0;
    format!(
        "  day {day} {hour:02}:00  local {:3}/{:3}  read p50 {:5.1} p99 {:6.1} ms  write p50 {:5.1} p99 {:6.1} ms  \
         moves {} done {} aborted {}",
        point.local_accesses,
        point.accesses,
        millis(point.read_p50_us),
        millis(point.read_p99_us),
        millis(point.write_p50_us),
        millis(point.write_p99_us),
        point.migrations_started,
        point.migrations_done,
        point.migrations_aborted
    )
}

fn finish(args: &DemoArgs, report: &DemoReport) -> Result<(), DemoError> {
    println!("\n{}", policy_table(report));
    for finding in report.findings() {
        println!("{finding}");
    }
    if let Some(path) = &args.report {
        let json = serde_json::to_string_pretty(report).unwrap_or_default();
        write_file(path, json.as_bytes())?;
    }
    if let Some(path) = &args.html {
        write_file(path, render_page(report).as_bytes())?;
    }
    Ok(())
}

pub(crate) fn write_file(path: &Path, content: &[u8]) -> Result<(), DemoError> {
    std::fs::write(path, content).map_err(|source| DemoError::File {
        path: path.display().to_string(),
        source,
    })
}
