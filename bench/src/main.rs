//! The `bench` program; and, as `bench godwit ...`, the very `godwit` that it measures.

mod cli;

use std::path::Path;
use std::process::ExitCode;

use bench::compare::{Options, compare, render_page};
use bench::failover::failover;
use bench::migrate::{MigrateOptions, migrate};
use bench::peer::{Etcd, Godwit, Peer, Route};
use bench::placement::{PlacementOptions, default_traces, placement};
use bench::profile::{ProfileOptions, profile, render};
use bench::restart::{RestartOptions, restart};
use bench::scale::{ScaleOptions, scale};
use bench::training::{TrainingOptions, training};
use bench::watch::{WatchLoad, watch};
use clap::Parser;
use serde::Serialize;

use cli::{
    Cli, Command, CompareArgs, FailoverArgs, Measurement, MigrateArgs, PlacementArgs, ProfileArgs,
    RestartArgs, ScaleArgs, TrainingArgs, WatchArgs,
};

/// Where one dimension of a scale varies, the other has this.
const BASE_KEYS: u64 = 100_000;
const BASE_SHARDS: u32 = 16;

fn main() -> ExitCode {
    let mut arguments = std::env::args_os().skip(1).peekable();
    if arguments.peek().is_some_and(|first| first == "godwit") {
        return server::program::main(arguments);
    }
    let command = Cli::parse().command;
    let runtime = match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(e) => {
            eprintln!("bench: cannot start: {e}");
            return ExitCode::FAILURE;
        }
    };
    match runtime.block_on(run(command)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(e) => {
            eprintln!("bench: {e:#}");
            ExitCode::FAILURE
        }
    }
}

async fn run(command: Command) -> anyhow::Result<()> {
    match command {
        Command::Measure(measurement) => unless_told_to_end(measure(measurement)).await,
        Command::Placement(args) => placed(&args),
        Command::Training(args) => unless_told_to_end(trained(&args)).await,
        Command::Load => bench::load::serve().await,
        Command::Godwit { .. } => anyhow::bail!("`godwit` must be the first argument"),
    }
}

/// Measures until that is done, or until the process is told to end: the processes that were started end, and what they wrote
/// goes, as the measurement is dropped.
async fn unless_told_to_end(measured: impl Future<Output = anyhow::Result<()>>) -> anyhow::Result<()> {
    let told_to_end = server::process::told_to_end()?;
    tokio::select! {
        measured = measured => measured,
        signal = told_to_end => anyhow::bail!("ended by {signal}"),
    }
}

async fn measure(measurement: Measurement) -> anyhow::Result<()> {
    match measurement {
        Measurement::Compare(args) => compared(&args).await,
        Measurement::Failover(args) => failed_over(&args).await,
        Measurement::Scale(args) => scaled(&args).await,
        Measurement::Restart(args) => restarted(&args).await,
        Measurement::Migrate(args) => migrated(&args).await,
        Measurement::Watch(args) => watched(&args).await,
        Measurement::Profile(args) => profiled(&args).await,
    }
}

async fn compared(args: &CompareArgs) -> anyhow::Result<()> {
    let cli::PeerName::Etcd = args.peer;
    let options = Options {
        matrix: args.matrix(),
        etcd: args.etcd.clone(),
        folder: args.measurement.data.clone(),
        seed: args.seed,
        settings: args.measurement.settings.clone(),
    };
    let report = compare(&options, |row| {
        eprintln!(
            "{:?} {} {:?}: {:.2}",
            row.workload, row.clients, row.path, row.ratio
        );
    })
    .await?;
    print!("{report}");
    write_json(args.measurement.json.as_deref(), &report)?;
    if let Some(file) = &args.html {
        std::fs::write(file, render_page(&report))?;
    }
    Ok(())
}

async fn failed_over(args: &FailoverArgs) -> anyhow::Result<()> {
    let cli::PeerName::Etcd = args.peer;
    let mut own = Godwit::own(args.shards, Route::Stream)?;
    own.settings = args.measurement.settings.clone();
    let peers: [Box<dyn Peer>; 2] = [Box::new(own), Box::new(Etcd::find(args.etcd.as_deref())?)];
    let mut all = Vec::new();
    for loss in &args.loss {
        for peer in &peers {
            let told = |outage| eprintln!("{} {loss:?}: {outage:?}", peer.name());
            let outages = failover(&**peer, &args.measurement.data, *loss, args.trials, told).await?;
            println!(
                "{} {loss:?}: p50 {:.0} ms, p90 {:.0} ms, longest {:.0} ms",
                outages.store, outages.p50_ms, outages.p90_ms, outages.max_ms
            );
            all.push(outages);
        }
    }
    write_json(args.measurement.json.as_deref(), &all)
}

