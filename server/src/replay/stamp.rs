//! Values that say which write they come from.
//!
//! A replay writes a great many values and reads each acknowledged one back. The value carries its
//! write's number and a checksum over all of its bytes, so a reader can tell a stale value, a torn one
//! and another key's from the right one without remembering any value.

use bytes::{BufMut, Bytes, BytesMut};

/// Shortest value a stamp fits in; shorter sizes are written with this many bytes.
pub const STAMP_BYTES: usize = 20;

/// Which write a value comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Stamp {
    /// The key's number, or a digest of it.
    pub key: u64,
    /// The write's number, rising with the order of writes to the key.
    pub sequence: u64,
}

impl Stamp {
    /// The value of `size` bytes (at least [`STAMP_BYTES`]) that carries this stamp. Equal stamps and
    /// sizes give equal values.
    pub fn value(self, size: usize) -> Bytes {
        let mut value = BytesMut::with_capacity(size.max(STAMP_BYTES));
        value.put_u64(self.key);
        value.put_u64(self.sequence);
        let body = size.max(STAMP_BYTES) - STAMP_BYTES;
        let pattern = self
            .key
            .wrapping_mul(31)
            .wrapping_add(self.sequence)
            .to_be_bytes();
        value.extend(pattern.iter().cycle().take(body));
        value.put_u32(crc32c::crc32c(&value));
        value.freeze()
    }

    /// The stamp a value carries; `None` when it was not written by a replay or is damaged.
    pub fn of(value: &[u8]) -> Option<Stamp> {
        let (content, checksum) = value.split_last_chunk::<4>()?;
        if value.len() < STAMP_BYTES || crc32c::crc32c(content) != u32::from_be_bytes(*checksum) {
            return None;
        }
        let (key, rest) = content.split_first_chunk::<8>()?;
        let sequence = rest.first_chunk::<8>()?;
        Some(Stamp {
            key: u64::from_be_bytes(*key),
            sequence: u64::from_be_bytes(*sequence),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stamp_is_read_back_from_values_of_any_size() {
        let stamp = Stamp {
            key: 7,
            sequence: u64::MAX,
        };
        for (size, expected) in [(0, STAMP_BYTES), (STAMP_BYTES, STAMP_BYTES), (1_024, 1_024)] {
            let value = stamp.value(size);
            assert_eq!((value.len(), Stamp::of(&value)), (expected, Some(stamp)));
        }
    }

    #[test]
    fn damage_is_noticed_at_every_byte() {
        let value = Stamp { key: 1, sequence: 2 }.value(64);
        for at in 0..value.len() {
            let mut damaged = value.to_vec();
            damaged[at] ^= 4;
            assert_eq!(Stamp::of(&damaged), None, "byte {at}");
        }
        assert_eq!(Stamp::of(&value[..63]), None);
        assert_eq!(Stamp::of(b""), None);
    }
}
