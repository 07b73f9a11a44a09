//! The access log on disk: sampled accesses in the schema of the traces, under a byte cap.
//!
//! Lines of CSV in files `access-<number>.csv`, each with its header, so a trainer reads any of them alone.
//! A file that has grown to an eighth of the cap is closed and the next begun; the oldest go when the
//! total would pass the cap. Lines are buffered and written with one sync, so a crash loses the buffer and
//! may tear the last write, nothing older. A host starts a new file instead of continuing a torn one.
//!
//! The log is a sample, never the truth: when the disk fails, the buffer is dropped, the caller is told,
//! and the next write begins a new file.

use std::collections::VecDeque;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use ml::{AccessLogEntry, AccessLogError, AccessLogReader, COLUMNS};
use storage::disk::{BlockFile, Disk, OpenMode};

const NAME_PREFIX: &str = "access-";
const NAME_SUFFIX: &str = ".csv";
const FILES_PER_CAP: u64 = 8;
const BUFFER_BYTES_MAX: usize = 64 * 1024;

/// Bounds of an access log.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct AccessLogOptions {
    /// Most bytes on disk, over all files.
    pub bytes_max: u64,
}

/// Why the access log could not be written or read.
#[derive(Debug, thiserror::Error)]
pub enum AccessLogFileError {
    /// The disk failed; when writing, the buffered entries are gone.
    #[error("the access log {} failed: {source}", path.display())]
    Disk {
        /// The file or folder.
        path: PathBuf,
        /// What the disk said.
        source: io::Error,
    },
    /// A file is damaged in another place than its torn end.
    #[error("the access log {} is damaged", path.display())]
    Damaged {
        /// The file.
        path: PathBuf,
        /// Where and how.
        source: AccessLogError,
    },
}

/// Appends sampled accesses. One owner a host; not meant for the data path itself.
#[derive(Debug)]
pub struct AccessLog {
    disk: Arc<dyn Disk>,
    dir: PathBuf,
    options: AccessLogOptions,
    buffer: Vec<u8>,
    open: Option<OpenFile>,
    closed: VecDeque<ClosedFile>,
    next_number: u64,
}

#[derive(Debug)]
struct OpenFile {
    path: PathBuf,
    file: Box<dyn BlockFile>,
    bytes: u64,
}

#[derive(Debug)]
struct ClosedFile {
    path: PathBuf,
    bytes: u64,
}

impl AccessLog {
    /// Opens the log in a folder of its own, creating it when absent, and drops files beyond the cap.
    pub fn open(
        disk: Arc<dyn Disk>,
        dir: &Path,
        options: AccessLogOptions,
    ) -> Result<Self, AccessLogFileError> {
        disk.create_dir_all(dir).map_err(|source| failed(dir, source))?;
        let mut closed = VecDeque::new();
        let mut next_number = 0;
        for path in access_log_files(&*disk, dir)? {
            let file = disk
                .open(&path, OpenMode::Existing)
                .map_err(|source| failed(&path, source))?;
            let bytes = file.len().map_err(|source| failed(&path, source))?;
            next_number = number_of(&path).map_or(next_number, |number| number + 1);
            closed.push_back(ClosedFile { path, bytes });
        }
        let dir = dir.to_owned();
        let mut log = AccessLog {
            disk,
            dir,
            options,
            buffer: Vec::new(),
            open: None,
            closed,
            next_number,
        };
        log.make_room(0)?;
        Ok(log)
    }

    /// Adds an entry to the buffer, and writes the buffer when it is full.
    pub fn append(&mut self, entry: &AccessLogEntry) -> Result<(), AccessLogFileError> {
        write_line(&mut self.buffer, entry);
        if self.buffer.len() >= BUFFER_BYTES_MAX {
            self.flush()
        } else {
            Ok(())
        }
    }

    /// Writes and syncs what is buffered. Blocks on the disk.
    pub fn flush(&mut self) -> Result<(), AccessLogFileError> {
        if self.buffer.is_empty() {
            return Ok(());
        }
        let lines = std::mem::take(&mut self.buffer);
        let written = self.write(&lines);
        if written.is_err() {
            // A failed sync says nothing about what is on disk, so this file is left as it is.
            self.close();
        }
        written
    }

    /// Bytes on disk, over all files.
    pub fn bytes(&self) -> u64 {
        let closed: u64 = self.closed.iter().map(|file| file.bytes).sum();
        closed + self.open.as_ref().map_or(0, |open| open.bytes)
    }

