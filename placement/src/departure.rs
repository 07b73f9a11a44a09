//! Hosts that leave: whether one can, what it still holds, and what each part of that waits for.
//!
//! A drain or a decommissioning that could never end is refused when it is asked for: some shard would need more hosts
//! than there are. What may change by itself (a host that is down, a limit, a shard without a quorum) is waited for, and
//! [`remnants`] says so. Pure functions of the state, for `apply`, the controller and operators alike.

use std::fmt;

use crate::ids::{HostId, MigrationId, ReplicaId, ShardId};
use crate::migration::{Migration, MigrationState};
use crate::model::{Admission, Host, HostState, Shard};
use crate::response::Refusal;
use crate::state::Placement;

/// What a host still has to do with one shard.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Remnant {
    /// The shard; the placement group counts as well.
    pub shard: ShardId,
    /// Its replica on the host. `None` once it is no member: then a migration is still at work on the host.
    pub replica: Option<ReplicaId>,
    /// Whether that replica leads.
    pub is_home: bool,
    /// What its departure waits for.
    pub holdup: Holdup,
}

/// What a replica's departure waits for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Holdup {
    /// Nothing: the controller is about to propose it.
    None,
    /// The shard's group is not initialised.
    NotReady,
    /// Most of the shard's voters are on hosts that do not answer.
    NoQuorum {
        /// Voters on hosts that are up.
        up: usize,
        /// Voters in all.
        voters: usize,
    },
    /// No host that is up and open is without a replica of the shard.
    NoTarget,
    /// A migration that has not started, and why.
    Queued(MigrationId, Option<Refusal>),
    /// A migration under way.
    Moving(MigrationId, MigrationState),
    /// The host does not answer, so that nobody knows whether it has destroyed the replica.
    NotDestroyed(MigrationId),
}

impl fmt::Display for Holdup {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Holdup::None => f.write_str("about to be moved"),
            Holdup::NotReady => f.write_str("its group has not begun"),
            Holdup::NoQuorum { up, voters } => write!(f, "only {up} of its {voters} voters are up"),
            Holdup::NoTarget => f.write_str("no other host is up and can take it"),
            Holdup::Queued(migration, None) => write!(f, "migration {} is about to start", migration.0),
            Holdup::Queued(migration, Some(refusal)) => {
                write!(f, "migration {} waits: {refusal}", migration.0)
            }
            Holdup::NotDestroyed(migration) => write!(
                f,
                "migration {} waits until the host is back, or is declared dead",
                migration.0
            ),
            Holdup::Moving(migration, state) => write!(f, "migration {} is {state:?}", migration.0),
        }
    }
}

/// What `host` still holds, and what each part waits for, the placement group first.
pub fn remnants(placement: &Placement, host: HostId, now_ms: u64) -> Vec<Remnant> {
    let shards = placement.shards().values();
    shards
        .filter_map(|shard| placement.remnant(shard, host, now_ms))
        .collect()
}

/// Hosts that are being decommissioned and hold nothing any more.
pub fn emptied_hosts(placement: &Placement) -> Vec<HostId> {
    let leaving = placement
        .hosts()
        .values()
        .filter(|host| host.admission == Admission::Decommissioning && host.state != HostState::Removed);
    leaving
        .filter(|host| placement.check_empty(host.id).is_ok())
        .map(|host| host.id)
        .collect()
}

impl Placement {
    /// Whether `host` may be given this admission: one that leaves needs places for what it holds, and one that is gone
    /// for good must not take the last copy of a shard with it.
    pub(crate) fn check_departure(&self, host: HostId, admission: Admission) -> Result<(), Refusal> {
        if !admission.leaves() {
            return Ok(());
        }
        // The placement group last: what an operator knows is the shards and their replication factor.
        let shards = self.data_shards().chain(self.shard(ShardId::PLACEMENT));
        for shard in shards.filter(|shard| votes_on(shard, host)) {
            if admission == Admission::Decommissioning {
                self.check_not_last(shard, host)?;
            }
            self.check_room(shard, host)?;
        }
        Ok(())
    }

