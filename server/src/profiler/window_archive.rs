//! The windows that a controller has collected, on its host's disk: what a model is retrained on, and what a controller that
//! takes over learns from.
//!
//! A file a window, `window-<number>.json.zst`, written beside its place and renamed, the oldest removed when the whole
//! would pass the cap. Counts are exact; of the trail of single accesses the first are kept. What cannot be read is
//! passed over: a window that is missing is one in which nothing was seen.

use std::collections::VecDeque;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use ml::WindowCounts;
use placement::WindowId;
use storage::disk::{Disk, OpenMode};

const NAME_PREFIX: &str = "window-";
const NAME_SUFFIX: &str = ".json.zst";
/// Single accesses kept of a window.
const TRAIL_MAX: usize = 8_192;
const ZSTD_LEVEL: i32 = 3;

/// Windows on a disk. One writer a host.
pub struct WindowArchive {
    disk: Arc<dyn Disk>,
    dir: PathBuf,
    bytes_max: u64,
    files: VecDeque<(PathBuf, u64)>,
}

impl WindowArchive {
    /// Opens the folder, which is made if it is absent.
    ///
    /// # Errors
    /// What the disk says.
    pub fn open(disk: Arc<dyn Disk>, dir: &Path, bytes_max: u64) -> io::Result<Self> {
        disk.create_dir_all(dir)?;
        let sized = |(_, path): (WindowId, PathBuf)| {
            let bytes = disk.open(&path, OpenMode::Existing)?.len()?;
            Ok((path, bytes))
        };
        let files = files(&*disk, dir)?
            .into_iter()
            .map(sized)
            .collect::<io::Result<_>>()?;
        Ok(Self {
            disk,
            dir: dir.to_owned(),
            bytes_max,
            files,
        })
    }

    /// How many windows are kept.
    pub fn len(&self) -> usize {
        self.files.len()
    }

    /// Whether none is kept.
    pub fn is_empty(&self) -> bool {
        self.files.is_empty()
    }

    /// Keeps a window; one that is kept already stays as it is. Blocks on the disk.
    ///
    /// # Errors
    /// What the disk says; the window is not kept then.
    pub fn keep(&mut self, counts: &WindowCounts) -> io::Result<()> {
        let name = format!("{NAME_PREFIX}{:020}{NAME_SUFFIX}", counts.window.0);
        let path = self.dir.join(name);
        if self.disk.exists(&path)? {
            return Ok(());
        }
        let mut kept = counts.clone();
        kept.trail.truncate(TRAIL_MAX);
        let text = serde_json::to_vec(&kept)?;
        let content = zstd::encode_all(text.as_slice(), ZSTD_LEVEL)?;
        let beside = path.with_extension("new");
        if self.disk.exists(&beside)? {
            self.disk.remove(&beside)?;
        }
        let file = self.disk.open(&beside, OpenMode::CreateNew)?;
        file.write(0, &content)?;
        file.sync_data()?;
        drop(file);
        self.disk.rename(&beside, &path)?;
        self.files.push_back((path, content.len() as u64));
        self.make_room()
    }

    fn make_room(&mut self) -> io::Result<()> {
        let mut bytes: u64 = self.files.iter().map(|(_, bytes)| bytes).sum();
        while bytes > self.bytes_max
            && self.files.len() > 1
            && let Some((oldest, of_it)) = self.files.pop_front()
        {
            self.disk.remove(&oldest)?;
            bytes -= of_it;
        }
        Ok(())
    }
}

/// The windows of a folder in their order, read one by one. Files that are damaged or gone are passed over, with a warning.
///
/// # Errors
/// When the folder cannot be listed.
pub fn archived_windows<'a>(
    disk: &'a dyn Disk,
    dir: &Path,
) -> io::Result<impl Iterator<Item = WindowCounts> + use<'a>> {
    let files = match disk.exists(dir)? {
        true => files(disk, dir)?,
        false => Vec::new(),
    };
    let windows = files.into_iter().filter_map(|(window, path)| match read(disk, &path) {
        Ok(counts) if counts.window == window => Some(counts),
        Ok(_) => {
            tracing::warn!(path = %path.display(), "an archived window is another one than its name says");
            None
        }
        Err(error) => {
            tracing::warn!(path = %path.display(), %error, "an archived window cannot be read");
            None
        }
    });
    Ok(windows)
}

