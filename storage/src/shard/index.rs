//! The key index: which revisions each key has, in memory, and the newest version's particulars.
//!
//! Rows lie in the file by revision, so that a checkpoint appends; this index is what finds a key.
//! It is rebuilt at open by recording every row in the order of revisions, the same call as `apply`
//! makes. A key costs about 150 bytes and what it is longer than [`Key`] holds itself, and each older
//! version that is retained some 40: values stay out.
//!
//! A version leaves when nobody can see it: superseded at or before the retention's floor, or a
//! deletion itself that old. [`KeyIndex::reclaim`] finds those in the order in which they died
//! without visiting any other key.

use std::collections::BTreeMap;
use std::ops::Bound;

use bytes::Bytes;

use super::dying::{Dying, DyingQueue};
use super::fingerprint::Fingerprint;
use super::key::Key;
use super::record::Row;

/// A key's newest version.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Head {
    pub(crate) mod_revision: u64,
    pub(crate) create_revision: u64,
    /// 0: the newest version is a deletion.
    pub(crate) version: u64,
    pub(crate) value_len: u32,
    pub(crate) value_crc: u32,
}

impl Head {
    pub(crate) fn new(mod_revision: u64, row: &Row) -> Head {
        Head {
            mod_revision,
            create_revision: row.create_revision,
            version: row.version,
            value_len: u32::try_from(row.value.len()).unwrap_or(u32::MAX),
            value_crc: crc32c::crc32c(&row.value),
        }
    }

    pub(crate) fn is_live(&self) -> bool {
        self.version > 0
    }
}

/// The versions of one key.
#[derive(Debug, Clone)]
struct Versions {
    head: Head,
    /// Superseded revisions, ascending.
    older: Vec<u64>,
}

impl Versions {
    /// The revision of the version that was the newest at `revision`.
    fn at(&self, revision: u64) -> Option<u64> {
        if self.head.mod_revision <= revision {
            return Some(self.head.mod_revision);
        }
        let after = self.older.partition_point(|candidate| *candidate <= revision);
        after.checked_sub(1).map(|at| self.older[at])
    }

    /// Notes that a version is not the newest any more. Most keys have few older ones, so little room is kept for more.
    fn supersede(&mut self, revision: u64) {
        if self.older.len() == self.older.capacity() {
            self.older.reserve_exact(1 + self.older.len() / 4);
        }
        self.older.push(revision);
    }

    /// The version that died with the change of a revision: what that superseded, or, if that has left, the deletion itself.
    fn dead_of(&self, died_at: u64) -> Option<u64> {
        let before = self.older.partition_point(|revision| *revision < died_at);
        if let Some(at) = before.checked_sub(1) {
            return Some(self.older[at]);
        }
        let is_living_head = self.head.mod_revision == died_at && self.head.is_live();
        (!is_living_head).then_some(died_at)
    }
}

/// All keys of a shard and their revisions.
#[derive(Debug, Clone, Default)]
pub(crate) struct KeyIndex {
    keys: BTreeMap<Key, Versions>,
    /// Ascending in `died_at`.
    dying: DyingQueue,
    versions: u64,
    live_keys: u64,
    live_bytes: u64,
    /// The sum of the live heads' fingerprints: independent of the order of changes.
    print_sum: u64,
}

impl KeyIndex {
    /// The newest version of a key, a deletion included.
    pub(crate) fn head(&self, key: &[u8]) -> Option<&Head> {
        self.keys.get(key).map(|versions| &versions.head)
    }

    /// The newest version of a key that exists.
    pub(crate) fn live(&self, key: &[u8]) -> Option<&Head> {
        self.head(key).filter(|head| head.is_live())
    }

    /// Makes `head` the newest version of `key`, and gives the index's own copy of the key. Its revision must be above
    /// every one recorded.
    pub(crate) fn record(&mut self, key: &[u8], head: Head) -> Key {
        let at = (Bound::Included(key), Bound::Included(key));
        let (own, superseded) = match self.keys.range_mut::<[u8], _>(at).next() {
            Some((own, versions)) => {
                let superseded = std::mem::replace(&mut versions.head, head);
                versions.supersede(superseded.mod_revision);
                (own.clone(), Some(superseded))
            }
            None => {
                let own = Key::from(key);
                let older = Vec::new();
                self.keys.insert(own.clone(), Versions { head, older });
                (own, None)
            }
        };
        self.versions += 1;
        self.count(key, &head, 1);
        if let Some(superseded) = superseded {
            self.count(key, &superseded, -1);
            // A deletion has been dying since it was recorded.
            if superseded.is_live() {
                self.expect_death(head.mod_revision, &own);
            }
        }
        // After what it superseded: a key leaves with the last of its versions.
        if !head.is_live() {
            self.expect_death(head.mod_revision, &own);
        }
        own
    }

