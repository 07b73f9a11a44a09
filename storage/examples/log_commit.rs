//! Measures the log on a real disk: commits of 64 records of 300 bytes, one for each of 64 groups,
//! with each group purged as it goes, beside a raw append and fdatasync of the same bytes.
//!
//! `cargo run --release -p storage --example log_commit [FOLDER] [COMMITS]`

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use storage::clock::Clock;
use storage::disk::{Disk, OpenMode, RealDisk};
use storage::log::{LogGroup, LogHub, LogOptions, LogRecord, Step};

const GROUPS: u64 = 64;
const PAYLOAD_BYTES: usize = 260;
const KEPT_ENTRIES: u64 = 1000;

/// A measurement has no seed, so it may ask the operating system for the time.
#[derive(Debug)]
struct WallClock(Instant);

impl Clock for WallClock {
    fn now_ms(&self) -> u64 {
        self.0.elapsed().as_millis() as u64
    }
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut arguments = std::env::args().skip(1);
    let dir = arguments
        .next()
        .map_or_else(|| std::env::temp_dir().join("log_commit"), PathBuf::from);
    let commits: u64 = arguments.next().map_or(Ok(4000), |count| count.parse())?;
    if RealDisk.exists(&dir)? {
        return Err(format!("{} exists; name a folder that does not", dir.display()).into());
    }
    RealDisk.create_dir_all(&dir)?;
    report("raw append + fdatasync", &mut raw_appends(&dir, commits)?);
    let options = LogOptions::new(Arc::new(WallClock(Instant::now())));
    report(
        "log commit",
        &mut log_commits(&dir.join("log"), commits, options.clone())?,
    );
    let begun = Instant::now();
    let (hub, _writer) = LogHub::open(Arc::new(RealDisk), &dir.join("log"), options)?;
    println!("reopened in {:?}: {:?}", begun.elapsed(), hub.stats());
    let mut bytes = 0;
    for file in std::fs::read_dir(dir.join("log"))? {
        bytes += file?.metadata()?.len();
    }
    println!("log files: {} MiB", bytes >> 20);
    std::fs::remove_dir_all(&dir)?;
    Ok(())
}

fn raw_appends(dir: &Path, commits: u64) -> std::io::Result<Vec<Duration>> {
    let file = RealDisk.open(&dir.join("raw"), OpenMode::CreateNew)?;
    let batch = vec![7; GROUPS as usize * (PAYLOAD_BYTES + 40)];
    let mut took = Vec::new();
    for commit in 0..commits {
        let begun = Instant::now();
        file.write(commit * batch.len() as u64, &batch)?;
        file.sync_data()?;
        took.push(begun.elapsed());
    }
    Ok(took)
}

fn log_commits(
    dir: &Path,
    commits: u64,
    options: LogOptions,
) -> Result<Vec<Duration>, Box<dyn std::error::Error>> {
    let (hub, mut writer) = LogHub::open(Arc::new(RealDisk), dir, options)?;
    let logs: Vec<_> = (0..GROUPS).map(|group| hub.group(LogGroup(group))).collect();
    let mut took = Vec::new();
    for index in 1..=commits {
        let begun = Instant::now();
        for (group, log) in logs.iter().enumerate() {
            let payload = Bytes::from(vec![group as u8; PAYLOAD_BYTES]);
            log.append(
                vec![LogRecord { index, payload }],
                Box::new(|told| assert_eq!(told, Ok(()))),
            );
            // Each group is purged every 256 entries, the groups at different times.
            if index > KEPT_ENTRIES && (index + group as u64 * 4).is_multiple_of(256) {
                log.purge(index - KEPT_ENTRIES, Bytes::new(), Box::new(|_| {}));
            }
        }
        if !matches!(writer.step(), Step::Committed { .. }) {
            return Err("the log stopped".into());
        }
        took.push(begun.elapsed());
    }
    println!("{:?}", hub.stats());
    hub.close();
    while writer.step() != Step::Stopped {}
    Ok(took)
}

fn report(what: &str, took: &mut [Duration]) {
    took.sort();
    let total: Duration = took.iter().sum();
    let at = |percent: usize| took[(took.len() - 1) * percent / 100];
    println!(
        "{what}: {} commits, {:.0}/s, mean {:?}, p50 {:?}, p99 {:?}, longest {:?}",
        took.len(),
        took.len() as f64 / total.as_secs_f64(),
        total / took.len() as u32,
        at(50),
        at(99),
        at(100)
    );
}
