//! What a model is trained on and judged by: access logs, or the windows that a controller has collected. It is read from
//! its files again for each purpose, a window at a time, so that a log of any length is fine.
//!
//! Must hold: each reading shows the same consecutive windows, also while a controller keeps adding to its own.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::path::{Path, PathBuf};

use ml::{
    AccessLogError, AccessLogReader, KeyRanges, WindowAggregator, WindowCounts, WindowError, WindowLength,
    ZoneFileError, ZoneMap, each_window,
};
use placement::{WindowId, Zone};
use storage::disk::RealDisk;

use super::init::{SplitFileError, read_split_keys};
use crate::cli::ModelLogArgs;
use crate::net::{DistanceError, read_rtt_matrix};
use crate::profiler::archived_windows;

const MINUTE_MS: u64 = 60_000;
/// What was collected before a longer gap, in windows, is of another time.
const GAP_MAX: u64 = 4_032;

/// Why a log cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum TrainingLogError {
    /// A log cannot be read.
    #[error("{}: {source}", path.display())]
    Log {
        /// The file.
        path: PathBuf,
        /// Where and how.
        source: AccessLogError,
    },
    /// A log cannot be counted into windows.
    #[error("the logs cannot be counted into windows: {0}")]
    Window(#[from] WindowError),
    /// The folder of collected windows cannot be listed.
    #[error("{}: cannot be read: {source}", path.display())]
    Archive {
        /// The folder.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The zone file cannot be used.
    #[error(transparent)]
    Zones(#[from] ZoneFileError),
    /// The split keys make no sense.
    #[error("{}: {source}", path.display())]
    SplitKeys {
        /// The file.
        path: PathBuf,
        /// Where and how.
        source: SplitFileError,
    },
    /// Round trips make no sense.
    #[error(transparent)]
    Distance(#[from] DistanceError),
    /// Neither logs nor windows were named.
    #[error("either --trace with --zones and --split-at, or --windows with --rtt")]
    NoSource,
}

/// Consecutive windows, in files.
pub(super) struct TrainingLog {
    source: Source,
    pub(super) zones: Vec<Zone>,
    /// Microseconds, in the order of the zones.
    pub(super) rtt: Vec<Vec<u64>>,
    pub(super) length: WindowLength,
    /// Numbers of the windows.
    windows: std::ops::Range<u64>,
    held: u64,
}

impl TrainingLog {
    /// Reads it once, to know its length.
    pub(super) fn open(args: &ModelLogArgs) -> Result<Self, TrainingLogError> {
        let length = WindowLength::from_ms(args.window_ms.unwrap_or(args.window_min * MINUTE_MS));
        let mut log = match (&args.windows, &args.rtt, &args.zones, &args.split_at) {
            (Some(windows), Some(rtt), ..) => collected(windows, rtt, length)?,
            (_, _, Some(zones), Some(split_at)) => logged(args, zones, split_at, length)?,
            _ => return Err(TrainingLogError::NoSource),
        };
        log.held = (log.windows.end - log.windows.start) / args.held_part;
        Ok(log)
    }

    /// The first of the windows that are held to judge by.
    pub(super) fn held_from(&self) -> WindowId {
        WindowId(self.windows.end - self.held)
    }

    /// How many windows there are before those.
    pub(super) fn history_windows(&self) -> usize {
        (self.windows.end - self.windows.start - self.held) as usize
    }

    /// Shows each window in its order.
    pub(super) fn each(&self, mut visit: impl FnMut(&WindowCounts)) -> Result<(), TrainingLogError> {
        let mut next = self.windows.start;
        self.source.each(self.length, |counts| {
            let window = counts.window.0;
            if window < next || window >= self.windows.end {
                return;
            }
            (next..window).for_each(|missing| visit(&WindowCounts::empty(WindowId(missing))));
            next = window + 1;
            visit(&counts);
        })
    }
}

/// Where windows come from. One that is missing is one in which nothing was seen.
enum Source {
    Logs {
        files: Vec<PathBuf>,
        ranges: KeyRanges,
        zones: ZoneMap,
    },
    Archive {
        dir: PathBuf,
    },
}

impl Source {
    fn each(&self, length: WindowLength, visit: impl FnMut(WindowCounts)) -> Result<(), TrainingLogError> {
        match self {
            Self::Logs { files, ranges, zones } => {
                let aggregator = WindowAggregator::new(length.as_ms(), ranges.clone(), zones.clone());
                each_window(entries(files), aggregator, visit)
            }
            Self::Archive { dir } => {
                let windows =
                    archived_windows(&RealDisk, dir).map_err(|source| TrainingLogError::Archive {
                        path: dir.clone(),
                        source,
                    })?;
                windows.for_each(visit);
                Ok(())
            }
        }
    }
}

fn logged(
    args: &ModelLogArgs,
    zones: &Path,
    split_at: &Path,
    length: WindowLength,
) -> Result<TrainingLog, TrainingLogError> {
    let zones = ZoneMap::open(zones)?;
    let splits = read_split_keys(split_at).map_err(|source| TrainingLogError::SplitKeys {
        path: split_at.to_owned(),
        source,
    })?;
    let mut windows = 0..0;
    for entry in entries(&args.trace) {
        let window = entry?.timestamp_ms / length.as_ms();
        if windows.is_empty() {
            windows.start = window;
        }
        windows.end = windows.end.max(window + 1);
    }
    Ok(TrainingLog {
        zones: zones.zones(),
        rtt: zones.rtt_matrix_micros(),
        source: Source::Logs {
            files: args.trace.clone(),
            ranges: KeyRanges::new(splits.iter().map(|key| key.to_vec()).collect()),
            zones,
        },
        length,
        windows,
        held: 0,
    })
}

/// The windows after the last long gap.
fn collected(dir: &Path, rtt: &Path, length: WindowLength) -> Result<TrainingLog, TrainingLogError> {
    let rtt = read_rtt_matrix(rtt)?;
    let source = Source::Archive { dir: dir.to_owned() };
    let mut zones: BTreeSet<Zone> = rtt.zones().cloned().collect();
    let mut windows = 0..0;
    source.each(length, |counts| {
        let window = counts.window.0;
        if windows.is_empty() || window > windows.end + GAP_MAX {
            windows.start = window;
        }
        windows.end = window + 1;
        zones.extend(counts.shards.values().flat_map(BTreeMap::keys).cloned());
    })?;
    let zones: Vec<Zone> = zones.into_iter().collect();
    let row = |from: &Zone| zones.iter().map(|to| u64::from(rtt.micros(from, to))).collect();
    Ok(TrainingLog {
        rtt: zones.iter().map(row).collect(),
        source,
        zones,
        length,
        windows,
        held: 0,
    })
}

/// All entries of the files, one after the other.
fn entries(files: &[PathBuf]) -> impl Iterator<Item = Result<ml::AccessLogEntry, TrainingLogError>> {
    files.iter().flat_map(|path| {
        let failed = |source| TrainingLogError::Log {
            path: path.clone(),
            source,
        };
        let (reader, error) = match AccessLogReader::open(path) {
            Ok(reader) => (Some(reader), None),
            Err(error) => (None, Some(Err(failed(error)))),
        };
        let read = reader.into_iter().flatten();
        error
            .into_iter()
            .chain(read.map(move |entry| entry.map_err(failed)))
    })
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use clap::Parser;
    use placement::ShardId;

    use super::*;
    use crate::cli::{Cli, Command, ModelVerb};
    use crate::profiler::WindowArchive;

    fn keep(dir: &Path, windows: impl IntoIterator<Item = u64>) {
        let mut archive = WindowArchive::open(Arc::new(RealDisk), dir, u64::MAX).unwrap();
        for window in windows {
            let mut counts = WindowCounts::empty(WindowId(window));
            counts.count(ShardId(1), &Zone::from("east"), 1, 0);
            archive.keep(&counts).unwrap();
        }
    }

    fn shown(log: &TrainingLog) -> Vec<u64> {
        let mut windows = Vec::new();
        log.each(|counts| windows.push(counts.window.0)).unwrap();
        windows
    }

    #[test]
    fn what_a_controller_collects_meanwhile_is_not_shown() {
        let folder = tempfile::tempdir().unwrap();
        let (dir, rtt) = (folder.path().join("windows"), folder.path().join("rtt.csv"));
        keep(&dir, [1, 10_000, 10_001, 10_004]);
        std::fs::write(&rtt, "east,west,100\n").unwrap();
        let (windows, rtt) = (dir.to_string_lossy(), rtt.to_string_lossy());
        let line = [
            "godwit",
            "model",
            "train",
            "--windows",
            &windows,
            "--rtt",
            &rtt,
            "--out",
            "m",
        ];
        let Command::Model(args) = Cli::try_parse_from(line).unwrap().command else {
            panic!("another verb");
        };
        let ModelVerb::Train(args) = args.verb else {
            panic!("another verb");
        };
        let log = TrainingLog::open(&args.log).unwrap();
        assert_eq!(log.zones, ["east", "west"].map(Zone::from));
        assert_eq!(shown(&log), (10_000..=10_004).collect::<Vec<_>>());
        keep(&dir, [10_005]);
        std::fs::remove_file(dir.join("window-00000000000000010000.json.zst")).unwrap();
        assert_eq!(shown(&log), (10_000..=10_004).collect::<Vec<_>>());
    }
}
