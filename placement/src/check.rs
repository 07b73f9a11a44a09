//! The invariants of the placement state, as predicates over one state.
//!
//! `apply` refuses every command that would break one of these, before it changes anything; [`Placement::check`] is
//! the second line, run after every step by tests and simulation. What needs two states to judge (ids never used
//! again, `conf_ver` never falling, the number of voters never falling) is judged there. I9 (acknowledged writes stay
//! readable) and I10 (every migration ends) are about the shards and time; the simulated cluster of this crate's tests
//! judges both.

use std::collections::BTreeMap;
use std::fmt;

use serde::{Deserialize, Serialize};
use thiserror::Error;

use crate::ids::{HostId, ReplicaId, ShardId};
use crate::migration::{Migration, MigrationKind, MigrationState};
use crate::model::Shard;
use crate::rules::{Limits, Origin};
use crate::state::Placement;

/// What must hold of every state.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Invariant {
    /// I1: at most one active migration a shard.
    OneActiveMigration,
    /// I2: replica ids are unique for ever.
    UniqueReplicaIds,
    /// I3: never fewer voters than before the migration, but for a recovery, which begins the group anew.
    EnoughVoters,
    /// I4: no two replicas of a shard on one host.
    DistinctHosts,
    /// I5: a replica is destroyed only when no membership has it.
    DestroyAbsentOnly,
    /// I6: states move along edges only, ended migrations never change.
    EdgesOnly,
    /// I7: `conf_ver` only grows, and is never ahead of the shard's.
    ConfVerGrows,
    /// I8: the limits hold.
    WithinLimits,
    /// The ranges of the shards part the key space without gap or overlap.
    RangesPartition,
    /// The home of a shard is one of its voters.
    HomeVotes,
}

impl fmt::Display for Invariant {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = match self {
            Self::OneActiveMigration => "I1 (one active migration a shard)",
            Self::UniqueReplicaIds => "I2 (replica ids are unique)",
            Self::EnoughVoters => "I3 (never fewer voters)",
            Self::DistinctHosts => "I4 (voters on distinct hosts)",
            Self::DestroyAbsentOnly => "I5 (destroy only what no membership has)",
            Self::EdgesOnly => "I6 (states move along edges)",
            Self::ConfVerGrows => "I7 (conf_ver grows and is never ahead)",
            Self::WithinLimits => "I8 (limits)",
            Self::RangesPartition => "ranges part the key space",
            Self::HomeVotes => "the home votes",
        };
        f.write_str(name)
    }
}

/// A state that must not be.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error("{invariant} is broken: {detail}")]
pub struct Violation {
    /// What is broken.
    pub invariant: Invariant,
    /// Where and how.
    pub detail: String,
}

type Check = Result<(), Violation>;

impl Placement {
    /// Checks every invariant that one state can show.
    ///
    /// # Errors
    /// The first violation found.
    pub fn check(&self) -> Check {
        self.check_ids()?;
        self.check_ranges()?;
        for shard in self.shards.values() {
            self.check_shard(shard)?;
        }
        for migration in self.migrations.values() {
            self.check_migration(migration)?;
        }
        self.check_limits()
    }

    fn check_ids(&self) -> Check {
        let mut owners: BTreeMap<ReplicaId, ShardId> = BTreeMap::new();
        for shard in self.shards.values() {
            for replica in shard.replicas.keys() {
                let before = owners.insert(*replica, shard.id);
                ensure(before.is_none(), Invariant::UniqueReplicaIds, || {
                    format!("{replica} is in two shards")
                })?;
                ensure(
                    replica.0 <= self.last.replica,
                    Invariant::UniqueReplicaIds,
                    || format!("{replica} was never given out"),
                )?;
            }
        }
        let owed = self.owed.values().flatten();
        let mut revived = owed.filter(|(replica, _)| owners.contains_key(replica));
        ensure(revived.next().is_none(), Invariant::DestroyAbsentOnly, || {
            "a replica with a tombstone is a member".to_owned()
        })
    }

    fn check_ranges(&self) -> Check {
        let mut ranges: Vec<_> = self.data_shards().map(|shard| &shard.range).collect();
        ranges.sort();
        let (Some(first), Some(last)) = (ranges.first(), ranges.last()) else {
            return Ok(());
        };
        let whole = first.start.is_empty() && last.end.is_none();
        let adjacent = ranges
            .windows(2)
            .all(|pair| pair[0].end.as_ref() == Some(&pair[1].start));
        let filled = ranges.iter().all(|range| !range.is_empty());
        ensure(whole && adjacent && filled, Invariant::RangesPartition, || {
            format!("{} ranges", ranges.len())
        })
    }

