//! A controller: observes, asks `next_actions`, sends orders, writes evidence. All its memory dies with it.

use std::collections::{BTreeMap, BTreeSet};

use placement::{
    Accepted, Action, Advance, Command, ControllerTerm, Evidence, Fenced, HostId, HostState, HostView,
    LagSample, LeaderView, LogEnd, Migration, Observation, Origin, Pacer, ReplicaId, ReplicaProgress,
    Response, ShardId, emptied_hosts, next_actions, overdue_hosts, placement_group_target, repairs, strays,
};

use crate::cluster::{Cluster, Disk, Order};

/// How often an order is repeated.
const REPEAT_MS: u64 = 2_000;
/// A snapshot is sent to a replica that is this far behind.
const SNAPSHOT_LAG: u64 = 1_000;

#[derive(Default)]
pub(crate) struct Controller {
    pub(crate) host: HostId,
    pub(crate) term: ControllerTerm,
    pacer: Pacer,
    progress: BTreeMap<(ShardId, ReplicaId), Tracked>,
}

#[derive(Default)]
struct Tracked {
    samples: Vec<LagSample>,
    matched: u64,
    advanced_ms: u64,
}

/// What a round does beside driving migrations.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Duties {
    /// Migrations only: what scripts want to see.
    Migrations,
    /// Host health, repairs, the placement group, debris too.
    All,
}

impl Cluster {
    /// The leader of the placement group takes control, if it has not.
    pub(crate) fn take_control(&mut self) {
        let Some(host) = self
            .groups
            .get(&ShardId::PLACEMENT)
            .and_then(|group| group.leader_host())
        else {
            return;
        };
        if self
            .controller
            .as_ref()
            .is_some_and(|controller| controller.host == host)
            || !self.up.contains(&host)
        {
            return;
        }
        self.controller = None;
        let answer = self.write(Command::TakeControl {
            host,
            now_ms: self.now_ms,
        });
        if let Some(Response::Accepted(Accepted::Control(term))) = answer {
            self.controller = Some(Controller {
                host,
                term,
                ..Controller::default()
            });
        }
    }

    /// One round of the controller.
    pub(crate) fn round(&mut self, duties: Duties) {
        self.take_control();
        let Some(mut controller) = self.controller.take() else {
            return;
        };
        self.report_homes();
        if duties == Duties::All {
            self.keep_house(&mut controller);
        }
        let active: Vec<Migration> = self.placement.active_migrations().cloned().collect();
        for migration in active {
            self.drive(&mut controller, &migration);
        }
        self.controller = Some(controller);
    }

    fn drive(&mut self, controller: &mut Controller, migration: &Migration) {
        let mut observation = self.observe(controller, migration.shard);
        if let Some(other) = migration.other_shard() {
            observation.add_other(self.observe(controller, other));
        }
        let now_ms = self.now_ms;
        let term = controller.term;
        for action in next_actions(&self.placement, migration, &observation, term, now_ms) {
            if !controller.pacer.is_due(migration.id, &action, now_ms, REPEAT_MS) {
                continue;
            }
            match action {
                Action::Wait { .. } => {}
                Action::Propose(command) => self.record(*command),
                action => {
                    let shard = migration.shard;
                    self.send(Order {
                        due_ms: now_ms,
                        shard,
                        term,
                        membership_index: observation.membership_index(),
                        action,
                    });
                }
            }
        }
    }

    fn record(&mut self, command: Command) {
        let words = match &command {
            Command::Advance(Advance {
                migration,
                expect_state,
                next,
                evidence,
                ..
            }) => {
                format!(
                    "{migration}: {expect_state:?} -> {next:?} ({})",
                    words_of(evidence)
                )
            }
            command => format!("{command:?}"),
        };
        match self.write(command) {
            Some(Response::Refused(refusal)) => self.trace.push(format!("{words} refused: {refusal}")),
            Some(Response::Accepted(_)) => self.trace.push(words),
            None => self
                .trace
                .push(format!("{words}: no quorum of the placement group")),
        }
    }

    /// Tells the placement group who leads, fenced by term.
    fn report_homes(&mut self) {
        let seen: Vec<_> = self
            .groups
            .iter()
            .map(|(id, group)| (*id, group.leader, group.raft_term))
            .collect();
        for (shard, leader, raft_term) in seen {
            let known = self.placement.shard(shard).and_then(|shard| shard.observed);
            let news = known.is_none_or(|known| known.raft_term < raft_term);
            if let Some(replica) = leader.filter(|_| news) {
                self.write(Command::ObserveHome {
                    shard,
                    replica,
                    raft_term,
                    now_ms: self.now_ms,
                });
            }
        }
    }

    fn keep_house(&mut self, controller: &mut Controller) {
        let now_ms = self.now_ms;
        let states: Vec<_> = self
            .placement
            .hosts()
            .values()
            .map(|host| (host.id, host.state))
            .collect();
        for (host, state) in states {
            if state == HostState::Up && !self.up.contains(&host) {
                self.write(Command::SetHostState {
                    host,
                    state: HostState::Down,
                    now_ms,
                });
            }
        }
        for host in overdue_hosts(&self.placement, now_ms) {
            self.write(Command::DeclareDead { host, now_ms });
        }
        for host in emptied_hosts(&self.placement) {
            let left = self.write(Command::RemoveHost {
                host,
                origin: Origin::Drain,
                reason: "it holds nothing any more".to_owned(),
                now_ms,
            });
            if matches!(left, Some(Response::Accepted(_))) {
                self.trace.push(format!("{host} leaves for good"));
                self.up.remove(&host);
            }
        }
        let group = placement_group_target(&self.placement, now_ms);
        for proposal in repairs(&self.placement, now_ms).into_iter().chain(group) {
            self.write(Command::Propose(proposal));
        }
        self.write(Command::Expire { now_ms });
        let shards: Vec<ShardId> = self.groups.keys().copied().collect();
        for shard in shards {
            let observation = self.observe(controller, shard);
            for action in strays(&self.placement, &observation) {
                let term = controller.term;
                self.send(Order {
                    due_ms: now_ms,
                    shard,
                    term,
                    membership_index: observation.membership_index(),
                    action,
                });
            }
        }
    }

