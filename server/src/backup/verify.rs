//! Whether a chain of backups is whole: every byte of every file is read.
//!
//! Faults are gathered rather than the first one returned: an operator wants to know how much is lost.

use std::{
    collections::BTreeSet,
    fmt,
    path::{Path, PathBuf},
};

use bytes::Bytes;
use client::KeyValue;

use super::{
    chain::{Backup, Chain},
    format::{End, FrameReader},
    manifest::{Run, Shard},
    merge::Merged,
};

/// As many faults are named.
const FAULTS_MAX: usize = 10;

/// A chain without a fault.
#[derive(Debug, Clone)]
pub struct Verified {
    /// The chain.
    pub chain: Chain,
    /// Keys of each shard at the newest revision, in the order of the manifests' shards.
    pub keys: Vec<u64>,
}

/// What is wrong with backups.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub struct Faults {
    /// The first of them, for people; at least one.
    pub named: Vec<String>,
    /// Those that are not named.
    pub more: usize,
}

impl fmt::Display for Faults {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "not a whole backup: {}", self.named.join("\n  "))?;
        match self.more {
            0 => Ok(()),
            more => write!(f, "\n  and {more} more"),
        }
    }
}

/// Reads backups, oldest first.
pub fn verify(folders: &[PathBuf]) -> Result<Verified, Faults> {
    let mut found = Found::default();
    let backups = folders.iter().map(|folder| Backup::open(folder));
    let backups: Vec<Backup> = backups.filter_map(|opened| found.note(opened)).collect();
    for backup in &backups {
        check_folder(backup, &mut found);
    }
    found.check()?;
    let chain = found.note(Chain::new(backups));
    let keys = chain.as_ref().map(|chain| count(chain, &mut found));
    found.check()?;
    let (Some(chain), Some(keys)) = (chain, keys) else {
        unreachable!("without a fault there are both")
    };
    Ok(Verified { chain, keys })
}

#[derive(Default)]
struct Found {
    faults: Vec<String>,
    more: usize,
}

impl Found {
    fn add(&mut self, fault: impl fmt::Display) {
        match self.faults.len() < FAULTS_MAX {
            true => self.faults.push(fault.to_string()),
            false => self.more += 1,
        }
    }

    fn note<T, E: fmt::Display>(&mut self, outcome: Result<T, E>) -> Option<T> {
        outcome.map_err(|error| self.add(error)).ok()
    }

    fn check(&self) -> Result<(), Faults> {
        match self.faults.is_empty() {
            true => Ok(()),
            false => Err(Faults {
                named: self.faults.clone(),
                more: self.more,
            }),
        }
    }
}

fn check_folder(backup: &Backup, found: &mut Found) {
    let manifest = &backup.manifest;
    let folder = backup.folder.display();
    if !manifest.is_gapless() {
        found.add(format!("{folder}: the shards do not cover all keys once"));
    }
    for shard in &manifest.shards {
        if shard.revision < shard.after || manifest.base.is_none() && shard.after > 0 {
            let (id, after, revision) = (shard.shard_id, shard.after, shard.revision);
            found.add(format!(
                "{folder}: shard {id} goes from revision {after} to {revision}"
            ));
        }
        let path = backup.path(shard);
        if let Err(fault) = check_file(&path, shard) {
            found.add(format!("{} {fault}", path.display()));
        }
    }
    let expected: BTreeSet<&str> = manifest.names().collect();
    if expected.len() != manifest.shards.len() + 1 {
        found.add(format!("{folder}: two shards have one file"));
    }
    for name in found.note(names(&backup.folder)).unwrap_or_default() {
        if !expected.contains(&*name) {
            found.add(format!("{folder}: {name} is not of this backup"));
        }
    }
}

fn names(folder: &Path) -> std::io::Result<Vec<String>> {
    let entries = std::fs::read_dir(folder)?;
    let name =
        |entry: std::io::Result<std::fs::DirEntry>| Ok(entry?.file_name().to_string_lossy().into_owned());
    entries.map(name).collect()
}

