//! One policy, played over the scored windows of a trace.

use std::collections::{BTreeMap, BTreeSet};

use ml::{Forecaster, WindowCounts};
use placement::planner::{
    Counted, MoveKind, PlacementView, Plan, PlanCosts, PlanInput, PlanMemory, PlanOptions, PlannedMove,
    ReplicaView, RttMatrix, plan,
};
use placement::{
    Bootstrap, Command, HostId, Limits, NewHost, Partition, Placement, Region, ReplicaId, Role, Rules,
    ShardId, WindowId, Zone,
};

use super::hosts::Site;
use super::score::Score;
use super::trace::Played;

/// What all policies are played under.
pub(crate) struct Settings<'a> {
    /// The hosts.
    pub(crate) sites: &'a [Site],
    /// Round trips between all zones.
    pub(crate) rtt: &'a RttMatrix,
    /// What replica sets must look like.
    pub(crate) rules: Rules,
    /// How much may move, and how often.
    pub(crate) limits: Limits,
    /// What moves are taken to cost.
    pub(crate) costs: PlanCosts,
    /// The share of reads by lease, in parts per million.
    pub(crate) lease_reads_ppm: u32,
}

/// A policy: what forecasts, and how it plans; `None`: nothing ever moves.
pub(crate) struct Player {
    /// Its name.
    pub(crate) name: String,
    /// Its forecaster and the planner's options.
    pub(crate) plans: Option<(Box<dyn Forecaster + Send + Sync>, PlanOptions)>,
}

/// Plays a policy. `Err`: no cluster can be made of these hosts.
pub(crate) fn play(mut player: Player, played: &Played, settings: &Settings<'_>) -> Result<Score, String> {
    let mut world = World::new(played, settings)?;
    let mut memory = PlanMemory::default();
    for (at, window) in played.windows.iter().enumerate() {
        if at >= played.from {
            if let Some((forecaster, options)) = &player.plans {
                let planned = world.plan(forecaster.as_ref(), options, &memory, window.window);
                world.make(&planned, window.window);
                memory = planned.memory;
            }
            world.serve(window);
        }
        if let Some((forecaster, _)) = &mut player.plans {
            forecaster.observe(window);
        }
    }
    Ok(world.score)
}

struct World<'a> {
    settings: &'a Settings<'a>,
    view: PlacementView,
    zones: BTreeMap<HostId, Zone>,
    replicas_made: u64,
    score: Score,
}

impl<'a> World<'a> {
    fn new(played: &Played, settings: &'a Settings<'a>) -> Result<Self, String> {
        let state = birth(played, settings)?;
        let migrations = state.active_migrations();
        let mut view = PlacementView::of(state.hosts(), state.shards(), migrations, &played.bytes);
        for shard in view.shards.values_mut() {
            // Their groups begin at once where nothing is real.
            shard.busy = false;
        }
        let replicas = view.shards.values().flat_map(|shard| shard.replicas.keys());
        let replicas_made = replicas.map(|replica| replica.0).max().unwrap_or(0);
        Ok(Self {
            settings,
            zones: view
                .hosts
                .iter()
                .map(|(id, host)| (*id, host.zone.clone()))
                .collect(),
            view,
            replicas_made,
            score: Score::default(),
        })
    }

    fn plan(
        &self,
        forecaster: &(dyn Forecaster + Send + Sync),
        options: &PlanOptions,
        memory: &PlanMemory,
        window: WindowId,
    ) -> Plan {
        let forecast = forecaster.forecast(window);
        let input = PlanInput {
            placement: &self.view,
            forecast: &forecast,
            replica_forecast: None,
            rtt: self.settings.rtt,
            rules: &self.settings.rules,
            limits: &self.settings.limits,
            costs: &self.settings.costs,
            options,
        };
        plan(&input, memory)
    }

    fn make(&mut self, plan: &Plan, window: WindowId) {
        for planned in &plan.proposals {
            match planned.kind {
                MoveKind::Home { to } => self.move_home(planned.shard, to, window),
                MoveKind::Replica { from, take_home } => self.move_replica(planned, from, take_home, window),
            }
        }
    }

    fn move_home(&mut self, shard: ShardId, to: ReplicaId, window: WindowId) {
        if let Some(shard) = self.view.shards.get_mut(&shard) {
            shard.home = Some(to);
            shard.home_window = Some(window);
            self.score.home_moves += 1;
        }
    }

