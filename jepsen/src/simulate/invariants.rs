//! What must hold of the replicas after every step, seen from where no replica stands.
//!
//! The observer sees every log at once. It remembers what was ever committed, who ever led, and what was durable where
//! when a host died; so it can tell at once when two replicas disagree, long before a client could.
//!
//! - What is committed stays so: every replica that applies an index has the same entry there (Ongaro and Ousterhout, "In
//!   Search of an Understandable Consensus Algorithm", 2014, figure 3: log matching, state machine safety).
//! - The newest leader has every entry that was ever applied (leader completeness). Leaders are ordered by term and
//!   replica: openraft lets the greater replica win a term that another leads, so one leader a term is not promised.
//! - What a leader takes for committed is durable on a quorum of each configuration in force.
//! - Terms, commit and apply positions of a running replica do not go back.
//! - Replicas that applied the same have the same state.
//! - A replica that hears nobody begins no term: it would depose a sound leader when it is back (Ongaro, "Consensus:
//!   Bridging Theory and Practice", 2014, section 9.6: pre-vote). A group of one voter asks nobody.

use std::collections::{BTreeMap, BTreeSet};

use placement::{ReplicaId, ShardId};
use raft::{EntryPrint, Group, Position, Role, Vitals};
use server::host::Host;

use super::world::SimHost;

/// Violations kept; one is enough to fail, the first tells most.
const KEPT_MAX: usize = 20;

/// All that the observer remembers.
#[derive(Default)]
pub(super) struct Invariants {
    groups: BTreeMap<ShardId, Memory>,
    seen: BTreeMap<(usize, ShardId), (ReplicaId, Vitals)>,
    /// Names of hosts that have heard from no other host for a while.
    pub(super) alone: BTreeSet<String>,
    /// The newest replica that each host had of each group.
    lain: BTreeMap<(usize, ShardId), ReplicaId>,
    /// What was broken, and when.
    pub(super) broken: Vec<String>,
    /// How many states of replicas were checked.
    pub(super) checked: u64,
    /// A hash of every state seen, in order: the trace of a run in one number.
    pub(super) print: u64,
    /// Different states of replicas seen.
    pub(super) distinct: BTreeSet<u64>,
}

#[derive(Default)]
struct Memory {
    newest_leader: Option<(u64, ReplicaId)>,
    applied: BTreeMap<u64, EntryPrint>,
    /// The last durable entry of each replica that ever was.
    durable: BTreeMap<ReplicaId, u64>,
    /// Replicas whose host ended in the middle of a step: they may have made durable, and said, more than was seen.
    unsure: BTreeSet<ReplicaId>,
    /// Hashes of states, by the last entry applied.
    states: BTreeMap<u64, u64>,
    voters: Vec<BTreeSet<ReplicaId>>,
}

impl Invariants {
    /// Forgets what a host's replicas promised for as long as they run.
    pub(super) fn host_died(&mut self, number: usize) {
        self.seen.retain(|(host, _), _| *host != number);
    }

    /// A host's disk is gone or spoilt: nothing on it counts as durable any more, but for what it said before; that may
    /// still be on its way.
    pub(super) fn disk_lost(&mut self, number: usize) {
        for ((_, group), replica) in self.lain.iter().filter(|((host, _), _)| *host == number) {
            if let Some(memory) = self.groups.get_mut(group) {
                memory.durable.remove(replica);
                memory.unsure.insert(*replica);
            }
        }
    }

