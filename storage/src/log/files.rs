//! The files of a log: its segments, each by its first sequence.
//!
//! Only the writer begins, appends to and removes segments. Readers take a handle on the segment that a slot lies in, under
//! the lock of the log's state; it stays readable when the segment is removed meanwhile.

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard};

use super::record::Record;
use super::segment_file::SegmentFile;
use crate::disk::Disk;

const PREFIX: &str = "segment-";
const EXTENSION: &str = "log";

/// The open segments of a log.
#[derive(Debug)]
pub(super) struct LogFiles {
    disk: Arc<dyn Disk>,
    dir: PathBuf,
    /// The length that a segment is given when it begins.
    segment_bytes: u64,
    segments: Mutex<BTreeMap<u64, Arc<SegmentFile>>>,
}

impl LogFiles {
    pub(super) fn new(disk: Arc<dyn Disk>, dir: &Path, segment_bytes: u64) -> Self {
        Self {
            disk,
            dir: dir.to_owned(),
            segment_bytes,
            segments: Mutex::default(),
        }
    }

    /// The segment that begins at `first`.
    pub(super) fn segment(&self, first: u64) -> Option<Arc<SegmentFile>> {
        self.lock().get(&first).cloned()
    }

    /// Takes an opened segment in.
    pub(super) fn insert(&self, first: u64, segment: SegmentFile) {
        self.lock().insert(first, Arc::new(segment));
    }

    /// Begins a segment, durably.
    pub(super) fn begin(&self, first: u64) -> io::Result<()> {
        let path = path_of(&self.dir, first);
        let segment = SegmentFile::create(&*self.disk, &path, first, self.segment_bytes)?;
        self.insert(first, segment);
        Ok(())
    }

    /// Appends the records to the segment that begins at `first`, and syncs it. An error leaves the outcome unknown.
    pub(super) fn append(
        &self,
        first: u64,
        oldest: u64,
        records: &[Record],
        buffer: &mut Vec<u8>,
    ) -> io::Result<()> {
        let segment = self.segment(first);
        let segment = segment.ok_or_else(|| io::Error::other("the log has no such segment"))?;
        segment.append(oldest, records, buffer)
    }

    /// Removes a segment, durably.
    pub(super) fn remove(&self, first: u64) -> io::Result<()> {
        self.lock().remove(&first);
        self.disk.remove(&path_of(&self.dir, first))
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<u64, Arc<SegmentFile>>> {
        self.segments.lock().expect("no panic under this lock")
    }
}

/// The segments in a folder, by first sequence.
pub(super) fn list(disk: &dyn Disk, dir: &Path) -> io::Result<BTreeMap<u64, PathBuf>> {
    let paths = disk.list(dir)?.into_iter();
    Ok(paths.filter_map(|path| Some((first_of(&path)?, path))).collect())
}

/// The file of the segment that begins at `first`. Names sort as their sequences.
fn path_of(dir: &Path, first: u64) -> PathBuf {
    dir.join(format!("{PREFIX}{first:016x}.{EXTENSION}"))
}

/// The first sequence of the segment in this file; None for another file.
fn first_of(path: &Path) -> Option<u64> {
    let name = path.file_name()?.to_str()?;
    let number = name
        .strip_prefix(PREFIX)?
        .strip_suffix(EXTENSION)?
        .strip_suffix('.')?;
    u64::from_str_radix(number, 16).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_sort_as_sequences() {
        let path = |first| path_of(Path::new("/log"), first);
        assert!(path(9) < path(10) && path(255) < path(256));
        assert_eq!(first_of(&path(4711)), Some(4711));
        assert_eq!(first_of(Path::new("/log/log.guard")), None);
        assert_eq!(first_of(&path(7).with_extension("new")), None);
    }
}
