//! Splits in the simulated cluster: hosts make the new shard's replicas as they apply the split, late ones late, and those
//! that pass it in a snapshot never.

use std::collections::BTreeSet;

use placement::{ControllerTerm, Placed, ReplicaId, ShardId, SplitPlan};

use crate::cluster::{Cluster, Order};
use crate::group::{Copy, Group};

/// A split that was applied, and whose replicas are still to come.
#[derive(Clone, Debug)]
pub(crate) struct Birth {
    parent: ShardId,
    /// Entries of the parent's log up to the split.
    at: u64,
    plan: SplitPlan,
    /// Replicas of the parent that will pass the split in a snapshot.
    by_snapshot: BTreeSet<ReplicaId>,
}

impl Cluster {
    /// The shard's leader parts the range.
    pub(crate) fn split(&mut self, order: &Order, plan: &SplitPlan) -> Result<&'static str, &'static str> {
        let group = self.groups.get_mut(&order.shard).ok_or("no group")?;
        let done = group.obey(order, &self.up)?;
        let (at, generation) = (group.last, group.generation);
        let absent = plan
            .successors
            .iter()
            .filter(|(_, made)| !self.up.contains(&made.host));
        let absent: Vec<ReplicaId> = absent.map(|(of, _)| *of).collect();
        let by_snapshot = absent.into_iter().filter(|_| self.draw(2) == 0).collect();
        let voters = plan
            .successors
            .values()
            .map(|made| (made.replica, made.host))
            .collect();
        self.groups
            .insert(plan.shard, Group::split_off(voters, generation));
        self.births.push(Birth {
            parent: order.shard,
            at,
            plan: plan.clone(),
            by_snapshot,
        });
        self.make_successors();
        Ok(done)
    }

    /// What each host does that has applied a split.
    pub(crate) fn make_successors(&mut self) {
        for birth in self.births.clone() {
            for (of, made) in &birth.plan.successors {
                if self.has_come_to(&birth, *of) && !birth.by_snapshot.contains(of) {
                    self.make(birth.plan.shard, *made, 1);
                }
            }
        }
    }

    fn has_come_to(&self, birth: &Birth, of: ReplicaId) -> bool {
        let copy = self
            .groups
            .get(&birth.parent)
            .and_then(|group| group.copies.get(&of));
        copy.is_some_and(|copy| self.up.contains(&copy.host) && copy.matched >= birth.at)
    }

    fn make(&mut self, shard: ShardId, made: Placed, matched: u64) {
        let Some(disk) = self.disks.get_mut(&made.host) else {
            return;
        };
        if disk.tombstones.contains(&made.replica) || disk.replicas.insert(made.replica, shard).is_some() {
            return;
        }
        if let Some(group) = self.groups.get_mut(&shard) {
            let copy = Copy {
                host: made.host,
                matched,
            };
            group.copies.insert(made.replica, copy);
        }
    }

    /// An empty replica, where the parent's replica cannot make it any more.
    pub(crate) fn create_successor(
        &mut self,
        of: ReplicaId,
        made: Placed,
        term: ControllerTerm,
    ) -> Result<&'static str, &'static str> {
        let is_gone = self.open_disk(made.host, term)?.tombstones.contains(&of);
        let of_it = |birth: &&Birth| birth.plan.successors.get(&of) == Some(&made);
        let birth = self.births.iter().find(of_it).cloned().ok_or("no split")?;
        let passed = self.has_come_to(&birth, of) && birth.by_snapshot.contains(&of);
        match is_gone || passed {
            true => self.make(birth.plan.shard, made, 0),
            false => return Err("it is to come"),
        }
        Ok("created")
    }
}
