//! What the log's tests share: a log on a simulated disk, and callbacks that can be looked at.

#![allow(dead_code, reason = "each test file uses its part")]

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use storage::clock::ManualClock;
use storage::disk::{Disk, OpenMode};
use storage::log::{Done, GroupLog, LogFault, LogHub, LogOptions, LogRecord, LogWriter, OpenLogError, Step};
use storage::sim_disk::SimDisk;

/// The log's folder, its segments and its guard.
pub(crate) const DIR: &str = "/log";

/// The segments, oldest first.
pub(crate) fn segments(disk: &SimDisk) -> Vec<PathBuf> {
    let mut paths = disk.list(Path::new(DIR)).unwrap();
    paths.retain(|path| path.extension().is_some_and(|end| end == "log"));
    paths
}

/// The durable content of every segment, to be put back later.
pub(crate) fn images(disk: &SimDisk) -> BTreeMap<PathBuf, Vec<u8>> {
    let paths = segments(disk).into_iter();
    paths
        .map(|path| (path.clone(), disk.image(&path).unwrap()))
        .collect()
}

/// Sets the segments back to what they were; younger ones go.
pub(crate) fn put_images(disk: &SimDisk, images: &BTreeMap<PathBuf, Vec<u8>>) {
    for path in segments(disk) {
        if !images.contains_key(&path) {
            disk.remove(&path).unwrap();
        }
    }
    for (path, content) in images {
        drop(disk.open(path, OpenMode::CreateIfMissing).unwrap());
        disk.put_image(path, content.clone()).unwrap();
    }
}

pub(crate) fn guard_file() -> PathBuf {
    Path::new(DIR).join("log.guard")
}

/// Options small enough that segments roll and memory overflows in a short test.
pub(crate) fn small_options(clock: &Arc<ManualClock>) -> LogOptions {
    LogOptions {
        segment_bytes: 4096,
        tail_bytes: 2048,
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

/// All that a group shows, but the committed mark: it is promised to nobody.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct GroupState {
    pub(crate) entries: Vec<LogRecord>,
    pub(crate) vote: Option<Bytes>,
    pub(crate) purged: Option<(u64, Bytes)>,
}

impl GroupState {
    pub(crate) fn of(log: &GroupLog) -> GroupState {
        GroupState {
            entries: all(log),
            vote: log.vote(),
            purged: log.purged(),
        }
    }

    pub(crate) fn next_index(&self) -> u64 {
        let last = self.entries.last().map(|entry| entry.index);
        last.or(self.purged.as_ref().map(|(upto, _)| *upto))
            .map_or(1, |last| last + 1)
    }
}

/// The states of each group in the order they were asked for, each with its callback.
#[derive(Default)]
pub(crate) struct History {
    states: BTreeMap<u64, Vec<(GroupState, Told)>>,
}

impl History {
    pub(crate) fn newest(&self, group: u64) -> GroupState {
        self.states
            .get(&group)
            .and_then(|states| states.last())
            .map_or_else(GroupState::default, |(state, _)| state.clone())
    }

    pub(crate) fn push(&mut self, group: u64, state: GroupState, told: Told) {
        self.states.entry(group).or_default().push((state, told));
    }

    /// Why what a group shows after the crash breaks a promise; None when it keeps them all.
    pub(crate) fn broken_promise(&self, group: u64, found: &GroupState) -> Option<String> {
        let states = self.states.get(&group)?;
        let promised = states.iter().rposition(|(_, told)| told.is_ok());
        let empty = promised.is_none() && *found == GroupState::default();
        let from = promised.unwrap_or(0);
        let allowed = states[from..].iter().any(|(state, _)| state == found);
        (!empty && !allowed).then(|| {
            let newest = &states[from].0;
            format!("group {group} shows {found:?}, promised was {newest:?}")
        })
    }

    /// After a restart the states that did not survive never were.
    pub(crate) fn restart(&mut self, group: u64, found: GroupState) {
        let told = Told::default();
        told.done()(Ok(()));
        self.states.insert(group, vec![(found, told)]);
    }
}
