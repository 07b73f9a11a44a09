//! The replicated placement state and how it is read.
//!
//! [`Placement`] is changed by [`Placement::apply`] alone (see `apply`), one log entry at a time; everything here
//! only reads. Whoever plans, routes or reports works on a copy or a reference and sends commands back through the
//! log.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use serde::{Deserialize, Serialize};

use crate::history::{EventKind, History, HistoryEvent};
use crate::hours::Hours;
use crate::ids::{ControllerTerm, HostId, MigrationId, ReplicaId, ShardId, WindowId};
use crate::migration::{Migration, Placed};
use crate::model::{Affinity, Epoch, Host, KeyRange, SHARD_CHANGES_MAX, Shard, ShardChange};
use crate::models::Models;
use crate::rules::{Limits, Rules};
use crate::trust::Trust;

/// Ended migrations kept for `admin migrations`; older ones live on in the totals.
pub const ENDED_MAX: usize = 1_024;

/// The controller: the leader of the placement group that took control last.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Controller {
    /// Where it runs.
    pub host: HostId,
    /// Its term; older controllers are refused.
    pub term: ControllerTerm,
}

/// Shards that wait for enough hosts.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct PendingShards {
    pub(crate) ranges: Vec<KeyRange>,
    pub(crate) hosts_before_create: u32,
}

/// The ids given out last.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Counters {
    pub(crate) host: u64,
    pub(crate) shard: u64,
    pub(crate) replica: u64,
    pub(crate) migration: u64,
}

/// Position and stamp of the entry being applied.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Stamp {
    pub(crate) index: u64,
    pub(crate) now_ms: u64,
}

/// Where a shard's requests go.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Route {
    /// The shard.
    pub shard: ShardId,
    /// Its keys.
    pub range: KeyRange,
    /// Its epoch, which requests carry.
    pub epoch: Epoch,
    /// The replica that leads as far as known.
    pub home: Option<Placed>,
    /// All voters.
    pub voters: Vec<Placed>,
}

/// The placement state: hosts, shards, migrations, rules, history. Equal on every replica at an equal log index.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Placement {
    pub(crate) cluster_id: Option<String>,
    pub(crate) applied_index: u64,
    pub(crate) now_ms: u64,
    pub(crate) rules: Rules,
    pub(crate) limits: Limits,
    pub(crate) limits_version: u64,
    pub(crate) hosts: BTreeMap<HostId, Host>,
    pub(crate) shards: BTreeMap<ShardId, Shard>,
    pub(crate) pending: Option<PendingShards>,
    pub(crate) migrations: BTreeMap<MigrationId, Migration>,
    pub(crate) active: BTreeSet<MigrationId>,
    pub(crate) ended: VecDeque<MigrationId>,
    pub(crate) owed: BTreeMap<HostId, BTreeMap<ReplicaId, ShardId>>,
    pub(crate) controller: Option<Controller>,
    pub(crate) window: WindowId,
    pub(crate) map_version: u64,
    pub(crate) affinities: BTreeMap<ShardId, Affinity>,
    pub(crate) last: Counters,
    pub(crate) history: History,
    /// By placement log index of the entry that added it.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub(crate) hours: BTreeMap<u64, Hours>,
    /// Trained models; absent in states that were written before there were any here.
    #[serde(default, skip_serializing_if = "Models::is_empty")]
    pub(crate) models: Models,
    #[serde(default, skip_serializing_if = "Trust::is_empty")]
    pub(crate) trust: Trust,
}

impl Placement {
    /// The cluster's id, once it is bootstrapped.
    pub fn cluster_id(&self) -> Option<&str> {
        self.cluster_id.as_deref()
    }

    /// Index of the last entry applied.
    pub fn applied_index(&self) -> u64 {
        self.applied_index
    }

    /// The latest mechanism time stamped into an entry; never goes back.
    pub fn now_ms(&self) -> u64 {
        self.now_ms
    }

    /// The rules in force.
    pub fn rules(&self) -> &Rules {
        &self.rules
    }

    /// The limits in force.
    pub fn limits(&self) -> &Limits {
        &self.limits
    }

    /// All hosts, removed ones included.
    pub fn hosts(&self) -> &BTreeMap<HostId, Host> {
        &self.hosts
    }

    /// A host.
    pub fn host(&self, host: HostId) -> Option<&Host> {
        self.hosts.get(&host)
    }

    /// All shards, the placement group first.
    pub fn shards(&self) -> &BTreeMap<ShardId, Shard> {
        &self.shards
    }

    /// The shards that hold keys, in order of id.
    pub fn data_shards(&self) -> impl Iterator<Item = &Shard> {
        self.shards.values().filter(|shard| !shard.id.is_placement())
    }

    /// A shard.
    pub fn shard(&self, shard: ShardId) -> Option<&Shard> {
        self.shards.get(&shard)
    }

    /// Shards not created yet, because too few hosts have joined.
    pub fn shards_pending(&self) -> usize {
        self.pending.as_ref().map_or(0, |pending| pending.ranges.len())
    }

    /// The migrations under way and the last ones that ended.
    pub fn migrations(&self) -> &BTreeMap<MigrationId, Migration> {
        &self.migrations
    }

    /// A migration, while it is remembered.
    pub fn migration(&self, migration: MigrationId) -> Option<&Migration> {
        self.migrations.get(&migration)
    }

    /// The migrations that have not ended, oldest first.
    pub fn active_migrations(&self) -> impl Iterator<Item = &Migration> {
        self.active.iter().filter_map(|id| self.migrations.get(id))
    }

