//! The state of a simulated disk: names, images, and the faults that are armed.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::path::{Path, PathBuf};

use super::disk::{SimDiskStats, SyncMode};
use super::image::{Change, Image, usize_of};
use crate::seed::SplitMix64;

/// What all handles of one disk share.
#[derive(Debug)]
pub(super) struct SimState {
    pub(super) chance: SplitMix64,
    pub(super) files: BTreeMap<PathBuf, u64>,
    pub(super) dirs: BTreeSet<PathBuf>,
    pub(super) images: BTreeMap<u64, Image>,
    pub(super) next_file: u64,
    pub(super) locks: BTreeMap<PathBuf, u64>,
    /// Grows with each crash; handles and locks of an earlier boot are dead.
    pub(super) boot: u64,
    pub(super) power_off: bool,
    pub(super) operations_left: Option<u64>,
    pub(super) bytes_left: Option<u64>,
    pub(super) syncs_until_error: Option<u64>,
    pub(super) sync_mode: SyncMode,
    pub(super) stats: SimDiskStats,
}

impl SimState {
    pub(super) fn new(seed: u64) -> SimState {
        SimState {
            chance: SplitMix64::new(seed),
            files: BTreeMap::new(),
            dirs: BTreeSet::from([PathBuf::from("/")]),
            images: BTreeMap::new(),
            next_file: 0,
            locks: BTreeMap::new(),
            boot: 0,
            power_off: false,
            operations_left: None,
            bytes_left: None,
            syncs_until_error: None,
            sync_mode: SyncMode::Honest,
            stats: SimDiskStats::default(),
        }
    }

    /// Counts an operation; fails when the power is off or goes off with it.
    pub(super) fn operate(&mut self) -> io::Result<()> {
        self.stats.operations += 1;
        if let Some(left) = &mut self.operations_left {
            if *left == 0 {
                self.power_off = true;
            }
            *left = left.saturating_sub(1);
        }
        self.check_power()
    }

    /// Whether the power is off, or goes off with the next operation.
    pub(super) fn is_doomed(&self) -> bool {
        self.power_off || self.operations_left == Some(0)
    }

    pub(super) fn check_power(&self) -> io::Result<()> {
        if self.power_off {
            Err(io::Error::other("the simulated power is off"))
        } else {
            Ok(())
        }
    }

    pub(super) fn with_image<T>(
        &mut self,
        path: &Path,
        change: impl FnOnce(&mut Image) -> io::Result<T>,
    ) -> io::Result<T> {
        let file = self.files.get(path).ok_or(io::ErrorKind::NotFound)?;
        change(self.images.entry(*file).or_default())
    }

    pub(super) fn create(&mut self, path: &Path) -> io::Result<u64> {
        if !self.dirs.contains(path.parent().unwrap_or(Path::new("/"))) {
            return Err(io::ErrorKind::NotFound.into());
        }
        let file = self.next_file;
        self.next_file += 1;
        self.files.insert(path.to_owned(), file);
        self.images.insert(file, Image::default());
        Ok(file)
    }

    /// Takes `bytes` from the space that is left; the count that still fits.
    fn take_space(&mut self, bytes: usize) -> usize {
        let Some(left) = &mut self.bytes_left else {
            return bytes;
        };
        let fitting = (*left).min(bytes as u64);
        *left -= fitting;
        usize_of(fitting)
    }

    /// Counts a sync; Err is the EIO armed for it.
    fn count_sync(&mut self) -> io::Result<()> {
        self.stats.syncs += 1;
        let Some(left) = &mut self.syncs_until_error else {
            return Ok(());
        };
        *left = left.saturating_sub(1);
        if *left > 0 {
            return Ok(());
        }
        self.syncs_until_error = None;
        Err(io::Error::from_raw_os_error(rustix::io::Errno::IO.raw_os_error()))
    }

    pub(super) fn sync(&mut self, file: u64) -> io::Result<()> {
        self.operate()?;
        let counted = self.count_sync();
        let image = self.images.entry(file).or_default();
        match (&counted, self.sync_mode) {
            (Err(_), _) => image.fail_sync(&mut self.chance),
            (Ok(()), SyncMode::Honest) => image.sync(),
            (Ok(()), SyncMode::Lying) => {}
        }
        counted
    }

    pub(super) fn write(&mut self, file: u64, offset: u64, bytes: &[u8]) -> io::Result<()> {
        self.operate()?;
        let fitting = self.take_space(bytes.len());
        self.stats.bytes_written += fitting as u64;
        let change = Change::Write {
            offset: usize_of(offset),
            bytes: bytes[..fitting].to_vec(),
        };
        self.images.entry(file).or_default().change(change);
        if fitting < bytes.len() {
            Err(io::ErrorKind::StorageFull.into())
        } else {
            Ok(())
        }
    }

    pub(super) fn replace(&mut self, path: &Path, content: &[u8]) -> io::Result<()> {
        self.operate()?;
        if self.take_space(content.len()) < content.len() {
            return Err(io::ErrorKind::StorageFull.into());
        }
        self.count_sync()?;
        self.stats.bytes_written += content.len() as u64;
        let file = self.create(path)?;
        self.images.insert(file, Image::durable(content.to_vec()));
        Ok(())
    }
}
