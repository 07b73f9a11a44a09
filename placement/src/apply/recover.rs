//! Forced recovery of a shard that lost its majority: its beginning, the guards of its edges, and what they change.
//!
//! The command itself is the point of no return. It supersedes what was under way, since that waits for a majority that
//! does not come, and names the whole old group. `Collecting` and `Cleaning` are entered again for each replica that
//! was fenced or destroyed, so a controller that dies between two loses nothing. The state stays that of the old group
//! until the new one is seen; then, in one entry, the shard has one voter, and every tombstone that cannot be delivered
//! is owed.

use std::collections::BTreeMap;

use super::advance::{broken, weak};
use super::effects::Effect;
use super::{Cause, Outcome, check_texts};
use crate::check::Invariant;
use crate::history::EventKind;
use crate::ids::{HostId, MigrationId, ReplicaId, ShardId};
use crate::migration::{AbortReason, Evidence, Migration, MigrationKind, MigrationState, Placed, Reasons};
use crate::model::{Replica, Role, Shard};
use crate::recovery::{LogEnd, Recovery, old_group};
use crate::response::{Accepted, Refusal};
use crate::state::{About, Placement, Stamp};

/// What a step of a recovery changes beside its state.
#[derive(Clone, Copy)]
pub(super) enum RecoveryEffect {
    /// A replica is fenced; `None`: there is nothing of it.
    Found { replica: ReplicaId, end: Option<LogEnd> },
    /// This survivor's data is to be opened under a fresh id.
    Chosen { from: Placed, end: LogEnd },
    /// The chosen one's host died.
    Unchosen,
    /// The new group is there.
    Reopened { membership_index: u64 },
    /// A replica of the old group is destroyed; its tombstone is owed where its host is dead.
    Destroyed { replica: ReplicaId, is_owed: bool },
}

impl Placement {
    pub(super) fn recover_shard(&mut self, stamp: Stamp, id: ShardId, cause: Cause) -> Outcome {
        check_texts([&cause.reason])?;
        self.check_recoverable(id)?;
        let shard = self.shards.get(&id).ok_or(Refusal::UnknownShard(id))?;
        let superseded = shard.active;
        let members = old_group(shard, superseded.and_then(|active| self.migration(active)));
        let lost: BTreeMap<ReplicaId, HostId> = shard
            .voters()
            .filter(|(_, host)| self.host_is_lost(*host))
            .collect();
        let detail = format!(
            "forced {cause}; most of the voters are on dead hosts ({}): what only they had is lost, though it was \
             acknowledged",
            listed(&lost)
        );
        if let Some(active) = superseded {
            let evidence = Evidence::GiveUp {
                reason: AbortReason::Superseded,
                conf_ver: None,
            };
            self.enter_state(stamp, active, MigrationState::Superseded, None, evidence);
        }
        let recovery = Recovery {
            members,
            lost,
            found: BTreeMap::new(),
            attempts: 0,
        };
        let migration = self.begin_recovery(stamp, id, cause, recovery);
        let about = About {
            migration: Some(migration),
            ..About::shard(id)
        };
        self.record(stamp, EventKind::ForcedRecovery, about, detail);
        self.enter_state(
            stamp,
            migration,
            MigrationState::Collecting,
            None,
            Evidence::Start,
        );
        Ok(Accepted::Proposed(migration))
    }

    fn begin_recovery(
        &mut self,
        stamp: Stamp,
        shard: ShardId,
        Cause { origin, reason }: Cause,
        recovery: Recovery,
    ) -> MigrationId {
        self.last.migration += 1;
        let id = MigrationId(self.last.migration);
        let known = self.shards.get(&shard);
        let voters = known.map_or(0, Shard::voter_count);
        let migration = Migration {
            id,
            shard,
            kind: MigrationKind::Recover,
            origin,
            src: None,
            dst: None,
            take_home: false,
            basis: known.map(|known| known.epoch).unwrap_or_default(),
            state: MigrationState::Proposed,
            since_ms: stamp.now_ms,
            deadline_ms: None,
            expires_ms: u64::MAX,
            reasons: Reasons {
                policy: "forced".to_owned(),
                text: reason,
                ..Reasons::default()
            },
            window: self.window,
            voters_before: u32::try_from(voters).unwrap_or(u32::MAX),
            switch_ordered: false,
            holds_out: false,
            limits_version: self.limits_version,
            abort_reason: None,
            steps: Vec::new(),
            split: None,
            merge: None,
            before: None,
            follows: None,
            recovery: Some(recovery),
        };
        self.open_migration(stamp, migration);
        id
    }

