//! A Raft group, reduced to what migrations depend on: committed membership, terms, who has which entries.
//!
//! Entries are counted, not stored. A copy's `matched` is what it has on disk; an entry is committed (acknowledged)
//! when a majority of every configuration in force has it. Losing one is invariant I9, asserted at each election.

use std::collections::{BTreeMap, BTreeSet};

use crate::cluster::Order;
use placement::{Action, ControllerTerm, HostId, Membership, MergeStep, MigrationId, ReplicaId};

/// Entries that a learner receives in one tick.
const LEARNER_ENTRIES_PER_TICK: u64 = 400;
/// Entries that a voter receives in one tick.
const VOTER_ENTRIES_PER_TICK: u64 = 4_000;
/// Indexes that a recovered group leaves out.
const ENTRIES_SKIPPED: u64 = 500;

#[derive(Clone, Debug)]
pub(crate) struct Copy {
    pub(crate) host: HostId,
    pub(crate) matched: u64,
}

#[derive(Clone, Debug, Default)]
pub(crate) struct Group {
    pub(crate) membership: Membership,
    pub(crate) copies: BTreeMap<ReplicaId, Copy>,
    pub(crate) leader: Option<ReplicaId>,
    pub(crate) raft_term: u64,
    pub(crate) last: u64,
    pub(crate) committed: u64,
    /// The version of its range.
    pub(crate) generation: u64,
    /// It takes no more writes: another is to absorb it.
    pub(crate) frozen: bool,
    /// Another has.
    pub(crate) is_absorbed: bool,
    /// Its entry that absorbed another.
    pub(crate) absorbed_at: u64,
    controller_term: ControllerTerm,
    /// Copies that never vote again.
    pub(crate) fenced: BTreeSet<ReplicaId>,
    /// Acknowledged entries that a recovery lost.
    pub(crate) entries_lost: u64,
    /// Obeys late orders to change the membership as well: a fault that the tests must find.
    pub(crate) unfenced: bool,
    /// The joint change that the present leader will finish by itself.
    finishing: Option<ReplicaId>,
}

impl Group {
    pub(crate) fn initialise(voters: BTreeMap<ReplicaId, HostId>, leader: ReplicaId) -> Self {
        let ids: BTreeSet<ReplicaId> = voters.keys().copied().collect();
        let copies = voters
            .into_iter()
            .map(|(id, host)| (id, Copy { host, matched: 1 }))
            .collect();
        let membership = Membership {
            log_index: 1,
            voters: vec![ids],
            conf_ver: 1,
            ..Membership::default()
        };
        Self {
            membership,
            copies,
            leader: Some(leader),
            raft_term: 1,
            last: 1,
            committed: 1,
            generation: 1,
            ..Self::default()
        }
    }

    /// A group that a split makes: its voters are known, their copies come one by one.
    pub(crate) fn split_off(voters: BTreeMap<ReplicaId, HostId>, generation: u64) -> Self {
        let home = *voters.keys().next().expect("a voter");
        Self {
            copies: BTreeMap::new(),
            leader: None,
            raft_term: 0,
            generation,
            ..Self::initialise(voters, home)
        }
    }

    /// The version of the range as a copy has it.
    pub(crate) fn generation_of(&self, replica: ReplicaId) -> Option<u64> {
        let is_behind = self.copies.get(&replica)?.matched < self.absorbed_at;
        Some(self.generation - u64::from(is_behind))
    }

    pub(crate) fn leader_host(&self) -> Option<HostId> {
        self.copies.get(&self.leader?).map(|copy| copy.host)
    }

    /// Whether a live leader with a live majority is there.
    pub(crate) fn is_available(&self, up: &BTreeSet<HostId>) -> bool {
        self.leader.is_some_and(|leader| self.is_live(leader, up)) && self.has_quorum(up)
    }

    fn is_live(&self, replica: ReplicaId, up: &BTreeSet<HostId>) -> bool {
        let runs = |copy: &Copy| up.contains(&copy.host) && !self.fenced.contains(&replica);
        self.copies.get(&replica).is_some_and(runs)
    }

    pub(crate) fn has_quorum(&self, up: &BTreeSet<HostId>) -> bool {
        self.membership
            .voters
            .iter()
            .all(|voters| self.has_majority(voters, |id| self.is_live(id, up)))
    }

    fn has_majority(&self, voters: &BTreeSet<ReplicaId>, holds: impl Fn(ReplicaId) -> bool) -> bool {
        voters.iter().filter(|id| holds(**id)).count() * 2 > voters.len()
    }

    /// Lets time pass: elects where the leader is gone, appends `writes`, replicates, commits.
    pub(crate) fn tick(&mut self, writes: u64, up: &BTreeSet<HostId>) {
        let gone = self
            .leader
            .is_none_or(|leader| !self.is_live(leader, up) || !self.membership.has(leader));
        if gone {
            self.leader = None;
            self.finishing = None;
            self.elect(up);
            return;
        }
        if !self.has_quorum(up) {
            return;
        }
        self.last += if self.frozen { 0 } else { writes };
        self.replicate(up);
        self.commit();
        if self.finishing.take() == self.leader && self.leader.is_some() {
            self.finish_joint(up).ok();
        }
    }

