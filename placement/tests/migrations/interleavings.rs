//! Random interleavings of faults, proposals and controllers, from a seed.
//!
//! While they last, the audit judges every entry and every step of the world. Then the faults stop, and everything must
//! come to rest (I10): no migration active, the log and the groups agreed to the last replica, nothing left on any disk
//! that nobody wants.

use placement::{
    Admission, Command, HostId, HostState, Limits, MigrationId, Origin, Proposal, ProposalKind, Reasons,
    ReplicaId, Rules, Shard, ShardId, Timeouts, emptied_hosts, placement_group_target, repairs,
};
use proptest::prelude::*;

use crate::cluster::{Cluster, Network};
use crate::controller::Duties;
use crate::scripts::describe_shard;

pub(crate) const HOSTS: u64 = 6;
const SHARDS: u64 = 3;
const TICK_MS: u64 = 500;
/// Ticks in which a host that is down is declared dead.
const DEAD_TICKS: u32 = 70;
/// Ticks in which everything must come to rest once the faults have stopped.
const REST_TICKS: u32 = 2_000;

#[derive(Clone, Debug)]
enum Event {
    Run {
        ticks: u8,
    },
    Crash {
        host: u64,
    },
    Restart {
        host: u64,
    },
    KillController,
    Propose {
        kind: u8,
        shard: u64,
        replica: usize,
        host: u64,
        urgent: bool,
    },
    Cancel {
        back: u64,
    },
    Unreliable {
        delay_max_ms: u64,
    },
    Prompt,
    Transfer {
        shard: u64,
        voter: usize,
    },
    Admit {
        host: u64,
        admission: u8,
    },
    Decommission {
        host: u64,
    },
    Ask {
        replication_factor: u32,
    },
    Burst {
        writes: u64,
    },
    /// Most of a shard's voters die, are declared dead, and the shard is recovered by force.
    Lose {
        shard: u64,
    },
    Recover {
        shard: u64,
    },
}

fn event() -> impl Strategy<Value = Event> {
    let host = || 1..=HOSTS;
    let shard = || 0..=SHARDS + 2;
    prop_oneof![
        6 => (1u8..12).prop_map(|ticks| Event::Run { ticks }),
        2 => host().prop_map(|host| Event::Crash { host }),
        2 => host().prop_map(|host| Event::Restart { host }),
        2 => Just(Event::KillController),
        6 => (0u8..6, shard(), 0usize..5, host(), any::<bool>())
            .prop_map(|(kind, shard, replica, host, urgent)| Event::Propose { kind, shard, replica, host, urgent }),
        1 => (0u64..3).prop_map(|back| Event::Cancel { back }),
        2 => (1u64..20_000).prop_map(|delay_max_ms| Event::Unreliable { delay_max_ms }),
        1 => Just(Event::Prompt),
        2 => (shard(), 0usize..5).prop_map(|(shard, voter)| Event::Transfer { shard, voter }),
        1 => (host(), 0u8..3).prop_map(|(host, admission)| Event::Admit { host, admission }),
        1 => host().prop_map(|host| Event::Decommission { host }),
        1 => (3u32..5).prop_map(|replication_factor| Event::Ask { replication_factor }),
        1 => (1u64..3_000).prop_map(|writes| Event::Burst { writes }),
        1 => shard().prop_map(|shard| Event::Lose { shard }),
        1 => shard().prop_map(|shard| Event::Recover { shard }),
    ]
}

pub(crate) fn limits() -> Limits {
    let timeouts = Timeouts {
        adding_ms: 6_000,
        catching_up_ms: 20_000,
        no_progress_ms: 8_000,
        transferring_ms: 6_000,
        switching_ms: 6_000,
    };
    Limits {
        timeouts,
        dead_after_ms: 30_000,
        homes_max: 2,
        ..Limits::default()
    }
}

