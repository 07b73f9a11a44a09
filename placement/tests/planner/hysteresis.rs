//! What keeps homes and replicas from flapping, whatever the forecasts do.

use proptest::prelude::*;

use placement::planner::{Constraint, Hysteresis, Mode, MoveKind, PPM, PlanMemory, SkiRental};
use placement::{HostId, ShardId, WindowId};

use super::world::{World, zone};

const FAR_MICROS: u32 = 1_000;

/// Two homes, 1 ms apart, and a home move that costs `cost_micros`.
fn two_places(cost_micros: u64) -> World {
    let mut world = World::new();
    world.options.mode = Mode::Homes;
    world.options.lease_reads_ppm = PPM;
    world.add_host(1, "a");
    world.add_host(2, "b");
    world.rtt.insert_both(zone("a"), zone("b"), FAR_MICROS);
    world.add_shard(1, &[1, 2], 0);
    world.costs.home_move_micros = cost_micros;
    world
}

/// Expects `reads` from one zone in the next window.
fn wants(world: &mut World, origin: &str, reads: u64) {
    world.expect(1, reads, 0, &[(origin, PPM)]);
}

fn moves(world: &mut World, memory: &mut PlanMemory) -> usize {
    world.step(memory).proposals.len()
}

#[test]
fn a_move_waits_until_staying_has_cost_as_much() {
    let mut world = two_places(10_000);
    let mut memory = PlanMemory::default();
    wants(&mut world, "b", 4);
    assert_eq!(moves(&mut world, &mut memory), 0);
    assert_eq!(memory.home_regret_micros(ShardId(1), HostId(2)), 4_000);
    let plan = world.step(&mut memory);
    let waits = Constraint::Regret {
        regret_micros: 8_000,
        bar_micros: 10_000,
    };
    assert_eq!(plan.blocked[0].constraint, waits);
    assert_eq!(moves(&mut world, &mut memory), 1);
    assert_eq!(world.home(1), 2);
}

#[test]
fn without_hysteresis_alternation_moves_in_every_window_and_with_it_never() {
    let mut blind = two_places(10_000);
    blind.options.hysteresis = Hysteresis::None;
    let mut careful = two_places(10_000);
    for (world, expected) in [(&mut blind, 100), (&mut careful, 0)] {
        let mut memory = PlanMemory::default();
        let mut made = 0;
        for window in 0..100 {
            wants(world, if window % 2 == 0 { "b" } else { "a" }, 9);
            made += moves(world, &mut memory);
        }
        assert_eq!(made, expected);
    }
}

#[test]
fn a_refused_move_stays_wanted() {
    let mut world = two_places(1_000);
    wants(&mut world, "b", 3);
    let mut memory = PlanMemory::default();
    for window in 1..=5 {
        world.forecast.window = WindowId(window);
        let plan = world.plan(&memory);
        assert_eq!(plan.proposals.len(), 1, "in window {window}");
        memory = plan.memory;
    }
}

#[test]
fn going_back_has_a_higher_bar_for_a_while() {
    let back_after = |windows: u64| {
        let mut world = two_places(10_000);
        world.options.hysteresis = Hysteresis::SkiRental(SkiRental {
            return_windows: 24,
            ..SkiRental::default()
        });
        let mut memory = PlanMemory::default();
        wants(&mut world, "b", 10);
        assert_eq!(moves(&mut world, &mut memory), 1);
        world.forecast.window = WindowId(world.forecast.window.0 + windows);
        wants(&mut world, "a", 10);
        (1..10).find(|_| moves(&mut world, &mut memory) == 1).unwrap()
    };
    assert_eq!(back_after(0), 3);
    assert_eq!(back_after(30), 1);
}

#[test]
fn a_home_that_moved_by_itself_starts_afresh() {
    let mut world = two_places(10_000);
    let mut memory = PlanMemory::default();
    wants(&mut world, "b", 9);
    assert_eq!(moves(&mut world, &mut memory), 0);
    let other = world.shard(1).replicas.keys().nth(1).copied();
    world.shard(1).home = other;
    wants(&mut world, "a", 9);
    assert_eq!(moves(&mut world, &mut memory), 0);
    assert_eq!(memory.home_regret_micros(ShardId(1), HostId(2)), 0);
    assert_eq!(memory.home_regret_micros(ShardId(1), HostId(1)), 9_000);
}

#[test]
fn dwell_is_counted_in_windows() {
    let mut world = two_places(0);
    world.options.hysteresis = Hysteresis::None;
    world.limits.home_dwell_windows = 3;
    let mut memory = PlanMemory::default();
    let mut windows = Vec::new();
    for window in 1..=9u64 {
        let elsewhere = if world.home(1) == 1 { "b" } else { "a" };
        wants(&mut world, elsewhere, 9);
        if moves(&mut world, &mut memory) == 1 {
            windows.push(window);
        }
    }
    assert_eq!(windows, [1, 4, 7]);
}

