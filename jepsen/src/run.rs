//! A run against real processes: start, load, torment, heal, recover, look at everything, judge.
//!
//! What order it goes in, and why: clients work before the first fault and for a while after the last, so that there
//! is something to lose and something to find; the last look comes when they have stopped, so that it has the last
//! word on every key; replicas are compared after that, when nothing changes any more. Whatever fails on the way, the
//! cluster is stopped and what was recorded is judged and written.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use client::{Client, ClientConfig};
use serde::Serialize;
use tokio_util::sync::CancellationToken;

use crate::events::Happening;
use crate::judge::{Demands, Evidence, Facts, Finding, Judgement, Recovery, judge, write_files};
use crate::native;
use crate::nemesis;
use crate::process::{Cluster, ClusterOptions, NetworkKind};
use crate::record::{MonotonicClock, Recorder};
use crate::workload::{self, Connect, ReadAll, Used, WorkloadName, WorkloadPlan};

/// How long clients work before the first fault, and after the last.
const CALM: Duration = Duration::from_secs(3);
/// How long an operation may take, retries included.
const DEADLINE: Duration = Duration::from_secs(3);
/// What is said when the library cannot be compiled or loaded.
const WITHOUT_LIBRARY: &str = "disks that fail, power cuts and clocks that run wrong";
/// Small, so that scans go through many pages.
const SCAN_PAGE_PAIRS: u32 = 7;

/// What to run.
#[derive(Clone, Debug)]
pub struct RunOptions {
    /// What clients do.
    pub workloads: Vec<WorkloadName>,
    /// The nemeses; `None`: no faults; empty: the default mix.
    pub nemeses: Option<Vec<String>>,
    /// How long faults go on.
    pub torment: Duration,
    /// Where every choice comes from.
    pub seed: u64,
    /// Where files go.
    pub folder: PathBuf,
    /// How many hosts.
    pub hosts: usize,
    /// How many shards.
    pub shards: u32,
    /// Logical clients.
    pub clients: usize,
    /// Operations a second of all clients together.
    pub operations_per_s: u64,
    /// The program that runs a host, with the arguments that come before `serve`.
    pub program: Vec<String>,
    /// More environment for every host.
    pub environment: Vec<(String, String)>,
    /// What lies between the hosts; `None`: what this process finds itself in.
    pub network: Option<NetworkKind>,
    /// What is asked of the run.
    pub demands: Demands,
}

/// Runs once, writes the files and answers with the verdict.
///
/// # Errors
/// When the cluster does not start, or files cannot be written. What goes wrong with a cluster that did start is part
/// of the verdict.
pub async fn run(options: &RunOptions) -> anyhow::Result<Judgement> {
    let recorder = Recorder::new(Arc::new(MonotonicClock::new()));
    let library = native::library_for(&options.program, &options.folder.join("native"));
    let without_library = library
        .as_ref()
        .err()
        .map(|e| format!("{WITHOUT_LIBRARY}: {e:#}"));
    let cluster = Cluster::start(cluster_options(options, library.ok()))
        .await
        .context("the cluster does not start")?;
    let mut facts = attend(options, &cluster, &recorder).await;
    facts.left_out.extend(without_library);
    facts.complaints.extend(cluster.complaints());
    facts.shortfalls.extend(cluster.untouched());
    facts.leaks.extend(cluster.stop().await);
    let evidence = Evidence {
        recorded: recorder.recorded(),
        facts: Some(facts),
        demands: options.demands,
        ..Evidence::default()
    };
    // Checking takes all cores for a while; nothing else is left to be done on this runtime.
    let judgement = judge(&evidence);
    write_files(&options.folder, &evidence, &judgement)?;
    Ok(judgement)
}

fn cluster_options(options: &RunOptions, preload: Option<PathBuf>) -> ClusterOptions {
    ClusterOptions {
        hosts: options.hosts,
        shards: options.shards,
        split_at: cuts(options.shards),
        seed: options.seed,
        environment: options.environment.clone(),
        network: options.network,
        preload,
        ..ClusterOptions::new(options.program.clone(), options.folder.join("cluster"))
    }
}

