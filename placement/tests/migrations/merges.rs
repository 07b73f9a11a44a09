//! Merges in the simulated cluster: groups freeze, thaw and absorb at once if they can commit; a host gives an absorbed
//! replica up only once the one beside it has the entry that absorbs.

use placement::{Action, ControllerTerm, MergeStep, Placed, ReplicaId, ShardId};

use crate::cluster::{Cluster, Order};

impl Cluster {
    /// The leader of one of the two shards makes its step.
    pub(crate) fn step_merge(&mut self, order: &Order) -> Result<&'static str, &'static str> {
        let Action::StepMerge { shard, step } = order.action else {
            return Err("no step");
        };
        if let MergeStep::Absorb {
            absorbed,
            absorbed_generation,
            generation,
        } = step
        {
            let stays = self.groups.get(&shard).ok_or("no group")?;
            if stays.generation == generation {
                let other = self.groups.get(&absorbed).expect("what is absorbed is there");
                let is_frozen = other.frozen && other.generation == absorbed_generation;
                assert!(is_frozen, "{absorbed} is absorbed, and not frozen");
            }
        }
        let group = self.groups.get_mut(&shard).ok_or("no group")?;
        let done = group.obey(order, &self.up)?;
        if let MergeStep::Absorb { absorbed, .. } = step {
            self.groups.get_mut(&absorbed).ok_or("no group")?.is_absorbed = true;
        }
        Ok(done)
    }

    /// A host gives up what was absorbed, unless the replica beside it may need it.
    pub(crate) fn destroy_absorbed(
        &mut self,
        by: (ShardId, ReplicaId),
        generation: u64,
        doomed: Placed,
        term: ControllerTerm,
    ) -> Result<&'static str, &'static str> {
        let (shard, replica) = by;
        let known = self.placement.shard(shard).ok_or("no shard")?;
        for (voter, host) in known
            .voters()
            .filter(|(_, host)| !self.placement.host_is_lost(*host))
        {
            let group = self.groups.get(&shard).ok_or("no group")?;
            let has_absorbed = group
                .copies
                .get(&voter)
                .is_none_or(|copy| copy.matched >= group.absorbed_at);
            assert!(
                has_absorbed,
                "{voter} on {host} may never hear that {} is frozen",
                doomed.replica
            );
        }
        let disk = self.open_disk(doomed.host, term)?;
        if !disk.tombstones.contains(&replica) {
            let group = self.groups.get(&shard).ok_or("no group")?;
            let copy = group.copies.get(&replica).ok_or("it is not here")?;
            if group.generation < generation || copy.matched < group.absorbed_at {
                return Err("it is still needed");
            }
        }
        self.destroy_replica(doomed.host, doomed.replica, term)
    }
}