impl Cluster {
    fn meet(&mut self, event: &Event) {
        let now_ms = self.now_ms;
        match *event {
            Event::Run { ticks } => (0..ticks).for_each(|_| self.tick()),
            Event::Crash { host } => self.crash(HostId(host)),
            Event::Restart { host } => {
                self.restart(HostId(host));
            }
            Event::KillController => self.controller = None,
            Event::Propose {
                kind,
                shard,
                replica,
                host,
                urgent,
            } => {
                if self.placement.shard(ShardId(shard)).is_none() {
                    return;
                }
                let proposal = self.wish(kind, ShardId(shard), replica, HostId(host), urgent);
                self.write(Command::Propose(proposal));
            }
            Event::Cancel { back } => {
                let last = self.placement.migrations().keys().last().map_or(0, |id| id.0);
                let migration = MigrationId(last.saturating_sub(back));
                self.write(Command::Cancel { migration, now_ms });
            }
            Event::Unreliable { delay_max_ms } => self.network = Network::Unreliable { delay_max_ms },
            Event::Prompt => self.network = Network::Prompt,
            Event::Transfer { shard, voter } => self.transfer(ShardId(shard), voter),
            Event::Admit { host, admission } => {
                let admission =
                    [Admission::Open, Admission::Cordoned, Admission::Draining][usize::from(admission)];
                self.write(Command::SetAdmission {
                    host: HostId(host),
                    admission,
                    now_ms,
                });
            }
            Event::Decommission { host } => self.decommission(HostId(host)),
            Event::Ask { replication_factor } => self.ask(replication_factor),
            Event::Burst { writes } => {
                let up = self.up.clone();
                self.groups.values_mut().for_each(|group| group.tick(writes, &up));
            }
            Event::Lose { shard } => self.lose(ShardId(shard)),
            Event::Recover { shard } => self.recover(ShardId(shard)),
        }
    }

    /// Not where the placement group would be lost as well: nobody could declare anything.
    fn lose(&mut self, shard: ShardId) {
        let Some(known) = self.placement.shard(shard) else {
            return;
        };
        let voters: Vec<HostId> = known.voters().map(|(_, host)| host).collect();
        let doomed = &voters[..voters.len() / 2 + 1];
        let rest = self
            .up
            .iter()
            .copied()
            .filter(|up| !doomed.contains(up))
            .collect();
        if !self.groups[&ShardId::PLACEMENT].has_quorum(&rest) {
            return;
        }
        doomed.iter().for_each(|host| self.crash(*host));
        (0..DEAD_TICKS).for_each(|_| self.tick());
        self.recover(shard);
    }

    pub(crate) fn decommission(&mut self, host: HostId) {
        self.write(Command::ChangeAdmission {
            host,
            admission: Admission::Decommissioning,
            origin: Origin::Manual,
            reason: String::new(),
            now_ms: self.now_ms,
        });
    }

    /// Changes how many voters a shard is to have.
    pub(crate) fn ask(&mut self, replication_factor: u32) {
        let rules = Rules {
            replication_factor,
            ..self.placement.rules().clone()
        };
        self.write(Command::SetRules {
            rules,
            now_ms: self.now_ms,
        });
    }

    fn recover(&mut self, shard: ShardId) {
        self.write(Command::RecoverShard {
            shard,
            origin: Origin::Manual,
            reason: String::new(),
            now_ms: self.now_ms,
        });
    }

    fn wish(&self, kind: u8, shard: ShardId, replica: usize, to: HostId, urgent: bool) -> Proposal {
        let known = self.placement.shard(shard).expect("a shard");
        let from = known
            .replicas
            .keys()
            .nth(replica)
            .copied()
            .unwrap_or(ReplicaId(1));
        let kind = match kind {
            0 => ProposalKind::Move {
                from,
                to,
                take_home: urgent,
            },
            1 => ProposalKind::Add { to },
            4 => split(known),
            5 => ProposalKind::Merge {
                next: self.next_of(known).unwrap_or(ShardId(1)),
            },
            // While hosts are down, I3 allows fewer voters than the rules ask for. Nobody proposes that, and once one
            // more host is lost for good such a removal waits for ever: of two voters, one is dead.
            2 if self.placement.voters_floor(known) == self.placement.voters_wanted(known) => {
                ProposalKind::Remove { from }
            }
            _ => ProposalKind::Home { to },
        };
        let origin = if urgent { Origin::Manual } else { Origin::Model };
        self.proposal(known, kind, origin)
    }

    /// The shard whose range follows.
    pub(crate) fn next_of(&self, shard: &Shard) -> Option<ShardId> {
        let mut others = self.placement.data_shards();
        let next = others.find(|other| Some(&other.range.start) == shard.range.end.as_ref());
        next.map(|next| next.id)
    }

    pub(crate) fn proposal(&self, shard: &Shard, kind: ProposalKind, origin: Origin) -> Proposal {
        Proposal {
            shard: shard.id,
            kind,
            basis: shard.epoch,
            origin,
            expires_ms: self.now_ms + 20_000,
            reasons: Reasons::default(),
            window: self.placement.window(),
            now_ms: self.now_ms,
        }
    }

    /// Leadership moves for reasons of its own.
    fn transfer(&mut self, shard: ShardId, voter: usize) {
        let Some(group) = self.groups.get(&shard) else {
            return;
        };
        if let Some(to) = group.membership.voters[0].iter().nth(voter).copied() {
            self.hand_over(shard, to).ok();
        }
    }

