//! Staging: what a split will part with is copied ahead, so that the new shard waits for little.
//!
//! Rows have their revision in their key and never change, so whatever a checkpoint holds of the upper part can be copied
//! while the shard goes on. What comes later is told by its revision, and what has gone by the index; only that is left
//! to be done once the split is applied ([`Heir::write`](super::Heir::write)).
//!
//! A stage is of one version of the range and one key. It is worth nothing after a crash, and for another split: then the
//! heir copies everything, as it does without one.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::Bytes;

use super::estate::{Estate, copy_rows, remove_rows};
use super::file::{OpenShardError, ROWS};
use super::machine::Refusal;
use super::record::split_row_key;
use super::split::Split;
use super::store::{CreateShardError, ShardStore, beside, create_engine, remove_leftover};
use crate::disk::Disk;
use crate::engine::{Durability, Engine, Rows};
use crate::failpoint;
use crate::failpoint::HostFailpoints;

/// Why nothing was staged. The shard is as it was.
#[derive(Debug, thiserror::Error)]
pub enum StageError {
    /// The shard cannot be split so.
    #[error("the shard cannot be split so: {0:?}")]
    Refused(Refusal),
    /// Rows could not be copied.
    #[error(transparent)]
    Copy(#[from] CreateShardError),
}

/// Rows that were copied ahead.
pub(super) struct Staged {
    generation: u64,
    key: Bytes,
    /// All rows up to this revision are there.
    until: u64,
    // Closed before the file is removed.
    engine: Engine,
    file: StageFile,
}

/// Removes the file, if it is still there.
struct StageFile {
    disk: Arc<dyn Disk>,
    path: PathBuf,
}

impl ShardStore {
    /// Copies the rows of the keys from `key` on, as of the newest checkpoint, into a file of their own. Takes as long as
    /// the disk does; entries are applied meanwhile. Nothing happens where that was done already.
    ///
    /// # Errors
    /// When the range has another version than `generation`, or `key` does not part it.
    pub fn stage_split(&self, generation: u64, key: &Bytes) -> Result<(), StageError> {
        let _stage = self.shared.stage();
        let (rows, source) = {
            let mut inner = self.shared.write();
            let split = Split {
                r#gen: generation,
                key: key.clone(),
                ..Split::default()
            };
            inner.state.check_split(&split).map_err(StageError::Refused)?;
            if inner.staged.as_ref().is_some_and(|staged| staged.is_for(&split)) {
                return Ok(());
            }
            // Another one's file is in the way.
            inner.staged = None;
            (inner.rows.clone(), inner.engine.clone())
        };
        let file = StageFile {
            disk: self.shared.disk.clone(),
            path: beside(&self.shared.path, "stage"),
        };
        let all = rows.range(..).map_err(OpenShardError::from);
        let until = all.and_then(newest_revision).map_err(CreateShardError::from)?;
        let engine = file.create(self.shared.cache_bytes)?;
        let is_upper = |_: u64, of: &[u8]| of >= key.as_ref();
        let points = &self.shared.failpoints;
        failpoint!(points, "shard.split.stage").map_err(|e| CreateShardError::from(OpenShardError::Io(e)))?;
        copy_rows(&rows, 0, is_upper, std::iter::empty(), &engine, points)?;
        // What comes after it is small then, and quickly synced.
        engine.write::<(), CreateShardError>(Durability::Synced, |_| Ok(()))?;
        drop(source);
        self.shared.write().staged = Some(Staged {
            generation,
            key: key.clone(),
            until,
            engine,
            file,
        });
        Ok(())
    }
}

impl Staged {
    pub(super) fn is_for(&self, split: &Split) -> bool {
        self.generation == split.r#gen && self.key == split.key
    }

    /// Brings the rows up to those of the estate. `None`: they are not the same in the end, and must be copied anew.
    pub(super) fn complete(
        self,
        estate: &Estate,
        failpoints: &HostFailpoints,
    ) -> Result<Option<Complete>, CreateShardError> {
        let Some(after) = self.until.checked_add(1) else {
            return Ok(None);
        };
        estate.write_rows_after(after, &self.engine, failpoints)?;
        let is_complete = || -> Result<bool, OpenShardError> {
            let staged = self.engine.read()?.table(ROWS)?;
            Ok(staged.count()? == estate.state.keys.versions())
        };
        if !is_complete()? {
            remove_rows(&self.engine, |revision, key| {
                !estate.state.keys.has(key, revision)
            })?;
        }
        match is_complete()? {
            true => Ok(Some(Complete(self))),
            false => {
                tracing::warn!(path = %self.file.path.display(), "what was copied ahead is not what is held; copying anew");
                Ok(None)
            }
        }
    }
}

/// All rows of the estate.
pub(super) struct Complete(Staged);

impl Complete {
    pub(super) fn engine(&self) -> &Engine {
        &self.0.engine
    }

    /// Closes the file, and names it; it is removed unless it is moved away before the guard is dropped.
    pub(super) fn close(self) -> impl AsRef<Path> {
        drop(self.0.engine);
        self.0.file
    }
}

fn newest_revision(mut rows: Rows) -> Result<u64, OpenShardError> {
    let newest = rows.next_back().transpose().map_err(OpenShardError::from)?;
    Ok(newest
        .and_then(|(key, _)| split_row_key(&key).map(|(revision, _)| revision))
        .unwrap_or(0))
}

impl StageFile {
    fn create(&self, cache_bytes: usize) -> Result<Engine, CreateShardError> {
        remove_leftover(&*self.disk, &self.path).map_err(OpenShardError::Io)?;
        Ok(create_engine(&*self.disk, &self.path, cache_bytes)?)
    }
}

impl AsRef<Path> for StageFile {
    fn as_ref(&self) -> &Path {
        &self.path
    }
}

impl Drop for StageFile {
    fn drop(&mut self) {
        // Best effort: what stays behind is removed by the next stage or at open.
        if let Err(error) = remove_leftover(&*self.disk, &self.path) {
            tracing::warn!(path = %self.path.display(), %error, "a stage's file stays behind");
        }
    }
}

impl std::fmt::Debug for Staged {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Staged")
            .field("generation", &self.generation)
            .field("until", &self.until)
            .finish_non_exhaustive()
    }
}
