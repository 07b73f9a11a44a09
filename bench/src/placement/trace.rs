//! A folder of traces: in each subfolder `trace.csv.zst` (or `trace.csv`) and `origins.csv`.
//!
//! An origin is a zone of its own, where a home may be. A row counts as one access, whatever its verb stands for: a
//! row is a session on a record, and what a move costs is told in rows.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use anyhow::Context;
use ml::{AccessLogReader, ORIGINS_MAX, WindowLength, ZoneMap, digest};
use placement::Zone;

/// One access.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Event {
    /// When, in milliseconds since the Unix epoch.
    pub timestamp_ms: u64,
    /// The user's digest.
    pub user: u64,
    /// The key's number.
    pub key: usize,
    /// The origin's number.
    pub origin: usize,
    /// Bytes of the record.
    pub bytes: u64,
}

/// A trace in numbers.
#[derive(Clone, Debug)]
pub(super) struct Trace {
    /// The folder's name.
    pub name: String,
    /// In order of time.
    pub events: Vec<Event>,
    /// Keys by number, in the order in which they were first accessed.
    pub keys: Vec<String>,
    /// Origins by number.
    pub zones: Vec<Zone>,
    /// Round trips in microseconds, origin by home.
    pub rtt_micros: Vec<Vec<u64>>,
    /// The place of the first event that may be tested on.
    pub history: usize,
}

impl Trace {
    /// The time at which the history ends and what is scored begins: a window's beginning.
    pub(super) fn split_ms(&self, length: WindowLength) -> u64 {
        let at = self.events.get(self.history).or(self.events.last());
        at.map_or(0, |event| {
            (event.timestamp_ms / length.as_ms() + 1) * length.as_ms()
        })
    }
}

/// Reads all traces of a folder, in order of their names. With `train`, a trace that is there too has that one as its
/// history and is tested on whole, from where the history ends; any other is divided in the middle of its time.
///
/// # Errors
/// When a file is missing or malformed, or there is no trace.
pub(super) fn read_traces(folder: &Path, train: Option<&Path>) -> anyhow::Result<Vec<Trace>> {
    let entries = std::fs::read_dir(folder).with_context(|| format!("cannot read {}", folder.display()))?;
    let mut folders: Vec<PathBuf> = Vec::new();
    for entry in entries {
        let path = entry?.path();
        if log_of(&path).is_some() {
            folders.push(path);
        }
    }
    folders.sort();
    anyhow::ensure!(
        !folders.is_empty(),
        "{} has no subfolder with a trace.csv or trace.csv.zst",
        folder.display()
    );
    folders.iter().map(|path| read_trace(path, train)).collect()
}

fn log_of(folder: &Path) -> Option<PathBuf> {
    ["trace.csv.zst", "trace.csv"]
        .map(|name| folder.join(name))
        .into_iter()
        .find(|file| file.is_file())
}

fn read_trace(folder: &Path, train: Option<&Path>) -> anyhow::Result<Trace> {
    let name = folder
        .file_name()
        .map(|name| name.to_string_lossy().into_owned())
        .unwrap_or_default();
    let trained = train
        .map(|train| train.join(&name))
        .filter(|folder| log_of(folder).is_some());
    let mut reading = Reading::new(name, folder)?;
    match trained {
        Some(history) => {
            let first_ms = first_ms(folder)?;
            reading.read(&history, Some(first_ms))?;
            let before = reading.trace.events.len();
            anyhow::ensure!(
                before > 0,
                "{} has nothing before {}",
                history.display(),
                folder.display()
            );
            reading.read(folder, None)?;
            reading.trace.history = before - 1;
        }
        None => {
            reading.read(folder, None)?;
            reading.divide();
        }
    }
    Ok(reading.trace)
}

fn first_ms(folder: &Path) -> anyhow::Result<u64> {
    let entry = open(folder)?.next().context("an empty trace")??;
    Ok(entry.timestamp_ms)
}

fn open(folder: &Path) -> anyhow::Result<AccessLogReader> {
    let file = log_of(folder).with_context(|| format!("no trace in {}", folder.display()))?;
    Ok(AccessLogReader::open(&file)?)
}

struct Reading {
    trace: Trace,
    zone_map: ZoneMap,
    numbers: BTreeMap<String, usize>,
}

impl Reading {
    fn new(name: String, folder: &Path) -> anyhow::Result<Self> {
        let places = folder.join("origins.csv");
        let file =
            std::fs::File::open(&places).with_context(|| format!("cannot read {}", places.display()))?;
        let zone_map = ZoneMap::of_origins(file).with_context(|| places.display().to_string())?;
        let origins = zone_map.zones().len();
        anyhow::ensure!(
            origins <= ORIGINS_MAX,
            "{}: {origins} origins are more than the {ORIGINS_MAX} that policies can weigh; give those that are near each \
             other one name",
            places.display()
        );
        let trace = Trace {
            name,
            events: Vec::new(),
            keys: Vec::new(),
            zones: zone_map.zones(),
            rtt_micros: zone_map.rtt_matrix_micros(),
            history: 0,
        };
        Ok(Self {
            trace,
            zone_map,
            numbers: BTreeMap::new(),
        })
    }

