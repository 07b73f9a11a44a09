//! Export: the newest durable checkpoint as a stream of frames, for a replica elsewhere.
//!
//! An export reads from its own view of the file, so checkpoints go on while it is sent, and holds
//! one frame in memory. The view keeps the file's old pages alive: drop the export when the receiver
//! is gone. Every record is verified before it is sent, since a replica must not spread damage.

use std::sync::Arc;

use bytes::Bytes;

use super::file::{OpenShardError, ROWS, SESSIONS, position, read_checkpoint};
use super::frame::{BeginBody, EndBody, FRAME_BYTES, FrameCursor, FrameKind, RecordBody, RecordsBody};
use super::machine::Position;
use super::record::{CheckpointBody, Kind, UnsealError, verify};
use super::store::{ShardStore, Shared};
use crate::engine::{ReadEngineError, Rows};

/// Why an export stopped.
#[derive(Debug, thiserror::Error)]
pub enum ExportError {
    /// The checkpoint could not be read.
    #[error(transparent)]
    Open(#[from] OpenShardError),
    /// The disk failed, or redb found a damaged page.
    #[error(transparent)]
    Read(#[from] ReadEngineError),
    /// A record does not verify; the replica must be rebuilt from its peers.
    #[error("a record of the shard's file is damaged: {0}")]
    Corrupt(#[from] UnsealError),
}

/// A checkpoint on its way out: an iterator of frames.
pub struct Export {
    shared: Arc<Shared>,
    checkpoint: CheckpointBody,
    rows: Rows,
    sessions: Rows,
    stage: Stage,
    cursor: FrameCursor,
    rows_sent: u64,
    sessions_sent: u64,
}

/// The frame that is due.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stage {
    Begin,
    Rows,
    Sessions,
    End,
    Done,
}

impl ShardStore {
    /// Opens the newest durable checkpoint for sending.
    pub fn export(&self) -> Result<Export, ExportError> {
        let engine = self.shared.read().engine.clone();
        let view = engine.read()?;
        Ok(Export {
            shared: self.shared.clone(),
            checkpoint: read_checkpoint(&view)?,
            rows: view.range(ROWS, ..)?,
            sessions: view.range(SESSIONS, ..)?,
            stage: Stage::Begin,
            cursor: FrameCursor::default(),
            rows_sent: 0,
            sessions_sent: 0,
        })
    }
}

impl Export {
    /// The caller's mark in the checkpoint.
    pub fn mark(&self) -> Option<Bytes> {
        self.checkpoint.mark.clone()
    }

    /// The position that the checkpoint was applied to.
    pub fn applied(&self) -> Option<Position> {
        self.checkpoint.applied.as_ref().map(position)
    }

    fn next_frame(&mut self) -> Result<Option<Bytes>, ExportError> {
        loop {
            match self.stage {
                Stage::Begin => return Ok(Some(self.begin())),
                Stage::Rows => match self.take_rows()? {
                    body if body.records.is_empty() => self.stage = Stage::Sessions,
                    body => {
                        self.rows_sent += body.records.len() as u64;
                        return Ok(Some(self.cursor.encode(FrameKind::Rows, &body)));
                    }
                },
                Stage::Sessions => match take_records(&mut self.sessions, Kind::Session)? {
                    body if body.records.is_empty() => self.stage = Stage::End,
                    body => {
                        self.sessions_sent += body.records.len() as u64;
                        return Ok(Some(self.cursor.encode(FrameKind::Sessions, &body)));
                    }
                },
                Stage::End => return self.end().map(Some),
                Stage::Done => return Ok(None),
            }
        }
    }

    fn take_rows(&mut self) -> Result<RecordsBody, ExportError> {
        let Export { rows, checkpoint, .. } = self;
        let mut own = rows.filter(|stored| !matches!(stored, Ok((key, _)) if !checkpoint.owns_row(key)));
        take_records(&mut own, Kind::Row)
    }

    fn begin(&mut self) -> Bytes {
        self.stage = Stage::Rows;
        let body = BeginBody {
            cluster_id: self.shared.owner.cluster_id.clone(),
            shard_id: self.shared.owner.shard_id,
            checkpoint: self.checkpoint.clone(),
        };
        self.cursor.encode(FrameKind::Begin, &body)
    }

    /// A record whose key is damaged looks like another shard's, and is passed over: only the count shows that.
    fn end(&mut self) -> Result<Bytes, ExportError> {
        self.stage = Stage::Done;
        let (sent, expected) = (
            (self.rows_sent, self.sessions_sent),
            (self.checkpoint.rows, self.checkpoint.sessions),
        );
        if sent != expected {
            let why = format!("(rows, sessions) should be {expected:?}, found {sent:?}");
            return Err(OpenShardError::Corrupt(why).into());
        }
        let body = EndBody {
            rows: self.rows_sent,
            sessions: self.sessions_sent,
            checksum: self.cursor.checksum,
        };
        Ok(self.cursor.encode(FrameKind::End, &body))
    }
}

impl Iterator for Export {
    type Item = Result<Bytes, ExportError>;

    /// The next frame; after an error there is none.
    fn next(&mut self) -> Option<Self::Item> {
        let frame = self.next_frame().transpose()?;
        if frame.is_err() {
            self.stage = Stage::Done;
        }
        Some(frame)
    }
}

impl std::fmt::Debug for Export {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Export")
            .field("applied", &self.checkpoint.applied)
            .field("stage", &self.stage)
            .field("sequence", &self.cursor.sequence)
            .finish_non_exhaustive()
    }
}

/// Records up to a frame's size.
fn take_records(
    source: &mut impl Iterator<Item = Result<(Bytes, Bytes), ReadEngineError>>,
    kind: Kind,
) -> Result<RecordsBody, ExportError> {
    let (mut records, mut bytes) = (Vec::new(), 0);
    while bytes < FRAME_BYTES
        && let Some(stored) = source.next()
    {
        let (key, record) = stored?;
        verify(kind, &key, &record)?;
        bytes += key.len() + record.len();
        records.push(RecordBody { key, record });
    }
    Ok(RecordsBody { records })
}
