//! A small world to plan in: hosts, shards and distances that a test lays out, and moves that take effect at once.
//!
//! Costs are computed here a second time, straight from their definition, so that the planner is not its own judge.

use std::collections::{BTreeMap, BTreeSet};

use placement::planner::{
    Forecast, HostView, MoveKind, PPM, PlacementView, Plan, PlanCosts, PlanInput, PlanMemory, PlanOptions,
    PlannedMove, ReplicaView, RttMatrix, ShardForecast, ShardView, plan,
};
use placement::{
    Admission, Epoch, HostId, HostState, Limits, Region, ReplicaId, Role, Rules, ShardId, WindowId, Zone,
};

/// Everything a plan depends on, owned.
#[derive(Clone, Debug, Default)]
pub(crate) struct World {
    pub(crate) placement: PlacementView,
    pub(crate) forecast: Forecast,
    pub(crate) rtt: RttMatrix,
    pub(crate) rules: Rules,
    pub(crate) limits: Limits,
    pub(crate) costs: PlanCosts,
    pub(crate) options: PlanOptions,
    replicas_made: u64,
}

/// The zone called `name`.
pub(crate) fn zone(name: &str) -> Zone {
    Zone(name.to_owned())
}

impl World {
    /// A world with nothing in it, in which nothing but distance counts.
    pub(crate) fn new() -> Self {
        let mut world = Self::default();
        world.forecast.model = "test-1".to_owned();
        world.options.fair_share_max_ppm = None;
        world.limits.move_dwell_windows = 0;
        world.limits.home_dwell_windows = 0;
        (world.limits.moves_in_max, world.limits.moves_out_max) = (1_000, 1_000);
        world
    }

    pub(crate) fn add_host(&mut self, id: u64, zone_name: &str) {
        let host = HostView {
            zone: zone(zone_name),
            region: Region::default(),
            capacity_bytes: u64::MAX,
            state: HostState::Up,
            admission: Admission::Open,
            moves_in: 0,
            moves_out: 0,
        };
        self.placement.hosts.insert(HostId(id), host);
    }

    pub(crate) fn host(&mut self, id: u64) -> &mut HostView {
        self.placement.hosts.get_mut(&HostId(id)).unwrap()
    }

    /// Adds a shard with a voter on each host, led by the first.
    pub(crate) fn add_shard(&mut self, id: u64, hosts: &[u64], bytes: u64) {
        let replicas: BTreeMap<_, _> = hosts
            .iter()
            .map(|host| (self.fresh(), voter(HostId(*host))))
            .collect();
        let home = replicas.keys().next().copied();
        let epoch = Epoch {
            generation: 1,
            conf_ver: id,
        };
        let (busy, moved_window, home_window) = (false, None, None);
        let shard = ShardView {
            epoch,
            replicas,
            home,
            bytes,
            busy,
            moved_window,
            home_window,
        };
        self.placement.shards.insert(ShardId(id), shard);
    }

    pub(crate) fn shard(&mut self, id: u64) -> &mut ShardView {
        self.placement.shards.get_mut(&ShardId(id)).unwrap()
    }

    pub(crate) fn home(&self, id: u64) -> u64 {
        self.placement.shards[&ShardId(id)].home_host().unwrap().0
    }

    pub(crate) fn voters(&self, id: u64) -> BTreeSet<u64> {
        self.placement.shards[&ShardId(id)]
            .voters()
            .map(|(_, host)| host.0)
            .collect()
    }

    /// Forecasts `reads` and `writes` of a shard, with shares in parts per million.
    pub(crate) fn expect(&mut self, id: u64, reads: u64, writes: u64, shares: &[(&str, u32)]) {
        let shares = shares.iter().map(|(name, share)| (zone(name), *share)).collect();
        let (reads_milli, writes_milli) = (reads * 1_000, writes * 1_000);
        let forecast = ShardForecast {
            reads_milli,
            writes_milli,
            shares,
            uncertainty_ppm: 0,
        };
        self.forecast.shards.insert(ShardId(id), forecast);
    }

