//! Forced recovery: what is known of a shard that lost its majority, and what that allows.
//!
//! A group whose majority is gone for good can neither commit nor change its members, so nothing can be asked of it:
//! one survivor's data is opened as a new group of one, under a fresh replica id. That is unsafe by name: an entry that
//! only the lost majority had is lost, though it was acknowledged. What keeps the loss that small:
//!
//! - every replica that is not on a dead host is fenced and asked before one is chosen, the new replica of a migration
//!   that was under way and a host that came back meanwhile included;
//! - of the survivors the one with the greatest [`LogEnd`] goes on, with its whole log. By Raft's log matching it has
//!   every entry that any other survivor has and that a majority may have acknowledged;
//! - nothing of the old group can act on the new one: ids are fresh, `gen`, `conf_ver` and the Raft term lie above
//!   whatever the old group can have reached unseen.
//!
//! A recovery that has begun is not given up: fenced replicas never vote again. Where every survivor is lost as well,
//! it waits until one is back.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::ids::{HostId, ReplicaId, ShardId};
use crate::migration::{Migration, MigrationKind, Placed};
use crate::model::Shard;
use crate::response::Refusal;
use crate::state::Placement;

/// How far the new group's first Raft term lies above every term that was seen: further than a part of the old group
/// that still lives elsewhere gets.
const TERMS_SKIPPED: u64 = 1_000_000;

/// The last entry of a replica's log. Ordered as Raft orders logs by how far they are.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LogEnd {
    /// The term of the leader that proposed it.
    pub raft_term: u64,
    /// That leader: of two leaders of a term, the one with the greater id came later.
    pub leader: ReplicaId,
    /// Its index.
    pub index: u64,
}

/// What a recovery has found and does.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Recovery {
    /// The replicas of the old group that may still exist somewhere: each is destroyed in the end.
    pub members: BTreeMap<ReplicaId, HostId>,
    /// The voters on dead hosts when it began: what only they had is lost.
    pub lost: BTreeMap<ReplicaId, HostId>,
    /// The replicas that are fenced, and where their logs end; `None`: there is nothing of it on its host.
    pub found: BTreeMap<ReplicaId, Option<LogEnd>>,
    /// How often a survivor was chosen: a chosen one may die before its data is opened.
    pub attempts: u64,
}

/// What the new group begins with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Succession {
    /// The version of the range.
    pub generation: u64,
    /// The version of the voters.
    pub conf_ver: u64,
    /// The Raft term of the first entry.
    pub raft_term: u64,
}

/// Why a shard cannot be recovered by force; `None`: it can.
pub fn recovery_refusal(placement: &Placement, shard: ShardId) -> Option<Refusal> {
    placement.check_recoverable(shard).err()
}

impl Recovery {
    /// What is to be found out before a survivor is chosen: replicas that are not fenced, on hosts that are not dead.
    pub(crate) fn awaited(&self, placement: &Placement) -> Vec<Placed> {
        let open = |(replica, host): (&ReplicaId, &HostId)| {
            let counts = !placement.host_is_lost(*host) && !self.found.contains_key(replica);
            counts.then_some(Placed {
                replica: *replica,
                host: *host,
            })
        };
        self.members.iter().filter_map(open).collect()
    }

    /// The survivor with the greatest end. Of equal ones, the oldest.
    pub(crate) fn best(&self, placement: &Placement) -> Option<(Placed, LogEnd)> {
        let found = self.found.iter().filter_map(|(replica, end)| {
            let host = *self.members.get(replica)?;
            let placed = Placed {
                replica: *replica,
                host,
            };
            Some((placed, (*end)?)).filter(|_| !placement.host_is_lost(host))
        });
        found.max_by_key(|(placed, end)| (*end, std::cmp::Reverse(placed.replica)))
    }

