//! How long a host that holds many keys takes to come back, and what a key takes of its memory.
//!
//! One host with all shards is filled and left alone until its checkpoints are done. Then it is stopped, once by SIGTERM and
//! once by SIGKILL, and started again; it is ready when a linearizable read of each shard was answered. What it holds in
//! memory then is compared with what a host of as many empty shards holds after a restart: it has read no value, so none is
//! cached. Bytes of files that the kernel caches are not the process's.

use std::fmt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::Context;
use client::{Client, ClientConfig};
use serde::{Deserialize, Serialize};
use tokio::time::Instant;

use crate::load::{Load, Pace, run};
use crate::peer::{Cluster, Godwit, Peer, Route};
use crate::workload::{Keys, Kind, Workload};

const CLIENTS: usize = 256;
const CONNECTIONS: usize = 16;
const VALUE_BYTES: usize = 256;
/// How long a host is left alone before it is looked at or stopped: checkpoints and rewrites come to an end.
const SETTLE: Duration = Duration::from_secs(15);
/// A host that takes longer to come back will not.
const RETURN_LIMIT: Duration = Duration::from_secs(120);
const LOOK_PAUSE: Duration = Duration::from_millis(10);

/// What is measured.
#[derive(Clone, Debug)]
pub struct RestartOptions {
    /// Keys of the host.
    pub keys: u64,
    /// Over so many shards.
    pub shards: u32,
    /// How often it is stopped, each way.
    pub rounds: u32,
    /// Where its data lies meanwhile.
    pub folder: PathBuf,
    /// More settings of the host, as `field=value`.
    pub settings: Vec<String>,
    /// Of every random choice.
    pub seed: u64,
}

/// What was measured.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct RestartReport {
    /// Of godwit.
    pub version: String,
    /// Keys.
    pub keys: u64,
    /// Shards.
    pub shards: u32,
    /// Seconds from the start of the process until every shard was read, after SIGTERM.
    pub after_term_s: Vec<f64>,
    /// The same after SIGKILL, right after a second of writes.
    pub after_kill_s: Vec<f64>,
    /// What an empty host holds in memory after a restart.
    pub empty_bytes: u64,
    /// What the full one holds after a restart.
    pub full_bytes: u64,
    /// The difference, a key.
    pub bytes_per_key: f64,
}

/// Fills a host, stops it and measures its return.
///
/// # Errors
/// When the host does not start or does not come back, or a key cannot be written.
pub async fn restart(options: &RestartOptions, mut told: impl FnMut(&str)) -> anyhow::Result<RestartReport> {
    std::fs::create_dir_all(&options.folder)?;
    let mut godwit = Godwit::own(options.shards, Route::Stream)?;
    godwit.settings.clone_from(&options.settings);
    let mut report = RestartReport {
        version: godwit.version()?,
        keys: options.keys,
        shards: options.shards,
        ..RestartReport::default()
    };
    let folder = tempfile::tempdir_in(&options.folder).context("a folder for the host")?;
    let mut empty = godwit.start(&sub_folder(folder.path(), "empty")?, 1).await?;
    come_back(&mut empty, options.shards).await?;
    report.empty_bytes = settled(&empty).await?;
    drop(empty);
    let mut full = godwit.start(&sub_folder(folder.path(), "full")?, 1).await?;
    load(&godwit, &full, options, Pace::Fill { clients: CLIENTS }).await?;
    told("filled");
    for _ in 0..options.rounds {
        tokio::time::sleep(SETTLE).await;
        stop(&mut full).await?;
        report
            .after_term_s
            .push(come_back(&mut full, options.shards).await?);
        report.full_bytes = settled(&full).await?;
        load(&godwit, &full, options, Pace::Closed { clients: CLIENTS }).await?;
        full.hosts[0].kill()?;
        report
            .after_kill_s
            .push(come_back(&mut full, options.shards).await?);
    }
    let grown = report.full_bytes as f64 - report.empty_bytes as f64;
    report.bytes_per_key = grown / options.keys.max(1) as f64;
    Ok(report)
}

