//! Parts of placement: an entry of the placement log, a plan, a forecast.
//!
//! `cargo bench -p bench --bench placement`.

use std::collections::BTreeMap;
use std::hint::black_box;

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use ml::{Forecaster, HostAffinityModel, Touch, TrainConfig, WindowCounts, WindowLength, digest, train};
use placement::planner::{
    Forecast, HostView, PPM, PlacementView, PlanCosts, PlanInput, PlanMemory, PlanOptions, ReplicaView,
    RttMatrix, ShardForecast, ShardView, plan,
};
use placement::{
    Admission, Bootstrap, Command, Epoch, HostId, HostState, Limits, NewHost, Partition, Placement, Region,
    ReplicaId, Role, Rules, ShardId, WindowId, Zone,
};
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;

const SEED: u64 = 1;

fn zone(number: u64) -> Zone {
    Zone(format!("z{number:02}"))
}

fn new_host(number: u64) -> NewHost {
    NewHost {
        address: format!("host-{number}:1"),
        zone: zone(number),
        region: Region("r".to_owned()),
        capacity_bytes: 1 << 40,
        token: format!("token-{number}"),
    }
}

/// Three hosts with so many shards.
fn placement_of(shards: u32) -> Placement {
    let mut placement = Placement::default();
    let bootstrap = Command::Bootstrap(Bootstrap {
        cluster_id: "bench".to_owned(),
        host: new_host(1),
        rules: Rules::default(),
        limits: Limits::default(),
        partition: Partition::Count(shards),
        hosts_before_create: 3,
        now_ms: 1,
    });
    let joins = (2..=3).map(|number| Command::JoinHost {
        host_id: HostId(0),
        host: new_host(number),
        now_ms: 1,
    });
    for (index, command) in (1..).zip(std::iter::once(bootstrap).chain(joins)) {
        placement
            .apply(index, command)
            .into_result()
            .expect("it is accepted");
    }
    placement
}

/// One entry: another replica leads a shard.
fn apply(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("placement_apply");
    for shards in [16, 1_024] {
        let mut placement = placement_of(shards);
        let leaders: Vec<(ShardId, ReplicaId)> = placement
            .shards()
            .iter()
            .filter_map(|(shard, known)| Some((*shard, *known.replicas.keys().next()?)))
            .collect();
        assert_eq!(leaders.len(), shards as usize);
        let mut index = 10;
        group.bench_function(BenchmarkId::new("observe_home", shards), |bencher| {
            bencher.iter(|| {
                index += 1;
                let (shard, replica) = leaders[index as usize % leaders.len()];
                placement.apply(
                    index,
                    Command::ObserveHome {
                        shard,
                        replica,
                        raft_term: index,
                        now_ms: index,
                    },
                )
            });
        });
    }
    group.finish();
}

/// Hosts in zones of their own, shards with three voters each, and a forecast in which most want to move.
struct World {
    placement: PlacementView,
    forecast: Forecast,
    rtt: RttMatrix,
    rules: Rules,
    limits: Limits,
    costs: PlanCosts,
    options: PlanOptions,
}

