//! Reads an access log: one line an access, as a host's profiler writes it and as the traces store it.
//!
//! The file is CSV with the header `timestamp_ms,user_id,data_id,origin,op,size`, plain or, when its name ends in
//! `.zst`, compressed. It is read as a stream, so a log larger than memory is fine.
//!
//! Must hold: a line that does not parse is an error that names the line, and nothing is read after it.
//! Left out: order. Entries come as they lie in the file; [`crate::WindowAggregator`] refuses those that come late.

use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use thiserror::Error;

/// The columns of an access log, in order.
pub const COLUMNS: [&str; 6] = ["timestamp_ms", "user_id", "data_id", "origin", "op", "size"];

/// One access as it is logged.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct AccessLogEntry {
    /// When it happened, in milliseconds of workload time since the Unix epoch.
    pub timestamp_ms: u64,
    /// Who made it.
    pub user_id: String,
    /// The key that was accessed.
    pub data_id: String,
    /// The host, zone or region nearest to the client.
    pub origin: String,
    /// What was done; see [`AccessLogEntry::accesses`].
    pub op: String,
    /// Bytes read or written.
    pub size: u64,
}

impl AccessLogEntry {
    /// How many reads and writes this entry stands for.
    ///
    /// The verbs of the store are one or the other. Any other verb comes from a log of some other system, where a
    /// line is a session on a record: it is replayed as one read and one write, and counted so.
    pub fn accesses(&self) -> (u64, u64) {
        match self.op.as_str() {
            "get" | "scan" | "read" | "watch" => (1, 0),
            "put" | "delete" | "cas" | "txn" | "write" => (0, 1),
            _ => (1, 1),
        }
    }
}

/// Why an access log cannot be read.
#[derive(Debug, Error)]
pub enum AccessLogError {
    /// The file cannot be opened.
    #[error("cannot open the access log {path}")]
    Open {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// The first line is not the header.
    #[error("line 1 of the access log is not the header {expected:?} but {found:?}")]
    Header {
        /// The header wanted.
        expected: String,
        /// The line found.
        found: String,
    },
    /// A line that is no entry, or bytes that are no log.
    #[error("line {line} of the access log: {reason}")]
    Line {
        /// Its number, counted from 1, the header included.
        line: u64,
        /// What is wrong with it.
        reason: String,
    },
}

/// An iterator over the entries of a log; it ends after the first error.
pub struct AccessLogReader {
    records: csv::StringRecordsIntoIter<Box<dyn Read + Send>>,
    line: u64,
    failed: bool,
}

impl AccessLogReader {
    /// Opens a file and checks its header.
    pub fn open(path: &Path) -> Result<Self, AccessLogError> {
        let failed = |source| AccessLogError::Open {
            path: path.to_path_buf(),
            source,
        };
        let file = File::open(path).map_err(failed)?;
        if path.extension().is_some_and(|extension| extension == "zst") {
            Self::from_reader(Box::new(zstd::Decoder::new(file).map_err(failed)?))
        } else {
            Self::from_reader(Box::new(file))
        }
    }

    /// Reads from anything that yields the CSV's bytes, and checks the header.
    pub fn from_reader(reader: Box<dyn Read + Send>) -> Result<Self, AccessLogError> {
        let mut csv = csv::ReaderBuilder::new()
            .has_headers(true)
            .flexible(false)
            .from_reader(reader);
        let header = csv.headers().map_err(|error| AccessLogError::Line {
            line: 1,
            reason: error.to_string(),
        })?;
        if !header.iter().eq(COLUMNS) {
            let found = header.iter().collect::<Vec<_>>().join(",");
            return Err(AccessLogError::Header {
                expected: COLUMNS.join(","),
                found,
            });
        }
        Ok(Self {
            records: csv.into_records(),
            line: 1,
            failed: false,
        })
    }

    fn parse(
        &mut self,
        record: Result<csv::StringRecord, csv::Error>,
    ) -> Result<AccessLogEntry, AccessLogError> {
        let known = record
            .as_ref()
            .ok()
            .and_then(|record| record.position())
            .map(csv::Position::line);
        self.line = known.unwrap_or(self.line + 1);
        let line = self.line;
        record
            .and_then(|record| record.deserialize(None))
            .map_err(|error| AccessLogError::Line {
                line,
                reason: reason_of(&error),
            })
    }
}

impl Iterator for AccessLogReader {
    type Item = Result<AccessLogEntry, AccessLogError>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.failed {
            return None;
        }
        let record = self.records.next()?;
        let entry = self.parse(record);
        self.failed = entry.is_err();
        Some(entry)
    }
}

