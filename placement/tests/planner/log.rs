//! Plans against the real placement state: what the planner proposes, the state machine accepts.

use std::collections::BTreeMap;

use placement::planner::{Hysteresis, MoveKind, PPM, PlacementView, Plan, PlanMemory};
use placement::{
    Accepted, Bootstrap, Command, HostId, Limits, NewHost, Partition, Placement, Region, Response, Rules,
    ShardId, WindowId, Zone,
};

use super::world::{Draw, World, zone};

const ZONES: [&str; 6] = ["east-1", "east-2", "mid-1", "mid-2", "west-1", "west-2"];
const SHARDS: u32 = 24;

/// A placement with its log's length.
struct Log {
    placement: Placement,
    index: u64,
}

impl Log {
    fn write(&mut self, command: Command) -> Response {
        self.index += 1;
        let response = self.placement.apply(self.index, command);
        self.placement.check().unwrap();
        response
    }

    fn accept(&mut self, command: Command) -> Accepted {
        match self.write(command) {
            Response::Accepted(accepted) => accepted,
            refused => panic!("{refused:?}"),
        }
    }
}

fn new_host(number: usize) -> NewHost {
    NewHost {
        address: format!("127.0.0.1:{number}"),
        zone: zone(ZONES[number]),
        region: Region(ZONES[number].split('-').next().unwrap().to_owned()),
        capacity_bytes: 1 << 30,
        token: format!("token-{number}"),
    }
}

/// Six hosts in six zones with 24 shards, all initialised.
fn cluster() -> Log {
    let mut log = Log {
        placement: Placement::default(),
        index: 0,
    };
    log.accept(Command::Bootstrap(Bootstrap {
        cluster_id: "test".to_owned(),
        host: new_host(0),
        rules: Rules::default(),
        limits: Limits::default(),
        partition: Partition::Count(SHARDS),
        hosts_before_create: 6,
        now_ms: 1,
    }));
    for number in 1..ZONES.len() {
        log.accept(Command::JoinHost {
            host_id: HostId(0),
            host: new_host(number),
            now_ms: 2,
        });
    }
    let shards: Vec<ShardId> = log.placement.data_shards().map(|shard| shard.id).collect();
    assert_eq!(shards.len(), SHARDS as usize);
    for shard in shards {
        log.accept(Command::ShardReady { shard, now_ms: 3 });
    }
    log
}

/// The world as the placement has it, with drawn forecasts for its next window.
fn world_of(log: &Log) -> World {
    let mut world = World::new();
    let bytes = log
        .placement
        .data_shards()
        .map(|shard| (shard.id, 1 << 16))
        .collect();
    let migrations = log.placement.active_migrations();
    world.placement = PlacementView::of(log.placement.hosts(), log.placement.shards(), migrations, &bytes);
    (world.rules, world.limits) = (log.placement.rules().clone(), log.placement.limits().clone());
    world.options.hysteresis = Hysteresis::None;
    for (one, number) in ZONES.iter().zip(0u32..) {
        for (other, place) in ZONES.iter().zip(0u32..) {
            world
                .rtt
                .insert(zone(one), zone(other), 500 + 9_500 * number.abs_diff(place));
        }
    }
    let mut draw = Draw(3);
    for id in world.placement.shards.keys().copied().collect::<Vec<_>>() {
        let favourite = ZONES[draw.below(6) as usize];
        world.expect(id.0, 100, 10, &[(favourite, 900_000), ("other", PPM - 900_000)]);
    }
    world.forecast.window = WindowId(log.placement.window().0 + 1);
    world
}

fn propose(log: &mut Log, plan: &Plan) {
    for planned in &plan.proposals {
        let accepted = log.accept(Command::Propose(planned.proposal(
            "planner",
            plan.window,
            10,
            1_000,
        )));
        assert!(matches!(accepted, Accepted::Proposed(_)));
    }
}

#[test]
fn the_state_machine_accepts_what_is_planned() {
    let mut log = cluster();
    let world = world_of(&log);
    let plan = world.plan(&PlanMemory::default());
    let replicas = plan
        .proposals
        .iter()
        .filter(|planned| matches!(planned.kind, MoveKind::Replica { .. }))
        .count();
    assert!(
        replicas > 0 && plan.proposals.len() > replicas,
        "homes and replicas should move"
    );
    propose(&mut log, &plan);
    let again = world_of(&log);
    let moving: BTreeMap<ShardId, bool> = again
        .placement
        .shards
        .iter()
        .map(|(id, shard)| (*id, shard.busy))
        .collect();
    assert!(plan.proposals.iter().all(|planned| moving[&planned.shard]));
    let next = again.plan(&plan.memory);
    assert!(next.proposals.iter().all(|planned| !moving[&planned.shard]));
    propose(&mut log, &next);
}

#[test]
fn a_proposal_keeps_its_reasons() {
    let mut log = cluster();
    let plan = world_of(&log).plan(&PlanMemory::default());
    propose(&mut log, &plan);
    for migration in log.placement.active_migrations() {
        let planned = plan
            .proposals
            .iter()
            .find(|planned| planned.shard == migration.shard)
            .unwrap();
        assert_eq!(migration.reasons.text, planned.text);
        assert_eq!(
            (
                migration.reasons.policy.as_str(),
                migration.reasons.model.as_str()
            ),
            ("planner", "test-1")
        );
        assert_eq!(migration.reasons.gain_micros, planned.gain_micros);
        assert!(migration.reasons.scores.is_whole());
    }
}

#[test]
fn the_placement_group_is_left_out() {
    let log = cluster();
    let view = world_of(&log).placement;
    assert_eq!(view.shards.len(), SHARDS as usize);
    assert!(!view.shards.contains_key(&ShardId::PLACEMENT));
    assert_eq!(view.hosts[&HostId(2)].zone, Zone(ZONES[1].to_owned()));
}
