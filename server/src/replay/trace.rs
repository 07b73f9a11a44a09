//! A trace in memory: rows sorted by time, with users, keys and zones numbered.
//!
//! A row takes 32 bytes, so half a million rows with their names stay under 30 MiB. Everything a replay
//! would trip over later is refused here, with the line.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use ml::{AccessLogEntry, AccessLogError, AccessLogReader, ZoneMap};
use placement::Zone;

/// Why a trace cannot be replayed.
#[derive(Debug, thiserror::Error)]
pub enum TraceError {
    /// The trace cannot be read; names the line.
    #[error("{}: {source}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// Where and how.
        source: AccessLogError,
    },
    /// A line that reads well but cannot be replayed.
    #[error("{}: line {line}: {problem}", path.display())]
    Line {
        /// The file.
        path: PathBuf,
        /// The line's number, from 1, the header included.
        line: u64,
        /// What is wrong with it.
        problem: String,
    },
    /// There is nothing to replay.
    #[error("{}: the trace has no rows", path.display())]
    Empty {
        /// The file.
        path: PathBuf,
    },
}

/// What a cluster accepts; rows beyond are refused before anything starts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TraceLimits {
    /// Longest key, in bytes.
    pub key_bytes_max: u64,
    /// Longest value, in bytes.
    pub value_bytes_max: u64,
}

/// What a row does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RowKind {
    /// One get.
    Read,
    /// One put.
    Write,
    /// One get, then one put.
    Session,
}

/// One access. The numbers index the trace's tables.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Row {
    /// Workload time in milliseconds since the Unix epoch.
    pub at_ms: u64,
    /// Bytes of the value read or written.
    pub bytes: u32,
    /// What it does.
    pub kind: RowKind,
    user: u32,
    key: u32,
    zone: u32,
}

/// A trace whose rows are sorted by time and all have a zone.
#[derive(Debug)]
pub struct Trace {
    rows: Vec<Row>,
    users: Names,
    keys: Names,
    zones: Vec<Zone>,
}

impl Trace {
    /// Reads a trace, plain or compressed, and checks every row.
    pub fn read(path: &Path, zones: &ZoneMap, limits: TraceLimits) -> Result<Trace, TraceError> {
        let unreadable = |source| TraceError::Read {
            path: path.to_owned(),
            source,
        };
        let mut trace = Trace {
            rows: Vec::new(),
            users: Names::default(),
            keys: Names::default(),
            zones: zones.zones(),
        };
        // One line a row after the header.
        for (line, entry) in (2..).zip(AccessLogReader::open(path).map_err(unreadable)?) {
            let entry = entry.map_err(unreadable)?;
            let failed = |problem| TraceError::Line {
                path: path.to_owned(),
                line,
                problem,
            };
            trace.push(&entry, zones, limits).map_err(failed)?;
        }
        if trace.rows.is_empty() {
            return Err(TraceError::Empty {
                path: path.to_owned(),
            });
        }
        Ok(trace)
    }

    fn push(&mut self, entry: &AccessLogEntry, zones: &ZoneMap, limits: TraceLimits) -> Result<(), String> {
        check(entry, self.rows.last(), limits)?;
        let zone = zones.zone_of(&entry.origin);
        let zone = zone.and_then(|zone| self.zones.binary_search(zone).ok());
        let zone = zone.ok_or_else(|| format!("the zone file has no origin {:?}", entry.origin))?;
        self.rows.push(Row {
            at_ms: entry.timestamp_ms,
            bytes: u32::try_from(entry.size)
                .map_err(|_| format!("a size of {} is out of range", entry.size))?,
            kind: match entry.accesses() {
                (_, 0) => RowKind::Read,
                (0, _) => RowKind::Write,
                _ => RowKind::Session,
            },
            user: self.users.number(&entry.user_id),
            key: self.keys.number(&entry.data_id),
            zone: zone as u32,
        });
        Ok(())
    }

    /// All rows, in order of time.
    pub fn rows(&self) -> &[Row] {
        &self.rows
    }

    /// Who made the access.
    pub fn user(&self, row: &Row) -> &str {
        self.users.name(row.user)
    }

    /// The key it went to.
    pub fn key(&self, row: &Row) -> &str {
        self.keys.name(row.key)
    }

    /// The zone it came from.
    pub fn zone(&self, row: &Row) -> &Zone {
        &self.zones[row.zone as usize]
    }

    /// All keys, in the order they first occur.
    pub fn keys(&self) -> &[String] {
        &self.keys.names
    }

