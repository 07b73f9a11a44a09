//! What the steps of a migration change: replicas, epochs, homes, slots, debts, and the migration's own state.
//!
//! Nothing here judges: `advance` has done so before it calls, and nothing here can refuse.

use super::recover::RecoveryEffect;
use crate::history::EventKind;
use crate::ids::{ControllerTerm, MigrationId, ReplicaId, ShardId};
use crate::migration::{
    AbortReason, Evidence, Migration, MigrationKind, MigrationState, Placed, STEPS_MAX, Step,
};
use crate::model::{ObservedHome, Replica, Role};
use crate::state::{About, ENDED_MAX, Placement, Stamp};

/// How often the deadline of a catch-up is doubled at most: a thousandfold.
const CATCH_UP_DOUBLINGS_MAX: u32 = 10;

/// What a step changes beside the migration's own state.
#[derive(Clone, Copy)]
pub(super) enum Effect {
    /// Nothing.
    None,
    /// The migration takes its slots.
    Started,
    /// The new replica is a learner.
    LearnerAdded { membership_index: u64 },
    /// A leader was seen.
    HomeSeen(ObservedHome),
    /// The voters changed: the point of no return.
    Switched { membership_index: u64, conf_ver: u64 },
    /// A replica left the membership.
    Dropped {
        replica: ReplicaId,
        membership_index: u64,
    },
    /// The tombstone will be delivered when the dead host returns.
    Owed(Placed),
    /// The upper part of the range is a new shard's.
    Split,
    /// The shard that was to be absorbed goes on.
    Thawed,
    /// The range of the frozen shard is this one's.
    Absorbed,
    /// The absorbed shard's replicas are gone, or owed.
    Dissolved,
    /// A recovery made a step.
    Recovery(RecoveryEffect),
}

impl Placement {
    pub(super) fn take_effect(&mut self, stamp: Stamp, id: MigrationId, effect: Effect) {
        let Some(migration) = self.migrations.get(&id).cloned() else {
            return;
        };
        match effect {
            Effect::None => {}
            Effect::Started => self.start(id),
            Effect::LearnerAdded { membership_index } => {
                self.add_learner(stamp, &migration, membership_index)
            }
            Effect::HomeSeen(seen) => self.see_home(stamp, migration.shard, seen),
            Effect::Switched {
                membership_index,
                conf_ver,
            } => {
                self.switch(stamp, &migration, membership_index, conf_ver);
            }
            Effect::Dropped {
                replica,
                membership_index,
            } => {
                self.drop_replica(stamp, migration.shard, replica, membership_index);
            }
            Effect::Split => self.split(stamp, &migration),
            Effect::Thawed => self.thaw(stamp, &migration),
            Effect::Absorbed => self.merge(stamp, &migration),
            Effect::Dissolved => self.owe_dissolved(&migration),
            Effect::Owed(doomed) => self.owe(doomed, migration.shard),
            Effect::Recovery(effect) => self.take_recovery_effect(stamp, &migration, effect),
        }
    }

    /// Notes that a lost host has to destroy a replica once it is back.
    pub(super) fn owe(&mut self, doomed: Placed, shard: ShardId) {
        self.owed
            .entry(doomed.host)
            .or_default()
            .insert(doomed.replica, shard);
    }

    fn start(&mut self, id: MigrationId) {
        let Some(src) = self.migrations.get(&id).map(|migration| migration.src) else {
            return;
        };
        let holds_out = src.is_some_and(|src| self.is_up(src.host));
        if let Some(migration) = self.migrations.get_mut(&id) {
            migration.holds_out = holds_out;
            migration.limits_version = self.limits_version;
        }
    }

    fn add_learner(&mut self, stamp: Stamp, migration: &Migration, membership_index: u64) {
        let Some(dst) = migration.dst else { return };
        let Some(shard) = self.shards.get_mut(&migration.shard) else {
            return;
        };
        shard.membership_index = membership_index;
        shard.replicas.insert(
            dst.replica,
            Replica {
                host: dst.host,
                role: Role::Learner,
            },
        );
        self.route_changed(
            stamp,
            migration.shard,
            format!("{} on {} is a learner", dst.replica, dst.host),
        );
    }

    fn switch(&mut self, stamp: Stamp, migration: &Migration, membership_index: u64, conf_ver: u64) {
        let Some(shard) = self.shards.get_mut(&migration.shard) else {
            return;
        };
        shard.membership_index = membership_index;
        shard.epoch.conf_ver = conf_ver;
        let mut words = Vec::new();
        if let Some(dst) = migration.dst {
            shard.replicas.insert(
                dst.replica,
                Replica {
                    host: dst.host,
                    role: Role::Voter,
                },
            );
            words.push(format!("{} on {} votes", dst.replica, dst.host));
        }
        if let Some(src) = migration.src {
            shard.replicas.insert(
                src.replica,
                Replica {
                    host: src.host,
                    role: Role::Learner,
                },
            );
            words.push(format!("{} on {} no longer votes", src.replica, src.host));
        }
        if shard.home.is_none_or(|home| !shard.is_voter(home)) {
            let leader = shard
                .observed
                .map(|seen| seen.replica)
                .filter(|leader| shard.is_voter(*leader));
            shard.home = leader.or_else(|| shard.voters().next().map(|(voter, _)| voter));
        }
        self.route_changed(stamp, migration.shard, words.join(", "));
    }

