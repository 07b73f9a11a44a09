//! The placement history of a run: what the placement log decided, and what the shards' own logs did about it, in the
//! order in which an observer outside of the cluster saw it.

use std::collections::{BTreeMap, BTreeSet};

use placement::{MigrationId, Placement, ReplicaId, ShardId};
use server::host::Host;

use super::world::SimHost;
use crate::events::{Happening, MigrationState};
use crate::placement::{MigrationKind, Placed, PlacementLine, Showing};
use crate::record::Recorder;

/// Where steps of migrations are taken down.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Telling {
    /// Among the events of the history, too.
    #[default]
    History,
    /// In the placement history alone.
    PlacementOnly,
}

/// Follows the placement state of whichever host is furthest.
#[derive(Default)]
pub(super) struct Chronicle {
    applied: u64,
    rules: Option<(usize, usize, usize)>,
    hosts: BTreeMap<u64, bool>,
    shards: BTreeMap<u64, (u64, Vec<Placed>, Vec<Placed>)>,
    steps: BTreeMap<MigrationId, u64>,
    memberships: BTreeMap<ShardId, u64>,
    /// The replica of each shard on each host that runs.
    present: BTreeMap<(usize, ShardId), ReplicaId>,
    /// Which start of each host that was.
    starts: BTreeMap<usize, u64>,
    /// Whether steps are events of the history: not any more once every key is being read for the last time, or a repair
    /// after that would seem to need another look.
    pub(super) told: Telling,
    /// The lines for [`crate::placement::check`].
    pub(super) lines: Vec<PlacementLine>,
    /// Migrations that have not ended.
    open: BTreeSet<MigrationId>,
    /// Migrations that ended as wanted.
    pub(super) done: BTreeSet<MigrationId>,
    /// Why a state was refused by its own check.
    pub(super) broken: Vec<String>,
}

impl Chronicle {
    /// Looks at all hosts after a step.
    pub(super) fn step(&mut self, hosts: &[SimHost], recorder: &Recorder) {
        let running: Vec<Host> = hosts.iter().filter_map(SimHost::host).collect();
        let furthest = running
            .iter()
            .filter_map(|host| Some((host.look_at_placement(Placement::applied_index)?, host)))
            .max_by_key(|(applied, _)| *applied);
        let newer = furthest.filter(|(applied, _)| *applied > self.applied);
        for host in &running {
            self.memberships_of(host);
        }
        for (number, host) in hosts.iter().enumerate() {
            self.replicas_of(number, host);
        }
        if let Some((applied, host)) = newer {
            host.look_at_placement(|placement| self.take(placement, recorder));
            self.applied = applied;
        }
    }

    /// Whether a migration has not ended.
    pub(super) fn is_open(&self) -> bool {
        !self.open.is_empty()
    }

    /// All faults are over, and migrations had their time.
    pub(super) fn settle(&mut self) {
        self.show(Showing::Settled);
    }

    fn show(&mut self, shows: Showing) {
        let index = self.applied;
        self.lines.push(PlacementLine { index, shows });
    }

    /// What the shards' own logs committed, which the placement log may only follow.
    fn memberships_of(&mut self, host: &Host) {
        for local in host.shards() {
            let shard = local.group.id();
            let index = local.group.vitals().membership_index;
            if index.is_none() || index <= self.memberships.get(&shard).copied() {
                continue;
            }
            let status = local.group.status();
            if let Some(index) = status.membership_index {
                self.memberships.insert(shard, index);
                self.show(Showing::Committed {
                    shard: shard.0,
                    conf_ver: status.stamp.conf_ver,
                    replicas: status.hosts.keys().map(|replica| replica.0).collect(),
                });
            }
        }
    }

    /// A replica that was here, and is not any more although its host runs, was destroyed.
    fn replicas_of(&mut self, number: usize, host: &SimHost) {
        if self.starts.insert(number, host.starts()) != Some(host.starts()) {
            self.present.retain(|(host, _), _| *host != number);
        }
        let running = host.host().filter(|host| !host.stop().is_cancelled());
        let now: Option<BTreeMap<ShardId, ReplicaId>> = running.map(|host| {
            let shards = host.shards();
            shards
                .iter()
                .map(|local| (local.group.id(), local.group.replica()))
                .collect()
        });
        let before: Vec<(ShardId, ReplicaId)> = self
            .present
            .iter()
            .filter(|((host, _), _)| *host == number)
            .map(|((_, shard), replica)| (*shard, *replica))
            .collect();
        for (shard, replica) in before {
            self.present.remove(&(number, shard));
            if now.as_ref().is_some_and(|now| now.get(&shard) != Some(&replica)) {
                self.show(Showing::Destroyed {
                    shard: shard.0,
                    replica: replica.0,
                });
            }
        }
        let now = now.unwrap_or_default();
        self.present
            .extend(now.into_iter().map(|(shard, replica)| ((number, shard), replica)));
    }

