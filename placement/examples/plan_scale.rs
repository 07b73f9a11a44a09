//! How long one plan takes: 10,000 shards on 50 hosts, three voters each, in both modes.
//!
//! `cargo run --release -p placement --example plan_scale [SHARDS] [HOSTS] [ZONES] [WINDOWS]`. The world is drawn from a
//! fixed seed. Each window draws new forecasts around a slowly turning favourite zone, the plan is made and its home
//! moves take effect, so the memory is as full as it gets. Times are wall-clock and belong to the example alone.

use std::collections::BTreeMap;
use std::error::Error;
use std::time::Duration;

use placement::planner::{
    Forecast, HostView, Hysteresis, Mode, MoveKind, OriginShares, PPM, PlacementView, Plan, PlanCosts,
    PlanInput, PlanMemory, PlanOptions, ReplicaView, RttMatrix, ShardForecast, ShardView, SkiRental, plan,
};
use placement::{
    Admission, Epoch, HostId, HostState, Limits, Region, ReplicaId, Role, Rules, ShardId, WindowId, Zone,
};

#[allow(
    clippy::disallowed_methods,
    reason = "an example measures itself; the planner sees no clock"
)]
fn timed<T>(work: impl FnOnce() -> T) -> (T, Duration) {
    let start = std::time::Instant::now();
    let done = work();
    (done, start.elapsed())
}

/// SplitMix64.
struct Draw(u64);

impl Draw {
    fn below(&mut self, bound: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (mixed ^ (mixed >> 31)) % bound
    }
}

/// How large a world to plan.
#[derive(Clone, Copy)]
struct Size {
    shards: u64,
    hosts: u64,
    zones: u64,
    windows: u64,
}

fn main() -> Result<(), Box<dyn Error>> {
    let numbers = std::env::args()
        .skip(1)
        .map(|arg| arg.parse())
        .collect::<Result<Vec<u64>, _>>()?;
    let or = |position: usize, default| numbers.get(position).copied().unwrap_or(default);
    let size = Size {
        shards: or(0, 10_000),
        hosts: or(1, 50),
        zones: or(2, 50),
        windows: or(3, 5),
    };
    println!(
        "{} shards, {} hosts in {} zones",
        size.shards, size.hosts, size.zones
    );
    for mode in [Mode::Homes, Mode::HomesAndReplicas] {
        for hysteresis in [Hysteresis::None, Hysteresis::SkiRental(SkiRental::default())] {
            replay(size, mode, hysteresis);
        }
    }
    Ok(())
}

fn replay(size: Size, mode: Mode, hysteresis: Hysteresis) {
    let mut draw = Draw(42);
    let rtt = distances(&mut draw, size);
    let mut placement = placement_of(&mut draw, size);
    let options = PlanOptions {
        mode,
        hysteresis,
        ..PlanOptions::default()
    };
    let mut memory = PlanMemory::default();
    for window in 1..=size.windows {
        let forecast = forecast(&mut draw, size, window);
        let input = PlanInput {
            placement: &placement,
            forecast: &forecast,
            replica_forecast: None,
            rtt: &rtt,
            rules: &Rules::default(),
            limits: &Limits::default(),
            costs: &PlanCosts::default(),
            options: &options,
        };
        let (plan, took) = timed(|| plan(&input, &memory));
        report(mode, hysteresis, &plan, took);
        carry_out(&mut placement, &plan);
        memory = plan.memory;
    }
}

fn report(mode: Mode, hysteresis: Hysteresis, plan: &Plan, took: Duration) {
    let homes = plan
        .proposals
        .iter()
        .filter(|planned| matches!(planned.kind, MoveKind::Home { .. }))
        .count();
    let rule = if hysteresis == Hysteresis::None {
        "no hysteresis"
    } else {
        "ski rental"
    };
    println!(
        "{mode:?}, {rule}, {}: {} ms; {homes} homes, {} replicas, {} blocked; {} -> {} ms of latency",
        plan.window,
        took.as_millis(),
        plan.proposals.len() - homes,
        plan.blocked.len(),
        plan.expected_cost_before_micros / 1_000,
        plan.expected_cost_after_micros / 1_000
    );
}

