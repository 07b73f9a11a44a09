//! Reads of a shard's applied state.
//!
//! A read finds versions in the index under the lock, and their values after it: a version never
//! changes, and the view of the file that belongs to the index keeps it readable. Every row is
//! verified; one that does not pass is an error, never data.

use std::sync::Arc;

use bytes::Bytes;

use super::lease::LeaseState;
use super::machine::KeyValue;
use super::record::{Kind, Row, UnsealError, row_key, unseal};
use super::store::{Inner, ShardStore, Shared};
use crate::engine::{ReadEngineError, TableView};

/// Keys that a scan at a revision takes from the index under one lock.
const SCAN_PIECE: usize = 256;

/// Why a read failed.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    /// The disk failed.
    #[error("the shard's file cannot be read: {0}")]
    Io(#[source] std::io::Error),
    /// The file is damaged; the replica must be rebuilt from its peers.
    #[error("the shard's file is corrupt: {0}")]
    Corrupt(String),
    /// Versions that old were forgotten.
    #[error("revision {revision} is compacted, the oldest readable is {oldest}")]
    Compacted {
        /// The revision asked for.
        revision: u64,
        /// The oldest revision that can be read.
        oldest: u64,
    },
    /// The shard has not come that far.
    #[error("revision {revision} lies ahead of the shard, which is at {newest}")]
    Future {
        /// The revision asked for.
        revision: u64,
        /// The shard's revision.
        newest: u64,
    },
}

/// Pairs of a range, in key order, all as of one revision.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ScanPage {
    /// The pairs.
    pub pairs: Vec<KeyValue>,
    /// Where to go on; `None`: the range is exhausted in this shard.
    pub next: Option<Bytes>,
    /// The shard's revision that the page shows.
    pub revision: u64,
}

/// What a read of one key finds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Found {
    /// The version asked for; `None`: the key did not exist then.
    pub pair: Option<KeyValue>,
    /// The shard's revision at the moment of the read.
    pub revision: u64,
}

/// The versions of a key, as far as they can be read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct History {
    /// The newest first. One of version 0 is a deletion.
    pub versions: Vec<KeyValue>,
    /// There are older ones, beyond what was asked for.
    pub more: bool,
    /// The oldest revision at which the shard can be read: what was superseded by then is forgotten.
    pub oldest: u64,
    /// The shard's revision at the moment of the read.
    pub revision: u64,
}

/// How much a shard holds.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct ShardStats {
    /// Keys that exist.
    pub keys: u64,
    /// Bytes of those keys and their newest values.
    pub bytes: u64,
    /// Versions of all keys, deletions and superseded ones included.
    pub versions: u64,
    /// Bytes of rows that no durable checkpoint holds, roughly.
    pub dirty_bytes: u64,
    /// Open sessions.
    pub sessions: u64,
}

/// A version and where its row lies.
pub(crate) struct Located {
    pub(crate) key: Bytes,
    pub(crate) revision: u64,
    place: Place,
}

enum Place {
    Memory(Row),
    File(Arc<TableView>),
}

impl ShardStore {
    /// The newest version of a key; `None`: it does not exist.
    pub fn get(&self, key: &[u8]) -> Result<Option<KeyValue>, ReadError> {
        let located = self.shared.read().locate_at(key, None)?;
        self.pair_of(located)
    }

    pub(crate) fn pair_of(&self, located: Option<Located>) -> Result<Option<KeyValue>, ReadError> {
        let pair = located.map(|located| located.pair(&self.shared));
        pair.transpose().map(Option::flatten)
    }

    /// A key's version at a revision, or the newest, and the shard's revision at the same moment; `None`: the key lies
    /// outside the shard.
    pub fn get_in_range(&self, key: &[u8], at: Option<u64>) -> Result<Option<Found>, ReadError> {
        let (located, revision) = {
            let inner = self.shared.read();
            if !inner.state.range.contains(key) {
                return Ok(None);
            }
            (inner.locate_at(key, at)?, inner.state.revision)
        };
        let pair = self.pair_of(located)?;
        Ok(Some(Found { pair, revision }))
    }

    /// A key as it was at a revision.
    pub fn get_at(&self, key: &[u8], revision: u64) -> Result<Option<KeyValue>, ReadError> {
        let located = self.shared.read().locate_at(key, Some(revision))?;
        self.pair_of(located)
    }

