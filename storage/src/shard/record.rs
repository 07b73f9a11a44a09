//! Sealed records: every value this module's file holds, and every log payload, in one envelope.
//!
//! ```text
//! byte 0      format version (1)
//! byte 1      kind
//! bytes 2..6  CRC-32C over version, kind, the record's key and the body, little-endian
//! bytes 6..   body, a prost message
//! ```
//!
//! The key is part of the checksum, so a row that turns up under another key does not verify. redb
//! hands out a flipped bit without a word, hence no body is looked at before [`unseal`] passed it.
//! Bodies only grow: a field number is never given a new meaning, a change that an older program
//! must not misread takes a new kind or version.

use super::command::EndedLease;
use super::extent::Span;
use super::merge::MergeStep;
use super::split::Split;
use crate::seeded_bug;
use bytes::{Bytes, BytesMut};
use prost::Message;

/// The version every record is written with.
pub(crate) const FORMAT: u8 = 1;
const HEADER_BYTES: usize = 6;

/// What a sealed record is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum Kind {
    /// A log payload: [`BatchBody`].
    Batch = 1,
    /// Whose file this is: [`IdentityBody`].
    Identity = 2,
    /// What the newest checkpoint holds: [`CheckpointBody`].
    Checkpoint = 3,
    /// One version of a key: [`Row`].
    Row = 4,
    /// One open session: [`SessionBody`].
    Session = 5,
    /// A log payload: [`EndedLeasesBody`].
    EndedLeases = 6,
    /// A log payload: [`SplitBody`].
    Split = 7,
    /// A log payload: [`NewGroup`](super::command::NewGroup).
    NewGroup = 16,
    /// A log payload: [`ScrubBody`].
    Scrub = 17,
    /// A log payload: [`MergeBody`].
    Merge = 18,
}

/// Why a sealed record was not accepted.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum UnsealError {
    /// Fewer bytes than a header.
    #[error("the record is cut short")]
    Truncated,
    /// Written by a newer program, or the version byte is damaged.
    #[error("the record has format {found}, this program reads {FORMAT}")]
    UnknownFormat {
        /// The version found.
        found: u8,
    },
    /// A record of another kind, or of one that this program does not know.
    #[error("the record is of kind {found}, not {expected}")]
    UnknownKind {
        /// The kind found.
        found: u8,
        /// The kind that belongs here.
        expected: u8,
    },
    /// The bytes are not those that were written.
    #[error("the record's checksum does not match its bytes")]
    Checksum,
    /// The checksum matches and the body still does not parse.
    #[error("the record's body does not parse: {0}")]
    Malformed(String),
}

/// Wraps `body` for storage under `key`; log payloads have an empty key.
pub(crate) fn seal(kind: Kind, key: &[u8], body: &impl Message) -> Bytes {
    let mut record = BytesMut::with_capacity(HEADER_BYTES + body.encoded_len());
    record.extend_from_slice(&[FORMAT, kind as u8, 0, 0, 0, 0]);
    body.encode(&mut record)
        .expect("a growable buffer takes any message");
    let checksum = checksum(kind, key, &record[HEADER_BYTES..]);
    record[2..HEADER_BYTES].copy_from_slice(&checksum.to_le_bytes());
    record.freeze()
}

/// The body of a record that was sealed as `kind` under `key`.
pub(crate) fn unseal<M: Message + Default>(kind: Kind, key: &[u8], record: Bytes) -> Result<M, UnsealError> {
    verify(kind, key, &record)?;
    M::decode(record.slice(HEADER_BYTES..)).map_err(|error| UnsealError::Malformed(error.to_string()))
}

/// Whether a record is what was sealed as `kind` under `key`; looks at the envelope alone.
pub(crate) fn verify(kind: Kind, key: &[u8], record: &[u8]) -> Result<(), UnsealError> {
    let Some((header, body)) = record.split_first_chunk::<HEADER_BYTES>() else {
        return Err(UnsealError::Truncated);
    };
    let [format, found, stored @ ..] = *header;
    if format != FORMAT {
        return Err(UnsealError::UnknownFormat { found: format });
    }
    if found != kind as u8 {
        let expected = kind as u8;
        return Err(UnsealError::UnknownKind { found, expected });
    }
    match u32::from_le_bytes(stored) == checksum(kind, key, body) {
        true => Ok(()),
        // Seeded bug B19: a record whose checksum does not match is taken for sound.
        false if seeded_bug::is_on("B19") => Ok(()),
        false => Err(UnsealError::Checksum),
    }
}

/// The kind that a record says it is of; whoever unseals it checks that.
pub(crate) fn kind_of(record: &[u8]) -> Option<u8> {
    record.get(1).copied()
}

fn checksum(kind: Kind, key: &[u8], body: &[u8]) -> u32 {
    let header = crc32c::crc32c(&[FORMAT, kind as u8]);
    crc32c::crc32c_append(crc32c::crc32c_append(header, key), body)
}

/// The key of a row: rows lie in the order of their revisions, as etcd lays them.
pub(crate) fn row_key(revision: u64, key: &[u8]) -> Vec<u8> {
    [&revision.to_be_bytes(), key].concat()
}

