//! Frames: a checkpoint in pieces of about 1 MiB, each sealed and numbered.
//!
//! ```text
//! bytes  0..4   magic "GWSF"
//! byte   4      format version (1)
//! byte   5      kind: 1 begin, 2 rows, 3 sessions, 4 end
//! bytes  6..8   zero
//! bytes  8..16  sequence number from 0, little-endian
//! bytes 16..20  payload length, little-endian
//! bytes 20..24  CRC-32C over the bytes before and the payload, little-endian
//! bytes 24..    payload, a prost message
//! ```
//!
//! A stream is one begin frame, rows in the order of their keys, sessions in the order of their ids,
//! one end frame with the counts and a checksum over all frames before it. Records travel sealed as
//! they lie in the sender's file, so a row is verified from disk to disk.

use bytes::{Bytes, BytesMut};
use prost::Message;

use super::record::CheckpointBody;

/// Where a frame of rows or sessions ends, in bytes of payload; one record may reach over it.
pub(crate) const FRAME_BYTES: usize = 1 << 20;
const MAGIC: [u8; 4] = *b"GWSF";
const FORMAT: u8 = 1;
const CHECKSUM_AT: usize = 20;
const HEADER_BYTES: usize = 24;

/// What a frame carries.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum FrameKind {
    Begin = 1,
    Rows = 2,
    Sessions = 3,
    End = 4,
}

/// Why a frame was not accepted. The whole stream is void then.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum FrameError {
    /// Not a frame, or not all of one.
    #[error("the snapshot frame is cut short or not a frame")]
    Truncated,
    /// Written by a newer program.
    #[error("the snapshot frame has format {found}, kind {kind}, which this program does not know")]
    UnknownFormat {
        /// The version found.
        found: u8,
        /// The kind found.
        kind: u8,
    },
    /// Another frame was due: one was lost, repeated or reordered.
    #[error("snapshot frame {found} came where {expected} was due")]
    OutOfOrder {
        /// The number of the frame.
        found: u64,
        /// The number that was due.
        expected: u64,
    },
    /// The bytes are not those that were sent.
    #[error("snapshot frame {sequence} does not match its checksum")]
    Checksum {
        /// The number of the frame.
        sequence: u64,
    },
    /// The checksum matches and the frame still makes no sense.
    #[error("snapshot frame {sequence} is malformed: {why}")]
    Malformed {
        /// The number of the frame.
        sequence: u64,
        /// What is wrong with it.
        why: String,
    },
}

/// Numbers frames on one side and checks the numbers on the other; keeps the stream's checksum.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct FrameCursor {
    pub(crate) sequence: u64,
    /// Over the checksums of all frames so far.
    pub(crate) checksum: u32,
}

/// Whose checkpoint the stream carries.
#[derive(Clone, PartialEq, Message)]
pub(crate) struct BeginBody {
    #[prost(string, tag = "1")]
    pub(crate) cluster_id: String,
    #[prost(uint64, tag = "2")]
    pub(crate) shard_id: u64,
    #[prost(message, required, tag = "3")]
    pub(crate) checkpoint: CheckpointBody,
}

/// Sealed records of one table, in the order of their keys.
#[derive(Clone, PartialEq, Message)]
pub(crate) struct RecordsBody {
    #[prost(message, repeated, tag = "1")]
    pub(crate) records: Vec<RecordBody>,
}

/// A sealed record and its key.
#[derive(Clone, PartialEq, Message)]
pub(crate) struct RecordBody {
    #[prost(bytes = "bytes", tag = "1")]
    pub(crate) key: Bytes,
    #[prost(bytes = "bytes", tag = "2")]
    pub(crate) record: Bytes,
}

/// What must have arrived.
#[derive(Clone, PartialEq, Message)]
pub(crate) struct EndBody {
    #[prost(uint64, tag = "1")]
    pub(crate) rows: u64,
    #[prost(uint64, tag = "2")]
    pub(crate) sessions: u64,
    #[prost(uint32, tag = "3")]
    pub(crate) checksum: u32,
}

