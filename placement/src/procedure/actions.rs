//! One match over the states: the table of the design page, as code.
//!
//! Reading order inside a state: is the evidence to leave it there; may it be given up; else order (again) what brings
//! the evidence about. What may be given up is decided by what is committed, never by what was ordered.

use super::evidence::{caught_up, heirs, lag_now};
use super::observation::{LeaderView, Observation};
use super::recovery;
use crate::command::{Advance, Command};
use crate::ids::{ControllerTerm, HostId, MigrationId, ReplicaId, ShardId};
use crate::migration::{AbortReason, Evidence, Migration, MigrationKind, MigrationState, Placed, SplitPlan};
use crate::model::Shard;
use crate::response::Refusal;
use crate::state::Placement;

/// How long to wait for something that no deadline bounds, before looking again.
const LOOK_AGAIN_MS: u64 = 1_000;
/// A transfer that was not heard of after this long is tried with the next voter.
const TRANSFER_PATIENCE_MS: u64 = 4_000;

/// How long a host may take to make its replica of a new shard before it is told to make an empty one.
const SUCCESSOR_PATIENCE_MS: u64 = 5_000;

/// What a controller does next. Orders are idempotent; whoever sends one stamps the shard, the migration and its own
/// controller term into it. An order that changes the membership also carries
/// [`Observation::membership_index`](super::Observation::membership_index), and the shard's leader refuses it once its
/// membership is another: or an order that arrives late could add a learner back that was given up, and a later one
/// still could make it a voter without a disk.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Action {
    /// Create an empty replica on `host`; refused there if the replica has a tombstone.
    CreateReplica {
        /// Where.
        host: HostId,
        /// Its id.
        replica: ReplicaId,
    },
    /// The shard's leader adds the replica as a learner.
    AddLearner {
        /// The replica.
        replica: ReplicaId,
        /// Its host.
        host: HostId,
    },
    /// The shard's leader hands the lead to a voter.
    TransferLeader {
        /// The voter.
        to: ReplicaId,
    },
    /// The shard's leader changes the voters in one joint change, or finishes the one that is under way. Refused there
    /// unless `add` is a learner, `demote` a voter, the leader stays a voter, and `conf_ver` is the next one.
    Switch {
        /// The learner that becomes a voter.
        add: Option<ReplicaId>,
        /// The voter that becomes a learner.
        demote: Option<ReplicaId>,
        /// The version of the new configuration, written into the same entry.
        conf_ver: u64,
        /// The migration, written into the same entry.
        migration: MigrationId,
    },
    /// The shard's leader drops a learner from the membership; refused there for a voter.
    RemoveReplica {
        /// The learner.
        replica: ReplicaId,
    },
    /// The host writes a durable tombstone for the replica, even one it never had, then deletes its files.
    DestroyReplica {
        /// Where.
        host: HostId,
        /// The replica.
        replica: ReplicaId,
    },
    /// The shard's leader has its log part the range; refused there unless the range has the version that the split was
    /// planned for.
    Split {
        /// That version.
        generation: u64,
        /// What is to come of it.
        plan: SplitPlan,
    },
    /// Create an empty replica of the new shard on a host whose replica of the old one is past the split and made none.
    /// Refused there as long as that may still come.
    CreateSuccessor {
        /// The replica that was split, on the same host.
        of: ReplicaId,
        /// The new one.
        made: Placed,
    },
    /// The leader of a shard that takes part in a merge makes its step of it; refused there unless the range has the
    /// version that the merge was planned for.
    StepMerge {
        /// The shard: the one that stays, or the one that is absorbed.
        shard: ShardId,
        /// What its log is to do.
        step: MergeStep,
    },
    /// As [`Action::DestroyReplica`], for a replica of an absorbed shard; refused as long as the replica beside it may
    /// still need it, after a crash or for a member that lacks the entry that absorbs.
    DestroyAbsorbed {
        /// Its shard.
        shard: ShardId,
        /// The replica, and where.
        doomed: Placed,
        /// The replica on the same host that has absorbed it.
        by: ReplicaId,
        /// The version of the range that has it all.
        generation: u64,
    },
    /// The host takes the replica out of its group for good and tells where its log ends, durably; where there is
    /// nothing of it, it writes a tombstone.
    FenceReplica {
        /// Where.
        host: HostId,
        /// The replica.
        replica: ReplicaId,
        /// The recovery.
        migration: MigrationId,
    },
    /// The host opens a fenced replica's data, with its whole log, as a group of one. Refused there unless the replica
    /// is fenced for this recovery.
    ReopenReplica {
        /// Where.
        host: HostId,
        /// The fenced replica.
        from: ReplicaId,
        /// The new one.
        replica: ReplicaId,
        /// The version of the range.
        generation: u64,
        /// The version of the voters.
        conf_ver: u64,
        /// The term of the new group's first entry.
        raft_term: u64,
        /// The recovery.
        migration: MigrationId,
    },
    /// Write this into the placement log.
    Propose(Box<Command>),
    /// Nothing to do before this time, unless something changes.
    Wait {
        /// Mechanism time.
        until_ms: u64,
    },
}

