//! Nothing moves without a reason, the same question has one answer, and a plan that was carried out is at rest.

use proptest::prelude::*;

use placement::ShardId;
use placement::planner::{Hysteresis, Mode, PPM, PlanMemory};

use super::world::{Shape, World, drawn, zone};

const SHAPE: Shape = Shape {
    hosts: 9,
    zones: 5,
    shards: 40,
    voters: 3,
};

proptest! {
    #![proptest_config(ProptestConfig { cases: 60, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn the_same_input_gives_the_same_plan(seed: u64, share in 1_000_000u32..3_000_000) {
        let mut world = drawn(seed, SHAPE);
        world.options.fair_share_max_ppm = Some(share);
        let mut memory = PlanMemory::default();
        for _ in 0..4 {
            let plan = world.plan(&memory);
            prop_assert_eq!(&plan, &world.plan(&memory));
            let text = serde_json::to_string(&memory).unwrap();
            let stored: PlanMemory = serde_json::from_str(&text).unwrap();
            prop_assert_eq!(&plan, &world.plan(&stored), "the memory does not survive being stored");
            world.step(&mut memory);
        }
    }

    #[test]
    fn home_moves_once_made_are_at_rest(seed: u64, share in proptest::option::of(1_000_000u32..3_000_000)) {
        let mut world = drawn(seed, SHAPE);
        world.options.mode = Mode::Homes;
        world.options.hysteresis = Hysteresis::None;
        world.options.fair_share_max_ppm = share;
        let mut memory = PlanMemory::default();
        let plans = if share.is_some() { 10 } else { 1 };
        for _ in 0..plans {
            world.step(&mut memory);
        }
        prop_assert_eq!(world.plan(&memory).proposals, []);
    }

    #[test]
    fn replica_moves_come_to_rest(seed: u64) {
        let mut world = drawn(seed, SHAPE);
        world.options.hysteresis = Hysteresis::None;
        let mut memory = PlanMemory::default();
        let busy = (0..30).take_while(|_| !world.step(&mut memory).proposals.is_empty()).count();
        prop_assert!(busy < 30, "still moving after 30 windows of one forecast");
    }

    #[test]
    fn a_window_planned_again_adds_no_regret(seed: u64) {
        let world = drawn(seed, SHAPE);
        let first = world.plan(&PlanMemory::default());
        let second = world.plan(&first.memory);
        prop_assert_eq!(&first, &second);
        prop_assert!(first.memory != PlanMemory::default());
    }
}

#[test]
fn no_signal_moves_nothing() {
    let mut world = drawn(7, SHAPE);
    for from in 0..5 {
        for to in 0..5 {
            world
                .rtt
                .insert(zone(&format!("z{from}")), zone(&format!("z{to}")), 10_000);
        }
    }
    for forecast in world.forecast.shards.values_mut() {
        let origins = forecast
            .shares
            .iter()
            .map(|(origin, _)| (origin.clone(), PPM / 5));
        forecast.shares = origins.collect();
    }
    all_apart(&mut world);
    let mut memory = PlanMemory::default();
    for _ in 0..100 {
        assert_eq!(world.step(&mut memory).proposals, []);
    }
}

#[test]
fn no_forecast_moves_nothing() {
    for hysteresis in [Hysteresis::None, Hysteresis::SkiRental(Default::default())] {
        let mut world = drawn(8, SHAPE);
        world.options.hysteresis = hysteresis;
        world.forecast.shards.clear();
        all_apart(&mut world);
        assert_eq!(world.step(&mut PlanMemory::default()).proposals, []);
    }
}

#[test]
fn a_guess_moves_nothing() {
    let mut world = drawn(9, SHAPE);
    all_apart(&mut world);
    world
        .forecast
        .shards
        .values_mut()
        .for_each(|forecast| forecast.uncertainty_ppm = PPM);
    let mut memory = PlanMemory::default();
    for _ in 0..50 {
        assert_eq!(world.step(&mut memory).proposals, []);
    }
}

#[test]
fn an_active_migration_is_left_alone() {
    let mut world = drawn(10, SHAPE);
    world.options.hysteresis = Hysteresis::None;
    assert!(world.plan(&PlanMemory::default()).proposals.len() > 10);
    world
        .placement
        .shards
        .values_mut()
        .for_each(|shard| shard.busy = true);
    let plan = world.plan(&PlanMemory::default());
    assert_eq!(plan.proposals, []);
    assert!(plan.blocked.len() > 10);
}

#[test]
fn each_move_says_why() {
    let mut world = drawn(11, SHAPE);
    world.options.hysteresis = Hysteresis::None;
    let plan = world.plan(&PlanMemory::default());
    for planned in &plan.proposals {
        let proposal = planned.proposal("test", plan.window, 5, 9);
        assert!(
            proposal.reasons.scores.is_whole(),
            "{:?}",
            proposal.reasons.scores
        );
        assert_eq!(proposal.reasons.model, "test-1");
        assert!(
            proposal
                .reasons
                .text
                .contains(&format!("{} -> {}", planned.from, planned.to))
        );
        assert_eq!(proposal.basis, world.placement.shards[&planned.shard].epoch);
        assert_ne!(planned.runner_up.map(|second| second.host), Some(planned.to));
    }
    assert!(plan.proposals.iter().any(|planned| planned.runner_up.is_some()));
}

/// Gives each shard voters in three zones, so that no rule asks for a move.
fn all_apart(world: &mut World) {
    let ids: Vec<ShardId> = world.placement.shards.keys().copied().collect();
    for id in ids {
        let first = id.0 % 5;
        world.add_shard(
            id.0,
            &[first + 1, (first + 1) % 5 + 1, (first + 2) % 5 + 1],
            1_000,
        );
    }
}