    /// Whether this version of a key is recorded.
    pub(crate) fn has(&self, key: &[u8], revision: u64) -> bool {
        let Some(versions) = self.keys.get(key) else {
            return false;
        };
        versions.head.mod_revision == revision || versions.older.binary_search(&revision).is_ok()
    }

    /// Takes out the keys from `key` on. Visits each of them.
    pub(crate) fn split_off(&mut self, key: &[u8]) -> KeyIndex {
        let mut upper = KeyIndex {
            keys: self.keys.split_off(key),
            ..KeyIndex::default()
        };
        for (own, versions) in &upper.keys {
            upper.versions += 1 + versions.older.len() as u64;
            let (bytes, print) = weight_of(own, &versions.head);
            upper.live_keys += u64::from(versions.head.is_live());
            upper.live_bytes += bytes;
            upper.print_sum = upper.print_sum.wrapping_add(print);
        }
        self.versions -= upper.versions;
        self.live_keys -= upper.live_keys;
        self.live_bytes -= upper.live_bytes;
        self.print_sum = self.print_sum.wrapping_sub(upper.print_sum);
        upper.dying = self.dying.split_off(key);
        upper
    }

    /// Takes in the keys of another index, none of which is here. Visits each of them.
    pub(crate) fn absorb(&mut self, other: KeyIndex) {
        self.keys.extend(other.keys);
        self.dying.absorb(other.dying);
        self.versions += other.versions;
        self.live_keys += other.live_keys;
        self.live_bytes += other.live_bytes;
        self.print_sum = self.print_sum.wrapping_add(other.print_sum);
    }

    /// The first key of the second half, by bytes; `None` with fewer than two keys.
    pub(crate) fn middle_key(&self) -> Option<Bytes> {
        let mut seen_bytes = 0;
        let mut live = self.live_range(&[], None);
        let (first, head) = live.next()?;
        seen_bytes += weight_of(first, head).0;
        let mut last = None;
        for (key, head) in live {
            last = Some(key);
            if seen_bytes * 2 >= self.live_bytes {
                break;
            }
            seen_bytes += weight_of(key, head).0;
        }
        last.map(|key| Bytes::copy_from_slice(key))
    }

    /// The revision of the version that was the newest at `revision`.
    pub(crate) fn revision_at(&self, key: &[u8], revision: u64) -> Option<u64> {
        self.keys.get(key)?.at(revision)
    }

    /// The revisions of a key's versions, the newest first, without those superseded at or before `floor`. The last may
    /// be a deletion at or before the floor, which nobody sees: only its row tells.
    pub(crate) fn revisions_above(&self, key: &[u8], floor: u64) -> Vec<u64> {
        let Some(Versions { head, older }) = self.keys.get(key) else {
            return Vec::new();
        };
        let mut seen = vec![head.mod_revision];
        let mut superseded_at = head.mod_revision;
        for revision in older.iter().rev() {
            if superseded_at <= floor {
                break;
            }
            seen.push(*revision);
            superseded_at = *revision;
        }
        seen
    }