    pub(crate) fn tick(&mut self) {
        self.pass(TICK_MS);
        // A host that is up but counted out joins again, until the placement group answers.
        let counted_out: Vec<HostId> = self.counted_out().collect();
        for host in counted_out {
            self.restart(host);
        }
        self.round(Duties::All);
    }

    fn counted_out(&self) -> impl Iterator<Item = HostId> + '_ {
        let hosts = self.placement.hosts().values();
        hosts
            .filter(|host| host.state != HostState::Up && self.up.contains(&host.id))
            .map(|host| host.id)
    }

    /// The faults stop; one host that every group can do without may stay down for good.
    fn heal(&mut self, lost: Option<HostId>) {
        self.network = Network::Prompt;
        for number in 1..=HOSTS {
            self.restart(HostId(number));
        }
        self.pass(TICK_MS);
        let without = |cluster: &Cluster, host| {
            let rest = cluster.up.iter().copied().filter(|up| *up != host).collect();
            cluster.groups.values().all(|group| group.has_quorum(&rest))
        };
        if let Some(host) = lost.filter(|host| without(self, *host)) {
            self.crash(host);
        }
    }

    fn is_at_rest(&self) -> bool {
        self.placement.active_migrations().next().is_none()
            && self.orders.is_empty()
            && repairs(&self.placement, self.now_ms).is_empty()
            && placement_group_target(&self.placement, self.now_ms).is_none()
            && emptied_hosts(&self.placement).is_empty()
            && self
                .placement
                .hosts()
                .values()
                .all(|host| self.is_settled(host.id, host.state))
    }

    /// Whether the log knows how it stands with a host.
    fn is_settled(&self, host: HostId, state: HostState) -> bool {
        match state {
            HostState::Up => self.up.contains(&host),
            HostState::Down => false,
            HostState::Dead | HostState::Removed => !self.up.contains(&host),
        }
    }

    /// What happened last, and to what end, for a failure's message.
    fn last_words(&self) -> Vec<String> {
        let trace = &self.trace[self.trace.len().saturating_sub(20)..];
        let hosts = self.placement.hosts().values();
        let hosts = hosts.map(|h| format!("{} {:?} {:?} in {}", h.id, h.state, h.admission, h.zone));
        let shards = self
            .placement
            .shards()
            .keys()
            .map(|shard| describe_shard(self, *shard));
        let wanted = repairs(&self.placement, self.now_ms)
            .into_iter()
            .map(|proposal| format!("{proposal:?}"));
        let groups = self.groups.iter().map(|(id, group)| {
            let copies = group.copies.iter().map(|(replica, copy)| {
                let fenced = if group.fenced.contains(replica) {
                    " fenced"
                } else {
                    ""
                };
                format!("{replica}@{} {}{fenced}", copy.host, copy.matched)
            });
            let copies: Vec<String> = copies.collect();
            let leader = group
                .leader
                .map_or("nobody".to_owned(), |leader| leader.to_string());
            format!("group {id}: {leader} leads; {}", copies.join(", "))
        });
        let orders = self.orders.iter().map(|order| format!("{order:?}"));
        trace
            .iter()
            .cloned()
            .chain(hosts)
            .chain(shards)
            .chain(groups)
            .chain(wanted)
            .chain(orders)
            .collect()
    }

    /// Comes to rest, then stays there.
    pub(crate) fn assert_comes_to_rest(&mut self) {
        let mut ticks = 0;
        while !self.is_at_rest() {
            ticks += 1;
            assert!(ticks < REST_TICKS, "I10: {:#?}", self.last_words());
            self.tick();
        }
        (0..10).for_each(|_| self.tick());
        assert!(
            self.is_at_rest(),
            "no rest at {} ms: {:#?}",
            self.now_ms,
            self.last_words()
        );
    }

    /// The log, the groups and the disks say the same.
    pub(crate) fn assert_agreement(&self) {
        for (id, group) in &self.groups {
            if group.is_absorbed {
                assert!(self.placement.shard(*id).is_none(), "{id} is absorbed");
                continue;
            }
            let shard = self.placement.shard(*id).expect("a shard");
            let voters = shard.voters().map(|(replica, _)| replica).collect();
            assert_eq!(group.membership.voters, [voters], "voters of {id}");
            assert!(group.membership.learners.is_empty(), "stray learners of {id}");
            assert_eq!(
                shard.epoch.conf_ver, group.membership.conf_ver,
                "conf_ver of {id}"
            );
            assert_eq!(
                shard.observed.map(|seen| seen.replica),
                group.leader,
                "home of {id}"
            );
        }
        for host in &self.up {
            let held = self.disks[host].replicas.iter().filter(|(id, shard)| {
                let shard = self.placement.shard(**shard);
                shard.is_none_or(|shard| !shard.replicas.contains_key(id))
            });
            assert_eq!(held.count(), 0, "stray replicas on {host}");
        }
    }
}

