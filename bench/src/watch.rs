//! How watches keep up: many of them on one host, writes at a fixed rate, and how long a change takes to be told.
//!
//! Each watch is of one key, and one in a hundred of all. A value says which of its key's writes it is and when that was
//! due, on the clock that writer and watchers share; so a change that is not told, or told twice, is counted, and a
//! delivery is timed from when its write was due, the write included.

use std::collections::BTreeMap;
use std::fmt;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::Context;
use client::{Client, ClientConfig, KeyRange, Watch, WatchOptions};
use serde::{Deserialize, Serialize};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tokio::time::Instant;

use crate::load::Latencies;
use crate::peer::{Godwit, Peer, Route};

const HOSTS: usize = 3;
/// Connections of the watchers.
const CONNECTIONS: usize = 4;
/// Of so many watches one is of all keys.
const OF_ALL: usize = 1_000;
/// Watches that are being made at a time.
const MAKING: usize = 256;
/// How long watches may take to be told of the last write.
const PATIENCE: Duration = Duration::from_secs(30);
const TICK: Duration = Duration::from_millis(5);

/// What is measured.
#[derive(Clone, Debug)]
pub struct WatchLoad {
    /// Watches, all on the home of one shard.
    pub watches: usize,
    /// Writes begun a second.
    pub per_s: f64,
    /// Seconds of writes.
    pub seconds: f64,
    /// Where the cluster's data lies meanwhile.
    pub folder: PathBuf,
    /// More settings of the hosts, as `field=value`.
    pub settings: Vec<String>,
}

/// What came of it.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct WatchReport {
    /// Watches.
    pub watches: usize,
    /// Writes.
    pub writes: u64,
    /// Changes that were to be told, over all watches.
    pub due: u64,
    /// Changes that were told.
    pub told: u64,
    /// Changes that were not, or not in time.
    pub missing: u64,
    /// Changes that were told out of turn.
    pub out_of_order: u64,
    /// From when a write was due until its change was told, in microseconds, at 50 %.
    pub p50_us: f64,
    /// The same at 99 %.
    pub p99_us: f64,
    /// How long it took to make the watches, in seconds.
    pub made_s: f64,
    /// Resident memory of the shard's home before there were watches, in bytes...
    pub home_bytes_before: u64,
    /// ... and at the end.
    pub home_bytes_after: u64,
}

/// What all watches were told.
#[derive(Default)]
struct Told {
    latencies: Latencies,
    told: u64,
    out_of_order: u64,
}

/// Starts a cluster of one shard, watches it, and writes.
///
/// # Errors
/// When the cluster does not start, or a watch or a write fails.
pub async fn watch(options: &WatchLoad) -> anyhow::Result<WatchReport> {
    std::fs::create_dir_all(&options.folder)?;
    let folder = tempfile::tempdir_in(&options.folder).context("a folder for the cluster")?;
    let mut godwit = Godwit::own(1, Route::Stream)?;
    godwit.settings.clone_from(&options.settings);
    let cluster = godwit.start(folder.path(), HOSTS).await?;
    let home = &cluster.hosts[godwit.leader(&cluster).await?];
    let home_bytes_before = home.usage()?.resident_bytes;
    let begun = Instant::now();
    let watches = make(options, &cluster.endpoints).await?;
    let made_s = begun.elapsed().as_secs_f64();

    let told = Arc::new(Mutex::new(Told::default()));
    let mut readers = JoinSet::new();
    for watch in watches {
        readers.spawn(read(watch, begun, told.clone()));
    }
    let writes = write(options, &cluster.endpoints, begun).await?;
    let due = writes + writes * (options.watches / OF_ALL) as u64;
    let all_told = async {
        while told.lock().unwrap_or_else(PoisonError::into_inner).told < due {
            tokio::time::sleep(TICK).await;
        }
    };
    // What is missing then is in the report.
    drop(tokio::time::timeout(PATIENCE, all_told).await);
    readers.shutdown().await;
    let told = told.lock().unwrap_or_else(PoisonError::into_inner);
    Ok(WatchReport {
        watches: options.watches,
        writes,
        due,
        told: told.told,
        missing: due.saturating_sub(told.told),
        out_of_order: told.out_of_order,
        p50_us: told.latencies.quantile_us(0.5),
        p99_us: told.latencies.quantile_us(0.99),
        made_s,
        home_bytes_before,
        home_bytes_after: home.usage()?.resident_bytes,
    })
}

fn key(number: usize) -> String {
    format!("watched/{number:08}")
}

