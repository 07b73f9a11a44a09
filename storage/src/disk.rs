//! The disk seam: every byte this crate reads or writes passes through [`Disk`] and [`BlockFile`].
//!
//! Production hands in [`RealDisk`]; tests and simulation hand in [`crate::sim_disk::SimDisk`],
//! which loses unsynced writes, tears them, fills up, returns EIO and flips bits. Code above the
//! seam may rely on exactly what the traits promise about durability, and on nothing else:
//!
//! - bytes written to a [`BlockFile`] survive a power cut only after `sync_data` returned Ok; before
//!   that, any subset of the writes may survive, each whole or torn at a sector boundary;
//! - [`Disk::replace`], [`Disk::rename`] and [`Disk::remove`] are durable when they return Ok, and
//!   after a power cut in the middle show the old state or the new, never a mix;
//! - a `sync_data` that failed must not be repeated: the kernel may have dropped the pages and
//!   would report success for data that is gone.

use std::fmt::Debug;
use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{self, Write};
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};

/// The suffix of the file that [`Disk::replace`] writes before it renames it into place.
const TEMPORARY_SUFFIX: &str = "tmp";

/// The unit in which stat(2) counts a file's blocks, whatever the file system's own.
const STAT_BLOCK_BYTES: u64 = 512;

/// What [`Disk::open`] does about a file that exists or does not.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OpenMode {
    /// Opens an existing file; a missing one is `NotFound`.
    Existing,
    /// Opens the file, creating an empty one where there is none.
    CreateIfMissing,
    /// Creates the file; an existing one is `AlreadyExists`.
    CreateNew,
}

/// A host's folder tree: the operations on whole files.
pub trait Disk: Send + Sync + Debug {
    /// Opens a file for reading and writing at any offset. A created file's name is durable on return.
    fn open(&self, path: &Path, mode: OpenMode) -> io::Result<Box<dyn BlockFile>>;

    /// Reads a small file whole.
    fn read(&self, path: &Path) -> io::Result<Vec<u8>>;

    /// Replaces a small file's content, atomically and durably.
    fn replace(&self, path: &Path, content: &[u8]) -> io::Result<()>;

    /// Renames a file over another, atomically and durably. The content must have been synced before.
    fn rename(&self, from: &Path, to: &Path) -> io::Result<()>;

    /// Removes a file, durably. A missing file is `NotFound`.
    fn remove(&self, path: &Path) -> io::Result<()>;

    /// The paths in a folder, sorted, without the leftovers of an interrupted [`Disk::replace`].
    fn list(&self, dir: &Path) -> io::Result<Vec<PathBuf>>;

    /// Whether a file or folder has this path.
    fn exists(&self, path: &Path) -> io::Result<bool>;

    /// Creates a folder and its parents, durably.
    fn create_dir_all(&self, dir: &Path) -> io::Result<()>;

    /// Takes the lock file at `path` for as long as the returned value lives; `WouldBlock` when
    /// another process has it. Guards a data folder against a second process.
    fn lock_exclusive(&self, path: &Path) -> io::Result<Box<dyn Send + Sync>>;

    /// The bytes that a file takes on the disk, roughly, as [`BlockFile::taken_bytes`]. A missing file is `NotFound`.
    fn taken_bytes(&self, path: &Path) -> io::Result<u64>;

    /// Bytes that can still be written below `path`.
    fn free_bytes(&self, path: &Path) -> io::Result<u64>;
}

/// One open file, read and written by offset. Its methods may be called from several threads.
pub trait BlockFile: Send + Sync + Debug {
    /// The file's length in bytes.
    fn len(&self) -> io::Result<u64>;

    /// The bytes that the file takes on the disk, roughly: holes that were never written take none.
    fn taken_bytes(&self) -> io::Result<u64> {
        self.len()
    }

    /// Whether the file has no bytes.
    fn is_empty(&self) -> io::Result<bool> {
        Ok(self.len()? == 0)
    }

