//! What a plan never does, whatever it would gain: overfill, crowd, hurry.

use std::collections::{BTreeMap, BTreeSet};

use proptest::prelude::*;

use placement::planner::{Constraint, Hysteresis, Mode, MoveCause, MoveKind, PPM, Plan, PlanMemory};
use placement::{Admission, HostId, HostState, Limits, Origin, Spread};

use super::world::{Draw, Shape, World, drawn, zone};

/// A crowded world: tight capacities, hosts that are down, cordoned or draining, and slots already in use.
fn crowded(seed: u64) -> World {
    let mut world = drawn(
        seed,
        Shape {
            hosts: 9,
            zones: 5,
            shards: 30,
            voters: 3,
        },
    );
    let mut draw = Draw(seed ^ 0x5eed);
    world.options.hysteresis = if draw.below(2) == 0 {
        Hysteresis::None
    } else {
        Hysteresis::SkiRental(Default::default())
    };
    world.options.fair_share_max_ppm = Some(PPM + u32::try_from(draw.below(u64::from(PPM))).unwrap());
    world.options.home_moves_max = u32::try_from(draw.below(20)).unwrap();
    world.options.replica_moves_max = u32::try_from(draw.below(10)).unwrap();
    world.costs.replica_move_micros = draw.below(10_000);
    (world.limits.moves_in_max, world.limits.moves_out_max) = (2, 2);
    for id in 1..=9 {
        let host = world.host(id);
        host.moves_in = u32::try_from(draw.below(3)).unwrap();
        host.capacity_bytes = (4 << 20) + draw.below(12 << 20);
        host.admission = [
            Admission::Open,
            Admission::Open,
            Admission::Cordoned,
            Admission::Draining,
        ][draw.below(4) as usize];
        host.state = if draw.below(8) == 0 {
            HostState::Down
        } else {
            HostState::Up
        };
    }
    world
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 150, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn a_plan_keeps_every_limit(seed: u64, hosts_only: bool) {
        let mut world = crowded(seed);
        if hosts_only {
            world.rules.spread = Spread::Host;
        }
        let mut memory = PlanMemory::default();
        for _ in 0..6 {
            let before = world.clone();
            let plan = world.step(&mut memory);
            check(&before, &world, &plan)?;
        }
    }

    #[test]
    fn no_home_goes_where_capacity_is_spent(seed: u64) {
        let mut world = crowded(seed);
        world.options.mode = Mode::Homes;
        let max = fair_share(&world);
        let before = world.served_milli();
        let plan = world.step(&mut PlanMemory::default());
        let came: BTreeSet<HostId> = plan.proposals.iter().map(|planned| planned.to).collect();
        for (host, served) in world.served_milli() {
            let limit = if came.contains(&host) { max } else { max.max(before[&host]) };
            prop_assert!(served <= limit, "{} serves {} of {}", host, served, limit);
        }
    }
}