    /// What the group that is being opened begins with, above whatever the old one can have reached unseen: a switch
    /// that was committed, elections, an earlier attempt.
    pub(crate) fn succession(&self, shard: &Shard) -> Succession {
        let known = shard.observed.map_or(0, |seen| seen.raft_term);
        let ends = self.found.values().flatten().map(|end| end.raft_term);
        let term = ends.fold(known, u64::max);
        Succession {
            generation: shard.epoch.generation.saturating_add(self.attempts),
            conf_ver: shard.epoch.conf_ver.saturating_add(1 + self.attempts),
            raft_term: term.saturating_add(TERMS_SKIPPED.saturating_mul(self.attempts)),
        }
    }
}

impl Placement {
    /// Whether a shard may be recovered by force.
    pub(crate) fn check_recoverable(&self, id: ShardId) -> Result<(), Refusal> {
        let shard = self.shards.get(&id).ok_or(Refusal::UnknownShard(id))?;
        if id.is_placement() {
            return Err(Refusal::NotThePlacementGroup);
        }
        if !shard.ready {
            return Err(Refusal::ShardNotReady(id));
        }
        let active = shard.active.and_then(|active| self.migration(active));
        if let Some(migration) = active.filter(|migration| !gives_way(migration.kind)) {
            return Err(Refusal::ShardBusy(migration.id));
        }
        if !self
            .configurations(shard, active)
            .iter()
            .any(|voters| self.is_lost(voters))
        {
            return Err(self.majority_not_dead(shard));
        }
        let survives = |host: &HostId| !self.host_is_lost(*host);
        match old_group(shard, active).values().any(survives) {
            true => Ok(()),
            false => Err(Refusal::NothingSurvives(id)),
        }
    }

    /// The hosts of the voters, in each configuration that may be in force: a switch that was ordered may have taken
    /// place, or half of it.
    fn configurations(&self, shard: &Shard, active: Option<&Migration>) -> Vec<Vec<HostId>> {
        let known: Vec<HostId> = shard.voters().map(|(_, host)| host).collect();
        let Some(switching) = active.filter(|migration| migration.switch_ordered) else {
            return vec![known];
        };
        let src = switching.src.map(|src| src.replica);
        let dst = switching.dst.filter(|dst| !shard.is_voter(dst.replica));
        let stay = shard.voters().filter(|(replica, _)| Some(*replica) != src);
        let switched = stay.map(|(_, host)| host).chain(dst.map(|dst| dst.host));
        vec![known, switched.collect()]
    }

    /// Whether voters on these hosts have lost their majority for good.
    fn is_lost(&self, voters: &[HostId]) -> bool {
        let dead = voters.iter().filter(|host| self.host_is_lost(**host)).count();
        (voters.len() - dead) * 2 <= voters.len()
    }

    fn majority_not_dead(&self, shard: &Shard) -> Refusal {
        let dead = shard
            .voters()
            .filter(|(_, host)| self.host_is_lost(*host))
            .count();
        let number = |of: usize| u32::try_from(of).unwrap_or(u32::MAX);
        Refusal::MajorityNotDead {
            shard: shard.id,
            dead: number(dead),
            voters: number(shard.voter_count()),
        }
    }
}

/// Every replica of a shard that may exist: the members that the log knows, and those of a migration under way.
pub(crate) fn old_group(shard: &Shard, active: Option<&Migration>) -> BTreeMap<ReplicaId, HostId> {
    let known = shard.replicas.iter().map(|(id, replica)| (*id, replica.host));
    let moving = active
        .into_iter()
        .flat_map(|migration| migration.src.into_iter().chain(migration.dst));
    known
        .chain(moving.map(|placed| (placed.replica, placed.host)))
        .collect()
}

/// Whether a migration of this kind may be superseded. It needs the shard's majority, so it would never end. Nothing else
/// is: what a change of the range has come to has to be found out first.
fn gives_way(kind: MigrationKind) -> bool {
    use MigrationKind::{Add, Home, Move, Remove};
    matches!(kind, Move | Add | Remove | Home)
}