/// The revision and the user's key in a row's key.
pub(crate) fn split_row_key(row_key: &[u8]) -> Option<(u64, &[u8])> {
    let (revision, key) = row_key.split_first_chunk::<8>()?;
    Some((u64::from_be_bytes(*revision), key))
}

/// A batch of clients' mutations, as a log entry carries it.
#[derive(Clone, PartialEq, Message)]
pub(crate) struct BatchBody {
    #[prost(uint64, tag = "1")]
    pub(crate) stamped_ms: u64,
    #[prost(bytes = "bytes", repeated, tag = "2")]
    pub(crate) mutations: Vec<Bytes>,
}

/// Leases that came to their end, as a log entry carries them.
#[derive(Clone, PartialEq, Message)]
pub(crate) struct EndedLeasesBody {
    #[prost(uint64, tag = "1")]
    pub(crate) stamped_ms: u64,
    #[prost(message, repeated, tag = "2")]
    pub(crate) ended: Vec<EndedLease>,
}

/// A split, as a log entry carries it.
#[derive(Clone, PartialEq, Message)]
pub(crate) struct SplitBody {
    #[prost(uint64, tag = "1")]
    pub(crate) stamped_ms: u64,
    #[prost(message, required, tag = "2")]
    pub(crate) split: Split,
}

/// A step of a merge, as a log entry carries it.
#[derive(Clone, PartialEq, Message)]
pub(crate) struct MergeBody {
    #[prost(uint64, tag = "1")]
    pub(crate) stamped_ms: u64,
    #[prost(oneof = "MergeStep", tags = "2, 3, 4")]
    pub(crate) step: Option<MergeStep>,
}

/// A scrub, as a log entry carries it.
#[derive(Clone, PartialEq, Message)]
pub(crate) struct ScrubBody {
    #[prost(uint64, tag = "1")]
    pub(crate) stamped_ms: u64,
    #[prost(uint64, tag = "2")]
    pub(crate) id: u64,
}

/// Whose file this is. Never changes.
#[derive(Clone, PartialEq, Message)]
pub(crate) struct IdentityBody {
    #[prost(string, tag = "1")]
    pub(crate) cluster_id: String,
    #[prost(uint64, tag = "2")]
    pub(crate) shard_id: u64,
    #[prost(uint64, tag = "3")]
    pub(crate) replica_id: u64,
}

/// All of a checkpoint that is neither a row nor a session.
#[derive(Clone, PartialEq, Message)]
pub(crate) struct CheckpointBody {
    #[prost(bytes = "bytes", tag = "1")]
    pub(crate) start: Bytes,
    #[prost(bytes = "bytes", optional, tag = "2")]
    pub(crate) end: Option<Bytes>,
    #[prost(uint64, tag = "3")]
    pub(crate) r#gen: u64,
    #[prost(message, required, tag = "4")]
    pub(crate) limits: LimitsBody,
    #[prost(message, optional, tag = "5")]
    pub(crate) applied: Option<PositionBody>,
    #[prost(uint64, tag = "6")]
    pub(crate) revision: u64,
    #[prost(uint64, tag = "7")]
    pub(crate) clock_ms: u64,
    #[prost(uint64, tag = "8")]
    pub(crate) floor: u64,
    #[prost(message, repeated, tag = "9")]
    pub(crate) ages: Vec<AgeBody>,
    #[prost(bytes = "bytes", optional, tag = "10")]
    pub(crate) mark: Option<Bytes>,
    /// How many rows the file holds. A hole in the tree shows as another number.
    #[prost(uint64, tag = "11")]
    pub(crate) rows: u64,
    /// How many sessions the file holds.
    #[prost(uint64, tag = "12")]
    pub(crate) sessions: u64,
    /// Which keys hang on them is in the rows.
    #[prost(message, repeated, tag = "13")]
    pub(crate) leases: Vec<LeaseBody>,
    /// The shard changes no more: another is to absorb it.
    #[prost(bool, tag = "14")]
    pub(crate) is_frozen: bool,
    /// Parts of the range whose past goes less far back.
    #[prost(message, repeated, tag = "15")]
    pub(crate) strains: Vec<StrainBody>,
}

/// A part of the range that was another shard's: from `start` to the next one's.
#[derive(Clone, PartialEq, Message)]
pub(crate) struct StrainBody {
    #[prost(bytes = "bytes", tag = "1")]
    pub(crate) start: Bytes,
    #[prost(uint64, tag = "2")]
    pub(crate) floor: u64,
}

/// One lease.
#[derive(Clone, PartialEq, Message)]
pub(crate) struct LeaseBody {
    #[prost(uint64, tag = "1")]
    pub(crate) id: u64,
    #[prost(uint64, tag = "2")]
    pub(crate) ttl_ms: u64,
    #[prost(uint64, tag = "3")]
    pub(crate) renewals: u64,
    /// The parts of the range on which it lives; none: the whole range.
    #[prost(message, repeated, tag = "4")]
    pub(crate) extent: Vec<Span>,
}

