//! A table: each procedure, each state that it comes through, and each host killed in that state, or the controller alone.
//!
//! The states are found by watching a run in which nobody dies, so a state that is added is in the table.

use placement::MigrationState::{
    Absorbing, Adding, CatchingUp, Cleaning, Dissolving, Freezing, Proposed, Removing, Settling, Splitting,
    Switching, Transferring,
};
use placement::{Command, HostId, MigrationKind, MigrationState, Origin, ProposalKind, Response, Shard};

use crate::cluster::Cluster;
use crate::interleavings::{HOSTS, limits, split};

const ZONES: u64 = 3;
const SEED: u64 = 7;
/// Ticks in which a procedure of which nothing dies has ended.
const TICKS_MAX: u32 = 200;
/// Ticks after which a host comes back, long before it is declared dead.
const AWAY_TICKS: u32 = 8;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Procedure {
    MoveFollower,
    MoveHome,
    Add,
    Remove,
    Home,
    Split,
    Merge,
    Drain,
}

/// Who dies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Victim {
    /// The process that is in control, but no replica.
    Controller,
    /// A host that comes back.
    Briefly(HostId),
    /// A host that is lost.
    ForGood(HostId),
}

fn victims() -> Vec<Victim> {
    let hosts = (1..=HOSTS).map(HostId);
    let both = hosts.flat_map(|host| [Victim::Briefly(host), Victim::ForGood(host)]);
    [Victim::Controller].into_iter().chain(both).collect()
}

/// The other host of its zone.
fn neighbour(host: HostId) -> HostId {
    HostId((host.0 + ZONES - 1) % HOSTS + 1)
}

impl Cluster {
    fn first_shard(&self) -> Shard {
        self.placement.data_shards().next().expect("a shard").clone()
    }

    fn order(&mut self, shard: &Shard, kind: ProposalKind) {
        let proposal = self.proposal(shard, kind, Origin::Manual);
        let answer = self.apply(Command::Propose(proposal));
        assert!(matches!(answer, Response::Accepted(_)), "{answer:?}");
    }

    fn is_in(&self, kind: MigrationKind, state: MigrationState) -> bool {
        let mut active = self.placement.active_migrations();
        active.any(|migration| (migration.kind, migration.state) == (kind, state))
    }
}

impl Procedure {
    /// A cluster in which it has just been asked for.
    fn begin(self) -> Cluster {
        let mut cluster = Cluster::new(HOSTS, ZONES, 2, limits(), SEED);
        cluster.assert_comes_to_rest();
        let shard = cluster.first_shard();
        let home = shard.home.expect("it has a home");
        let mut voters = shard.voters();
        let (follower, follower_host) = voters.find(|(replica, _)| *replica != home).expect("three");
        let home_host = shard.replicas[&home].host;
        let kind = match self {
            Procedure::MoveFollower => ProposalKind::Move {
                from: follower,
                to: neighbour(follower_host),
                take_home: false,
            },
            Procedure::MoveHome => ProposalKind::Move {
                from: home,
                to: neighbour(home_host),
                take_home: true,
            },
            Procedure::Add => {
                cluster.ask(4);
                return cluster;
            }
            Procedure::Remove => {
                cluster.ask(4);
                cluster.assert_comes_to_rest();
                cluster.ask(3);
                return cluster;
            }
            Procedure::Home => ProposalKind::Home { to: follower_host },
            Procedure::Split => split(&shard),
            Procedure::Merge => {
                cluster.order(&shard, split(&shard));
                cluster.assert_comes_to_rest();
                let next = cluster.next_of(&cluster.first_shard());
                ProposalKind::Merge {
                    next: next.expect("it was split"),
                }
            }
            Procedure::Drain => {
                cluster.decommission(home_host);
                return cluster;
            }
        };
        let shard = cluster.first_shard();
        cluster.order(&shard, kind);
        cluster
    }
}

/// Kinds and states that are seen while nobody dies, in the order in which they come.
fn states_of(procedure: Procedure) -> Vec<(MigrationKind, MigrationState)> {
    let mut cluster = procedure.begin();
    let mut seen = Vec::new();
    for _ in 0..TICKS_MAX {
        let active = cluster.placement.active_migrations();
        for state in active.map(|migration| (migration.kind, migration.state)) {
            if !seen.contains(&state) {
                seen.push(state);
            }
        }
        cluster.tick();
    }
    cluster.assert_comes_to_rest();
    seen
}

/// One of them dies in this state; everything must come to rest, and say the same.
fn dies(procedure: Procedure, (kind, state): (MigrationKind, MigrationState), victim: Victim) {
    let mut cluster = procedure.begin();
    while !cluster.is_in(kind, state) {
        cluster.tick();
    }
    match victim {
        Victim::Controller => cluster.controller = None,
        Victim::Briefly(host) | Victim::ForGood(host) => cluster.crash(host),
    }
    (0..AWAY_TICKS).for_each(|_| cluster.tick());
    if let Victim::Briefly(host) = victim {
        cluster.restart(host);
    }
    cluster.assert_comes_to_rest();
    cluster.assert_agreement();
    cluster.assert_replayable();
    if victim == Victim::Controller {
        let mut ended = cluster.placement.migrations().values();
        let lost = ended.find(|migration| migration.state != MigrationState::Done);
        assert!(lost.is_none(), "the next controller goes on: {lost:?}");
    }
}

fn in_each_state(procedure: Procedure, kind: MigrationKind, expected: &[MigrationState]) {
    let states = states_of(procedure);
    let own: Vec<MigrationState> = states
        .iter()
        .filter(|(of, _)| *of == kind)
        .map(|(_, state)| *state)
        .collect();
    assert_eq!(own, expected, "{procedure:?} comes through {states:?}");
    for state in states {
        for victim in victims() {
            println!("{procedure:?} in {state:?}: {victim:?}");
            dies(procedure, state, victim);
        }
    }
}

#[test]
fn a_replica_moves() {
    in_each_state(
        Procedure::MoveFollower,
        MigrationKind::Move,
        &[Proposed, Adding, CatchingUp, Switching, Removing, Cleaning],
    );
}

#[test]
fn a_homes_replica_moves() {
    in_each_state(
        Procedure::MoveHome,
        MigrationKind::Move,
        &[
            Proposed,
            Adding,
            CatchingUp,
            Transferring,
            Switching,
            Removing,
            Cleaning,
        ],
    );
}

#[test]
fn a_voter_is_added() {
    in_each_state(
        Procedure::Add,
        MigrationKind::Add,
        &[Adding, CatchingUp, Switching],
    );
}

#[test]
fn a_voter_is_removed() {
    in_each_state(
        Procedure::Remove,
        MigrationKind::Remove,
        &[Transferring, Switching, Removing, Cleaning],
    );
}

#[test]
fn a_home_moves() {
    in_each_state(Procedure::Home, MigrationKind::Home, &[Proposed, Transferring]);
}

#[test]
fn a_shard_is_split() {
    in_each_state(
        Procedure::Split,
        MigrationKind::Split,
        &[Proposed, Splitting, Settling],
    );
}

#[test]
fn two_shards_are_merged() {
    in_each_state(
        Procedure::Merge,
        MigrationKind::Merge,
        &[Proposed, Freezing, Absorbing, Dissolving],
    );
}

#[test]
fn a_host_is_drained() {
    in_each_state(
        Procedure::Drain,
        MigrationKind::Move,
        &[Adding, CatchingUp, Transferring, Switching, Removing, Cleaning],
    );
}
