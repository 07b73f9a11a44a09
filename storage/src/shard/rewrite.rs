//! Rewriting: a file that is mostly empty is copied into a new one, which takes its place.
//!
//! redb uses the space of removed rows again but seldom gives it back: a shard that lost most of its
//! rows keeps a file of its full size. [`ShardStore::rewrite_if_sparse`] copies the newest checkpoint,
//! row by row and verified, into a file beside the replica's own, reads the copy back, and renames it
//! over the file. The rename is the one moment that counts: a crash before it leaves the old file, a
//! crash after it the new one, and both hold the same checkpoint.
//!
//! What must hold: the copy says what the file says, so memory (fresh rows, the index, what waits to
//! be removed) means the same over either; only the engine and the view of the rows are exchanged,
//! under the lock and in one step. Entries are applied and read all the while. A checkpoint or an
//! import that is begun meanwhile waits until the rewrite is over.
//!
//! Left out: a limit on the rate of copying. Whoever was reading through the old file's view goes on
//! with it, and its space comes back when the last of them is done.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::Bytes;

use super::checkpoint::CaptureError;
use super::file::{OpenShardError, ROWS, SESSIONS, read_checkpoint, read_identity, write_meta};
use super::frame::FRAME_BYTES;
use super::record::{CheckpointBody, Kind, verify};
use super::store::{Activity, Inner, ShardStore, Shared, beside, create_engine, remove_leftover};
use crate::engine::{Durability, Engine, ReadEngineError, ReadView, Rows, TableView, WriteEngineError};
use crate::failpoint;
use crate::failpoint::HostFailpoints;

/// Pieces between two syncs: bounds what the engine keeps in memory.
const PIECES_PER_SYNC: u64 = 16;

/// When a shard's file is rewritten.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RewriteLimits {
    /// A file that takes fewer bytes on the disk is left alone.
    pub file_bytes_min: u64,
    /// A file is rewritten when less than this share of it, in percent, is live.
    pub live_percent_min: u64,
}

impl Default for RewriteLimits {
    fn default() -> RewriteLimits {
        RewriteLimits {
            file_bytes_min: 64 << 20,
            live_percent_min: 50,
        }
    }
}

/// How large a shard's file is, and how much of it is used.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FileSize {
    /// Bytes that the file takes on the disk.
    pub taken_bytes: u64,
    /// Bytes of the rows and sessions in it, and of their keys.
    pub live_bytes: u64,
}

/// What a rewrite did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RewriteReport {
    /// The old file.
    pub before: FileSize,
    /// The new file.
    pub after: FileSize,
    /// Rows copied.
    pub rows: u64,
    /// Sessions copied.
    pub sessions: u64,
}

