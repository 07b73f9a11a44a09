//! What operations take and give: the types around [`Client`](crate::Client)'s calls.

use std::ops::{Bound, RangeBounds};

use bytes::Bytes;

use crate::proto::{KeyValue, compare_and_set};

/// The answer to a get.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fetched {
    /// The shard's revision at which this was read.
    pub revision: u64,
    /// The key's value and history; `None`: the key does not exist.
    pub pair: Option<KeyValue>,
}

/// Versions of a key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Versions {
    /// The shard's revision at which this was read.
    pub revision: u64,
    /// The newest first. One of version 0 is a deletion.
    pub versions: Vec<KeyValue>,
    /// There are older ones that can be read.
    pub more: bool,
    /// The oldest revision that can be read: what was superseded by then is forgotten.
    pub oldest: u64,
}

/// The answer to a put or a delete.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Written {
    /// The shard's revision at which the mutation took effect.
    pub revision: u64,
    /// Whether the key existed before.
    pub existed: bool,
    /// What the key held before, where it was asked for. A shard remembers outcomes, not values: when the answer got
    /// lost and the repetition was answered from memory, this is `None` although [`Written::existed`] is true.
    pub previous: Option<KeyValue>,
}

/// The answer to a compare-and-set.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Swapped {
    /// Whether the expectation held and the new value is in place.
    pub applied: bool,
    /// The shard's revision at which the comparison was made.
    pub revision: u64,
    /// Where the expectation did not hold, what the key held instead. May be `None` although [`Swapped::existed`], as
    /// in [`Written::previous`].
    pub current: Option<KeyValue>,
    /// Whether the key existed before.
    pub existed: bool,
}

/// What a key must be for a compare-and-set to take effect.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Expect {
    /// It does not exist.
    Absent,
    /// It holds exactly this.
    Value(Bytes),
    /// Its last change has this revision.
    Revision(u64),
}

impl From<Expect> for compare_and_set::Expect {
    fn from(expect: Expect) -> Self {
        match expect {
            Expect::Absent => Self::Absent(true),
            Expect::Value(value) => Self::Value(value),
            Expect::Revision(revision) => Self::Revision(revision),
        }
    }
}

/// What a put or delete is to tell about the key's past.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Previous {
    /// Whether it existed.
    #[default]
    Existence,
    /// What it held. Costs the shard a read, and the reply its size.
    Value,
}

/// The keys from `start` up to but without `end`, in byte order.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash)]
pub struct KeyRange {
    /// The first key.
    pub start: Bytes,
    /// The first key after the range. Empty: there is none, the range goes to the end of the key space.
    pub end: Bytes,
}

impl KeyRange {
    /// Every key.
    #[must_use]
    pub fn all() -> Self {
        Self::default()
    }

    /// Whether a key lies in the range.
    #[must_use]
    pub fn contains(&self, key: &[u8]) -> bool {
        *self.start <= *key && (self.end.is_empty() || *key < *self.end)
    }

    /// The keys that begin with `prefix`.
    pub fn prefix(prefix: impl Into<Bytes>) -> Self {
        let start = prefix.into();
        let end = after_prefix(&start);
        Self { start, end }
    }

    /// The range that a Rust range of keys means, as in `KeyRange::of(b"a".as_slice()..b"c")`.
    pub fn of<K: AsRef<[u8]>>(range: impl RangeBounds<K>) -> Self {
        let start = match range.start_bound() {
            Bound::Included(key) => Bytes::copy_from_slice(key.as_ref()),
            Bound::Excluded(key) => successor(key.as_ref()),
            Bound::Unbounded => Bytes::new(),
        };
        let end = match range.end_bound() {
            Bound::Included(key) => successor(key.as_ref()),
            Bound::Excluded(key) => Bytes::copy_from_slice(key.as_ref()),
            Bound::Unbounded => Bytes::new(),
        };
        Self { start, end }
    }
}

/// The first key after `key`.
fn successor(key: &[u8]) -> Bytes {
    [key, &[0]].concat().into()
}

/// The first key that neither begins with `prefix` nor is before it; empty if there is none.
fn after_prefix(prefix: &[u8]) -> Bytes {
    let mut end = prefix.to_vec();
    while let Some(last) = end.pop() {
        if last < u8::MAX {
            end.push(last + 1);
            break;
        }
    }
    end.into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_prefix_ends_before_the_next_prefix() {
        for (prefix, end) in [("", &b""[..]), ("a", b"b"), ("a\u{7f}", b"a\x80")] {
            assert_eq!(KeyRange::prefix(prefix).end, end, "prefix {prefix:?}");
        }
        assert_eq!(KeyRange::prefix(&b"a\xff\xff"[..]).end, &b"b"[..]);
        assert_eq!(KeyRange::prefix(&b"\xff\xff"[..]).end, &b""[..], "no key follows");
    }

    #[test]
    fn rust_ranges_keep_their_meaning() {
        let range = |start: &'static [u8], end: &'static [u8]| KeyRange {
            start: start.into(),
            end: end.into(),
        };
        assert_eq!(KeyRange::of::<&str>(..), range(b"", b""));
        assert_eq!(KeyRange::of("a".."c"), range(b"a", b"c"));
        assert_eq!(KeyRange::of("a"..="c"), range(b"a", b"c\0"));
        assert_eq!(
            KeyRange::of::<&str>((Bound::Excluded("a"), Bound::Unbounded)),
            range(b"a\0", b"")
        );
    }
}