/// A split that leaves next to nothing below it.
pub(crate) fn split(shard: &Shard) -> ProposalKind {
    ProposalKind::Split {
        at: [shard.range.start.as_slice(), &[7]].concat(),
    }
}

fn run(seed: u64, events: &[Event], lost: Option<u64>) -> Cluster {
    run_on(
        Cluster::new(HOSTS, 3, SHARDS as u32, limits(), seed),
        events,
        lost,
    )
}

fn run_on(mut cluster: Cluster, events: &[Event], lost: Option<u64>) -> Cluster {
    for event in events {
        cluster.meet(event);
        cluster.tick();
    }
    cluster.heal(lost.map(HostId));
    cluster.assert_comes_to_rest();
    cluster.assert_agreement();
    cluster.assert_replayable();
    cluster
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn any_interleaving_keeps_the_invariants_and_ends(
        seed in any::<u64>(),
        events in prop::collection::vec(event(), 1..80),
        lost in prop::option::of(1..=HOSTS),
    ) {
        run(seed, &events, lost);
    }
}

/// The random test is worth something only if its runs get into every state.
#[test]
fn the_interleavings_reach_every_state() {
    use placement::MigrationState::*;
    use proptest::strategy::ValueTree;
    use proptest::test_runner::{Config, RngAlgorithm, TestRng, TestRunner};

    let rng = TestRng::deterministic_rng(RngAlgorithm::ChaCha);
    let mut runner = TestRunner::new_with_rng(Config::default(), rng);
    let mut seen = std::collections::BTreeSet::new();
    let mut removed = 0;
    for seed in 0..96 {
        let events = prop::collection::vec(event(), 80)
            .new_tree(&mut runner)
            .unwrap()
            .current();
        let cluster = run(seed, &events, None);
        let steps = cluster
            .placement
            .migrations()
            .values()
            .flat_map(|migration| &migration.steps);
        seen.extend(steps.map(|step| step.state));
        let hosts = cluster.placement.hosts().values();
        removed += hosts.filter(|host| host.state == HostState::Removed).count();
    }
    assert!(removed > 0, "no host was ever decommissioned to its end");
    let all = [
        Proposed,
        Adding,
        CatchingUp,
        Transferring,
        Switching,
        Removing,
        Cleaning,
        Splitting,
        Settling,
        Freezing,
        Absorbing,
        Dissolving,
        Thawing,
        Done,
        Aborting,
        CleaningDst,
        Aborted,
        Rejected,
        Collecting,
        Reopening,
        Superseded,
    ];
    assert_eq!(seen.into_iter().collect::<Vec<_>>(), all);
}

/// Found by the random test: an order to add a learner arrived after the learner was given up and destroyed, and an
/// order to switch arrived after that. The learner was one again, so the switch made it a voter without a disk.
fn late_learner_then_late_switch(unfenced: bool) {
    let mut cluster = Cluster::new(HOSTS, 3, SHARDS as u32, limits(), 10_280_428_977_373_581_912);
    cluster
        .groups
        .values_mut()
        .for_each(|group| group.unfenced = unfenced);
    let ticks = |ticks| Event::Run { ticks };
    let events = [
        Event::Unreliable { delay_max_ms: 18_751 },
        Event::Restart { host: 1 },
        Event::Admit {
            host: 2,
            admission: 2,
        },
        ticks(4),
        Event::Unreliable { delay_max_ms: 15_824 },
        ticks(11),
        ticks(1),
        Event::Transfer { shard: 0, voter: 0 },
        Event::Propose {
            kind: 0,
            shard: 0,
            replica: 0,
            host: 1,
            urgent: false,
        },
        Event::Unreliable { delay_max_ms: 1_416 },
        ticks(1),
        ticks(1),
        ticks(1),
        ticks(2),
    ];
    run_on(cluster, &events, None);
}

#[test]
fn late_orders_are_refused_by_the_membership_they_were_meant_for() {
    late_learner_then_late_switch(false);
}

#[test]
#[should_panic(expected = "I5")]
fn without_that_fence_they_do_harm() {
    late_learner_then_late_switch(true);
}
