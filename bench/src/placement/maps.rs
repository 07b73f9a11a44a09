//! From keys to shards, and from events to windows.

use std::collections::{BTreeMap, BTreeSet};

use clap::ValueEnum;
use ml::{KeyLoad, Touch, WindowCounts, WindowLength, digest, partition};
use placement::{ShardId, WindowId};
use serde::Serialize;

use super::trace::{Event, Trace};

/// One in this many shards at least is for keys that the history knows, in the maps with ranges for new ones.
const KEPT_PART: usize = 8;

/// How keys are cut into shards, by what the history knows.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum ShardMap {
    /// Each key is a shard.
    Object,
    /// Keys are spread by a digest.
    Hash,
    /// Ranges of keys in their order, of equal load.
    Range,
    /// Groups of keys with the same majority origin; a new key joins those of its first access.
    Affinity,
    /// What a range store can do: ranges that end where the majority changes, and ranges for new keys by the origin of
    /// their first access.
    Cut,
    /// The same where the names of known keys have been made to begin with their majority origin and the one after it.
    Named,
}

impl ShardMap {
    /// Its name in tables.
    pub fn name(self) -> &'static str {
        match self {
            Self::Object => "object",
            Self::Hash => "hash",
            Self::Range => "range",
            Self::Affinity => "affinity",
            Self::Cut => "cut",
            Self::Named => "named",
        }
    }

    /// Each key's shard, by the key's number; `shards` is how many are wanted.
    pub(super) fn shards_of(self, trace: &Trace, history: &[Event], shards: usize) -> Vec<ShardId> {
        match self {
            Self::Object => (1..=trace.keys.len() as u64).map(ShardId).collect(),
            Self::Hash => {
                let bucket = |key: &String| ShardId(digest(key.as_bytes()) % shards.max(1) as u64 + 1);
                trace.keys.iter().map(bucket).collect()
            }
            Self::Range => ranges(trace, &partition::equal_load(&loads(trace, history), shards)),
            Self::Affinity => grouped(trace, history, shards),
            Self::Cut => cut(trace, history, shards),
            Self::Named => named(trace, history, shards),
        }
    }
}

fn ranges(trace: &Trace, ranges: &ml::KeyRanges) -> Vec<ShardId> {
    trace
        .keys
        .iter()
        .map(|key| ranges.shard_of(key.as_bytes()))
        .collect()
}

fn loads(trace: &Trace, history: &[Event]) -> KeyLoad {
    let mut loads = KeyLoad::new();
    for (key, by_origin) in by_key(trace, history).into_iter().enumerate() {
        if by_origin.iter().any(|count| *count > 0) {
            loads.insert(trace.keys[key].clone().into_bytes(), by_origin);
        }
    }
    loads
}

fn by_key(trace: &Trace, history: &[Event]) -> Vec<Vec<u64>> {
    let mut sums = vec![vec![0; trace.zones.len()]; trace.keys.len()];
    history
        .iter()
        .for_each(|event| sums[event.key][event.origin] += 1);
    sums
}

/// The first of the largest.
fn majority(by_origin: &[u64]) -> Option<usize> {
    let most = by_origin.iter().max().filter(|most| **most > 0)?;
    by_origin.iter().position(|count| count == most)
}

/// The origin that each key is at home at: its majority in the history, or else that of its first access.
fn homes(trace: &Trace, history: &[Event]) -> Vec<usize> {
    let mut homes: Vec<Option<usize>> = by_key(trace, history).iter().map(|sum| majority(sum)).collect();
    for event in &trace.events {
        homes[event.key].get_or_insert(event.origin);
    }
    homes.into_iter().map(Option::unwrap_or_default).collect()
}

/// Each origin gets groups in the measure of its keys' load, at least one, and its keys are spread over them.
fn grouped(trace: &Trace, history: &[Event], shards: usize) -> Vec<ShardId> {
    let homes = homes(trace, history);
    let mut load = vec![0u64; trace.zones.len()];
    history.iter().for_each(|event| load[homes[event.key]] += 1);
    let total: u64 = load.iter().sum();
    let groups: Vec<u64> = load
        .iter()
        .map(|load| (load * shards as u64 / total.max(1)).max(1))
        .collect();
    let first: Vec<u64> = (0..groups.len())
        .map(|at| groups[..at].iter().sum::<u64>() + 1)
        .collect();
    let group =
        |(key, home): (&String, &usize)| ShardId(first[*home] + digest(key.as_bytes()) % groups[*home]);
    trace.keys.iter().zip(&homes).map(group).collect()
}

/// The ranges for new keys in the maps [`ShardMap::Cut`] and [`ShardMap::Named`]: some for each origin, after all others.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct BirthRanges {
    /// Ranges for keys that the history knows.
    kept: usize,
    /// Ranges of each origin, at least one.
    of_origin: Vec<usize>,
}

