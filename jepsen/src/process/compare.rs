//! Replicas that applied the same entries must hold the same.

use std::collections::BTreeMap;

/// What one replica says of itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ReplicaState {
    /// The host that was asked.
    pub host: usize,
    /// The shard.
    pub shard: u64,
    /// The replica.
    pub replica: u64,
    /// The last entry that it applied.
    pub applied: u64,
    /// A hash of all that it holds.
    pub hash: u64,
}

/// A line for each pair of replicas of a shard that applied equally far and hold something else.
///
/// Replicas that stand at different entries say nothing about each other.
pub fn differences(states: &[ReplicaState]) -> Vec<String> {
    let mut first_at: BTreeMap<(u64, u64), ReplicaState> = BTreeMap::new();
    let mut lines = Vec::new();
    for state in states {
        let first = first_at.entry((state.shard, state.applied)).or_insert(*state);
        if first.hash != state.hash {
            lines.push(format!(
                "shard {} at entry {}: replica {} on host {} holds {:016x}, replica {} on host {} holds {:016x}",
                state.shard,
                state.applied,
                first.replica,
                first.host,
                first.hash,
                state.replica,
                state.host,
                state.hash
            ));
        }
    }
    lines
}

/// How many pairs of replicas could be compared. None of a shard is no proof that its replicas agree.
pub(super) fn shards_compared(states: &[ReplicaState]) -> usize {
    let mut counted: BTreeMap<(u64, u64), usize> = BTreeMap::new();
    for state in states {
        *counted.entry((state.shard, state.applied)).or_default() += 1;
    }
    let several = counted
        .iter()
        .filter(|((shard, _), replicas)| *shard != 0 && **replicas > 1);
    let shards: std::collections::BTreeSet<u64> = several.map(|((shard, _), _)| *shard).collect();
    shards.len()
}

/// How many shards have all their replicas at one entry. The placement group is none of them.
pub(super) fn shards_level(states: &[ReplicaState]) -> usize {
    let mut applied: BTreeMap<u64, std::collections::BTreeSet<u64>> = BTreeMap::new();
    for state in states.iter().filter(|state| state.shard != 0) {
        applied.entry(state.shard).or_default().insert(state.applied);
    }
    applied.values().filter(|positions| positions.len() == 1).count()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn state(host: usize, shard: u64, applied: u64, hash: u64) -> ReplicaState {
        ReplicaState {
            host,
            shard,
            replica: 10 * shard + host as u64,
            applied,
            hash,
        }
    }

    #[test]
    fn only_equal_positions_are_compared() {
        let states = [
            state(1, 1, 7, 0xa),
            state(2, 1, 7, 0xa),
            state(3, 1, 6, 0xb),
            state(1, 2, 7, 0xc),
        ];
        assert!(differences(&states).is_empty());
        assert_eq!(shards_compared(&states), 1);
    }

    #[test]
    fn a_difference_names_both_replicas() {
        let states = [state(1, 1, 7, 0xa), state(2, 1, 7, 0xb), state(3, 1, 7, 0xa)];
        let [line] = &differences(&states)[..] else {
            panic!("one line")
        };
        for part in [
            "shard 1 at entry 7",
            "replica 11 on host 1",
            "replica 12 on host 2",
        ] {
            assert!(line.contains(part), "{line}");
        }
    }
}
