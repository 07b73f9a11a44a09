//! Import: a stream of frames becomes a file, and the file replaces the replica's state.
//!
//! Frames are checked and written to a file beside the replica's own as they come. When the end
//! frame's counts and checksum agree, [`Import::finish`] writes the file's identity, which is the
//! receiving replica's, and syncs; until then the file has none and nobody would open it.
//! [`ShardStore::install`] reads it whole, renames it over the replica's file, and swaps the state in
//! memory. The rename is the one moment that counts: a crash before it leaves the old state, a crash
//! after it the new one.

use std::io;
use std::path::PathBuf;
use std::sync::Arc;

use bytes::Bytes;
use prost::Message;

use super::checkpoint::CaptureError;
use super::file::{Loaded, OpenShardError, ROWS, SESSIONS, load, position, session_id, write_meta};
use super::frame::{BeginBody, EndBody, FrameCursor, FrameError, FrameKind, RecordBody, RecordsBody};
use super::machine::Position;
use super::record::{CheckpointBody, Kind, Row, SessionBody, UnsealError, split_row_key, unseal};
use super::store::{
    Activity, Inner, ShardStore, Shared, beside, create_engine, move_into_place, open_engine, remove_leftover,
};
use crate::engine::{Durability, Engine, WriteEngineError};
use crate::failpoint;
use crate::seeded_bug;

/// Frames, of a mebibyte each, between two syncs: bounds what the engine keeps in memory, and how long the disk is at it
/// while the log's own syncs wait.
const FRAMES_PER_SYNC: u64 = 2;

