//! The controller's side of a forced recovery.
//!
//! Reading order inside a state, as for every migration: is the evidence there; else order (again) what brings it
//! about. Several replicas are asked in turn, one at a time, so that a host that does not answer holds up no other.

use super::actions::Action;
use super::observation::{HostView, Observation};
use crate::command::{Advance, Command};
use crate::ids::ControllerTerm;
use crate::migration::{Evidence, Migration, MigrationState, Placed};
use crate::recovery::Recovery;
use crate::state::Placement;

/// How long one replica is asked before the next one's turn.
const TURN_MS: u64 = 1_000;

/// What the controller of `term` should do for the recovery now; `None`: it has ended, or is none.
pub(super) fn next_action(
    placement: &Placement,
    migration: &Migration,
    observation: &Observation,
    term: ControllerTerm,
    now_ms: u64,
) -> Option<Action> {
    let look = Look {
        placement,
        migration,
        recovery: migration.recovery.as_ref()?,
        observation,
        term,
        now_ms,
    };
    match migration.state {
        MigrationState::Collecting => Some(look.collect()),
        MigrationState::Reopening => look.reopen(),
        MigrationState::Cleaning => Some(look.clean()),
        _ => None,
    }
}

struct Look<'a> {
    placement: &'a Placement,
    migration: &'a Migration,
    recovery: &'a Recovery,
    observation: &'a Observation,
    term: ControllerTerm,
    now_ms: u64,
}

impl Look<'_> {
    fn collect(&self) -> Action {
        let awaited = self.recovery.awaited(self.placement);
        if let Some(evidence) = awaited.iter().find_map(|placed| self.found(*placed)) {
            return self.advance(MigrationState::Collecting, evidence);
        }
        if let Some(Placed { replica, host }) = self.turn_of(&awaited) {
            return Action::FenceReplica {
                host,
                replica,
                migration: self.migration.id,
            };
        }
        match self.recovery.best(self.placement) {
            Some((Placed { replica, .. }, _)) => {
                self.advance(MigrationState::Reopening, Evidence::Chosen { replica })
            }
            None => self.wait(),
        }
    }

    fn found(&self, Placed { replica, host }: Placed) -> Option<Evidence> {
        let seen = self.observation.hosts.get(&host)?;
        if seen.tombstones.contains(&replica) {
            return Some(Evidence::Tombstone { host, replica });
        }
        let fenced = seen.fenced.get(&replica)?;
        let end = fenced.end;
        (fenced.migration == self.migration.id).then_some(Evidence::Fenced { host, replica, end })
    }

    fn reopen(&self) -> Option<Action> {
        let (from, dst) = (self.migration.src?, self.migration.dst?);
        let shard = self.placement.shard(self.migration.shard)?;
        let next = self.recovery.succession(shard);
        // Not fenced by what the log knows of the old group: the new one's log may be shorter.
        let leader = self.observation.leader.as_ref();
        let opened = leader.filter(|leader| leader.replica == dst.replica);
        let membership = opened.map(|leader| &leader.membership);
        if let Some(seen) = membership.filter(|seen| seen.is_switched(self.migration.id, next.conf_ver)) {
            let evidence = Evidence::Switched {
                membership_index: seen.log_index,
                conf_ver: next.conf_ver,
                migration: self.migration.id,
            };
            return Some(self.advance(MigrationState::Cleaning, evidence));
        }
        if self.placement.host_is_lost(dst.host) {
            return Some(self.advance(MigrationState::Collecting, Evidence::HostDead { host: dst.host }));
        }
        Some(Action::ReopenReplica {
            host: dst.host,
            from: from.replica,
            replica: dst.replica,
            generation: next.generation,
            conf_ver: next.conf_ver,
            raft_term: next.raft_term,
            migration: self.migration.id,
        })
    }

    fn clean(&self) -> Action {
        let next = match self.recovery.members.len() {
            0 | 1 => MigrationState::Done,
            _ => MigrationState::Cleaning,
        };
        let members = || self.recovery.members.iter();
        let gone = members().find_map(|(replica, host)| {
            let (replica, host) = (*replica, *host);
            let is_destroyed = |seen: &HostView| seen.tombstones.contains(&replica);
            if self.observation.hosts.get(&host).is_some_and(is_destroyed) {
                return Some(Evidence::Tombstone { host, replica });
            }
            let is_lost = self.placement.host_is_lost(host);
            is_lost.then_some(Evidence::HostDead { host })
        });
        if let Some(evidence) = gone {
            return self.advance(next, evidence);
        }
        let left: Vec<Placed> = members()
            .map(|(replica, host)| Placed {
                replica: *replica,
                host: *host,
            })
            .collect();
        let turn = self.turn_of(&left);
        turn.map_or_else(
            || self.wait(),
            |Placed { replica, host }| Action::DestroyReplica { host, replica },
        )
    }

    fn turn_of(&self, replicas: &[Placed]) -> Option<Placed> {
        let turn = (self.now_ms / TURN_MS).checked_rem(u64::try_from(replicas.len()).ok()?)?;
        replicas.get(usize::try_from(turn).ok()?).copied()
    }

    fn advance(&self, next: MigrationState, evidence: Evidence) -> Action {
        Action::Propose(Box::new(Command::Advance(Advance {
            migration: self.migration.id,
            expect_state: self.migration.state,
            next,
            controller_term: self.term,
            evidence,
            now_ms: self.now_ms,
        })))
    }

    fn wait(&self) -> Action {
        Action::Wait {
            until_ms: self.now_ms.saturating_add(TURN_MS),
        }
    }
}