fn sub_folder(folder: &Path, name: &str) -> anyhow::Result<PathBuf> {
    let path = folder.join(name);
    std::fs::create_dir_all(&path)?;
    Ok(path)
}

async fn load(
    godwit: &Godwit,
    cluster: &Cluster,
    options: &RestartOptions,
    pace: Pace,
) -> anyhow::Result<()> {
    let mut accesses = godwit.accesses(cluster, CONNECTIONS).await?;
    let load = Load {
        access: accesses.pop().context("a peer without a way to reach it")?,
        workload: Workload {
            kind: Kind::Put,
            keys: Keys::Uniform,
            key_count: options.keys,
            value_bytes: VALUE_BYTES,
        },
        pace,
        warm_up_s: 0.0,
        seconds: 1.0,
        slice_s: 0.0,
        seed: options.seed,
        steps: None,
    };
    let (written, _) = run(&load, || cluster.usage()).await?;
    match written.first_failure {
        Some(failure) => anyhow::bail!("{} keys were not written: {failure}", written.failures),
        None => Ok(()),
    }
}

/// What the host holds in memory once it has nothing to do.
async fn settled(cluster: &Cluster) -> anyhow::Result<u64> {
    tokio::time::sleep(SETTLE).await;
    Ok(cluster.usage()?.resident_bytes)
}

/// Ends the host by SIGTERM and waits until it is gone.
async fn stop(cluster: &mut Cluster) -> anyhow::Result<()> {
    let host = &cluster.hosts[0];
    host.signal("TERM")?;
    let asked = Instant::now();
    while host.usage().is_ok_and(|usage| usage.resident_bytes > 0) {
        anyhow::ensure!(asked.elapsed() < RETURN_LIMIT, "the host does not stop");
        tokio::time::sleep(LOOK_PAUSE).await;
    }
    Ok(())
}

/// Starts the host again: seconds until a key of each shard was read.
async fn come_back(cluster: &mut Cluster, shards: u32) -> anyhow::Result<f64> {
    cluster.hosts[0].restart()?;
    let began = Instant::now();
    loop {
        match read_each(&cluster.endpoints, shards).await {
            Ok(()) => return Ok(began.elapsed().as_secs_f64()),
            Err(e) if began.elapsed() > RETURN_LIMIT => return Err(e.context("the host does not come back")),
            Err(_) => tokio::time::sleep(LOOK_PAUSE).await,
        }
    }
}

/// Reads a key of each shard: `init` cuts the key space into equal slices.
async fn read_each(endpoints: &[String], shards: u32) -> anyhow::Result<()> {
    let config = ClientConfig {
        deadline: Duration::from_secs(1),
        ..ClientConfig::new(endpoints.iter().cloned())
    };
    let client = Client::connect(config).await?;
    for shard in 0..u64::from(shards) {
        let first = (u128::from(shard) << 64).div_ceil(u128::from(shards));
        let key = u64::try_from(first)?.saturating_add(1).to_be_bytes();
        client.get(key.to_vec()).await?;
    }
    Ok(())
}

impl fmt::Display for RestartReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let seconds = |all: &[f64]| {
            let all = all.iter().map(|seconds| format!("{seconds:.2}"));
            all.collect::<Vec<_>>().join(", ")
        };
        writeln!(
            f,
            "{}, one host, {} keys of 16 bytes with values of {VALUE_BYTES}, {} shards",
            self.version, self.keys, self.shards
        )?;
        writeln!(
            f,
            "ready after SIGTERM: {} s; after SIGKILL: {} s",
            seconds(&self.after_term_s),
            seconds(&self.after_kill_s)
        )?;
        writeln!(
            f,
            "memory: {} MiB, empty {} MiB: {:.0} bytes a key",
            self.full_bytes >> 20,
            self.empty_bytes >> 20,
            self.bytes_per_key
        )
    }
}
