//! One group's log in memory: where each entry lies, and the group's marks.
//!
//! Entries are contiguous by index, so the index is a queue of slots. A slot knows its record's
//! sequence (and so its segment) and, for recent entries, the payload. All of it reflects what was
//! queued, not what is durable; only [`GroupIndex::flushed`] speaks of the disk.

use std::collections::VecDeque;
use std::ops::Range;

use bytes::Bytes;

/// The id of the replica whose log this is. Never reused, also not after a destroy.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct LogGroup(pub u64);

/// Where one entry's record lies.
#[derive(Debug, Clone)]
pub(super) struct Slot {
    /// The record's sequence.
    pub(super) sequence: u64,
    /// The record's length on disk, in bytes.
    pub(super) bytes: u32,
    /// The payload. Always there until the record is durable.
    pub(super) cached: Option<Bytes>,
}

/// A group's entries and marks.
#[derive(Debug, Default)]
pub(super) struct GroupIndex {
    /// The index of the first slot; without meaning when there is none.
    first: u64,
    slots: VecDeque<Slot>,
    /// The vote and how many votes came before it, plus one.
    pub(super) vote: Option<(u64, Bytes)>,
    pub(super) committed: Option<Bytes>,
    pub(super) purged: Option<(u64, Bytes)>,
    /// All entries up to and with this index are durable, or purged durably.
    pub(super) flushed: Option<u64>,
    /// Bytes of the payloads that were appended since the log was opened.
    pub(super) appended_bytes: u64,
    /// A record of the group is damaged.
    pub(super) quarantined: bool,
}

impl GroupIndex {
    /// The index of the first entry.
    pub(super) fn first_index(&self) -> Option<u64> {
        (!self.slots.is_empty()).then_some(self.first)
    }

    /// The index of the last entry.
    pub(super) fn last_index(&self) -> Option<u64> {
        (!self.slots.is_empty()).then(|| self.end() - 1)
    }

    /// The index that the next appended entry must have; None when any will do.
    pub(super) fn next_index(&self) -> Option<u64> {
        let after_purged = self.purged.as_ref().map(|(upto, _)| upto + 1);
        self.last_index().map(|last| last + 1).or(after_purged)
    }

    /// Appends the slot of the entry at `index`, which must follow the last.
    pub(super) fn push(&mut self, index: u64, slot: Slot) {
        if self.slots.is_empty() {
            self.first = index;
        }
        assert_eq!(
            index,
            self.end(),
            "an entry that does not follow the last was let through"
        );
        self.slots.push_back(slot);
    }

    /// The slot of an entry.
    pub(super) fn slot(&self, index: u64) -> Option<&Slot> {
        let at = index.checked_sub(self.first)?;
        self.slots.get(usize::try_from(at).ok()?)
    }

    /// The slot of an entry, if its record has this sequence.
    pub(super) fn slot_mut(&mut self, index: u64, sequence: u64) -> Option<&mut Slot> {
        let at = index.checked_sub(self.first)?;
        self.slots
            .get_mut(usize::try_from(at).ok()?)
            .filter(|slot| slot.sequence == sequence)
    }

    /// The slots of an index range, as far as there are any.
    pub(super) fn slots(&self, range: Range<u64>) -> impl Iterator<Item = (u64, &Slot)> {
        let start = range.start.max(self.first);
        let end = range.end.min(self.end());
        (start..end.max(start)).filter_map(|index| self.slot(index).map(|slot| (index, slot)))
    }

    /// Removes the entries from `first_removed` on and returns their slots.
    pub(super) fn truncate(&mut self, first_removed: u64) -> Vec<Slot> {
        let kept = first_removed
            .saturating_sub(self.first)
            .min(self.slots.len() as u64);
        let kept = usize::try_from(kept).expect("no more than there are slots");
        let below = first_removed.checked_sub(1);
        self.flushed = self.flushed.min(below);
        self.slots.drain(kept..).collect()
    }

    /// Removes the entries up to and with `upto`, remembers the mark and returns the slots.
    /// A purge below an earlier one changes nothing.
    pub(super) fn purge(&mut self, upto: u64, mark: Bytes) -> Vec<Slot> {
        if self.purged.as_ref().is_some_and(|(earlier, _)| *earlier > upto) {
            return Vec::new();
        }
        self.purged = Some((upto, mark));
        let end = upto.saturating_add(1);
        let count = end.saturating_sub(self.first).min(self.slots.len() as u64);
        let removed = self
            .slots
            .drain(..usize::try_from(count).expect("no more than there are slots"))
            .collect();
        self.first = self.first.max(end);
        removed
    }

    /// Removes all entries and returns their slots.
    pub(super) fn clear(&mut self) -> Vec<Slot> {
        self.slots.drain(..).collect()
    }

    /// Notes that all entries up to and with `index` are durable.
    pub(super) fn flush(&mut self, index: u64) {
        self.flushed = self.flushed.max(Some(index));
    }

    fn end(&self) -> u64 {
        self.first + self.slots.len() as u64
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn filled(range: Range<u64>) -> GroupIndex {
        let mut index = GroupIndex::default();
        for at in range {
            index.push(
                at,
                Slot {
                    sequence: at * 10,
                    bytes: 1,
                    cached: None,
                },
            );
        }
        index
    }

    fn indexes(index: &GroupIndex) -> Vec<u64> {
        index.slots(0..u64::MAX).map(|(at, _)| at).collect()
    }

    #[test]
    fn truncate_and_purge_remove_from_their_end() {
        let mut index = filled(5..10);
        index.flush(9);
        assert_eq!(index.truncate(8).len(), 2);
        assert_eq!(index.flushed, Some(7));
        assert_eq!(index.purge(5, Bytes::new()).len(), 1);
        assert_eq!(indexes(&index), [6, 7]);
        assert_eq!(index.truncate(99).len(), 0);
        assert_eq!(index.purge(2, Bytes::new()).len(), 0);
        assert_eq!(index.purged, Some((5, Bytes::new())));
        assert!(index.slot_mut(6, 61).is_none() && index.slot_mut(6, 60).is_some());
        assert_eq!(index.truncate(0).len(), 2);
        assert_eq!(
            (index.flushed, index.last_index(), index.next_index()),
            (None, None, Some(6))
        );
    }

    #[test]
    fn a_purge_past_the_end_says_where_the_log_goes_on() {
        let mut index = filled(0..3);
        assert_eq!(index.purge(20, Bytes::new()).len(), 3);
        assert_eq!((index.first_index(), index.next_index()), (None, Some(21)));
        index.push(
            21,
            Slot {
                sequence: 1,
                bytes: 1,
                cached: None,
            },
        );
        assert_eq!(indexes(&index), [21]);
    }
}
