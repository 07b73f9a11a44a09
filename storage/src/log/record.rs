//! The bytes of one log record.
//!
//! A header of [`HEADER_BYTES`], all integers big-endian, and the payload:
//!
//! | bytes | field |
//! |---|---|
//! | 0 | record format, [`FORMAT`] |
//! | 1 | kind |
//! | 2..4 | zero |
//! | 4..8 | payload length |
//! | 8..16 | group |
//! | 16..24 | index (its meaning depends on the kind, see [`Kind`]) |
//! | 24..32 | sequence |
//! | 32..36 | CRC-32C of bytes 0..32 |
//! | 36..40 | CRC-32C of the header's checksum and the payload |
//!
//! The header has its own checksum, so that a damaged payload is charged to its group alone, while
//! a damaged header condemns the log: nobody knows whose record it was. A kind is never given a new
//! meaning; a new one gets a new number, and a program that does not know it stops.

use bytes::Bytes;

use super::index::LogGroup;
use crate::seeded_bug;

/// The format of records that this program writes, and the newest it reads.
const FORMAT: u8 = 1;

/// The header's length in bytes.
pub(super) const HEADER_BYTES: usize = 40;

/// What a record says.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Kind {
    /// An entry at `index`.
    Entry = 1,
    /// The group's vote; `index` counts the group's votes from one.
    Vote = 2,
    /// How far the group's log is committed; `index` is zero.
    Committed = 3,
    /// Entries up to and with `index` are purged; the payload is the owner's mark.
    Purged = 4,
    /// Entries from `index` on are removed.
    Truncated = 5,
    /// All of the group is removed; `index` is zero.
    Destroyed = 6,
}

/// One record.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Record {
    pub(super) kind: Kind,
    pub(super) group: LogGroup,
    pub(super) index: u64,
    pub(super) sequence: u64,
    pub(super) payload: Bytes,
}

/// Why a row is no sound record.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum DecodeRecordError {
    /// The header does not verify: it is unknown whose record this was.
    Header,
    /// The header is sound, but a newer program wrote it.
    UnknownKind(u8),
    /// The header is sound, the payload is not. The record has an empty payload.
    Payload(Record),
}

impl Record {
    /// The length of the record's row value in bytes.
    pub(super) fn bytes(&self) -> u64 {
        row_bytes(&self.payload)
    }

    /// Appends the record's row value to `out`.
    pub(super) fn encode(&self, out: &mut Vec<u8>) {
        let length = u32::try_from(self.payload.len()).expect("a payload is far below 4 GiB");
        let start = out.len();
        out.extend_from_slice(&[FORMAT, self.kind as u8, 0, 0]);
        out.extend_from_slice(&length.to_be_bytes());
        for field in [self.group.0, self.index, self.sequence] {
            out.extend_from_slice(&field.to_be_bytes());
        }
        let header = crc32c::crc32c(&out[start..]);
        out.extend_from_slice(&header.to_be_bytes());
        out.extend_from_slice(&crc32c::crc32c_append(header, &self.payload).to_be_bytes());
        out.extend_from_slice(&self.payload);
    }

    /// Verifies the row that is to have this sequence and returns its record.
    pub(super) fn decode(sequence: u64, row: &Bytes) -> Result<Record, DecodeRecordError> {
        let header = row.get(..HEADER_BYTES).ok_or(DecodeRecordError::Header)?;
        let header_crc = u32_at(header, 32);
        if crc32c::crc32c(&header[..32]) != header_crc || u64_at(header, 24) != sequence {
            return Err(DecodeRecordError::Header);
        }
        let kind = match (header[0], Kind::of(header[1])) {
            (FORMAT, Some(kind)) => kind,
            _ => return Err(DecodeRecordError::UnknownKind(header[1])),
        };
        let payload = row.slice(HEADER_BYTES..);
        // Seeded bug B19: as in the shard's records, the payload's checksum is not looked at.
        let verifies =
            crc32c::crc32c_append(header_crc, &payload) == u32_at(header, 36) || seeded_bug::is_on("B19");
        let sound = payload.len() as u64 == u64::from(u32_at(header, 4)) && verifies;
        let record = Record {
            kind,
            group: LogGroup(u64_at(header, 8)),
            index: u64_at(header, 16),
            sequence: u64_at(header, 24),
            payload: if sound { payload } else { Bytes::new() },
        };
        if sound {
            Ok(record)
        } else {
            Err(DecodeRecordError::Payload(record))
        }
    }
}