    /// The guard of a recovery's edge to `next`, and what passing it changes.
    pub(super) fn judge_recovery(
        &self,
        migration: &Migration,
        shard: &Shard,
        next: MigrationState,
        evidence: Evidence,
    ) -> Result<Effect, Refusal> {
        use MigrationState::{Cleaning, Collecting, Done, Reopening};
        let recovery = migration.recovery.as_ref();
        let recovery = recovery.ok_or_else(|| weak("it is no recovery".to_owned()))?;
        let effect = match (migration.state, next, evidence) {
            (Collecting, Collecting, Evidence::Fenced { host, replica, end }) => {
                self.judge_found(recovery, Placed { replica, host }, Some(end))
            }
            (Collecting, Collecting, Evidence::Tombstone { host, replica }) => {
                self.judge_found(recovery, Placed { replica, host }, None)
            }
            (Collecting, Reopening, Evidence::Chosen { replica }) => self.judge_choice(recovery, replica),
            (Reopening, Collecting, Evidence::HostDead { host }) => {
                let chosen = migration
                    .dst
                    .filter(|dst| dst.host == host && self.host_is_lost(host));
                chosen
                    .map(|_| RecoveryEffect::Unchosen)
                    .ok_or_else(|| weak(format!("{host} was not chosen, or is not dead")))
            }
            (
                Reopening,
                Cleaning,
                Evidence::Switched {
                    membership_index,
                    conf_ver,
                    migration: by,
                },
            ) => {
                let expected = recovery.succession(shard).conf_ver;
                if by != migration.id || conf_ver != expected {
                    let detail = format!(
                        "{}: conf_ver {conf_ver} by {by}, expected {expected}",
                        migration.id
                    );
                    return Err(broken(Invariant::ConfVerGrows, detail));
                }
                Ok(RecoveryEffect::Reopened { membership_index })
            }
            (Cleaning, Cleaning | Done, evidence) => self.judge_destroyed(recovery, shard, next, evidence),
            (from, next, evidence) => Err(weak(format!(
                "{evidence:?} does not lead from {from:?} to {next:?}"
            ))),
        };
        effect.map(Effect::Recovery)
    }

    fn judge_found(
        &self,
        recovery: &Recovery,
        placed: Placed,
        end: Option<LogEnd>,
    ) -> Result<RecoveryEffect, Refusal> {
        match recovery.awaited(self).contains(&placed) {
            true => Ok(RecoveryEffect::Found {
                replica: placed.replica,
                end,
            }),
            false => Err(weak(format!(
                "{} on {} is not asked for",
                placed.replica, placed.host
            ))),
        }
    }

    fn judge_choice(&self, recovery: &Recovery, replica: ReplicaId) -> Result<RecoveryEffect, Refusal> {
        let awaited = recovery.awaited(self);
        if let Some(Placed { replica, host }) = awaited.first() {
            return Err(weak(format!("{replica} on {host} is not fenced yet")));
        }
        match recovery.best(self) {
            Some((from, end)) if from.replica == replica => Ok(RecoveryEffect::Chosen { from, end }),
            best => Err(weak(format!("the best survivor is {best:?}, not {replica}"))),
        }
    }

    /// I5: only what is no member any more is destroyed, and the last one ends the recovery.
    fn judge_destroyed(
        &self,
        recovery: &Recovery,
        shard: &Shard,
        next: MigrationState,
        evidence: Evidence,
    ) -> Result<RecoveryEffect, Refusal> {
        let member = |of: HostId, wanted: Option<ReplicaId>| {
            let mut members = recovery.members.iter();
            let found = members.find(|(id, host)| **host == of && wanted.is_none_or(|wanted| wanted == **id));
            found.map(|(id, _)| *id)
        };
        let (doomed, is_owed) = match evidence {
            Evidence::Tombstone { host, replica } => (member(host, Some(replica)), false),
            Evidence::HostDead { host } if self.host_is_lost(host) => (member(host, None), true),
            _ => (None, false),
        };
        let replica =
            doomed.ok_or_else(|| weak(format!("{evidence:?} does not show a replica destroyed")))?;
        if shard.replicas.contains_key(&replica) {
            return Err(broken(
                Invariant::DestroyAbsentOnly,
                format!("{replica} is a member"),
            ));
        }
        let is_last = recovery.members.len() == 1;
        match is_last == (next == MigrationState::Done) {
            true => Ok(RecoveryEffect::Destroyed { replica, is_owed }),
            false => Err(weak(format!("{} replicas are left", recovery.members.len()))),
        }
    }

    pub(super) fn take_recovery_effect(
        &mut self,
        stamp: Stamp,
        migration: &Migration,
        effect: RecoveryEffect,
    ) {
        let id = migration.id;
        match effect {
            RecoveryEffect::Found { replica, end } => self.change_recovery(id, |recovery| {
                recovery.found.insert(replica, end);
            }),
            RecoveryEffect::Chosen { from, end } => self.choose(stamp, id, from, end),
            RecoveryEffect::Unchosen => self.unchoose(id),
            RecoveryEffect::Reopened { membership_index } => {
                self.reopened(stamp, migration, membership_index)
            }
            RecoveryEffect::Destroyed { replica, is_owed } => {
                if is_owed {
                    self.owe_members(migration, |member| member == replica);
                }
                self.change_recovery(id, |recovery| {
                    recovery.members.remove(&replica);
                });
            }
        }
    }