    /// Reads a log, up to a time if one is given.
    fn read(&mut self, folder: &Path, until_ms: Option<u64>) -> anyhow::Result<()> {
        for entry in open(folder)? {
            let entry = entry.with_context(|| folder.display().to_string())?;
            let before = self.trace.events.last().map_or(0, |event| event.timestamp_ms);
            anyhow::ensure!(
                entry.timestamp_ms >= before,
                "{} is not in order of time",
                folder.display()
            );
            if until_ms.is_some_and(|until_ms| entry.timestamp_ms >= until_ms) {
                break;
            }
            let zone = self.zone_map.zone_of(&entry.origin).with_context(|| {
                format!(
                    "{}: origins.csv does not name {:?}",
                    folder.display(),
                    entry.origin
                )
            })?;
            let origin = self
                .trace
                .zones
                .iter()
                .position(|known| known == zone)
                .unwrap_or(0);
            let key = self.number(entry.data_id);
            self.trace.events.push(Event {
                timestamp_ms: entry.timestamp_ms,
                user: digest(entry.user_id.as_bytes()),
                key,
                origin,
                bytes: entry.size,
            });
        }
        Ok(())
    }

    fn number(&mut self, key: String) -> usize {
        let next = self.numbers.len();
        match self.numbers.get(&key) {
            Some(number) => *number,
            None => {
                self.trace.keys.push(key.clone());
                self.numbers.insert(key, next);
                next
            }
        }
    }

    fn divide(&mut self) {
        let events = &self.trace.events;
        let (Some(first), Some(last)) = (events.first(), events.last()) else {
            return;
        };
        let middle_ms = first.timestamp_ms.midpoint(last.timestamp_ms);
        self.trace.history = events.partition_point(|event| event.timestamp_ms <= middle_ms) - 1;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HEADER: &str = "timestamp_ms,user_id,data_id,origin,op,size\n";

    fn write(folder: &Path, name: &str, rows: &str) {
        let folder = folder.join(name);
        std::fs::create_dir_all(&folder).unwrap();
        std::fs::write(folder.join("trace.csv"), format!("{HEADER}{rows}")).unwrap();
        std::fs::write(folder.join("origins.csv"), "origin,lat,lon\na,0,0\nb,0,10\n").unwrap();
    }

    #[test]
    fn more_origins_than_can_be_weighed_are_an_error() {
        let folder = tempfile::tempdir().unwrap();
        write(folder.path(), "t", "0,u,k1,o1,x,5\n");
        let places = |count: usize| {
            let lines: String = (0..count).map(|at| format!("o{at},0,{}\n", at % 180)).collect();
            std::fs::write(
                folder.path().join("t/origins.csv"),
                format!("origin,lat,lon\n{lines}"),
            )
            .unwrap();
        };
        places(ORIGINS_MAX);
        assert_eq!(
            read_traces(folder.path(), None).unwrap()[0].zones.len(),
            ORIGINS_MAX
        );
        places(ORIGINS_MAX + 1);
        let error = read_traces(folder.path(), None).unwrap_err().to_string();
        assert!(error.contains("257 origins are more than the 256"), "{error}");
    }

    #[test]
    fn a_trace_is_divided_in_the_middle_of_its_time() {
        let folder = tempfile::tempdir().unwrap();
        write(folder.path(), "t", "0,u,k1,a,x,5\n10,u,k2,b,x,5\n40,u,k1,b,x,5\n");
        let traces = read_traces(folder.path(), None).unwrap();
        let trace = &traces[0];
        assert_eq!(
            (trace.name.as_str(), trace.events.len(), trace.history),
            ("t", 3, 1)
        );
        assert_eq!(
            trace.events[2],
            Event {
                timestamp_ms: 40,
                key: 0,
                origin: 1,
                ..trace.events[2]
            }
        );
        assert_eq!(trace.split_ms(WindowLength::from_ms(4)), 12);
        assert_eq!(trace.rtt_micros[0][0], 500);
    }

    #[test]
    fn a_history_may_come_from_elsewhere_and_ends_where_the_test_begins() {
        let (train, test) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        write(train.path(), "t", "0,u,k1,a,x,5\n20,u,k1,a,x,5\n60,u,k1,a,x,5\n");
        write(test.path(), "t", "50,u,k9,b,x,5\n70,u,k1,b,x,5\n");
        let trace = &read_traces(test.path(), Some(train.path())).unwrap()[0];
        let times: Vec<u64> = trace.events.iter().map(|event| event.timestamp_ms).collect();
        assert_eq!((times, trace.history), (vec![0, 20, 50, 70], 1));
        assert_eq!(trace.split_ms(WindowLength::from_ms(10)), 30);
    }

    #[test]
    fn a_folder_without_traces_is_an_error() {
        let folder = tempfile::tempdir().unwrap();
        let error = read_traces(folder.path(), None).unwrap_err().to_string();
        assert!(error.contains("has no subfolder"), "{error}");
    }
}