    /// The versions of a key that can be read, the newest first: those before the revision `before`, at most `limit`, and
    /// no more once values reach `bytes_max`, but one at least. `None`: the key lies outside the shard.
    pub fn history(
        &self,
        key: &[u8],
        before: Option<u64>,
        limit: usize,
        bytes_max: usize,
    ) -> Result<Option<History>, ReadError> {
        let (located, oldest, revision) = {
            let inner = self.shared.read();
            if !inner.state.range.contains(key) {
                return Ok(None);
            }
            let oldest = inner.state.retention.floor_of(key);
            let wanted = |revision: &u64| before.is_none_or(|before| *revision < before);
            let revisions = inner.state.keys.revisions_above(key, oldest);
            let wanted = revisions.into_iter().filter(wanted);
            let located: Vec<_> = wanted.map(|revision| inner.locate(key, revision)).collect();
            (located, oldest, inner.state.revision)
        };
        let (mut versions, mut bytes, mut more) = (Vec::new(), 0, false);
        for version in located {
            let version = version.version(&self.shared)?;
            // Some replicas have forgotten a deletion that old, and some not yet.
            if version.version == 0 && version.mod_revision <= oldest {
                break;
            }
            more = versions.len() >= limit.max(1) || bytes >= bytes_max && !versions.is_empty();
            if more {
                break;
            }
            bytes += version.value.len();
            versions.push(version);
        }
        Ok(Some(History {
            versions,
            more,
            oldest,
            revision,
        }))
    }

    /// Pairs of `[start, end)` within the shard's range, in key order, as they were at the revision `at`: at most
    /// `limit`, and no more once keys and values reach `bytes_max`, but one at least, if there is one. An `end` of
    /// `None` means the range's.
    pub fn scan_at(
        &self,
        start: &[u8],
        end: Option<&[u8]>,
        limit: usize,
        bytes_max: usize,
        at: u64,
    ) -> Result<ScanPage, ReadError> {
        let (mut pairs, mut bytes) = (Vec::new(), 0);
        let mut start = Bytes::copy_from_slice(start);
        loop {
            // Deletions are known by their rows, which are read outside the lock: hence in pieces.
            let piece: Vec<Located> = {
                let inner = self.shared.read();
                inner.check_readable(&start, end, at)?;
                let keys = inner.state.keys.range_at(&start, end, at).take(SCAN_PIECE);
                keys.map(|(key, revision)| inner.locate(key, revision)).collect()
            };
            let last = piece.len() < SCAN_PIECE;
            for version in piece {
                let key = version.key.clone();
                if !pairs.is_empty() && (pairs.len() >= limit || bytes >= bytes_max) {
                    return Ok(ScanPage {
                        pairs,
                        next: Some(key),
                        revision: at,
                    });
                }
                if let Some(pair) = version.pair(&self.shared)? {
                    bytes += pair.key.len() + pair.value.len();
                    pairs.push(pair);
                }
                start = [&key[..], &[0]].concat().into();
            }
            if last {
                return Ok(ScanPage {
                    pairs,
                    next: None,
                    revision: at,
                });
            }
        }
    }

    /// Pairs of `[start, end)` within the shard's range, in key order: at most `limit`, and no more
    /// once keys and values reach `bytes_max`, but one at least. An `end` of `None` means the
    /// range's.
    pub fn scan(
        &self,
        start: &[u8],
        end: Option<&[u8]>,
        limit: usize,
        bytes_max: usize,
    ) -> Result<ScanPage, ReadError> {
        let (located, next, revision) = {
            let inner = self.shared.read();
            let (located, next) = inner.locate_range(start, end, limit, bytes_max);
            (located, next, inner.state.revision)
        };
        let mut pairs = Vec::with_capacity(located.len());
        for version in located {
            pairs.extend(version.pair(&self.shared)?);
        }
        Ok(ScanPage {
            pairs,
            next,
            revision,
        })
    }

    /// The revision of the newest change.
    pub fn revision(&self) -> u64 {
        self.shared.read().state.revision
    }

    /// The oldest revision at which all keys of `[start, end)` can be read; an `end` of `None` means to the end.
    pub fn oldest_revision(&self, start: &[u8], end: Option<&[u8]>) -> u64 {
        self.shared.read().state.retention.floor_over(start, end)
    }

    /// The shard's leases, by id.
    pub fn leases(&self) -> Vec<LeaseState> {
        self.shared.read().state.leases.states().collect()
    }

    /// Whether there is a lease.
    pub fn has_leases(&self) -> bool {
        self.shared.read().state.leases.count() > 0
    }

    /// A lease that lives at `key`, the keys of the shard that hang on it, at most `keys_max` of them, and the shard's
    /// revision at the same moment.
    pub fn lease(&self, id: u64, key: &[u8], keys_max: usize) -> (Option<(LeaseState, Vec<Bytes>)>, u64) {
        let inner = self.shared.read();
        let found = inner.state.leases.find(id, key).map(|(state, keys)| {
            let keys = keys.take(keys_max).map(|key| Bytes::copy_from_slice(key));
            (state, keys.collect())
        });
        (found, inner.state.revision)
    }

    /// Whether a checkpoint would take rows out of the file that nobody can see any more.
    pub fn has_forgotten_rows(&self) -> bool {
        let inner = self.shared.read();
        let floor = inner.state.retention.floor();
        !inner.unremoved.is_empty() || inner.state.keys.has_dead(floor)
    }