    /// Looks at a shard from the controller's side: only what answers is seen.
    pub(crate) fn observe(&self, controller: &mut Controller, shard: ShardId) -> Observation {
        let hosts = self.disks.iter().filter(|(host, _)| self.up.contains(host));
        let hosts = hosts.map(|(host, disk)| {
            let replicas: BTreeSet<ReplicaId> = disk
                .replicas
                .iter()
                .filter(|(_, of)| **of == shard)
                .map(|(id, _)| *id)
                .collect();
            let group = self.groups.get(&shard);
            let version = |id: &ReplicaId| Some((*id, group?.generation_of(*id)?));
            (
                *host,
                HostView {
                    generations: replicas.iter().filter_map(version).collect(),
                    replicas,
                    tombstones: disk.tombstones.clone(),
                    fenced: self.observe_fenced(disk, shard),
                },
            )
        });
        Observation {
            other_leader: None,
            shard,
            sampled_ms: self.now_ms,
            leader: self.observe_leader(controller, shard),
            hosts: hosts.collect(),
        }
    }

    /// Logs are counted here, and each is a beginning of the longest: no term is needed to compare them.
    fn observe_fenced(&self, disk: &Disk, shard: ShardId) -> BTreeMap<ReplicaId, Fenced> {
        let Some(group) = self.groups.get(&shard) else {
            return BTreeMap::new();
        };
        let end = |replica: &ReplicaId| LogEnd {
            index: group.copies.get(replica).map_or(0, |copy| copy.matched),
            ..LogEnd::default()
        };
        let of_shard = disk
            .fenced
            .iter()
            .filter(|(id, _)| disk.replicas.get(id) == Some(&shard));
        let fenced = of_shard.map(|(replica, migration)| {
            let fenced = Fenced {
                migration: *migration,
                end: end(replica),
            };
            (*replica, fenced)
        });
        fenced.collect()
    }

    fn observe_leader(&self, controller: &mut Controller, shard: ShardId) -> Option<LeaderView> {
        let group = self
            .groups
            .get(&shard)
            .filter(|group| group.is_available(&self.up))?;
        let raft_term = group.raft_term;
        let mut progress = BTreeMap::new();
        for (id, copy) in group.copies.iter().filter(|(id, _)| group.membership.has(**id)) {
            let lag_entries = group.last - copy.matched;
            let tracked = controller.progress.entry((shard, *id)).or_default();
            if copy.matched > tracked.matched {
                tracked.matched = copy.matched;
                tracked.advanced_ms = self.now_ms;
            }
            if !self.up.contains(&copy.host) {
                continue;
            }
            if tracked.samples.last().is_none_or(|last| last.at_ms < self.now_ms) {
                tracked.samples.push(LagSample {
                    at_ms: self.now_ms,
                    raft_term,
                    lag_entries,
                });
            }
            let excess = tracked.samples.len().saturating_sub(16);
            tracked.samples.drain(..excess);
            let seen = ReplicaProgress {
                samples: tracked.samples.clone(),
                snapshot_in_flight: Some(lag_entries > SNAPSHOT_LAG),
                advanced_ms: tracked.advanced_ms,
            };
            progress.insert(*id, seen);
        }
        let replica = group.leader?;
        let membership = group.membership.clone();
        Some(LeaderView {
            replica,
            host: group.leader_host()?,
            raft_term,
            membership,
            generation: group.generation,
            progress,
        })
    }
}

fn words_of(evidence: &Evidence) -> String {
    match evidence {
        Evidence::Start => "rules and limits hold".to_owned(),
        Evidence::Learner { membership_index } => format!("learner by entry {membership_index}"),
        Evidence::CaughtUp {
            leader,
            first,
            second,
        } => {
            format!(
                "lag {} then {}, {leader} leads",
                first.lag_entries, second.lag_entries
            )
        }
        Evidence::Leads { replica, raft_term } => format!("{replica} leads in term {raft_term}"),
        Evidence::Switched {
            membership_index,
            conf_ver,
            ..
        } => {
            format!("conf_ver {conf_ver} by entry {membership_index}")
        }
        Evidence::Absent {
            replica,
            membership_index,
        } => format!("{replica} absent at entry {membership_index}"),
        Evidence::Tombstone { host, replica } => format!("{host} has a tombstone of {replica}"),
        Evidence::Split { generation } => format!("the range has version {generation}"),
        Evidence::Frozen { generation } => format!("it is frozen as version {generation}"),
        Evidence::Thawed { generation } => format!("it goes on as version {generation}"),
        Evidence::Absorbed { generation } => format!("the whole range has version {generation}"),
        Evidence::Dissolved => "no replica of it is left".to_owned(),
        Evidence::Settled => "the new replicas exist".to_owned(),
        Evidence::HostDead { host } => format!("{host} is dead"),
        Evidence::GiveUp { reason, .. } => format!("{reason:?}"),
        Evidence::Fenced { host, replica, end } => {
            format!(
                "{replica} on {host} is fenced, its log ends with entry {}",
                end.index
            )
        }
        Evidence::Chosen { replica } => format!("{replica} has the most"),
    }
}