fn read(disk: &dyn Disk, path: &Path) -> io::Result<WindowCounts> {
    let text = zstd::decode_all(disk.read(path)?.as_slice())?;
    Ok(serde_json::from_slice(&text)?)
}

fn files(disk: &dyn Disk, dir: &Path) -> io::Result<Vec<(WindowId, PathBuf)>> {
    let named = |path: PathBuf| {
        let name = path.file_name()?.to_str()?;
        let number = name.strip_prefix(NAME_PREFIX)?.strip_suffix(NAME_SUFFIX)?;
        Some((WindowId(number.parse().ok()?), path))
    };
    let mut files: Vec<_> = disk.list(dir)?.into_iter().filter_map(named).collect();
    files.sort();
    Ok(files)
}

#[cfg(test)]
mod tests {
    use placement::{ShardId, Zone};
    use storage::sim_disk::SimDisk;

    use super::*;

    fn counts(window: u64, touches: usize) -> WindowCounts {
        let mut counts = WindowCounts::empty(WindowId(window));
        counts.count(ShardId(1), &Zone::from("east"), window, 1);
        for at in 0..touches {
            counts.leave_trail(ml::Touch {
                shard: ShardId(1),
                key: at as u64,
                user: 7,
                origin: Zone::from("east"),
                offset_ms: at as u64,
            });
        }
        counts
    }

    #[test]
    fn windows_come_back_in_order_over_restarts_and_power_cuts() {
        let disk = Arc::new(SimDisk::new(1));
        let dir = Path::new("/windows");
        for window in [3, 9, 10] {
            let mut archive = WindowArchive::open(disk.clone(), dir, 1 << 20).unwrap();
            archive.keep(&counts(window, 2)).unwrap();
            archive.keep(&counts(window, 9)).unwrap();
            disk.crash();
        }
        let read = archived_windows(&*disk, dir).unwrap().collect::<Vec<_>>();
        assert_eq!(read, [3, 9, 10].map(|window| counts(window, 2)));
        assert_eq!(archived_windows(&*disk, Path::new("/none")).unwrap().count(), 0);
    }

    #[test]
    fn the_oldest_go_and_the_trail_is_cut() {
        let disk = Arc::new(SimDisk::new(1));
        let dir = Path::new("/windows");
        let mut archive = WindowArchive::open(disk.clone(), dir, 4_096).unwrap();
        (0..200).for_each(|window| archive.keep(&counts(window, 20)).unwrap());
        let read = archived_windows(&*disk, dir).unwrap().collect::<Vec<_>>();
        assert!(
            read.len() < 100 && read.last() == Some(&counts(199, 20)),
            "{}",
            read.len()
        );
        archive.keep(&counts(200, TRAIL_MAX + 5)).unwrap();
        let read = archived_windows(&*disk, dir).unwrap().collect::<Vec<_>>();
        assert_eq!(read.last().map(|counts| counts.trail.len()), Some(TRAIL_MAX));
    }

    #[test]
    fn what_is_damaged_is_passed_over() {
        let disk = Arc::new(SimDisk::new(1));
        let dir = Path::new("/windows");
        let mut archive = WindowArchive::open(disk.clone(), dir, 1 << 20).unwrap();
        (1..=3).for_each(|window| archive.keep(&counts(window, 1)).unwrap());
        let (_, second) = files(&*disk, dir).unwrap().remove(1);
        disk.open(&second, OpenMode::Existing)
            .unwrap()
            .write(4, &[0; 8])
            .unwrap();
        let read = archived_windows(&*disk, dir).unwrap().collect::<Vec<_>>();
        assert_eq!(read, [counts(1, 1), counts(3, 1)]);
    }
}
