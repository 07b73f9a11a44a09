//! Rows that were read from files, kept in memory for the next reader.
//!
//! A version never changes, and a replica's id is never used twice: what (replica, revision) names once, it names for
//! ever, so nothing ever has to be taken out but for want of room.

use std::fmt;
use std::hash::{BuildHasherDefault, DefaultHasher};
use std::sync::Arc;

use quick_cache::sync::{Cache, DefaultLifecycle};
use quick_cache::{OptionsBuilder, Weighter};

use super::record::Row;

/// What a row costs in memory beside its value, in bytes, roughly.
const ROW_OVERHEAD_BYTES: u64 = 128;
/// What a row costs, for the first guess how many there will be.
const ROW_BYTES_GUESS: u64 = 512;

/// Replica and revision.
type Name = (u64, u64);
/// Of no random seed, so that simulations repeat themselves.
type Hashing = BuildHasherDefault<DefaultHasher>;
type Rows = Cache<Name, Row, Weight, Hashing, DefaultLifecycle<Name, Row>>;

#[derive(Clone)]
struct Weight;

impl Weighter<Name, Row> for Weight {
    fn weight(&self, _: &Name, row: &Row) -> u64 {
        row.value.len() as u64 + ROW_OVERHEAD_BYTES
    }
}

/// Memory for rows of all shards of a host. A cheap handle.
#[derive(Clone, Default)]
pub struct RowCache(Option<Arc<Rows>>);

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
            Arc::new(Rows::with_options(options, Weight, Hashing::default(), lifecycle))
        });
        RowCache(made)
    }

    pub(crate) fn get(&self, replica: u64, revision: u64) -> Option<Row> {
        self.0.as_ref()?.get(&(replica, revision))
    }

    pub(crate) fn insert(&self, replica: u64, revision: u64, row: &Row) {
        if let Some(rows) = &self.0 {
            rows.insert((replica, revision), row.clone());
        }
    }
}

impl fmt::Debug for RowCache {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let bytes = self.0.as_ref().map_or(0, |rows| rows.weight());
        f.debug_struct("RowCache").field("bytes", &bytes).finish()
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;

    fn row(revision: u64) -> Row {
        Row {
            create_revision: revision,
            version: 1,
            value: Bytes::from(vec![7; 1000]),
        }
    }

    #[test]
    fn memory_is_bounded_and_what_is_kept_is_right() {
        let cache = RowCache::new(100_000);
        for revision in 0..1_000 {
            cache.insert(1, revision, &row(revision));
            cache.insert(2, revision, &row(revision + 1));
        }
        let kept: Vec<u64> = (0..1_000)
            .filter(|revision| cache.get(1, *revision).is_some())
            .collect();
        assert!(!kept.is_empty() && kept.len() < 100, "{}", kept.len());
        for revision in kept {
            assert_eq!(cache.get(1, revision), Some(row(revision)));
        }
        assert!(cache.0.as_ref().is_some_and(|rows| rows.weight() <= 100_000));
    }

    #[test]
    fn without_room_nothing_is_kept() {
        let cache = RowCache::new(0);
        cache.insert(1, 1, &row(1));
        assert_eq!(cache.get(1, 1), None);
    }
}
