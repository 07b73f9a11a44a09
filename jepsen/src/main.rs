//! The `jepsen` program: runs, simulations, mutants; and, as `jepsen godwit ...`, the very `godwit` that it tests.

mod cli;

use std::hash::{BuildHasher, Hasher, RandomState};
use std::path::Path;
use std::process::ExitCode;
use std::time::Duration;

use clap::Parser;
use jepsen::judge::{Demands, Judgement, judge_files};
use jepsen::run::{RunOptions, soak};
use jepsen::workload::WorkloadName;

use cli::{Cli, Command, Network, RunArgs};

fn main() -> ExitCode {
    let mut arguments = std::env::args_os().skip(1).peekable();
    if arguments.peek().is_some_and(|first| first == "godwit") {
        return server::program::main(arguments);
    }
    let ended = match Cli::parse().command {
        Command::Run(args) => run(&args),
        Command::Check { folder } => check(&folder),
        Command::Godwit { .. } => Err(anyhow::anyhow!("`godwit` must be the first argument")),
    };
    match ended {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(e) => {
            eprintln!("jepsen: {e:#}");
            ExitCode::FAILURE
        }
    }
}

/// Judges a folder again; whether it is ok.
fn check(folder: &Path) -> anyhow::Result<bool> {
    let judgement = judge_files(folder, Demands::default())?;
    print!("{judgement}");
    if judgement.facts.is_none() {
        println!("without verdict.json: faults, recovery, replicas and logs are not judged");
    }
    Ok(judgement.is_ok())
}

/// Runs as asked; whether all rounds are ok.
fn run(args: &RunArgs) -> anyhow::Result<bool> {
    let options = options(args)?;
    println!("seed {}", options.seed);
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    if args.rounds <= 1 {
        let judgement = runtime.block_on(jepsen::run::run(&options));
        report(args, options.seed, &options.folder, &judgement);
        return Ok(judgement?.is_ok());
    }
    let totals = runtime.block_on(soak(&options, args.rounds, |seed, folder, judged| {
        report(args, seed, folder, judged);
    }))?;
    println!(
        "{} rounds, {} operations ({} to explain), {} steps of migrations",
        totals.rounds.len(),
        totals.operations,
        totals.operations_checked,
        totals.migration_steps
    );
    println!("faults: {:?}\nverdicts: {:?}", totals.faults, totals.verdicts);
    Ok(totals.is_ok())
}

fn report(args: &RunArgs, seed: u64, folder: &Path, judged: &anyhow::Result<Judgement>) {
    match judged {
        Ok(judgement) => print!("seed {seed}: {judgement}"),
        Err(e) => println!("seed {seed}: not judged: {e:#}"),
    }
    println!("files: {}", folder.display());
    if !judged.as_ref().is_ok_and(Judgement::is_ok) {
        println!("again: {}", command_line(args, seed));
    }
}

/// The command that draws the same faults and operations again; their timing is the machine's.
fn command_line(args: &RunArgs, seed: u64) -> String {
    let mut line = format!(
        "jepsen run --seed {seed} --seconds {} --hosts {} --shards {} --clients {} --rate {}",
        args.seconds, args.hosts, args.shards, args.clients, args.rate
    );
    let names: Vec<&str> = args.workload.iter().map(|workload| workload.name()).collect();
    for (option, value) in [
        ("--workload", names.join(",")),
        ("--nemesis", args.nemesis.join(",")),
        ("--godwit", args.godwit.clone().unwrap_or_default()),
    ] {
        if !value.is_empty() {
            line.push_str(&format!(" {option} {value}"));
        }
    }
    line
}

fn options(args: &RunArgs) -> anyhow::Result<RunOptions> {
    anyhow::ensure!(
        args.network == Network::Auto,
        "the network cannot be chosen yet: leave --network out"
    );
    let seed = args
        .seed
        .unwrap_or_else(|| RandomState::new().build_hasher().finish());
    let folder = args
        .out
        .clone()
        .unwrap_or_else(|| format!("jepsen-{seed}").into());
    let program = match &args.godwit {
        Some(path) => vec![path.clone()],
        None => vec![
            std::env::current_exe()?.to_string_lossy().into_owned(),
            "godwit".to_owned(),
        ],
    };
    let workloads = match args.workload.as_slice() {
        [] => WorkloadName::ALL.to_vec(),
        named => named.to_vec(),
    };
    let nemeses = (args.nemesis != ["none"]).then(|| args.nemesis.clone());
    Ok(RunOptions {
        workloads,
        nemeses,
        torment: Duration::from_secs(args.seconds),
        seed,
        folder,
        hosts: args.hosts,
        shards: args.shards,
        clients: args.clients,
        operations_per_s: args.rate,
        program,
        environment: Vec::new(),
        demands: Demands::default(),
    })
}
