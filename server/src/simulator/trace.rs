//! A trace as windows of accesses by shard and origin, with how many bytes each shard holds.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use ml::partition::equal_load;
use ml::{
    AccessLogEntry, AccessLogError, AccessLogReader, KeyLoads, KeyRanges, WindowAggregator, WindowCounts,
    WindowError, WindowLength, ZoneMap, each_window,
};
use placement::ShardId;

/// Keys whose accesses are told apart while the key space is cut; beyond it neighbours are counted together.
const KEYS_MAX: usize = 1 << 20;

/// A trace, counted.
pub(crate) struct Played {
    /// Where shards part.
    pub(crate) ranges: KeyRanges,
    /// All windows, without gaps between accesses.
    pub(crate) windows: Vec<WindowCounts>,
    /// The place of the first window that is scored.
    pub(crate) from: usize,
    /// How long a window is.
    pub(crate) length: WindowLength,
    /// Bytes of each shard: of each key, what its last access carried.
    pub(crate) bytes: BTreeMap<ShardId, u64>,
    /// Accesses of origins that lie in no zone.
    pub(crate) unplaced: u64,
}

/// What is wrong with a trace.
#[derive(Debug, thiserror::Error)]
pub(crate) enum TraceError {
    #[error("{}: {source}", path.display())]
    Log { path: PathBuf, source: AccessLogError },
    #[error(transparent)]
    Window(#[from] WindowError),
    #[error("the trace comes from more origins than can be told apart")]
    Origins,
    #[error("there are {windows} windows: too few for a history and something to score")]
    Short { windows: usize },
}

/// Reads a trace three times: for its span, for its cut, made by the accesses of its first `history_percent`, and for its
/// windows.
pub(crate) fn read(
    path: &Path,
    zones: &ZoneMap,
    length: WindowLength,
    shards: usize,
    history_percent: u64,
) -> Result<Played, TraceError> {
    let (first_ms, last_ms) = span(path)?;
    let history_ms = (last_ms - first_ms) / 100 * history_percent;
    let ranges = cut(path, first_ms + history_ms, shards)?;
    let mut sizes: BTreeMap<(ShardId, u64), u64> = BTreeMap::new();
    let mut unplaced = 0;
    let counted = entries(path)?.filter_map(|entry| {
        let entry = match entry {
            Ok(entry) => entry,
            Err(error) => return Some(Err(error)),
        };
        if zones.zone_of(&entry.origin).is_none() {
            unplaced += 1;
            return None;
        }
        let key = entry.data_id.as_bytes();
        sizes.insert((ranges.shard_of(key), ml::digest(key)), entry.size);
        Some(Ok(entry))
    });
    let mut windows = Vec::new();
    let aggregator = WindowAggregator::new(length.as_ms(), ranges.clone(), zones.clone());
    each_window(counted, aggregator, |window| windows.push(window))?;
    let from_window = (first_ms + history_ms) / length.as_ms();
    let from = windows
        .iter()
        .position(|window| window.window.0 > from_window)
        .filter(|from| *from > 0)
        .ok_or(TraceError::Short {
            windows: windows.len(),
        })?;
    let mut bytes: BTreeMap<ShardId, u64> = BTreeMap::new();
    for ((shard, _), size) in sizes {
        *bytes.entry(shard).or_default() += size;
    }
    Ok(Played {
        ranges,
        windows,
        from,
        length,
        bytes,
        unplaced,
    })
}

fn span(path: &Path) -> Result<(u64, u64), TraceError> {
    let mut span: Option<(u64, u64)> = None;
    for entry in entries(path)? {
        let at_ms = entry?.timestamp_ms;
        span = Some(span.map_or((at_ms, at_ms), |(first, last)| {
            (first.min(at_ms), last.max(at_ms))
        }));
    }
    span.ok_or(TraceError::Short { windows: 0 })
}

/// Ranges with equal numbers of the history's accesses.
fn cut(path: &Path, until_ms: u64, shards: usize) -> Result<KeyRanges, TraceError> {
    let mut loads = KeyLoads::new(KEYS_MAX);
    for entry in entries(path)? {
        let entry = entry?;
        if entry.timestamp_ms < until_ms {
            let (reads, writes) = entry.accesses();
            loads
                .add(entry.data_id.as_bytes(), &entry.origin, reads + writes)
                .map_err(|_| TraceError::Origins)?;
        }
    }
    Ok(equal_load(loads.by_key(), shards))
}

fn entries(
    path: &Path,
) -> Result<impl Iterator<Item = Result<AccessLogEntry, TraceError>> + use<>, TraceError> {
    let failed = {
        let path = path.to_owned();
        move |source| TraceError::Log {
            path: path.clone(),
            source,
        }
    };
    let reader = AccessLogReader::open(path).map_err(&failed)?;
    Ok(reader.map(move |entry| entry.map_err(&failed)))
}
