//! Reading the log back: its records, replayed in sequence order, give the groups' indexes.
//!
//! Sequences have no holes, so a missing record anywhere but at the end is noticed here (one at the
//! end is noticed by the guard). A record whose payload is damaged harms its group only if nothing
//! later made it irrelevant: a newer mark, a purge, a truncation, a copy moved forward. A group that
//! is harmed is quarantined, and all its records stay live, so that no restart forgets the damage.

use std::collections::BTreeMap;

use bytes::Bytes;

use super::error::OpenLogError;
use super::index::{GroupIndex, LogGroup, Slot};
use super::record::{DecodeRecordError, Kind, Record};
use super::segments::Segments;

/// The log as its records tell it.
#[derive(Default)]
pub(super) struct Rebuild {
    segments: Segments,
    groups: BTreeMap<LogGroup, RebuiltGroup>,
    next_sequence: Option<u64>,
}

#[derive(Default)]
struct RebuiltGroup {
    /// By index. Not a queue yet: entries that were moved forward come after their successors.
    entries: BTreeMap<u64, Place>,
    vote: Option<(Place, u64, Bytes)>,
    committed: Option<(Place, u64, Bytes)>,
    purged: Option<(Place, u64, Bytes)>,
}

/// Where a record lies, and whether its payload verifies.
#[derive(Clone, Copy)]
struct Place {
    sequence: u64,
    bytes: u32,
    sound: bool,
}

impl Rebuild {
    /// Takes the records of a segment, the oldest segment first.
    pub(super) fn add_segment(&mut self, first: u64, rows: &[Bytes]) -> Result<(), OpenLogError> {
        // A segment is named by its first sequence, so the oldest says where the log begins.
        let expected = *self.next_sequence.get_or_insert(first);
        if expected != first {
            return Err(OpenLogError::Corrupt {
                sequence: expected,
                why: "a record is missing".to_owned(),
            });
        }
        self.segments.open(first);
        rows.iter().try_for_each(|row| self.read_row(row))
    }

    /// The newest sequence; zero for an empty log.
    pub(super) fn last_sequence(&self) -> u64 {
        self.next_sequence.map_or(0, |next| next - 1)
    }

    /// The groups' indexes, and the segments with what is live in them.
    pub(super) fn finish(self) -> (BTreeMap<LogGroup, GroupIndex>, Segments) {
        let mut segments = self.segments;
        let mut groups = BTreeMap::new();
        for (group, rebuilt) in self.groups {
            for place in rebuilt.live_places() {
                segments.add_live(group, place.sequence, u64::from(place.bytes));
            }
            groups.insert(group, rebuilt.into_index());
        }
        (groups, segments)
    }

    fn read_row(&mut self, row: &Bytes) -> Result<(), OpenLogError> {
        let sequence = self.next_sequence.unwrap_or(0);
        let corrupt = |why: &str| OpenLogError::Corrupt {
            sequence,
            why: why.to_owned(),
        };
        self.segments.add_bytes(row.len() as u64);
        self.next_sequence = Some(sequence + 1);
        let bytes = u32::try_from(row.len()).map_err(|_| corrupt("a record is too long"))?;
        match Record::decode(sequence, row) {
            Ok(record) => self.replay(
                record,
                Place {
                    sequence,
                    bytes,
                    sound: true,
                },
            ),
            Err(DecodeRecordError::Payload(record)) => {
                self.replay(
                    record,
                    Place {
                        sequence,
                        bytes,
                        sound: false,
                    },
                );
            }
            Err(DecodeRecordError::UnknownKind(kind)) => {
                return Err(OpenLogError::UnknownKind { kind, sequence });
            }
            Err(DecodeRecordError::Header) => return Err(corrupt("a record's header does not verify")),
        }
        Ok(())
    }

    /// Does to the groups what the record says.
    fn replay(&mut self, record: Record, place: Place) {
        let Record {
            kind, group, index, ..
        } = record;
        // Copied: what stays must not hold all of its segment in memory.
        let payload = || Bytes::copy_from_slice(&record.payload);
        if kind == Kind::Destroyed {
            self.groups.remove(&group);
            return;
        }
        let rebuilt = self.groups.entry(group).or_default();
        match kind {
            Kind::Entry => drop(rebuilt.entries.insert(index, place)),
            Kind::Vote => rebuilt.vote = Some((place, index, payload())),
            Kind::Committed => rebuilt.committed = Some((place, index, payload())),
            Kind::Purged => rebuilt.purge(place, index, payload()),
            Kind::Truncated => drop(rebuilt.entries.split_off(&index)),
            Kind::Destroyed => {}
        }
    }
}

impl RebuiltGroup {
    /// As [`GroupIndex::purge`]: a purge below an earlier one changes nothing.
    fn purge(&mut self, place: Place, upto: u64, mark: Bytes) {
        if self
            .purged
            .as_ref()
            .is_some_and(|(_, earlier, _)| *earlier > upto)
        {
            return;
        }
        self.entries = self.entries.split_off(&upto.saturating_add(1));
        self.purged = Some((place, upto, mark));
    }

    fn marks(&self) -> impl Iterator<Item = Place> {
        let marks = [&self.vote, &self.committed, &self.purged];
        marks.into_iter().flatten().map(|(place, _, _)| *place)
    }

    /// Every record that still counts verifies, and no entry is missing between two others.
    fn is_sound(&self) -> bool {
        let span = match (self.entries.first_key_value(), self.entries.last_key_value()) {
            (Some((first, _)), Some((last, _))) => last - first + 1,
            _ => 0,
        };
        self.entries.len() as u64 == span
            && self
                .entries
                .values()
                .copied()
                .chain(self.marks())
                .all(|place| place.sound)
    }

    /// The records that hold their segments: the entries, and of a harmed group the marks too.
    fn live_places(&self) -> Vec<Place> {
        let entries = self.entries.values().copied();
        if self.is_sound() {
            entries.collect()
        } else {
            entries.chain(self.marks()).collect()
        }
    }

    fn into_index(self) -> GroupIndex {
        let mut index = GroupIndex::default();
        if !self.is_sound() {
            index.quarantined = true;
            return index;
        }
        index.vote = self.vote.map(|(_, ordinal, vote)| (ordinal, vote));
        index.committed = self.committed.map(|(_, _, mark)| mark);
        index.purged = self.purged.map(|(_, upto, mark)| (upto, mark));
        for (at, Place { sequence, bytes, .. }) in self.entries {
            index.push(
                at,
                Slot {
                    sequence,
                    bytes,
                    cached: None,
                },
            );
        }
        index.flushed = index
            .last_index()
            .max(index.purged.as_ref().map(|(upto, _)| *upto));
        index
    }
}
