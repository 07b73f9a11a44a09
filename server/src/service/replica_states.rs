//! What the replicas on this host have: asked for by operators, of this host alone.

use client::proto::{ReplicaState, ReplicaStatesRequest};
use placement::{ReplicaId, ShardId};
use raft::Group;

use crate::host::Host;

/// The states of this host's replicas, those that are fenced last.
pub(super) fn of(host: &Host, request: &ReplicaStatesRequest) -> Vec<ReplicaState> {
    let is_wanted = |shard: ShardId| request.shard_id == 0 || request.shard_id == shard.0;
    let placement = host
        .placement()
        .filter(|_| is_wanted(ShardId::PLACEMENT))
        .map(|local| {
            let (applied, hash) = local.machine.state_hash_at();
            state_of(host, &local.group, applied, hash)
        });
    let shards = host
        .shards()
        .into_iter()
        .filter(|local| is_wanted(local.group.id()));
    let shards = shards.map(|local| {
        let (applied, hash) = match request.brief {
            true => (local.store.applied(), 0),
            false => local.store.state_hash_at(),
        };
        ReplicaState {
            revision: local.store.revision(),
            ..state_of(host, &local.group, applied.map_or(0, |at| at.index), hash)
        }
    });
    let fenced = host.fenced_replicas().into_iter();
    let fenced = fenced
        .filter(|fenced| is_wanted(ShardId(fenced.shard_id)))
        .map(|fenced| ReplicaState {
            shard_id: fenced.shard_id,
            replica_id: fenced.replica_id,
            host_id: host.id().0,
            term: fenced.last_term,
            role: "fenced".to_owned(),
            last_term: fenced.last_term,
            last_index: fenced.last_index,
            ..ReplicaState::default()
        });
    placement.into_iter().chain(shards).chain(fenced).collect()
}

fn state_of(host: &Host, group: &Group, applied_index: u64, state_hash: u64) -> ReplicaState {
    let role = match (group.is_leader(), group.is_voter()) {
        (true, _) => "leader",
        (false, true) => "voter",
        (false, false) => "learner",
    };
    let end = end_of(host, group.replica());
    ReplicaState {
        shard_id: group.id().0,
        replica_id: group.replica().0,
        host_id: host.id().0,
        term: group.status().term,
        applied_index,
        state_hash,
        role: role.to_owned(),
        last_term: end.term,
        last_index: end.index,
        revision: 0,
    }
}

/// A log that cannot be read shows as an empty one: nothing can be made of it.
fn end_of(host: &Host, replica: ReplicaId) -> raft::LogEnd {
    let end = host.raft().and_then(|raft| raft.log_end(replica).ok());
    end.flatten().unwrap_or_default()
}
