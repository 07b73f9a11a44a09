//! The state machine beside migrations: hosts, routes, homes, affinities, settings, replay.

mod log;

use std::collections::BTreeMap;

use log::{Log, bootstrap, host, join};
use placement::{
    Accepted, Admission, Command, HostAffinityScores, HostId, HostState, Limits, NewHost, Origin, Proposal,
    ProposalKind, Reasons, Refusal, ReplicaId, Response, Rules, ShardId, WindowId, decode_state,
    encode_state,
};

impl Log {
    /// Three hosts in three zones, four shards.
    fn new() -> Self {
        let mut log = Self::default();
        log.accept(bootstrap(4, 3, Limits::default()));
        log.accept(join(0, 2));
        log.accept(join(0, 3));
        for shard in 1..=4 {
            log.accept(Command::ShardReady {
                shard: ShardId(shard),
                now_ms: 1,
            });
        }
        log
    }
}

fn observe(replica: u64, raft_term: u64) -> Command {
    Command::ObserveHome {
        shard: ShardId(1),
        replica: ReplicaId(replica),
        raft_term,
        now_ms: 3,
    }
}

#[test]
fn shards_wait_for_hosts_and_are_spread_with_their_homes() {
    let mut log = Log::default();
    log.accept(bootstrap(4, 3, Limits::default()));
    log.accept(join(0, 2));
    assert_eq!(
        (
            log.placement.shards_pending(),
            log.placement.data_shards().count()
        ),
        (4, 0)
    );
    log.accept(join(0, 3));
    assert_eq!(
        (
            log.placement.shards_pending(),
            log.placement.data_shards().count()
        ),
        (0, 4)
    );
    let mut homes: BTreeMap<HostId, u32> = BTreeMap::new();
    for shard in log.placement.data_shards() {
        assert_eq!(shard.voter_count(), 3);
        *homes.entry(shard.home_host().unwrap()).or_default() += 1;
    }
    assert_eq!(homes.into_values().collect::<Vec<_>>(), [2, 1, 1]);
    let shard = log.placement.shard_of_key(b"\x40\x00").unwrap();
    assert_eq!(shard.id, ShardId(2));
}

#[test]
fn nothing_is_accepted_before_the_bootstrap_nor_a_second_one() {
    let mut log = Log::default();
    assert_eq!(log.refuse(join(0, 2)), Refusal::NotBootstrapped);
    log.accept(bootstrap(4, 3, Limits::default()));
    assert!(matches!(
        log.refuse(bootstrap(4, 3, Limits::default())),
        Refusal::AlreadyBootstrapped { .. }
    ));
}

#[test]
fn a_join_that_is_repeated_makes_no_second_host() {
    let mut log = Log::new();
    let hosts = log.placement.hosts().len();
    assert_eq!(
        log.accept(join(0, 2)),
        Accepted::Joined {
            host: HostId(2),
            owed: Vec::new()
        }
    );
    assert_eq!(log.placement.hosts().len(), hosts);
}

#[test]
fn a_host_with_another_disk_or_address_is_told_apart() {
    let mut log = Log::new();
    assert_eq!(log.refuse(join(3, 4)), Refusal::TokenMismatch(HostId(3)));
    assert_eq!(log.refuse(join(9, 4)), Refusal::UnknownHost(HostId(9)));
    let same_address = NewHost {
        token: "other".to_owned(),
        ..host(2)
    };
    let again = Command::JoinHost {
        host_id: HostId(0),
        host: same_address,
        now_ms: 2,
    };
    assert_eq!(log.refuse(again), Refusal::AddressInUse(HostId(2)));
    let moved = NewHost {
        address: "elsewhere:1".to_owned(),
        ..host(2)
    };
    let version = log.placement.version();
    log.accept(Command::JoinHost {
        host_id: HostId(2),
        host: moved,
        now_ms: 2,
    });
    assert_eq!(log.placement.host(HostId(2)).unwrap().address, "elsewhere:1");
    assert!(log.placement.version() > version, "peers must learn the address");
}

