//! What the shards' ranges allow: whether they hold every key, where one can be split, which can be merged.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use client::proto::ShardStatus;

/// The first key that no shard holds; `None` when they hold every key once, as they do at any moment but for the host that
/// was asked being behind.
pub(crate) fn first_gap(shards: &[ShardStatus]) -> Option<Bytes> {
    let ends: BTreeMap<&Bytes, &Bytes> = shards.iter().map(|shard| (&shard.start, &shard.end)).collect();
    let mut at = &Bytes::new();
    for _ in &ends {
        let Some(end) = ends.get(at) else {
            return Some(at.clone());
        };
        if end.is_empty() {
            return None;
        }
        at = end;
    }
    Some(at.clone())
}

/// First bytes of keys that a shard can be split before. Keys that a transaction takes together begin with the same byte,
/// and stay together.
pub(crate) fn first_bytes_within(shard: &ShardStatus) -> impl Iterator<Item = u8> {
    let first = shard.start.first().copied().unwrap_or(0);
    let end = shard.end.first().copied().unwrap_or(u8::MAX);
    (first..end).skip(1)
}

/// The shards whose replicas lie beside those of the next one.
pub(crate) fn mergeable(shards: &[ShardStatus]) -> impl Iterator<Item = u64> + '_ {
    let hosts = |shard: &ShardStatus| -> BTreeSet<u64> {
        shard.replicas.iter().map(|replica| replica.host_id).collect()
    };
    let fits = move |shard: &&ShardStatus| {
        let mut next = shards
            .iter()
            .filter(|next| !shard.end.is_empty() && next.start == shard.end);
        next.any(|next| hosts(next) == hosts(shard))
    };
    shards.iter().filter(fits).map(|shard| shard.shard_id)
}

#[cfg(test)]
mod tests {
    use client::proto::Replica;

    use super::*;

    fn gap(ranges: &[(&'static str, &'static str)]) -> Option<Bytes> {
        let shard = |(start, end): &(&'static str, &'static str)| ShardStatus {
            start: Bytes::from_static(start.as_bytes()),
            end: Bytes::from_static(end.as_bytes()),
            ..ShardStatus::default()
        };
        let shards: Vec<ShardStatus> = ranges.iter().map(shard).collect();
        first_gap(&shards)
    }

    #[test]
    fn shards_hold_every_key_in_any_order_and_number() {
        assert_eq!(gap(&[("", "")]), None);
        assert_eq!(gap(&[("m", ""), ("", "c"), ("c", "m")]), None);
    }

    #[test]
    fn a_missing_shard_is_a_gap() {
        assert_eq!(gap(&[]), Some(Bytes::new()));
        assert_eq!(gap(&[("b", "")]), Some(Bytes::new()));
        assert_eq!(gap(&[("", "b"), ("c", "")]), Some(Bytes::from_static(b"b")));
        assert_eq!(gap(&[("", "b")]), Some(Bytes::from_static(b"b")));
    }

    #[test]
    fn shards_beside_each_other_on_the_same_hosts_can_be_merged() {
        let shard = |shard_id, start: &'static str, end: &'static str, hosts: [u64; 2]| ShardStatus {
            shard_id,
            start: Bytes::from_static(start.as_bytes()),
            end: Bytes::from_static(end.as_bytes()),
            replicas: hosts
                .map(|host_id| Replica {
                    host_id,
                    ..Replica::default()
                })
                .into(),
            ..ShardStatus::default()
        };
        let shards = [
            shard(1, "", "c", [1, 2]),
            shard(2, "m", "", [3, 1]),
            shard(3, "c", "m", [2, 1]),
        ];
        assert_eq!(mergeable(&shards).collect::<Vec<_>>(), [1]);
        assert_eq!(first_bytes_within(&shards[2]).collect::<Vec<_>>(), *b"defghijkl");
    }
}