/// Cuts between shards that spread the keys of the workloads: these begin with a printable byte.
fn cuts(shards: u32) -> Vec<Vec<u8>> {
    let (first, count) = (u32::from(b'!'), u32::from(b'~' - b'!') + 1);
    let cut = |shard: u32| u8::try_from(first + shard * count / shards).ok();
    (1..shards).filter_map(|shard| Some(vec![cut(shard)?])).collect()
}

/// Everything between the cluster's start and its end.
async fn attend(options: &RunOptions, cluster: &Cluster, recorder: &Recorder) -> Facts {
    let plan = WorkloadPlan {
        names: options.workloads.clone(),
        seed: options.seed,
        clients: options.clients,
        operations_per_s: options.operations_per_s,
        ..WorkloadPlan::default()
    };
    let connect = connect_to(cluster.addresses());
    let running = workload::start(plan, recorder.clone(), connect.clone(), CancellationToken::new());
    tokio::time::sleep(CALM).await;
    let (tally, refusal) = torment(options, cluster, recorder).await;
    let recovery = recover(options, cluster, recorder).await;
    tokio::time::sleep(CALM).await;
    let used = running.finish().await;
    let read_all = look(&used, &connect, recorder).await;
    let replica_differences = match cluster.compare_replicas().await {
        Ok(differences) => differences,
        Err(e) => vec![format!("replicas cannot be compared: {e:#}")],
    };
    let mut complaints = Vec::new();
    complaints.extend(refusal);
    Facts {
        nemeses: options.nemeses.clone().unwrap_or_default(),
        faults_wanted: options.nemeses.is_some(),
        tally,
        recovery: Some(recovery),
        replica_differences,
        complaints,
        ..Facts::new(options.seed, &options.workloads, &used, &read_all)
    }
}

fn connect_to(addresses: Vec<String>) -> Connect {
    Arc::new(move |number| {
        let mut addresses = addresses.clone();
        let first = usize::try_from(number).unwrap_or(0) % addresses.len().max(1);
        addresses.rotate_left(first);
        let mut config = ClientConfig {
            deadline: DEADLINE,
            ..ClientConfig::new(addresses)
        };
        config.limits.scan_page_pairs = SCAN_PAGE_PAIRS;
        Box::pin(Client::connect(config))
    })
}

/// Faults for as long as asked, or until interrupted: how often each happened, and why they ended early if they did.
async fn torment(
    options: &RunOptions,
    cluster: &Cluster,
    recorder: &Recorder,
) -> (BTreeMap<String, u64>, Option<String>) {
    let stop = CancellationToken::new();
    let limit = async {
        tokio::select! {
            () = tokio::time::sleep(options.torment) => {}
            _ = tokio::signal::ctrl_c() => {}
        }
    };
    let names = match &options.nemeses {
        None => {
            limit.await;
            return (BTreeMap::new(), None);
        }
        Some(named) if named.is_empty() => default_mix(cluster),
        Some(named) => named.clone(),
    };
    let names = &names;
    let faults = nemesis::torment(cluster, recorder, names, options.seed, stop.clone());
    tokio::pin!(faults);
    let ended = tokio::select! {
        ended = &mut faults => ended,
        () = limit => {
            stop.cancel();
            faults.await
        }
    };
    match ended {
        Ok(tally) => (tally.0, None),
        Err(e) => (BTreeMap::new(), Some(format!("the nemeses failed: {e:#}"))),
    }
}

/// The default mix, as far as this machine and build can do it.
fn default_mix(cluster: &Cluster) -> Vec<String> {
    nemesis::default_mix()
        .filter(|name| nemesis::available(cluster, name).is_none())
        .map(str::to_owned)
        .collect()
}