    fn elect(&mut self, up: &BTreeSet<HostId>) {
        if !self.has_quorum(up) {
            return;
        }
        let voters = self
            .membership
            .voters
            .iter()
            .flatten()
            .copied()
            .filter(|id| self.is_live(*id, up));
        let Some(winner) = voters.max_by_key(|id| (self.copies[id].matched, *id)) else {
            return;
        };
        let matched = self.copies[&winner].matched;
        assert!(
            matched >= self.committed,
            "I9: {winner} leads with {matched} of {} entries",
            self.committed
        );
        self.leader = Some(winner);
        self.raft_term += 1;
        self.last = matched;
        for copy in self.copies.values_mut() {
            copy.matched = copy.matched.min(matched);
        }
    }

    fn replicate(&mut self, up: &BTreeSet<HostId>) {
        let last = self.last;
        let leader = self.leader;
        for (id, copy) in &mut self.copies {
            if Some(*id) == leader {
                copy.matched = last;
            } else if self.membership.has(*id) && up.contains(&copy.host) && !self.fenced.contains(id) {
                let voter = self.membership.votes(*id);
                let entries = if voter {
                    VOTER_ENTRIES_PER_TICK
                } else {
                    LEARNER_ENTRIES_PER_TICK
                };
                copy.matched = last.min(copy.matched + entries);
            }
        }
    }

    fn commit(&mut self) {
        let committed = |index: u64| {
            let holds = |id: ReplicaId| self.copies.get(&id).is_some_and(|copy| copy.matched >= index);
            self.membership
                .voters
                .iter()
                .all(|voters| self.has_majority(voters, holds))
        };
        let reached = self
            .copies
            .values()
            .map(|copy| copy.matched)
            .filter(|index| committed(*index))
            .max();
        self.committed = self.committed.max(reached.unwrap_or(0));
    }

    /// Parts the range, if the entry that does is committed at once.
    fn split(&mut self, generation: u64, up: &BTreeSet<HostId>) -> Result<&'static str, &'static str> {
        if generation != self.generation {
            return Err("the range has changed");
        }
        self.enter(up)?;
        self.generation += 1;
        Ok("split")
    }

