//! The segments of the log: how large each is, and whose live entries hold it.
//!
//! A segment is one file, named by its first sequence; it ends where the next one
//! begins. Only entries count as live: marks are copied into each new segment, and a truncation, a
//! purge or a destroy only undoes what lies before it. That is why segments are dropped strictly
//! oldest first: a newer one may hold the record that undoes an entry of an older one.

use std::collections::{BTreeMap, BTreeSet};

use super::index::LogGroup;

/// All segments, by first sequence.
#[derive(Debug, Default)]
pub(super) struct Segments {
    by_first: BTreeMap<u64, Segment>,
    bytes: u64,
    live_bytes: u64,
}

#[derive(Debug, Default)]
struct Segment {
    bytes: u64,
    live: BTreeMap<LogGroup, Live>,
}

/// A group's live entries in one segment.
#[derive(Debug, Default, Clone, Copy)]
struct Live {
    records: u64,
    bytes: u64,
}

impl Segments {
    /// Begins a segment at `first`.
    pub(super) fn open(&mut self, first: u64) {
        self.by_first.insert(first, Segment::default());
    }

    /// The newest segment's first sequence and its bytes.
    pub(super) fn newest(&self) -> Option<(u64, u64)> {
        self.by_first
            .last_key_value()
            .map(|(first, segment)| (*first, segment.bytes))
    }

    /// The oldest segment's first sequence.
    pub(super) fn oldest(&self) -> Option<u64> {
        self.by_first.keys().next().copied()
    }

    /// The first sequence of the segment that holds `sequence`.
    pub(super) fn holding(&self, sequence: u64) -> Option<u64> {
        self.by_first
            .range(..=sequence)
            .next_back()
            .map(|(first, _)| *first)
    }

    /// Counts a record written to the newest segment.
    pub(super) fn add_bytes(&mut self, bytes: u64) {
        if let Some(mut newest) = self.by_first.last_entry() {
            newest.get_mut().bytes += bytes;
            self.bytes += bytes;
        }
    }

    /// Counts a live entry.
    pub(super) fn add_live(&mut self, group: LogGroup, sequence: u64, bytes: u64) {
        if let Some((_, segment)) = self.by_first.range_mut(..=sequence).next_back() {
            let live = segment.live.entry(group).or_default();
            live.records += 1;
            live.bytes += bytes;
            self.live_bytes += bytes;
        }
    }

    /// Counts off an entry that was live.
    pub(super) fn remove_live(&mut self, group: LogGroup, sequence: u64, bytes: u64) {
        let Some((_, segment)) = self.by_first.range_mut(..=sequence).next_back() else {
            return;
        };
        let Some(live) = segment.live.get_mut(&group) else {
            return;
        };
        live.records -= 1;
        live.bytes -= bytes;
        self.live_bytes -= bytes;
        if live.records == 0 {
            segment.live.remove(&group);
        }
    }

    /// Counts off all that is live of a group.
    pub(super) fn forget(&mut self, group: LogGroup) {
        for segment in self.by_first.values_mut() {
            self.live_bytes -= segment.live.remove(&group).map_or(0, |live| live.bytes);
        }
    }

    /// Takes out the oldest segments that hold nothing live; never the newest.
    pub(super) fn take_dead(&mut self) -> Vec<u64> {
        let mut dead = Vec::new();
        while self.by_first.len() > 1 {
            let Some(oldest) = self
                .by_first
                .first_entry()
                .filter(|oldest| oldest.get().live.is_empty())
            else {
                break;
            };
            let (first, segment) = oldest.remove_entry();
            self.bytes -= segment.bytes;
            dead.push(first);
        }
        dead
    }

    /// The sequences of the oldest segment, when moving its live entries forward pays: the log is
    /// over its limit and at least half of it is dead, so each byte moved frees at least one.
    pub(super) fn worth_rewriting(&self, live_bytes_max: u64) -> Option<std::ops::Range<u64>> {
        if self.bytes <= live_bytes_max || self.live_bytes > self.bytes / 2 {
            return None;
        }
        let mut firsts = self.by_first.keys();
        Some(*firsts.next()?..*firsts.next()?)
    }

    /// The groups with live entries in the oldest segments, those beyond the newest
    /// `live_bytes_max` bytes.
    pub(super) fn pinning(&self, live_bytes_max: u64) -> BTreeSet<LogGroup> {
        let mut groups = BTreeSet::new();
        let mut excess = self.bytes.saturating_sub(live_bytes_max);
        for segment in self.by_first.values() {
            if excess == 0 {
                break;
            }
            groups.extend(segment.live.keys());
            excess = excess.saturating_sub(segment.bytes);
        }
        groups
    }

    /// How many segments there are.
    pub(super) fn count(&self) -> usize {
        self.by_first.len()
    }

    /// Bytes of all records in all segments.
    pub(super) fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Bytes of the live entries.
    pub(super) fn live_bytes(&self) -> u64 {
        self.live_bytes
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const IDLE: LogGroup = LogGroup(1);
    const BUSY: LogGroup = LogGroup(2);

    fn three_segments() -> Segments {
        let mut segments = Segments::default();
        for first in [1, 10, 20] {
            segments.open(first);
            segments.add_bytes(100);
            segments.add_live(BUSY, first, 40);
        }
        segments.add_live(IDLE, 5, 10);
        segments
    }

    #[test]
    fn segments_go_oldest_first_and_never_the_newest() {
        let mut segments = three_segments();
        segments.remove_live(BUSY, 10, 40);
        assert!(segments.take_dead().is_empty(), "the oldest still holds entries");
        segments.remove_live(BUSY, 1, 40);
        segments.remove_live(IDLE, 5, 10);
        assert_eq!(segments.take_dead(), [1, 10]);
        segments.forget(BUSY);
        assert!(segments.take_dead().is_empty());
        assert_eq!(
            (segments.count(), segments.bytes(), segments.live_bytes()),
            (1, 100, 0)
        );
    }

    #[test]
    fn rewriting_pays_when_half_is_dead_and_pins_are_named_otherwise() {
        let mut segments = three_segments();
        assert_eq!(segments.worth_rewriting(300), None);
        assert_eq!(segments.worth_rewriting(200), Some(1..10));
        assert_eq!(segments.pinning(200), BTreeSet::from([IDLE, BUSY]));
        segments.forget(BUSY);
        assert_eq!(segments.pinning(200), BTreeSet::from([IDLE]));
        assert!(segments.pinning(300).is_empty());
        segments.add_live(IDLE, 25, 200);
        assert_eq!(segments.worth_rewriting(200), None, "more than half is live");
    }
}
