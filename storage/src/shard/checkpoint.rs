//! Checkpoints: the applied state, written down in one durable transaction while entries go on.
//!
//! [`ShardStore::capture`] freezes what changed since the last checkpoint, in memory and quickly;
//! [`Capture::write`] takes as long as the disk does. Entries applied in between belong to the next
//! checkpoint. A capture that is dropped, or whose write failed before it changed anything, gives
//! its rows back; a commit that failed has an unknown outcome and stops the store's checkpoints.
//!
//! Order of duties: the caller has made the log durable up to the applied position before it
//! captures, and purges the log only up to the applied position of a report.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use bytes::Bytes;

use super::file::{ROWS, SESSIONS, checkpoint_body, position, write_meta};
use super::fresh::FreshRows;
use super::key::Key;
use super::machine::Position;
use super::record::{CheckpointBody, Kind, SessionBody, row_key, seal};
use super::store::{Activity, Durable, Inner, ShardStore, Shared};
use crate::engine::{Durability, ReadEngineError, TableView, WriteEngineError, WriteTx};
use crate::failpoint;

/// Why no checkpoint was captured.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum CaptureError {
    /// Another checkpoint, or an installation, is in progress.
    #[error("the shard's file is being written already")]
    InProgress,
    /// An earlier commit or installation has an unknown outcome; the file must be opened anew.
    #[error("an earlier write of the shard's file has an unknown outcome")]
    Stopped,
    /// The shard was split, and the new shard's replica is not durable yet: this one must stay before the split.
    #[error("the replica of a new shard, split off this one, has no file yet")]
    HoldsHeirs,
}

/// Why a checkpoint was not written.
#[derive(Debug, thiserror::Error)]
pub enum CheckpointError {
    /// The transaction failed. Only [`WriteEngineError::Io`] and [`WriteEngineError::Corrupt`] say
    /// that nothing was written; after another, the replica stops.
    #[error(transparent)]
    Write(#[from] WriteEngineError),
    /// The checkpoint was written and could not be read back; the replica stops.
    #[error("the new checkpoint cannot be read: {0}")]
    Read(#[from] ReadEngineError),
}

/// What a checkpoint wrote.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CheckpointReport {
    /// The applied position that is durable now.
    pub applied: Option<Position>,
    /// The revision that is durable now.
    pub revision: u64,
    /// Rows written.
    pub rows_written: u64,
    /// Superseded rows removed.
    pub rows_removed: u64,
    /// Sessions written or removed.
    pub sessions_written: u64,
    /// Bytes of the rows written, roughly.
    pub bytes_written: u64,
}

/// A checkpoint that is captured and not yet written.
#[derive(Debug)]
#[must_use = "a capture that is dropped writes nothing"]
pub struct Capture {
    shared: Arc<Shared>,
    rows: Arc<FreshRows>,
    removed: Vec<(u64, Key)>,
    sessions: Vec<(u64, Option<SessionBody>)>,
    checkpoint: CheckpointBody,
    /// Whether the store has been told how the capture ended.
    settled: bool,
}

impl ShardStore {
    /// Freezes the state as it is applied now, with the caller's `mark`, which must describe the same
    /// position: no entry may be applied between making the mark and this call.
    pub fn capture(&self, mark: Bytes) -> Result<Capture, CaptureError> {
        let mut inner = self.shared.write();
        inner.begin(Activity::Checkpoint)?;
        let removed = inner.reclaim();
        let rows = Arc::new(std::mem::take(&mut inner.state.fresh));
        inner.frozen = Some(rows.clone());
        let sessions = inner.state.sessions.take_changed();
        Ok(Capture {
            shared: self.shared.clone(),
            rows,
            removed,
            sessions,
            checkpoint: checkpoint_body(&inner.state, Some(mark)),
            settled: false,
        })
    }
}

impl Capture {
    /// The applied position that the checkpoint will hold.
    pub fn applied(&self) -> Option<Position> {
        self.checkpoint.applied.as_ref().map(position)
    }

