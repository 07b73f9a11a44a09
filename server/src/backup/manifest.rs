//! The manifest: what a backup is of, and what its files must be.
//!
//! It is JSON, for people and scripts; field names only grow, with the format's number. It is written when every file is
//! whole and synced, under a temporary name that is then changed: either there is a whole manifest, or there is no backup.
//! Its own checksum is of its text with 0 in the checksum's place. A manifest counts only if it is, byte by byte, what this
//! program would write: no flipped bit passes.

use std::{
    fs::File,
    io::{self, Write},
    path::{Path, PathBuf},
};

use bytes::Bytes;
use client::KeyRange;
use serde::{Deserialize, Serialize};

use super::format::Written;

const NAME: &str = "manifest.json";
const TEMPORARY_NAME: &str = "manifest.json.tmp";
const FORMAT: u64 = 1;

/// What a backup is of.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Manifest {
    /// The version of the format.
    pub format: u64,
    /// Drawn at random, for incrementals to name.
    pub id: String,
    /// The cluster.
    pub cluster_id: String,
    /// The version of the program that wrote it.
    pub program: String,
    /// When it was begun, in milliseconds since the Unix epoch.
    pub begun_ms: u64,
    /// What it goes on from; `None`: it is a full one.
    pub base: Option<Base>,
    /// In key order, covering all keys.
    pub shards: Vec<Shard>,
    /// CRC-32C of this document with 0 here.
    pub checksum: u32,
}

/// The backup that an incremental goes on from.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Base {
    /// Its id.
    pub id: String,
    /// The checksum of its manifest.
    pub checksum: u32,
}

/// One shard and its file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Shard {
    /// The shard's id in its cluster.
    pub shard_id: u64,
    /// Its first key, in hexadecimal digits.
    #[serde(with = "hex")]
    pub start: Bytes,
    /// The first key beyond it, in hexadecimal digits; empty: it goes to the end of the key space.
    #[serde(with = "hex")]
    pub end: Bytes,
    /// The revision of the base; 0 in a full backup.
    pub after: u64,
    /// The shard's revision that is in the backup.
    pub revision: u64,
    /// The file's name in the folder.
    pub file: String,
    /// The file's length.
    pub file_bytes: u64,
    /// The file's checksum.
    pub crc32c: u32,
    /// Versions of keys in the file, deletions included.
    pub versions: u64,
    /// Deletions among them.
    pub deletions: u64,
    /// Bytes of keys and values, before compression.
    pub data_bytes: u64,
    /// The file's runs, each newer than those before it.
    pub runs: Vec<Run>,
}

/// Versions in key order, within a file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Run {
    /// Where its first frame begins.
    pub offset: u64,
    /// How many there are.
    pub versions: u64,
}

/// Why a folder's manifest cannot be used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ManifestError {
    /// There is none.
    #[error("{} is no backup: it has no {NAME}. A backup that was interrupted has none; make it again", folder.display())]
    Missing {
        /// The folder.
        folder: PathBuf,
    },
    /// It cannot be read.
    #[error("{}: {source}", path.display())]
    Io {
        /// The manifest.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// It is of another version.
    #[error("{} has format {format}; this program reads format {FORMAT}", path.display())]
    Format {
        /// The manifest.
        path: PathBuf,
        /// Its version.
        format: u64,
    },
    /// It is not what was written.
    #[error("{} is damaged: {reason}", path.display())]
    Damaged {
        /// The manifest.
        path: PathBuf,
        /// What does not fit.
        reason: String,
    },
}

impl Manifest {
    /// Of a backup that is under way.
    pub(super) fn new(id: String, cluster_id: String, begun_ms: u64, base: Option<Base>) -> Self {
        Self {
            format: FORMAT,
            id,
            cluster_id,
            program: env!("CARGO_PKG_VERSION").to_owned(),
            begun_ms,
            base,
            shards: Vec::new(),
            checksum: 0,
        }
    }

    /// How another backup names this one as its base.
    #[must_use]
    pub fn as_base(&self) -> Base {
        Base {
            id: self.id.clone(),
            checksum: self.checksum,
        }
    }

    /// Writes the folder's manifest, whose files must be synced; returns it with its checksum.
    pub(super) fn write(mut self, folder: &Path) -> io::Result<Self> {
        self.checksum = self.expected_checksum();
        let temporary = folder.join(TEMPORARY_NAME);
        let mut file = File::create(&temporary)?;
        file.write_all(&self.text())?;
        file.sync_all()?;
        // The files' names are durable before a manifest speaks of them.
        sync_folder(folder)?;
        std::fs::rename(&temporary, folder.join(NAME))?;
        sync_folder(folder)?;
        Ok(self)
    }

    /// Reads a folder's manifest.
    pub fn read(folder: &Path) -> Result<Self, ManifestError> {
        let path = folder.join(NAME);
        let text = std::fs::read(&path).map_err(|source| match source.kind() {
            io::ErrorKind::NotFound => ManifestError::Missing {
                folder: folder.to_owned(),
            },
            _ => ManifestError::Io {
                path: path.clone(),
                source,
            },
        })?;
        let damaged = |reason: String| ManifestError::Damaged {
            path: path.clone(),
            reason,
        };
        let document: serde_json::Value =
            serde_json::from_slice(&text).map_err(|error| damaged(error.to_string()))?;
        match document["format"].as_u64() {
            Some(FORMAT) => {}
            Some(format) => return Err(ManifestError::Format { path, format }),
            None => return Err(damaged("it names no format".to_owned())),
        }
        let manifest: Self = serde_json::from_slice(&text).map_err(|error| damaged(error.to_string()))?;
        if manifest.text() != text || manifest.expected_checksum() != manifest.checksum {
            return Err(damaged("its checksum is another".to_owned()));
        }
        Ok(manifest)
    }

