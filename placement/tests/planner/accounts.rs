//! The account of a shard agrees with the plan that is made of it, and names what forbids each place.

use placement::planner::{
    Constraint, Counted, Hysteresis, Mode, MoveKind, PlanMemory, SkiRental, account, plan,
};
use placement::{Admission, HostId, ShardId, WindowId};

use super::world::{Shape, World, drawn, zone};

const SHARD: ShardId = ShardId(1);

/// Four hosts in zones of their own, a shard on the first three, and accesses from the second.
fn world() -> World {
    let mut world = World::new();
    for (id, zone) in [(1, "a"), (2, "b"), (3, "c"), (4, "d")] {
        world.add_host(id, zone);
    }
    world.add_shard(1, &[1, 2, 3], 1 << 20);
    for (from, to) in [
        ("a", "b"),
        ("a", "c"),
        ("a", "d"),
        ("b", "c"),
        ("b", "d"),
        ("c", "d"),
    ] {
        world.rtt.insert_both(zone(from), zone(to), 10_000);
    }
    world.costs.home_move_micros = 2_000;
    world.expect(1, 100, 0, &[("b", 900_000), ("c", 100_000)]);
    world
}

#[test]
fn the_best_home_of_an_account_is_the_one_that_is_planned() {
    let mut world = world();
    // A plan of a new window adds its gains to the regret first; an account never does.
    world.options.hysteresis = Hysteresis::None;
    let memory = PlanMemory::default();
    let told = account(&world.input(), &memory, SHARD).unwrap();
    assert_eq!((told.home, told.model.as_str()), (HostId(1), "test-1"));
    assert_eq!(told.accesses_milli, 100_000);
    let planned = plan(&world.input(), &memory);
    assert_eq!(told.cost_micros, planned.expected_cost_before_micros);
    let [moved] = &planned.proposals[..] else {
        panic!("{planned:?}");
    };
    let best = &told.homes[0];
    assert_eq!(
        (best.host, best.gain_micros, best.cost_micros),
        (moved.to, moved.gain_micros, 2_000)
    );
    assert_eq!(best.constraint, None);
    assert_eq!(told.scores, moved.scores);
    assert!(told.homes[1].gain_micros < best.gain_micros);
}

#[test]
fn what_forbids_a_place_is_named() {
    let mut world = world();
    world.options.mode = Mode::HomesAndReplicas;
    world.options.hysteresis = Hysteresis::SkiRental(SkiRental {
        bar_ppm: 1_000_000_000,
        ..SkiRental::default()
    });
    world.host(3).admission = Admission::Cordoned;
    world.host(4).admission = Admission::Draining;
    let told = account(&world.input(), &PlanMemory::default(), SHARD).unwrap();
    let of = |host: u64| {
        told.homes
            .iter()
            .chain(&told.replicas)
            .find(|place| place.host == HostId(host))
    };
    let constraint = |host| of(host).unwrap().constraint.clone();
    assert!(matches!(
        constraint(2),
        Some(Constraint::Regret { regret_micros: 0, .. })
    ));
    assert_eq!(constraint(3), Some(Constraint::NotAccepting));
    assert_eq!(constraint(4), Some(Constraint::NotAccepting));

    world.host(4).admission = Admission::Open;
    world.host(4).capacity_bytes = 1;
    let told = account(&world.input(), &PlanMemory::default(), SHARD).unwrap();
    assert!(matches!(
        told.replicas[0].constraint,
        Some(Constraint::Bytes { .. })
    ));

    world.host(4).capacity_bytes = u64::MAX;
    world.shard(1).busy = true;
    let told = account(&world.input(), &PlanMemory::default(), SHARD).unwrap();
    assert!(
        told.homes
            .iter()
            .all(|place| place.constraint == Some(Constraint::Busy))
    );
    world.shard(1).busy = false;
    world.limits.home_dwell_windows = 3;
    world.shard(1).home_window = Some(WindowId(0));
    let told = account(&world.input(), &PlanMemory::default(), SHARD).unwrap();
    let until = WindowId(3);
    assert_eq!(told.homes[0].constraint, Some(Constraint::Dwell { until }));
    assert!(account(&world.input(), &PlanMemory::default(), ShardId(9)).is_none());
}

/// In worlds of all kinds: a home that is planned for its latency alone is one that nothing forbids, with the same gain.
#[test]
fn accounts_agree_with_plans() {
    let mut compared = 0;
    for seed in 0..40 {
        let world = drawn(
            seed,
            Shape {
                hosts: 6,
                zones: 4,
                shards: 12,
                voters: 3,
            },
        );
        let memory = PlanMemory::default();
        for planned in plan(&world.input(), &memory).proposals {
            let told = account(&world.input(), &memory, planned.shard).unwrap();
            if !matches!(planned.kind, MoveKind::Home { .. }) {
                continue;
            }
            let place = told.homes.iter().find(|place| place.host == planned.to).unwrap();
            assert_eq!(place.gain_micros, planned.gain_micros, "seed {seed}");
            compared += 1;
        }
    }
    assert!(compared > 20, "{compared}");
}

#[test]
fn what_was_counted_costs_what_the_same_forecast_costs() {
    let mut world = world();
    world.options.hysteresis = Hysteresis::None;
    world.options.lease_reads_ppm = 250_000;
    world.expect(1, 60, 40, &[("b", 900_000), ("c", 100_000)]);
    let told = account(&world.input(), &PlanMemory::default(), SHARD).unwrap();
    let counted = Counted {
        reads: 60,
        writes: 40,
        origins: [(zone("b"), 90), (zone("c"), 10)].into(),
    };
    let zones = [zone("a"), zone("b"), zone("c")];
    let voters: Vec<_> = zones.iter().collect();
    let cost = |home: &str| counted.latency_micros(&world.rtt, &zone(home), &voters, 250_000);
    assert_eq!(cost("a"), told.cost_micros);
    let best = &told.homes[0];
    assert_eq!(best.host, HostId(2));
    let saved = i64::try_from(cost("a")).unwrap() - i64::try_from(cost("b")).unwrap();
    assert_eq!(saved, best.gain_micros);
    // A lone voter needs no round, and five wait for the second nearest.
    assert_eq!(
        counted.latency_micros(&world.rtt, &zone("b"), &[&zone("b")], 0),
        10 * 10_000
    );
    world.rtt.insert_both(zone("a"), zone("e"), 1_000);
    let five = ["a", "b", "c", "d", "e"].map(zone);
    let five: Vec<_> = five.iter().collect();
    let rounds = counted.latency_micros(&world.rtt, &zone("a"), &five, 0) - 100 * 10_000;
    assert_eq!(rounds, 100 * 10_000);
}