/// Why an import failed. The replica's state is as it was; the import is of no further use.
#[derive(Debug, thiserror::Error)]
pub enum ImportError {
    /// Another import into this replica is in progress.
    #[error("another snapshot is being received for this replica")]
    InProgress,
    /// An earlier frame was refused.
    #[error("an earlier frame of the snapshot was refused")]
    Failed,
    /// The stream ended before its end frame.
    #[error("the snapshot is incomplete")]
    Incomplete,
    /// The stream carries another cluster's, or another shard's, checkpoint.
    #[error("the snapshot is of shard {shard_id} of cluster {cluster_id:?}")]
    Foreign {
        /// The cluster named in the stream.
        cluster_id: String,
        /// The shard named in the stream.
        shard_id: u64,
    },
    /// A frame is damaged, or not the one that is due.
    #[error(transparent)]
    Frame(#[from] FrameError),
    /// A record in a frame does not verify.
    #[error("a record of the snapshot is damaged: {0}")]
    Record(#[from] UnsealError),
    /// The file could not be created or synced.
    #[error(transparent)]
    File(#[from] OpenShardError),
    /// The file could not be written.
    #[error(transparent)]
    Write(#[from] WriteEngineError),
}

/// Why an imported state was not installed.
#[derive(Debug, thiserror::Error)]
pub enum InstallError {
    /// A checkpoint is in progress, or an earlier write has an unknown outcome.
    #[error(transparent)]
    Busy(#[from] CaptureError),
    /// The file was imported by another replica.
    #[error("the imported file belongs to another replica")]
    OtherReplica,
    /// The imported file does not read back; the replica's state is as it was.
    #[error("the imported file cannot be used: {0}")]
    Unusable(#[source] OpenShardError),
    /// The replacement failed half way: after a restart the replica has the old state or the new.
    #[error("replacing the shard's file has an unknown outcome: {0}")]
    UnknownOutcome(#[source] OpenShardError),
}

/// A snapshot that is being received.
#[derive(Debug)]
pub struct Import {
    // Closed before the target removes the file.
    engine: Engine,
    target: Target,
    cursor: FrameCursor,
    stage: Stage,
    begin: Option<BeginBody>,
    /// The last key seen in the table that is being received.
    last_key: Bytes,
    rows: u64,
    sessions: u64,
}

/// A snapshot that was received whole and lies synced beside the replica's file.
#[derive(Debug)]
#[must_use = "an imported file changes nothing until it is installed"]
pub struct ImportedFile {
    target: Target,
    checkpoint: CheckpointBody,
}

/// The temporary file of an import. Removed when dropped, unless it was moved into place.
#[derive(Debug)]
struct Target {
    shared: Arc<Shared>,
    path: PathBuf,
}

/// What has arrived.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stage {
    Nothing,
    Rows,
    Sessions,
    All,
    Failed,
}

impl ShardStore {
    /// Begins to receive a snapshot, into a file beside the replica's own. Waits while the file is
    /// being written.
    pub fn begin_import(&self) -> Result<Import, ImportError> {
        let _file = self.shared.file();
        let mut inner = self.shared.write();
        if std::mem::replace(&mut inner.importing, true) {
            return Err(ImportError::InProgress);
        }
        drop(inner);
        let target = Target {
            path: beside(&self.shared.path, "import"),
            shared: self.shared.clone(),
        };
        remove_leftover(&*self.shared.disk, &target.path).map_err(OpenShardError::Io)?;
        let engine = create_engine(&*self.shared.disk, &target.path, self.shared.cache_bytes)?;
        failpoint!(self.shared.failpoints, "shard.import.begin").map_err(OpenShardError::Io)?;
        Ok(Import {
            engine,
            target,
            cursor: FrameCursor::default(),
            stage: Stage::Nothing,
            begin: None,
            last_key: Bytes::new(),
            rows: 0,
            sessions: 0,
        })
    }

    /// Replaces the replica's state by an imported one, on disk and in memory. Waits for the entry
    /// that is being applied; readers go on with the old state until the new one is in place.
    pub fn install(&self, imported: ImportedFile) -> Result<(), InstallError> {
        if !Arc::ptr_eq(&self.shared, &imported.target.shared) {
            return Err(InstallError::OtherReplica);
        }
        let _turn = self.shared.turn();
        self.shared.write().begin(Activity::Install)?;
        let installed = self.replace_file(&imported);
        let mut inner = self.shared.write();
        match installed {
            Ok(mut replacement) => {
                replacement.importing = true; // until `imported` is dropped
                let replaced = std::mem::replace(&mut *inner, replacement);
                // Letting a large state go takes time, and closing its file a disk.
                drop(inner);
                drop(replaced);
                Ok(())
            }
            Err(error) => {
                inner.activity = match error {
                    InstallError::UnknownOutcome(_) => Activity::Stopped,
                    _ => Activity::Idle,
                };
                Err(error)
            }
        }
    }

    fn replace_file(&self, imported: &ImportedFile) -> Result<Inner, InstallError> {
        let Shared {
            disk,
            failpoints,
            path,
            owner,
            cache_bytes,
            ..
        } = &*self.shared;
        let temporary = &imported.target.path;
        let check = || -> Result<_, OpenShardError> {
            let engine = open_engine(&**disk, temporary, *cache_bytes)?;
            let loaded = load(&engine, owner)?;
            if seeded_bug::is_on("B15") {
                // Seeded bug B15: the old rows get the new state's position before the new rows take their place.
                let live = self.shared.read().engine.clone();
                let put = live.write(Durability::Synced, |tx| {
                    write_meta(tx, owner, &imported.checkpoint)
                });
                put.map_err(|error: WriteEngineError| OpenShardError::Io(io::Error::other(error)))?;
            }
            failpoint!(failpoints, "shard.install.before_replace").map_err(OpenShardError::Io)?;
            Ok((loaded.state, loaded.mark, loaded.live_bytes))
        };
        let (state, mark, live_bytes) = check().map_err(InstallError::Unusable)?;
        let reopen = || -> Result<Inner, OpenShardError> {
            move_into_place(&**disk, temporary, path).map_err(OpenShardError::Io)?;
            failpoint!(failpoints, "shard.install.after_replace").map_err(OpenShardError::Io)?;
            let engine = open_engine(&**disk, path, *cache_bytes)?;
            let rows = engine.read()?.table(ROWS)?;
            let loaded = Loaded {
                state,
                mark,
                rows,
                live_bytes,
            };
            Ok(Inner::new(engine, loaded))
        };
        reopen().map_err(InstallError::UnknownOutcome)
    }
}

impl Import {
    /// Takes the next frame of the stream. After an error the import is of no use.
    pub fn push(&mut self, frame: Bytes) -> Result<(), ImportError> {
        if self.stage == Stage::Failed {
            return Err(ImportError::Failed);
        }
        let taken = self.take(&frame);
        if taken.is_err() {
            self.stage = Stage::Failed;
        }
        taken
    }

    /// Completes the file once the end frame has come.
    pub fn finish(self) -> Result<ImportedFile, ImportError> {
        let (Stage::All, Some(begin)) = (self.stage, self.begin) else {
            return Err(ImportError::Incomplete);
        };
        let (target, checkpoint) = (self.target, begin.checkpoint);
        let Shared {
            owner, failpoints, ..
        } = &*target.shared;
        failpoint!(failpoints, "shard.import.before_finish").map_err(OpenShardError::Io)?;
        self.engine
            .write(Durability::Synced, |tx| write_meta(tx, owner, &checkpoint))?;
        drop(self.engine);
        failpoint!(failpoints, "shard.import.after_finish").map_err(OpenShardError::Io)?;
        Ok(ImportedFile { target, checkpoint })
    }

    fn take(&mut self, frame: &Bytes) -> Result<(), ImportError> {
        let checksum_before = self.cursor.checksum;
        let (kind, payload) = self.cursor.decode(frame)?;
        match (self.stage, kind) {
            (Stage::Nothing, FrameKind::Begin) => self.take_begin(self.body(payload)?),
            (Stage::Rows, FrameKind::Rows) => self.take_rows(&self.body(payload)?),
            (Stage::Rows | Stage::Sessions, FrameKind::Sessions) => self.take_sessions(&self.body(payload)?),
            (Stage::Rows | Stage::Sessions, FrameKind::End) => {
                let end = self.body(payload)?;
                self.take_end(&end, checksum_before)
            }
            (stage, kind) => {
                let why = format!("a {kind:?} frame cannot come after {stage:?}");
                Err(self.cursor.malformed(why).into())
            }
        }
    }

    fn body<M: Message + Default>(&self, payload: Bytes) -> Result<M, ImportError> {
        M::decode(payload).map_err(|error| self.cursor.malformed(error).into())
    }

    fn take_begin(&mut self, begin: BeginBody) -> Result<(), ImportError> {
        let owner = &self.target.shared.owner;
        if (&begin.cluster_id, begin.shard_id) != (&owner.cluster_id, owner.shard_id) {
            return Err(ImportError::Foreign {
                cluster_id: begin.cluster_id,
                shard_id: begin.shard_id,
            });
        }
        self.begin = Some(begin);
        self.stage = Stage::Rows;
        Ok(())
    }

    fn take_rows(&mut self, body: &RecordsBody) -> Result<(), ImportError> {
        for RecordBody { key, record } in &body.records {
            let _: Row = unseal(Kind::Row, key, record.clone())?;
            self.check_order(key, split_row_key(key).is_some())?;
        }
        self.rows += body.records.len() as u64;
        self.store(ROWS, body)
    }

    fn take_sessions(&mut self, body: &RecordsBody) -> Result<(), ImportError> {
        if self.stage == Stage::Rows {
            self.stage = Stage::Sessions;
            self.last_key = Bytes::new();
        }
        for RecordBody { key, record } in &body.records {
            let _: SessionBody = unseal(Kind::Session, key, record.clone())?;
            self.check_order(key, session_id(key).is_some())?;
        }
        self.sessions += body.records.len() as u64;
        self.store(SESSIONS, body)
    }

    fn take_end(&mut self, end: &EndBody, checksum: u32) -> Result<(), ImportError> {
        let sent = (end.rows, end.sessions, end.checksum);
        let arrived = (self.rows, self.sessions, checksum);
        let promised = self.begin.as_ref().map(|begin| &begin.checkpoint);
        let promised = promised.map(|checkpoint| (checkpoint.rows, checkpoint.sessions));
        if sent != arrived || promised != Some((self.rows, self.sessions)) {
            let why = format!("(rows, sessions, checksum) sent {sent:?}, arrived {arrived:?}");
            return Err(self.cursor.malformed(why).into());
        }
        self.stage = Stage::All;
        Ok(())
    }

    fn check_order(&mut self, key: &Bytes, well_formed: bool) -> Result<(), ImportError> {
        if !well_formed || *key <= self.last_key {
            return Err(self.cursor.malformed(format!("key {key:?} out of place")).into());
        }
        // A copy: a slice would keep the frame in memory.
        self.last_key = Bytes::copy_from_slice(key);
        Ok(())
    }

    fn store(&self, table: &str, body: &RecordsBody) -> Result<(), ImportError> {
        failpoint!(self.target.shared.failpoints, "shard.import.frame").map_err(OpenShardError::Io)?;
        let durability = match self.cursor.sequence % FRAMES_PER_SYNC {
            0 => Durability::Synced,
            _ => Durability::Unsynced,
        };
        Ok(self.engine.write(durability, |tx| {
            let mut records = body.records.iter();
            records.try_for_each(|stored| tx.put(table, &stored.key, &stored.record))
        })?)
    }
}

impl ImportedFile {
    /// The sender's mark.
    pub fn mark(&self) -> Option<Bytes> {
        self.checkpoint.mark.clone()
    }

    /// The position that the state was applied to.
    pub fn applied(&self) -> Option<Position> {
        self.checkpoint.applied.as_ref().map(position)
    }
}

impl Drop for Target {
    fn drop(&mut self) {
        // Best effort: what stays behind is removed by the next import or at open.
        let disk = &*self.shared.disk;
        if let Err(error) = remove_leftover(disk, &self.path) {
            tracing::warn!(path = %self.path.display(), %error, "an import's file stays behind");
        }
        self.shared.write().importing = false;
    }
}