    /// Looks at all replicas after a step.
    pub(super) fn step(&mut self, now_ms: u64, hosts: &[SimHost]) {
        let running: Vec<(usize, Host)> = hosts
            .iter()
            .enumerate()
            .filter_map(|(number, host)| Some((number, host.host()?)))
            .collect();
        self.doubt(hosts);
        let mut changed = Vec::new();
        for (number, host) in &running {
            for group in host.raft().map(|raft| raft.groups()).unwrap_or_default() {
                let vitals = group.vitals();
                let before = self.seen.insert((*number, group.id()), (group.replica(), vitals));
                let before = before
                    .filter(|(replica, _)| *replica == group.replica())
                    .map(|(_, vitals)| vitals);
                self.lain.insert((*number, group.id()), group.replica());
                if before != Some(vitals) {
                    changed.push((*number, host.clone(), group, before, vitals));
                }
            }
        }
        // Durability first: a leader may count what a follower made durable in this very step.
        for (_, _, group, _, vitals) in &changed {
            if let Some(flushed) = vitals.flushed_index.max(vitals.applied.map(|at| at.index)) {
                let memory = self.groups.entry(group.id()).or_default();
                memory.durable.insert(group.replica(), flushed);
                memory.unsure.remove(&group.replica());
            }
        }
        for (number, host, group, before, vitals) in changed {
            let mut found = Vec::new();
            self.note(number, &group, &vitals);
            let memory = self.groups.entry(group.id()).or_default();
            memory.check(&group, before.as_ref(), &vitals, &running, &mut found);
            memory.check_state(&host, &group, &vitals, &mut found);
            if self.alone.contains(&hosts[number].name) {
                check_term_alone(&group, before.as_ref(), &vitals, &mut found);
            }
            for what in found {
                let line = format!(
                    "{now_ms} ms, h{number}, {} {}: {what}",
                    group.id(),
                    group.replica()
                );
                tracing::error!("{line}");
                if self.broken.len() < KEPT_MAX {
                    self.broken.push(line);
                }
            }
        }
    }

    /// Takes note of hosts that are ending by themselves.
    fn doubt(&mut self, hosts: &[SimHost]) {
        for ((number, group), replica) in &self.lain {
            let host = &hosts[*number];
            let stopping = host.host().is_some_and(|host| host.stop().is_cancelled());
            if let Some(memory) = self.groups.get_mut(group)
                && (stopping || host.ended().is_some())
            {
                memory.unsure.insert(*replica);
            }
        }
    }

    fn note(&mut self, number: usize, group: &Group, vitals: &Vitals) {
        use std::hash::{DefaultHasher, Hash, Hasher};
        self.checked += 1;
        let mut hasher = DefaultHasher::new();
        (number, group.id().0, group.replica().0, format!("{vitals:?}")).hash(&mut hasher);
        let state = hasher.finish();
        self.distinct.insert(state);
        (self.print, state).hash(&mut hasher);
        self.print = hasher.finish();
        tracing::trace!(target: "jepsen::states", host = number, group = group.id().0, replica = group.replica().0, ?vitals);
    }
}

impl Memory {
    fn check(
        &mut self,
        group: &Group,
        before: Option<&Vitals>,
        now: &Vitals,
        running: &[(usize, Host)],
        found: &mut Vec<String>,
    ) {
        self.check_order(before, now, found);
        self.check_applied(group, before, now, found);
        if now.role == Role::Leader {
            self.check_leader(group, now, found);
            let advanced = before.is_none_or(|before| before.committed != now.committed);
            if advanced && let Some(committed) = now.committed {
                self.check_quorum(group, committed, running, found);
            }
            self.voters = group.newest_voters();
        }
    }

    fn check_order(&self, before: Option<&Vitals>, now: &Vitals, found: &mut Vec<String>) {
        let index = |at: Option<Position>| at.map(|at| at.index);
        let Some(before) = before else { return };
        if before.term > now.term
            || index(before.applied) > index(now.applied)
            || index(before.committed) > index(now.committed)
        {
            found.push(format!("went back from {before:?} to {now:?}"));
        }
    }

    /// Holds the entries that this replica newly applied against what everyone else did. What it knows to be committed
    /// may be ahead of what its log has by now, what it applied is not.
    fn check_applied(
        &mut self,
        group: &Group,
        before: Option<&Vitals>,
        now: &Vitals,
        found: &mut Vec<String>,
    ) {
        let Some(applied) = now.applied else { return };
        let from = before
            .and_then(|before| before.applied)
            .map_or(0, |at| at.index + 1);
        let from = from.max(now.purged_index.map_or(0, |purged| purged + 1));
        match group.entry_prints(from..applied.index + 1) {
            Ok(prints) => {
                for print in prints {
                    let known = *self.applied.entry(print.at.index).or_insert(print);
                    if known != print {
                        found.push(format!("applied {print:?}, where {known:?} was applied before"));
                    }
                }
            }
            Err(e) => found.push(format!("its log cannot be read: {e}")),
        }
    }

