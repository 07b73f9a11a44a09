//! Merges: a shard takes over the range of the next one, which ends.
//!
//! Both are the merge's from its proposal on, so that neither moves: the replicas of the one lie beside those of the
//! other. The shard that goes is frozen by its own log, then absorbed by the other's; only then does its range change
//! hands here, in one entry, so the ranges part the key space at every index. It can be given up as long as it has not
//! been written down that the frozen shard is to be absorbed.

use std::collections::BTreeMap;

use crate::history::EventKind;
use crate::ids::{HostId, ReplicaId, ShardId};
use crate::migration::{Evidence, MergePlan, Migration, MigrationState, Placed};
use crate::model::Shard;
use crate::response::Refusal;
use crate::state::{About, Placement, Stamp};

use super::advance::weak;
use super::effects::Effect;

impl Placement {
    /// What the merge of a shard with the next one comes to, if they can be merged.
    pub(super) fn plan_merge(&self, shard: &Shard, next: ShardId) -> Result<MergePlan, Refusal> {
        let other = self.shards.get(&next).ok_or(Refusal::UnknownShard(next))?;
        if shard.id.is_placement() || next.is_placement() {
            return Err(Refusal::Invalid("the placement group has no range".to_owned()));
        }
        if shard.range.end.as_ref() != Some(&other.range.start) {
            let text = format!("{next} does not begin where {} ends", shard.id);
            return Err(Refusal::Invalid(text));
        }
        if !other.ready {
            return Err(Refusal::ShardNotReady(next));
        }
        let beside = |(replica, host): (ReplicaId, HostId)| {
            let there = other.replica_on(host).filter(|there| other.is_voter(*there));
            Some((
                replica,
                Placed {
                    replica: there?,
                    host,
                },
            ))
        };
        let replicas: Option<BTreeMap<_, _>> = shard.voters().map(beside).collect();
        let replicas = replicas.filter(|replicas| {
            let all_vote = shard.voter_count() == shard.replicas.len();
            all_vote && replicas.len() == other.replicas.len()
        });
        let replicas = replicas.ok_or_else(|| {
            let text = format!(
                "the replicas of {} and {next} are not on the same hosts",
                shard.id
            );
            Refusal::Invalid(text)
        })?;
        Ok(MergePlan {
            shard: next,
            generation: other.epoch.generation,
            replicas,
        })
    }

    /// Whether a merge can be as it was planned.
    pub(super) fn check_merge(&self, shard: &Shard, plan: &MergePlan) -> Result<(), Refusal> {
        match self.plan_merge(shard, plan.shard)? {
            now if now == *plan => Ok(()),
            _ => Err(Refusal::Invalid(format!("{} has changed", plan.shard))),
        }
    }

    /// The guard of the edges that only a merge has.
    pub(super) fn judge_merge(
        &self,
        migration: &Migration,
        shard: &Shard,
        next: MigrationState,
        evidence: Evidence,
    ) -> Result<Effect, Refusal> {
        use MigrationState::{Aborted, Absorbing, Dissolving, Done, Freezing, Thawing};
        let plan = migration.merge.as_ref();
        let plan = plan.ok_or_else(|| weak("there is nothing to merge with".to_owned()))?;
        let generation = |found: u64, expected: u64, effect| match found == expected {
            true => Ok(effect),
            false => Err(weak(format!("a range has version {found}, not {expected}"))),
        };
        match (migration.state, next, evidence) {
            (Freezing, Absorbing, Evidence::Frozen { generation: found }) => {
                generation(found, plan.frozen_generation(), Effect::None)
            }
            (Freezing, Thawing, Evidence::GiveUp { .. }) => Ok(Effect::None),
            (Thawing, Aborted, Evidence::Thawed { generation: found }) => {
                generation(found, plan.thawed_generation(), Effect::Thawed)
            }
            (Absorbing, Dissolving, Evidence::Absorbed { generation: found }) => generation(
                found,
                plan.merged_generation(shard.epoch.generation),
                Effect::Absorbed,
            ),
            (Dissolving, Done, Evidence::Dissolved) => Ok(Effect::Dissolved),
            (from, next, evidence) => Err(weak(format!(
                "{evidence:?} does not lead from {from:?} to {next:?}"
            ))),
        }
    }

    /// The shard that was to be absorbed goes on.
    pub(super) fn thaw(&mut self, stamp: Stamp, migration: &Migration) {
        let Some(plan) = &migration.merge else { return };
        let Some(other) = self.shards.get_mut(&plan.shard) else {
            return;
        };
        other.epoch.generation = plan.thawed_generation();
        self.route_changed(stamp, plan.shard, format!("not merged with {}", migration.shard));
    }

    /// Takes over what the logs of both shards have done.
    pub(super) fn merge(&mut self, stamp: Stamp, migration: &Migration) {
        let Some(plan) = &migration.merge else { return };
        let Some(other) = self.shards.remove(&plan.shard) else {
            return;
        };
        self.affinities.remove(&plan.shard);
        let Some(shard) = self.shards.get_mut(&migration.shard) else {
            return;
        };
        shard.first = Some(shard.first_range());
        shard.range.end = other.range.end;
        shard.epoch.generation = plan.merged_generation(shard.epoch.generation);
        let words = format!("merged: the keys of {} are here", plan.shard);
        self.route_changed(stamp, migration.shard, words);
        let detail = format!("merged into {}", migration.shard);
        self.record(stamp, EventKind::ShardMerged, About::shard(plan.shard), detail);
    }

    /// What could not be destroyed, on hosts that are lost, is owed to them.
    pub(super) fn owe_dissolved(&mut self, migration: &Migration) {
        let Some(plan) = &migration.merge else { return };
        let lost = plan
            .replicas
            .values()
            .filter(|placed| self.host_is_lost(placed.host));
        for placed in lost.copied().collect::<Vec<_>>() {
            self.owe(placed, plan.shard);
        }
    }
}