impl BirthRanges {
    /// As many of the shards as new keys had of the load in the history's second half, keys being new that its first
    /// half did not know: the history is to what is scored as its first half is to its second.
    pub(super) fn new(trace: &Trace, history: &[Event], shards: usize) -> Self {
        let births = births(trace, history);
        let later = history.len() - later_half(history);
        let room = (shards - shards.div_ceil(KEPT_PART)) as u64;
        let loads: Vec<u64> = births.iter().map(|by_origin| by_origin.iter().sum()).collect();
        let wanted = loads.iter().sum::<u64>() * shards as u64 / later.max(1) as u64;
        let ranges = |load: &u64| load * shards as u64 / later.max(1) as u64 * room / wanted.max(room).max(1);
        let of_origin: Vec<usize> = loads.iter().map(|load| ranges(load).max(1) as usize).collect();
        Self {
            kept: shards.saturating_sub(of_origin.iter().sum()).max(1),
            of_origin,
        }
    }

    /// The origin whose new keys are born in a shard.
    pub(super) fn origin_of(&self, shard: ShardId) -> Option<usize> {
        let mut place = (shard.0 as usize).checked_sub(self.kept + 1)?;
        self.of_origin.iter().position(|ranges| {
            let here = place < *ranges;
            place = place.saturating_sub(*ranges);
            here
        })
    }

    /// How many ranges an origin's new keys are spread over.
    pub(super) fn of_origin(&self, origin: usize) -> usize {
        self.of_origin[origin]
    }

    fn shard_of(&self, origin: usize, key: &str) -> ShardId {
        let before: usize = self.of_origin[..origin].iter().sum();
        let place = digest(key.as_bytes()) as usize % self.of_origin[origin];
        ShardId((self.kept + 1 + before + place) as u64)
    }
}

/// The place of the first event after the middle of the history's time.
fn later_half(history: &[Event]) -> usize {
    let (Some(first), Some(last)) = (history.first(), history.last()) else {
        return 0;
    };
    let middle_ms = first.timestamp_ms.midpoint(last.timestamp_ms);
    history.partition_point(|event| event.timestamp_ms <= middle_ms)
}

/// Of keys that the history's first half does not know, accesses in its second half: by the origin that created the
/// key, and by the access's.
pub(super) fn births(trace: &Trace, history: &[Event]) -> Vec<Vec<u64>> {
    let (early, late) = history.split_at(later_half(history));
    let known: BTreeSet<usize> = early.iter().map(|event| event.key).collect();
    let mut born: BTreeMap<usize, usize> = BTreeMap::new();
    let mut births = vec![vec![0; trace.zones.len()]; trace.zones.len()];
    for event in late.iter().filter(|event| !known.contains(&event.key)) {
        let origin = *born.entry(event.key).or_insert(event.origin);
        births[origin][event.origin] += 1;
    }
    births
}

/// Known keys in ranges of what `name` calls them, new ones in their origins' ranges.
fn with_births(
    trace: &Trace,
    history: &[Event],
    shards: usize,
    name: impl Fn(usize, &[u64]) -> Vec<u8>,
) -> Vec<ShardId> {
    let (homes, sums) = (homes(trace, history), by_key(trace, history));
    let births = BirthRanges::new(trace, history, shards);
    let is_known = |key: usize| sums[key].iter().any(|count| *count > 0);
    let known = (0..sums.len()).filter(|key| is_known(*key));
    let loads: KeyLoad = known
        .map(|key| (name(key, &sums[key]), sums[key].clone()))
        .collect();
    let ranges = partition::affinity_aware(&loads, births.kept);
    let shard = |key: usize| match is_known(key) {
        true => ranges.shard_of(&name(key, &sums[key])),
        false => births.shard_of(homes[key], &trace.keys[key]),
    };
    (0..sums.len()).map(shard).collect()
}

fn cut(trace: &Trace, history: &[Event], shards: usize) -> Vec<ShardId> {
    with_births(trace, history, shards, |key, _| {
        trace.keys[key].clone().into_bytes()
    })
}

/// A known key's name begins with the origin that has most of its accesses and the one after that, the same again where
/// there is none: so shards that must leave a crowded host are ranges whose keys have the same way to go.
fn named(trace: &Trace, history: &[Event], shards: usize) -> Vec<ShardId> {
    with_births(trace, history, shards, |key, sum| {
        let first = majority(sum).unwrap_or_default();
        let mut others = sum.to_vec();
        others[first] = 0;
        let second = majority(&others).unwrap_or(first);
        format!("{first:02}/{second:02}/{}", trace.keys[key]).into_bytes()
    })
}

