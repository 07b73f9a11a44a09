//! The handles: the disk with its switches for faults, its open files, its locks.

use std::collections::BTreeSet;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard};

use super::image::{Change, Image, usize_of};
use super::state::SimState;
use crate::disk::{BlockFile, Disk, OpenMode};

/// Free space reported when no limit is set.
const UNLIMITED_BYTES: u64 = 1 << 40;

/// A simulated disk. A cheap handle: clones are the same disk.
#[derive(Debug, Clone)]
pub struct SimDisk {
    state: Arc<Mutex<SimState>>,
}

/// What `sync_data` does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SyncMode {
    /// A sync that returned Ok made the file durable.
    Honest,
    /// A sync returns Ok and does nothing: to show that a test notices.
    Lying,
}

/// Counts since the disk was made.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct SimDiskStats {
    /// Operations that change the disk; the unit of [`SimDisk::cut_power_after`].
    pub operations: u64,
    /// Calls of `sync_data`, and the sync inside each [`Disk::replace`].
    pub syncs: u64,
    /// Bytes written.
    pub bytes_written: u64,
}

impl SimDisk {
    /// An empty disk with a root folder.
    pub fn new(seed: u64) -> SimDisk {
        SimDisk {
            state: Arc::new(Mutex::new(SimState::new(seed))),
        }
    }

    /// Cuts the power now, decides the fate of every unsynced write, and starts the host anew:
    /// open handles and locks are dead, new ones work.
    pub fn crash(&self) {
        let mut guard = self.lock();
        let state = &mut *guard;
        for image in state.images.values_mut() {
            image.lose_power(&mut state.chance);
        }
        state.boot += 1;
        state.locks.clear();
        state.power_off = false;
        state.operations_left = None;
    }

    /// Replaces the disk by an empty one of the same make: every file and folder is gone.
    pub fn wipe(&self) {
        self.crash();
        let mut state = self.lock();
        state.files.clear();
        state.images.clear();
        state.dirs = BTreeSet::from([PathBuf::from("/")]);
    }

    /// Cuts the power after `operations` more operations: that many succeed, all later ones fail
    /// until [`SimDisk::crash`] starts the host anew.
    pub fn cut_power_after(&self, operations: u64) {
        self.lock().operations_left = Some(operations);
    }

    /// Whether the power is off, or goes off with the next operation that changes the disk: whoever still runs on this
    /// disk will end of it, whether or not he has noticed.
    pub fn is_doomed(&self) -> bool {
        self.lock().is_doomed()
    }

    /// Lets `bytes` more bytes be written, then refuses with `StorageFull`; None lifts the limit.
    pub fn limit_writes(&self, bytes: Option<u64>) {
        self.lock().bytes_left = bytes;
    }

    /// Makes the `nth` sync from now on, counted from one, fail with EIO.
    pub fn fail_sync(&self, nth: u64) {
        self.lock().syncs_until_error = Some(nth);
    }

    /// Lifts every fault that is armed or in force; what was written stays as it is.
    pub fn mend(&self) {
        let mut state = self.lock();
        state.operations_left = None;
        state.bytes_left = None;
        state.syncs_until_error = None;
        state.sync_mode = SyncMode::Honest;
    }

    /// Sets what syncs do from now on.
    pub fn set_sync_mode(&self, mode: SyncMode) {
        self.lock().sync_mode = mode;
    }

    /// Flips one bit of a file at rest.
    pub fn flip(&self, path: &Path, byte: u64, bit: u8) -> io::Result<()> {
        self.lock().with_image(path, |image| {
            let at = usize_of(byte);
            for bytes in [&mut image.durable, &mut image.current] {
                let target = bytes.get_mut(at).ok_or(io::ErrorKind::UnexpectedEof)?;
                *target ^= 1 << (bit % 8);
            }
            Ok(())
        })
    }

    /// The durable image of a file, to be put back later.
    pub fn image(&self, path: &Path) -> io::Result<Vec<u8>> {
        self.lock().with_image(path, |image| Ok(image.durable.clone()))
    }

    /// Replaces a file's content at rest: an older image is a rolled-back disk.
    pub fn put_image(&self, path: &Path, content: Vec<u8>) -> io::Result<()> {
        self.lock().with_image(path, |image| {
            *image = Image::durable(content);
            Ok(())
        })
    }

    /// Cuts a file at rest.
    pub fn truncate(&self, path: &Path, len: u64) -> io::Result<()> {
        let mut content = self.image(path)?;
        content.truncate(usize_of(len));
        self.put_image(path, content)
    }

    /// Counts since the disk was made.
    pub fn stats(&self) -> SimDiskStats {
        self.lock().stats
    }