impl FrameCursor {
    /// The next frame of the stream.
    pub(crate) fn encode(&mut self, kind: FrameKind, payload: &impl Message) -> Bytes {
        let payload_len = payload.encoded_len();
        let mut frame = BytesMut::with_capacity(HEADER_BYTES + payload_len);
        frame.extend_from_slice(&MAGIC);
        frame.extend_from_slice(&[FORMAT, kind as u8, 0, 0]);
        frame.extend_from_slice(&self.sequence.to_le_bytes());
        let payload_len = u32::try_from(payload_len).expect("a frame holds little more than a record");
        frame.extend_from_slice(&payload_len.to_le_bytes());
        frame.extend_from_slice(&[0; HEADER_BYTES - CHECKSUM_AT]);
        payload
            .encode(&mut frame)
            .expect("a growable buffer takes any message");
        let checksum = checksum(&frame);
        frame[CHECKSUM_AT..HEADER_BYTES].copy_from_slice(&checksum.to_le_bytes());
        self.advance(checksum);
        frame.freeze()
    }

    /// The kind and payload of a frame, if it is the one that is due.
    pub(crate) fn decode(&mut self, frame: &Bytes) -> Result<(FrameKind, Bytes), FrameError> {
        if frame.len() < HEADER_BYTES || frame[..4] != MAGIC {
            return Err(FrameError::Truncated);
        }
        let kind = frame_kind(frame[4], frame[5])?;
        let sequence = u64::from_le_bytes(array(frame, 8));
        if u32::from_le_bytes(array(frame, 16)) as usize != frame.len() - HEADER_BYTES {
            return Err(FrameError::Truncated);
        }
        let stored = u32::from_le_bytes(array(frame, CHECKSUM_AT));
        if stored != checksum(frame) {
            return Err(FrameError::Checksum { sequence });
        }
        if sequence != self.sequence {
            let (found, expected) = (sequence, self.sequence);
            return Err(FrameError::OutOfOrder { found, expected });
        }
        self.advance(stored);
        Ok((kind, frame.slice(HEADER_BYTES..)))
    }

    /// An error about the frame that was decoded last.
    pub(crate) fn malformed(&self, why: impl ToString) -> FrameError {
        FrameError::Malformed {
            sequence: self.sequence.saturating_sub(1),
            why: why.to_string(),
        }
    }

    fn advance(&mut self, checksum: u32) {
        self.sequence += 1;
        self.checksum = crc32c::crc32c_append(self.checksum, &checksum.to_le_bytes());
    }
}

fn frame_kind(format: u8, kind: u8) -> Result<FrameKind, FrameError> {
    match (format, kind) {
        (FORMAT, 1) => Ok(FrameKind::Begin),
        (FORMAT, 2) => Ok(FrameKind::Rows),
        (FORMAT, 3) => Ok(FrameKind::Sessions),
        (FORMAT, 4) => Ok(FrameKind::End),
        (found, kind) => Err(FrameError::UnknownFormat { found, kind }),
    }
}

fn checksum(frame: &[u8]) -> u32 {
    crc32c::crc32c_append(crc32c::crc32c(&frame[..CHECKSUM_AT]), &frame[HEADER_BYTES..])
}

fn array<const N: usize>(frame: &[u8], at: usize) -> [u8; N] {
    frame[at..at + N]
        .try_into()
        .expect("the slice has the array's length")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frame(cursor: &mut FrameCursor) -> Bytes {
        let end = EndBody {
            rows: 1,
            sessions: 2,
            checksum: 3,
        };
        cursor.encode(FrameKind::End, &end)
    }

    #[test]
    fn no_flipped_bit_and_no_cut_passes() {
        let sent = frame(&mut FrameCursor::default());
        FrameCursor::default().decode(&sent).unwrap();
        for bit in 0..sent.len() * 8 {
            // Bytes 6 and 7 are covered by the checksum too.
            let mut damaged = sent.to_vec();
            damaged[bit / 8] ^= 1 << (bit % 8);
            FrameCursor::default().decode(&damaged.into()).unwrap_err();
        }
        for len in 0..sent.len() {
            FrameCursor::default().decode(&sent.slice(..len)).unwrap_err();
        }
    }

    #[test]
    fn both_sides_count_and_sum_alike() {
        let (mut sender, mut receiver) = (FrameCursor::default(), FrameCursor::default());
        let (first, second) = (frame(&mut sender), frame(&mut sender));
        assert_eq!(
            receiver.decode(&second).unwrap_err(),
            FrameError::OutOfOrder {
                found: 1,
                expected: 0
            }
        );
        receiver.decode(&first).unwrap();
        receiver.decode(&second).unwrap();
        assert_eq!(sender.checksum, receiver.checksum);
        assert_ne!(sender.checksum, 0);
    }
}