/// Windows from the first event's to the last one's, those without accesses included.
pub(super) fn windows(trace: &Trace, shard_of: &[ShardId], length: WindowLength) -> Vec<WindowCounts> {
    let number = |event: &Event| event.timestamp_ms / length.as_ms();
    let (Some(first), Some(last)) = (trace.events.first(), trace.events.last()) else {
        return Vec::new();
    };
    let mut windows: Vec<WindowCounts> = (number(first)..=number(last))
        .map(|window| WindowCounts::empty(WindowId(window)))
        .collect();
    for event in &trace.events {
        let window = &mut windows[(number(event) - number(first)) as usize];
        let (shard, origin) = (shard_of[event.key], &trace.zones[event.origin]);
        window.count(shard, origin, 1, 0);
        window.leave_trail(Touch {
            shard,
            key: digest(trace.keys[event.key].as_bytes()),
            user: event.user,
            origin: origin.clone(),
            offset_ms: event.timestamp_ms % length.as_ms(),
        });
    }
    windows
}

#[cfg(test)]
mod tests {
    use placement::Zone;

    use super::*;

    fn event(timestamp_ms: u64, key: usize, origin: usize) -> Event {
        Event {
            timestamp_ms,
            user: 1,
            key,
            origin,
            bytes: 10,
        }
    }

    /// Keys 0 and 1 belong to origin 0, key 2 to origin 1; key 3 is new, and comes from origin 1.
    fn trace() -> Trace {
        Trace {
            name: "t".into(),
            events: vec![
                event(0, 0, 0),
                event(1, 1, 0),
                event(2, 2, 1),
                event(3, 0, 0),
                event(4, 1, 0),
                event(5, 2, 1),
                event(6, 0, 0),
                event(7, 3, 1),
                event(25, 0, 1),
            ],
            keys: ["a", "b", "c", "aa"].map(String::from).to_vec(),
            zones: ["x", "y"].map(Zone::from).to_vec(),
            rtt_micros: vec![vec![1, 9], vec![9, 1]],
            history: 6,
        }
    }

    #[test]
    fn keys_of_one_origin_share_shards_and_a_new_key_joins_those_of_its_first_access() {
        let trace = trace();
        for map in [ShardMap::Affinity, ShardMap::Cut, ShardMap::Named] {
            let shards = map.shards_of(&trace, &trace.events[..7], 4);
            let by_x = [shards[0], shards[1]];
            assert!(
                !by_x.contains(&shards[2]) && !by_x.contains(&shards[3]),
                "{map:?} {shards:?}"
            );
        }
        let births = BirthRanges::new(&trace, &trace.events[..7], 4);
        let cut = ShardMap::Cut.shards_of(&trace, &trace.events[..7], 4);
        let born: Vec<Option<usize>> = cut.iter().map(|shard| births.origin_of(*shard)).collect();
        assert_eq!(born, [None, None, None, Some(1)]);
        let hashed = ShardMap::Hash.shards_of(&trace, &trace.events[..7], 4);
        assert!(
            hashed.iter().all(|shard| (1..=4).contains(&shard.0)),
            "{hashed:?}"
        );
    }

    #[test]
    fn new_keys_get_ranges_by_the_load_that_they_had() {
        // In the second half of the history all accesses are to keys that came up in it, from origin 1.
        let mut trace = trace();
        for (at, key) in [(4, 4), (5, 5), (6, 4)] {
            trace.events[at] = event(at as u64, key, 1);
        }
        trace.events[3] = event(3, 0, 0);
        trace.keys.extend(["d", "e"].map(String::from));
        let history = &trace.events[..7];
        assert_eq!(births(&trace, history), [vec![0, 0], vec![0, 3]]);
        let ranges = BirthRanges::new(&trace, history, 16);
        assert_eq!(
            (ranges.of_origin(0), ranges.of_origin(1), ranges.kept),
            (1, 14, 1)
        );
        let born: Vec<Option<usize>> = (1..=16).map(|shard| ranges.origin_of(ShardId(shard))).collect();
        assert_eq!(born[..3], [None, Some(0), Some(1)]);
        assert_eq!(born[15], Some(1));
    }

    #[test]
    fn windows_have_no_gap_and_count_a_row_once() {
        let trace = trace();
        let shards = ShardMap::Object.shards_of(&trace, &trace.events[..7], 4);
        let windows = windows(&trace, &shards, WindowLength::from_ms(10));
        let counted: Vec<(u64, u64)> = windows
            .iter()
            .map(|window| (window.window.0, window.accesses()))
            .collect();
        assert_eq!(counted, [(0, 8), (1, 0), (2, 1)]);
        assert_eq!(windows[2].trail[0].offset_ms, 5);
    }
}