    fn check_shard(&self, shard: &Shard) -> Check {
        let mut hosts: Vec<HostId> = shard.replicas.values().map(|replica| replica.host).collect();
        hosts.sort();
        let distinct = hosts.windows(2).all(|pair| pair[0] != pair[1]);
        ensure(distinct, Invariant::DistinctHosts, || {
            format!("shard {} shares a host", shard.id)
        })?;
        ensure(shard.voter_count() > 0, Invariant::EnoughVoters, || {
            format!("shard {} has no voter", shard.id)
        })?;
        let home_votes = shard.home.is_none_or(|home| shard.is_voter(home));
        ensure(home_votes, Invariant::HomeVotes, || format!("shard {}", shard.id))?;
        let active: Vec<_> = self
            .active_migrations()
            .filter(|m| m.concerns(shard.id) && is_taken(m, shard))
            .map(|m| m.id)
            .collect();
        ensure(
            active == Vec::from_iter(shard.active),
            Invariant::OneActiveMigration,
            || {
                format!(
                    "shard {} names {:?}, active are {active:?}",
                    shard.id, shard.active
                )
            },
        )
    }

    fn check_migration(&self, migration: &Migration) -> Check {
        let Migration { id, state, .. } = migration;
        let active = self.active.contains(id);
        ensure(
            active != state.is_terminal(),
            Invariant::OneActiveMigration,
            || format!("{id} is {state:?}"),
        )?;
        let mut steps = migration.steps.windows(2);
        let on_edges = steps.all(|pair| migration.kind.allows(pair[0].state, pair[1].state));
        let ends_here = migration.steps.last().is_some_and(|step| step.state == *state);
        ensure(on_edges && ends_here, Invariant::EdgesOnly, || format!("{id}"))?;
        match self.shards.get(&migration.shard) {
            Some(shard) if active => check_against_shard(migration, shard),
            _ => Ok(()),
        }
    }

    /// Counts only what started under the limits in force: lowering a limit does not stop what is under way.
    fn check_limits(&self) -> Check {
        let current = |m: &&Migration| m.limits_version == self.limits_version;
        let started: Vec<_> = self.active_migrations().filter(current).collect();
        let mut used: BTreeMap<(&str, HostId), (u32, u32)> = BTreeMap::new();
        for migration in &started {
            for slot in slots_of(migration) {
                let (all, speculative) = used.entry(slot).or_default();
                *all += 1;
                *speculative += u32::from(migration.origin.is_speculative());
            }
        }
        for ((direction, host), (all, speculative)) in used {
            let slots = self.slots(direction);
            let kept = Limits::slots_for(Origin::Model, slots);
            ensure(
                all <= slots && speculative <= kept,
                Invariant::WithinLimits,
                || format!("{all} {direction} at {host}, {speculative} of them speculative"),
            )?;
        }
        Ok(())
    }

    fn slots(&self, direction: &str) -> u32 {
        match direction {
            "in" => self.limits.moves_in_max,
            "out" => self.limits.moves_out_max,
            _ => self.limits.homes_max,
        }
    }
}

/// The slots a migration holds; home moves share one pool, named by host 0.
fn slots_of(migration: &Migration) -> Vec<(&'static str, HostId)> {
    let mut slots = Vec::new();
    if let Some(dst) = migration.dst.filter(|_| migration.occupies_in()) {
        slots.push(("in", dst.host));
    }
    if let Some(src) = migration.src.filter(|_| migration.occupies_out()) {
        slots.push(("out", src.host));
    }
    if migration.occupies_home() {
        slots.push(("homes", HostId(0)));
    }
    slots
}

/// A split has its new shard only once that counts; a merge has both of its shards from the first.
fn is_taken(migration: &Migration, shard: &Shard) -> bool {
    migration.shard == shard.id || migration.merge.is_some() || migration.state == MigrationState::Settling
}

fn check_against_shard(migration: &Migration, shard: &Shard) -> Check {
    use MigrationState::{Cleaning, CleaningDst, Proposed, Removing};
    let Migration { id, kind, state, .. } = migration;
    let given_up = *kind == MigrationKind::Remove && matches!(state, Removing | Cleaning);
    // A recovery begins the group anew, with one voter.
    let floor = match kind {
        MigrationKind::Recover => 1,
        _ => migration.voters_before - u32::from(given_up),
    };
    let voters = u32::try_from(shard.voter_count()).unwrap_or(u32::MAX);
    ensure(
        *state == Proposed || voters >= floor,
        Invariant::EnoughVoters,
        || format!("{id} left {voters} voters of {floor}"),
    )?;
    let doomed = match state {
        Cleaning => migration.src,
        CleaningDst => migration.dst,
        _ => None,
    };
    let member = doomed.is_some_and(|placed| shard.replicas.contains_key(&placed.replica));
    ensure(!member, Invariant::DestroyAbsentOnly, || {
        format!("{id} destroys a member")
    })?;
    ensure(
        shard.epoch.conf_ver >= migration.basis.conf_ver,
        Invariant::ConfVerGrows,
        || format!("{id} began at conf_ver {}", migration.basis.conf_ver),
    )
}

fn ensure(holds: bool, invariant: Invariant, detail: impl FnOnce() -> String) -> Check {
    if holds {
        Ok(())
    } else {
        Err(Violation {
            invariant,
            detail: detail(),
        })
    }
}