#[test]
fn a_host_dies_only_when_down_and_goes_only_when_empty() {
    let mut log = Log::new();
    let dead = || Command::DeclareDead {
        host: HostId(2),
        now_ms: 5,
    };
    let set = |state| Command::SetHostState {
        host: HostId(2),
        state,
        now_ms: 5,
    };
    assert!(matches!(log.refuse(dead()), Refusal::HostStateForbids { .. }));
    log.accept(set(HostState::Down));
    log.accept(dead());
    assert!(matches!(
        log.refuse(set(HostState::Up)),
        Refusal::HostStateForbids { .. }
    ));
    assert!(matches!(
        log.refuse(set(HostState::Removed)),
        Refusal::HostHoldsReplicas { replicas: 4, .. }
    ));
    log.accept(join(2, 2));
    assert_eq!(log.placement.host(HostId(2)).unwrap().state, HostState::Up);
    log.accept(join(0, 5));
    let removed = Command::SetHostState {
        host: HostId(4),
        state: HostState::Removed,
        now_ms: 6,
    };
    log.accept(removed);
    assert_eq!(log.refuse(join(4, 5)), Refusal::HostRemoved(HostId(4)));
}

#[test]
fn a_host_that_leaves_for_good_is_forgotten_by_the_map_and_by_nobody_else() {
    let mut log = Log::new();
    log.accept(join(0, 4));
    let change = |host, admission, reason: &str| Command::ChangeAdmission {
        host: HostId(host),
        admission,
        origin: Origin::Manual,
        reason: reason.to_owned(),
        now_ms: 5,
    };
    let remove = |host| Command::RemoveHost {
        host: HostId(host),
        origin: Origin::Drain,
        reason: "empty".to_owned(),
        now_ms: 6,
    };
    assert_eq!(log.refuse(remove(4)), Refusal::NotDecommissioning(HostId(4)));
    assert_eq!(log.refuse(remove(9)), Refusal::UnknownHost(HostId(9)));
    log.accept(change(4, Admission::Decommissioning, "worn out"));
    assert_eq!(
        log.accept(change(4, Admission::Decommissioning, "again")),
        Accepted::Unchanged
    );
    assert!(matches!(
        log.refuse(change(4, Admission::Open, &"x".repeat(1_025))),
        Refusal::Invalid(_)
    ));
    let version = log.placement.version();
    log.accept(remove(4));
    assert_eq!(log.accept(remove(4)), Accepted::Unchanged);
    assert!(log.placement.version() > version, "peers must forget the address");
    for refused in [
        log.refuse(join(4, 4)),
        log.refuse(join(0, 4)),
        log.refuse(change(4, Admission::Open, "back?")),
    ] {
        assert_eq!(refused, Refusal::HostRemoved(HostId(4)));
    }
    // Its address is free, its id is not.
    let successor = NewHost {
        token: "another".to_owned(),
        ..host(4)
    };
    let joined = log.accept(Command::JoinHost {
        host_id: HostId(0),
        host: successor,
        now_ms: 7,
    });
    assert!(matches!(joined, Accepted::Joined { host: HostId(5), .. }));
    let about_it = log
        .placement
        .history()
        .events()
        .filter(|event| event.host == Some(HostId(4)));
    let told: Vec<&str> = about_it.map(|event| event.detail.as_str()).collect();
    assert_eq!(
        told[1..],
        [
            "Open -> Decommissioning by Manual: worn out",
            "Up -> Removed",
            "by Drain: empty"
        ]
    );
}

#[test]
fn homes_are_fenced_by_the_raft_term() {
    let mut log = Log::new();
    let voters: Vec<_> = log
        .placement
        .shard(ShardId(1))
        .unwrap()
        .voters()
        .map(|(id, _)| id.0)
        .collect();
    log.accept(observe(voters[1], 5));
    assert_eq!(log.refuse(observe(voters[0], 4)), Refusal::StaleTerm { known: 5 });
    assert_eq!(log.refuse(observe(voters[0], 5)), Refusal::StaleTerm { known: 5 });
    assert_eq!(log.accept(observe(voters[1], 5)), Accepted::Unchanged);
    assert_eq!(log.refuse(observe(99, 6)), Refusal::UnknownReplica(ReplicaId(99)));
    assert_eq!(
        log.placement.shard(ShardId(1)).unwrap().route_home(),
        Some(ReplicaId(voters[1]))
    );
    // In one term the replica with the greater id was elected later, whoever was heard of first.
    let greater = *voters.iter().max().unwrap();
    log.accept(observe(greater, 6));
    let lesser = *voters.iter().min().unwrap();
    assert_eq!(log.refuse(observe(lesser, 6)), Refusal::StaleTerm { known: 6 });
    log.accept(observe(lesser, 7));
    log.accept(observe(greater, 7));
}

