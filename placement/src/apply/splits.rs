//! Splits: what a shard's log has parted is taken over here, and gets a route.
//!
//! The ids of the new shard and its replicas are given out with the proposal, for the order to the shard's log must carry
//! them. The new shard counts from the step that takes the split over: in one entry the one range ends where the other
//! begins, so the ranges part the key space at every index. Until the new replicas exist, both shards are the split's.

use crate::command::SHARDS_MAX;
use crate::ids::ShardId;
use crate::migration::{Migration, Placed, SplitPlan};
use crate::model::{Epoch, KeyRange, Replica, Role, Shard};
use crate::response::Refusal;
use crate::state::{Placement, Stamp};

impl Placement {
    pub(super) fn check_split_at(&self, shard: &Shard, at: &[u8]) -> Result<(), Refusal> {
        if shard.id.is_placement() {
            return Err(Refusal::Invalid("the placement group has no range".to_owned()));
        }
        if at <= shard.range.start.as_slice() || !shard.range.contains(at) {
            return Err(Refusal::Invalid(
                "a split key lies within the shard's range, and is not its first key".to_owned(),
            ));
        }
        match self.shards.len() <= SHARDS_MAX {
            true => Ok(()),
            false => Err(Refusal::Invalid(format!("at most {SHARDS_MAX} shards"))),
        }
    }

    /// Gives out the ids of a new shard and of a replica beside each voter.
    pub(super) fn plan_split(&mut self, of: ShardId, at: Vec<u8>) -> Option<SplitPlan> {
        let voters: Vec<_> = self.shards.get(&of)?.voters().collect();
        self.last.shard += 1;
        let shard = ShardId(self.last.shard);
        let successors = voters.into_iter().map(|(replica, host)| {
            let successor = Placed {
                replica: self.next_replica(),
                host,
            };
            (replica, successor)
        });
        let successors = successors.collect();
        Some(SplitPlan {
            at,
            shard,
            successors,
        })
    }

    /// Takes over what the shard's log has done.
    pub(super) fn split(&mut self, stamp: Stamp, migration: &Migration) {
        let Some(plan) = &migration.split else { return };
        let Some(parent) = self.shards.get_mut(&migration.shard) else {
            return;
        };
        parent.first = Some(parent.first_range());
        let range = KeyRange {
            start: plan.at.clone(),
            end: parent.range.end.replace(plan.at.clone()),
        };
        parent.epoch.generation += 1;
        let Some(made) = successor_of(parent, plan, range, migration) else {
            return;
        };
        let words = (
            format!("split: the keys from here on are {}", plan.shard),
            format!("split off {}", migration.shard),
        );
        if let Some(affinity) = self.affinities.get(&migration.shard).cloned() {
            self.affinities.insert(plan.shard, affinity);
        }
        self.shards.insert(plan.shard, made);
        self.route_changed(stamp, migration.shard, words.0);
        self.route_changed(stamp, plan.shard, words.1);
    }
}

/// The new shard, with a replica beside each of its parent's, led where the parent is led.
fn successor_of(parent: &Shard, plan: &SplitPlan, range: KeyRange, migration: &Migration) -> Option<Shard> {
    let replica = |placed: &Placed| {
        let replica = Replica {
            host: placed.host,
            role: Role::Voter,
        };
        (placed.replica, replica)
    };
    let led_by = parent.route_home().and_then(|home| plan.successors.get(&home));
    let home = led_by.or_else(|| plan.successors.values().next())?;
    let replicas = plan.successors.values().map(replica).collect();
    let made = Shard::new(plan.shard, range, replicas, home.replica);
    Some(Shard {
        epoch: Epoch {
            generation: parent.epoch.generation,
            ..made.epoch
        },
        ready: true,
        active: Some(migration.id),
        moved_window: parent.moved_window,
        home_window: parent.home_window,
        ..made
    })
}