/// Watches of one key each, but for a few of all keys.
async fn make(options: &WatchLoad, endpoints: &[String]) -> anyhow::Result<Vec<Watch>> {
    let of_all = options.watches / OF_ALL;
    let mut clients = Vec::new();
    for _ in 0..CONNECTIONS {
        clients.push(Client::connect(ClientConfig::new(endpoints)).await?);
    }
    let places = Arc::new(Semaphore::new(MAKING));
    let mut making = JoinSet::new();
    for number in 0..options.watches {
        let client = clients[number % CONNECTIONS].clone();
        let range = match number < of_all {
            true => KeyRange::all(),
            false => KeyRange::of(key(number - of_all)..=key(number - of_all)),
        };
        let places = places.clone();
        making.spawn(async move {
            let _place = places.acquire_owned().await;
            client.watch(range, WatchOptions::default()).await
        });
    }
    let made = making.join_all().await;
    Ok(made.into_iter().collect::<Result<_, _>>()?)
}

/// Takes down what a watch is told, for as long as it is told anything.
async fn read(mut watch: Watch, clock: Instant, told: Arc<Mutex<Told>>) {
    let mut last: BTreeMap<bytes::Bytes, u64> = BTreeMap::new();
    while let Ok(update) = watch.next().await {
        let now = clock.elapsed();
        let mut told = told.lock().unwrap_or_else(PoisonError::into_inner);
        for event in update.events {
            let Some((turn, due)) = stamp_of(&event.pair.value) else {
                continue;
            };
            told.told += 1;
            told.latencies.record(now.saturating_sub(due));
            let before = last.insert(event.pair.key, turn).unwrap_or(0);
            told.out_of_order += u64::from(turn != before + 1);
        }
    }
}

/// Writes at the rate, each key in its turn; how many.
async fn write(options: &WatchLoad, endpoints: &[String], clock: Instant) -> anyhow::Result<u64> {
    let client = Client::connect(ClientConfig::new(endpoints)).await?;
    let keys = options.watches - options.watches / OF_ALL;
    let total = (options.per_s * options.seconds) as u64;
    let began = clock.elapsed();
    let mut writing: JoinSet<Result<_, client::MutationError>> = JoinSet::new();
    let mut failed = None;
    for number in 0..total {
        let due = began + Duration::from_secs_f64(number as f64 / options.per_s);
        while clock.elapsed() < due {
            tokio::time::sleep(due.saturating_sub(clock.elapsed()).max(TICK)).await;
        }
        while let Some(written) = writing.try_join_next() {
            failed = failed.or(written?.err());
        }
        let (turn, at) = (number / keys as u64 + 1, usize::try_from(number % keys as u64)?);
        let (client, value) = (client.clone(), format!("{turn} {}", due.as_nanos()));
        writing.spawn(async move { client.put(key(at), value).await });
    }
    while let Some(written) = writing.join_next().await {
        failed = failed.or(written?.err());
    }
    match failed {
        Some(error) => Err(error).context("a write failed"),
        None => Ok(total),
    }
}

/// Which of its key's writes a value is, and when that was due.
fn stamp_of(value: &[u8]) -> Option<(u64, Duration)> {
    let text = std::str::from_utf8(value).ok()?;
    let (turn, due) = text.split_once(' ')?;
    Some((turn.parse().ok()?, Duration::from_nanos(due.parse().ok()?)))
}

impl fmt::Display for WatchReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mebibytes = |bytes: u64| bytes as f64 / f64::from(1 << 20);
        writeln!(
            f,
            "{} watches, made in {:.1} s; {} writes",
            self.watches, self.made_s, self.writes
        )?;
        writeln!(
            f,
            "{} of {} changes told, {} missing, {} out of order",
            self.told, self.due, self.missing, self.out_of_order
        )?;
        writeln!(
            f,
            "told after {:.1} ms, p99 {:.1} ms",
            self.p50_us / 1e3,
            self.p99_us / 1e3
        )?;
        writeln!(
            f,
            "the home's memory: {:.0} MiB before the watches, {:.0} MiB at the end",
            mebibytes(self.home_bytes_before),
            mebibytes(self.home_bytes_after)
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_value_tells_its_turn_and_when_it_was_due() {
        assert_eq!(stamp_of(b"3 5000"), Some((3, Duration::from_micros(5))));
        assert_eq!(stamp_of(b"3"), None);
        assert_eq!(stamp_of(b"\xff 1"), None);
    }
}
