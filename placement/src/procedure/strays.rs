//! Debris: replicas that exist without being wanted; and replicas that are wanted, and that a split did not make.
//!
//! An order that was delayed until after its migration ended can leave a learner or an empty replica behind. While a
//! shard has no migration under way, everything that the log does not know is debris, because a member enters the log's
//! copy no later than its migration ends. A voter is never debris: the log is then behind the shard, and must not act.

use super::actions::Action;
use super::observation::Observation;
use crate::ids::ReplicaId;
use crate::migration::{MigrationKind, MigrationState, Placed};
use crate::model::Shard;
use crate::state::Placement;

/// Orders that clear a shard's debris away; none while a migration is under way or the leader is not known, but for what
/// a split waits for.
pub fn strays(placement: &Placement, observation: &Observation) -> Vec<Action> {
    let Some(shard) = placement.shard(observation.shard).filter(|shard| shard.ready) else {
        return Vec::new();
    };
    let active = shard.active.and_then(|id| placement.migration(id));
    match active.filter(|migration| migration.state != MigrationState::Proposed) {
        // A split waits for replicas that are made of those of this shard, so these are made first.
        Some(migration) if migration.kind == MigrationKind::Split => {
            return late_successors(placement, shard, observation).collect();
        }
        Some(_) => return Vec::new(),
        None => {}
    }
    let Some(leader) = observation.current_leader(shard) else {
        return Vec::new();
    };
    let membership = &leader.membership;
    if !membership.is_uniform() {
        return Vec::new();
    }
    let unknown = |replica: &&ReplicaId| !shard.replicas.contains_key(replica);
    let learners = membership
        .learners
        .iter()
        .filter(unknown)
        .map(|replica| Action::RemoveReplica { replica: *replica });
    // Only what no membership has may be destroyed (I5); a stray learner goes in two rounds.
    let held = observation
        .hosts
        .iter()
        .flat_map(|(host, view)| view.replicas.iter().map(move |id| (*host, id)));
    let orphans = held.filter(|(_, replica)| unknown(replica) && !membership.has(**replica));
    let orphans = orphans.map(|(host, replica)| Action::DestroyReplica {
        host,
        replica: *replica,
    });
    let late = late_successors(placement, shard, observation);
    learners.chain(orphans).chain(late).collect()
}

/// Members of a shard that came from a split, on hosts that were lost when the split ended and are back without them. A
/// host that passed the split in a snapshot never makes its replica by itself; as long as it may, it refuses.
fn late_successors<'a>(
    placement: &'a Placement,
    shard: &'a Shard,
    observation: &'a Observation,
) -> impl Iterator<Item = Action> + 'a {
    let ended = placement
        .migrations()
        .values()
        .filter(|migration| migration.state == MigrationState::Done);
    let plans = ended.filter_map(|migration| migration.split.as_ref());
    let successors = plans
        .filter(|plan| plan.shard == shard.id)
        .flat_map(|plan| &plan.successors);
    let is_missing = |made: Placed| {
        let is_member = shard.replicas.contains_key(&made.replica);
        let host = observation.hosts.get(&made.host);
        is_member && host.is_some() && !observation.exists(made) && !observation.is_destroyed(made)
    };
    let missing = successors.filter(move |(_, made)| is_missing(**made));
    missing.map(|(of, made)| Action::CreateSuccessor { of: *of, made: *made })
}
