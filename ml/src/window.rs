//! Windows: what a profiler counted in one stretch of workload time, the only thing a forecaster ever sees.
//!
//! A window holds accesses by (shard, origin zone) and a bounded trail of single touches, in order of time. The counts
//! carry how much and from where; the trail carries what comes after what on one key, which a count cannot say: a
//! record touched in New York by flight UA1622 is next touched where that flight lands.
//!
//! Must hold: a closed window never changes; time is the log's own, and no clock is read.
//! Left out: who counts. [`WindowAggregator`] does it for a log; a host's profiler fills the same struct as it serves.

use std::collections::BTreeMap;

use placement::{ShardId, WindowId, Zone};
use serde::{Deserialize, Serialize};
use thiserror::Error;

use crate::access_log::AccessLogEntry;
use crate::partition::KeyRanges;
use crate::zone_map::ZoneMap;

/// Most touches kept of one window; later ones are counted but leave no trail.
pub const TOUCHES_MAX: usize = 65_536;

/// Accesses of one origin.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct OriginCount {
    /// Reads served.
    pub reads: u64,
    /// Writes served.
    pub writes: u64,
}

impl OriginCount {
    /// Accesses of both kinds.
    pub fn accesses(&self) -> u64 {
        self.reads + self.writes
    }
}

/// One access on one key, without the key or the user themselves.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Touch {
    /// The shard that held the key.
    pub shard: ShardId,
    /// The key's [`digest`].
    pub key: u64,
    /// The user's [`digest`].
    pub user: u64,
    /// The zone it came from.
    pub origin: Zone,
    /// When, in milliseconds from the window's start.
    pub offset_ms: u64,
}

/// What was counted in one window.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct WindowCounts {
    /// Which window: workload time divided by the window's length.
    pub window: WindowId,
    /// Accesses by shard and origin zone; a shard without accesses is absent.
    pub shards: BTreeMap<ShardId, BTreeMap<Zone, OriginCount>>,
    /// Single touches in order of time, at most [`TOUCHES_MAX`].
    pub trail: Vec<Touch>,
}

impl WindowCounts {
    /// A window in which nothing happened.
    pub fn empty(window: WindowId) -> Self {
        Self {
            window,
            shards: BTreeMap::new(),
            trail: Vec::new(),
        }
    }

    /// Counts one access of a shard.
    pub fn count(&mut self, shard: ShardId, origin: &Zone, reads: u64, writes: u64) {
        let count = self
            .shards
            .entry(shard)
            .or_default()
            .entry(origin.clone())
            .or_default();
        count.reads += reads;
        count.writes += writes;
    }

    /// Leaves a touch in the trail, unless the trail is full.
    pub fn leave_trail(&mut self, touch: Touch) {
        if self.trail.len() < TOUCHES_MAX {
            self.trail.push(touch);
        }
    }

    /// Accesses of all shards.
    pub fn accesses(&self) -> u64 {
        self.shards
            .values()
            .flat_map(BTreeMap::values)
            .map(OriginCount::accesses)
            .sum()
    }
}

/// A 64-bit digest of a key or a user (FNV-1a): equal on every host, and short enough to send.
pub fn digest(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0xcbf2_9ce4_8422_2325, |hash, byte| {
        (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3)
    })
}

/// Why an entry cannot be counted.
#[derive(Debug, PartialEq, Eq, Error)]
pub enum WindowError {
    /// Its window has been closed.
    #[error("an access at {timestamp_ms} ms comes after a later window was begun")]
    Late {
        /// Its time.
        timestamp_ms: u64,
    },
    /// The zone file does not name its origin.
    #[error("no zone is given for the origin {origin:?}")]
    UnknownOrigin {
        /// The origin.
        origin: String,
    },
}

/// Counts the entries of a log into windows.
pub struct WindowAggregator {
    window_ms: u64,
    ranges: KeyRanges,
    zones: ZoneMap,
    open: Option<WindowCounts>,
}

impl WindowAggregator {
    /// Windows of `window_ms` over the given shards and zones. Panics if `window_ms` is zero.
    pub fn new(window_ms: u64, ranges: KeyRanges, zones: ZoneMap) -> Self {
        assert!(window_ms > 0, "a window has a length");
        Self {
            window_ms,
            ranges,
            zones,
            open: None,
        }
    }