    fn check_not_last(&self, shard: &Shard, host: HostId) -> Result<(), Refusal> {
        let mut others = shard.voters().filter(|(_, other)| *other != host);
        if self.is_up(host) || others.any(|(_, other)| !self.host_is_lost(other)) {
            return Ok(());
        }
        Err(Refusal::LastReplica {
            host,
            shard: shard.id,
        })
    }

    fn check_room(&self, shard: &Shard, leaving: HostId) -> Result<(), Refusal> {
        let voters = u32::try_from(shard.voter_count()).unwrap_or(u32::MAX);
        let needed = self.voters_wanted_without(shard, Some(leaving)).min(voters);
        let has_room = |host: &&Host| {
            let takes = host.admission == Admission::Open || votes_on(shard, host.id);
            host.id != leaving && host.stays() && takes
        };
        let others = u32::try_from(self.hosts.values().filter(has_room).count()).unwrap_or(u32::MAX);
        if others >= needed {
            return Ok(());
        }
        Err(Refusal::NowhereToGo {
            host: leaving,
            shard: shard.id,
            needed,
            others,
        })
    }

    /// Whether a shard has one voter, on a host that gives it away: a lone voter has nobody to hand over to.
    pub(crate) fn lone_voter_leaves(&self, shard: &Shard) -> bool {
        shard.voter_count() == 1 && shard.voters().all(|(_, host)| self.gives_away(host))
    }

    /// Whether a host gives away what it has.
    pub(crate) fn gives_away(&self, host: HostId) -> bool {
        self.hosts.get(&host).is_some_and(|host| host.admission.leaves())
    }

    fn remnant(&self, shard: &Shard, host: HostId, now_ms: u64) -> Option<Remnant> {
        let replica = shard.replica_on(host);
        let active = shard.active.and_then(|id| self.migration(id));
        let touching = active.filter(|migration| migration.touches(host));
        if replica.is_none() && touching.is_none() {
            return None;
        }
        Some(Remnant {
            shard: shard.id,
            replica,
            is_home: replica.is_some() && shard.route_home() == replica,
            holdup: self.holdup(shard, host, active, now_ms),
        })
    }

    fn holdup(&self, shard: &Shard, host: HostId, active: Option<&Migration>, now_ms: u64) -> Holdup {
        let voters = shard.voter_count();
        let up = shard.voters().filter(|(_, host)| self.is_up(*host)).count();
        let taken: Vec<HostId> = shard.replicas.values().map(|replica| replica.host).collect();
        let has_target = || {
            let free = |other: &Host| other.accepts() && !taken.contains(&other.id);
            self.hosts.values().any(free)
        };
        // A group that is larger than it needs to be gives the replica up without a successor.
        let surplus = voters > usize::try_from(self.voters_wanted(shard)).unwrap_or(usize::MAX);
        match active {
            _ if !shard.ready => Holdup::NotReady,
            _ if up * 2 <= voters && shard.replica_on(host).is_some() => Holdup::NoQuorum { up, voters },
            Some(migration) if migration.state == MigrationState::Proposed => {
                Holdup::Queued(migration.id, self.start_refusal(migration, now_ms))
            }
            Some(migration) if is_cleaning(migration.state) && !self.is_up(host) => {
                Holdup::NotDestroyed(migration.id)
            }
            Some(migration) => Holdup::Moving(migration.id, migration.state),
            None if !surplus && !has_target() => Holdup::NoTarget,
            None => Holdup::None,
        }
    }
}

fn is_cleaning(state: MigrationState) -> bool {
    matches!(state, MigrationState::Cleaning | MigrationState::CleaningDst)
}

fn votes_on(shard: &Shard, host: HostId) -> bool {
    shard.voters().any(|(_, on)| on == host)
}