    /// How much the shard holds.
    pub fn stats(&self) -> ShardStats {
        let inner = self.shared.read();
        let frozen_bytes = inner.frozen.as_ref().map_or(0, |frozen| frozen.bytes());
        ShardStats {
            keys: inner.state.keys.live_keys(),
            bytes: inner.state.keys.live_bytes(),
            versions: inner.state.keys.versions(),
            dirty_bytes: inner.state.fresh.bytes() + frozen_bytes,
            sessions: inner.state.sessions.count(),
        }
    }
}

impl Inner {
    /// Where a version in the index lies. See the invariant in [`super::store`].
    pub(crate) fn locate(&self, key: &[u8], revision: u64) -> Located {
        let frozen = || self.frozen.as_ref()?.get(revision, key);
        let place = match self.state.fresh.get(revision, key).or_else(frozen) {
            Some(row) => Place::Memory(row.clone()),
            None => Place::File(self.rows.clone()),
        };
        Located {
            key: Bytes::copy_from_slice(key),
            revision,
            place,
        }
    }

    /// Where a key's version at a revision lies, or the newest if it is no deletion.
    fn locate_at(&self, key: &[u8], at: Option<u64>) -> Result<Option<Located>, ReadError> {
        let found = match at {
            Some(at) => {
                self.check_readable(key, Some(&[key, &[0]].concat()), at)?;
                self.state.keys.revision_at(key, at)
            }
            None => self.state.keys.live(key).map(|head| head.mod_revision),
        };
        Ok(found.map(|found| self.locate(key, found)))
    }

    fn locate_range(
        &self,
        start: &[u8],
        end: Option<&[u8]>,
        limit: usize,
        bytes_max: usize,
    ) -> (Vec<Located>, Option<Bytes>) {
        let (mut located, mut bytes) = (Vec::new(), 0);
        for (key, head) in self.state.keys.live_range(start, end) {
            if located.len() >= limit || bytes >= bytes_max {
                return (located, Some(Bytes::copy_from_slice(key)));
            }
            bytes += key.len() + head.value_len as usize;
            located.push(self.locate(key, head.mod_revision));
        }
        (located, None)
    }

    /// Whether `[start, end)` can be read at a revision.
    pub(crate) fn check_readable(
        &self,
        start: &[u8],
        end: Option<&[u8]>,
        revision: u64,
    ) -> Result<(), ReadError> {
        let oldest = self.state.retention.floor_over(start, end);
        let newest = self.state.revision;
        if revision < oldest {
            return Err(ReadError::Compacted { revision, oldest });
        }
        if revision > newest {
            return Err(ReadError::Future { revision, newest });
        }
        Ok(())
    }
}

impl Located {
    /// The version's row, verified.
    pub(crate) fn read(self, shared: &Shared) -> Result<Row, ReadError> {
        let view = match self.place {
            Place::Memory(row) => return Ok(row),
            Place::File(view) => view,
        };
        let (replica, cache) = (shared.owner.replica_id, &shared.row_cache);
        if let Some(row) = cache.get(replica, self.revision, &self.key) {
            return Ok(row);
        }
        let row = read_row(&view, self.revision, &self.key)?;
        cache.insert(replica, self.revision, &self.key, &row);
        Ok(row)
    }

    /// The same without the cache of rows: what lies in the file comes from there.
    pub(crate) fn read_stored(self) -> Result<Row, ReadError> {
        match self.place {
            Place::Memory(row) => Ok(row),
            Place::File(view) => read_row(&view, self.revision, &self.key),
        }
    }

    /// The version as its reader gets it; `None`: a deletion.
    fn pair(self, shared: &Shared) -> Result<Option<KeyValue>, ReadError> {
        let version = self.version(shared)?;
        Ok((version.version > 0).then_some(version))
    }

    /// The version, a deletion included.
    fn version(self, shared: &Shared) -> Result<KeyValue, ReadError> {
        let (key, mod_revision) = (self.key.clone(), self.revision);
        let row = self.read(shared)?;
        Ok(KeyValue {
            key,
            value: row.value,
            create_revision: row.create_revision,
            mod_revision,
            version: row.version,
            lease: row.lease,
        })
    }
}

fn read_row(view: &TableView, revision: u64, key: &[u8]) -> Result<Row, ReadError> {
    let row_key = row_key(revision, key);
    let record = view
        .get(&row_key)?
        .ok_or_else(|| ReadError::Corrupt(format!("the row of revision {revision} is missing")))?;
    Ok(unseal(Kind::Row, &row_key, record)?)
}

impl From<ReadEngineError> for ReadError {
    fn from(error: ReadEngineError) -> ReadError {
        match error {
            ReadEngineError::Io(error) => ReadError::Io(error),
            ReadEngineError::Corrupt(why) => ReadError::Corrupt(why),
        }
    }
}

impl From<UnsealError> for ReadError {
    fn from(error: UnsealError) -> ReadError {
        ReadError::Corrupt(error.to_string())
    }
}