async fn recover(options: &RunOptions, cluster: &Cluster, recorder: &Recorder) -> Recovery {
    let healed = cluster.heal().await;
    let said = |recorder: &Recorder| {
        let events = recorder.recorded().events;
        events.iter().any(|event| event.what == Happening::Healed)
    };
    if !said(recorder) {
        recorder.event(Happening::Healed);
    }
    if let Err(e) = healed {
        return Recovery {
            failure: Some(format!("the cluster cannot be healed: {e:#}")),
            ..Recovery::default()
        };
    }
    let Demands {
        homes_max,
        migrations_max,
        ..
    } = options.demands;
    let milliseconds = |took: Duration| u64::try_from(took.as_millis()).ok();
    match cluster.recover(homes_max, migrations_max).await {
        Ok((homes, migrations)) => Recovery {
            homes_ms: milliseconds(homes),
            migrations_ms: milliseconds(migrations),
            failure: None,
        },
        Err(e) => Recovery {
            failure: Some(format!("the cluster did not recover: {e:#}")),
            ..Recovery::default()
        },
    }
}

async fn look(used: &Used, connect: &Connect, recorder: &Recorder) -> ReadAll {
    match connect(0).await {
        Ok(client) => {
            let patient = client.with_deadline(DEADLINE * 2);
            workload::read_all(used, &patient, recorder).await
        }
        Err(e) => ReadAll {
            unread: vec![format!("(any: no client can connect: {e})")],
            ..ReadAll::default()
        },
    }
}

/// What several rounds came to.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Totals {
    /// Seeds, in order, with their verdicts; `error` for a round that could not be run.
    pub rounds: Vec<(u64, String)>,
    /// Operations recorded.
    pub operations: u64,
    /// Operations that the linearizability checker had to explain.
    pub operations_checked: u64,
    /// Steps of migrations.
    pub migration_steps: u64,
    /// How often each fault happened, by what the nemeses counted.
    pub faults: BTreeMap<String, u64>,
    /// How many rounds had each verdict.
    pub verdicts: BTreeMap<String, u64>,
}

impl Totals {
    /// Whether every round was ok, and there was one.
    pub fn is_ok(&self) -> bool {
        !self.rounds.is_empty()
            && self
                .rounds
                .iter()
                .all(|(_, verdict)| *verdict == Finding::Ok.to_string())
    }

    fn add(&mut self, seed: u64, judged: &anyhow::Result<Judgement>) {
        let verdict = match judged {
            Ok(judgement) => {
                self.operations += judgement.counts.operations;
                self.operations_checked += judgement.counts.operations_checked;
                self.migration_steps += judgement.counts.migration_steps;
                for (fault, times) in judgement.facts.iter().flat_map(|facts| &facts.tally) {
                    *self.faults.entry(fault.clone()).or_default() += times;
                }
                judgement.verdict.to_string()
            }
            Err(_) => "error".to_owned(),
        };
        *self.verdicts.entry(verdict.clone()).or_default() += 1;
        self.rounds.push((seed, verdict));
    }
}

/// Runs `rounds` times with consecutive seeds, each in a folder of its own below `options.folder`, and keeps
/// `totals.json` there up to date. `report` is told of every round.
///
/// # Errors
/// When the totals cannot be written.
pub async fn soak(
    options: &RunOptions,
    rounds: u64,
    mut report: impl FnMut(u64, &Path, &anyhow::Result<Judgement>),
) -> anyhow::Result<Totals> {
    let mut totals = Totals::default();
    for round in 0..rounds {
        let seed = options.seed.wrapping_add(round);
        let one = RunOptions {
            seed,
            folder: options.folder.join(format!("seed-{seed}")),
            ..options.clone()
        };
        let judged = run(&one).await;
        report(seed, &one.folder, &judged);
        totals.add(seed, &judged);
        std::fs::create_dir_all(&options.folder)?;
        let text = serde_json::to_string_pretty(&totals)?;
        std::fs::write(options.folder.join("totals.json"), text + "\n")?;
    }
    Ok(totals)
}