    /// Fills `out` from `offset`; `UnexpectedEof` where the file ends before.
    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()>;

    /// Writes all of `bytes` at `offset`, growing the file as needed.
    fn write(&self, offset: u64, bytes: &[u8]) -> io::Result<()>;

    /// Cuts or grows the file; new bytes are zero.
    fn set_len(&self, len: u64) -> io::Result<()>;

    /// Grows the file to `len` zero bytes, and takes the space for them where the file system can. Less is nothing to do.
    fn allocate(&self, len: u64) -> io::Result<()> {
        match self.len()? < len {
            true => self.set_len(len),
            false => Ok(()),
        }
    }

    /// Makes everything written before the call durable. Never call it again after it failed.
    fn sync_data(&self) -> io::Result<()>;
}

/// The operating system's file system.
#[derive(Debug, Clone, Copy, Default)]
pub struct RealDisk;

impl Disk for RealDisk {
    fn open(&self, path: &Path, mode: OpenMode) -> io::Result<Box<dyn BlockFile>> {
        let existed = path.exists();
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(mode == OpenMode::CreateIfMissing)
            .create_new(mode == OpenMode::CreateNew)
            .open(path)?;
        if !existed {
            sync_parent(path)?;
        }
        Ok(Box::new(RealFile(file)))
    }

    fn read(&self, path: &Path) -> io::Result<Vec<u8>> {
        fs::read(path)
    }

    fn replace(&self, path: &Path, content: &[u8]) -> io::Result<()> {
        let temporary = temporary_name(path);
        let mut file = File::create(&temporary)?;
        file.write_all(content)?;
        file.sync_all()?;
        self.rename(&temporary, path)
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        fs::rename(from, to)?;
        sync_parent(to)
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        fs::remove_file(path)?;
        sync_parent(path)
    }

    fn list(&self, dir: &Path) -> io::Result<Vec<PathBuf>> {
        let mut paths = Vec::new();
        for entry in fs::read_dir(dir)? {
            paths.push(entry?.path());
        }
        paths.retain(|path| path.extension().is_none_or(|end| end != TEMPORARY_SUFFIX));
        paths.sort();
        Ok(paths)
    }

    fn exists(&self, path: &Path) -> io::Result<bool> {
        path.try_exists()
    }

    fn create_dir_all(&self, dir: &Path) -> io::Result<()> {
        if dir.try_exists()? {
            return Ok(());
        }
        if let Some(parent) = dir.parent().filter(|parent| !parent.as_os_str().is_empty()) {
            self.create_dir_all(parent)?;
        }
        match fs::create_dir(dir) {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => Err(error),
            _ => sync_parent(dir),
        }
    }

    fn lock_exclusive(&self, path: &Path) -> io::Result<Box<dyn Send + Sync>> {
        let file = OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(false)
            .open(path)?;
        match file.try_lock() {
            Ok(()) => Ok(Box::new(file)),
            Err(TryLockError::Error(error)) => Err(error),
            Err(TryLockError::WouldBlock) => Err(io::Error::new(
                io::ErrorKind::WouldBlock,
                "another process holds the lock file",
            )),
        }
    }

    fn taken_bytes(&self, path: &Path) -> io::Result<u64> {
        Ok(fs::metadata(path)?.blocks() * STAT_BLOCK_BYTES)
    }

    fn free_bytes(&self, path: &Path) -> io::Result<u64> {
        let stat = rustix::fs::statvfs(path)?;
        Ok(stat.f_bavail.saturating_mul(stat.f_frsize))
    }
}

/// A file of the operating system, read and written with pread and pwrite.
#[derive(Debug)]
struct RealFile(File);

impl BlockFile for RealFile {
    fn len(&self) -> io::Result<u64> {
        Ok(self.0.metadata()?.len())
    }