/// A step of a merge, in the log of one of the two shards.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MergeStep {
    /// Change no more.
    Freeze {
        /// The version of the range that the merge was planned for.
        generation: u64,
    },
    /// Go on, frozen or not.
    Thaw {
        /// The version of the range that the merge was planned for.
        generation: u64,
    },
    /// Take in the frozen shard.
    Absorb {
        /// The version of the range that the merge was planned for.
        generation: u64,
        /// The frozen shard.
        absorbed: ShardId,
        /// The version of its range, frozen.
        absorbed_generation: u64,
    },
}

/// What the controller of `term` should do for `migration` now. Empty if that controller is deposed, or the migration
/// has ended.
pub fn next_actions(
    placement: &Placement,
    migration: &Migration,
    observation: &Observation,
    term: ControllerTerm,
    now_ms: u64,
) -> Vec<Action> {
    let Some(shard) = placement.shard(migration.shard) else {
        return Vec::new();
    };
    if term != placement.controller_term() || migration.state.is_terminal() {
        return Vec::new();
    }
    if migration.kind == MigrationKind::Recover {
        let next = recovery::next_action(placement, migration, observation, term, now_ms);
        return Vec::from_iter(next);
    }
    let leader = observation.current_leader(shard);
    Look {
        placement,
        migration,
        shard,
        observation,
        leader,
        term,
        now_ms,
    }
    .actions()
}

pub(super) struct Look<'a> {
    pub(super) placement: &'a Placement,
    pub(super) migration: &'a Migration,
    pub(super) shard: &'a Shard,
    pub(super) observation: &'a Observation,
    pub(super) leader: Option<&'a LeaderView>,
    term: ControllerTerm,
    now_ms: u64,
}