/// Why a file was not rewritten. Unless it is [`RewriteError::UnknownOutcome`], nothing changed.
#[derive(Debug, thiserror::Error)]
pub enum RewriteError {
    /// A checkpoint, an import or another rewrite is in progress, or an earlier write has an unknown
    /// outcome.
    #[error(transparent)]
    Busy(#[from] CaptureError),
    /// The disk does not say how large the file is.
    #[error("the size of the shard's file is not known: {0}")]
    Size(#[source] io::Error),
    /// The file could not be read, or a record in it is damaged: then the replica must be rebuilt
    /// from its peers.
    #[error("the shard's file cannot be copied: {0}")]
    Read(#[source] OpenShardError),
    /// The copy could not be written.
    #[error("the copy of the shard's file cannot be written: {0}")]
    Write(#[from] WriteEngineError),
    /// The copy could not be created, or does not read back.
    #[error("the copy of the shard's file cannot be used: {0}")]
    Unusable(#[source] OpenShardError),
    /// The replacement failed half way. Either file holds the newest checkpoint, but which of them
    /// has the name is not known, so no further checkpoint is taken; the replica stops.
    #[error("replacing the shard's file has an unknown outcome: {0}")]
    UnknownOutcome(#[source] io::Error),
}

/// A copy that is written, synced and read back. Its file is removed when this is dropped, unless it
/// was moved into place.
struct Copied {
    // Closed before the target removes the file.
    engine: Engine,
    rows: TableView,
    checkpoint: CheckpointBody,
    live_bytes: u64,
    _target: Target,
}

struct Target {
    shared: Arc<Shared>,
    path: PathBuf,
}

impl ShardStore {
    /// How large the file is, and how much of it is used as of the newest checkpoint.
    pub fn file_size(&self) -> io::Result<FileSize> {
        self.shared.read().file_size()
    }

    /// Rewrites the file if it is sparse; `None`: it is not. Takes as long as copying what is live;
    /// entries are applied meanwhile, checkpoints and imports wait.
    ///
    /// A file that stays sparse although it was rewritten, since its rows do not fill the engine's
    /// pages (a value just above a power of two takes twice its bytes), is rewritten again only when it
    /// has doubled, when half of what was live is gone, or after it was opened anew.
    pub fn rewrite_if_sparse(&self) -> Result<Option<RewriteReport>, RewriteError> {
        self.rewrite_if_sparser(self.shared.rewrite)
    }

    /// The same, by other limits than the store's own.
    pub fn rewrite_if_sparser(&self, limits: RewriteLimits) -> Result<Option<RewriteReport>, RewriteError> {
        let file = self.shared.try_file().ok_or(CaptureError::InProgress)?;
        let (engine, before) = {
            let inner = self.shared.read();
            inner.check_idle()?;
            (
                inner.engine.clone(),
                inner.file_size().map_err(RewriteError::Size)?,
            )
        };
        if !self.is_sparse(before, limits) {
            return Ok(None);
        }
        failpoint!(self.shared.failpoints, "shard.rewrite.begin").map_err(WriteEngineError::Io)?;
        let copy = self.copy(&engine)?;
        let after = FileSize {
            taken_bytes: copy.engine.taken_bytes().map_err(RewriteError::Size)?,
            live_bytes: copy.live_bytes,
        };
        let report = RewriteReport {
            before,
            after,
            rows: copy.checkpoint.rows,
            sessions: copy.checkpoint.sessions,
        };
        self.replace_by(copy, after)?;
        drop(file);
        Ok(Some(report))
    }

    fn is_sparse(&self, size: FileSize, limits: RewriteLimits) -> bool {
        let RewriteLimits {
            file_bytes_min,
            live_percent_min,
        } = limits;
        let sparse = size.live_bytes.saturating_mul(100) < size.taken_bytes.saturating_mul(live_percent_min);
        let pays = self.shared.read().rewritten.is_none_or(|last| {
            size.taken_bytes >= last.taken_bytes.saturating_mul(2) || size.live_bytes <= last.live_bytes / 2
        });
        size.taken_bytes >= file_bytes_min && sparse && pays
    }

    /// Copies the newest checkpoint of `engine` into a file beside it.
    fn copy(&self, engine: &Engine) -> Result<Copied, RewriteError> {
        let target = Target {
            path: beside(&self.shared.path, "rewrite"),
            shared: self.shared.clone(),
        };
        let source = engine.read().map_err(|error| RewriteError::Read(error.into()))?;
        let checkpoint = read_checkpoint(&source).map_err(RewriteError::Read)?;
        let written = target.create().map_err(RewriteError::Unusable)?;
        let Shared {
            owner, failpoints, ..
        } = &*self.shared;
        let own = |key: &[u8]| checkpoint.owns_row(key);
        copy_table(&source, &written, ROWS, Kind::Row, own, failpoints)?;
        copy_table(&source, &written, SESSIONS, Kind::Session, |_| true, failpoints)?;
        failpoint!(failpoints, "shard.rewrite.before_finish").map_err(WriteEngineError::Io)?;
        written.write(Durability::Synced, |tx| write_meta(tx, owner, &checkpoint))?;
        let (rows, live_bytes) = self
            .check_copy(&written, &checkpoint)
            .map_err(RewriteError::Unusable)?;
        Ok(Copied {
            engine: written,
            rows,
            checkpoint,
            live_bytes,
            _target: target,
        })
    }

    /// Reads a copy back: all of it must be there and verify. Answers with its rows and its bytes.
    fn check_copy(
        &self,
        engine: &Engine,
        checkpoint: &CheckpointBody,
    ) -> Result<(TableView, u64), OpenShardError> {
        let view = engine.read()?;
        let (rows, row_bytes) = read_back(view.range(ROWS, ..)?, Kind::Row)?;
        let (sessions, session_bytes) = read_back(view.range(SESSIONS, ..)?, Kind::Session)?;
        let same = read_identity(&view)? == self.shared.owner && read_checkpoint(&view)? == *checkpoint;
        if !same || (rows, sessions) != (checkpoint.rows, checkpoint.sessions) {
            let why = format!("the copy has {rows} rows and {sessions} sessions of {checkpoint:?}");
            return Err(OpenShardError::Corrupt(why));
        }
        Ok((view.table(ROWS)?, row_bytes + session_bytes))
    }

    /// Moves a copy into the file's place, on disk and in memory.
    fn replace_by(&self, copy: Copied, size: FileSize) -> Result<(), RewriteError> {
        // The copy stays open. What it holds is synced, which is all that a rename vouches for.
        let Shared {
            disk,
            failpoints,
            path,
            ..
        } = &*self.shared;
        failpoint!(failpoints, "shard.rewrite.before_replace").map_err(WriteEngineError::Io)?;
        let replaced = disk.rename(&beside(path, "rewrite"), path);
        let replaced = replaced.and_then(|()| failpoint!(failpoints, "shard.rewrite.after_replace"));
        let mut inner = self.shared.write();
        if let Err(error) = replaced {
            inner.activity = Activity::Stopped;
            return Err(RewriteError::UnknownOutcome(error));
        }
        let engine = std::mem::replace(&mut inner.engine, Arc::new(copy.engine));
        let rows = std::mem::replace(&mut inner.rows, Arc::new(copy.rows));
        inner.live_bytes = size.live_bytes;
        inner.rewritten = Some(size);
        // Closing the old file takes a disk.
        drop(inner);
        drop((rows, engine));
        Ok(())
    }
}

impl Inner {
    fn file_size(&self) -> io::Result<FileSize> {
        Ok(FileSize {
            taken_bytes: self.engine.taken_bytes()?,
            live_bytes: self.live_bytes,
        })
    }

    fn check_idle(&self) -> Result<(), CaptureError> {
        match self.activity {
            Activity::Idle if !self.importing => Ok(()),
            Activity::Stopped => Err(CaptureError::Stopped),
            _ => Err(CaptureError::InProgress),
        }
    }
}

impl Target {
    fn create(&self) -> Result<Engine, OpenShardError> {
        let Shared {
            disk, cache_bytes, ..
        } = &*self.shared;
        remove_leftover(&**disk, &self.path).map_err(OpenShardError::Io)?;
        create_engine(&**disk, &self.path, *cache_bytes)
    }
}

impl Drop for Target {
    fn drop(&mut self) {
        // Best effort: what stays behind is removed by the next rewrite or at open.
        let path: &Path = &self.path;
        if let Err(error) = remove_leftover(&*self.shared.disk, path) {
            tracing::warn!(path = %path.display(), %error, "a rewrite's file stays behind");
        }
    }
}

/// Copies the wanted records of one table in pieces, each a transaction. Every record is verified before it is written.
pub(super) fn copy_table(
    source: &ReadView,
    target: &Engine,
    table: &str,
    kind: Kind,
    wanted: impl Fn(&[u8]) -> bool,
    failpoints: &HostFailpoints,
) -> Result<(), RewriteError> {
    let records = source
        .range(table, ..)
        .map_err(|e| RewriteError::Read(e.into()))?;
    let records = records.filter(|stored| !matches!(stored, Ok((key, _)) if !wanted(key)));
    write_pieces(records, target, table, kind, failpoints)
}

/// Writes records, in whatever order, in pieces, each a transaction. Every record is verified before it is written.
pub(super) fn write_pieces(
    mut records: impl Iterator<Item = Result<(Bytes, Bytes), ReadEngineError>>,
    target: &Engine,
    table: &str,
    kind: Kind,
    failpoints: &HostFailpoints,
) -> Result<(), RewriteError> {
    for piece in 1.. {
        let records = take_piece(&mut records, kind).map_err(RewriteError::Read)?;
        if records.is_empty() {
            break;
        }
        let durability = match piece % PIECES_PER_SYNC {
            0 => Durability::Synced,
            _ => Durability::Unsynced,
        };
        failpoint!(failpoints, "shard.rewrite.piece").map_err(WriteEngineError::Io)?;
        target.write(durability, |tx| {
            let mut records = records.iter();
            records.try_for_each(|(key, record)| tx.put(table, key, record))
        })?;
    }
    Ok(())
}

fn take_piece(
    source: &mut impl Iterator<Item = Result<(Bytes, Bytes), ReadEngineError>>,
    kind: Kind,
) -> Result<Vec<(Bytes, Bytes)>, OpenShardError> {
    let (mut piece, mut bytes) = (Vec::new(), 0);
    while bytes < FRAME_BYTES
        && let Some(stored) = source.next()
    {
        let (key, record) = stored?;
        verify(kind, &key, &record)?;
        bytes += key.len() + record.len();
        piece.push((key, record));
    }
    Ok(piece)
}

/// Counts a table's records and their bytes, and verifies each.
fn read_back(records: Rows, kind: Kind) -> Result<(u64, u64), OpenShardError> {
    let (mut count, mut bytes) = (0, 0);
    for stored in records {
        let (key, record) = stored?;
        verify(kind, &key, &record)?;
        count += 1;
        bytes += (key.len() + record.len()) as u64;
    }
    Ok((count, bytes))
}
