//! How long it takes to train a model on a long access log, and how much memory.
//!
//! A trace is repeated, in whole weeks, until the log is long enough; its keys are cut into ranges of equal load. Then
//! `godwit model train` runs on it as a process, as a user would run it: it reads the log, trains, and judges the model by
//! the latest tenth of the windows.

use std::collections::BTreeSet;
use std::fmt;
use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::{Duration, Instant};

use anyhow::Context;
use ml::{AccessLogEntry, AccessLogReader, KeyLoads, ZoneMap, partition};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use tokio::process::Command;

use crate::process::peak_bytes_of;

const WEEK_MS: u64 = 7 * 24 * 3_600_000;
const LOOK_PAUSE: Duration = Duration::from_millis(50);

/// What is measured.
#[derive(Clone, Debug)]
pub struct TrainingOptions {
    /// A folder with `trace.csv.zst` and `origins.csv`.
    pub trace: PathBuf,
    /// Entries of the log, at least; it ends with a whole repetition.
    pub entries: u64,
    /// Shards that the keys are cut into.
    pub shards: usize,
    /// Where the log lies meanwhile.
    pub folder: PathBuf,
}

/// What was measured.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct TrainingReport {
    /// Entries of the log.
    pub entries: u64,
    /// How often the trace is repeated in it.
    pub repetitions: u64,
    /// Shards.
    pub shards: usize,
    /// Samples that the model was trained on.
    pub samples: u64,
    /// Whether it would be let serve.
    pub passes: bool,
    /// From the start to the end of the process.
    pub seconds: f64,
    /// The most memory that was resident.
    pub peak_bytes: u64,
}

/// Writes the log, trains, and looks.
///
/// # Errors
/// When the trace cannot be read, the log not be written, or no model was trained.
pub async fn training(options: &TrainingOptions) -> anyhow::Result<TrainingReport> {
    std::fs::create_dir_all(&options.folder)?;
    let folder = tempfile::tempdir_in(&options.folder)?;
    let log = write_log(options, folder.path())?;
    let began = Instant::now();
    let mut child = Command::new(std::env::current_exe()?)
        .args(["godwit", "model", "train", "--json"])
        .arg(option("--trace", &log.trace))
        .arg(option("--zones", &log.zones))
        .arg(option("--split-at", &log.splits))
        .arg(option("--out", &folder.path().join("model")))
        .stdin(Stdio::null())
        .stdout(File::create(folder.path().join("answer"))?)
        .kill_on_drop(true)
        .spawn()?;
    let pid = child.id().context("the process has just begun")?;
    let mut peak_bytes = 0;
    while tokio::time::timeout(LOOK_PAUSE, child.wait()).await.is_err() {
        // It only grows; one that has ended just now cannot be asked any more.
        peak_bytes = peak_bytes_of(pid).unwrap_or(peak_bytes);
    }
    let seconds = began.elapsed().as_secs_f64();
    let answer = std::fs::read(folder.path().join("answer"))?;
    let answer: Value = serde_json::from_slice(&answer).context("no model was trained")?;
    Ok(TrainingReport {
        entries: log.entries,
        repetitions: log.repetitions,
        shards: options.shards,
        samples: answer["metrics"]["samples"].as_u64().unwrap_or(0),
        passes: answer["passes"].as_bool().unwrap_or(false),
        seconds,
        peak_bytes,
    })
}

fn option(name: &str, path: &Path) -> String {
    format!("{name}={}", path.display())
}

/// A log and what is read beside it.
struct Log {
    trace: PathBuf,
    zones: PathBuf,
    splits: PathBuf,
    entries: u64,
    repetitions: u64,
}

