//! What the planner is given: the placement, the forecasts, the distances, the rules and its settings.
//!
//! Everything is plain data without clocks. The placement is a view of what planning needs; it is read off the
//! placement state by [`PlacementView::of`], with the bytes of each shard, which only the hosts know, beside it.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::ids::{HostId, Region, ReplicaId, ShardId, WindowId, Zone};
use crate::migration::Migration;
use crate::model::{Admission, Epoch, Host, HostState, Role, Shard};
use crate::rules::{Limits, Rules};

use super::forecast::{Forecast, PPM};
use super::rtt::RttMatrix;

/// All that a plan depends on besides the planner's memory.
#[derive(Clone, Copy, Debug)]
pub struct PlanInput<'a> {
    /// Hosts and shards as they are now.
    pub placement: &'a PlacementView,
    /// The coming window: decides homes.
    pub forecast: &'a Forecast,
    /// A slower forecast that decides replica sets; `None` uses `forecast` for both.
    pub replica_forecast: Option<&'a Forecast>,
    /// Round trips between zones.
    pub rtt: &'a RttMatrix,
    /// What a replica set must look like.
    pub rules: &'a Rules,
    /// How much may be under way at once, and the dwell.
    pub limits: &'a Limits,
    /// What moves cost.
    pub costs: &'a PlanCosts,
    /// How to plan.
    pub options: &'a PlanOptions,
}

/// What planning needs to know of the placement.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct PlacementView {
    /// The hosts by id.
    pub hosts: BTreeMap<HostId, HostView>,
    /// The shards by id. The placement group is not among them: it follows its own rule.
    pub shards: BTreeMap<ShardId, ShardView>,
}

/// A host, as far as planning is concerned.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct HostView {
    /// Its fault domain.
    pub zone: Zone,
    /// The group of zones it lies in.
    pub region: Region,
    /// Bytes it offers to shards.
    pub capacity_bytes: u64,
    /// Whether it answers.
    pub state: HostState,
    /// What it takes on.
    pub admission: Admission,
    /// Replicas on their way to it in active migrations.
    pub moves_in: u32,
    /// Replicas on their way from it in active migrations.
    pub moves_out: u32,
}

/// A shard, as far as planning is concerned.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ShardView {
    /// The version that moves are based on.
    pub epoch: Epoch,
    /// Its copies.
    pub replicas: BTreeMap<ReplicaId, ReplicaView>,
    /// The replica that leads, if known.
    pub home: Option<ReplicaId>,
    /// Bytes of one replica.
    pub bytes: u64,
    /// Whether it must stay as it is: a migration is active, or its group is not initialised.
    pub busy: bool,
    /// The window of its last replica move.
    pub moved_window: Option<WindowId>,
    /// The window of its last home move.
    pub home_window: Option<WindowId>,
}

/// A copy of a shard.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReplicaView {
    /// Where it lies.
    pub host: HostId,
    /// Whether it votes.
    pub role: Role,
}

/// What a move costs, in microseconds of access latency that it must save to be worth making.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PlanCosts {
    /// One leadership transfer.
    pub home_move_micros: u64,
    /// One replica move, whatever its size.
    pub replica_move_micros: u64,
    /// How fast a replica is copied, in bytes a second; 0 leaves bytes free of cost.
    pub copy_bytes_per_s: u64,
    /// How much a microsecond of copying costs, in parts per million of a microsecond of access latency.
    pub copy_weight_ppm: u32,
}

/// How to plan.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PlanOptions {
    /// What may move.
    pub mode: Mode,
    /// What is minimised.
    pub objective: Objective,
    /// What a move has to wait for.
    pub hysteresis: Hysteresis,
    /// Share of the reads that are by lease and so need no quorum round, in parts per million.
    pub lease_reads_ppm: u32,
    /// Share of the accesses that homes are expected to follow from window to window, in parts per million. To that
    /// part a replica set is worth what its nearest voter to each origin is worth, whichever leads: that is why a voter
    /// stands where the accesses sometimes come from, though one forecast alone gives it nothing to do.
    pub follow_ppm: u32,
    /// Windows over which a replica move is expected to pay; compares alternatives of different cost.
    pub horizon_windows: u32,
    /// Accesses and bytes that one host may hold, in parts per million of the fair share; `None` is unlimited. A
    /// limit is never below the largest single shard.
    pub fair_share_max_ppm: Option<u32>,
    /// Home moves in one plan at most.
    pub home_moves_max: u32,
    /// Replica moves in one plan at most.
    pub replica_moves_max: u32,
}

/// What may move.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Mode {
    /// Homes among the present voters.
    Homes,
    /// Homes and voters.
    HomesAndReplicas,
}

/// What is minimised.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Objective {
    /// The expected latency over all origins.
    ExpectedRtt,
    /// The latency from the likeliest origin alone, as simple reactive policies do.
    MostLikely,
}

/// What a move has to wait for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Hysteresis {
    /// Nothing: any gain moves a home, any gain over the horizon a replica.
    None,
    /// The latency lost by staying must have paid for the move.
    SkiRental(SkiRental),
}

