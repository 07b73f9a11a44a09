//! A full backup and the incrementals upon it, oldest first.

use std::path::{Path, PathBuf};

use super::manifest::{Manifest, ManifestError, Shard};

/// A folder with a manifest.
#[derive(Debug, Clone)]
pub struct Backup {
    /// Where it is.
    pub folder: PathBuf,
    /// What it is of.
    pub manifest: Manifest,
}

/// Backups that go on from each other, the first of them a full one; there is at least that.
#[derive(Debug, Clone)]
pub struct Chain {
    backups: Vec<Backup>,
}

/// Why folders are no chain.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ChainError {
    /// A manifest.
    #[error(transparent)]
    Manifest(#[from] ManifestError),
    /// No folder was named.
    #[error("no backup is named")]
    Empty,
    /// The first one goes on from another.
    #[error("{} is an incremental upon backup {base}: name that folder before it", folder.display())]
    NoBase {
        /// The first folder.
        folder: PathBuf,
        /// What it goes on from.
        base: String,
    },
    /// A folder does not go on from the one before it.
    #[error("{} does not go on from {}: {reason}", folder.display(), before.display())]
    Broken {
        /// The folder.
        folder: PathBuf,
        /// The one named before it.
        before: PathBuf,
        /// What does not fit.
        reason: String,
    },
}

impl Backup {
    /// Reads a folder's manifest.
    pub fn open(folder: &Path) -> Result<Self, ManifestError> {
        Ok(Self {
            folder: folder.to_owned(),
            manifest: Manifest::read(folder)?,
        })
    }

    /// A shard's file.
    pub(super) fn path(&self, shard: &Shard) -> PathBuf {
        self.folder.join(&shard.file)
    }
}

impl Chain {
    /// Reads the folders' manifests, and makes sure that each goes on from the one before it.
    pub fn open(folders: &[PathBuf]) -> Result<Self, ChainError> {
        let backups = folders.iter().map(|folder| Backup::open(folder));
        Self::new(backups.collect::<Result<_, _>>()?)
    }

    pub(super) fn new(backups: Vec<Backup>) -> Result<Self, ChainError> {
        let first = backups.first().ok_or(ChainError::Empty)?;
        if let Some(base) = &first.manifest.base {
            return Err(ChainError::NoBase {
                folder: first.folder.clone(),
                base: base.id.clone(),
            });
        }
        for pair in backups.windows(2) {
            follows(&pair[0].manifest, &pair[1].manifest).map_err(|reason| ChainError::Broken {
                folder: pair[1].folder.clone(),
                before: pair[0].folder.clone(),
                reason,
            })?;
        }
        Ok(Self { backups })
    }

    /// The backups, oldest first.
    #[must_use]
    pub fn backups(&self) -> &[Backup] {
        &self.backups
    }

    /// The shards as the newest backup has them; every other has the same, in the same order.
    #[must_use]
    pub fn shards(&self) -> &[Shard] {
        self.backups.last().map_or(&[], |newest| &newest.manifest.shards)
    }
}

/// What keeps a backup from going on from another.
fn follows(base: &Manifest, next: &Manifest) -> Result<(), String> {
    match &next.base {
        None => return Err("it is a full backup, which stands alone".to_owned()),
        Some(named) if *named != base.as_base() => {
            return Err(format!(
                "its base is backup {} with checksum {}, and this is {} with {}",
                named.id, named.checksum, base.id, base.checksum
            ));
        }
        Some(_) => {}
    }
    if base.cluster_id != next.cluster_id {
        return Err(format!("clusters {} and {}", base.cluster_id, next.cluster_id));
    }
    if base.shards.len() != next.shards.len() {
        return Err(format!("{} and {} shards", base.shards.len(), next.shards.len()));
    }
    for (before, after) in base.shards.iter().zip(&next.shards) {
        if (before.shard_id, before.range()) != (after.shard_id, after.range()) {
            return Err(format!("shard {} has other keys", after.shard_id));
        }
        if before.revision != after.after {
            return Err(format!(
                "shard {} ends at revision {} and goes on after {}",
                after.shard_id, before.revision, after.after
            ));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use client::KeyRange;

    use super::super::{format::Written, manifest::Base};
    use super::*;

    fn backup(id: &str, base: Option<Base>, (after, revision): (u64, u64)) -> Backup {
        let mut manifest = Manifest::new(id.to_owned(), "c1".to_owned(), 1_000, base);
        let shard = Shard::new(1, &KeyRange::all(), (after, revision), Written::default());
        manifest.shards = vec![shard];
        Backup {
            folder: id.into(),
            manifest,
        }
    }

    #[test]
    fn each_backup_goes_on_from_the_one_before() {
        let full = backup("full", None, (0, 10));
        let next = backup("next", Some(full.manifest.as_base()), (10, 15));
        let last = backup("last", Some(next.manifest.as_base()), (15, 15));
        let chain = |backups: &[&Backup]| Chain::new(backups.iter().map(|at| (*at).clone()).collect());
        assert_eq!(chain(&[&full, &next, &last]).unwrap().shards()[0].revision, 15);
        assert!(matches!(chain(&[]), Err(ChainError::Empty)));
        assert!(matches!(chain(&[&next]), Err(ChainError::NoBase { .. })));
        for broken in [&[&full, &last][..], &[&full, &full], &[&full, &next, &next]] {
            assert!(
                matches!(chain(broken), Err(ChainError::Broken { .. })),
                "{broken:?}"
            );
        }
        let forged = backup("full", None, (0, 10));
        let mut altered = forged.clone();
        altered.manifest.checksum = 1;
        assert!(chain(&[&altered, &next]).is_err(), "the id alone is not enough");
        let gap = backup("gap", Some(full.manifest.as_base()), (11, 15));
        assert!(chain(&[&full, &gap]).is_err(), "revision 11 is missing");
    }
}