fn check_file(path: &Path, shard: &Shard) -> Result<(), String> {
    let text = |error: &dyn fmt::Display| error.to_string();
    let mut reader = FrameReader::open(path).map_err(|error| text(&error))?;
    let mut contents = Contents::of(shard);
    loop {
        let at = reader.at();
        let Some(frame) = reader.next().map_err(|error| text(&error))? else {
            break;
        };
        contents.take(at, frame.run, &frame.versions)?;
        if let Some(end) = frame.end {
            contents.end(end)?;
        }
    }
    if reader.at() != shard.file_bytes || reader.crc32c() != shard.crc32c {
        return Err("is whole, but not the file that the manifest speaks of".to_owned());
    }
    Ok(())
}

/// What was read of a file, held against the manifest.
struct Contents<'a> {
    shard: &'a Shard,
    runs: Vec<Run>,
    last_key: Option<Bytes>,
    versions: u64,
    deletions: u64,
    data_bytes: u64,
}

impl<'a> Contents<'a> {
    fn of(shard: &'a Shard) -> Self {
        Self {
            shard,
            runs: Vec::new(),
            last_key: None,
            versions: 0,
            deletions: 0,
            data_bytes: 0,
        }
    }

    fn take(&mut self, offset: u64, run: u32, versions: &[KeyValue]) -> Result<(), String> {
        if versions.is_empty() {
            return Ok(());
        }
        if run as usize == self.runs.len() {
            self.runs.push(Run { offset, versions: 0 });
            self.last_key = None;
        }
        if run as usize + 1 != self.runs.len() {
            return Err(format!("has a frame of run {run} in the wrong place"));
        }
        versions.iter().try_for_each(|version| self.take_version(version))
    }

    fn take_version(&mut self, version: &KeyValue) -> Result<(), String> {
        let wrong = |what: &str| {
            let key = version.key.escape_ascii();
            Err(format!(
                "has \"{key}\" at revision {}, {what}",
                version.mod_revision
            ))
        };
        if self.last_key.as_ref().is_some_and(|last| *last >= version.key) {
            return wrong("which is out of order");
        }
        if !self.shard.range().contains(&version.key) {
            return wrong("which is not a key of the shard");
        }
        if version.mod_revision <= self.shard.after || version.mod_revision > self.shard.revision {
            return wrong("which is not in the backup's time");
        }
        if let Some(run) = self.runs.last_mut() {
            run.versions += 1;
        }
        self.versions += 1;
        self.deletions += u64::from(version.version == 0);
        self.data_bytes += (version.key.len() + version.value.len()) as u64;
        self.last_key = Some(version.key.clone());
        Ok(())
    }

    fn end(&self, end: End) -> Result<(), String> {
        let shard = self.shard;
        let counted = (self.versions, self.deletions, self.data_bytes);
        let expected = (shard.versions, shard.deletions, shard.data_bytes);
        if counted != expected || end.versions != self.versions || self.runs != shard.runs {
            return Err(format!(
                "has (versions, deletions, bytes) {counted:?} instead of {expected:?}, or other runs"
            ));
        }
        match end.revision == shard.revision {
            true => Ok(()),
            false => Err(format!("leads to revision {}", end.revision)),
        }
    }
}

fn count(chain: &Chain, found: &mut Found) -> Vec<u64> {
    let count = |shard| -> Result<u64, super::ReadRunError> {
        let mut keys = 0;
        for pair in Merged::open(chain, shard)? {
            pair?;
            keys += 1;
        }
        Ok(keys)
    };
    let shards = 0..chain.shards().len();
    shards
        .map(|shard| found.note(count(shard)).unwrap_or(0))
        .collect()
}

#[cfg(test)]
mod tests {
    use client::KeyRange;