fn check(before: &World, after: &World, plan: &Plan) -> Result<(), TestCaseError> {
    let shards: BTreeSet<_> = plan.proposals.iter().map(|planned| planned.shard).collect();
    prop_assert_eq!(shards.len(), plan.proposals.len(), "two moves of one shard");
    let is_home = |kind: MoveKind| matches!(kind, MoveKind::Home { .. });
    let homes = plan
        .proposals
        .iter()
        .filter(|planned| is_home(planned.kind))
        .count();
    prop_assert!(homes <= before.options.home_moves_max as usize);
    prop_assert!(plan.proposals.len() - homes <= before.options.replica_moves_max as usize);
    for planned in &plan.proposals {
        prop_assert!(
            before.placement.hosts[&planned.to].accepts(),
            "{} does not accept",
            planned.to
        );
        let (old, new) = (before.voters(planned.shard.0), after.voters(planned.shard.0));
        prop_assert_eq!(old.len(), new.len(), "two replicas on one host");
        if before.rules.spread == Spread::Zone {
            prop_assert!(
                before.pairs_together(&new) <= before.pairs_together(&old),
                "{} is crowded",
                planned.shard
            );
        }
    }
    let replicas = plan.proposals.iter().filter(|planned| !is_home(planned.kind));
    let (mut moves_in, mut moves_out, mut speculative) = (BTreeMap::new(), BTreeMap::new(), BTreeMap::new());
    for planned in replicas {
        *moves_in
            .entry(planned.to)
            .or_insert(before.placement.hosts[&planned.to].moves_in) += 1;
        *moves_out
            .entry(planned.from)
            .or_insert(before.placement.hosts[&planned.from].moves_out) += 1;
        *speculative.entry(planned.to).or_insert(0u32) += u32::from(planned.cause == MoveCause::Latency);
    }
    let limits = &before.limits;
    prop_assert!(moves_in.values().all(|moves| *moves <= limits.moves_in_max));
    prop_assert!(moves_out.values().all(|moves| *moves <= limits.moves_out_max));
    let slots = Limits::slots_for(Origin::Model, limits.moves_in_max);
    prop_assert!(
        speculative.values().all(|moves| *moves <= slots),
        "the model takes more than half of the slots"
    );
    let (stored, had) = (after.stored(), before.stored());
    for host in moves_in.keys() {
        let capacity = before.placement.hosts[host].capacity_bytes;
        prop_assert!(
            stored[host] <= capacity,
            "{} stores {} of {}, had {}",
            host,
            stored[host],
            capacity,
            had[host]
        );
    }
    Ok(())
}

fn fair_share(world: &World) -> u64 {
    let loads = || world.forecast.shards.values().map(|shard| shard.accesses_milli());
    let hosts = world
        .placement
        .hosts
        .values()
        .filter(|host| host.accepts())
        .count()
        .max(1);
    let part = u128::from(loads().sum::<u64>()) * u128::from(world.options.fair_share_max_ppm.unwrap());
    let part = part / (u128::from(PPM) * hosts as u128);
    u64::try_from(part).unwrap().max(loads().max().unwrap())
}

/// Three hosts 10 ms apart and blind homes among them.
fn triangle() -> World {
    let mut world = World::new();
    world.options.mode = Mode::Homes;
    world.options.hysteresis = Hysteresis::None;
    for (id, name) in [(1, "a"), (2, "b"), (3, "c")] {
        world.add_host(id, name);
    }
    for (one, other) in [("a", "b"), ("a", "c"), ("b", "c")] {
        world.rtt.insert_both(zone(one), zone(other), 10_000);
    }
    world
}

#[test]
fn a_swap_helps_where_no_single_move_fits() {
    let mut world = triangle();
    world.add_shard(1, &[1, 2], 0);
    world.add_shard(2, &[2, 1], 0);
    world.add_shard(3, &[3, 1, 2], 0);
    for (id, origin) in [(1, "b"), (2, "a"), (3, "c")] {
        world.expect(id, 10, 0, &[(origin, PPM)]);
    }
    world.options.fair_share_max_ppm = Some(PPM);
    let plan = world.step(&mut PlanMemory::default());
    assert_eq!(plan.proposals.len(), 2);
    assert_eq!([1, 2, 3].map(|id| world.home(id)), [2, 1, 3]);
}

#[test]
fn a_partner_is_sent_away_at_a_loss_for_a_greater_gain() {
    let mut world = triangle();
    world.add_shard(1, &[1, 2], 0);
    world.add_shard(2, &[2, 3], 0);
    world.expect(1, 10, 0, &[("b", PPM)]);
    world.expect(2, 10, 0, &[("b", 600_000), ("c", 400_000)]);
    world.options.fair_share_max_ppm = Some(PPM + PPM / 2);
    let plan = world.step(&mut PlanMemory::default());
    assert_eq!([1, 2].map(|id| world.home(id)), [2, 3]);
    let causes: Vec<MoveCause> = plan.proposals.iter().map(|planned| planned.cause).collect();
    assert_eq!(causes, [MoveCause::Capacity, MoveCause::Latency]);
    assert!(plan.proposals[0].gain_micros < 0);
}