    /// The row as a log entry whose origin is its zone.
    pub fn entry(&self, row: &Row) -> AccessLogEntry {
        let op = match row.kind {
            RowKind::Read => "get",
            RowKind::Write => "put",
            RowKind::Session => "session",
        };
        AccessLogEntry {
            timestamp_ms: row.at_ms,
            user_id: self.user(row).to_owned(),
            data_id: self.key(row).to_owned(),
            origin: self.zone(row).0.clone(),
            op: op.to_owned(),
            size: u64::from(row.bytes),
        }
    }
}

fn check(entry: &AccessLogEntry, before: Option<&Row>, limits: TraceLimits) -> Result<(), String> {
    let (key_bytes, size) = (entry.data_id.len() as u64, entry.size);
    if let Some(before) = before.filter(|before| before.at_ms > entry.timestamp_ms) {
        return Err(format!(
            "its time, {}, is before the line above, {}",
            entry.timestamp_ms, before.at_ms
        ));
    }
    if key_bytes == 0 {
        return Err("its key is empty".to_owned());
    }
    if key_bytes > limits.key_bytes_max {
        return Err(format!(
            "its key has {key_bytes} bytes, at most {} are allowed",
            limits.key_bytes_max
        ));
    }
    if size > limits.value_bytes_max {
        return Err(format!(
            "its size is {size} bytes, at most {} are allowed",
            limits.value_bytes_max
        ));
    }
    Ok(())
}

/// Distinct texts, numbered as they come.
#[derive(Debug, Default)]
struct Names {
    names: Vec<String>,
    numbers: BTreeMap<String, u32>,
}

impl Names {
    fn number(&mut self, name: &str) -> u32 {
        if let Some(number) = self.numbers.get(name) {
            return *number;
        }
        let number = self.names.len() as u32;
        self.names.push(name.to_owned());
        self.numbers.insert(name.to_owned(), number);
        number
    }

    fn name(&self, number: u32) -> &str {
        &self.names[number as usize]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HEADER: &str = "timestamp_ms,user_id,data_id,origin,op,size\n";
    const ZONES: &str = "origin,zone,region,lat,lon\newr,b,east,40,-74\njfk,a,east,41,-73\n";
    const LIMITS: TraceLimits = TraceLimits {
        key_bytes_max: 8,
        value_bytes_max: 2_000,
    };

    fn read(rows: &str) -> Result<Trace, String> {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("trace.csv");
        std::fs::write(&path, format!("{HEADER}{rows}")).unwrap();
        let zones = ZoneMap::read(ZONES.as_bytes()).unwrap();
        let folder = format!("{}/", dir.path().display());
        Trace::read(&path, &zones, LIMITS).map_err(|error| error.to_string().replace(&folder, ""))
    }

    #[test]
    fn rows_come_back_with_their_names_and_zones() {
        let trace = read("5,u1,ac/1,ewr,dep,10\n5,u2,ac/2,jfk,get,20\n9,u1,ac/1,jfk,put,30\n").unwrap();
        let seen: Vec<_> = trace
            .rows()
            .iter()
            .map(|row| {
                (
                    row.at_ms,
                    trace.user(row),
                    trace.key(row),
                    trace.zone(row).0.as_str(),
                    row.kind,
                    row.bytes,
                )
            })
            .collect();
        let expected = [
            (5, "u1", "ac/1", "b", RowKind::Session, 10),
            (5, "u2", "ac/2", "a", RowKind::Read, 20),
            (9, "u1", "ac/1", "a", RowKind::Write, 30),
        ];
        assert_eq!(seen, expected);
        assert_eq!(trace.keys(), ["ac/1", "ac/2"]);
        let entry = trace.entry(&trace.rows()[0]);
        assert_eq!((entry.origin.as_str(), entry.accesses()), ("b", (1, 1)));
    }

    #[test]
    fn bad_lines_are_named() {
        let good = "5,u,k,ewr,dep,1\n";
        for (line, problem) in [
            (
                "4,u,k,ewr,dep,1\n",
                "line 3: its time, 4, is before the line above, 5",
            ),
            ("6,u,k,sfo,dep,1\n", "line 3: the zone file has no origin \"sfo\""),
            (
                "6,u,123456789,ewr,dep,1\n",
                "line 3: its key has 9 bytes, at most 8 are allowed",
            ),
            (
                "6,u,k,ewr,dep,2001\n",
                "line 3: its size is 2001 bytes, at most 2000 are allowed",
            ),
            ("6,u,,ewr,dep,1\n", "line 3: its key is empty"),
        ] {
            assert_eq!(
                read(&format!("{good}{line}")).unwrap_err(),
                format!("trace.csv: {problem}")
            );
        }
        let error = read(&format!("{good}soon,u,k,ewr,dep,1\n")).unwrap_err();
        assert!(error.starts_with("trace.csv: line 3 "), "{error}");
        assert_eq!(read("").unwrap_err(), "trace.csv: the trace has no rows");
    }
}