    fn write(&mut self, lines: &[u8]) -> Result<(), AccessLogFileError> {
        if self
            .open
            .as_ref()
            .is_some_and(|open| open.bytes >= self.options.bytes_max / FILES_PER_CAP)
        {
            self.close();
        }
        let begins = self.open.is_none();
        let content = if begins {
            [header().as_bytes(), lines].concat()
        } else {
            lines.to_vec()
        };
        self.make_room(content.len() as u64)?;
        let mut open = match self.open.take() {
            Some(open) => open,
            None => self.begin()?,
        };
        let written = open
            .file
            .write(open.bytes, &content)
            .and_then(|()| open.file.sync_data());
        open.bytes += content.len() as u64;
        let path = open.path.clone();
        self.open = Some(open);
        written.map_err(|source| failed(&path, source))
    }

    fn begin(&mut self) -> Result<OpenFile, AccessLogFileError> {
        let path = self
            .dir
            .join(format!("{NAME_PREFIX}{:010}{NAME_SUFFIX}", self.next_number));
        self.next_number += 1;
        let file = self
            .disk
            .open(&path, OpenMode::CreateNew)
            .map_err(|source| failed(&path, source))?;
        Ok(OpenFile { path, file, bytes: 0 })
    }

    fn close(&mut self) {
        if let Some(OpenFile { path, bytes, .. }) = self.open.take() {
            self.closed.push_back(ClosedFile { path, bytes });
        }
    }

    /// Removes the oldest files until `bytes` more fit under the cap.
    fn make_room(&mut self, bytes: u64) -> Result<(), AccessLogFileError> {
        while self.bytes() + bytes > self.options.bytes_max {
            let Some(oldest) = self.closed.pop_front() else {
                return Ok(());
            };
            self.disk
                .remove(&oldest.path)
                .map_err(|source| failed(&oldest.path, source))?;
        }
        Ok(())
    }
}

/// The files of an access log, oldest first.
pub fn access_log_files(disk: &dyn Disk, dir: &Path) -> Result<Vec<PathBuf>, AccessLogFileError> {
    let mut paths = disk.list(dir).map_err(|source| failed(dir, source))?;
    paths.retain(|path| number_of(path).is_some());
    paths.sort_by_key(|path| number_of(path));
    Ok(paths)
}

/// The entries of one file. A torn end is passed over; damage elsewhere is an error with its line.
pub fn read_access_log_file(disk: &dyn Disk, path: &Path) -> Result<Vec<AccessLogEntry>, AccessLogFileError> {
    let mut content = disk.read(path).map_err(|source| failed(path, source))?;
    content.truncate(whole_lines(&content));
    if content.is_empty() {
        return Ok(Vec::new());
    }
    let damaged = |source| AccessLogFileError::Damaged {
        path: path.to_owned(),
        source,
    };
    let reader = AccessLogReader::from_reader(Box::new(io::Cursor::new(content))).map_err(damaged)?;
    reader.collect::<Result<_, _>>().map_err(damaged)
}

/// How many bytes are whole lines before a torn write: one that ends within a line, or that lost a part
/// and left zeros, which no line contains.
fn whole_lines(content: &[u8]) -> usize {
    let unlost = content
        .iter()
        .position(|byte| *byte == 0)
        .unwrap_or(content.len());
    content[..unlost]
        .iter()
        .rposition(|byte| *byte == b'\n')
        .map_or(0, |at| at + 1)
}

/// A key as the text of a `data_id`: as it is, or with its bytes escaped where it holds control
/// characters or is no UTF-8. A line of the log never contains a line break or a zero byte.
pub fn key_text(key: &[u8]) -> String {
    match std::str::from_utf8(key) {
        Ok(text) if !text.chars().any(char::is_control) => text.to_owned(),
        _ => key.escape_ascii().to_string(),
    }
}

fn write_line(buffer: &mut Vec<u8>, entry: &AccessLogEntry) {
    let mut writer = csv::WriterBuilder::new().has_headers(false).from_writer(buffer);
    let clean = |text: &str| key_text(text.as_bytes());
    let fields = [
        entry.timestamp_ms.to_string(),
        clean(&entry.user_id),
        clean(&entry.data_id),
        clean(&entry.origin),
        clean(&entry.op),
        entry.size.to_string(),
    ];
    writer.write_record(&fields).expect("a vector takes any bytes");
}