    use super::super::{
        format::FrameWriter,
        manifest::{Manifest, file_name},
    };
    use super::*;

    fn version(key: &str, mod_revision: u64) -> KeyValue {
        KeyValue {
            key: key.to_owned().into(),
            value: "v".into(),
            create_revision: 1,
            mod_revision,
            version: 1,
            lease: 0,
        }
    }

    /// A backup of one shard whose file has these versions in one run.
    fn backup(folder: &Path, versions: &[KeyValue], change: impl FnOnce(&mut Shard)) {
        let mut writer = FrameWriter::create(&folder.join(file_name(1))).unwrap();
        writer.begin_run().unwrap();
        versions
            .iter()
            .for_each(|version| writer.push(version.clone()).unwrap());
        let written = writer.finish(9).unwrap();
        let mut shard = Shard::new(1, &KeyRange::all(), (0, 9), written);
        change(&mut shard);
        let mut manifest = Manifest::new("a".to_owned(), "c".to_owned(), 0, None);
        manifest.shards = vec![shard];
        manifest.write(folder).unwrap();
    }

    fn fault(folder: &Path) -> String {
        let faults = verify(&[folder.to_owned()]).unwrap_err();
        faults.to_string()
    }

    #[test]
    fn a_whole_backup_is_counted() {
        let temp = tempfile::tempdir().unwrap();
        backup(temp.path(), &[version("a", 2), version("b", 9)], |_| {});
        assert_eq!(verify(&[temp.path().to_owned()]).unwrap().keys, [2]);
        std::fs::write(temp.path().join("shard-7.frames"), "").unwrap();
        assert!(fault(temp.path()).contains("shard-7.frames is not of this backup"));
    }

    #[test]
    fn what_the_manifest_does_not_say_is_found() {
        let good = [version("a", 2), version("b", 9)];
        type Change = fn(&mut Shard);
        let changes: [(&str, Change); 8] = [
            ("versions", |shard| shard.versions += 1),
            ("deletions", |shard| shard.deletions += 1),
            ("bytes", |shard| shard.data_bytes -= 1),
            ("not the file", |shard| shard.file_bytes += 1),
            ("not the file", |shard| shard.crc32c ^= 1),
            ("other runs", |shard| shard.runs[0].offset += 1),
            ("leads to revision 9", |shard| shard.revision = 10),
            ("cover all keys", |shard| shard.start = "a".into()),
        ];
        for (named, change) in changes {
            let temp = tempfile::tempdir().unwrap();
            backup(temp.path(), &good, change);
            let fault = fault(temp.path());
            assert!(fault.contains(named), "{named}: {fault}");
        }
    }

    #[test]
    fn what_no_shard_can_have_held_is_found() {
        for (named, versions) in [
            ("out of order", [version("b", 2), version("a", 3)]),
            ("out of order", [version("a", 2), version("a", 3)]),
            ("not in the backup's time", [version("a", 2), version("b", 10)]),
        ] {
            let temp = tempfile::tempdir().unwrap();
            backup(temp.path(), &versions, |_| {});
            let fault = fault(temp.path());
            assert!(fault.contains(named), "{named}: {fault}");
        }
        let temp = tempfile::tempdir().unwrap();
        backup(temp.path(), &[version("a", 2)], |shard| shard.end = "a".into());
        assert!(fault(temp.path()).contains("not a key of the shard"));
    }

    #[test]
    fn a_missing_file_and_a_missing_manifest_are_found() {
        let temp = tempfile::tempdir().unwrap();
        backup(temp.path(), &[version("a", 2)], |_| {});
        std::fs::remove_file(temp.path().join(file_name(1))).unwrap();
        assert!(fault(temp.path()).contains("shard-1.frames"));
        std::fs::remove_file(temp.path().join("manifest.json")).unwrap();
        assert!(fault(temp.path()).contains("is no backup"));
    }
}
