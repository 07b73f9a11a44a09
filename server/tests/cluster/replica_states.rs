//! Replicas that have applied the same entries are in the same state.

use std::collections::{BTreeMap, BTreeSet};

use client::proto::ReplicaState;

use super::harness::{Cluster, eventually, godwit};

const SHARDS: u32 = 4;

type ByShard = BTreeMap<u64, Vec<ReplicaState>>;

async fn look(cluster: &Cluster) -> Result<ByShard, String> {
    let admin = cluster.admin();
    let mut shards = ByShard::new();
    for host in &cluster.hosts {
        let reply = admin
            .replica_states_of(&host.address)
            .await
            .map_err(|e| e.to_string())?;
        for replica in reply.replicas {
            shards.entry(replica.shard_id).or_default().push(replica);
        }
    }
    Ok(shards)
}

/// Waits until all replicas of each shard have applied the same entries, and checks that they agree then.
async fn settled(cluster: &Cluster) -> ByShard {
    let shards = eventually("all replicas have applied the same entries", || async {
        let shards = look(cluster).await?;
        let positions = |replicas: &Vec<ReplicaState>| {
            let distinct: BTreeSet<u64> = replicas.iter().map(|replica| replica.applied_index).collect();
            replicas.len() == cluster.hosts.len() && distinct.len() == 1
        };
        match shards.values().all(positions) {
            true => Ok(shards),
            false => Err(format!("{shards:#?}")),
        }
    })
    .await;
    for (shard, replicas) in &shards {
        let hashes: BTreeSet<u64> = replicas.iter().map(|replica| replica.state_hash).collect();
        assert_eq!(hashes.len(), 1, "shard {shard}: {replicas:#?}");
        let leaders = replicas.iter().filter(|replica| replica.role == "leader").count();
        assert_eq!(leaders, 1, "shard {shard}: {replicas:#?}");
    }
    shards
}

#[tokio::test(flavor = "multi_thread")]
async fn replicas_that_applied_the_same_entries_agree() {
    let cluster = Cluster::start(3, SHARDS).await;
    let client = cluster.client().await;
    let before = settled(&cluster).await;
    let ids: Vec<u64> = before.keys().copied().collect();
    assert_eq!(
        ids.len(),
        SHARDS as usize + 1,
        "each shard and the placement group: {ids:?}"
    );
    // Equal slices of the key space: the first byte decides on the shard.
    for first in (0..=u8::MAX).step_by(8) {
        client.put(vec![first, b'k'], "written").await.unwrap();
    }
    let after = settled(&cluster).await;
    for (shard, replicas) in after.iter().filter(|(shard, _)| **shard != 0) {
        let (was, is) = (&before[shard][0], &replicas[0]);
        assert!(
            is.applied_index > was.applied_index,
            "shard {shard}: {was:?}, {is:?}"
        );
        assert_ne!(is.state_hash, was.state_hash, "shard {shard} was written to");
    }
    let connect = format!("--connect={}", cluster.hosts[0].address);
    let (code, answer, errors) = godwit(&[&connect, "admin", "replicas", "--json"]);
    assert_eq!(code, Some(0), "{errors}");
    let answer: serde_json::Value = serde_json::from_str(&answer).unwrap();
    assert_eq!(answer["replicas"].as_array().map(Vec::len), Some(3 * ids.len()));
    assert_eq!(answer["silent_hosts"].as_array().map(Vec::len), Some(0));
    assert_eq!(
        answer["replicas"][0]["shard_id"], 0,
        "the placement group comes first"
    );
}
