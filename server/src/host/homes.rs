//! Leadership of the shards on this host: telling the placement group, and handing over before a stop.

use std::collections::BTreeMap;
use std::time::Duration;

use placement::{Command, Refusal, ReplicaId, Response, ShardId};
use tokio::time::Instant;

use super::state::Host;

/// How often leadership is looked at.
const LOOK_PAUSE: Duration = Duration::from_millis(20);
/// How long to wait with a shard that the placement group does not know yet: one that a split has just made.
const UNKNOWN_PAUSE: Duration = Duration::from_millis(200);
/// How long a stopping host waits for one group's new leader.
const HANDOVER_TIMEOUT: Duration = Duration::from_secs(2);

impl Host {
    /// Reports each shard that this host begins to lead, once a term.
    pub(crate) async fn announce_homes(self) {
        let mut announced: BTreeMap<ShardId, (ReplicaId, u64)> = BTreeMap::new();
        let mut unknown_until: BTreeMap<ShardId, Instant> = BTreeMap::new();
        loop {
            tokio::time::sleep(LOOK_PAUSE).await;
            for local in self.shards() {
                let Some(term) = local.group.leading_term() else {
                    continue;
                };
                let (shard, replica) = (local.group.id(), local.group.replica());
                let is_unknown = unknown_until
                    .get(&shard)
                    .is_some_and(|until| Instant::now() < *until);
                if is_unknown || announced.get(&shard) == Some(&(replica, term)) {
                    continue;
                }
                let observed = Command::ObserveHome {
                    shard,
                    replica,
                    raft_term: term,
                    now_ms: self.now_ms(),
                };
                match self.propose(&observed).await {
                    Ok(Response::Refused(Refusal::UnknownShard(_) | Refusal::UnknownReplica(_))) => {
                        unknown_until.insert(shard, Instant::now() + UNKNOWN_PAUSE);
                    }
                    Ok(_) => {
                        announced.insert(shard, (replica, term));
                        self.metrics().leaderships.inc();
                    }
                    Err(_) => {}
                }
            }
        }
    }

    /// Hands every group that this host leads to another voter, the placement group last.
    pub(crate) async fn hand_over(&self) {
        let shards = self.shards().into_iter().map(|local| local.group);
        let placement = self.placement().map(|local| local.group);
        for group in shards.chain(placement) {
            if !group.is_leader() {
                continue;
            }
            for target in heirs(&group) {
                match group.transfer(target, HANDOVER_TIMEOUT).await {
                    Ok(()) => break,
                    Err(e) => tracing::info!(shard = %group.id(), error = %e, "a home was not handed over"),
                }
            }
        }
    }
}

/// The other voters, the most caught-up first.
fn heirs(group: &raft::Group) -> Vec<ReplicaId> {
    let status = group.status();
    let mut voters: Vec<ReplicaId> = status.voters.last().into_iter().flatten().copied().collect();
    voters.retain(|voter| *voter != group.replica());
    voters.sort_by_key(|voter| {
        std::cmp::Reverse(status.progress.get(voter).and_then(|progress| progress.matched))
    });
    voters
}
