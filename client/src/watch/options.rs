//! What a watch takes and gives.

use bytes::Bytes;
use prost::Message;
use thiserror::Error;

use crate::{
    dispatch::nearer,
    operation::KeyRange,
    proto::{self, KeyValue},
    setback::Refusal,
};

/// Where a watch begins.
#[derive(Debug, Clone, Default, PartialEq)]
pub enum WatchFrom {
    /// With what changes after the watch was made.
    #[default]
    Now,
    /// With what changed after this revision of the shard. Revisions are a shard's own: the range must lie within one.
    /// May lie ahead of the shard.
    After(u64),
    /// Where another watch of these keys, or of more, has come to.
    Position(WatchPosition),
}

/// How to watch.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct WatchOptions {
    /// Where to begin.
    pub from: WatchFrom,
    /// Whether events bring what the key held before.
    pub previous: bool,
}

/// A change of a key.
#[derive(Debug, Clone, PartialEq)]
pub struct Event {
    /// The version that came to be; version 0: the key was deleted, at `mod_revision`.
    pub pair: KeyValue,
    /// What the key held before, where the options ask for it; `None`: it did not exist.
    pub previous: Option<KeyValue>,
}

impl Event {
    /// Whether the key was deleted.
    #[must_use]
    pub fn is_deletion(&self) -> bool {
        self.pair.version == 0
    }
}

/// What a watch tells at a time: whole revisions of a part of the range, in their order. A part lies within a shard; one
/// shard may tell several, if it came of others in a merge, and each part goes on by the numbers that it had.
#[derive(Debug, Clone, PartialEq)]
pub struct WatchUpdate {
    /// The part's first key. Of a part, revisions only rise.
    pub part: Bytes,
    /// The shard.
    pub shard_id: u64,
    /// The changes, by revision; those of one revision by key. None: a note of progress.
    pub events: Vec<Event>,
    /// Everything in the part up to this revision of the shard has been told.
    pub revision: u64,
}

/// How far a watch has come. Another that begins here, in this program or another one, goes on without a gap and without
/// telling anything twice, as long as the shards remember what has changed since.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct WatchPosition(pub(super) proto::WatchPosition);

impl WatchPosition {
    /// For keeping.
    #[must_use]
    pub fn to_bytes(&self) -> Bytes {
        self.0.encode_to_vec().into()
    }

    /// What was kept; `None`: it is not what [`to_bytes`](Self::to_bytes) made.
    #[must_use]
    pub fn from_bytes(bytes: &[u8]) -> Option<Self> {
        let position = proto::WatchPosition::decode(bytes).ok()?;
        let parts = &position.parts;
        let is_gapless =
            |pair: &[proto::WatchedPart]| pair[0].end == pair[1].start && !pair[0].end.is_empty();
        (!parts.is_empty() && parts.windows(2).all(is_gapless)).then_some(Self(position))
    }

    /// The revision up to which the part with a key was told; `None`: the position is of other keys.
    #[must_use]
    pub fn revision_of(&self, key: &[u8]) -> Option<u64> {
        let holds = |part: &&proto::WatchedPart| range_of(part).contains(key);
        self.0.parts.iter().find(holds).map(|part| part.revision)
    }

    /// Takes back what was told and not handed out: a part has come to before the first change of it.
    pub(super) fn take_back<'a>(&mut self, updates: impl Iterator<Item = &'a WatchUpdate>) {
        for event in updates.flat_map(|update| &update.events) {
            // The part that had it may have been cut since, or be told by another shard.
            let after = self.0.parts.partition_point(|part| part.start <= event.pair.key);
            if let Some(part) = after.checked_sub(1).map(|at| &mut self.0.parts[at]) {
                part.revision = part.revision.min(event.pair.mod_revision.saturating_sub(1));
            }
        }
    }

    /// The parts of a range with their revisions; `None`: there are other keys in the range.
    pub(super) fn within(&self, range: &KeyRange) -> Option<Vec<(KeyRange, u64)>> {
        let parts = self.0.parts.iter();
        let parts = parts.filter_map(|part| Some((common(range, &range_of(part))?, part.revision)));
        let parts: Vec<_> = parts.collect();
        let covers = parts.first()?.0.start == range.start && parts.last()?.0.end == range.end;
        covers.then_some(parts)
    }
}

fn range_of(part: &proto::WatchedPart) -> KeyRange {
    KeyRange {
        start: part.start.clone(),
        end: part.end.clone(),
    }
}

/// The keys that two ranges share, if there are any.
pub(crate) fn common(a: &KeyRange, b: &KeyRange) -> Option<KeyRange> {
    let start = a.start.clone().max(b.start.clone());
    let end = nearer(&a.end, &b.end);
    (end.is_empty() || start < end).then_some(KeyRange { start, end })
}

