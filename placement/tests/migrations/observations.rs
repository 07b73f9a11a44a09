//! What the procedure makes of observations that are old, partial or of the wrong leader: it waits.

use placement::{
    Action, Advance, Command, ControllerTerm, MigrationId, MigrationState, Observation, ReplicaProgress,
    next_actions,
};

use crate::cluster::Cluster;
use crate::corruption::catching_up;

/// A cluster whose migration 1 has caught up, with the observation that shows it.
fn caught_up() -> (Cluster, Observation) {
    let mut cluster = catching_up();
    let mut controller = cluster.controller.take().expect("a controller");
    let shard = cluster
        .placement
        .migration(MigrationId(1))
        .expect("a migration")
        .shard;
    let mut observation = cluster.observe(&mut controller, shard);
    for _ in 0..3 {
        cluster.pass(500);
        observation = cluster.observe(&mut controller, shard);
    }
    (cluster, observation)
}

fn next(cluster: &Cluster, observation: &Observation) -> Option<MigrationState> {
    let migration = cluster.placement.migration(MigrationId(1)).expect("a migration");
    let term = cluster.placement.controller_term();
    match next_actions(&cluster.placement, migration, observation, term, cluster.now_ms).pop() {
        Some(Action::Propose(command)) => match *command {
            Command::Advance(Advance { next, .. }) => Some(next),
            command => panic!("unexpected {command:?}"),
        },
        Some(Action::Wait { until_ms }) => {
            assert!(until_ms > cluster.now_ms, "waiting must end in the future");
            None
        }
        action => panic!("unexpected {action:?}"),
    }
}

fn progress(observation: &mut Observation, cluster: &Cluster) -> ReplicaProgress {
    let learner = cluster
        .placement
        .migration(MigrationId(1))
        .and_then(|m| m.dst)
        .expect("a new replica")
        .replica;
    observation
        .leader
        .as_mut()
        .and_then(|leader| leader.progress.remove(&learner))
        .expect("it is followed")
}

fn with(
    cluster: &Cluster,
    mut observation: Observation,
    edit: impl FnOnce(&mut ReplicaProgress),
) -> Observation {
    let mut changed = progress(&mut observation, cluster);
    edit(&mut changed);
    let learner = cluster
        .placement
        .migration(MigrationId(1))
        .and_then(|m| m.dst)
        .expect("a new replica")
        .replica;
    let leader = observation.leader.as_mut().expect("a leader");
    leader.progress.insert(learner, changed);
    observation
}

#[test]
fn two_good_samples_of_the_current_leader_are_enough() {
    let (cluster, observation) = caught_up();
    assert_eq!(next(&cluster, &observation), Some(MigrationState::Switching));
}

#[test]
fn a_leader_of_an_older_term_is_not_believed() {
    let (cluster, mut observation) = caught_up();
    observation.leader.as_mut().unwrap().raft_term -= 1;
    assert_eq!(next(&cluster, &observation), None);
}

#[test]
fn a_membership_older_than_the_logs_is_not_believed() {
    let (cluster, mut observation) = caught_up();
    observation.leader.as_mut().unwrap().membership.log_index -= 1;
    assert_eq!(next(&cluster, &observation), None);
}

#[test]
fn a_snapshot_on_its_way_is_no_catching_up() {
    let (cluster, observation) = caught_up();
    for in_flight in [Some(true), None] {
        let observation = with(&cluster, observation.clone(), |progress| {
            progress.snapshot_in_flight = in_flight
        });
        assert_eq!(next(&cluster, &observation), None);
    }
}

#[test]
fn samples_must_be_apart_and_all_good_in_between() {
    let (cluster, observation) = caught_up();
    let close = with(&cluster, observation.clone(), |progress| {
        drop(progress.samples.drain(..1))
    });
    assert_eq!(next(&cluster, &close), Some(MigrationState::Switching));
    let close = with(&cluster, observation.clone(), |progress| {
        drop(progress.samples.drain(..2))
    });
    assert_eq!(next(&cluster, &close), None);
    let behind = with(&cluster, observation.clone(), |progress| {
        let middle = progress.samples.len() - 2;
        progress.samples[middle].lag_entries = 257;
    });
    assert_eq!(next(&cluster, &behind), None);
    let other_term = with(&cluster, observation, |progress| {
        progress.samples[0].raft_term += 1
    });
    assert_eq!(next(&cluster, &other_term), Some(MigrationState::Switching));
}

#[test]
fn a_deposed_controller_does_nothing() {
    let (cluster, observation) = caught_up();
    let migration = cluster.placement.migration(MigrationId(1)).unwrap();
    let older = ControllerTerm(cluster.placement.controller_term().0 - 1);
    assert_eq!(
        next_actions(&cluster.placement, migration, &observation, older, cluster.now_ms),
        []
    );
}