#[test]
fn a_replica_moves_only_once_its_bytes_are_paid_for() {
    let mut world = World::new();
    for (id, name) in [(1, "a"), (2, "b"), (3, "c"), (4, "d")] {
        world.add_host(id, name);
    }
    for (one, other, micros) in [("a", "b", 5_000), ("a", "c", 5_000), ("b", "c", 5_000)] {
        world.rtt.insert_both(zone(one), zone(other), micros);
    }
    for other in ["a", "b", "c"] {
        world.rtt.insert_both(zone("d"), zone(other), 5_000);
    }
    world.add_shard(1, &[1, 2, 3], 16 << 20);
    (world.costs.copy_weight_ppm, world.costs.replica_move_micros) = (PPM, 0);
    world.expect(1, 50, 0, &[("d", PPM)]);
    let mut memory = PlanMemory::default();
    let waited = (1..100)
        .find(|_| !world.step(&mut memory).proposals.is_empty())
        .unwrap();
    // A second of copying and 1 ms for the home, at 250 ms saved a window.
    assert_eq!(waited, 5);
    assert_eq!(world.home(1), 4, "the new voter leads");
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn latency_and_moves_are_at_most_three_times_the_optimum(
        reads in proptest::collection::vec((proptest::bool::ANY, 0u64..30), 1..200),
        cost_micros in 1_000u64..40_000,
    ) {
        let mut world = two_places(cost_micros);
        let even = SkiRental { bar_ppm: PPM, return_bar_ppm: PPM, return_windows: 0 };
        world.options.hysteresis = Hysteresis::SkiRental(even);
        let (mut memory, mut paid, mut regret, mut made) = (PlanMemory::default(), 0u64, 0u64, 0u64);
        let mut optimum = [0u64, cost_micros];
        for (at_a, count) in &reads {
            wants(&mut world, if *at_a { "a" } else { "b" }, *count);
            let plan = world.step(&mut memory);
            let lost = count * u64::from(FAR_MICROS);
            let wrong_before = if plan.proposals.is_empty() { wrong(&world, *at_a) } else { true };
            regret += if wrong_before { lost } else { 0 };
            made += plan.proposals.len() as u64;
            paid += plan.proposals.len() as u64 * cost_micros + if wrong(&world, *at_a) { lost } else { 0 };
            optimum = served(optimum, *at_a, lost, cost_micros);
        }
        let best = optimum[0].min(optimum[1]);
        prop_assert!(paid <= 3 * best + 3 * cost_micros, "paid {} us, the optimum {} us", paid, best);
        prop_assert!(made * cost_micros <= regret, "{} moves for {} us of regret", made, regret);
    }

    #[test]
    fn replica_moves_are_bounded_by_the_regret_that_paid_for_them(
        origins in proptest::collection::vec(0usize..4, 1..120),
        reads in 1u64..200,
    ) {
        let names = ["a", "b", "c", "d"];
        let mut world = World::new();
        for (id, name) in (1..).zip(names) {
            world.add_host(id, name);
            names.iter().filter(|other| *other != &name).for_each(|other| world.rtt.insert(zone(name), zone(other), 20_000));
        }
        world.add_shard(1, &[1, 2, 3], 1 << 20);
        let (mut memory, mut made) = (PlanMemory::default(), 0);
        for origin in &origins {
            wants(&mut world, names[*origin], reads);
            let plan = world.step(&mut memory);
            made += plan.proposals.iter().filter(|p| matches!(p.kind, MoveKind::Replica { .. })).count() as u64;
        }
        let lost_most = origins.iter().filter(|origin| **origin == 3).count() as u64 + origins.len() as u64;
        let bound = lost_most * reads * 20_000 / world.costs.replica_micros(1 << 20);
        prop_assert!(made <= bound, "{} replica moves, {} were paid for", made, bound);
    }
}

fn wrong(world: &World, at_a: bool) -> bool {
    (world.home(1) == 1) != at_a
}

/// One step of the optimum in hindsight: the least cost of ending the window at each place.
fn served(before: [u64; 2], at_a: bool, lost: u64, cost_micros: u64) -> [u64; 2] {
    let a = before[0].min(before[1] + cost_micros) + if at_a { 0 } else { lost };
    let b = before[1].min(before[0] + cost_micros) + if at_a { lost } else { 0 };
    [a.min(b + cost_micros), b.min(a + cost_micros)]
}