#[test]
fn only_changed_routes_are_sent_again() {
    let mut log = Log::new();
    let version = log.placement.version();
    assert_eq!(log.placement.routes_since(0).count(), 5);
    assert_eq!(log.placement.routes_since(version).count(), 0);
    let other = log
        .placement
        .shard(ShardId(1))
        .unwrap()
        .voters()
        .nth(1)
        .unwrap()
        .0;
    log.accept(observe(other.0, 5));
    let changed: Vec<_> = log.placement.routes_since(version).collect();
    assert_eq!(changed.len(), 1);
    assert_eq!(changed[0].home.map(|home| home.replica), Some(other));
}

#[test]
fn affinities_must_be_whole_and_of_known_shards_and_hosts() {
    let mut log = Log::new();
    let record = |shard, scores: &[(u64, u32)]| Command::RecordAffinities {
        window: WindowId(3),
        model: "burn-1".to_owned(),
        scores: BTreeMap::from([(
            ShardId(shard),
            HostAffinityScores(scores.iter().map(|(host, ppm)| (HostId(*host), *ppm)).collect()),
        )]),
        now_ms: 7,
    };
    assert!(matches!(
        log.refuse(record(1, &[(1, 400_000)])),
        Refusal::Invalid(_)
    ));
    assert_eq!(
        log.refuse(record(9, &[(1, 1_000_000)])),
        Refusal::UnknownShard(ShardId(9))
    );
    assert_eq!(
        log.refuse(record(1, &[(9, 1_000_000)])),
        Refusal::UnknownHost(HostId(9))
    );
    log.accept(record(1, &[(1, 400_000), (2, 600_000)]));
    let stored = log.placement.affinity(ShardId(1)).unwrap();
    assert_eq!(
        (stored.window, stored.scores.0[&HostId(2)]),
        (WindowId(3), 600_000)
    );
}

#[test]
fn senseless_settings_are_refused() {
    let mut log = Log::new();
    let none = Rules {
        replication_factor: 0,
        ..Rules::default()
    };
    assert!(matches!(
        log.refuse(Command::SetRules {
            rules: none,
            now_ms: 1
        }),
        Refusal::Invalid(_)
    ));
    let none = Limits {
        homes_max: 0,
        ..Limits::default()
    };
    assert!(matches!(
        log.refuse(Command::SetLimits {
            limits: none,
            now_ms: 1
        }),
        Refusal::Invalid(_)
    ));
}

#[test]
fn paused_origins_are_refused() {
    let mut log = Log::new();
    let shard = log.placement.shard(ShardId(1)).unwrap();
    let (_, to) = shard.voters().nth(1).unwrap();
    let propose = |origin| {
        let proposal = Proposal {
            shard: shard.id,
            kind: ProposalKind::Home { to },
            basis: shard.epoch,
            origin,
            expires_ms: 100,
            reasons: Reasons::default(),
            window: WindowId(0),
            now_ms: 8,
        };
        Command::Propose(proposal)
    };
    let (model, manual) = (propose(Origin::Model), propose(Origin::Manual));
    let limits = Limits {
        paused: [Origin::Model].into(),
        ..Limits::default()
    };
    log.accept(Command::SetLimits { limits, now_ms: 8 });
    assert_eq!(log.refuse(model), Refusal::Paused(Origin::Model));
    log.accept(manual);
}

#[test]
fn an_entry_is_applied_once_and_time_never_goes_back() {
    let mut log = Log::new();
    let late = Command::Expire { now_ms: 500 };
    log.accept(late.clone());
    let state = log.placement.clone();
    assert!(matches!(
        log.placement.apply(log.index, late),
        Response::Refused(Refusal::Replayed { .. })
    ));
    assert!(log.placement == state);
    log.accept(Command::Expire { now_ms: 100 });
    assert_eq!(log.placement.now_ms(), 500);
}

#[test]
fn a_snapshot_is_the_state() {
    let log = Log::new();
    let bytes = encode_state(&log.placement).unwrap();
    let copy = decode_state(&bytes).unwrap();
    assert!(copy == log.placement);
    assert_eq!(encode_state(&copy).unwrap(), bytes);
}