    /// Writes the checkpoint and syncs it: durable when this returns Ok. Waits while the file is
    /// being rewritten.
    pub fn write(mut self) -> Result<CheckpointReport, CheckpointError> {
        let shared = self.shared.clone();
        let _file = shared.file();
        let engine = {
            let inner = shared.read();
            // A rewrite failed since the capture: the open file may not be the one with the name.
            if inner.activity == Activity::Stopped {
                return Err(WriteEngineError::Stopped.into());
            }
            inner.engine.clone()
        };
        let points = &shared.failpoints;
        failpoint!(points, "shard.checkpoint.before_write").map_err(WriteEngineError::Io)?;
        let written = engine.write(Durability::Synced, |tx| self.put_all(tx));
        let written = written.and_then(|added_bytes| {
            let passed = failpoint!(points, "shard.checkpoint.after_commit");
            passed
                .map(|()| added_bytes)
                .map_err(WriteEngineError::UnknownOutcome)
        });
        let added_bytes = match written {
            Ok(added_bytes) => added_bytes,
            Err(error) => {
                let nothing_written = matches!(error, WriteEngineError::Io(_) | WriteEngineError::Corrupt(_));
                if !nothing_written {
                    self.stop();
                }
                return Err(error.into());
            }
        };
        let (replica, cache) = (shared.owner.replica_id, &shared.row_cache);
        for (revision, key) in &self.removed {
            cache.forget(replica, *revision, key);
        }
        if shared.keeps_written.load(Ordering::Relaxed) {
            cache.keep(replica, &self.rows);
        }
        match engine.read().and_then(|view| view.table(ROWS)) {
            Ok(rows) => Ok(self.settle(rows, added_bytes)),
            Err(error) => {
                self.stop();
                Err(error.into())
            }
        }
    }

    /// Answers with the bytes that rows and sessions take more than before.
    fn put_all(&self, tx: &mut WriteTx<'_>) -> Result<i64, WriteEngineError> {
        for (revision, fresh) in self.rows.iter() {
            let row_key = row_key(revision, &fresh.key);
            tx.put(ROWS, &row_key, &seal(Kind::Row, &row_key, &fresh.row))?;
        }
        for (revision, key) in &self.removed {
            tx.delete(ROWS, &row_key(*revision, key))?;
        }
        for (id, session) in &self.sessions {
            let key = id.to_be_bytes();
            match session {
                Some(body) => tx.put(SESSIONS, &key, &seal(Kind::Session, &key, body))?,
                None => tx.delete(SESSIONS, &key)?,
            }
        }
        let added_bytes = tx.added_bytes();
        write_meta(tx, &self.shared.owner, &self.checkpoint)?;
        failpoint!(self.shared.failpoints, "shard.checkpoint.before_commit").map_err(WriteEngineError::Io)?;
        Ok(added_bytes)
    }

    /// The rows leave memory in the step that makes them readable in the file.
    fn settle(&mut self, rows: TableView, added_bytes: i64) -> CheckpointReport {
        let mut inner = self.shared.write();
        inner.rows = Arc::new(rows);
        inner.live_bytes = inner.live_bytes.saturating_add_signed(added_bytes);
        inner.frozen = None;
        inner.durable = Durable {
            applied: self.applied(),
            is_frozen: self.checkpoint.is_frozen,
            mark: self.checkpoint.mark.clone(),
        };
        inner.activity = Activity::Idle;
        self.settled = true;
        CheckpointReport {
            applied: self.applied(),
            revision: self.checkpoint.revision,
            rows_written: self.rows.count(),
            rows_removed: self.removed.len() as u64,
            sessions_written: self.sessions.len() as u64,
            bytes_written: self.rows.bytes(),
        }
    }

    /// Nobody knows what the file holds: the rows stay in memory for readers, and no further
    /// checkpoint is captured.
    fn stop(&mut self) {
        self.shared.write().activity = Activity::Stopped;
        self.settled = true;
    }
}

impl Drop for Capture {
    fn drop(&mut self) {
        if self.settled {
            return;
        }
        let mut inner = self.shared.write();
        inner.frozen = None;
        inner.state.fresh.absorb(&self.rows);
        let ids = self.sessions.iter().map(|(id, _)| *id);
        inner.state.sessions.mark_changed(ids);
        inner.unremoved = std::mem::take(&mut self.removed);
        if inner.activity == Activity::Checkpoint {
            inner.activity = Activity::Idle;
        }
    }
}

impl Inner {
    /// Claims the file for one activity.
    pub(crate) fn begin(&mut self, activity: Activity) -> Result<(), CaptureError> {
        self.heirs.retain(|heir| !heir.is_settled());
        if !self.heirs.is_empty() {
            return Err(CaptureError::HoldsHeirs);
        }
        match self.activity {
            Activity::Idle => self.activity = activity,
            Activity::Checkpoint | Activity::Install | Activity::Absorb => {
                return Err(CaptureError::InProgress);
            }
            Activity::Stopped => return Err(CaptureError::Stopped),
        }
        Ok(())
    }

    /// Takes the versions that nobody sees any more out of memory; those in the file are returned.
    fn reclaim(&mut self) -> Vec<(u64, Key)> {
        let mut removed = std::mem::take(&mut self.unremoved);
        self.reclaimed = self.state.retention.floor();
        let gone = self.state.keys.reclaim(self.reclaimed);
        let in_file = |(revision, key): &(u64, Key)| !self.state.fresh.remove(*revision, key);
        removed.extend(gone.into_iter().filter(in_file));
        removed
    }
}