    /// The replicas that a host must destroy before it serves them to anyone.
    pub fn owed_tombstones(&self, host: HostId) -> impl Iterator<Item = (ShardId, ReplicaId)> + '_ {
        self.owed
            .get(&host)
            .into_iter()
            .flatten()
            .map(|(replica, shard)| (*shard, *replica))
    }

    /// The controller in charge.
    pub fn controller(&self) -> Option<Controller> {
        self.controller
    }

    /// The term of the controller in charge; 0 before the first.
    pub fn controller_term(&self) -> ControllerTerm {
        self.controller
            .map_or(ControllerTerm(0), |controller| controller.term)
    }

    /// The current window of workload time.
    pub fn window(&self) -> WindowId {
        self.window
    }

    /// The affinity scores last recorded for a shard.
    pub fn affinity(&self, shard: ShardId) -> Option<&Affinity> {
        self.affinities.get(&shard)
    }

    /// What happened, and the totals.
    pub fn history(&self) -> &History {
        &self.history
    }

    /// The maintenance windows by id; none: bets on the future start at all hours.
    pub fn hours(&self) -> &BTreeMap<u64, Hours> {
        &self.hours
    }

    /// Whether bets on the future may start at a moment of mechanism time.
    pub fn in_hours(&self, at_ms: u64) -> bool {
        self.hours.is_empty() || self.hours.values().any(|hours| hours.contains(at_ms))
    }

    /// The models that may forecast.
    pub fn models(&self) -> &Models {
        &self.models
    }

    /// What moves were predicted to save and what they saved, and who may propose.
    pub fn trust(&self) -> &Trust {
        &self.trust
    }

    /// The version of the shard map: grows with every change of a route.
    pub fn version(&self) -> u64 {
        self.map_version
    }

    /// A shard's route.
    pub fn route(&self, shard: ShardId) -> Option<Route> {
        self.shards.get(&shard).map(route_of)
    }

    /// The shard that holds `key`.
    pub fn shard_of_key(&self, key: &[u8]) -> Option<&Shard> {
        self.data_shards().find(|shard| shard.range.contains(key))
    }

    /// The routes that changed after map version `version`; 0 gives all. The placement group's is among them.
    pub fn routes_since(&self, version: u64) -> impl Iterator<Item = Route> + '_ {
        self.shards
            .values()
            .filter(move |shard| shard.route_version > version)
            .map(route_of)
    }

    /// How many replicas of data shards each host holds. The placement group's are not counted: they hold no keys.
    pub fn replica_counts(&self) -> BTreeMap<HostId, u32> {
        let mut counts: BTreeMap<HostId, u32> = self.hosts.keys().map(|host| (*host, 0)).collect();
        for replica in self.data_shards().flat_map(|shard| shard.replicas.values()) {
            *counts.entry(replica.host).or_default() += 1;
        }
        counts
    }
}

impl Placement {
    pub(crate) fn record(&mut self, stamp: Stamp, what: EventKind, about: About, detail: String) {
        let About {
            shard,
            host,
            migration,
        } = about;
        let Stamp { index, now_ms } = stamp;
        self.history.record(
            HistoryEvent {
                index,
                at_ms: now_ms,
                what,
                shard,
                host,
                migration,
                detail,
            },
            &self.limits.history,
        );
    }

    /// Forgets migrations that ended too long ago; they are counted in the totals.
    pub(crate) fn compact_ended(&mut self, now_ms: u64) {
        let is_old = |state: &Self, id: &MigrationId| {
            let ended = state.migrations.get(id);
            ended.is_none_or(|migration| state.limits.history.is_old(migration.since_ms, now_ms))
        };
        while self.ended.front().is_some_and(|id| is_old(self, id)) {
            if let Some(id) = self.ended.pop_front() {
                self.migrations.remove(&id);
            }
        }
    }

    /// Notes a change of a shard's route: readers of the map are told, and the shard remembers it.
    pub(crate) fn route_changed(&mut self, stamp: Stamp, shard: ShardId, what: String) {
        self.map_version += 1;
        let version = self.map_version;
        if let Some(shard) = self.shards.get_mut(&shard) {
            shard.route_version = version;
            note_change(shard, stamp, what);
        }
    }
}

/// What an event is about.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct About {
    pub(crate) shard: Option<ShardId>,
    pub(crate) host: Option<HostId>,
    pub(crate) migration: Option<MigrationId>,
}

impl About {
    pub(crate) fn host(host: HostId) -> Self {
        Self {
            host: Some(host),
            ..Self::default()
        }
    }

    pub(crate) fn shard(shard: ShardId) -> Self {
        Self {
            shard: Some(shard),
            ..Self::default()
        }
    }

    pub(crate) fn migration(migration: &Migration) -> Self {
        let host = migration.dst.or(migration.src).map(|placed| placed.host);
        Self {
            shard: Some(migration.shard),
            host,
            migration: Some(migration.id),
        }
    }
}

/// Adds a change to a shard's own bounded history.
pub(crate) fn note_change(shard: &mut Shard, stamp: Stamp, what: String) {
    if shard.changes.len() == SHARD_CHANGES_MAX {
        shard.changes.remove(0);
    }
    shard.changes.push(ShardChange {
        index: stamp.index,
        at_ms: stamp.now_ms,
        epoch: shard.epoch,
        what,
    });
    shard.changes_total += 1;
}

fn route_of(shard: &Shard) -> Route {
    let placed = |(replica, host)| Placed { replica, host };
    let home = shard.route_home();
    let home = home.and_then(|id| shard.replicas.get(&id).map(|replica| placed((id, replica.host))));
    Route {
        shard: shard.id,
        range: shard.range.clone(),
        epoch: shard.epoch,
        home,
        voters: shard.voters().map(placed).collect(),
    }
}
