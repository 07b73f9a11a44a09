//! Changes in the order of their revisions: what a watcher is told.
//!
//! Rows lie by revision in the file and in memory alike, so the changes after a revision are one walk. What makes it
//! complete: a version superseded after revision r is kept until the floor of the retention passes r, so no change after
//! the floor is missing, nor the version that it replaced. A replica takes versions out only at its checkpoints, and one
//! that has not yet taken them out may still tell: a watcher that keeps up does not fail because somebody compacts up to
//! the present.

use std::ops::Bound;

use bytes::Bytes;

use super::bounds;
use super::fresh::FreshRow;
use super::machine::{KeyValue, ShardRange};
use super::read::ReadError;
use super::record::{Kind, Row, row_key, split_row_key, unseal};
use super::store::{Inner, ShardStore};

/// Which changes are asked for, and how many at once.
#[derive(Debug, Clone, Copy)]
pub struct ChangeQuery<'a> {
    /// Changes of higher revisions than this.
    pub after: u64,
    /// The first key.
    pub start: &'a [u8],
    /// The first key beyond; `None`: to the end of the shard.
    pub end: Option<&'a [u8]>,
    /// A page ends with the revision in which it has looked at so many changes, of any key.
    pub rows_max: usize,
    /// A page ends with the revision in which keys and values reach so many bytes.
    pub bytes_max: usize,
}

/// Whole revisions, in their order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ChangePage {
    /// The versions that came to be, by revision; one of version 0 is a deletion.
    pub changes: Vec<KeyValue>,
    /// All changes of the query up to this revision are here, or were before it.
    pub through: u64,
    /// The shard's revision when the page was made: where `through` is less, there is more.
    pub newest: u64,
    /// The shard's range when the page was made. Of keys outside it the page says nothing: they are another shard's.
    pub range: ShardRange,
}

impl ShardStore {
    /// The changes that `query` asks for.
    ///
    /// # Errors
    /// [`ReadError::Compacted`] where changes after `after` were forgotten.
    pub fn changes(&self, query: ChangeQuery<'_>) -> Result<ChangePage, ReadError> {
        let mut page = Page::new(query);
        let (rows, newest) = {
            let inner = self.shared.read();
            page.range = inner.state.range.clone();
            inner.check_complete(query.start, query.end, query.after)?;
            let newest = inner.state.revision;
            if query.after >= newest {
                return Ok(page.end(query.after, newest));
            }
            let in_memory = inner.first_in_memory();
            if in_memory.is_some_and(|first| first <= query.after + 1) {
                page.take_from_memory(&inner);
                return Ok(page.end(newest, newest));
            }
            (
                inner.rows.clone(),
                in_memory.map_or(newest, |first| first - 1)..=newest,
            )
        };
        let (in_file, newest) = newest.into_inner();
        let first = row_key(query.after + 1, b"");
        for row in rows.range((Bound::Included(&first[..]), Bound::Unbounded))? {
            let (key, record) = row?;
            let Some((revision, name)) = split_row_key(&key) else {
                return Err(ReadError::Corrupt("a row's key is too short".into()));
            };
            if !page.has_room_for(revision) {
                break;
            }
            if page.wants(name) {
                page.push(revision, name, unseal(Kind::Row, &key, record)?);
            }
        }
        Ok(page.end(in_file, newest))
    }

    /// What a key held before its change at `revision`.
    ///
    /// # Errors
    /// [`ReadError::Compacted`] where that was forgotten.
    pub fn version_before(&self, key: &[u8], revision: u64) -> Result<Option<KeyValue>, ReadError> {
        let located = {
            let inner = self.shared.read();
            let before = revision.saturating_sub(1);
            inner.check_complete(key, Some(&[key, &[0]].concat()), before)?;
            let found = inner.state.keys.revision_at(key, before);
            found.map(|found| inner.locate(key, found))
        };
        self.pair_of(located)
    }
}

impl ChangeQuery<'_> {
    fn wants(&self, key: &[u8]) -> bool {
        bounds::contains(self.start, self.end, key)
    }
}

impl Inner {
    /// Whether all changes of `[start, end)` after a revision are still known.
    fn check_complete(&self, start: &[u8], end: Option<&[u8]>, after: u64) -> Result<(), ReadError> {
        let oldest = self.state.retention.floor_over(start, end);
        // In a part that another shard has brought, what it had reclaimed is not known, but never above its floor.
        let is_own = oldest == self.state.retention.floor();
        match after < if is_own { self.reclaimed } else { oldest } {
            true => Err(ReadError::Compacted {
                revision: after,
                oldest,
            }),
            false => Ok(()),
        }
    }

    /// The lowest revision that is not in the file.
    fn first_in_memory(&self) -> Option<u64> {
        let frozen = self.frozen.as_ref().and_then(|rows| rows.first_revision());
        frozen.or_else(|| self.state.fresh.first_revision())
    }
}

/// A page that is being filled.
struct Page<'a> {
    query: ChangeQuery<'a>,
    range: ShardRange,
    changes: Vec<KeyValue>,
    rows: usize,
    bytes: usize,
    /// The revision of the row looked at last.
    at: u64,
    is_cut: bool,
}

impl<'a> Page<'a> {
    fn new(query: ChangeQuery<'a>) -> Page<'a> {
        Page {
            query,
            range: ShardRange {
                start: Bytes::new(),
                end: None,
                r#gen: 0,
            },
            changes: Vec::new(),
            rows: 0,
            bytes: 0,
            at: query.after,
            is_cut: false,
        }
    }

    fn wants(&self, key: &[u8]) -> bool {
        self.query.wants(key) && self.range.contains(key)
    }

    fn take_from_memory(&mut self, inner: &Inner) {
        let after = self.query.after;
        let frozen = inner.frozen.iter().flat_map(|rows| rows.after(after));
        for (revision, FreshRow { key, row }) in frozen.chain(inner.state.fresh.after(after)) {
            if !self.has_room_for(revision) {
                return;
            }
            if self.wants(key) {
                self.push(revision, key, row.clone());
            }
        }
    }

    /// Counts a row of `revision`, unless the page ends before it: never within a revision.
    fn has_room_for(&mut self, revision: u64) -> bool {
        let is_full = self.rows >= self.query.rows_max.max(1) || self.bytes >= self.query.bytes_max.max(1);
        if revision != self.at && is_full {
            self.is_cut = true;
            return false;
        }
        self.at = revision;
        self.rows += 1;
        true
    }

    fn push(&mut self, revision: u64, key: &[u8], row: Row) {
        self.bytes += key.len() + row.value.len();
        self.changes.push(KeyValue {
            key: Bytes::copy_from_slice(key),
            value: row.value,
            create_revision: row.create_revision,
            mod_revision: revision,
            version: row.version,
            lease: row.lease,
        });
    }

    /// `end`: the revision up to which the rows reach that the page was filled from.
    fn end(mut self, end: u64, newest: u64) -> ChangePage {
        // Of one revision, memory has them as they were made, and the file by their keys.
        self.changes
            .sort_by(|a, b| (a.mod_revision, &a.key).cmp(&(b.mod_revision, &b.key)));
        ChangePage {
            changes: self.changes,
            through: if self.is_cut { self.at } else { end },
            newest,
            range: self.range,
        }
    }
}