fn carry_out(placement: &mut PlacementView, plan: &Plan) {
    for planned in &plan.proposals {
        if let (MoveKind::Home { to }, Some(shard)) = (planned.kind, placement.shards.get_mut(&planned.shard))
        {
            shard.home = Some(to);
        }
    }
}

fn zone(number: u64) -> Zone {
    Zone(format!("z{number:03}"))
}

fn distances(draw: &mut Draw, size: Size) -> RttMatrix {
    let places: Vec<(u64, u64)> = (0..size.zones)
        .map(|_| (draw.below(10_000), draw.below(10_000)))
        .collect();
    let far = |one: usize, other: usize| {
        let (a, b) = (places[one], places[other]);
        let micros = 500 + 10 * (a.0.abs_diff(b.0) + a.1.abs_diff(b.1));
        u32::try_from(micros).unwrap_or(u32::MAX)
    };
    let numbered = (0..size.zones).zip(0usize..);
    let pairs = numbered
        .clone()
        .flat_map(|from| numbered.clone().map(move |to| (from, to)));
    pairs
        .map(|((from, one), (to, other))| (zone(from), zone(to), far(one, other)))
        .collect()
}

fn placement_of(draw: &mut Draw, size: Size) -> PlacementView {
    let host = |number| HostView {
        zone: zone(number % size.zones),
        region: Region::default(),
        capacity_bytes: u64::MAX,
        state: HostState::Up,
        admission: Admission::Open,
        moves_in: 0,
        moves_out: 0,
    };
    PlacementView {
        hosts: (0..size.hosts)
            .map(|number| (HostId(number + 1), host(number)))
            .collect(),
        shards: (1..=size.shards)
            .map(|id| (ShardId(id), shard(draw, size, id)))
            .collect(),
    }
}

fn shard(draw: &mut Draw, size: Size, id: u64) -> ShardView {
    let first = draw.below(size.hosts);
    let voter = |number: u64| {
        let host = HostId((first + number * (size.hosts / 3).max(1)) % size.hosts + 1);
        (
            ReplicaId(id * 10 + number),
            ReplicaView {
                host,
                role: Role::Voter,
            },
        )
    };
    ShardView {
        epoch: Epoch::default(),
        replicas: (0..3).map(voter).collect(),
        home: Some(ReplicaId(id * 10 + draw.below(3))),
        bytes: 1 << (20 + draw.below(8)),
        busy: false,
        moved_window: None,
        home_window: None,
    }
}

fn forecast(draw: &mut Draw, size: Size, window: u64) -> Forecast {
    let shard = |draw: &mut Draw, id: u64| {
        let favourite = (id + window / 2) % size.zones;
        ShardForecast {
            reads_milli: draw.below(20_000),
            writes_milli: draw.below(5_000),
            shares: shares(draw, size, favourite),
            uncertainty_ppm: u32::try_from(draw.below(100_000)).unwrap_or(0),
        }
    };
    Forecast {
        window: WindowId(window),
        model: "drawn".to_owned(),
        shards: (1..=size.shards)
            .map(|id| (ShardId(id), shard(draw, id)))
            .collect(),
    }
}

/// Half of the accesses from the favourite, the rest from all over.
fn shares(draw: &mut Draw, size: Size, favourite: u64) -> OriginShares {
    let weights: Vec<u64> = (0..size.zones).map(|_| 1 + draw.below(100)).collect();
    let total: u64 = weights.iter().sum();
    let part = |weight: u64| u32::try_from(weight * u64::from(PPM / 2) / total).unwrap_or(0);
    let mut shares: BTreeMap<Zone, u32> = (0..)
        .zip(&weights)
        .map(|(number, weight)| (zone(number), part(*weight)))
        .collect();
    let sum: u32 = shares.values().sum();
    *shares.entry(zone(favourite)).or_insert(0) += PPM - sum;
    shares.into_iter().collect()
}