fn write_log(options: &TrainingOptions, folder: &Path) -> anyhow::Result<Log> {
    let file = options.trace.join("trace.csv.zst");
    let entries: Vec<AccessLogEntry> = AccessLogReader::open(&file)?
        .collect::<Result<_, _>>()
        .with_context(|| file.display().to_string())?;
    let (first, last) = entries.first().zip(entries.last()).context("an empty trace")?;
    let span_ms = ((last.timestamp_ms - first.timestamp_ms) / WEEK_MS + 1) * WEEK_MS;
    let repetitions = options.entries.div_ceil(entries.len() as u64);
    let log = Log {
        trace: folder.join("trace.csv.zst"),
        zones: folder.join("zones.csv"),
        splits: folder.join("splits"),
        entries: repetitions * entries.len() as u64,
        repetitions,
    };
    let compressed = zstd::Encoder::new(BufWriter::new(File::create(&log.trace)?), 1)?;
    let mut out = csv::Writer::from_writer(compressed);
    for repetition in 0..repetitions {
        for entry in &entries {
            out.serialize(AccessLogEntry {
                timestamp_ms: entry.timestamp_ms + repetition * span_ms,
                ..entry.clone()
            })?;
        }
    }
    let compressed = out.into_inner().map_err(csv::IntoInnerError::into_error)?;
    compressed.finish()?.flush()?;
    let origins = options.trace.join("origins.csv");
    let places = File::open(&origins).with_context(|| origins.display().to_string())?;
    let zones = ZoneMap::of_origins(places).with_context(|| origins.display().to_string())?;
    zones.write(File::create(&log.zones)?)?;
    std::fs::write(&log.splits, splits(&entries, options.shards)?)?;
    Ok(log)
}

fn splits(entries: &[AccessLogEntry], shards: usize) -> anyhow::Result<String> {
    let keys: BTreeSet<&str> = entries.iter().map(|entry| entry.data_id.as_str()).collect();
    let mut loads = KeyLoads::new(keys.len());
    for entry in entries {
        loads
            .add(entry.data_id.as_bytes(), &entry.origin, 1)
            .context("the trace")?;
    }
    let ranges = partition::equal_load(loads.by_key(), shards);
    let lines: Vec<String> = ranges
        .splits()
        .iter()
        .map(|key| String::from_utf8_lossy(key).into_owned())
        .collect();
    Ok(lines.join("\n") + "\n")
}

impl fmt::Display for TrainingReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(
            f,
            "{} entries ({} repetitions) over {} shards: trained on {} samples and judged in {:.0} s, {:.0} MiB at most",
            self.entries,
            self.repetitions,
            self.shards,
            self.samples,
            self.seconds,
            self.peak_bytes as f64 / f64::from(1 << 20),
        )
    }
}

#[cfg(test)]
mod tests {
    use ml::COLUMNS;

    use super::*;

    #[test]
    fn a_log_is_repeated_in_whole_weeks_and_can_be_read() {
        let folder = tempfile::tempdir().unwrap();
        let trace = folder.path().join("short");
        std::fs::create_dir(&trace).unwrap();
        let text = format!(
            "{}\n5,u,a,east,get,1\n9,u,\"b,c\",west,get,1\n",
            COLUMNS.join(",")
        );
        let file = zstd::encode_all(text.as_bytes(), 1).unwrap();
        std::fs::write(trace.join("trace.csv.zst"), file).unwrap();
        std::fs::write(
            trace.join("origins.csv"),
            "origin,lat,lon,name\neast,1,2,E\nwest,3,4,W\n",
        )
        .unwrap();
        let options = TrainingOptions {
            trace,
            entries: 5,
            shards: 2,
            folder: folder.path().to_owned(),
        };
        let log = write_log(&options, folder.path()).unwrap();
        assert_eq!((log.entries, log.repetitions), (6, 3));
        let read = AccessLogReader::open(&log.trace).unwrap();
        let times: Vec<u64> = read.map(|entry| entry.unwrap().timestamp_ms).collect();
        let of = |week: u64| [5, 9].map(|ms| ms + week * WEEK_MS);
        assert_eq!(times, [of(0), of(1), of(2)].concat());
        assert_eq!(std::fs::read_to_string(&log.splits).unwrap(), "b,c\n");
        let zones = ZoneMap::open(&log.zones).unwrap();
        assert_eq!(zones.zones().len(), 2);
    }
}
