//! The steps of a migration: compare-and-set on its state, and the guard of every edge.
//!
//! `judge` decides from the evidence alone what an edge would do (an [`Effect`], see `effects`) or why not; nothing is
//! changed until it has. A guard that fails because the world is not there yet is plain refusal; one that fails because the command
//! contradicts the state (a `conf_ver` that skips, a source named that is not the source) raises an alarm: a correct
//! controller never sends it.

use super::Outcome;
use super::effects::Effect;
use crate::check::Invariant;
use crate::command::Advance;
use crate::ids::{HostId, MigrationId, ReplicaId};
use crate::migration::{AbortReason, Evidence, LagSample, Migration, MigrationKind, MigrationState, Placed};
use crate::model::{Host, ObservedHome, Shard};
use crate::response::{Accepted, Refusal};
use crate::state::{Placement, Stamp};

impl Placement {
    pub(super) fn advance(&mut self, stamp: Stamp, advance: &Advance) -> Outcome {
        let migration = self.migrations.get(&advance.migration);
        let migration = migration.ok_or(Refusal::UnknownMigration(advance.migration))?;
        if advance.controller_term != self.controller_term() {
            return Err(Refusal::StaleController {
                current: self.controller_term(),
            });
        }
        if migration.state != advance.expect_state {
            return Err(Refusal::StateChanged {
                actual: migration.state,
            });
        }
        let Advance {
            migration: id,
            next,
            controller_term,
            evidence,
            ..
        } = *advance;
        if !migration.kind.allows(migration.state, next) {
            let detail = format!(
                "{id} ({:?}) from {:?} to {next:?}",
                migration.kind, migration.state
            );
            return Err(broken(Invariant::EdgesOnly, detail));
        }
        let shard = self
            .shards
            .get(&migration.shard)
            .ok_or(Refusal::UnknownShard(migration.shard))?;
        let effect = self.judge(stamp, migration, shard, next, evidence)?;
        self.take_effect(stamp, id, effect);
        self.enter_state(stamp, id, next, Some(controller_term), evidence);
        Ok(Accepted::Entered(next))
    }

    /// The guard of the edge to `next`, and what passing it changes.
    fn judge(
        &self,
        stamp: Stamp,
        migration: &Migration,
        shard: &Shard,
        next: MigrationState,
        evidence: Evidence,
    ) -> Result<Effect, Refusal> {
        use MigrationState::*;
        if migration.kind == MigrationKind::Recover {
            return self.judge_recovery(migration, shard, next, evidence);
        }
        if migration.kind == MigrationKind::Merge && migration.state != Proposed {
            return self.judge_merge(migration, shard, next, evidence);
        }
        match (migration.state, next, evidence) {
            (Proposed, Rejected, Evidence::GiveUp { .. }) => Ok(Effect::None),
            (Proposed, _, Evidence::Start) => self
                .check_start(migration, stamp.now_ms)
                .map(|()| Effect::Started),
            (_, CatchingUp, Evidence::Learner { membership_index }) => {
                check_newer(shard, membership_index)?;
                Ok(Effect::LearnerAdded { membership_index })
            }
            (
                CatchingUp,
                _,
                Evidence::CaughtUp {
                    leader,
                    first,
                    second,
                },
            ) => {
                self.check_caught_up(migration, shard, &[first, second])?;
                let seen = ObservedHome {
                    replica: leader,
                    raft_term: second.raft_term,
                };
                check_leader(migration, shard, next, seen)?;
                Ok(Effect::HomeSeen(seen))
            }
            (
                Transferring | Switching,
                Switching | Transferring | Done,
                Evidence::Leads { replica, raft_term },
            ) => {
                let seen = ObservedHome { replica, raft_term };
                check_leader(migration, shard, next, seen)?;
                Ok(Effect::HomeSeen(seen))
            }
            (
                Switching | Aborting,
                Removing | Done,
                Evidence::Switched {
                    membership_index,
                    conf_ver,
                    migration: by,
                },
            ) => {
                check_switch(migration, shard, membership_index, conf_ver, by)?;
                Ok(Effect::Switched {
                    membership_index,
                    conf_ver,
                })
            }
            (
                Removing,
                Cleaning,
                Evidence::Absent {
                    replica,
                    membership_index,
                },
            ) => {
                check_newer(shard, membership_index)?;
                dropped(migration.src, replica, membership_index)
            }
            (
                Aborting,
                CleaningDst,
                Evidence::Absent {
                    replica,
                    membership_index,
                },
            ) => {
                check_dst_absent(shard, replica, membership_index)?;
                dropped(migration.dst, replica, membership_index)
            }
            (Splitting, Settling, Evidence::Split { generation }) => check_split(shard, generation),
            (Settling, Done, Evidence::Settled) => Ok(Effect::None),
            (Cleaning, Done, evidence) => self.check_destroyed(shard, migration.src, evidence),
            (CleaningDst, Aborted, evidence) => self.check_destroyed(shard, migration.dst, evidence),
            (_, Aborting | Aborted, Evidence::GiveUp { conf_ver, .. }) => {
                check_give_up(migration, shard, conf_ver)
            }
            (from, next, evidence) => Err(weak(format!(
                "{evidence:?} does not lead from {from:?} to {next:?}"
            ))),
        }
    }

