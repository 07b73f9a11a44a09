//! Which windows and maps each trace is cut into.

use super::maps::ShardMap;
use super::trace::Trace;

/// Shards wanted of the maps that can be cut into any number, unless something else is asked for.
pub const SHARDS: usize = 256;
/// Most keys of a trace whose keys are shards of their own.
const OBJECTS_MAX: usize = 5_000;
/// Hours that a window of the whole system may have.
const SYSTEM_WINDOWS_H: [u64; 3] = [1, 6, 24];
/// Accesses that it must have, in the mean over those of the history that have any.
const SYSTEM_WINDOW_ACCESSES: u64 = 16;
pub(super) const HOUR_MS: u64 = 3_600_000;

/// One cut of a trace.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Cut {
    /// Hours of a window.
    pub window_h: u64,
    /// From keys to shards.
    pub map: ShardMap,
    /// Shards wanted of a map that can be cut into any number.
    pub shards: usize,
    /// Whether policies are compared on it, or forecasters only.
    pub policies: bool,
}

const fn cut(window_h: u64, map: ShardMap, policies: bool) -> Cut {
    Cut {
        window_h,
        map,
        shards: SHARDS,
        policies,
    }
}

/// The cuts of the study that set the bars: 20 for forecasters, 16 of them for policies.
fn studied(name: &str) -> Option<Vec<Cut>> {
    use ShardMap::{Affinity, Hash, Object, Range};
    Some(match name {
        "checkin-4sq-nyc12" => vec![cut(6, Object, true), cut(6, Hash, true), cut(6, Affinity, true)],
        "flights-nyc13" => vec![
            cut(6, Object, false),
            cut(1, Hash, false),
            cut(6, Hash, true),
            cut(6, Affinity, true),
        ],
        "bike-bay14" => vec![
            cut(1, Object, false),
            cut(6, Object, true),
            cut(6, Hash, true),
            cut(6, Affinity, true),
        ],
        "honeypot-aws13" => vec![
            cut(6, Hash, true),
            cut(1, Range, true),
            cut(6, Range, true),
            cut(6, Affinity, true),
        ],
        "openstack-git" => vec![
            cut(24, Hash, true),
            cut(6, Range, true),
            cut(24, Range, true),
            cut(6, Affinity, false),
            cut(24, Affinity, true),
        ],
        _ => return None,
    })
}

/// Hours of a window when the whole system is measured: the fewest with which the history's windows tell enough. What is
/// decided serves the window after the next, so short ones decide on what is young.
pub(super) fn system_window_h(trace: &Trace) -> u64 {
    let history = trace
        .events
        .iter()
        .take(trace.history + 1)
        .map(|event| event.timestamp_ms);
    window_h_for(history)
}

fn window_h_for(timestamps_ms: impl Iterator<Item = u64> + Clone) -> u64 {
    let tells_enough = |hours: &u64| {
        // Times only grow.
        let (mut accesses, mut windows, mut last) = (0u64, 0u64, None);
        for window in timestamps_ms.clone().map(|at| at / (hours * HOUR_MS)) {
            accesses += 1;
            windows += u64::from(last.replace(window) != Some(window));
        }
        accesses >= SYSTEM_WINDOW_ACCESSES * windows
    };
    let enough = SYSTEM_WINDOWS_H.into_iter().find(tells_enough);
    enough.unwrap_or(SYSTEM_WINDOWS_H[SYSTEM_WINDOWS_H.len() - 1])
}

/// The cuts of a trace, into so many shards where a map can be: the study's where it has the trace, or else windows of six
/// hours in every map.
pub(super) fn cuts_of(trace: &Trace, shards: usize) -> Vec<Cut> {
    let mut cuts = studied(&trace.name).unwrap_or_else(|| {
        let mut maps = vec![ShardMap::Hash, ShardMap::Range, ShardMap::Affinity];
        if trace.keys.len() <= OBJECTS_MAX {
            maps.push(ShardMap::Object);
        }
        maps.into_iter().map(|map| cut(6, map, true)).collect()
    });
    let longest = cuts
        .iter()
        .filter(|cut| cut.policies)
        .map(|cut| cut.window_h)
        .min();
    cuts.extend(longest.map(|window_h| cut(window_h, ShardMap::Cut, true)));
    cuts.iter_mut().for_each(|cut| cut.shards = shards);
    cuts
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_window_is_as_short_as_its_accesses_allow() {
        let every = |minutes: u64| (0..10_000u64).map(move |at| at * minutes * 60_000);
        assert_eq!(window_h_for(every(1)), 1);
        assert_eq!(window_h_for(every(20)), 6);
        assert_eq!(window_h_for(every(60)), 24);
        assert_eq!(window_h_for(every(600)), 24, "none tells enough");
        // Days apart, and many at a time.
        let bursts = (0..40u64).flat_map(|day| (0..50).map(move |at| day * 24 * HOUR_MS + at * 60_000));
        assert_eq!(window_h_for(bursts), 1);
    }
}