    fn taken_bytes(&self) -> io::Result<u64> {
        Ok(self.0.metadata()?.blocks() * STAT_BLOCK_BYTES)
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        self.0.read_exact_at(out, offset)
    }

    fn write(&self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        self.0.write_all_at(bytes, offset)
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.0.set_len(len)
    }

    fn allocate(&self, len: u64) -> io::Result<()> {
        if self.len()? >= len {
            return Ok(());
        }
        match rustix::fs::fallocate(&self.0, rustix::fs::FallocateFlags::empty(), 0, len) {
            // A hole is as good, but for a full disk, which then shows at a write.
            Err(rustix::io::Errno::OPNOTSUPP) => self.set_len(len),
            allocated => Ok(allocated?),
        }
    }

    fn sync_data(&self) -> io::Result<()> {
        self.0.sync_data()
    }
}

/// Syncs the folder that holds `path`: a created, renamed or removed name is lost without it.
fn sync_parent(path: &Path) -> io::Result<()> {
    let parent = path.parent().filter(|parent| !parent.as_os_str().is_empty());
    File::open(parent.unwrap_or(Path::new(".")))?.sync_all()
}

fn temporary_name(path: &Path) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(".");
    name.push(TEMPORARY_SUFFIX);
    PathBuf::from(name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_is_replaced_whole_and_listed_once() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("guard");
        RealDisk.replace(&path, b"one").unwrap();
        RealDisk.replace(&path, b"two").unwrap();
        fs::write(temporary_name(&path), b"left over").unwrap();
        assert_eq!(RealDisk.read(&path).unwrap(), b"two");
        assert_eq!(RealDisk.list(dir.path()).unwrap(), vec![path.clone()]);
        RealDisk.remove(&path).unwrap();
        assert!(!RealDisk.exists(&path).unwrap());
    }

    #[test]
    fn a_second_holder_of_the_lock_file_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("lock");
        let held = RealDisk.lock_exclusive(&path).unwrap();
        let refused = RealDisk.lock_exclusive(&path).err().unwrap();
        assert_eq!(refused.kind(), io::ErrorKind::WouldBlock);
        drop(held);
        RealDisk.lock_exclusive(&path).unwrap();
    }

    #[test]
    fn the_open_modes_tell_existing_from_missing() {
        let dir = tempfile::tempdir().unwrap();
        let nested = dir.path().join("a/b");
        RealDisk.create_dir_all(&nested).unwrap();
        let path = nested.join("file");
        assert_eq!(
            RealDisk.open(&path, OpenMode::Existing).unwrap_err().kind(),
            io::ErrorKind::NotFound
        );
        let file = RealDisk.open(&path, OpenMode::CreateNew).unwrap();
        assert_eq!(
            RealDisk.open(&path, OpenMode::CreateNew).unwrap_err().kind(),
            io::ErrorKind::AlreadyExists
        );
        file.write(3, b"xyz").unwrap();
        file.sync_data().unwrap();
        file.set_len(1 << 30).unwrap();
        assert!(file.taken_bytes().unwrap() < 1 << 20, "a hole takes no space");
        assert_eq!(RealDisk.taken_bytes(&path).unwrap(), file.taken_bytes().unwrap());
        let missing = RealDisk.taken_bytes(&nested.join("none")).unwrap_err();
        assert_eq!(missing.kind(), io::ErrorKind::NotFound);
        file.set_len(6).unwrap();
        file.allocate(4).unwrap();
        assert_eq!(file.len().unwrap(), 6);
        let mut out = [1; 6];
        RealDisk
            .open(&path, OpenMode::CreateIfMissing)
            .unwrap()
            .read(0, &mut out)
            .unwrap();
        assert_eq!(&out, b"\0\0\0xyz");
        assert_eq!(
            file.read(4, &mut out).unwrap_err().kind(),
            io::ErrorKind::UnexpectedEof
        );
        assert!(RealDisk.free_bytes(dir.path()).unwrap() > 0);
    }
}