    pub(crate) fn input(&self) -> PlanInput<'_> {
        PlanInput {
            placement: &self.placement,
            forecast: &self.forecast,
            replica_forecast: None,
            rtt: &self.rtt,
            rules: &self.rules,
            limits: &self.limits,
            costs: &self.costs,
            options: &self.options,
        }
    }

    pub(crate) fn plan(&self, memory: &PlanMemory) -> Plan {
        self.forecast.validate().unwrap();
        plan(&self.input(), memory)
    }

    /// Plans the next window, carries the plan out and returns it; the memory is kept in `memory`.
    pub(crate) fn step(&mut self, memory: &mut PlanMemory) -> Plan {
        self.forecast.window = WindowId(self.forecast.window.0 + 1);
        let plan = self.plan(memory);
        *memory = plan.memory.clone();
        self.apply(&plan);
        plan
    }

    pub(crate) fn apply(&mut self, plan: &Plan) {
        for planned in &plan.proposals {
            self.make(planned, plan.window);
        }
    }

    fn make(&mut self, planned: &PlannedMove, window: WindowId) {
        let fresh = self.fresh();
        let shard = self.placement.shards.get_mut(&planned.shard).unwrap();
        assert_eq!(shard.epoch, planned.basis);
        assert!(!shard.busy);
        match planned.kind {
            MoveKind::Home { to } => {
                assert_eq!(shard.replicas[&to], voter(planned.to));
                (shard.home, shard.home_window) = (Some(to), Some(window));
            }
            MoveKind::Replica { from, take_home } => {
                assert_eq!(shard.replicas.remove(&from), Some(voter(planned.from)));
                let stays = shard.replicas.keys().next().copied();
                if take_home {
                    shard.home = Some(fresh);
                } else if shard.home == Some(from) {
                    shard.home = stays.or(Some(fresh));
                }
                shard.replicas.insert(fresh, voter(planned.to));
                shard.moved_window = Some(window);
                shard.epoch.conf_ver += 1;
            }
        }
    }

    fn fresh(&mut self) -> ReplicaId {
        self.replicas_made += 1;
        ReplicaId(self.replicas_made)
    }

    /// The latency of a shard's accesses in nanoseconds: each pays the way to the home, and those that need one pay
    /// the fastest round that reaches a majority, found by trying every majority.
    pub(crate) fn cost_nanos(&self, id: u64, home: u64, voters: &BTreeSet<u64>) -> i128 {
        let Some(forecast) = self.forecast.shards.get(&ShardId(id)) else {
            return 0;
        };
        let far = |from: u64, to: u64| {
            let zone = |id: u64| &self.placement.hosts[&HostId(id)].zone;
            self.rtt.micros(zone(from), zone(to))
        };
        let home_zone = &self.placement.hosts[&HostId(home)].zone;
        let way = |(origin, share): (&Zone, u32)| {
            i128::from(self.rtt.micros(origin, home_zone)) * i128::from(share)
        };
        let ways: i128 = forecast.shares.iter().map(way).sum();
        let listed: Vec<u64> = voters.iter().copied().collect();
        let majorities = (0u32..1 << listed.len()).filter(|set| set.count_ones() as usize > listed.len() / 2);
        let members = |set: u32| {
            listed
                .iter()
                .enumerate()
                .filter(move |(bit, _)| set >> bit & 1 == 1)
                .map(|(_, id)| *id)
        };
        let with_home = majorities.filter(|set| members(*set).any(|id| id == home));
        let slowest = |set: u32| {
            members(set)
                .filter(|id| *id != home)
                .map(|id| far(home, id))
                .max()
                .unwrap_or(0)
        };
        let round = with_home.map(slowest).min().unwrap_or(0);
        let lease = forecast.reads_milli * u64::from(self.options.lease_reads_ppm) / u64::from(PPM);
        ways * i128::from(forecast.accesses_milli()) / i128::from(PPM)
            + i128::from(forecast.accesses_milli() - lease) * i128::from(round)
    }

    /// The latency of all shards' accesses as they are placed now, in nanoseconds.
    pub(crate) fn total_nanos(&self) -> i128 {
        let ids = self.placement.shards.keys();
        ids.map(|id| self.cost_nanos(id.0, self.home(id.0), &self.voters(id.0)))
            .sum()
    }

    /// Accesses that each host serves, in thousandths.
    pub(crate) fn served_milli(&self) -> BTreeMap<HostId, u64> {
        let mut served: BTreeMap<HostId, u64> = self.placement.hosts.keys().map(|id| (*id, 0)).collect();
        for (id, shard) in &self.placement.shards {
            let accesses = self
                .forecast
                .shards
                .get(id)
                .map_or(0, ShardForecast::accesses_milli);
            *served.get_mut(&shard.home_host().unwrap()).unwrap() += accesses;
        }
        served
    }

    /// Bytes that each host stores.
    pub(crate) fn stored(&self) -> BTreeMap<HostId, u64> {
        let mut stored: BTreeMap<HostId, u64> = self.placement.hosts.keys().map(|id| (*id, 0)).collect();
        for shard in self.placement.shards.values() {
            shard
                .replicas
                .values()
                .for_each(|replica| *stored.get_mut(&replica.host).unwrap() += shard.bytes);
        }
        stored
    }

    /// Pairs of a shard's voters that share a zone.
    pub(crate) fn pairs_together(&self, voters: &BTreeSet<u64>) -> usize {
        let zones: Vec<&Zone> = voters
            .iter()
            .map(|id| &self.placement.hosts[&HostId(*id)].zone)
            .collect();
        (0..zones.len())
            .map(|at| {
                zones[at + 1..]
                    .iter()
                    .filter(|other| **other == zones[at])
                    .count()
            })
            .sum()
    }
}