    fn take(&mut self, placement: &Placement, recorder: &Recorder) {
        self.applied = placement.applied_index();
        if let Err(violation) = placement.check() {
            self.broken.push(violation.to_string());
        }
        self.take_rules(placement);
        self.take_steps(placement, recorder);
        self.take_shards(placement);
    }

    fn take_rules(&mut self, placement: &Placement) {
        let limits = placement.limits();
        let rules = (
            placement.rules().replication_factor as usize,
            limits.moves_out_max as usize,
            limits.moves_in_max as usize,
        );
        if self.rules != Some(rules) {
            self.rules = Some(rules);
            self.show(Showing::Rules {
                replication_factor: rules.0,
                out_max: rules.1,
                in_max: rules.2,
            });
        }
        for host in placement.hosts().values() {
            let eligible = host.state == placement::HostState::Up;
            if self.hosts.insert(host.id.0, eligible) != Some(eligible) {
                self.show(Showing::Host {
                    host: host.id.0,
                    eligible,
                });
            }
        }
    }

    fn take_shards(&mut self, placement: &Placement) {
        for shard in placement.data_shards() {
            let of_role = |role| {
                let replicas = shard
                    .replicas
                    .iter()
                    .filter(move |(_, replica)| replica.role == role);
                replicas
                    .map(|(id, replica)| placed(*id, replica.host.0))
                    .collect::<Vec<_>>()
            };
            let shape = (
                shard.epoch.conf_ver,
                of_role(placement::Role::Voter),
                of_role(placement::Role::Learner),
            );
            if self.shards.get(&shard.id.0) != Some(&shape) {
                self.shards.insert(shard.id.0, shape.clone());
                self.show(Showing::Shard {
                    shard: shard.id.0,
                    conf_ver: shape.0,
                    voters: shape.1,
                    learners: shape.2,
                });
            }
        }
    }

    fn take_steps(&mut self, placement: &Placement, recorder: &Recorder) {
        for migration in placement.migrations().values() {
            let known = self.steps.get(&migration.id).copied();
            for step in migration.steps.iter().filter(|step| Some(step.index) > known) {
                let state = named::<_, MigrationState>(step.state);
                self.steps.insert(migration.id, step.index);
                match state.is_terminal() {
                    true => self.open.remove(&migration.id),
                    false => self.open.insert(migration.id),
                };
                if state == MigrationState::Done {
                    self.done.insert(migration.id);
                }
                if self.told == Telling::History {
                    recorder.event(Happening::MigrationStep {
                        migration: migration.id.0,
                        shard: migration.shard.0,
                        state,
                    });
                }
                if migration.shard == ShardId::PLACEMENT {
                    continue;
                }
                if migration.kind == placement::MigrationKind::Recover && state == MigrationState::Cleaning {
                    self.show(Showing::ForcedRecovery {
                        shard: migration.shard.0,
                    });
                }
                if let Some(merge) = migration
                    .merge
                    .as_ref()
                    .filter(|_| state == MigrationState::Dissolving)
                {
                    self.show(Showing::Absorbed { shard: merge.shard.0 });
                }
                self.show(Showing::Step {
                    migration: migration.id.0,
                    shard: migration.shard.0,
                    kind: named::<_, MigrationKind>(migration.kind),
                    state,
                    src: migration.src.map(|at| placed(at.replica, at.host.0)),
                    dst: migration.dst.map(|at| placed(at.replica, at.host.0)),
                });
            }
        }
    }
}

fn placed(replica: ReplicaId, host: u64) -> Placed {
    Placed {
        replica: replica.0,
        host,
    }
}

/// The checkers' word for a word of the placement log: they are spelled alike, and share no code.
fn named<From: serde::Serialize, To: serde::de::DeserializeOwned>(from: From) -> To {
    let named = serde_json::to_value(from).and_then(serde_json::from_value);
    named.unwrap_or_else(|e| panic!("the placement log has a word that the checkers do not know: {e}"))
}