impl Look<'_> {
    fn actions(&self) -> Vec<Action> {
        let action = match self.migration.state {
            MigrationState::Proposed => self.start(),
            MigrationState::Adding => self.add(),
            MigrationState::CatchingUp => self.catch_up(),
            MigrationState::Transferring if self.migration.kind == MigrationKind::Home => self.move_home(),
            MigrationState::Transferring => self.transfer(),
            MigrationState::Switching => self.switch(),
            MigrationState::Removing => self.remove(),
            MigrationState::Cleaning => self.destroy(self.migration.src, MigrationState::Done),
            MigrationState::Aborting => self.abort(),
            MigrationState::CleaningDst => self.destroy(self.migration.dst, MigrationState::Aborted),
            MigrationState::Splitting => self.split(),
            MigrationState::Settling => self.settle(),
            MigrationState::Freezing
            | MigrationState::Absorbing
            | MigrationState::Dissolving
            | MigrationState::Thawing => return self.merge(),
            MigrationState::Collecting
            | MigrationState::Reopening
            | MigrationState::Done
            | MigrationState::Aborted
            | MigrationState::Rejected
            | MigrationState::Superseded => return Vec::new(),
        };
        vec![action]
    }

    fn start(&self) -> Action {
        let next = match self.migration.kind {
            MigrationKind::Move | MigrationKind::Add => MigrationState::Adding,
            MigrationKind::Remove | MigrationKind::Home => MigrationState::Transferring,
            MigrationKind::Split => MigrationState::Splitting,
            MigrationKind::Merge => MigrationState::Freezing,
            MigrationKind::Recover => MigrationState::Collecting,
        };
        match self.placement.start_refusal(self.migration, self.now_ms) {
            None if self.must_yield() => self.wait(),
            None => self.advance(next, Evidence::Start),
            Some(Refusal::LimitReached(_) | Refusal::Paused(_)) => self.wait(),
            Some(Refusal::Expired { .. }) => self.give_up(MigrationState::Rejected, AbortReason::Deadline),
            Some(_) => self.give_up(MigrationState::Rejected, AbortReason::TargetGone),
        }
    }

    /// Whether a more urgent proposal is waiting that could start and wants one of the same hosts.
    fn must_yield(&self) -> bool {
        let rank = |m: &Migration| (m.origin, m.id);
        let rivals = self
            .placement
            .active_migrations()
            .filter(|m| m.state == MigrationState::Proposed);
        let mut urgent = rivals.filter(|m| rank(m) < rank(self.migration) && shares_host(m, self.migration));
        urgent.any(|m| self.placement.start_refusal(m, self.now_ms).is_none())
    }

    fn add(&self) -> Action {
        let Some(dst) = self.migration.dst else {
            return self.wait();
        };
        if let Some(leader) = self.leader.filter(|leader| leader.membership.has(dst.replica)) {
            let membership_index = leader.membership.log_index;
            return self.advance(MigrationState::CatchingUp, Evidence::Learner { membership_index });
        }
        if let Some(reason) = self.hopeless(dst) {
            return self.give_up(MigrationState::Aborting, reason);
        }
        if !self.observation.exists(dst) {
            return Action::CreateReplica {
                host: dst.host,
                replica: dst.replica,
            };
        }
        // A change that another controller left half done is finished first: a second one cannot begin.
        match self.leader {
            Some(leader) if leader.membership.is_uniform() => Action::AddLearner {
                replica: dst.replica,
                host: dst.host,
            },
            _ => self.wait(),
        }
    }

    fn catch_up(&self) -> Action {
        let Some(dst) = self.migration.dst else {
            return self.wait();
        };
        let limits = self.placement.limits();
        if let Some(leader) = self.leader
            && let Some(evidence) = caught_up(self.migration, leader, limits)
        {
            let source_leads = leader.is_source_of(self.migration);
            let next = if source_leads {
                MigrationState::Transferring
            } else {
                MigrationState::Switching
            };
            return self.advance(next, evidence);
        }
        if let Some(reason) = self.hopeless(dst).or(self.stalled(dst)) {
            return self.give_up(MigrationState::Aborting, reason);
        }
        Action::Wait {
            until_ms: self.now_ms.saturating_add(limits.catch_up_gap_ms.max(1)),
        }
    }

    /// No progress of the learner for too long, whether its leader says so or no leader does.
    fn stalled(&self, dst: Placed) -> Option<AbortReason> {
        let advanced = self
            .leader
            .and_then(|leader| leader.progress.get(&dst.replica))
            .map(|p| p.advanced_ms);
        let since_ms = advanced.unwrap_or(0).max(self.migration.since_ms);
        let limit_ms = self.placement.limits().timeouts.no_progress_ms;
        (self.now_ms >= since_ms.saturating_add(limit_ms)).then_some(AbortReason::NoProgress)
    }

    fn transfer(&self) -> Action {
        match self.leader {
            Some(leader) if self.is_staying_voter(leader) => {
                self.advance(MigrationState::Switching, leads(leader))
            }
            _ if self.is_overdue() && self.may_abort_transfer() => {
                let next = match self.migration.kind {
                    MigrationKind::Remove => MigrationState::Aborted,
                    _ => MigrationState::Aborting,
                };
                self.give_up(next, AbortReason::Deadline)
            }
            Some(leader) => self.hand_over(leader),
            None => self.wait(),
        }
    }

    fn may_abort_transfer(&self) -> bool {
        self.migration.kind == MigrationKind::Move || !self.migration.switch_ordered
    }

    fn is_staying_voter(&self, leader: &LeaderView) -> bool {
        !leader.is_source_of(self.migration) && self.shard.is_voter(leader.replica)
    }

    /// Hands the lead to a voter that stays; the next one after each spell of patience.
    fn hand_over(&self, leader: &LeaderView) -> Action {
        let limits = self.placement.limits();
        let heirs = heirs(Some(self.migration), self.shard, leader, self.observation, limits);
        let spell = self.now_ms.saturating_sub(self.migration.since_ms) / TRANSFER_PATIENCE_MS;
        let count = u64::try_from(heirs.len()).unwrap_or(u64::MAX);
        let chosen = spell
            .checked_rem(count)
            .and_then(|turn| heirs.get(usize::try_from(turn).ok()?));
        chosen.map_or_else(|| self.wait(), |to| Action::TransferLeader { to: *to })
    }

    fn move_home(&self) -> Action {
        let Some(dst) = self.migration.dst else {
            return self.wait();
        };
        match self.leader {
            Some(leader) if leader.replica == dst.replica => {
                self.advance(MigrationState::Done, leads(leader))
            }
            _ if !self.shard.is_voter(dst.replica) || self.placement.host_is_lost(dst.host) => {
                self.give_up(MigrationState::Aborted, AbortReason::TargetGone)
            }
            _ if self.is_overdue() => self.give_up(MigrationState::Aborted, AbortReason::Deadline),
            Some(leader) => self.hand_over_to(leader, dst.replica),
            None => self.wait(),
        }
    }

    fn hand_over_to(&self, leader: &LeaderView, to: ReplicaId) -> Action {
        let limit = self.placement.limits().transfer_lag_max;
        let close = lag_now(leader, to, self.observation).is_some_and(|lag| lag <= limit);
        if close {
            Action::TransferLeader { to }
        } else {
            self.wait()
        }
    }

    fn switch(&self) -> Action {
        let Some(leader) = self.leader else {
            return self.wait();
        };
        if let Some(step) = self.switched(leader) {
            return step;
        }
        if !leader.membership.is_uniform() {
            return self.order_switch();
        }
        if leader.is_source_of(self.migration) {
            return self.advance(MigrationState::Transferring, leads(leader));
        }
        let may_abort = self.migration.kind != MigrationKind::Remove;
        if self.is_overdue() && may_abort && leader.membership.conf_ver == self.shard.epoch.conf_ver {
            return self.give_up(MigrationState::Aborting, AbortReason::Deadline);
        }
        self.order_switch()
    }

    /// The step past the point of no return, if the switch is seen committed.
    fn switched(&self, leader: &LeaderView) -> Option<Action> {
        let conf_ver = self.next_conf_ver();
        let Migration { id, kind, .. } = *self.migration;
        if !leader.membership.is_switched(id, conf_ver) {
            return None;
        }
        let next = if kind == MigrationKind::Add {
            MigrationState::Done
        } else {
            MigrationState::Removing
        };
        let membership_index = leader.membership.log_index;
        Some(self.advance(
            next,
            Evidence::Switched {
                membership_index,
                conf_ver,
                migration: id,
            },
        ))
    }

    fn order_switch(&self) -> Action {
        Action::Switch {
            add: self.migration.dst.map(|dst| dst.replica),
            demote: self.migration.src.map(|src| src.replica),
            conf_ver: self.next_conf_ver(),
            migration: self.migration.id,
        }
    }

    fn next_conf_ver(&self) -> u64 {
        self.shard.epoch.conf_ver + 1
    }

    fn remove(&self) -> Action {
        let (Some(leader), Some(src)) = (self.leader, self.migration.src) else {
            return self.wait();
        };
        if let Some(step) = self.dropped(leader, src, MigrationState::Cleaning) {
            return step;
        }
        // A leader demoted to learner keeps leading, and cannot drop itself.
        if leader.replica == src.replica {
            self.hand_over(leader)
        } else {
            self.order_removal(leader, src)
        }
    }

    fn abort(&self) -> Action {
        let (Some(leader), Some(dst)) = (self.leader, self.migration.dst) else {
            return self.wait();
        };
        // The switch may have committed after it was given up: what is committed decides.
        if let Some(step) = self.switched(leader) {
            return step;
        }
        if !leader.membership.is_uniform() {
            return self.order_switch();
        }
        let step = self.dropped(leader, dst, MigrationState::CleaningDst);
        step.unwrap_or_else(|| self.order_removal(leader, dst))
    }

    fn split(&self) -> Action {
        match self.leader {
            Some(leader) if leader.generation == self.shard.epoch.generation + 1 => {
                let generation = leader.generation;
                self.advance(MigrationState::Settling, Evidence::Split { generation })
            }
            Some(_) => self.order_split(),
            None => self.wait(),
        }
    }

    fn order_split(&self) -> Action {
        match self.migration.split.clone() {
            Some(plan) => Action::Split {
                generation: self.migration.basis.generation,
                plan,
            },
            None => self.wait(),
        }
    }

    /// Waits until each host has made its replica of the new shard. One that passed the split by a snapshot never will:
    /// it gets an empty one.
    fn settle(&self) -> Action {
        let successors = self.migration.split.iter().flat_map(|split| &split.successors);
        let missing: Vec<_> = successors
            .filter(|(_, made)| !self.placement.host_is_lost(made.host) && !self.observation.exists(**made))
            .collect();
        if missing.is_empty() {
            return self.advance(MigrationState::Done, Evidence::Settled);
        }
        let is_overdue = self.now_ms >= self.migration.since_ms.saturating_add(SUCCESSOR_PATIENCE_MS);
        let mut reachable = missing.iter().filter(|(_, made)| self.placement.is_up(made.host));
        match reachable.next() {
            Some((of, made)) if is_overdue => Action::CreateSuccessor {
                of: **of,
                made: **made,
            },
            _ => self.wait(),
        }
    }

    fn dropped(&self, leader: &LeaderView, doomed: Placed, next: MigrationState) -> Option<Action> {
        let membership = &leader.membership;
        let gone = membership.is_uniform() && !membership.has(doomed.replica);
        let membership_index = membership.log_index;
        gone.then(|| {
            self.advance(
                next,
                Evidence::Absent {
                    replica: doomed.replica,
                    membership_index,
                },
            )
        })
    }

    fn order_removal(&self, leader: &LeaderView, doomed: Placed) -> Action {
        let learner = leader.membership.is_uniform() && !leader.membership.votes(doomed.replica);
        if learner {
            Action::RemoveReplica {
                replica: doomed.replica,
            }
        } else {
            self.wait()
        }
    }

    fn destroy(&self, doomed: Option<Placed>, next: MigrationState) -> Action {
        let Some(doomed) = doomed else { return self.wait() };
        let Placed { host, replica } = doomed;
        if self.observation.is_destroyed(doomed) {
            return self.advance(next, Evidence::Tombstone { host, replica });
        }
        if self.placement.host_is_lost(host) {
            return self.advance(next, Evidence::HostDead { host });
        }
        Action::DestroyReplica { host, replica }
    }

    /// Why the new replica cannot come to be, if so.
    fn hopeless(&self, dst: Placed) -> Option<AbortReason> {
        if self.placement.host_is_lost(dst.host) {
            return Some(AbortReason::DestinationLost);
        }
        self.is_overdue().then_some(AbortReason::Deadline)
    }

    pub(super) fn is_overdue(&self) -> bool {
        self.migration
            .deadline_ms
            .is_some_and(|deadline_ms| self.now_ms >= deadline_ms)
    }

    pub(super) fn give_up(&self, next: MigrationState, reason: AbortReason) -> Action {
        let uniform = self
            .leader
            .map(|leader| &leader.membership)
            .filter(|membership| membership.is_uniform());
        self.advance(
            next,
            Evidence::GiveUp {
                reason,
                conf_ver: uniform.map(|membership| membership.conf_ver),
            },
        )
    }

    pub(super) fn advance(&self, next: MigrationState, evidence: Evidence) -> Action {
        let step = Advance {
            migration: self.migration.id,
            expect_state: self.migration.state,
            next,
            controller_term: self.term,
            evidence,
            now_ms: self.now_ms,
        };
        Action::Propose(Box::new(Command::Advance(step)))
    }

    pub(super) fn wait(&self) -> Action {
        let look_again_ms = self.now_ms.saturating_add(LOOK_AGAIN_MS);
        let deadline_ms = self
            .migration
            .deadline_ms
            .filter(|deadline_ms| *deadline_ms > self.now_ms);
        Action::Wait {
            until_ms: deadline_ms.map_or(look_again_ms, |deadline_ms| deadline_ms.min(look_again_ms)),
        }
    }
}

fn leads(leader: &LeaderView) -> Evidence {
    Evidence::Leads {
        replica: leader.replica,
        raft_term: leader.raft_term,
    }
}

fn shares_host(a: &Migration, b: &Migration) -> bool {
    let moves = |m: &Migration| m.kind != MigrationKind::Home;
    let meets = |x: Option<Placed>, y: Option<Placed>| x.zip(y).is_some_and(|(x, y)| x.host == y.host);
    moves(a) && moves(b) && (meets(a.dst, b.dst) || meets(a.src, b.src))
}