    /// Counts an entry; returns the window that it closed, if it is the first of a later one.
    pub fn add(&mut self, entry: &AccessLogEntry) -> Result<Option<WindowCounts>, WindowError> {
        let unknown = || WindowError::UnknownOrigin {
            origin: entry.origin.clone(),
        };
        let origin = self.zones.zone_of(&entry.origin).ok_or_else(unknown)?.clone();
        let closed = self.open_window_of(entry.timestamp_ms)?;
        let shard = self.ranges.shard_of(entry.data_id.as_bytes());
        let (reads, writes) = entry.accesses();
        if let Some(open) = &mut self.open {
            open.count(shard, &origin, reads, writes);
            open.leave_trail(Touch {
                shard,
                key: digest(entry.data_id.as_bytes()),
                user: digest(entry.user_id.as_bytes()),
                origin,
                offset_ms: entry.timestamp_ms % self.window_ms,
            });
        }
        Ok(closed)
    }

    /// Closes the window that is open.
    pub fn finish(&mut self) -> Option<WindowCounts> {
        self.open.take()
    }

    fn open_window_of(&mut self, timestamp_ms: u64) -> Result<Option<WindowCounts>, WindowError> {
        let window = WindowId(timestamp_ms / self.window_ms);
        match &self.open {
            Some(open) if open.window == window => Ok(None),
            Some(open) if open.window > window => Err(WindowError::Late { timestamp_ms }),
            _ => Ok(self.open.replace(WindowCounts::empty(window))),
        }
    }
}

/// Counts a whole log into consecutive windows, the empty ones between included.
pub fn windows_of(
    entries: &[AccessLogEntry],
    aggregator: WindowAggregator,
) -> Result<Vec<WindowCounts>, WindowError> {
    let mut windows = Vec::new();
    each_window(entries.iter().map(Ok), aggregator, |counts| windows.push(counts))?;
    Ok(windows)
}

/// The same a window at a time, for logs that need not fit into memory. Ends at the first error, of the log or of its
/// order.
pub fn each_window<Entry, E>(
    entries: impl IntoIterator<Item = Result<Entry, E>>,
    mut aggregator: WindowAggregator,
    mut visit: impl FnMut(WindowCounts),
) -> Result<(), E>
where
    Entry: std::borrow::Borrow<AccessLogEntry>,
    E: From<WindowError>,
{
    let mut next: Option<u64> = None;
    let mut close = |closed: WindowCounts| {
        let window = closed.window.0;
        for idle in next.unwrap_or(window)..window {
            visit(WindowCounts::empty(WindowId(idle)));
        }
        next = Some(window + 1);
        visit(closed);
    };
    for entry in entries {
        if let Some(closed) = aggregator.add(entry?.borrow())? {
            close(closed);
        }
    }
    if let Some(last) = aggregator.finish() {
        close(last);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn zones() -> ZoneMap {
        ZoneMap::read("origin,zone,region,lat,lon\no1,a,r,0,0\no2,b,r,1,1\n".as_bytes()).unwrap()
    }

    fn entry(timestamp_ms: u64, key: &str, origin: &str) -> AccessLogEntry {
        AccessLogEntry {
            timestamp_ms,
            user_id: "u".into(),
            data_id: key.into(),
            origin: origin.into(),
            op: "get".into(),
            size: 1,
        }
    }

    fn aggregator() -> WindowAggregator {
        WindowAggregator::new(10, KeyRanges::new(vec![b"m".to_vec()]), zones())
    }

    #[test]
    fn accesses_are_counted_by_shard_and_zone_and_gaps_are_filled() {
        let log = [
            entry(1, "a", "o1"),
            entry(2, "z", "o2"),
            entry(9, "z", "o2"),
            entry(31, "a", "o1"),
        ];
        let windows = windows_of(&log, aggregator()).unwrap();
        assert_eq!(
            windows.iter().map(|w| w.window.0).collect::<Vec<_>>(),
            [0, 1, 2, 3]
        );
        assert_eq!(
            windows.iter().map(WindowCounts::accesses).collect::<Vec<_>>(),
            [3, 0, 0, 1]
        );
        assert_eq!(
            windows[0].shards[&ShardId(2)][&Zone("b".into())],
            OriginCount { reads: 2, writes: 0 }
        );
        assert_eq!(windows[0].trail[2].offset_ms, 9);
    }

    #[test]
    fn a_late_entry_is_refused() {
        let mut aggregator = aggregator();
        aggregator.add(&entry(25, "a", "o1")).unwrap();
        assert_eq!(
            aggregator.add(&entry(19, "a", "o1")),
            Err(WindowError::Late { timestamp_ms: 19 })
        );
    }

    #[test]
    fn an_origin_without_zone_is_refused() {
        let error = aggregator().add(&entry(1, "a", "mars")).unwrap_err();
        assert_eq!(
            error,
            WindowError::UnknownOrigin {
                origin: "mars".into()
            }
        );
    }
}