/// Why a watch is over, or was not made.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum WatchError {
    /// Changes that were not told yet were forgotten: the watch began too far back, or was read too slowly. A new one can
    /// begin now; what was missed is to be read.
    #[error("compacted: {message}")]
    Compacted {
        /// Which revision, and the oldest to begin after.
        message: String,
        /// The oldest revision of that shard after which a watch can begin.
        oldest: u64,
    },
    /// Not every shard of the range could be watched before the deadline.
    #[error("not watching before the deadline; the last: {cause}")]
    Deadline {
        /// What the last attempt came to.
        cause: String,
    },
    /// What was asked for makes no sense.
    #[error("invalid watch: {message}")]
    Invalid {
        /// What is wrong with it.
        message: String,
    },
    /// The host belongs to another cluster.
    #[error("another cluster: {message}")]
    WrongCluster {
        /// Which.
        message: String,
    },
    /// The host does not know watches, or told what this client does not understand.
    #[error("incompatible host: {message}")]
    Incompatible {
        /// What was not understood.
        message: String,
    },
}

impl WatchError {
    pub(super) fn refused(refusal: Refusal, message: String, oldest: u64) -> Self {
        match refusal {
            Refusal::Compacted => Self::Compacted { message, oldest },
            Refusal::WrongCluster => Self::WrongCluster { message },
            Refusal::Incompatible => Self::Incompatible { message },
            Refusal::Invalid
            | Refusal::TooLarge
            | Refusal::FutureRevision
            | Refusal::NoLease
            | Refusal::NoSpace => Self::Invalid { message },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn range(start: &str, end: &str) -> KeyRange {
        KeyRange {
            start: Bytes::copy_from_slice(start.as_bytes()),
            end: Bytes::copy_from_slice(end.as_bytes()),
        }
    }

    fn position(parts: &[(&str, &str, u64)]) -> WatchPosition {
        let part = |(start, end, revision): &(&str, &str, u64)| proto::WatchedPart {
            start: Bytes::copy_from_slice(start.as_bytes()),
            end: Bytes::copy_from_slice(end.as_bytes()),
            shard_id: 1,
            revision: *revision,
        };
        WatchPosition(proto::WatchPosition {
            parts: parts.iter().map(part).collect(),
        })
    }

    #[test]
    fn a_position_is_kept_and_taken_for_fewer_keys() {
        let kept = position(&[("b", "m", 7), ("m", "", 3)]);
        let found = WatchPosition::from_bytes(&kept.to_bytes()).unwrap();
        assert_eq!(found, kept);
        assert_eq!(
            found.within(&range("b", "")),
            Some(vec![(range("b", "m"), 7), (range("m", ""), 3)])
        );
        assert_eq!(found.within(&range("c", "d")), Some(vec![(range("c", "d"), 7)]));
        assert_eq!(
            found.within(&range("k", "p")),
            Some(vec![(range("k", "m"), 7), (range("m", "p"), 3)])
        );
        assert_eq!(found.within(&range("a", "c")), None);
        assert_eq!(
            (found.revision_of(b"lz"), found.revision_of(b"a")),
            (Some(7), None)
        );
        let bounded = position(&[("b", "m", 7)]);
        assert_eq!(bounded.within(&range("c", "")), None);
        assert_eq!(bounded.within(&range("x", "y")), None);
    }

    /// Shards may have been split and merged since the updates were made: only the keys tell which part they are of.
    #[test]
    fn what_was_not_handed_out_is_taken_back_in_its_part() {
        let update = |shard_id, key: &'static str, mod_revision| WatchUpdate {
            part: Bytes::new(),
            shard_id,
            events: vec![Event {
                pair: KeyValue {
                    key: Bytes::from_static(key.as_bytes()),
                    mod_revision,
                    ..KeyValue::default()
                },
                previous: None,
            }],
            revision: 9,
        };
        let mut now = position(&[("", "m", 9), ("m", "t", 1_000), ("t", "", 9)]);
        let ready = [
            update(7, "t", 8),
            update(1, "a", 5),
            update(7, "z", 4),
            update(1, "b", 7),
        ];
        now.take_back(ready.iter());
        assert_eq!(now, position(&[("", "m", 4), ("m", "t", 1_000), ("t", "", 3)]));
    }

    #[test]
    fn what_is_no_position_is_not_taken_for_one() {
        for not_one in [
            position(&[]),
            position(&[("a", "b", 1), ("c", "d", 1)]),
            position(&[("a", "", 1), ("", "d", 1)]),
        ] {
            assert_eq!(
                WatchPosition::from_bytes(&not_one.to_bytes()),
                None,
                "{not_one:?}"
            );
        }
        assert_eq!(WatchPosition::from_bytes(b"\xff\xff"), None);
    }
}