    fn lock(&self) -> MutexGuard<'_, SimState> {
        self.state
            .lock()
            .expect("no code panics while it holds the simulated disk")
    }
}

impl Disk for SimDisk {
    fn open(&self, path: &Path, mode: OpenMode) -> io::Result<Box<dyn BlockFile>> {
        let mut state = self.lock();
        state.check_power()?;
        let file = match (state.files.get(path), mode) {
            (Some(_), OpenMode::CreateNew) => return Err(io::ErrorKind::AlreadyExists.into()),
            (None, OpenMode::Existing) => return Err(io::ErrorKind::NotFound.into()),
            (Some(file), _) => *file,
            (None, _) => {
                state.operate()?;
                state.create(path)?
            }
        };
        Ok(Box::new(SimFile {
            disk: self.clone(),
            file,
            boot: state.boot,
        }))
    }

    fn read(&self, path: &Path) -> io::Result<Vec<u8>> {
        let mut state = self.lock();
        state.check_power()?;
        state.with_image(path, |image| Ok(image.current.clone()))
    }

    fn replace(&self, path: &Path, content: &[u8]) -> io::Result<()> {
        self.lock().replace(path, content)
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        let mut state = self.lock();
        state.operate()?;
        let file = state.files.remove(from).ok_or(io::ErrorKind::NotFound)?;
        state.files.insert(to.to_owned(), file);
        Ok(())
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        let mut state = self.lock();
        state.operate()?;
        state
            .files
            .remove(path)
            .map(|_| ())
            .ok_or(io::ErrorKind::NotFound.into())
    }

    fn list(&self, dir: &Path) -> io::Result<Vec<PathBuf>> {
        let state = self.lock();
        state.check_power()?;
        if !state.dirs.contains(dir) {
            return Err(io::ErrorKind::NotFound.into());
        }
        let paths = state
            .files
            .keys()
            .chain(&state.dirs)
            .filter(|path| path.parent() == Some(dir));
        Ok(paths
            .cloned()
            .collect::<BTreeSet<PathBuf>>()
            .into_iter()
            .collect())
    }

    fn exists(&self, path: &Path) -> io::Result<bool> {
        let state = self.lock();
        state.check_power()?;
        Ok(state.files.contains_key(path) || state.dirs.contains(path))
    }

    fn create_dir_all(&self, dir: &Path) -> io::Result<()> {
        let mut state = self.lock();
        state.operate()?;
        state.dirs.extend(dir.ancestors().map(Path::to_owned));
        Ok(())
    }

    fn lock_exclusive(&self, path: &Path) -> io::Result<Box<dyn Send + Sync>> {
        let mut state = self.lock();
        state.check_power()?;
        if state.locks.contains_key(path) {
            return Err(io::ErrorKind::WouldBlock.into());
        }
        let boot = state.boot;
        state.locks.insert(path.to_owned(), boot);
        Ok(Box::new(SimLock {
            disk: self.clone(),
            path: path.to_owned(),
            boot,
        }))
    }

    fn taken_bytes(&self, path: &Path) -> io::Result<u64> {
        let mut state = self.lock();
        state.check_power()?;
        state.with_image(path, |image| Ok(image.current.len() as u64))
    }

    fn free_bytes(&self, _path: &Path) -> io::Result<u64> {
        Ok(self.lock().bytes_left.unwrap_or(UNLIMITED_BYTES))
    }
}

/// A handle on a simulated file; dead once the disk crashed.
#[derive(Debug)]
struct SimFile {
    disk: SimDisk,
    file: u64,
    boot: u64,
}

impl SimFile {
    fn alive(&self) -> io::Result<MutexGuard<'_, SimState>> {
        let state = self.disk.lock();
        state.check_power()?;
        if state.boot != self.boot {
            return Err(io::Error::other(
                "the simulated host that opened this file is gone",
            ));
        }
        Ok(state)
    }
}

impl BlockFile for SimFile {
    fn len(&self) -> io::Result<u64> {
        Ok(self.alive()?.images.entry(self.file).or_default().current.len() as u64)
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        let mut state = self.alive()?;
        let current = &state.images.entry(self.file).or_default().current;
        let start = usize_of(offset);
        let bytes = current
            .get(start..start + out.len())
            .ok_or(io::ErrorKind::UnexpectedEof)?;
        out.copy_from_slice(bytes);
        Ok(())
    }

    fn write(&self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        self.alive()?.write(self.file, offset, bytes)
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        let mut state = self.alive()?;
        state.operate()?;
        state
            .images
            .entry(self.file)
            .or_default()
            .change(Change::SetLen(usize_of(len)));
        Ok(())
    }

