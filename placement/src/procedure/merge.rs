//! The steps of a merge after its start: freeze the one shard, have the other absorb it, clear away what is left.

use super::actions::{Action, Look, MergeStep};
use crate::ids::ReplicaId;
use crate::migration::{AbortReason, Evidence, MergePlan, MigrationState, Placed};

impl Look<'_> {
    pub(super) fn merge(&self) -> Vec<Action> {
        let Some(plan) = &self.migration.merge else {
            return vec![self.wait()];
        };
        match self.migration.state {
            MigrationState::Freezing => vec![self.freeze(plan)],
            MigrationState::Absorbing => vec![self.absorb(plan)],
            MigrationState::Dissolving => self.dissolve(plan),
            _ => vec![self.thaw(plan)],
        }
    }

    fn freeze(&self, plan: &MergePlan) -> Action {
        let generation = plan.frozen_generation();
        match self.other_generation(plan) {
            Some(found) if found == generation => {
                self.advance(MigrationState::Absorbing, Evidence::Frozen { generation })
            }
            _ if self.is_overdue() => self.give_up(MigrationState::Thawing, AbortReason::Deadline),
            Some(_) => Action::StepMerge {
                shard: plan.shard,
                step: MergeStep::Freeze {
                    generation: plan.generation,
                },
            },
            None => self.wait(),
        }
    }

    fn thaw(&self, plan: &MergePlan) -> Action {
        let generation = plan.thawed_generation();
        match self.other_generation(plan) {
            Some(found) if found == generation => {
                self.advance(MigrationState::Aborted, Evidence::Thawed { generation })
            }
            Some(_) => Action::StepMerge {
                shard: plan.shard,
                step: MergeStep::Thaw {
                    generation: plan.generation,
                },
            },
            None => self.wait(),
        }
    }

    fn absorb(&self, plan: &MergePlan) -> Action {
        let before = self.shard.epoch.generation;
        let generation = plan.merged_generation(before);
        match self.leader {
            Some(leader) if leader.generation == generation => {
                self.advance(MigrationState::Dissolving, Evidence::Absorbed { generation })
            }
            Some(_) => Action::StepMerge {
                shard: self.shard.id,
                step: MergeStep::Absorb {
                    generation: before,
                    absorbed: plan.shard,
                    absorbed_generation: plan.frozen_generation(),
                },
            },
            None => self.wait(),
        }
    }

    /// Each host gives up its replica of the absorbed shard once the one beside it can do without; none before every host
    /// has absorbed its own, since a replica that is behind hears only from the others that it is frozen.
    fn dissolve(&self, plan: &MergePlan) -> Vec<Action> {
        let generation = self.shard.epoch.generation;
        let is_behind = |(by, beside): (&ReplicaId, &Placed)| {
            let by = Placed {
                replica: *by,
                host: beside.host,
            };
            !self.placement.host_is_lost(by.host) && !self.observation.has_come_to(by, generation)
        };
        if plan.replicas.iter().any(is_behind) {
            return vec![self.wait()];
        }
        let is_left = |(_, doomed): &(&ReplicaId, &Placed)| {
            !self.placement.host_is_lost(doomed.host) && !self.observation.is_destroyed(**doomed)
        };
        let left: Vec<_> = plan.replicas.iter().filter(is_left).collect();
        if left.is_empty() {
            return vec![self.advance(MigrationState::Done, Evidence::Dissolved)];
        }
        let reachable = left
            .into_iter()
            .filter(|(_, doomed)| self.placement.is_up(doomed.host));
        let orders = reachable.map(|(by, doomed)| Action::DestroyAbsorbed {
            shard: plan.shard,
            doomed: *doomed,
            by: *by,
            generation,
        });
        orders.chain([self.wait()]).collect()
    }

    /// The version of the other shard's range, as its leader says.
    fn other_generation(&self, plan: &MergePlan) -> Option<u64> {
        let other = self.placement.shard(plan.shard)?;
        let leader = self.observation.other_current_leader(other)?;
        Some(leader.generation)
    }
}
