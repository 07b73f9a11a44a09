//! Rows that no checkpoint has written yet, by revision and key. They live in memory only: the Raft log
//! holds what made them.
//!
//! Most revisions changed one key; the further keys of a transaction's revision lie apart, so that a look-up by revision
//! costs no more for them.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::ops::Bound;

use super::key::Key;
use super::record::Row;

/// What a row costs in memory beside its key and value, in bytes, roughly.
const ROW_OVERHEAD_BYTES: u64 = 96;

/// One row on its way to the file.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct FreshRow {
    pub(crate) key: Key,
    pub(crate) row: Row,
}

impl FreshRow {
    fn bytes(&self) -> u64 {
        (self.key.len() + self.row.value.len()) as u64 + ROW_OVERHEAD_BYTES
    }
}

/// Rows by revision and key.
#[derive(Debug, Clone, Default)]
pub(crate) struct FreshRows {
    /// One row of each revision.
    first: BTreeMap<u64, FreshRow>,
    /// The others.
    further: BTreeMap<u64, Vec<FreshRow>>,
    count: u64,
    bytes: u64,
}

impl FreshRows {
    /// Adds a row. Its revision and key must not be here yet.
    pub(crate) fn insert(&mut self, revision: u64, row: FreshRow) {
        self.bytes += row.bytes();
        self.count += 1;
        match self.first.entry(revision) {
            Entry::Vacant(free) => {
                free.insert(row);
            }
            Entry::Occupied(_) => self.further.entry(revision).or_default().push(row),
        }
    }

    pub(crate) fn get(&self, revision: u64, key: &[u8]) -> Option<&Row> {
        let first = self.first.get(&revision)?;
        let further = || self.further.get(&revision)?.iter().find(|row| *row.key == *key);
        let found = match *first.key == *key {
            true => Some(first),
            false => further(),
        };
        found.map(|fresh| &fresh.row)
    }

    /// Forgets a row; false if it was not here.
    pub(crate) fn remove(&mut self, revision: u64, key: &[u8]) -> bool {
        let Some(row) = self.take(revision, key) else {
            return false;
        };
        self.bytes -= row.bytes();
        self.count -= 1;
        true
    }

    fn take(&mut self, revision: u64, key: &[u8]) -> Option<FreshRow> {
        let is_first = *self.first.get(&revision)?.key == *key;
        let Entry::Occupied(mut further) = self.further.entry(revision) else {
            return if is_first {
                self.first.remove(&revision)
            } else {
                None
            };
        };
        let row = if is_first {
            let next = further.get_mut().pop()?;
            self.first.insert(revision, next)
        } else {
            let at = further.get().iter().position(|row| *row.key == *key)?;
            Some(further.get_mut().swap_remove(at))
        };
        if further.get().is_empty() {
            further.remove();
        }
        row
    }

    /// Takes out the rows of the keys from `key` on.
    pub(crate) fn split_off(&mut self, key: &[u8]) -> FreshRows {
        let (mut lower, mut upper) = (FreshRows::default(), FreshRows::default());
        let FreshRows { first, further, .. } = std::mem::take(self);
        let further = further
            .into_iter()
            .flat_map(|(revision, rows)| rows.into_iter().map(move |row| (revision, row)));
        for (revision, row) in first.into_iter().chain(further) {
            match *row.key < *key {
                true => lower.insert(revision, row),
                false => upper.insert(revision, row),
            }
        }
        *self = lower;
        upper
    }

    /// Takes back rows that were to be written.
    pub(crate) fn absorb(&mut self, rows: &FreshRows) {
        for (revision, row) in rows.iter() {
            self.insert(revision, row.clone());
        }
    }

    /// The rows in the order of their revisions.
    pub(crate) fn iter(&self) -> impl DoubleEndedIterator<Item = (u64, &FreshRow)> {
        self.from(Bound::Unbounded)
    }

    /// The rows of higher revisions than this, in the order of their revisions.
    pub(crate) fn after(&self, revision: u64) -> impl Iterator<Item = (u64, &FreshRow)> {
        self.from(Bound::Excluded(revision))
    }

    fn from(&self, start: Bound<u64>) -> impl DoubleEndedIterator<Item = (u64, &FreshRow)> {
        let first = self.first.range((start, Bound::Unbounded));
        first.flat_map(|(revision, first)| {
            let further = self.further.get(revision).into_iter().flatten();
            std::iter::once(first).chain(further).map(|row| (*revision, row))
        })
    }

    pub(crate) fn first_revision(&self) -> Option<u64> {
        self.first.keys().next().copied()
    }

    pub(crate) fn count(&self) -> u64 {
        self.count
    }

    /// Memory held, in bytes, roughly.
    pub(crate) fn bytes(&self) -> u64 {
        self.bytes
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(key: &str, version: u64) -> FreshRow {
        FreshRow {
            key: Key::from(key.as_bytes()),
            row: Row {
                create_revision: 1,
                version,
                value: bytes::Bytes::from_static(b"v"),
                lease: 0,
            },
        }
    }

    #[test]
    fn a_revision_may_have_changed_several_keys() {
        let mut rows = FreshRows::default();
        rows.insert(1, row("a", 1));
        for (number, key) in ["b", "a", "c"].into_iter().enumerate() {
            rows.insert(2, row(key, number as u64 + 2));
        }
        let version = |rows: &FreshRows, revision, key: &str| {
            let row = rows.get(revision, key.as_bytes());
            row.map(|row| row.version)
        };
        assert_eq!((rows.count(), rows.iter().count()), (4, 4));
        assert_eq!(version(&rows, 1, "a"), Some(1));
        assert_eq!(version(&rows, 1, "b"), None);
        assert_eq!(
            ["b", "a", "c", "d"].map(|key| version(&rows, 2, key)),
            [Some(2), Some(3), Some(4), None]
        );
        let mut copy = FreshRows::default();
        copy.absorb(&rows);
        for key in ["b", "c", "a"] {
            assert!(!rows.remove(2, b"d") && !rows.remove(3, key.as_bytes()));
            assert!(rows.remove(2, key.as_bytes()), "{key}");
            assert!(!rows.remove(2, key.as_bytes()), "{key} is gone");
            assert_eq!(version(&rows, 2, key), None);
        }
        assert_eq!((rows.count(), version(&rows, 1, "a")), (1, Some(1)));
        assert!(rows.remove(1, b"a"));
        assert_eq!((rows.count(), rows.bytes(), rows.further.len()), (0, 0, 0));
        assert_eq!((copy.count(), version(&copy, 2, "c")), (4, Some(4)));
    }
}