    /// One entry, if it is committed at once.
    fn enter(&mut self, up: &BTreeSet<HostId>) -> Result<(), &'static str> {
        self.last += 1;
        self.replicate(up);
        self.commit();
        match self.committed < self.last {
            true => Err("not committed"),
            false => Ok(()),
        }
    }

    fn step_merge(&mut self, step: MergeStep, up: &BTreeSet<HostId>) -> Result<&'static str, &'static str> {
        match step {
            MergeStep::Freeze { generation } if generation == self.generation => {
                self.enter(up)?;
                (self.frozen, self.generation) = (true, generation + 1);
                Ok("frozen")
            }
            MergeStep::Thaw { generation } if generation + u64::from(self.frozen) == self.generation => {
                assert!(!self.is_absorbed, "thawed, and absorbed elsewhere");
                self.enter(up)?;
                (self.frozen, self.generation) = (false, generation + 2);
                Ok("thawed")
            }
            MergeStep::Absorb {
                generation,
                absorbed_generation,
                ..
            } if generation == self.generation => {
                self.enter(up)?;
                self.generation = generation.max(absorbed_generation) + 1;
                self.absorbed_at = self.last;
                Ok("absorbed")
            }
            _ => Err("the range has changed"),
        }
    }

    /// One copy goes on alone, as another replica. No survivor has more than it, and with a majority of the old group
    /// among the survivors nothing is lost.
    pub(crate) fn begin_anew(&mut self, order: &Order, up: &BTreeSet<HostId>) {
        let Action::ReopenReplica {
            host,
            from,
            replica,
            generation,
            conf_ver,
            raft_term,
            migration,
            ..
        } = order.action
        else {
            return;
        };
        let matched = self.copies[&from].matched;
        let asked = |id: &ReplicaId| self.fenced.contains(id) && up.contains(&self.copies[id].host);
        for (id, copy) in self.copies.iter().filter(|(id, _)| asked(id)) {
            assert!(
                copy.matched <= matched,
                "{id} has {} entries, {from} {matched}",
                copy.matched
            );
        }
        let present = |id: ReplicaId| self.copies.contains_key(&id) && asked(&id);
        let mut configs = self.membership.voters.iter();
        let loses_nothing = configs.any(|voters| self.has_majority(voters, present));
        let lost = self.committed.saturating_sub(matched);
        assert!(
            !loses_nothing || lost == 0,
            "I9: {lost} entries that a majority has are lost"
        );
        self.entries_lost += lost;
        self.last = matched + ENTRIES_SKIPPED;
        self.committed = self.last;
        self.membership = Membership {
            log_index: self.last,
            voters: vec![BTreeSet::from([replica])],
            conf_ver,
            migration: Some(migration),
            ..Membership::default()
        };
        let matched = self.last;
        self.copies.insert(replica, Copy { host, matched });
        self.leader = Some(replica);
        self.finishing = None;
        self.raft_term = raft_term;
        self.generation = generation;
    }

    /// Carries an order out, or says why not. A leader remembers the highest controller term and refuses older ones,
    /// and refuses to change a membership that the order was not meant for.
    pub(crate) fn obey(
        &mut self,
        order: &Order,
        up: &BTreeSet<HostId>,
    ) -> Result<&'static str, &'static str> {
        if !self.is_available(up) {
            return Err("no leader");
        }
        if order.term < self.controller_term {
            return Err("stale controller");
        }
        self.controller_term = order.term;
        if let Action::TransferLeader { to } = order.action {
            return self.transfer(to, up);
        }
        if let Action::Split { generation, .. } = order.action {
            return self.split(generation, up);
        }
        if let Action::StepMerge { step, .. } = order.action {
            return self.step_merge(step, up);
        }
        if order.membership_index != Some(self.membership.log_index) && !self.unfenced {
            return Err("the membership has changed");
        }
        match order.action {
            Action::AddLearner { replica, .. } => self.add_learner(replica, up),
            Action::Switch {
                add,
                demote,
                conf_ver,
                migration,
            } => self.switch(add, demote, conf_ver, migration, up),
            Action::RemoveReplica { replica } => self.remove(replica, up),
            _ => Err("not for a shard"),
        }
    }

    fn add_learner(
        &mut self,
        replica: ReplicaId,
        up: &BTreeSet<HostId>,
    ) -> Result<&'static str, &'static str> {
        if self.membership.has(replica) {
            return Ok("is a member already");
        }
        let mut next = self.membership.clone();
        next.learners.insert(replica);
        self.change(next, up)
    }

    fn remove(&mut self, replica: ReplicaId, up: &BTreeSet<HostId>) -> Result<&'static str, &'static str> {
        if self.membership.votes(replica) {
            return Err("is a voter");
        }
        let mut next = self.membership.clone();
        if !next.learners.remove(&replica) {
            return Ok("is no member");
        }
        self.change(next, up)
    }

    fn transfer(&mut self, to: ReplicaId, up: &BTreeSet<HostId>) -> Result<&'static str, &'static str> {
        if !self.membership.votes(to) {
            return Err("is no voter");
        }
        if self.leader == Some(to) {
            return Ok("leads already");
        }
        if !self.is_live(to, up) || self.copies[&to].matched < self.last {
            // The leader has stepped aside and nobody took over: an election settles it.
            self.leader = None;
            return Err("failed, election");
        }
        self.leader = Some(to);
        self.raft_term += 1;
        self.finishing = None;
        Ok("leads")
    }

    fn switch(
        &mut self,
        add: Option<ReplicaId>,
        demote: Option<ReplicaId>,
        conf_ver: u64,
        migration: MigrationId,
        up: &BTreeSet<HostId>,
    ) -> Result<&'static str, &'static str> {
        if !self.membership.is_uniform() {
            let same = self.membership.migration == Some(migration);
            return if same {
                self.finish_joint(up)
            } else {
                Err("another change is under way")
            };
        }
        if self.membership.is_switched(migration, conf_ver) {
            return Ok("is switched already");
        }
        if conf_ver != self.membership.conf_ver + 1 {
            return Err("stale conf_ver");
        }
        let mut next = self.membership.clone();
        let mut voters = next.voters[0].clone();
        if let Some(add) = add {
            if !next.learners.remove(&add) {
                return Err("is no learner");
            }
            voters.insert(add);
        }
        if demote.is_some_and(|demote| !voters.remove(&demote)) {
            return Err("is no voter");
        }
        if !self.leader.is_some_and(|leader| voters.contains(&leader)) {
            return Err("the leader would not vote");
        }
        next.voters.push(voters);
        next.conf_ver = conf_ver;
        next.migration = Some(migration);
        self.change(next, up)?;
        self.finishing = self.leader;
        Ok("joint")
    }

    fn finish_joint(&mut self, up: &BTreeSet<HostId>) -> Result<&'static str, &'static str> {
        let mut next = self.membership.clone();
        let [old, new] = next.voters.as_slice() else {
            return Err("not joint");
        };
        next.learners.extend(old.difference(new).copied());
        next.voters = vec![new.clone()];
        self.change(next, up)?;
        Ok("switched")
    }

    /// Commits a membership entry: it needs a live, caught-up majority of every configuration before and after it.
    fn change(&mut self, mut next: Membership, up: &BTreeSet<HostId>) -> Result<&'static str, &'static str> {
        self.replicate(up);
        let holds = |id: ReplicaId| self.is_live(id, up) && self.copies[&id].matched == self.last;
        let configs = self.membership.voters.iter().chain(&next.voters);
        if !configs.into_iter().all(|voters| self.has_majority(voters, holds)) {
            return Err("no quorum");
        }
        self.last += 1;
        next.log_index = self.last;
        self.membership = next;
        self.replicate(up);
        self.committed = self.last;
        Ok("committed")
    }
}