    fn move_replica(&mut self, planned: &PlannedMove, from: ReplicaId, take_home: bool, window: WindowId) {
        self.replicas_made += 1;
        let made = ReplicaId(self.replicas_made);
        let Some(shard) = self.view.shards.get_mut(&planned.shard) else {
            return;
        };
        shard.replicas.remove(&from);
        let voter = ReplicaView {
            host: planned.to,
            role: Role::Voter,
        };
        shard.replicas.insert(made, voter);
        shard.epoch.conf_ver += 1;
        shard.moved_window = Some(window);
        self.score.replica_moves += 1;
        self.score.bytes_moved += shard.bytes;
        if take_home {
            self.move_home(planned.shard, made, window);
        } else if shard.home == Some(from) {
            let first = shard.replicas.keys().next().copied();
            shard.home = first;
            self.score.home_moves += 1;
        }
    }

    /// Serves a window's accesses, and looks for what should not be.
    fn serve(&mut self, window: &WindowCounts) {
        for (id, origins) in &window.shards {
            let Some(shard) = self.view.shards.get(id) else {
                continue;
            };
            let Some(home) = shard.home_host().and_then(|host| self.zones.get(&host)) else {
                continue;
            };
            let voters: Vec<&Zone> = shard
                .voters()
                .filter_map(|(_, host)| self.zones.get(&host))
                .collect();
            for (origin, count) in origins {
                let cost = |reads: u64, writes: u64| {
                    let one = Counted {
                        reads,
                        writes,
                        origins: [(origin.clone(), reads + writes)].into(),
                    };
                    one.latency_micros(self.settings.rtt, home, &voters, 0)
                };
                let lease = by_lease(count.reads, self.settings.lease_reads_ppm);
                let near = u64::from(self.settings.rtt.micros(origin, home));
                self.score.serve(lease, near, origin == home);
                let rounds = count.accesses() - lease;
                self.score.serve(rounds, cost(0, 1), origin == home);
            }
        }
        self.look();
    }

    fn look(&mut self) {
        let mut stored: BTreeMap<HostId, u64> = BTreeMap::new();
        let zones: BTreeSet<&Zone> = self.zones.values().collect();
        for shard in self.view.shards.values() {
            for replica in shard.replicas.values() {
                *stored.entry(replica.host).or_default() += shard.bytes;
            }
            let voters: Vec<HostId> = shard.voters().map(|(_, host)| host).collect();
            let apart: BTreeSet<&Zone> = voters.iter().filter_map(|host| self.zones.get(host)).collect();
            let wanted = voters.len().min(zones.len());
            self.score.crowded += u64::from(apart.len() < wanted);
        }
        let over = self.view.hosts.iter().filter(|(id, host)| {
            let held = stored.get(id).copied().unwrap_or(0);
            held > host.capacity_bytes
        });
        self.score.over_capacity += over.count() as u64;
    }
}

fn by_lease(reads: u64, ppm: u32) -> u64 {
    let lease = u128::from(reads) * u128::from(ppm.min(1_000_000)) / 1_000_000;
    u64::try_from(lease).unwrap_or(reads)
}

/// A new cluster of these hosts, as the placement state machine places it.
fn birth(played: &Played, settings: &Settings<'_>) -> Result<Placement, String> {
    let host = |(number, site): (usize, &Site)| NewHost {
        address: format!("{}:{}", site.host, number + 1),
        zone: Zone(site.zone.clone()),
        region: Region(site.region.clone()),
        capacity_bytes: site.capacity_bytes,
        token: format!("simulated-{number}"),
    };
    let mut hosts = settings.sites.iter().enumerate().map(host);
    let first = hosts.next().ok_or("there are no hosts")?;
    let splits = played.ranges.splits().to_vec();
    let begin = Command::Bootstrap(Bootstrap {
        cluster_id: "simulated".to_owned(),
        host: first,
        rules: settings.rules.clone(),
        limits: settings.limits.clone(),
        partition: match splits.is_empty() {
            true => Partition::Count(1),
            false => Partition::SplitAt(splits),
        },
        hosts_before_create: u32::try_from(settings.sites.len()).unwrap_or(u32::MAX),
        now_ms: 1,
    });
    let joins = hosts.map(|host| Command::JoinHost {
        host_id: HostId(0),
        host,
        now_ms: 1,
    });
    let mut state = Placement::default();
    for (index, command) in (1..).zip(std::iter::once(begin).chain(joins)) {
        let made = state.apply(index, command).into_result();
        made.map_err(|refusal| refusal.to_string())?;
    }
    Ok(state)
}

