//! Moving the entries of idle groups forward, so that they do not hold old segments for ever.
//!
//! A group that never writes is never purged, and its few entries would pin a segment of dead
//! records for as long as the group lives. When that pays (see [`super::segments::Segments`]), the
//! writer reads the oldest segment piece by piece, one piece a commit, and queues its live entries
//! again; once nothing in it is live, the segment is dropped with the same commit.

use std::io;
use std::ops::Range;

use super::error::LogFault;
use super::files::LogFiles;
use super::index::LogGroup;
use super::record::{DecodeRecordError, Kind, Record};

/// Rows read for one commit, in bytes. Twice what the last commit wrote, if that is more, so that
/// moving keeps ahead of appending.
const PIECE_BYTES_MIN: u64 = 512 << 10;

/// How far the oldest segment has been read.
#[derive(Debug, Default)]
pub(super) struct Rewrite {
    segment: u64,
    next_sequence: u64,
}

/// One piece of a segment.
#[derive(Debug, Default)]
pub(super) struct Piece {
    /// The entries in it, live or not.
    pub(super) entries: Vec<Record>,
    /// Groups with a damaged entry in it. It stays where it is, and with it the segment.
    pub(super) damaged: Vec<LogGroup>,
}

impl Rewrite {
    /// Reads the next piece of the segment with these sequences. Empty when all of it was read.
    pub(super) fn read(
        &mut self,
        files: &LogFiles,
        segment: Range<u64>,
        last_batch_bytes: u64,
    ) -> Result<Piece, LogFault> {
        if self.segment != segment.start {
            *self = Rewrite {
                segment: segment.start,
                next_sequence: segment.start,
            };
        }
        let mut piece = Piece::default();
        if self.next_sequence < segment.end {
            let bytes_max = PIECE_BYTES_MIN.max(last_batch_bytes.saturating_mul(2));
            self.fill(files, segment, bytes_max, &mut piece)
                .map_err(|error| fault(&error.to_string()))?;
        }
        Ok(piece)
    }

    fn fill(
        &mut self,
        files: &LogFiles,
        segment: Range<u64>,
        bytes_max: u64,
        piece: &mut Piece,
    ) -> Result<(), ReadPieceError> {
        let file = files.segment(segment.start).ok_or(ReadPieceError::Missing)?;
        let mut bytes = 0;
        while self.next_sequence < segment.end {
            let sequence = self.next_sequence;
            let row = file.row(sequence)?.ok_or(ReadPieceError::Missing)?;
            bytes += row.len() as u64;
            match Record::decode(sequence, &row) {
                Ok(record) if record.kind == Kind::Entry => piece.entries.push(record),
                Ok(_) => {}
                Err(DecodeRecordError::Payload(record)) => piece.damaged.push(record.group),
                Err(_) => return Err(ReadPieceError::Header),
            }
            self.next_sequence += 1;
            if bytes >= bytes_max {
                return Ok(());
            }
        }
        Ok(())
    }
}

/// Why a piece could not be read.
#[derive(Debug, thiserror::Error)]
enum ReadPieceError {
    #[error(transparent)]
    Io(#[from] io::Error),
    #[error("a record of an old segment is missing")]
    Missing,
    #[error("a record of an old segment is damaged, its group is unknown")]
    Header,
}

fn fault(why: &str) -> LogFault {
    LogFault::Failed(why.into())
}