impl Kind {
    fn of(number: u8) -> Option<Kind> {
        let kinds = [
            Kind::Entry,
            Kind::Vote,
            Kind::Committed,
            Kind::Purged,
            Kind::Truncated,
            Kind::Destroyed,
        ];
        kinds.into_iter().find(|kind| *kind as u8 == number)
    }
}

/// The length of the row value of a record with this payload.
pub(super) fn row_bytes(payload: &Bytes) -> u64 {
    (HEADER_BYTES + payload.len()) as u64
}

/// The length of the row value at the beginning of `bytes`, as its header has it; None where that does not verify. There
/// may be fewer bytes.
pub(super) fn row_bytes_at(bytes: &[u8]) -> Option<usize> {
    let header = bytes.get(..HEADER_BYTES)?;
    let verifies = crc32c::crc32c(&header[..32]) == u32_at(header, 32);
    let payload_bytes = usize::try_from(u32_at(header, 4)).ok()?;
    verifies.then(|| HEADER_BYTES + payload_bytes)
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_be_bytes(bytes[at..at + 4].try_into().expect("four bytes"))
}

fn u64_at(bytes: &[u8], at: usize) -> u64 {
    u64::from_be_bytes(bytes[at..at + 8].try_into().expect("eight bytes"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample() -> Record {
        let payload = Bytes::from_static(b"payload");
        Record {
            kind: Kind::Entry,
            group: LogGroup(258),
            index: 7,
            sequence: 9,
            payload,
        }
    }

    fn encoded() -> Vec<u8> {
        let mut row = Vec::new();
        sample().encode(&mut row);
        row
    }

    fn decode(row: Vec<u8>) -> Result<Record, DecodeRecordError> {
        Record::decode(9, &Bytes::from(row))
    }

    #[test]
    fn the_bytes_are_those_the_header_table_states() {
        let mut expected = vec![1, 1, 0, 0, 0, 0, 0, 7];
        expected.extend_from_slice(&[0, 0, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 0, 0, 0, 7]);
        expected.extend_from_slice(&[0, 0, 0, 0, 0, 0, 0, 9]);
        assert_eq!(encoded()[..32], expected);
        assert_eq!(encoded()[HEADER_BYTES..], *b"payload");
        assert_eq!(decode(encoded()), Ok(sample()));
        assert_eq!(sample().bytes(), encoded().len() as u64);
    }

    #[test]
    fn every_flipped_bit_and_every_cut_is_noticed() {
        for byte in 0..encoded().len() {
            for bit in 0..8 {
                let mut row = encoded();
                row[byte] ^= 1 << bit;
                let charged_to_its_group = matches!(decode(row), Err(DecodeRecordError::Payload(_)));
                assert_eq!(charged_to_its_group, byte >= 36, "byte {byte} bit {bit}");
            }
            decode(encoded()[..byte].to_vec()).unwrap_err();
        }
        Record::decode(8, &Bytes::from(encoded())).unwrap_err();
    }

    #[test]
    fn a_kind_or_format_of_a_newer_program_is_unknown_not_damaged() {
        for (at, value) in [(0, 2), (1, 99)] {
            let mut row = encoded();
            row[at] = value;
            let crc = crc32c::crc32c(&row[..32]);
            row[32..36].copy_from_slice(&crc.to_be_bytes());
            assert!(matches!(decode(row), Err(DecodeRecordError::UnknownKind(_))));
        }
    }
}
