//! What tests of splits and of merges share.

use std::time::{Duration, Instant};

use client::AdminError;
use client::proto::{MergeShardRequest, MigrationReply, SplitShardRequest};

use super::harness::{Cluster, PATIENCE, check_all, keys, write_all};

/// A change of ranges.
#[derive(Clone, Copy)]
pub(super) enum Change {
    Split,
    Merge,
}

impl Change {
    fn name(self) -> &'static str {
        match self {
            Change::Split => "split",
            Change::Merge => "merge",
        }
    }

    /// Asks for it, of the first shard.
    async fn ask(self, cluster: &Cluster, reason: &str) -> Result<MigrationReply, AdminError> {
        let mut shards = cluster.shards().await;
        shards.sort_by(|a, b| a.start.cmp(&b.start));
        let shard_id = shards[0].shard_id;
        let reason = reason.to_owned();
        match self {
            Change::Split => {
                let at = "4key19".into();
                let request = SplitShardRequest { shard_id, at, reason };
                cluster.admin().split_shard(request).await
            }
            Change::Merge => {
                let request = MergeShardRequest { shard_id, reason };
                cluster.admin().merge_shard(request).await
            }
        }
    }
}

/// Merges a shard with the next one; why that was refused, if it was.
pub(super) async fn merge(cluster: &Cluster, shard: u64) -> String {
    let request = MergeShardRequest {
        shard_id: shard,
        reason: "test".into(),
    };
    let reply = cluster.admin().merge_shard(request).await.unwrap();
    if reply.refused.is_empty() {
        let ended = cluster.wait_for(reply.migration_id).await;
        let (kind, state) = (ended.kind.as_str(), ended.state.as_str());
        assert_eq!((kind, state), ("merge", "Done"), "{ended:?}");
    }
    reply.refused
}

/// Splits a shard; why that was refused, if it was.
pub(super) async fn split(cluster: &Cluster, shard: u64, at: &str) -> String {
    let request = SplitShardRequest {
        shard_id: shard,
        at: at.to_owned().into(),
        reason: "test".into(),
    };
    let reply = cluster.admin().split_shard(request).await.unwrap();
    if reply.refused.is_empty() {
        let ended = cluster.wait_for(reply.migration_id).await;
        assert_eq!(
            (ended.kind.as_str(), ended.state.as_str()),
            ("split", "Done"),
            "{ended:?}"
        );
    }
    reply.refused
}

/// The shards' ranges, in order.
pub(super) async fn ranges(cluster: &Cluster) -> Vec<(String, String)> {
    let mut shards = cluster.shards().await;
    shards.sort_by(|a, b| a.start.cmp(&b.start));
    let text = |key: &[u8]| String::from_utf8_lossy(key).into_owned();
    shards
        .iter()
        .map(|shard| (text(&shard.start), text(&shard.end)))
        .collect()
}

/// Reshapes with hosts armed to die; whoever dies comes back unarmed, and the change ends.
pub(super) async fn dies_at(point: &str, change: Change) {
    let (before, after) = match change {
        Change::Split => (1, 2),
        Change::Merge => (2, 1),
    };
    let mut cluster = Cluster::start(3, before).await;
    let client = cluster.client().await;
    let mut acknowledged = write_all(&client, &keys(40), "before").await;
    for host in 0..3 {
        cluster.hosts[host].kill();
        cluster.hosts[host].start(point);
        cluster.wait_until_settled(before as usize).await;
    }
    // The host in control may die with the answer in hand.
    match change.ask(&cluster, point).await {
        Ok(reply) => assert_eq!(reply.refused, "", "{point}"),
        Err(AdminError::UnknownOutcome { .. }) => {}
        Err(e) => panic!("{point}: {e}"),
    }
    let writer = tokio::spawn({
        let client = client.clone();
        async move { write_all(&client, &keys(40), "during").await }
    });
    let (began, mut deaths) = (Instant::now(), 0);
    loop {
        for host in &mut cluster.hosts {
            if !host.runs() {
                deaths += 1;
                host.start("");
            }
        }
        // All hosts may be dead: then nobody answers.
        let known = tokio::time::timeout(Duration::from_secs(2), cluster.migrations()).await;
        let known = known.unwrap_or_default();
        let ended = known
            .iter()
            .find(|known| known.kind == change.name() && known.ended_ms > 0);
        if let Some(ended) = ended {
            assert_eq!(ended.state, "Done", "{ended:?}");
            break;
        }
        assert!(began.elapsed() < PATIENCE, "{point}: {known:?}");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    acknowledged.extend(writer.await.unwrap());
    for host in &mut cluster.hosts {
        if !host.runs() {
            deaths += 1;
            host.start("");
        }
    }
    assert!(deaths > 0, "{point}: nobody died, so this showed nothing");
    cluster.wait_until_settled(after).await;
    assert_eq!(ranges(&cluster).await.len(), after);
    check_all(&client, &acknowledged).await;
}
