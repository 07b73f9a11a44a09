//! Shards as contiguous ranges of keys.

use placement::ShardId;
use serde::{Deserialize, Serialize};

/// Shards as ranges: shard 1 ends before the first split key, and so on.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct KeyRanges {
    splits: Vec<Vec<u8>>,
}

impl KeyRanges {
    /// Ranges between the given split keys, in any order; equal ones count once.
    pub fn new(mut splits: Vec<Vec<u8>>) -> Self {
        splits.sort();
        splits.dedup();
        Self { splits }
    }

    /// The split keys in order: each is the first key of a shard.
    pub fn splits(&self) -> &[Vec<u8>] {
        &self.splits
    }

    /// The shard that a key belongs to, numbered from 1 in key order.
    pub fn shard_of(&self, key: &[u8]) -> ShardId {
        ShardId(self.splits.partition_point(|split| split.as_slice() <= key) as u64 + 1)
    }

    /// All shards in key order.
    pub fn shards(&self) -> impl Iterator<Item = ShardId> + use<> {
        (1..=self.splits.len() as u64 + 1).map(ShardId)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_belongs_to_the_range_it_begins() {
        let ranges = KeyRanges::new(vec![b"t".to_vec(), b"h".to_vec()]);
        let shards: Vec<u64> = ["a", "h", "s", "t", "z"]
            .iter()
            .map(|key| ranges.shard_of(key.as_bytes()).0)
            .collect();
        assert_eq!(shards, [1, 2, 2, 3, 3]);
        assert_eq!(ranges.shards().count(), 3);
    }
}