fn voter(host: HostId) -> ReplicaView {
    ReplicaView {
        host,
        role: Role::Voter,
    }
}

/// A small generator for tests that lay out many worlds from one seed (SplitMix64).
pub(crate) struct Draw(pub(crate) u64);

impl Draw {
    pub(crate) fn below(&mut self, bound: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (mixed ^ (mixed >> 31)) % bound
    }

    /// `count` different numbers below `bound`.
    pub(crate) fn distinct(&mut self, count: usize, bound: u64) -> Vec<u64> {
        let mut drawn = Vec::new();
        while drawn.len() < count {
            let number = self.below(bound);
            if !drawn.contains(&number) {
                drawn.push(number);
            }
        }
        drawn
    }
}

/// How to draw a world.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Shape {
    pub(crate) hosts: u64,
    pub(crate) zones: u64,
    pub(crate) shards: u64,
    pub(crate) voters: usize,
}

/// A world drawn from a seed: asymmetric distances, uneven forecasts, homes anywhere.
pub(crate) fn drawn(seed: u64, shape: Shape) -> World {
    let mut draw = Draw(seed);
    let mut world = World::new();
    let names: Vec<String> = (0..shape.zones).map(|number| format!("z{number}")).collect();
    for from in &names {
        for to in &names {
            let micros = if from == to {
                500
            } else {
                1_000 + draw.below(100_000)
            };
            world
                .rtt
                .insert(zone(from), zone(to), u32::try_from(micros).unwrap());
        }
    }
    for id in 1..=shape.hosts {
        world.add_host(id, &names[usize::try_from((id - 1) % shape.zones).unwrap()]);
    }
    for id in 1..=shape.shards {
        let hosts: Vec<u64> = draw
            .distinct(shape.voters, shape.hosts)
            .iter()
            .map(|host| host + 1)
            .collect();
        world.add_shard(id, &hosts, draw.below(1 << 20));
        let shares = drawn_shares(&mut draw, &names);
        let shares: Vec<(&str, u32)> = shares
            .iter()
            .map(|(name, share)| (name.as_str(), *share))
            .collect();
        world.expect(id, draw.below(50), draw.below(50), &shares);
    }
    world.rules.replication_factor = u32::try_from(shape.voters).unwrap();
    world
}

fn drawn_shares(draw: &mut Draw, names: &[String]) -> Vec<(String, u32)> {
    let mut left = u64::from(PPM);
    let mut shares: Vec<(String, u32)> = Vec::new();
    for name in names {
        let part = draw.below(left + 1);
        shares.push((name.clone(), u32::try_from(part).unwrap()));
        left -= part;
    }
    shares[0].1 += u32::try_from(left).unwrap();
    shares
}