/// The settings of the ski-rental rule.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SkiRental {
    /// The regret a move needs, in parts per million of its cost.
    pub bar_ppm: u32,
    /// The same for going back where the shard came from.
    pub return_bar_ppm: u32,
    /// Windows for which going back has the raised bar.
    pub return_windows: u64,
}

impl HostView {
    /// Whether new replicas and homes may be placed here.
    pub fn accepts(&self) -> bool {
        self.state == HostState::Up && self.admission == Admission::Open
    }

    /// Whether it is to give away what it has.
    pub fn drains(&self) -> bool {
        self.state == HostState::Up && self.admission.leaves()
    }
}

impl ShardView {
    /// The voters, in order of replica id.
    pub fn voters(&self) -> impl Iterator<Item = (ReplicaId, HostId)> + '_ {
        self.replicas
            .iter()
            .filter(|(_, r)| r.role == Role::Voter)
            .map(|(id, r)| (*id, r.host))
    }

    /// The host that leads, if known.
    pub fn home_host(&self) -> Option<HostId> {
        self.home
            .and_then(|id| self.replicas.get(&id))
            .map(|replica| replica.host)
    }
}

impl PlacementView {
    /// Reads the view off the placement state. `bytes` is the size of one replica of each shard; a shard that is not
    /// in it counts as empty. The placement group is left out.
    pub fn of<'m>(
        hosts: &BTreeMap<HostId, Host>,
        shards: &BTreeMap<ShardId, Shard>,
        migrations: impl IntoIterator<Item = &'m Migration>,
        bytes: &BTreeMap<ShardId, u64>,
    ) -> Self {
        let mut view = Self {
            hosts: hosts
                .iter()
                .map(|(id, host)| (*id, HostView::from(host)))
                .collect(),
            shards: shards
                .iter()
                .filter(|(id, _)| !id.is_placement())
                .map(|(id, shard)| (*id, ShardView::sized(shard, bytes.get(id).copied().unwrap_or(0))))
                .collect(),
        };
        migrations.into_iter().for_each(|migration| view.count(migration));
        view
    }

    fn count(&mut self, migration: &Migration) {
        let incoming = migration.dst.filter(|_| migration.occupies_in());
        if let Some(host) = incoming.and_then(|placed| self.hosts.get_mut(&placed.host)) {
            host.moves_in += 1;
        }
        let outgoing = migration.src.filter(|_| migration.occupies_out());
        if let Some(host) = outgoing.and_then(|placed| self.hosts.get_mut(&placed.host)) {
            host.moves_out += 1;
        }
    }
}

impl From<&Host> for HostView {
    fn from(host: &Host) -> Self {
        Self {
            zone: host.zone.clone(),
            region: host.region.clone(),
            capacity_bytes: host.capacity_bytes,
            state: host.state,
            admission: host.admission,
            moves_in: 0,
            moves_out: 0,
        }
    }
}

impl ShardView {
    fn sized(shard: &Shard, bytes: u64) -> Self {
        let replicas = shard.replicas.iter();
        Self {
            epoch: shard.epoch,
            replicas: replicas
                .map(|(id, r)| {
                    (
                        *id,
                        ReplicaView {
                            host: r.host,
                            role: r.role,
                        },
                    )
                })
                .collect(),
            home: shard.route_home(),
            bytes,
            busy: shard.active.is_some() || !shard.ready,
            moved_window: shard.moved_window,
            home_window: shard.home_window,
        }
    }
}

impl PlanCosts {
    /// What moving one replica of `bytes` costs, in microseconds, without a transfer of the home.
    pub fn replica_micros(&self, bytes: u64) -> u64 {
        let copy_micros = match self.copy_bytes_per_s {
            0 => 0,
            rate => u128::from(bytes) * u128::from(PPM) / u128::from(rate),
        };
        let weighted = copy_micros * u128::from(self.copy_weight_ppm) / u128::from(PPM);
        u64::try_from(weighted)
            .unwrap_or(u64::MAX)
            .saturating_add(self.replica_move_micros)
    }
}

impl Default for PlanCosts {
    fn default() -> Self {
        Self {
            home_move_micros: 1_000,
            replica_move_micros: 100_000,
            copy_bytes_per_s: 16 << 20,
            copy_weight_ppm: PPM / 10,
        }
    }
}

impl Default for SkiRental {
    fn default() -> Self {
        Self {
            bar_ppm: PPM,
            return_bar_ppm: 3 * PPM,
            return_windows: 24,
        }
    }
}

impl Default for PlanOptions {
    fn default() -> Self {
        Self {
            mode: Mode::HomesAndReplicas,
            objective: Objective::ExpectedRtt,
            hysteresis: Hysteresis::SkiRental(SkiRental::default()),
            lease_reads_ppm: 0,
            follow_ppm: 0,
            horizon_windows: 24,
            fair_share_max_ppm: Some(2 * PPM),
            home_moves_max: u32::MAX,
            replica_moves_max: u32::MAX,
        }
    }
}