    fn check_caught_up(&self, m: &Migration, shard: &Shard, samples: &[LagSample; 2]) -> Result<(), Refusal> {
        let [first, second] = samples;
        let lag_max = self.limits.catch_up_lag_max;
        let known_term = shard.observed.map_or(0, |seen| seen.raft_term);
        if first.lag_entries.max(second.lag_entries) > lag_max {
            return Err(weak(format!("the lag is above {lag_max} entries")));
        }
        if second.at_ms < first.at_ms.saturating_add(self.limits.catch_up_gap_ms) {
            return Err(weak(format!(
                "the samples are closer than {} ms",
                self.limits.catch_up_gap_ms
            )));
        }
        // Samples from before the learner was added would be of nothing.
        if first.at_ms < m.since_ms {
            return Err(weak("a sample is older than the learner".to_owned()));
        }
        if first.raft_term != second.raft_term || second.raft_term < known_term {
            return Err(weak(format!(
                "the samples are not of one leader of term {known_term} or later"
            )));
        }
        Ok(())
    }

    fn check_destroyed(
        &self,
        shard: &Shard,
        doomed: Option<Placed>,
        evidence: Evidence,
    ) -> Result<Effect, Refusal> {
        let doomed = doomed.ok_or_else(|| weak("there is nothing to destroy".to_owned()))?;
        if shard.replicas.contains_key(&doomed.replica) {
            return Err(broken(
                Invariant::DestroyAbsentOnly,
                format!("{} is a member", doomed.replica),
            ));
        }
        match evidence {
            Evidence::Tombstone { host, replica } if doomed == (Placed { host, replica }) => Ok(Effect::None),
            Evidence::HostDead { host } if doomed.host == host && self.host_is_lost(host) => {
                Ok(Effect::Owed(doomed))
            }
            evidence => Err(weak(format!(
                "{evidence:?} does not show {} destroyed",
                doomed.replica
            ))),
        }
    }

    /// Whether `host` counts no more, or was never known.
    pub fn host_is_lost(&self, host: HostId) -> bool {
        self.hosts.get(&host).is_none_or(Host::is_lost)
    }

    pub(super) fn cancel(&mut self, stamp: Stamp, id: MigrationId) -> Outcome {
        let migration = self.migrations.get(&id).ok_or(Refusal::UnknownMigration(id))?;
        let next = match migration.state {
            MigrationState::Proposed => MigrationState::Rejected,
            from if migration.kind.allows(from, MigrationState::Thawing) => MigrationState::Thawing,
            from if from == MigrationState::Thawing => return Err(Refusal::PastCancel(from)),
            from if migration.kind.allows(from, MigrationState::Aborted) => MigrationState::Aborted,
            from if migration.kind.allows(from, MigrationState::Aborting) => MigrationState::Aborting,
            from => return Err(Refusal::PastCancel(from)),
        };
        if migration.switch_ordered || migration.state == MigrationState::CleaningDst {
            return Err(Refusal::PastCancel(migration.state));
        }
        let evidence = Evidence::GiveUp {
            reason: AbortReason::Cancelled,
            conf_ver: None,
        };
        self.enter_state(stamp, id, next, None, evidence);
        Ok(Accepted::Entered(next))
    }
}

