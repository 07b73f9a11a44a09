//! Shows that the checks can fail: each invariant is broken by hand, in a state or in the world, and is found.

use placement::{
    Action, Command, Invariant, Limits, Origin, Placement, Proposal, ProposalKind, Reasons, ReplicaId,
    ShardId, decode_state, encode_state,
};
use serde_json::{Value, json};

use crate::cluster::{Cluster, Order};
use crate::controller::Duties;

const HEADER_BYTES: usize = 6;

/// Four hosts, two shards, a move of shard 1 that is catching up.
pub(crate) fn catching_up() -> Cluster {
    let mut cluster = Cluster::new(4, 4, 2, Limits::default(), 7);
    cluster.round(Duties::Migrations);
    let shard = cluster.placement.shard(ShardId(1)).expect("a shard");
    let (from, _) = shard.voters().last().expect("a voter");
    let taken: Vec<_> = shard.voters().map(|(_, host)| host).collect();
    let to = *cluster
        .placement
        .hosts()
        .keys()
        .find(|host| !taken.contains(host))
        .expect("it is well-formed");
    let proposal = Proposal {
        shard: shard.id,
        kind: ProposalKind::Move {
            from,
            to,
            take_home: false,
        },
        basis: shard.epoch,
        origin: Origin::Manual,
        expires_ms: u64::MAX,
        reasons: Reasons::default(),
        window: cluster.placement.window(),
        now_ms: cluster.now_ms,
    };
    cluster.apply(Command::Propose(proposal));
    for _ in 0..4 {
        cluster.pass(500);
        cluster.round(Duties::Migrations);
    }
    cluster
}

/// The state with `edit` made to its JSON.
fn corrupt(edit: impl FnOnce(&mut Value)) -> Placement {
    let state = encode_state(&catching_up().placement).expect("it is well-formed");
    let mut body: Value = serde_json::from_slice(&state[HEADER_BYTES..]).expect("it is well-formed");
    edit(&mut body);
    let body = serde_json::to_vec(&body).expect("it is well-formed");
    let mut bytes = state[..2].to_vec();
    bytes.extend_from_slice(&crc32c::crc32c(&body).to_le_bytes());
    bytes.extend_from_slice(&body);
    decode_state(&bytes).expect("it is well-formed")
}

fn broken(edit: impl FnOnce(&mut Value)) -> Invariant {
    corrupt(edit)
        .check()
        .expect_err("the corruption is found")
        .invariant
}

#[test]
fn an_untouched_state_passes() {
    assert_eq!(corrupt(|_| {}).check(), Ok(()));
    assert!(corrupt(|_| {}) == catching_up().placement);
}

#[test]
fn two_active_migrations_are_found() {
    assert_eq!(
        broken(|state| state["shards"]["1"]["active"] = Value::Null),
        Invariant::OneActiveMigration
    );
    assert_eq!(
        broken(|state| state["active"] = json!([])),
        Invariant::OneActiveMigration
    );
}

#[test]
fn a_replica_id_used_twice_is_found() {
    let twice = |state: &mut Value| {
        let replica = state["shards"]["1"]["replicas"]["2"].clone();
        state["shards"]["2"]["replicas"]["2"] = replica;
    };
    assert_eq!(broken(twice), Invariant::UniqueReplicaIds);
    assert_eq!(
        broken(|state| state["last"]["replica"] = json!(3)),
        Invariant::UniqueReplicaIds
    );
}

#[test]
fn too_few_voters_are_found() {
    let demote = |state: &mut Value| state["shards"]["1"]["replicas"]["3"]["role"] = json!("Learner");
    assert_eq!(broken(demote), Invariant::EnoughVoters);
}

#[test]
fn voters_that_share_a_host_are_found() {
    let move_in = |state: &mut Value| {
        let host = state["shards"]["2"]["replicas"]["5"]["host"].clone();
        state["shards"]["2"]["replicas"]["6"]["host"] = host;
    };
    assert_eq!(broken(move_in), Invariant::DistinctHosts);
}

#[test]
fn a_member_that_is_being_destroyed_is_found() {
    let owe = |state: &mut Value| state["owed"]["1"] = json!({"2": 1});
    assert_eq!(broken(owe), Invariant::DestroyAbsentOnly);
}

#[test]
fn a_step_off_the_edges_is_found() {
    let skip = |state: &mut Value| {
        let steps = state["migrations"]["1"]["steps"].as_array_mut().unwrap();
        steps.remove(1);
    };
    assert_eq!(broken(skip), Invariant::EdgesOnly);
    assert_eq!(
        broken(|state| state["migrations"]["1"]["state"] = json!("Switching")),
        Invariant::EdgesOnly
    );
}

#[test]
fn a_conf_ver_that_fell_is_found() {
    assert_eq!(
        broken(|state| state["shards"]["1"]["epoch"]["conf_ver"] = json!(0)),
        Invariant::ConfVerGrows
    );
}

#[test]
fn a_limit_exceeded_is_found() {
    assert_eq!(
        broken(|state| state["limits"]["moves_in_max"] = json!(0)),
        Invariant::WithinLimits
    );
}

#[test]
fn a_hole_in_the_key_space_is_found() {
    assert_eq!(
        broken(|state| state["shards"]["2"]["range"]["start"] = json!("9000")),
        Invariant::RangesPartition
    );
}

#[test]
fn a_home_without_a_vote_is_found() {
    assert_eq!(
        broken(|state| state["shards"]["2"]["home"] = json!(99)),
        Invariant::HomeVotes
    );
}

#[test]
#[should_panic(expected = "I5")]
fn a_source_destroyed_while_it_votes_is_found() {
    let mut cluster = catching_up();
    let (replica, host) = cluster
        .placement
        .shard(ShardId(1))
        .unwrap()
        .voters()
        .next()
        .unwrap();
    let term = cluster.placement.controller_term();
    let action = Action::DestroyReplica { host, replica };
    cluster.send(Order {
        due_ms: 0,
        shard: ShardId(1),
        term,
        membership_index: None,
        action,
    });
}

#[test]
#[should_panic(expected = "I9")]
fn an_acknowledged_entry_that_is_lost_is_found() {
    let mut cluster = catching_up();
    let group = cluster.groups.get_mut(&ShardId(1)).unwrap();
    let leader = group.leader.unwrap();
    let followers: Vec<ReplicaId> = group.copies.keys().copied().filter(|id| *id != leader).collect();
    for follower in followers {
        group.copies.get_mut(&follower).unwrap().matched = 0;
    }
    let host = group.leader_host().unwrap();
    cluster.crash(host);
    cluster.pass(500);
}

#[test]
#[should_panic(expected = "I7")]
fn a_log_ahead_of_its_shard_is_found() {
    let mut cluster = catching_up();
    cluster.groups.get_mut(&ShardId(1)).unwrap().membership.conf_ver = 0;
    cluster.pass(500);
}