impl World {
    fn new(shards: u64, hosts: u64) -> Self {
        let mut random = ChaCha8Rng::seed_from_u64(SEED);
        let mut placement = PlacementView::default();
        let mut rtt = RttMatrix::default();
        for host in 1..=hosts {
            let view = HostView {
                zone: zone(host),
                region: Region::default(),
                capacity_bytes: u64::MAX,
                state: HostState::Up,
                admission: Admission::Open,
                moves_in: 0,
                moves_out: 0,
            };
            placement.hosts.insert(HostId(host), view);
            for other in 1..host {
                rtt.insert_both(zone(host), zone(other), random.random_range(1_000..80_000));
            }
        }
        let mut forecast = Forecast {
            window: WindowId(100),
            model: "bench-1".to_owned(),
            shards: BTreeMap::new(),
        };
        for shard in 1..=shards {
            let first = random.random_range(0..hosts);
            let replicas: BTreeMap<ReplicaId, ReplicaView> = (0..3)
                .map(|at| {
                    let host = HostId((first + at) % hosts + 1);
                    let role = Role::Voter;
                    (ReplicaId(shard * 3 + at), ReplicaView { host, role })
                })
                .collect();
            let view = ShardView {
                epoch: Epoch {
                    generation: 1,
                    conf_ver: 1,
                },
                home: replicas.keys().next().copied(),
                replicas,
                bytes: 64 << 20,
                busy: false,
                moved_window: None,
                home_window: None,
            };
            placement.shards.insert(ShardId(shard), view);
            let (near, far) = (random.random_range(1..=hosts), random.random_range(1..=hosts));
            let share = random.random_range(PPM / 2..PPM);
            let mut shares = BTreeMap::from([(zone(near), share)]);
            *shares.entry(zone(far)).or_default() += PPM - share;
            let expected = ShardForecast {
                reads_milli: random.random_range(0..1_000_000),
                writes_milli: random.random_range(0..100_000),
                shares: shares.into_iter().collect(),
                uncertainty_ppm: 0,
            };
            forecast.shards.insert(ShardId(shard), expected);
        }
        forecast.validate().expect("shares sum up");
        Self {
            placement,
            forecast,
            rtt,
            rules: Rules::default(),
            limits: Limits::default(),
            costs: PlanCosts::default(),
            options: PlanOptions::default(),
        }
    }

    fn input(&self) -> PlanInput<'_> {
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
}

fn planning(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("plan");
    group.sample_size(10);
    for (shards, hosts) in [(100, 6), (1_000, 12)] {
        let world = World::new(shards, hosts);
        group.throughput(Throughput::Elements(shards));
        group.bench_function(BenchmarkId::new(format!("{hosts}_hosts"), shards), |bencher| {
            bencher.iter(|| plan(black_box(&world.input()), &PlanMemory::default()));
        });
    }
    group.finish();
}

fn window(hour: u64, shards: u64, zones: &[Zone], random: &mut ChaCha8Rng) -> WindowCounts {
    const TOUCHES: u64 = 5_000;
    let mut counts = WindowCounts::empty(WindowId(hour));
    for user in 0..TOUCHES {
        let shard = ShardId(random.random_range(1..=shards));
        let origin = zones[random.random_range(0..zones.len())].clone();
        counts.count(shard, &origin, 1, 1);
        let key = digest(&shard.0.to_le_bytes());
        counts.leave_trail(Touch {
            shard,
            key,
            user: user % 997,
            origin,
            offset_ms: user * 3_600_000 / TOUCHES,
        });
    }
    counts
}

/// The model's scores of the next window; its weights are made up.
fn forecasting(criterion: &mut Criterion) {
    const HOURS: u64 = 12;
    let zones: Vec<Zone> = (0..12).map(zone).collect();
    let mut random = ChaCha8Rng::seed_from_u64(SEED);
    let config = TrainConfig {
        epochs: 1,
        warm_up_windows: 4,
        ..TrainConfig::default()
    };
    let known: Vec<WindowCounts> = (0..HOURS)
        .map(|hour| window(hour, 40, &zones, &mut random))
        .collect();
    let model = train(&known, &zones, WindowLength::HOUR, &config).expect("a model");
    let mut group = criterion.benchmark_group("forecast");
    group.sample_size(10);
    for shards in [100, 1_000] {
        let mut forecaster = HostAffinityModel::new(model.clone(), &zones);
        for hour in 0..HOURS {
            forecaster.observe(&window(hour, shards, &zones, &mut random));
        }
        group.throughput(Throughput::Elements(shards));
        group.bench_function(BenchmarkId::new("12_zones", shards), |bencher| {
            bencher.iter(|| forecaster.forecast(WindowId(HOURS)));
        });
    }
    group.finish();
}

criterion_group!(parts, apply, planning, forecasting);
criterion_main!(parts);