    fn change_recovery(&mut self, id: MigrationId, change: impl FnOnce(&mut Recovery)) {
        if let Some(recovery) = self
            .migrations
            .get_mut(&id)
            .and_then(|known| known.recovery.as_mut())
        {
            change(recovery);
        }
    }

    fn choose(&mut self, stamp: Stamp, id: MigrationId, from: Placed, end: LogEnd) {
        let replica = self.next_replica();
        self.change_recovery(id, |recovery| recovery.attempts += 1);
        let Some(migration) = self.migrations.get_mut(&id) else {
            return;
        };
        migration.src = Some(from);
        migration.dst = Some(Placed {
            replica,
            host: from.host,
        });
        let found = migration.recovery.iter().flat_map(|recovery| &recovery.found);
        let others = found.filter(|(other, _)| **other != from.replica);
        let others: Vec<String> = others.map(|(other, end)| ended(*other, *end)).collect();
        let about = About::migration(migration);
        let detail = format!(
            "goes on as {replica} from {} on {} ({})",
            ended(from.replica, Some(end)),
            from.host,
            match others.is_empty() {
                true => "the only survivor".to_owned(),
                false => format!("not {}", others.join(", ")),
            }
        );
        self.record(stamp, EventKind::ForcedRecovery, about, detail);
    }

    /// The new replica may have been made before its host died: it is one more to be asked, and destroyed.
    fn unchoose(&mut self, id: MigrationId) {
        let Some(migration) = self.migrations.get_mut(&id) else {
            return;
        };
        migration.src = None;
        let dst = migration.dst.take();
        self.change_recovery(id, |recovery| {
            recovery.members.extend(dst.map(|dst| (dst.replica, dst.host)));
        });
    }

    fn reopened(&mut self, stamp: Stamp, migration: &Migration, membership_index: u64) {
        let (Some(dst), Some(recovery)) = (migration.dst, &migration.recovery) else {
            return;
        };
        let Some(shard) = self.shards.get_mut(&migration.shard) else {
            return;
        };
        let next = recovery.succession(shard);
        let voter = Replica {
            host: dst.host,
            role: Role::Voter,
        };
        shard.replicas = BTreeMap::from([(dst.replica, voter)]);
        shard.epoch.generation = next.generation;
        shard.epoch.conf_ver = next.conf_ver;
        // Both were the old group's, and may lie above the new one's.
        shard.membership_index = membership_index;
        shard.observed = None;
        shard.home = Some(dst.replica);
        shard.slow_catch_ups = 0;
        let what = format!(
            "goes on as {} on {} alone, as gen {}; what only {} had is lost",
            dst.replica,
            dst.host,
            next.generation,
            listed(&recovery.lost)
        );
        self.route_changed(stamp, migration.shard, what.clone());
        self.record(
            stamp,
            EventKind::ForcedRecovery,
            About::migration(migration),
            what,
        );
        let dead: Vec<ReplicaId> = recovery
            .members
            .iter()
            .filter(|(_, host)| self.host_is_lost(**host))
            .map(|(id, _)| *id)
            .collect();
        self.owe_members(migration, |replica| dead.contains(&replica));
        self.change_recovery(migration.id, |recovery| {
            recovery.members.retain(|id, _| !dead.contains(id));
        });
    }

    /// Tombstones that are delivered when their hosts return.
    fn owe_members(&mut self, migration: &Migration, is_owed: impl Fn(ReplicaId) -> bool) {
        let members = migration.recovery.iter().flat_map(|recovery| &recovery.members);
        for (replica, host) in members.filter(|(replica, _)| is_owed(**replica)) {
            let doomed = Placed {
                replica: *replica,
                host: *host,
            };
            self.owe(doomed, migration.shard);
        }
    }
}

fn listed(replicas: &BTreeMap<ReplicaId, HostId>) -> String {
    let named: Vec<String> = replicas
        .iter()
        .map(|(id, host)| format!("{id} on {host}"))
        .collect();
    match named.is_empty() {
        true => "replicas that nobody knows".to_owned(),
        false => named.join(", "),
    }
}

fn ended(replica: ReplicaId, end: Option<LogEnd>) -> String {
    match end {
        Some(end) => format!(
            "{replica}, whose log ends with entry {} of term {}",
            end.index, end.raft_term
        ),
        None => format!("{replica}, of which there is nothing"),
    }
}