fn header() -> String {
    COLUMNS.join(",") + "\n"
}

fn number_of(path: &Path) -> Option<u64> {
    path.file_name()?
        .to_str()?
        .strip_prefix(NAME_PREFIX)?
        .strip_suffix(NAME_SUFFIX)?
        .parse()
        .ok()
}

fn failed(path: &Path, source: io::Error) -> AccessLogFileError {
    AccessLogFileError::Disk {
        path: path.to_owned(),
        source,
    }
}

#[cfg(test)]
mod tests {
    use storage::disk::RealDisk;
    use storage::seed::SplitMix64;
    use storage::sim_disk::SimDisk;

    use super::*;

    const KIB: u64 = 1024;

    fn entry(at: u64) -> AccessLogEntry {
        AccessLogEntry {
            timestamp_ms: at,
            user_id: format!("user, \"{at}\""),
            data_id: key_text(b"a/b"),
            origin: "east".into(),
            op: "get".into(),
            size: 512,
        }
    }

    fn open(dir: &Path, bytes_max: u64) -> AccessLog {
        AccessLog::open(Arc::new(RealDisk), dir, AccessLogOptions { bytes_max }).unwrap()
    }

    fn read_all(dir: &Path) -> Vec<u64> {
        let files = access_log_files(&RealDisk, dir).unwrap();
        let entries = files
            .iter()
            .flat_map(|path| read_access_log_file(&RealDisk, path).unwrap());
        entries.map(|entry| entry.timestamp_ms).collect()
    }

    fn bytes_on_disk(dir: &Path) -> u64 {
        std::fs::read_dir(dir)
            .unwrap()
            .map(|file| file.unwrap().metadata().unwrap().len())
            .sum()
    }

    #[test]
    fn entries_come_back_in_order_over_restarts() {
        let dir = tempfile::tempdir().unwrap();
        for start in [0, 10] {
            let mut log = open(dir.path(), 64 * KIB);
            (start..start + 10).for_each(|at| log.append(&entry(at)).unwrap());
            log.flush().unwrap();
        }
        assert_eq!(read_all(dir.path()), (0..20).collect::<Vec<_>>());
        let first = &access_log_files(&RealDisk, dir.path()).unwrap()[0];
        assert_eq!(read_access_log_file(&RealDisk, first).unwrap()[3], entry(3));
    }

    #[test]
    fn the_cap_holds_and_the_oldest_go_first() {
        let dir = tempfile::tempdir().unwrap();
        let mut log = open(dir.path(), 64 * KIB);
        for at in 0..10_000 {
            log.append(&entry(at)).unwrap();
            if at % 20 == 0 {
                log.flush().unwrap();
                assert!(bytes_on_disk(dir.path()) <= 64 * KIB);
                assert_eq!(log.bytes(), bytes_on_disk(dir.path()));
            }
        }
        log.flush().unwrap();
        let kept = read_all(dir.path());
        assert!(
            bytes_on_disk(dir.path()) > 48 * KIB,
            "{}",
            bytes_on_disk(dir.path())
        );
        assert_eq!(kept, (10_000 - kept.len() as u64..10_000).collect::<Vec<_>>());

        drop(log);
        let reopened = open(dir.path(), 32 * KIB);
        assert!(reopened.bytes() <= 32 * KIB);
        assert_eq!(read_all(dir.path()).last(), Some(&9_999));
    }

    #[test]
    fn a_torn_end_is_passed_over_wherever_it_tears() {
        let dir = tempfile::tempdir().unwrap();
        let mut log = open(dir.path(), 64 * KIB);
        (0..5).for_each(|at| log.append(&entry(at)).unwrap());
        log.flush().unwrap();
        let path = access_log_files(&RealDisk, dir.path()).unwrap().remove(0);
        let whole = std::fs::read(&path).unwrap();
        for cut in 0..whole.len() {
            std::fs::write(&path, &whole[..cut]).unwrap();
            let entries = read_access_log_file(&RealDisk, &path).unwrap();
            let expected: Vec<_> = (0..entries.len() as u64).map(entry).collect();
            assert_eq!(entries, expected, "cut at {cut}");
            assert!(whole[..cut].iter().filter(|byte| **byte == b'\n').count() <= entries.len() + 1);
        }
        let hole = whole.len() / 2;
        let mut holed = whole.clone();
        holed[hole..hole + 4].fill(0);
        std::fs::write(&path, &holed).unwrap();
        let kept = read_access_log_file(&RealDisk, &path).unwrap();
        assert!((1..5).contains(&kept.len()), "{kept:?}");
    }

