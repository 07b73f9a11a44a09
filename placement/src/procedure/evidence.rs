//! What in an observation counts as evidence, and which replica may be handed the lead.

use super::observation::{LeaderView, Observation};
use crate::ids::ReplicaId;
use crate::migration::{Evidence, LagSample, Migration};
use crate::model::Shard;
use crate::rules::Limits;

/// Two samples that show the learner close to its current leader: both after the state was entered, both in the
/// leader's term, far enough apart, with no snapshot on its way.
pub(super) fn caught_up(migration: &Migration, leader: &LeaderView, limits: &Limits) -> Option<Evidence> {
    let progress = leader.progress.get(&migration.dst?.replica)?;
    if progress.snapshot_in_flight != Some(false) {
        return None;
    }
    let valid = |sample: &&LagSample| {
        sample.raft_term == leader.raft_term
            && sample.at_ms >= migration.since_ms
            && sample.lag_entries <= limits.catch_up_lag_max
    };
    let second = progress.samples.last().filter(valid)?;
    // Every sample in between must be good as well: a learner that fell behind again has not caught up.
    let streak = progress.samples.iter().rev().take_while(|sample| valid(sample));
    let mut older = streak.filter(|first| first.at_ms.saturating_add(limits.catch_up_gap_ms) <= second.at_ms);
    let first = older.next()?;
    Some(Evidence::CaughtUp {
        leader: leader.replica,
        first: *first,
        second: *second,
    })
}

/// The voters that may be handed the lead, best first: the intended home, then the least behind.
///
/// A transfer that fails is never cancelled and costs an election, so only a replica that was just measured close to
/// its leader is a candidate.
pub(super) fn heirs(
    migration: Option<&Migration>,
    shard: &Shard,
    leader: &LeaderView,
    observation: &Observation,
    limits: &Limits,
) -> Vec<ReplicaId> {
    let leaving = migration
        .and_then(|migration| migration.src)
        .map(|src| src.replica);
    let voters = leader.membership.voters.last().into_iter().flatten().copied();
    let mut heirs: Vec<(bool, u64, ReplicaId)> = voters
        .filter(|id| Some(*id) != leaving && *id != leader.replica)
        .filter_map(|id| Some((shard.home != Some(id), lag_now(leader, id, observation)?, id)))
        .filter(|(_, lag, _)| *lag <= limits.transfer_lag_max)
        .collect();
    heirs.sort();
    heirs.into_iter().map(|(_, _, id)| id).collect()
}

/// The lag of `replica` as measured in this very observation.
pub(super) fn lag_now(leader: &LeaderView, replica: ReplicaId, observation: &Observation) -> Option<u64> {
    let newest = leader.progress.get(&replica)?.samples.last()?;
    let fresh = newest.at_ms == observation.sampled_ms && newest.raft_term == leader.raft_term;
    fresh.then_some(newest.lag_entries)
}
