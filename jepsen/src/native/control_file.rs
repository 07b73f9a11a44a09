//! A file of fixed layout that another process maps: numbers are written and read in place.
//!
//! Every number is written by one `pwrite` of its own, at its natural alignment, so the other side never sees half of
//! one. What must change together is guarded by an order number that is written last.

use std::fs::{File, OpenOptions};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, ensure};

/// The mapped file. Each side writes its own half only.
#[derive(Debug)]
pub(super) struct ControlFile {
    file: File,
    path: PathBuf,
}

impl ControlFile {
    /// Opens the file at `path`, or makes one of zeros with this magic and version.
    pub(super) fn open(path: &Path, magic: [u8; 8], version: u32, bytes: u64) -> anyhow::Result<Self> {
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .open(path)
            .with_context(|| format!("open the control file {}", path.display()))?;
        let fresh = file.metadata()?.len() == 0;
        let control = Self {
            file,
            path: path.to_owned(),
        };
        if fresh {
            control.file.set_len(bytes)?;
            control.write(0, &magic)?;
            control.write_u32(8, version)?;
        }
        let found = control.u64(0)?.to_le_bytes();
        let of_version = control.u32(8)?;
        ensure!(
            found == magic && of_version == version && control.file.metadata()?.len() == bytes,
            "{} is not a control file of version {version}",
            path.display()
        );
        Ok(control)
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    pub(super) fn write(&self, at: u64, bytes: &[u8]) -> anyhow::Result<()> {
        self.file
            .write_all_at(bytes, at)
            .with_context(|| format!("write the control file {}", self.path.display()))
    }

    pub(super) fn write_u32(&self, at: u64, value: u32) -> anyhow::Result<()> {
        self.write(at, &value.to_le_bytes())
    }

    pub(super) fn write_u64(&self, at: u64, value: u64) -> anyhow::Result<()> {
        self.write(at, &value.to_le_bytes())
    }

    pub(super) fn write_i64(&self, at: u64, value: i64) -> anyhow::Result<()> {
        self.write(at, &value.to_le_bytes())
    }

    pub(super) fn u32(&self, at: u64) -> anyhow::Result<u32> {
        Ok(u32::from_le_bytes(self.read(at)?))
    }

    pub(super) fn u64(&self, at: u64) -> anyhow::Result<u64> {
        Ok(u64::from_le_bytes(self.read(at)?))
    }

    pub(super) fn i64(&self, at: u64) -> anyhow::Result<i64> {
        Ok(i64::from_le_bytes(self.read(at)?))
    }

    fn read<const N: usize>(&self, at: u64) -> anyhow::Result<[u8; N]> {
        let mut bytes = [0; N];
        self.file
            .read_exact_at(&mut bytes, at)
            .with_context(|| format!("read the control file {}", self.path.display()))?;
        Ok(bytes)
    }
}
