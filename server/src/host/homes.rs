//! Leadership of the shards on this host: telling the placement group, and handing over before a stop.

use std::collections::BTreeMap;
use std::time::Duration;

use placement::{Command, Refusal, ReplicaId, Response, ShardId};
use tokio::time::Instant;

use super::state::Host;

/// When what could not be told is tried again.
const RETRY_PAUSE: Duration = Duration::from_millis(20);
/// How often leadership is looked at where nothing tells that it has changed.
const LOOK_PAUSE: Duration = Duration::from_secs(1);
/// How long to wait with a shard that the placement group does not know yet: one that a split has just made.
const UNKNOWN_PAUSE: Duration = Duration::from_millis(200);
/// How long a stopping host waits for one group's new leader.
const HANDOVER_TIMEOUT: Duration = Duration::from_secs(2);

/// What the placement group was told.
#[derive(Default)]
struct Told {
    /// Of each shard, the term in which a replica here leads.
    terms: BTreeMap<ShardId, (ReplicaId, u64)>,
    /// Shards that it did not know, and when to try again.
    unknown_until: BTreeMap<ShardId, Instant>,
}

impl Host {
    /// Reports each shard that this host begins to lead, once a term.
    pub(crate) async fn announce_homes(self) {
        let Some(raft) = self.raft() else {
            return;
        };
        let mut changes = raft.leaderships();
        let mut told = Told::default();
        loop {
            changes.mark_unchanged();
            let pause = match self.announce_new(&mut told).await {
                true => LOOK_PAUSE,
                false => RETRY_PAUSE,
            };
            // Told or not, it is looked again.
            drop(tokio::time::timeout(pause, changes.changed()).await);
        }
    }

    /// Reports what was not told yet; whether all of it is.
    async fn announce_new(&self, told: &mut Told) -> bool {
        let mut is_all = true;
        for local in self.shards() {
            let Some(term) = local.group.leading_term() else {
                continue;
            };
            let (shard, replica) = (local.group.id(), local.group.replica());
            if told.terms.get(&shard) == Some(&(replica, term)) {
                continue;
            }
            let unknown_until = told.unknown_until.get(&shard);
            if unknown_until.is_some_and(|until| Instant::now() < *until) {
                is_all = false;
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
                    told.unknown_until.insert(shard, Instant::now() + UNKNOWN_PAUSE);
                    is_all = false;
                }
                Ok(_) => {
                    told.terms.insert(shard, (replica, term));
                    self.metrics().leaderships.inc();
                }
                Err(_) => is_all = false,
            }
        }
        is_all
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