/// The cause alone: the position that `csv` puts into its message is already said.
fn reason_of(error: &csv::Error) -> String {
    match error.kind() {
        csv::ErrorKind::Deserialize { err, .. } => match err.field() {
            Some(field) => {
                let column = COLUMNS.get(field as usize).copied().unwrap_or("a column");
                format!("{column}: {}", err.kind())
            }
            None => err.kind().to_string(),
        },
        csv::ErrorKind::UnequalLengths {
            expected_len, len, ..
        } => format!("{len} columns, not {expected_len}"),
        csv::ErrorKind::Io(error) => format!("cannot be read: {error}"),
        _ => error.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HEADER: &str = "timestamp_ms,user_id,data_id,origin,op,size\n";

    fn read(text: &str) -> Vec<Result<AccessLogEntry, AccessLogError>> {
        let bytes: Vec<u8> = text.as_bytes().to_vec();
        AccessLogReader::from_reader(Box::new(std::io::Cursor::new(bytes)))
            .unwrap()
            .collect()
    }

    #[test]
    fn a_line_becomes_an_entry() {
        let entries = read(&format!("{HEADER}5,u1,ac/UA/N1,ewr,dep,1024\n"));
        let entry = entries[0].as_ref().unwrap();
        assert_eq!((entry.timestamp_ms, entry.size), (5, 1024));
        assert_eq!(
            (entry.user_id.as_str(), entry.data_id.as_str()),
            ("u1", "ac/UA/N1")
        );
        assert_eq!(entry.accesses(), (1, 1));
    }

    #[test]
    fn a_bad_line_is_named_and_ends_the_reading() {
        let entries = read(&format!("{HEADER}5,u,k,o,get,1\nx,u,k,o,get,1\n7,u,k,o,get,1\n"));
        assert_eq!(entries.len(), 2);
        let message = entries[1].as_ref().unwrap_err().to_string();
        assert!(
            message.starts_with("line 3 of the access log: timestamp_ms:"),
            "{message}"
        );
    }

    #[test]
    fn a_short_line_is_named() {
        let entries = read(&format!("{HEADER}5,u,k\n"));
        assert_eq!(
            entries[0].as_ref().unwrap_err().to_string(),
            "line 2 of the access log: 3 columns, not 6"
        );
    }

    #[test]
    fn another_header_is_refused() {
        let bytes: &[u8] = b"a,b\n1,2\n";
        let error = AccessLogReader::from_reader(Box::new(bytes)).err().unwrap();
        assert!(matches!(error, AccessLogError::Header { .. }), "{error}");
    }

    #[test]
    fn a_compressed_log_reads_like_a_plain_one() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("log.csv.zst");
        let text = format!("{HEADER}5,u,k,o,put,9\n");
        std::fs::write(&path, zstd::encode_all(text.as_bytes(), 1).unwrap()).unwrap();
        let entries: Vec<_> = AccessLogReader::open(&path)
            .unwrap()
            .map(Result::unwrap)
            .collect();
        assert_eq!(entries[0].accesses(), (0, 1));
    }

    #[test]
    fn a_cut_compressed_log_is_an_error() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("log.csv.zst");
        let lines: String = (0..2000)
            .map(|i| format!("{i},u{i},k{},o,put,9\n", i * 7919 % 1000))
            .collect();
        let bytes = zstd::encode_all(format!("{HEADER}{lines}").as_bytes(), 1).unwrap();
        std::fs::write(&path, &bytes[..bytes.len() / 2]).unwrap();
        let outcome = AccessLogReader::open(&path).and_then(|reader| reader.collect::<Result<Vec<_>, _>>());
        assert!(matches!(outcome, Err(AccessLogError::Line { .. })));
    }

    #[test]
    fn a_missing_file_is_named() {
        let error = AccessLogReader::open(Path::new("/nowhere/log.csv"))
            .err()
            .unwrap();
        assert!(error.to_string().contains("/nowhere/log.csv"));
    }
}