    fn check_leader(&mut self, group: &Group, now: &Vitals, found: &mut Vec<String>) {
        let leader = Some((now.term, group.replica()));
        self.newest_leader = self.newest_leader.max(leader);
        // An older leader may be behind without knowing.
        if self.newest_leader != leader {
            return;
        }
        let Some(newest) = self.applied.last_key_value().map(|(_, print)| *print) else {
            return;
        };
        if now.last_index < Some(newest.at.index) {
            found.push(format!(
                "leads term {} without the applied entry {newest:?}",
                now.term
            ));
            return;
        }
        if now.purged_index >= Some(newest.at.index) {
            return;
        }
        match group.entry_prints(newest.at.index..newest.at.index + 1) {
            Ok(prints) if prints.first() == Some(&newest) => {}
            Ok(prints) => found.push(format!(
                "leads term {} with {prints:?} instead of {newest:?}",
                now.term
            )),
            Err(e) => found.push(format!("its log cannot be read: {e}")),
        }
    }

    /// What a leader takes for committed must be durable on a quorum of each configuration.
    fn check_quorum(
        &self,
        group: &Group,
        committed: Position,
        running: &[(usize, Host)],
        found: &mut Vec<String>,
    ) {
        let wanted = group
            .entry_prints(committed.index..committed.index + 1)
            .unwrap_or_default();
        let lacks = |voters: &BTreeSet<ReplicaId>| {
            let have = voters
                .iter()
                .filter(|voter| self.has_durably(group.id(), **voter, committed, &wanted, running));
            have.count() * 2 <= voters.len()
        };
        let newest = group.newest_voters();
        // The configuration may have changed in this very step, after the commit.
        if newest.iter().any(lacks) && (self.voters.is_empty() || self.voters.iter().any(lacks)) {
            found.push(format!(
                "takes {committed:?} for committed without a quorum of {newest:?}: durable are {:?}",
                self.durable
            ));
        }
    }

    fn has_durably(
        &self,
        group: ShardId,
        voter: ReplicaId,
        at: Position,
        wanted: &[EntryPrint],
        running: &[(usize, Host)],
    ) -> bool {
        let alive = running
            .iter()
            .filter_map(|(_, host)| host.raft()?.group(group))
            .find(|group| group.replica() == voter);
        let durable = self
            .durable
            .get(&voter)
            .is_some_and(|durable| *durable >= at.index);
        let Some(alive) = alive else {
            return durable || self.unsure.contains(&voter);
        };
        if !durable {
            return false;
        }
        let vitals = alive.vitals();
        if vitals.purged_index >= Some(at.index) || vitals.applied.map(|at| at.index) >= Some(at.index) {
            return true;
        }
        let prints = alive.entry_prints(at.index..at.index + 1).unwrap_or_default();
        prints == wanted
    }

    /// Replicas that applied the same must be the same.
    fn check_state(&mut self, host: &Host, group: &Group, now: &Vitals, found: &mut Vec<String>) {
        let Some(applied) = now.applied else { return };
        let hash = match host.shard(group.id()) {
            Some(local) if local.group.replica() == group.replica() => local.store.state_hash(),
            Some(_) => return,
            None => match host.look_at_placement(placement::encode_state) {
                Some(Ok(state)) if group.id() == ShardId::PLACEMENT => hash_of(&state),
                _ => return,
            },
        };
        let known = *self.states.entry(applied.index).or_insert(hash);
        if known != hash {
            found.push(format!(
                "state {hash:016x} after {applied:?}, where another replica had {known:016x}"
            ));
        }
    }
}

/// What a replica may do that hears nobody.
fn check_term_alone(group: &Group, before: Option<&Vitals>, now: &Vitals, found: &mut Vec<String>) {
    let others = group.newest_voters().iter().all(|voters| voters.len() > 1);
    if others && before.is_some_and(|before| before.term < now.term) {
        found.push(format!("begins term {}, and hears nobody", now.term));
    }
}

fn hash_of(bytes: &[u8]) -> u64 {
    use std::hash::{DefaultHasher, Hash, Hasher};
    let mut hasher = DefaultHasher::new();
    bytes.hash(&mut hasher);
    hasher.finish()
}