    fn sync_data(&self) -> io::Result<()> {
        self.alive()?.sync(self.file)
    }
}

struct SimLock {
    disk: SimDisk,
    path: PathBuf,
    boot: u64,
}

impl Drop for SimLock {
    fn drop(&mut self) {
        let mut state = self.disk.lock();
        if state.locks.get(&self.path) == Some(&self.boot) {
            state.locks.remove(&self.path);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sim_disk::SECTOR_BYTES;

    fn written(disk: &SimDisk) -> Box<dyn BlockFile> {
        let file = disk.open(Path::new("/f"), OpenMode::CreateIfMissing).unwrap();
        file.write(0, &[1; 4096]).unwrap();
        file.sync_data().unwrap();
        file.write(0, &[2; 4096]).unwrap();
        file
    }

    #[test]
    fn a_crash_keeps_synced_bytes_and_keeps_drops_or_tears_the_rest() {
        let mut outcomes = BTreeSet::new();
        for seed in 0..64 {
            let disk = SimDisk::new(seed);
            let file = written(&disk);
            disk.crash();
            file.read(0, &mut [0; 1]).unwrap_err();
            let content = disk.read(Path::new("/f")).unwrap();
            let fresh = content.chunks(SECTOR_BYTES).map(|sector| {
                assert!(
                    sector.iter().all(|byte| *byte == sector[0]),
                    "torn inside a sector, seed {seed}"
                );
                sector[0] == 2
            });
            outcomes.insert(fresh.filter(|fresh| *fresh).count());
            let again = SimDisk::new(seed);
            written(&again);
            again.crash();
            assert_eq!(
                again.read(Path::new("/f")).unwrap(),
                content,
                "seed {seed} is not repeatable"
            );
        }
        assert!(
            outcomes.contains(&0) && outcomes.contains(&8) && outcomes.len() > 3,
            "{outcomes:?}"
        );
    }

    #[test]
    fn a_failed_sync_loses_writes_that_a_later_sync_reports_as_durable() {
        let lost = (0..64).any(|seed| {
            let disk = SimDisk::new(seed);
            let file = written(&disk);
            disk.fail_sync(1);
            assert_eq!(file.sync_data().unwrap_err().raw_os_error(), Some(5));
            file.sync_data().unwrap();
            let mut seen = [0; 1];
            file.read(0, &mut seen).unwrap();
            disk.crash();
            seen == [2] && disk.read(Path::new("/f")).unwrap()[0] == 1
        });
        assert!(lost);
    }

    #[test]
    fn space_runs_out_and_power_goes_off_when_told() {
        let disk = SimDisk::new(1);
        let file = written(&disk);
        disk.limit_writes(Some(10));
        assert_eq!(
            file.write(0, &[3; 11]).unwrap_err().kind(),
            io::ErrorKind::StorageFull
        );
        assert_eq!(disk.free_bytes(Path::new("/")).unwrap(), 0);
        disk.limit_writes(None);
        disk.cut_power_after(1);
        assert!(!disk.is_doomed());
        file.write(0, &[4; 1]).unwrap();
        assert!(disk.is_doomed(), "whether or not somebody has noticed");
        file.write(0, &[5; 1]).unwrap_err();
        disk.open(Path::new("/f"), OpenMode::Existing).unwrap_err();
        disk.crash();
        disk.open(Path::new("/f"), OpenMode::Existing).unwrap();
    }

    #[test]
    fn names_locks_and_images_behave_as_the_contract_says() {
        let disk = SimDisk::new(2);
        let (dir, path) = (Path::new("/data"), Path::new("/data/a"));
        assert_eq!(
            disk.replace(path, b"x").unwrap_err().kind(),
            io::ErrorKind::NotFound
        );
        disk.create_dir_all(dir).unwrap();
        disk.replace(path, b"old").unwrap();
        let old = disk.image(path).unwrap();
        disk.replace(path, b"new").unwrap();
        disk.put_image(path, old).unwrap();
        disk.flip(path, 0, 0).unwrap();
        assert_eq!(disk.read(path).unwrap(), b"nld");
        disk.truncate(path, 1).unwrap();
        disk.rename(path, Path::new("/data/b")).unwrap();
        assert_eq!(disk.list(dir).unwrap(), [PathBuf::from("/data/b")]);
        let held = disk.lock_exclusive(Path::new("/data/lock")).unwrap();
        disk.lock_exclusive(Path::new("/data/lock")).err().unwrap();
        drop(held);
        disk.lock_exclusive(Path::new("/data/lock")).unwrap();
    }
}