    /// The keys that exist in `[start, end)` and their newest versions, in key order.
    pub(crate) fn live_range<'a>(
        &'a self,
        start: &'a [u8],
        end: Option<&'a [u8]>,
    ) -> impl Iterator<Item = (&'a Key, &'a Head)> {
        let keys = self.range(start, end);
        keys.map(|(key, versions)| (key, &versions.head))
            .filter(|(_, head)| head.is_live())
    }

    /// The keys of `[start, end)` that had a version at `revision`, a deletion perhaps, and that version's revision.
    pub(crate) fn range_at<'a>(
        &'a self,
        start: &'a [u8],
        end: Option<&'a [u8]>,
        revision: u64,
    ) -> impl Iterator<Item = (&'a Key, u64)> {
        let keys = self.range(start, end);
        keys.filter_map(move |(key, versions)| Some((key, versions.at(revision)?)))
    }

    fn range<'a>(
        &'a self,
        start: &'a [u8],
        end: Option<&'a [u8]>,
    ) -> impl Iterator<Item = (&'a Key, &'a Versions)> {
        let empty = end.is_some_and(|end| end <= start);
        let end = end.map_or(Bound::Unbounded, Bound::Excluded);
        let bounds = if empty {
            // BTreeMap refuses a range that runs backwards; this one holds nothing.
            (Bound::Included(start), Bound::Excluded(start))
        } else {
            (Bound::Included(start), end)
        };
        self.keys.range::<[u8], _>(bounds)
    }

    /// Drops the versions that nobody sees at `floor` or above, and names them.
    pub(crate) fn reclaim(&mut self, floor: u64) -> Vec<(u64, Key)> {
        let mut gone = Vec::new();
        while let Some(Dying { died_at, key }) = self.dying.pop_dead(floor) {
            let dead = self
                .keys
                .get(&key[..])
                .and_then(|versions| versions.dead_of(died_at));
            if let Some(revision) = dead
                && self.remove(&key, revision)
            {
                gone.push((revision, key));
            }
        }
        gone
    }

    /// Whether [`KeyIndex::reclaim`] would drop any.
    pub(crate) fn has_dead(&self, floor: u64) -> bool {
        self.dying.has_dead(floor)
    }

    /// How many versions are recorded: as many rows as a checkpoint's file holds.
    pub(crate) fn versions(&self) -> u64 {
        self.versions
    }

    pub(crate) fn live_keys(&self) -> u64 {
        self.live_keys
    }

    /// Bytes of the keys that exist and their values.
    pub(crate) fn live_bytes(&self) -> u64 {
        self.live_bytes
    }

    /// The sum over the live versions of [`head_fingerprint`].
    pub(crate) fn rows_sum(&self) -> u64 {
        self.print_sum
    }

    /// The index's own copy of a key.
    #[cfg(debug_assertions)]
    pub(crate) fn own_key(&self, key: &[u8]) -> Option<Key> {
        Some(self.keys.get_key_value(key)?.0.clone())
    }

    pub(crate) fn fingerprint(&self, print: Fingerprint) -> Fingerprint {
        print.number(self.live_keys).number(self.print_sum)
    }

    fn expect_death(&mut self, died_at: u64, key: &Key) {
        let key = key.clone();
        self.dying.push(Dying { died_at, key });
    }

    fn remove(&mut self, key: &Key, revision: u64) -> bool {
        let Some(versions) = self.keys.get_mut(key) else {
            return false;
        };
        if versions.head.mod_revision == revision {
            // It is a deletion, and what it superseded has died before it.
            debug_assert!(
                versions.older.is_empty(),
                "{key:?} keeps versions older than its end"
            );
            self.keys.remove(key);
        } else {
            let Ok(at) = versions.older.binary_search(&revision) else {
                return false;
            };
            versions.older.remove(at);
            if versions.older.is_empty() {
                versions.older = Vec::new();
            }
        }
        self.versions -= 1;
        true
    }

    fn count(&mut self, key: &[u8], head: &Head, sign: i64) {
        if !head.is_live() {
            return;
        }
        let (bytes, print) = weight_of(key, head);
        self.live_keys = self.live_keys.wrapping_add_signed(sign);
        self.live_bytes = self.live_bytes.wrapping_add_signed(sign * bytes as i64);
        let print = print as i64;
        self.print_sum = self.print_sum.wrapping_add_signed(print.wrapping_mul(sign));
    }
}

/// What a key counts for with its newest version: bytes of key and value, and its part of the fingerprint.
fn weight_of(key: &[u8], head: &Head) -> (u64, u64) {
    match head.is_live() {
        true => (
            key.len() as u64 + u64::from(head.value_len),
            head_fingerprint(key, head),
        ),
        false => (0, 0),
    }
}