    /// Appends and flushes until the power goes; returns how many entries were flushed, and appended.
    fn append_until_the_power_goes(log: &mut AccessLog, chance: &mut SplitMix64) -> (u64, u64) {
        let mut flushed = 0;
        for at in 0.. {
            log.append(&entry(at)).unwrap();
            if chance.one_in(12) {
                match log.flush() {
                    Ok(()) => flushed = at + 1,
                    Err(_) => return (flushed, at + 1),
                }
            }
        }
        unreachable!("the power goes after a number of writes");
    }

    #[test]
    fn a_power_cut_loses_the_tail_alone() {
        for seed in 0..300 {
            let mut chance = SplitMix64::new(seed);
            let disk = SimDisk::new(seed);
            let dir = Path::new("access");
            let open = || {
                AccessLog::open(
                    Arc::new(disk.clone()),
                    dir,
                    AccessLogOptions { bytes_max: 1 << 20 },
                )
            };
            let mut log = open().unwrap();
            disk.cut_power_after(chance.below(40));
            let (flushed, appended) = append_until_the_power_goes(&mut log, &mut chance);
            disk.crash();

            let mut log = open().unwrap();
            log.append(&entry(appended)).unwrap();
            log.flush().unwrap();
            let files = access_log_files(&disk, dir).unwrap();
            let entries = files
                .iter()
                .flat_map(|path| read_access_log_file(&disk, path).unwrap());
            let mut kept: Vec<u64> = entries.map(|entry| entry.timestamp_ms).collect();
            assert_eq!(kept.pop(), Some(appended), "seed {seed}");
            assert_eq!(kept, (0..kept.len() as u64).collect::<Vec<_>>(), "seed {seed}");
            assert!((flushed..=appended).contains(&(kept.len() as u64)), "seed {seed}");
        }
    }

    #[test]
    fn a_full_or_failing_disk_costs_the_buffer_alone() {
        let disk = SimDisk::new(1);
        let dir = Path::new("access");
        let mut log = AccessLog::open(
            Arc::new(disk.clone()),
            dir,
            AccessLogOptions { bytes_max: 1 << 20 },
        )
        .unwrap();
        for at in 0..6 {
            disk.limit_writes((at == 2).then_some(10));
            if at == 4 {
                disk.fail_sync(1);
            }
            log.append(&entry(at)).unwrap();
            assert_eq!(log.flush().is_err(), at == 2 || at == 4, "{at}");
        }
        let files = access_log_files(&disk, dir).unwrap();
        let entries = files
            .iter()
            .flat_map(|path| read_access_log_file(&disk, path).unwrap());
        let kept: Vec<u64> = entries.map(|entry| entry.timestamp_ms).collect();
        assert!(
            [0, 1, 3, 5].iter().all(|at| kept.contains(at)) && !kept.contains(&2),
            "{kept:?}"
        );
    }

    #[test]
    fn damage_elsewhere_is_an_error_with_its_line() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("access-0000000001.csv");
        std::fs::write(
            &path,
            format!("{}1,u,k,o,get,1\nx,u,k,o,get,1\n2,u,k,o,get,1\n", header()),
        )
        .unwrap();
        let error = read_access_log_file(&RealDisk, &path).unwrap_err();
        let source = std::error::Error::source(&error).unwrap().to_string();
        assert!(source.starts_with("line 3 "), "{source}");
    }

    #[test]
    fn keys_of_any_bytes_stay_on_their_line() {
        assert_eq!(key_text("ac/UA/Ñ1".as_bytes()), "ac/UA/Ñ1");
        assert_eq!(key_text(b"a\nb"), "a\\nb");
        assert_eq!(key_text(b"\xff\x00"), "\\xff\\x00");
        let mut line = Vec::new();
        write_line(
            &mut line,
            &AccessLogEntry {
                user_id: "a\nb\0".into(),
                ..entry(1)
            },
        );
        assert_eq!(
            line.iter().filter(|byte| **byte == b'\n' || **byte == 0).count(),
            1
        );
    }
}