    fn drop_replica(&mut self, stamp: Stamp, shard: ShardId, replica: ReplicaId, membership_index: u64) {
        let Some(known) = self.shards.get_mut(&shard) else {
            return;
        };
        known.membership_index = known.membership_index.max(membership_index);
        if known.replicas.remove(&replica).is_some() {
            self.route_changed(stamp, shard, format!("{replica} left the membership"));
        }
    }

    /// Enters a state: the one place where a migration's state changes.
    pub(super) fn enter_state(
        &mut self,
        stamp: Stamp,
        id: MigrationId,
        next: MigrationState,
        controller_term: Option<ControllerTerm>,
        evidence: Evidence,
    ) {
        let Some(migration) = self.migrations.get_mut(&id) else {
            return;
        };
        let from = migration.state;
        migration.enter(stamp, next, controller_term, Some(evidence));
        let migration = migration.clone();
        self.count_catch_up(&migration, from);
        self.set_deadline(stamp, &migration);
        let detail = format!("{from:?} -> {next:?}");
        self.record(stamp, EventKind::Step, About::migration(&migration), detail);
        if next.is_terminal() {
            self.end(stamp, &migration);
        }
    }

    /// Keeps count of the catch-ups of a shard that ran into their deadline.
    fn count_catch_up(&mut self, migration: &Migration, from: MigrationState) {
        let Some(shard) = self.shards.get_mut(&migration.shard) else {
            return;
        };
        let too_slow = migration.abort_reason == Some(AbortReason::Deadline);
        match (from, migration.state) {
            (MigrationState::CatchingUp, MigrationState::Aborting) if too_slow => shard.slow_catch_ups += 1,
            (MigrationState::CatchingUp, MigrationState::Switching | MigrationState::Transferring) => {
                shard.slow_catch_ups = 0;
            }
            _ => {}
        }
    }

    /// How long the migration may stay in the state it has entered.
    fn set_deadline(&mut self, stamp: Stamp, migration: &Migration) {
        let timeouts = &self.limits.timeouts;
        let slow = self
            .shards
            .get(&migration.shard)
            .map_or(0, |shard| shard.slow_catch_ups);
        let timeout_ms = match migration.state {
            MigrationState::Adding => Some(timeouts.adding_ms),
            MigrationState::CatchingUp => Some(timeouts.catching_up_ms << slow.min(CATCH_UP_DOUBLINGS_MAX)),
            MigrationState::Transferring => Some(timeouts.transferring_ms),
            MigrationState::Switching | MigrationState::Freezing => Some(timeouts.switching_ms),
            _ => None,
        };
        if let Some(migration) = self.migrations.get_mut(&migration.id) {
            migration.deadline_ms = timeout_ms.map(|timeout_ms| stamp.now_ms.saturating_add(timeout_ms));
        }
    }

    fn end(&mut self, stamp: Stamp, migration: &Migration) {
        self.active.remove(&migration.id);
        self.history
            .count_end(migration.kind, migration.origin, migration.state);
        self.ended.push_back(migration.id);
        if self.ended.len() > ENDED_MAX
            && let Some(oldest) = self.ended.pop_front()
        {
            self.migrations.remove(&oldest);
        }
        self.compact_ended(stamp.now_ms);
        let window = self.window;
        let Some(shard) = self.shards.get_mut(&migration.shard) else {
            return;
        };
        shard.active = None;
        if let Some(other) = migration.other_shard()
            && let Some(other) = self.shards.get_mut(&other)
            && other.active == Some(migration.id)
        {
            other.active = None;
        }
        if migration.state != MigrationState::Done {
            return;
        }
        let Some(shard) = self.shards.get_mut(&migration.shard) else {
            return;
        };
        match (migration.kind, migration.dst) {
            (MigrationKind::Split | MigrationKind::Merge, _) => {}
            (MigrationKind::Home, Some(dst)) => {
                shard.home = Some(dst.replica);
                shard.home_window = Some(window);
                self.route_changed(
                    stamp,
                    migration.shard,
                    format!("home is {} on {}", dst.replica, dst.host),
                );
                self.try_move(stamp, migration);
            }
            (_, dst) => {
                shard.moved_window = Some(window);
                if let Some(dst) = dst.filter(|_| migration.take_home) {
                    self.propose_home_after(stamp, migration, dst);
                }
                // A home that follows is on trial for both.
                let settled = self
                    .shards
                    .get(&migration.shard)
                    .is_some_and(|shard| shard.active.is_none());
                if settled {
                    self.try_move(stamp, migration);
                }
            }
        }
    }
}

impl Migration {
    pub(super) fn enter(
        &mut self,
        stamp: Stamp,
        state: MigrationState,
        controller_term: Option<ControllerTerm>,
        evidence: Option<Evidence>,
    ) {
        self.state = state;
        self.since_ms = stamp.now_ms;
        self.switch_ordered |= state == MigrationState::Switching;
        if let Some(Evidence::GiveUp { reason, .. }) = evidence {
            self.abort_reason = Some(reason);
        }
        if self.steps.len() == STEPS_MAX {
            self.steps.remove(0);
        }
        self.steps.push(Step {
            state,
            index: stamp.index,
            at_ms: stamp.now_ms,
            controller_term,
            evidence,
        });
    }
}