/// A fingerprint of a key and its newest version.
pub(crate) fn head_fingerprint(key: &[u8], head: &Head) -> u64 {
    Fingerprint::new()
        .bytes(key)
        .number(head.mod_revision)
        .number(head.create_revision)
        .number(head.version)
        .number(u64::from(head.value_len))
        .number(u64::from(head.value_crc))
        .finish()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn head(revision: u64, version: u64) -> Head {
        let row = Row {
            create_revision: 1,
            version,
            value: bytes::Bytes::from_static(b"val"),
            lease: 0,
        };
        Head::new(revision, &row)
    }

    fn index(changes: &[(&str, u64)]) -> KeyIndex {
        let mut index = KeyIndex::default();
        for (at, (key, version)) in changes.iter().enumerate() {
            index.record(key.as_bytes(), head(at as u64 + 1, *version));
        }
        index
    }

    fn names(gone: Vec<(u64, Key)>) -> Vec<u64> {
        gone.into_iter().map(|(revision, _)| revision).collect()
    }

    #[test]
    fn each_revision_sees_its_version() {
        let index = index(&[("a", 1), ("a", 2), ("b", 1), ("a", 0), ("a", 1)]);
        let seen: Vec<_> = (0..=6)
            .map(|revision| index.revision_at(b"a", revision))
            .collect();
        assert_eq!(seen, [None, Some(1), Some(2), Some(2), Some(4), Some(5), Some(5)]);
        assert_eq!(index.revision_at(b"absent", 9), None);
        assert_eq!(
            (index.versions(), index.live_keys(), index.live_bytes()),
            (5, 2, 8)
        );
    }

    #[test]
    fn the_dead_leave_in_order_and_the_visible_stay() {
        let mut index = index(&[("a", 1), ("a", 2), ("b", 1), ("a", 0), ("a", 1), ("b", 0)]);
        assert_eq!(names(index.reclaim(1)), []);
        assert!(!index.has_dead(1) && index.has_dead(2));
        assert_eq!(names(index.reclaim(2)), [1]);
        assert!(!index.has_dead(2));
        assert_eq!(names(index.reclaim(5)), [2, 4]);
        assert_eq!(index.revision_at(b"a", 5), Some(5));
        let mut gone = names(index.reclaim(6));
        gone.sort();
        assert_eq!(gone, [3, 6]);
        assert_eq!(index.head(b"b"), None);
        assert!(index.keys.values().all(|versions| versions.older.is_empty()) && index.dying.is_empty());
        assert_eq!((index.versions(), index.live_keys()), (1, 1));
    }

    /// Replicas forget at different times; none of them may show more than another.
    #[test]
    fn a_history_ends_where_reads_end() {
        let mut index = index(&[("a", 1), ("a", 2), ("b", 1), ("a", 0), ("a", 1), ("b", 0)]);
        let shown = |index: &KeyIndex, key: &str, floor| index.revisions_above(key.as_bytes(), floor);
        assert_eq!(shown(&index, "a", 0), [5, 4, 2, 1]);
        assert_eq!(shown(&index, "b", 0), [6, 3]);
        let seen = |index: &KeyIndex, key: &str, floor| {
            let deletions = [4, 6];
            let mut shown = shown(index, key, floor);
            shown.retain(|revision| *revision > floor || !deletions.contains(revision));
            shown
        };
        for floor in 0..=6 {
            let before: Vec<_> = ["a", "b", "absent"].map(|key| seen(&index, key, floor)).into();
            index.reclaim(floor);
            let after: Vec<_> = ["a", "b", "absent"].map(|key| seen(&index, key, floor)).into();
            assert_eq!(before, after, "floor {floor}");
        }
        assert_eq!(seen(&index, "a", 6), [5]);
        assert_eq!(seen(&index, "b", 6), [0; 0], "deleted, and that is forgotten");
    }

    #[test]
    fn the_fingerprint_is_that_of_what_is_live() {
        let print = |index: &KeyIndex| index.fingerprint(Fingerprint::new()).finish();
        let mut deleted = index(&[("b", 1), ("a", 1), ("b", 0)]);
        let mut never = KeyIndex::default();
        never.record(b"a", head(2, 1));
        assert_eq!(print(&deleted), print(&never));
        deleted.reclaim(9);
        assert_eq!(print(&deleted), print(&never));
        never.record(b"a", head(3, 2));
        assert_ne!(print(&deleted), print(&never));
    }

    #[test]
    fn a_range_that_runs_backwards_is_empty() {
        let index = index(&[("a", 1), ("b", 1), ("c", 0), ("d", 1)]);
        let keys = |start: &str, end: Option<&str>| {
            let range = index.live_range(start.as_bytes(), end.map(str::as_bytes));
            range.map(|(key, _)| key[0] as char).collect::<String>()
        };
        assert_eq!(keys("", None), "abd");
        assert_eq!(keys("b", Some("d")), "b");
        assert_eq!(keys("d", Some("a")), "");
        assert_eq!(keys("a", Some("a")), "");
    }
}
