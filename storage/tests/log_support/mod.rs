//! What the log's tests share: a log on a simulated disk, and callbacks that can be looked at.

#![allow(dead_code, reason = "each test file uses its part")]

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use storage::clock::ManualClock;
use storage::log::{Done, GroupLog, LogFault, LogHub, LogOptions, LogRecord, LogWriter, OpenLogError, Step};
use storage::sim_disk::SimDisk;

/// The log's folder, its file and its guard.
pub(crate) const DIR: &str = "/log";

pub(crate) fn log_file() -> PathBuf {
    Path::new(DIR).join("log.db")
}

pub(crate) fn guard_file() -> PathBuf {
    Path::new(DIR).join("log.guard")
}

/// Options small enough that segments roll and memory overflows in a short test.
pub(crate) fn small_options(clock: &Arc<ManualClock>) -> LogOptions {
    LogOptions {
        segment_bytes: 4096,
        tail_bytes: 2048,
        cache_bytes: 1 << 20,
        live_bytes_max: 16 << 10,
        ..LogOptions::new(clock.clone())
    }
}

pub(crate) fn open(disk: &SimDisk, options: LogOptions) -> Result<(LogHub, LogWriter), OpenLogError> {
    LogHub::open(Arc::new(disk.clone()), Path::new(DIR), options)
}

pub(crate) fn open_small(disk: &SimDisk) -> (LogHub, LogWriter) {
    open(disk, small_options(&Arc::new(ManualClock::at(0)))).unwrap()
}

/// Takes turns until there is nothing left to commit.
pub(crate) fn drive(writer: &mut LogWriter) -> Step {
    loop {
        match writer.step() {
            Step::Committed { .. } => {}
            step => return step,
        }
    }
}

/// Closes the log as a graceful stop does.
pub(crate) fn shut(hub: LogHub, mut writer: LogWriter) {
    hub.close();
    assert_eq!(drive(&mut writer), Step::Stopped);
}

/// What a callback was told, once it was.
#[derive(Clone, Default)]
pub(crate) struct Told(Arc<Mutex<Option<Result<(), LogFault>>>>);

impl Told {
    pub(crate) fn done(&self) -> Done {
        let told = self.0.clone();
        Box::new(move |outcome| *told.lock().unwrap() = Some(outcome))
    }

    pub(crate) fn outcome(&self) -> Option<Result<(), LogFault>> {
        self.0.lock().unwrap().clone()
    }

    pub(crate) fn is_ok(&self) -> bool {
        self.outcome() == Some(Ok(()))
    }
}

pub(crate) fn ignore() -> Done {
    Box::new(|_| {})
}

pub(crate) fn entry(index: u64, payload: impl Into<Bytes>) -> LogRecord {
    LogRecord {
        index,
        payload: payload.into(),
    }
}

/// Entries of an index range whose payloads say which they are.
pub(crate) fn entries(range: std::ops::Range<u64>, tag: u64) -> Vec<LogRecord> {
    range
        .map(|index| entry(index, format!("entry {index} of {tag} {}", "x".repeat(60))))
        .collect()
}

pub(crate) fn all(log: &GroupLog) -> Vec<LogRecord> {
    log.read(0..u64::MAX, usize::MAX).unwrap()
}