    /// The names that a folder of this manifest has.
    pub(super) fn names(&self) -> impl Iterator<Item = &str> {
        [NAME]
            .into_iter()
            .chain(self.shards.iter().map(|shard| &*shard.file))
    }

    /// Whether the shards are in key order and cover all keys.
    pub(super) fn is_gapless(&self) -> bool {
        let (Some(first), Some(last)) = (self.shards.first(), self.shards.last()) else {
            return false;
        };
        let meet = |pair: &[Shard]| pair[0].end == pair[1].start && pair[0].start < pair[0].end;
        first.start.is_empty() && last.end.is_empty() && self.shards.windows(2).all(meet)
    }

    fn text(&self) -> Vec<u8> {
        let mut text = serde_json::to_vec_pretty(self).expect("plain fields make a document");
        text.push(b'\n');
        text
    }

    fn expected_checksum(&self) -> u32 {
        let unsigned = Self {
            checksum: 0,
            ..self.clone()
        };
        crc32c::crc32c(&unsigned.text())
    }
}

impl Shard {
    /// An entry for what was written.
    pub(super) fn new(
        shard_id: u64,
        range: &KeyRange,
        (after, revision): (u64, u64),
        written: Written,
    ) -> Self {
        Self {
            shard_id,
            start: range.start.clone(),
            end: range.end.clone(),
            after,
            revision,
            file: file_name(shard_id),
            file_bytes: written.file_bytes,
            crc32c: written.crc32c,
            versions: written.versions,
            deletions: written.deletions,
            data_bytes: written.data_bytes,
            runs: written.runs,
        }
    }

    /// Its keys.
    #[must_use]
    pub fn range(&self) -> KeyRange {
        KeyRange {
            start: self.start.clone(),
            end: self.end.clone(),
        }
    }
}

/// What a shard's file is called.
pub(super) fn file_name(shard_id: u64) -> String {
    format!("shard-{shard_id}.frames")
}

/// Syncs the names in a folder.
pub(super) fn sync_folder(folder: &Path) -> io::Result<()> {
    File::open(folder)?.sync_all()
}

mod hex {
    //! Bytes as hexadecimal digits.

    use bytes::Bytes;
    use serde::{Deserialize, Deserializer, Serializer, de::Error};

    pub(super) fn serialize<S: Serializer>(bytes: &Bytes, serializer: S) -> Result<S::Ok, S::Error> {
        let digits: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
        serializer.serialize_str(&digits)
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Bytes, D::Error> {
        let digits = String::deserialize(deserializer)?;
        let pairs = digits.as_bytes().chunks(2);
        let byte = |pair: &[u8]| u8::from_str_radix(std::str::from_utf8(pair).ok()?, 16).ok();
        let bytes: Option<Vec<u8>> = pairs.map(byte).collect();
        bytes
            .map(Bytes::from)
            .ok_or_else(|| D::Error::custom("not hexadecimal digits"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn manifest() -> Manifest {
        let shard = |shard_id, start: &'static str, end: &'static str| {
            let range = KeyRange {
                start: start.into(),
                end: end.into(),
            };
            Shard::new(shard_id, &range, (0, 12), Written::default())
        };
        let mut manifest = Manifest::new("0a".to_owned(), "c1".to_owned(), 1_000, None);
        manifest.shards = vec![shard(2, "", "m"), shard(1, "m", "")];
        manifest
    }

    #[test]
    fn no_flipped_bit_of_a_manifest_passes() {
        let temp = tempfile::tempdir().unwrap();
        let written = manifest().write(temp.path()).unwrap();
        assert_eq!(Manifest::read(temp.path()).unwrap(), written);
        assert!(!temp.path().join(TEMPORARY_NAME).exists());
        let path = temp.path().join(NAME);
        let whole = std::fs::read(&path).unwrap();
        for bit in 0..whole.len() * 8 {
            let mut flipped = whole.clone();
            flipped[bit / 8] ^= 1 << (bit % 8);
            std::fs::write(&path, &flipped).unwrap();
            assert!(Manifest::read(temp.path()).is_err(), "bit {bit}");
        }
        std::fs::write(&path, &whole[..whole.len() - 1]).unwrap();
        assert!(matches!(
            Manifest::read(temp.path()),
            Err(ManifestError::Damaged { .. })
        ));
        std::fs::remove_file(&path).unwrap();
        assert!(matches!(
            Manifest::read(temp.path()),
            Err(ManifestError::Missing { .. })
        ));
    }

    #[test]
    fn a_later_format_is_named() {
        let temp = tempfile::tempdir().unwrap();
        std::fs::write(temp.path().join(NAME), r#"{"format": 2, "new": true}"#).unwrap();
        let later = Manifest::read(temp.path());
        assert!(
            matches!(later, Err(ManifestError::Format { format: 2, .. })),
            "{later:?}"
        );
    }

    #[test]
    fn a_gap_between_shards_is_seen() {
        assert!(manifest().is_gapless());
        for (index, start, end) in [(0, "a", "m"), (0, "", "l"), (1, "m", "z"), (1, "n", "")] {
            let mut gap = manifest();
            (gap.shards[index].start, gap.shards[index].end) = (start.into(), end.into());
            assert!(!gap.is_gapless(), "{gap:?}");
        }
        let none = Manifest {
            shards: Vec::new(),
            ..manifest()
        };
        assert!(!none.is_gapless());
    }
}