/// The leader that a step rests on: current, and a voter that stays (or, on the way back, the one that goes).
fn check_leader(
    migration: &Migration,
    shard: &Shard,
    next: MigrationState,
    seen: ObservedHome,
) -> Result<(), Refusal> {
    let ObservedHome { replica, .. } = seen;
    if let Some(known) = shard.observed.filter(|known| known.rank() > seen.rank()) {
        return Err(Refusal::StaleTerm {
            known: known.raft_term,
        });
    }
    if !shard.replicas.contains_key(&replica) {
        return Err(Refusal::UnknownReplica(replica));
    }
    let leaves = migration.src.is_some_and(|src| src.replica == replica);
    let fits = match next {
        MigrationState::Transferring => leaves,
        MigrationState::Done => migration.dst.is_some_and(|dst| dst.replica == replica),
        _ => !leaves && shard.is_voter(replica),
    };
    if fits {
        Ok(())
    } else {
        Err(weak(format!("with {replica} leading it cannot enter {next:?}")))
    }
}

fn check_split(shard: &Shard, generation: u64) -> Result<Effect, Refusal> {
    match generation == shard.epoch.generation + 1 {
        true => Ok(Effect::Split),
        false => Err(weak(format!(
            "the range has version {generation}, the next would be {}",
            shard.epoch.generation + 1
        ))),
    }
}

fn check_newer(shard: &Shard, membership_index: u64) -> Result<(), Refusal> {
    if membership_index > shard.membership_index {
        return Ok(());
    }
    Err(weak(format!(
        "membership entry {membership_index} is not after {}",
        shard.membership_index
    )))
}

/// I7, I3 and I4 of the configuration that would be taken over.
fn check_switch(
    migration: &Migration,
    shard: &Shard,
    membership_index: u64,
    conf_ver: u64,
    by: MigrationId,
) -> Result<(), Refusal> {
    check_newer(shard, membership_index)?;
    let expected = shard.epoch.conf_ver + 1;
    if conf_ver != expected || by != migration.id {
        let detail = format!(
            "{}: conf_ver {conf_ver} by {by}, expected {expected}",
            migration.id
        );
        return Err(broken(Invariant::ConfVerGrows, detail));
    }
    let leaving = migration.src.map(|src| src.replica);
    let mut hosts: Vec<HostId> = shard
        .voters()
        .filter(|(id, _)| Some(*id) != leaving)
        .map(|(_, host)| host)
        .collect();
    hosts.extend(migration.dst.map(|dst| dst.host));
    let floor = migration.voters_before - u32::from(migration.kind == MigrationKind::Remove);
    if hosts.len() < usize::try_from(floor).unwrap_or(usize::MAX) {
        return Err(broken(
            Invariant::EnoughVoters,
            format!("{} leaves {} voters", migration.id, hosts.len()),
        ));
    }
    hosts.sort();
    if hosts.windows(2).any(|pair| pair[0] == pair[1]) {
        return Err(broken(
            Invariant::DistinctHosts,
            format!("{} puts two voters on a host", migration.id),
        ));
    }
    Ok(())
}

/// A replica that never became a learner leaves no membership entry behind: then any current one shows it absent.
fn check_dst_absent(shard: &Shard, replica: ReplicaId, membership_index: u64) -> Result<(), Refusal> {
    if shard.replicas.contains_key(&replica) || membership_index < shard.membership_index {
        return check_newer(shard, membership_index);
    }
    Ok(())
}

/// I5: only the replica that this migration is about may be dropped.
fn dropped(doomed: Option<Placed>, replica: ReplicaId, membership_index: u64) -> Result<Effect, Refusal> {
    if doomed.is_some_and(|placed| placed.replica == replica) {
        return Ok(Effect::Dropped {
            replica,
            membership_index,
        });
    }
    Err(broken(
        Invariant::DestroyAbsentOnly,
        format!("{replica} is not the replica that goes"),
    ))
}

fn check_give_up(migration: &Migration, shard: &Shard, conf_ver: Option<u64>) -> Result<Effect, Refusal> {
    // A removal has no new replica whose absence would fence a switch that is still on its way.
    if migration.kind == MigrationKind::Remove && migration.switch_ordered {
        return Err(weak(
            "a removal is not given up once a switch was ordered".to_owned(),
        ));
    }
    let unchanged = conf_ver == Some(shard.epoch.conf_ver);
    if migration.state == MigrationState::Switching && !unchanged {
        return Err(weak("the membership was not seen unchanged".to_owned()));
    }
    Ok(Effect::None)
}

pub(super) fn weak(what: String) -> Refusal {
    Refusal::WeakEvidence(what)
}

pub(super) fn broken(invariant: Invariant, detail: String) -> Refusal {
    Refusal::Breaks { invariant, detail }
}