#[test]
fn an_overloaded_host_gives_away_what_loses_least() {
    let mut world = triangle();
    for id in 1..=4 {
        world.add_shard(id, &[1, 2, 3], 0);
    }
    for (id, nearer) in [(1, 900_000), (2, 800_000), (3, 510_000), (4, 700_000)] {
        world.expect(id, 10, 0, &[("a", nearer), ("b", PPM - nearer)]);
    }
    world.options.fair_share_max_ppm = Some(2 * PPM + PPM / 4);
    let plan = world.step(&mut PlanMemory::default());
    assert_eq!(plan.proposals.len(), 1);
    assert_eq!(
        (
            plan.proposals[0].shard.0,
            plan.proposals[0].to,
            plan.proposals[0].cause
        ),
        (3, HostId(2), MoveCause::Capacity)
    );
    assert_eq!(world.step(&mut PlanMemory::default()).proposals, []);
}

#[test]
fn a_full_host_is_named() {
    let mut world = triangle();
    world.add_shard(1, &[1, 2], 0);
    world.add_shard(2, &[2, 1], 0);
    world.expect(1, 10, 0, &[("b", PPM)]);
    world.expect(2, 10, 0, &[("b", PPM)]);
    world.options.fair_share_max_ppm = Some(PPM);
    let plan = world.plan(&PlanMemory::default());
    assert_eq!(plan.proposals, []);
    assert_eq!(plan.blocked[0].to, Some(HostId(2)));
    assert_eq!(
        plan.blocked[0].constraint,
        Constraint::Accesses { max_milli: 10_000 }
    );
}

#[test]
fn a_draining_host_gives_away_homes_and_replicas_at_any_price() {
    let mut world = triangle();
    world.options.hysteresis = Hysteresis::SkiRental(Default::default());
    world.add_shard(1, &[1, 2], 0);
    world.rules.replication_factor = 2;
    world.expect(1, 10, 0, &[("a", PPM)]);
    world.host(1).admission = Admission::Draining;
    let plan = world.step(&mut PlanMemory::default());
    assert_eq!((world.home(1), plan.proposals[0].cause), (2, MoveCause::Drain));
    world.options.mode = Mode::HomesAndReplicas;
    world.step(&mut PlanMemory::default());
    assert_eq!(world.voters(1), BTreeSet::from([2, 3]));
    assert_eq!(world.step(&mut PlanMemory::default()).proposals, []);
}

#[test]
fn a_cordoned_host_keeps_what_it_has_and_gets_nothing() {
    let mut world = triangle();
    world.add_shard(1, &[1, 2, 3], 0);
    world.add_shard(2, &[2, 1, 3], 0);
    world.expect(1, 10, 0, &[("a", PPM)]);
    world.expect(2, 10, 0, &[("a", PPM)]);
    world.host(1).admission = Admission::Cordoned;
    let plan = world.step(&mut PlanMemory::default());
    assert_eq!(plan.proposals, []);
    assert_eq!(plan.blocked[0].constraint, Constraint::NotAccepting);
}

#[test]
fn a_crowded_zone_is_left_for_an_empty_one() {
    let mut world = triangle();
    world.add_host(4, "a");
    world.options.mode = Mode::HomesAndReplicas;
    world.add_shard(1, &[1, 4, 2], 0);
    world.expect(1, 10, 0, &[("a", PPM)]);
    let plan = world.step(&mut PlanMemory::default());
    assert_eq!(
        (plan.proposals[0].cause, plan.proposals[0].to),
        (MoveCause::Rule, HostId(3))
    );
    assert_eq!(world.pairs_together(&world.voters(1)), 0);
}

#[test]
fn bytes_without_room_are_named() {
    let mut world = triangle();
    world.options.mode = Mode::HomesAndReplicas;
    world.rules.replication_factor = 1;
    world.add_shard(1, &[1], 1_000);
    world.add_shard(2, &[2], 1_000);
    world.expect(1, 1_000, 0, &[("b", PPM)]);
    world.host(2).capacity_bytes = 1_500;
    let plan = world.plan(&PlanMemory::default());
    assert_eq!(plan.blocked[0].constraint, Constraint::Bytes { zone: zone("b") });
    world.host(2).capacity_bytes = 2_000;
    assert_eq!(world.plan(&PlanMemory::default()).proposals[0].to, HostId(2));
}
