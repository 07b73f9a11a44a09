//! The `jepsen` program: runs, simulations, mutants; and, as `jepsen godwit ...`, the very `godwit` that it tests.

mod cli;

use std::hash::{BuildHasher, Hasher, RandomState};
use std::path::Path;
use std::process::ExitCode;
use std::time::Duration;

use clap::Parser;
use jepsen::judge::{Demands, Judgement, judge_files};
use jepsen::mutants::Hunting;
use jepsen::process::{Entry, NetworkKind, enter_client_namespace};
use jepsen::run::{RunOptions, soak};
use jepsen::simulate::{Campaign, Plan, Summary};
use jepsen::workload::WorkloadName;

use cli::{Cli, Command, MutantsArgs, Network, RunArgs, SimulateArgs};

fn main() -> ExitCode {
    let mut arguments = std::env::args_os().skip(1).peekable();
    if arguments.peek().is_some_and(|first| first == "godwit") {
        return server::program::main(arguments);
    }
    let ended = match Cli::parse().command {
        Command::Run(args) => match enter(args.network) {
            Ok(Some(code)) => return code,
            Ok(None) => run(&args),
            Err(e) => Err(e),
        },
        Command::Simulate(args) => simulate(&args),
        Command::Mutants(args) => mutants(&args),
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

/// Goes into namespaces of its own, where they are wanted and can be: then the run takes place in another process, and
/// this is how it ended.
fn enter(network: Network) -> anyhow::Result<Option<ExitCode>> {
    if network == Network::Proxy {
        return Ok(None);
    }
    match enter_client_namespace(std::env::args_os().skip(1))? {
        Entry::Ended(code) => Ok(Some(code)),
        Entry::Inside => Ok(None),
        Entry::Refused(reason) if network == Network::Netns => anyhow::bail!("no namespaces: {reason}"),
        Entry::Refused(reason) => {
            println!("no namespaces ({reason}): proxies stand in");
            Ok(None)
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

/// Simulates one schedule here, or several in processes of their own; whether all are ok.
fn simulate(args: &SimulateArgs) -> anyhow::Result<bool> {
    if let Some(seed) = args.seed {
        // Logs go to where the trace of a run would: two runs of a seed write the same.
        tracing_subscriber::fmt()
            .with_env_filter(tracing_subscriber::EnvFilter::from_default_env())
            .with_writer(std::io::stderr)
            .with_ansi(false)
            .without_time()
            .init();
        end_if_it_hangs();
        let plan = Plan::of(seed).with_faults(&args.nemesis);
        let report = jepsen::simulate::simulate(&plan, args.out.as_deref())?;
        match args.json {
            true => println!("{}", serde_json::to_string(&report)?),
            false => println!("{}", serde_json::to_string_pretty(&report)?),
        }
        return Ok(report.verdict == "ok");
    }
    let from = args.from.unwrap_or_else(random_seed);
    println!("from seed {from}");
    let mut seeds = match &args.seeds_file {
        Some(file) => Campaign::seeds_of(file)?,
        None => Vec::new(),
    };
    seeds.extend((0..args.schedules()).map(|number| from.wrapping_add(number)));
    let campaign = Campaign {
        program: std::env::current_exe()?,
        seeds,
        faults: args.nemesis.clone(),
        jobs: args.jobs,
        environment: Vec::new(),
    };
    let before = match &args.totals {
        Some(file) => Summary::of_file(file)?,
        None => Summary::default(),
    };
    let write = |summary: &Summary| match &args.totals {
        Some(file) => {
            let all = serde_json::to_string_pretty(&before.clone().and(summary))?;
            std::fs::write(file, all + "\n")
        }
        None => Ok(()),
    };
    let mut written = Ok(());
    let summary = campaign.run(|report, so_far| {
        println!(
            "seed {}: {}, {} operations, {} migrations, {} ms",
            report.seed, report.verdict, report.operations, report.migrations_done, report.simulated_ms
        );
        report.broken.iter().for_each(|what| println!("    {what}"));
        written = write(so_far);
    })?;
    print!("{summary}");
    written?;
    Ok(summary.is_ok())
}

/// A schedule in which time stands still would never end by itself; a slow machine takes a minute at most.
fn end_if_it_hangs() {
    const HANGS_AFTER: Duration = Duration::from_secs(600);
    std::thread::spawn(|| {
        std::thread::sleep(HANGS_AFTER);
        eprintln!("the schedule hangs: it took {HANGS_AFTER:?} of real time");
        std::process::abort();
    });
}

/// Looks for the bugs asked for; whether all were caught.
fn mutants(args: &MutantsArgs) -> anyhow::Result<bool> {
    let hunting = Hunting::new(args.program.clone(), args.out.clone(), args.jobs)?;
    let bugs = match args.bug.as_slice() {
        [] => Hunting::bugs().map(str::to_owned).collect(),
        named => named.to_vec(),
    };
    let mut hunts = Vec::new();
    for bug in &bugs {
        let hunt = hunting.hunt(bug)?;
        println!("{hunt}");
        hunts.push(hunt);
        if let Some(file) = &args.json {
            std::fs::write(file, serde_json::to_string_pretty(&hunts)? + "\n")?;
        }
    }
    Ok(hunts.iter().all(|hunt| hunt.caught))
}

fn random_seed() -> u64 {
    RandomState::new().build_hasher().finish()
}

/// Runs as asked; whether all rounds are ok.
fn run(args: &RunArgs) -> anyhow::Result<bool> {
    let options = options(args)?;
    println!("seed {}", options.seed);
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    if args.rounds() <= 1 {
        let judgement = runtime.block_on(jepsen::run::run(&options));
        report(args, options.seed, &options.folder, &judgement);
        return Ok(judgement?.is_ok());
    }
    let totals = runtime.block_on(soak(&options, args.rounds(), |seed, folder, judged| {
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
        args.seconds(),
        args.hosts,
        args.shards,
        args.clients,
        args.rate
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
    let seed = args.seed.unwrap_or_else(random_seed);
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
        torment: Duration::from_secs(args.seconds()),
        seed,
        folder,
        hosts: args.hosts,
        shards: args.shards,
        clients: args.clients,
        operations_per_s: args.rate,
        program,
        environment: Vec::new(),
        network: match args.network {
            Network::Auto => None,
            Network::Netns => Some(NetworkKind::Namespaces),
            Network::Proxy => Some(NetworkKind::Proxy),
        },
        demands: Demands::default(),
    })
}