async fn scaled(args: &ScaleArgs) -> anyhow::Result<()> {
    let options = ScaleOptions {
        shards: args.shards.clone(),
        keys: args.keys.clone(),
        base_keys: BASE_KEYS,
        base_shards: BASE_SHARDS,
        hosts: args.hosts.into(),
        seconds: args.seconds,
        folder: args.measurement.data.clone(),
        settings: args.measurement.settings.clone(),
        seed: args.seed,
    };
    let report = scale(&options, |point| {
        eprintln!(
            "{} shards, {} keys: {:.0} puts/s",
            point.shards, point.keys, point.put.ops_s
        );
    })
    .await?;
    print!("{report}");
    write_json(args.measurement.json.as_deref(), &report)
}

async fn restarted(args: &RestartArgs) -> anyhow::Result<()> {
    let options = RestartOptions {
        keys: args.keys,
        shards: args.shards,
        rounds: args.rounds,
        folder: args.measurement.data.clone(),
        settings: args.measurement.settings.clone(),
        seed: args.seed,
    };
    let report = restart(&options, |what| eprintln!("{what}")).await?;
    print!("{report}");
    write_json(args.measurement.json.as_deref(), &report)
}

async fn migrated(args: &MigrateArgs) -> anyhow::Result<()> {
    let options = MigrateOptions {
        change: args.change,
        mebibytes: args.mib,
        load_share: args.load_share,
        connections: args.connections,
        seconds: args.seconds,
        folder: args.measurement.data.clone(),
        settings: args.measurement.settings.clone(),
        seed: args.seed,
    };
    let report = migrate(&options, |what| eprintln!("{what}")).await?;
    print!("{report}");
    write_json(args.measurement.json.as_deref(), &report)
}

async fn watched(args: &WatchArgs) -> anyhow::Result<()> {
    let options = WatchLoad {
        watches: args.watches,
        per_s: args.per_s,
        seconds: args.seconds,
        folder: args.measurement.data.clone(),
        settings: args.measurement.settings.clone(),
    };
    let report = watch(&options).await?;
    print!("{report}");
    write_json(args.measurement.json.as_deref(), &report)
}

async fn profiled(args: &ProfileArgs) -> anyhow::Result<()> {
    let options = ProfileOptions {
        shards: args.shards,
        seconds: args.seconds,
        folder: args.measurement.data.clone(),
        settings: args.measurement.settings.clone(),
        seed: args.seed,
    };
    let profile = profile(&options).await?;
    let page = render(&profile);
    print!("{page}");
    if let Some(file) = &args.page {
        std::fs::write(file, page)?;
    }
    write_json(args.measurement.json.as_deref(), &profile)
}

async fn trained(args: &TrainingArgs) -> anyhow::Result<()> {
    let report = training(&TrainingOptions {
        trace: args
            .trace
            .clone()
            .unwrap_or_else(|| default_traces().join("flights-nyc13")),
        entries: args.entries,
        shards: args.shards as usize,
        folder: args.data.clone(),
    })
    .await?;
    print!("{report}");
    write_json(args.json.as_deref(), &report)
}

fn placed(args: &PlacementArgs) -> anyhow::Result<()> {
    let options = PlacementOptions {
        traces: args.traces.clone().unwrap_or_else(default_traces),
        train: args.train.clone(),
        only: args.only.clone(),
        maps: args.map.clone(),
        windows_h: args.window_h.clone(),
        shards: args.shards,
        seeds: args.seeds(),
        costs: args.cost.clone(),
        epochs: args.epochs(),
        threads: args.threads,
        parts: args.parts,
    };
    let report = placement(&options, |done| eprintln!("{done}"))?;
    print!("{report}");
    write_json(args.json.as_deref(), &report)?;
    if let Some(file) = &args.html {
        std::fs::write(file, bench::placement::render_page(&report))?;
    }
    Ok(())
}

fn write_json(file: Option<&Path>, report: &impl Serialize) -> anyhow::Result<()> {
    if let Some(file) = file {
        std::fs::write(file, serde_json::to_string_pretty(report)? + "\n")?;
    }
    Ok(())
}
