//! Rows that were written to files or read from them lately, kept in memory for the next reader.
//!
//! A version never changes, and a replica's id is never used twice: what (replica, revision, key) names once, it names
//! for ever, so nothing ever has to be taken out but to make room. The key is kept beside the row, and only its checksum
//! is part of the name: of two keys of one revision with one checksum the row that came last is kept.

use std::collections::HashSet;
use std::fmt;
use std::hash::{BuildHasherDefault, DefaultHasher};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::Bytes;
use quick_cache::sync::{Cache, DefaultLifecycle};
use quick_cache::{OptionsBuilder, Weighter};

use super::fresh::FreshRows;
use super::key::Key;
use super::record::Row;
use super::store::ShardStore;

/// What a row costs in memory beside its value, in bytes, roughly.
const ROW_OVERHEAD_BYTES: u64 = 128;
/// What a row costs, for the first guess how many there will be.
const ROW_BYTES_GUESS: u64 = 512;

/// Replica, revision and the key's checksum.
type Name = (u64, u64, u32);
/// Of no random seed, so that simulations repeat themselves.
type Hashing = BuildHasherDefault<DefaultHasher>;
type Rows = Cache<Name, (Key, Row), Weight, Hashing, DefaultLifecycle<Name, (Key, Row)>>;

#[derive(Clone)]
struct Weight;

impl Weighter<Name, (Key, Row)> for Weight {
    fn weight(&self, _: &Name, (key, row): &(Key, Row)) -> u64 {
        key.len() as u64 + row.value.len() as u64 + ROW_OVERHEAD_BYTES
    }
}

/// Memory for rows of all shards of a host. A cheap handle.
#[derive(Clone, Default)]
pub struct RowCache(Option<Arc<Counted>>);

struct Counted {
    rows: Rows,
    hits: AtomicU64,
    misses: AtomicU64,
}

/// The figures of a cache of rows.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct RowCacheStats {
    /// What the rows take, in bytes.
    pub bytes: u64,
    /// Reads that found their row, since the cache was made.
    pub hits: u64,
    /// Reads that had to go to a file.
    pub misses: u64,
}

impl RowCache {
    /// Room for so many bytes; 0: every read goes to the file.
    pub fn new(bytes_max: u64) -> RowCache {
        let items = usize::try_from(bytes_max / ROW_BYTES_GUESS).unwrap_or(usize::MAX);
        let options = OptionsBuilder::new()
            .estimated_items_capacity(items)
            .weight_capacity(bytes_max)
            .build();
        // It is refused only without the two numbers.
        let made = options.ok().filter(|_| bytes_max > 0).map(|options| {
            let lifecycle = DefaultLifecycle::default();
            Arc::new(Counted {
                rows: Rows::with_options(options, Weight, Hashing::default(), lifecycle),
                hits: AtomicU64::new(0),
                misses: AtomicU64::new(0),
            })
        });
        RowCache(made)
    }

    pub(crate) fn get(&self, replica: u64, revision: u64, key: &[u8]) -> Option<Row> {
        let counted = self.0.as_ref()?;
        let found = counted.rows.get(&(replica, revision, crc32c::crc32c(key)));
        let row = found.and_then(|(kept, row)| (*kept == *key).then_some(row));
        let count = if row.is_some() {
            &counted.hits
        } else {
            &counted.misses
        };
        count.fetch_add(1, Ordering::Relaxed);
        row
    }

    /// Keeps what a checkpoint has written: of each key the newest, if it exists, in a copy. A value as it was received is a
    /// slice of all that came with it.
    pub(crate) fn keep(&self, replica: u64, rows: &FreshRows) {
        if self.0.is_none() {
            return;
        }
        // Of keys with one checksum one is kept.
        let mut seen = HashSet::<u32, Hashing>::default();
        for (revision, fresh) in rows.iter().rev() {
            if seen.insert(crc32c::crc32c(&fresh.key)) && fresh.row.version > 0 {
                let value = Bytes::copy_from_slice(&fresh.row.value);
                let row = Row { value, ..fresh.row };
                self.insert(replica, revision, &fresh.key, &row);
            }
        }
    }