/// See [`crate::shard::Limits`].
#[derive(Clone, PartialEq, Message)]
pub(crate) struct LimitsBody {
    #[prost(uint64, tag = "1")]
    pub(crate) key_bytes_max: u64,
    #[prost(uint64, tag = "2")]
    pub(crate) value_bytes_max: u64,
    #[prost(uint64, tag = "3")]
    pub(crate) session_idle_ms: u64,
    #[prost(uint64, tag = "4")]
    pub(crate) sessions_max: u64,
    #[prost(uint64, tag = "5")]
    pub(crate) outcomes_max: u64,
    #[prost(uint64, tag = "6")]
    pub(crate) retention_ms: u64,
    /// Absent, as 0, in a shard created before there was this limit: any session makes room there.
    #[prost(uint64, tag = "7")]
    pub(crate) evictable_idle_ms: u64,
    /// Absent, as 0, in a shard created before there were transactions: it takes none.
    #[prost(uint64, tag = "8")]
    pub(crate) transaction_actions_max: u64,
    #[prost(uint64, tag = "9")]
    pub(crate) transaction_pairs_max: u64,
    #[prost(uint64, tag = "10")]
    pub(crate) transaction_bytes_max: u64,
    /// Absent, as 0, in a shard created before there were leases: it takes none.
    #[prost(uint64, tag = "11")]
    pub(crate) leases_max: u64,
    #[prost(uint64, tag = "12")]
    pub(crate) lease_keys_max: u64,
}

/// A position in the log.
#[derive(Clone, PartialEq, Message)]
pub(crate) struct PositionBody {
    #[prost(uint64, tag = "1")]
    pub(crate) term: u64,
    #[prost(uint64, tag = "2")]
    pub(crate) index: u64,
}

/// At this time the shard stood at this revision.
#[derive(Clone, PartialEq, Message)]
pub(crate) struct AgeBody {
    #[prost(uint64, tag = "1")]
    pub(crate) at_ms: u64,
    #[prost(uint64, tag = "2")]
    pub(crate) revision: u64,
}

/// One version of a key; its revision and key are the row's key.
#[derive(Clone, PartialEq, Message)]
pub(crate) struct Row {
    #[prost(uint64, tag = "1")]
    pub(crate) create_revision: u64,
    /// 0: the key was deleted here.
    #[prost(uint64, tag = "2")]
    pub(crate) version: u64,
    #[prost(bytes = "bytes", tag = "3")]
    pub(crate) value: Bytes,
    /// The lease that the key hangs on from here; 0: on none.
    #[prost(uint64, tag = "4")]
    pub(crate) lease: u64,
}

/// One open session.
#[derive(Clone, PartialEq, Message)]
pub(crate) struct SessionBody {
    #[prost(uint64, tag = "1")]
    pub(crate) last_active_ms: u64,
    #[prost(uint64, tag = "2")]
    pub(crate) forgotten_below: u64,
    #[prost(message, repeated, tag = "3")]
    pub(crate) outcomes: Vec<OutcomeBody>,
}

/// The remembered outcome of one sequence of a session.
#[derive(Clone, PartialEq, Message)]
pub(crate) struct OutcomeBody {
    #[prost(uint64, tag = "1")]
    pub(crate) sequence: u64,
    #[prost(uint32, tag = "2")]
    pub(crate) kind: u32,
    #[prost(uint64, tag = "3")]
    pub(crate) revision: u64,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row() -> Row {
        Row {
            create_revision: 3,
            version: 2,
            value: Bytes::from_static(b"value"),
            lease: 0,
        }
    }

    #[test]
    fn no_flipped_bit_passes() {
        let sealed = seal(Kind::Row, b"key", &row());
        assert_eq!(unseal::<Row>(Kind::Row, b"key", sealed.clone()).unwrap(), row());
        for bit in 0..sealed.len() * 8 {
            let mut damaged = sealed.to_vec();
            damaged[bit / 8] ^= 1 << (bit % 8);
            unseal::<Row>(Kind::Row, b"key", damaged.into()).unwrap_err();
        }
    }

    #[test]
    fn a_record_belongs_to_its_key_and_kind() {
        let sealed = seal(Kind::Row, b"key", &row());
        assert_eq!(
            unseal::<Row>(Kind::Row, b"yek", sealed.clone()),
            Err(UnsealError::Checksum)
        );
        assert_eq!(
            unseal::<Row>(Kind::Session, b"key", sealed.clone()),
            Err(UnsealError::UnknownKind {
                found: 4,
                expected: 5
            })
        );
        assert_eq!(
            unseal::<Row>(Kind::Row, b"key", sealed.slice(..5)),
            Err(UnsealError::Truncated)
        );
    }

    #[test]
    fn row_keys_sort_by_revision() {
        assert!(row_key(255, b"z") < row_key(256, b"a"));
        assert_eq!(split_row_key(&row_key(7, b"")), Some((7, b"".as_slice())));
        assert_eq!(split_row_key(b"short"), None);
    }
}
