//! Groups that begin with a state.
//!
//! A group whose state comes from elsewhere, as that of a shard that was split off another, does not begin with an empty
//! log: what an empty replica would read from its first entry on is not the whole state. All its first replicas begin as
//! if entry 0, which made them members, had been applied and purged. A replica that comes later lacks that entry, so it is
//! sent a snapshot.

use std::collections::BTreeMap;

use bytes::Bytes;
use openraft::vote::RaftLeaderId;
use placement::{HostId, ReplicaId};

use crate::convert::{Mark, nodes};
use crate::types::{ConfStamp, LeaderId, LogId, Membership, StoredMembership};

/// The mark that the first checkpoint of each first replica carries; its state's position is term 0, index 0. The same
/// for all of them.
pub fn founding_mark(members: &BTreeMap<ReplicaId, HostId>) -> Bytes {
    let base = LogId::new(LeaderId::new(0, 0), 0);
    let voters = members.keys().map(|replica| replica.0).collect();
    let membership = Membership::new(vec![voters], nodes(members)).expect("every voter is a member");
    let mark = Mark {
        applied: Some(base),
        membership: StoredMembership::new(Some(base), membership),
        stamp: ConfStamp::default(),
    };
    mark.encode()
}

#[cfg(test)]
mod tests {
    use std::path::Path;
    use std::sync::Arc;
    use std::time::Duration;

    use placement::ShardId;
    use storage::failpoint::HostFailpoints;
    use storage::shard::command::{Mutation, OpenSession, Operation, Put};
    use storage::shard::{
        Position, ShardIdentity, ShardOptions, ShardStore, Split, Successor, encode_batch, encode_split,
    };
    use storage::sim_disk::SimDisk;

    use super::*;
    use crate::config::RaftOptions;
    use crate::conformance::{ShardMachine, Stores, test_env};
    use crate::host::{HostIdentity, RaftHost, StartGroup};

    const CHILD: &str = "/child";

    fn identity(shard_id: u64) -> ShardIdentity {
        ShardIdentity {
            cluster_id: "c".into(),
            shard_id,
            replica_id: shard_id,
            start: Bytes::new(),
            end: None,
            r#gen: 1,
        }
    }

    fn encode(operations: impl IntoIterator<Item = (u64, Operation)>) -> Bytes {
        let mutations = operations.into_iter().map(|(sequence, operation)| {
            let mutation = Mutation {
                session: 9,
                sequence,
                low_water: 0,
                r#gen: 0,
                operation: Some(operation),
            };
            Bytes::from(prost::Message::encode_to_vec(&mutation))
        });
        encode_batch(1, mutations)
    }

    fn put(key: &'static str) -> Operation {
        Operation::Put(Put {
            key: Bytes::from(key),
            value: Bytes::from("v"),
            ..Put::default()
        })
    }

    /// A shard that was split off another, which held one key.
    fn split_off(disk: &Arc<SimDisk>) {
        let parent = ShardStore::create(
            disk.clone(),
            Path::new("/parent"),
            identity(1),
            ShardOptions::default(),
        );
        let parent = parent.unwrap();
        let written = encode([(0, Operation::OpenSession(OpenSession {})), (1, put("n"))]);
        let split = Split {
            r#gen: 1,
            key: Bytes::from("m"),
            shard: 2,
            successors: vec![Successor { of: 1, replica: 2 }],
            mark: founding_mark(&BTreeMap::from([(ReplicaId(2), HostId(1))])),
        };
        for (index, payload) in [(1, written), (2, encode_split(1, split))] {
            parent.apply(Position { term: 1, index }, Some(&payload)).unwrap();
        }
        let points = HostFailpoints::disarmed();
        let heirs = parent.heirs();
        heirs[0]
            .write(&**disk, Path::new(CHILD), &identity(2), 1 << 20, &points)
            .unwrap();
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn a_group_goes_on_from_the_state_that_it_was_given() {
        let disk = Arc::new(SimDisk::new(1));
        split_off(&disk);
        let stores = Stores::new();
        for run in 0..3_u64 {
            let store = ShardStore::open(
                disk.clone(),
                Path::new(CHILD),
                &identity(2),
                ShardOptions::default(),
            );
            let store = store.unwrap();
            let host = HostIdentity {
                cluster_id: "c".into(),
                host: 1,
            };
            let host = RaftHost::new(host, RaftOptions::default(), test_env(), stores.hub());
            let start = StartGroup {
                group: ShardId(2),
                replica: ReplicaId(2),
                machine: Arc::new(ShardMachine(store.clone())),
            };
            let group = host.open_group(start).await.unwrap();
            group.campaign().await;
            let leader = group.wait_for_leader(Duration::from_secs(5)).await;
            assert_eq!(leader, Some(ReplicaId(2)), "run {run}");
            let key = ["o", "p", "q"][run as usize];
            group.propose(encode([(run + 2, put(key))])).await.unwrap();
            assert_eq!(store.stats().keys, 2 + run);
            assert_eq!(group.status().voters, [[ReplicaId(2)].into()]);
            // Whoever lacks entry 0 needs a snapshot.
            assert_eq!(group.status().purged_index, Some(0), "run {run}");
            host.shutdown().await;
        }
    }
}