    /// Forgets a row that nobody will ask for.
    pub(crate) fn forget(&self, replica: u64, revision: u64, key: &[u8]) {
        if let Some(counted) = &self.0 {
            counted.rows.remove(&(replica, revision, crc32c::crc32c(key)));
        }
    }

    pub(crate) fn insert(&self, replica: u64, revision: u64, key: &[u8], row: &Row) {
        if let Some(counted) = &self.0 {
            let name = (replica, revision, crc32c::crc32c(key));
            counted.rows.insert(name, (Key::from(key), row.clone()));
        }
    }

    /// The cache's figures; nothing but zeros where there is none.
    pub fn stats(&self) -> RowCacheStats {
        let Some(counted) = &self.0 else {
            return RowCacheStats::default();
        };
        RowCacheStats {
            bytes: counted.rows.weight(),
            hits: counted.hits.load(Ordering::Relaxed),
            misses: counted.misses.load(Ordering::Relaxed),
        }
    }
}

impl ShardStore {
    /// Whether readers are to find in memory what checkpoints write from now on: where the shard is read.
    pub fn keep_written_rows(&self, keeps: bool) {
        self.shared.keeps_written.store(keeps, Ordering::Relaxed);
    }
}

impl fmt::Debug for RowCache {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let bytes = self.stats().bytes;
        f.debug_struct("RowCache").field("bytes", &bytes).finish()
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;
    use crate::shard::fresh::FreshRow;

    fn row(revision: u64) -> Row {
        Row {
            create_revision: revision,
            version: 1,
            value: Bytes::from(vec![7; 1000]),
            lease: 0,
        }
    }

    #[test]
    fn memory_is_bounded_and_what_is_kept_is_right() {
        let cache = RowCache::new(100_000);
        for revision in 0..1_000 {
            cache.insert(1, revision, b"k", &row(revision));
            cache.insert(1, revision, b"l", &row(revision + 2));
            cache.insert(2, revision, b"k", &row(revision + 1));
        }
        let kept: Vec<u64> = (0..1_000)
            .filter(|revision| cache.get(1, *revision, b"k").is_some())
            .collect();
        assert!(!kept.is_empty() && kept.len() < 100, "{}", kept.len());
        for revision in kept {
            assert_eq!(cache.get(1, revision, b"k"), Some(row(revision)));
            let other = cache.get(1, revision, b"l");
            assert!(other.is_none_or(|other| other == row(revision + 2)));
        }
        assert!((1..=100_000).contains(&cache.stats().bytes));
    }

    #[test]
    fn of_what_is_written_the_newest_of_each_living_key_is_kept_by_itself() {
        let cache = RowCache::new(1 << 20);
        let received = Bytes::from(vec![7; 10_000]);
        let mut rows = FreshRows::default();
        for (revision, key, version) in [(1, "a", 1), (2, "b", 1), (3, "a", 2), (4, "b", 0), (4, "c", 1)] {
            let row = Row {
                create_revision: 1,
                version,
                value: received.slice(..100),
                lease: 0,
            };
            let key = Key::from(key.as_bytes());
            rows.insert(revision, FreshRow { key, row });
        }
        cache.keep(1, &rows);
        let kept = [(1, "a"), (2, "b"), (3, "a"), (4, "b"), (4, "c")];
        let kept = kept.map(|(revision, key)| cache.get(1, revision, key.as_bytes()));
        assert_eq!(
            kept.each_ref().map(Option::is_some),
            [false, false, true, false, true]
        );
        let row = kept.into_iter().flatten().next().expect("a kept row");
        assert_eq!((row.value.len(), row.version), (100, 2));
        let received_at = received.as_ptr_range();
        assert!(
            !received_at.contains(&row.value.as_ptr()),
            "it would keep all that was received"
        );
        cache.forget(1, 3, b"a");
        assert!(cache.get(1, 3, b"a").is_none() && cache.get(1, 4, b"c").is_some());
    }

    #[test]
    fn without_room_nothing_is_kept() {
        let cache = RowCache::new(0);
        cache.insert(1, 1, b"k", &row(1));
        assert_eq!(cache.get(1, 1, b"k"), None);
    }
}
