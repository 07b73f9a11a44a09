//! A disk whose syncs are timed: what a write waits for, whatever else the host does.
//!
//! It stands between the host and the disk that it was handed, so the log and the shards' files are measured at the one
//! seam through which all of them go. Time is the host's own, and virtual in a simulation.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use prometheus::{Histogram, HistogramVec, IntCounter, IntCounterVec, Registry};
use raft::HostContext;
use storage::disk::{BlockFile, Disk, OpenMode};

use super::metrics::{counters, durations};

/// What is measured of a host's disk, by what the file belongs to.
#[derive(Debug, Clone)]
pub(super) struct DiskMetrics {
    syncs: HistogramVec,
    written: IntCounterVec,
    read: IntCounterVec,
}

impl DiskMetrics {
    pub(super) fn new(registry: &Registry) -> Self {
        Self {
            syncs: durations(
                registry,
                "godwit_disk_sync_duration_seconds",
                "How long the disk took to make written bytes durable, for the log and for the shards' files.",
                &["file"],
            ),
            written: counters(
                registry,
                "godwit_disk_written_bytes_total",
                "Bytes written to the disk.",
                &["file"],
            ),
            read: counters(
                registry,
                "godwit_disk_read_bytes_total",
                "Bytes read from the disk, also those that the operating system had in memory.",
                &["file"],
            ),
        }
    }

    fn of(&self, owner: &str) -> FileMetrics {
        FileMetrics {
            syncs: self.syncs.with_label_values(&[owner]),
            written: self.written.with_label_values(&[owner]),
            read: self.read.with_label_values(&[owner]),
        }
    }
}

#[derive(Debug, Clone)]
struct FileMetrics {
    syncs: Histogram,
    written: IntCounter,
    read: IntCounter,
}

/// A disk that is measured.
#[derive(Debug)]
pub(crate) struct MeasuredDisk {
    disk: Arc<dyn Disk>,
    context: HostContext,
    log: PathBuf,
    of_log: FileMetrics,
    of_shards: FileMetrics,
}

impl MeasuredDisk {
    /// Measures a disk; what lies below `log` is the log's, all else the shards'.
    pub(crate) fn new(
        disk: Arc<dyn Disk>,
        log: PathBuf,
        context: HostContext,
        metrics: &super::Metrics,
    ) -> Self {
        Self {
            disk,
            context,
            log,
            of_log: metrics.disk.of("log"),
            of_shards: metrics.disk.of("shards"),
        }
    }
}

impl Disk for MeasuredDisk {
    fn open(&self, path: &Path, mode: OpenMode) -> io::Result<Box<dyn BlockFile>> {
        let metrics = match path.starts_with(&self.log) {
            true => &self.of_log,
            false => &self.of_shards,
        };
        Ok(Box::new(MeasuredFile {
            file: self.disk.open(path, mode)?,
            context: self.context.clone(),
            metrics: metrics.clone(),
        }))
    }

    fn read(&self, path: &Path) -> io::Result<Vec<u8>> {
        self.disk.read(path)
    }

    fn replace(&self, path: &Path, content: &[u8]) -> io::Result<()> {
        self.disk.replace(path, content)
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.disk.rename(from, to)
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        self.disk.remove(path)
    }

    fn list(&self, dir: &Path) -> io::Result<Vec<PathBuf>> {
        self.disk.list(dir)
    }

    fn exists(&self, path: &Path) -> io::Result<bool> {
        self.disk.exists(path)
    }

    fn create_dir_all(&self, dir: &Path) -> io::Result<()> {
        self.disk.create_dir_all(dir)
    }

    fn lock_exclusive(&self, path: &Path) -> io::Result<Box<dyn Send + Sync>> {
        self.disk.lock_exclusive(path)
    }

    fn taken_bytes(&self, path: &Path) -> io::Result<u64> {
        self.disk.taken_bytes(path)
    }

    fn free_bytes(&self, path: &Path) -> io::Result<u64> {
        self.disk.free_bytes(path)
    }
}

#[derive(Debug)]
struct MeasuredFile {
    file: Box<dyn BlockFile>,
    context: HostContext,
    metrics: FileMetrics,
}

impl BlockFile for MeasuredFile {
    fn len(&self) -> io::Result<u64> {
        self.file.len()
    }

    fn taken_bytes(&self) -> io::Result<u64> {
        self.file.taken_bytes()
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        self.metrics.read.inc_by(out.len() as u64);
        self.file.read(offset, out)
    }

    fn write(&self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        self.metrics.written.inc_by(bytes.len() as u64);
        self.file.write(offset, bytes)
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.file.set_len(len)
    }

    fn allocate(&self, len: u64) -> io::Result<()> {
        self.file.allocate(len)
    }

    fn sync_data(&self) -> io::Result<()> {
        let began = self.context.uptime();
        let synced = self.file.sync_data();
        let took = self.context.uptime().saturating_sub(began);
        self.metrics.syncs.observe(took.as_secs_f64());
        synced
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use raft::ClockSkew;
    use storage::sim_disk::SimDisk;

    use super::*;
    use crate::monitor::Metrics;

    /// A disk whose syncs take long.
    #[derive(Debug)]
    struct Slow(Box<dyn BlockFile>);

    impl BlockFile for Slow {
        fn len(&self) -> io::Result<u64> {
            self.0.len()
        }

        fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
            self.0.read(offset, out)
        }

        fn write(&self, offset: u64, bytes: &[u8]) -> io::Result<()> {
            self.0.write(offset, bytes)
        }

        fn set_len(&self, len: u64) -> io::Result<()> {
            self.0.set_len(len)
        }

        fn sync_data(&self) -> io::Result<()> {
            std::thread::sleep(Duration::from_millis(20));
            self.0.sync_data()
        }
    }

    #[tokio::test]
    async fn syncs_and_bytes_are_counted_where_they_belong() {
        let metrics = Metrics::new();
        let context = HostContext::new(1, ClockSkew::default());
        let sim = Arc::new(SimDisk::new(1));
        let disk = MeasuredDisk::new(sim, "/d/log".into(), context.clone(), &metrics);
        disk.create_dir_all(Path::new("/d/log")).unwrap();
        let log = disk.open(Path::new("/d/log/1"), OpenMode::CreateNew).unwrap();
        log.write(0, b"12345").unwrap();
        log.sync_data().unwrap();
        let mut out = [0; 3];
        log.read(1, &mut out).unwrap();
        assert_eq!(&out, b"234");
        disk.open(Path::new("/d/shard"), OpenMode::CreateNew).unwrap();
        let of = |owner: &str| metrics.disk.of(owner);
        assert_eq!((of("log").written.get(), of("log").read.get()), (5, 3));
        assert_eq!(of("log").syncs.get_sample_count(), 1);
        assert_eq!(of("shards").syncs.get_sample_count(), 0);

        let slow = MeasuredFile {
            file: Box::new(Slow(log)),
            context,
            metrics: of("log"),
        };
        slow.sync_data().unwrap();
        assert!(of("log").syncs.get_sample_sum() >= 0.02);
    }
}