#[cfg(test)]
mod tests {
    use ml::{Ewma, KeyRanges, RuleForecaster, WindowLength};
    use placement::planner::{Hysteresis, Mode};

    use super::*;

    const SHARD: ShardId = ShardId(1);

    fn sites() -> Vec<Site> {
        let site = |zone: &str| Site {
            host: format!("h-{zone}"),
            zone: zone.to_owned(),
            region: "r".to_owned(),
            lat: 0.0,
            lon: 0.0,
            capacity_bytes: 1_000,
        };
        ["a", "b", "c"].map(site).to_vec()
    }

    fn rtt() -> RttMatrix {
        let mut rtt = RttMatrix::default();
        for zone in ["a", "b", "c"] {
            rtt.insert(Zone::from(zone), Zone::from(zone), 500);
        }
        for (one, other) in [("a", "b"), ("a", "c"), ("b", "c")] {
            rtt.insert_both(Zone::from(one), Zone::from(other), 10_000);
        }
        rtt
    }

    /// Twenty windows with a hundred reads each, all from one zone.
    fn played(zone: &str, bytes: u64) -> Played {
        let window = |at| {
            let mut counts = WindowCounts::empty(WindowId(at));
            counts.count(SHARD, &Zone::from(zone), 100, 0);
            counts
        };
        Played {
            ranges: KeyRanges::default(),
            windows: (0..20).map(window).collect(),
            from: 10,
            length: WindowLength::HOUR,
            bytes: [(SHARD, bytes)].into(),
            unplaced: 0,
        }
    }

    fn settings<'a>(sites: &'a [Site], rtt: &'a RttMatrix) -> Settings<'a> {
        Settings {
            sites,
            rtt,
            rules: Rules::default(),
            limits: Limits::default(),
            costs: PlanCosts::default(),
            lease_reads_ppm: 1_000_000,
        }
    }

    fn player(zones: &[Zone]) -> Player {
        let options = PlanOptions {
            mode: Mode::Homes,
            hysteresis: Hysteresis::None,
            lease_reads_ppm: 1_000_000,
            fair_share_max_ppm: None,
            ..PlanOptions::default()
        };
        let forecaster = RuleForecaster::new("ewma", zones, Ewma::new(0.5));
        Player {
            name: "ewma".to_owned(),
            plans: Some((Box::new(forecaster), options)),
        }
    }

    #[test]
    fn a_home_follows_its_accesses_and_one_that_is_static_does_not() {
        let (sites, rtt) = (sites(), rtt());
        let zones = ["a", "b", "c"].map(Zone::from);
        for zone in &zones {
            let played = played(&zone.0, 10);
            let still = Player {
                name: "static".to_owned(),
                plans: None,
            };
            let still = play(still, &played, &settings(&sites, &rtt)).unwrap();
            let moving = play(player(&zones), &played, &settings(&sites, &rtt)).unwrap();
            assert_eq!((still.accesses, moving.accesses), (1_000, 1_000));
            assert_eq!((moving.local, moving.p99_micros()), (1_000, 500));
            let born_there = still.local == 1_000;
            assert_eq!(moving.home_moves, u64::from(!born_there));
            assert!(born_there || (still.local == 0 && still.p99_micros() == 10_000));
            assert_eq!((moving.violations(), moving.bytes_moved), (0, 0));
        }
    }

    #[test]
    fn a_host_that_holds_too_much_is_a_violation_in_each_window() {
        let (sites, rtt) = (sites(), rtt());
        let still = Player {
            name: "static".to_owned(),
            plans: None,
        };
        let score = play(still, &played("a", 1_001), &settings(&sites, &rtt)).unwrap();
        assert_eq!(
            (score.over_capacity, score.crowded),
            (30, 0),
            "three hosts, ten windows"
        );
    }

    #[test]
    fn what_is_not_by_lease_waits_for_a_majority() {
        let (sites, rtt) = (sites(), rtt());
        let zones = ["a", "b", "c"].map(Zone::from);
        let settings = Settings {
            lease_reads_ppm: 0,
            ..settings(&sites, &rtt)
        };
        let score = play(player(&zones), &played("b", 10), &settings).unwrap();
        assert_eq!(score.p99_micros(), 500 + 10_000);
    }
}
