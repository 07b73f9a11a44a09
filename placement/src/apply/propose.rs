//! Proposals: what may be asked for, what may be started, what ends without having started.
//!
//! A proposal is judged twice by the same guards: when it is written, so that nonsense is refused at once, and when
//! its migration leaves `Proposed`, because the world may have changed in between. Limits are judged at the start
//! only: proposals may queue for slots. One shard has one place in the queue; a more urgent proposal takes it from a
//! less urgent one that has not started.

use super::{Outcome, check_texts};
use crate::history::EventKind;
use crate::ids::{HostId, MigrationId, ReplicaId, WindowId};
use crate::migration::{
    AbortReason, Evidence, MergePlan, Migration, MigrationKind, MigrationState, Placed, Proposal,
    ProposalKind, Reasons,
};
use crate::model::{HostState, Shard};
use crate::response::{Accepted, Refusal, Slot};
use crate::rules::{Limits, Origin};
use crate::state::{About, Placement, Stamp};

/// What a proposal comes to on the shard as it is.
#[derive(Clone)]
struct Target {
    kind: MigrationKind,
    src: Option<Placed>,
    /// The destination; its replica is `None` until an id is given out.
    dst: Option<(Option<ReplicaId>, HostId)>,
    take_home: bool,
    /// Where the shard is to be split.
    split_at: Option<Vec<u8>>,
    /// What the shard is to take in.
    merge: Option<MergePlan>,
}

impl Placement {
    pub(super) fn propose(&mut self, stamp: Stamp, proposal: Proposal) -> Outcome {
        self.check_timely(stamp, &proposal)?;
        let shard = self
            .shards
            .get(&proposal.shard)
            .ok_or(Refusal::UnknownShard(proposal.shard))?;
        let target = self.resolve(shard, &proposal.kind)?;
        let next = target
            .merge
            .as_ref()
            .and_then(|plan| self.shards.get(&plan.shard));
        for shard in std::iter::once(shard).chain(next) {
            self.check_shard_open(shard, proposal.origin)?;
        }
        self.check_target(shard, &target, proposal.basis)?;
        self.check_dwell(shard, target.kind, proposal.origin)?;
        if proposal.origin.is_speculative() && self.is_shadowed(proposal.origin, &proposal.reasons.policy) {
            return self.shadow(stamp, &proposal);
        }
        self.check_hours(proposal.origin, stamp.now_ms)?;
        let displaced = [shard.active, next.and_then(|next| next.active)];
        for displaced in displaced.into_iter().flatten() {
            self.end_unstarted(stamp, displaced, AbortReason::Cancelled);
        }
        let id = self.create_migration(stamp, proposal, target);
        Ok(Accepted::Proposed(id))
    }

    fn check_timely(&self, stamp: Stamp, proposal: &Proposal) -> Result<(), Refusal> {
        let Proposal {
            origin,
            expires_ms,
            window,
            reasons,
            ..
        } = proposal;
        if self.limits.paused.contains(origin) {
            return Err(Refusal::Paused(*origin));
        }
        if *expires_ms <= stamp.now_ms {
            return Err(Refusal::Expired {
                expires_ms: *expires_ms,
            });
        }
        if origin.is_speculative() && *window < self.window {
            return Err(Refusal::StaleWindow { current: self.window });
        }
        check_texts([&reasons.policy, &reasons.model, &reasons.text])
    }

    /// Bets on the future start in maintenance windows alone, where there are any.
    fn check_hours(&self, origin: Origin, now_ms: u64) -> Result<(), Refusal> {
        match origin.is_speculative() && !self.in_hours(now_ms) {
            true => Err(Refusal::OutsideHours(origin)),
            false => Ok(()),
        }
    }

    /// I1: a shard has one active migration. Only one that has not started gives way, and only to a more urgent one.
    fn check_shard_open(&self, shard: &Shard, origin: Origin) -> Result<(), Refusal> {
        if !shard.ready {
            return Err(Refusal::ShardNotReady(shard.id));
        }
        let Some(active) = shard.active else { return Ok(()) };
        let gives_way = |m: &Migration| m.state == MigrationState::Proposed && origin < m.origin;
        match self.migrations.get(&active) {
            Some(migration) if gives_way(migration) => Ok(()),
            _ => Err(Refusal::ShardBusy(active)),
        }
    }

    fn resolve(&self, shard: &Shard, kind: &ProposalKind) -> Result<Target, Refusal> {
        let source = |replica: ReplicaId| {
            let placed = shard.replicas.get(&replica).map(|known| Placed {
                replica,
                host: known.host,
            });
            placed.ok_or(Refusal::UnknownReplica(replica))
        };
        let target = |kind, src, dst| Target {
            kind,
            src,
            dst,
            take_home: false,
            split_at: None,
            merge: None,
        };
        Ok(match kind.clone() {
            ProposalKind::Split { at } => Target {
                split_at: Some(at),
                ..target(MigrationKind::Split, None, None)
            },
            ProposalKind::Merge { next } => Target {
                merge: Some(self.plan_merge(shard, next)?),
                ..target(MigrationKind::Merge, None, None)
            },
            ProposalKind::Move { from, to, take_home } => Target {
                take_home,
                ..target(MigrationKind::Move, Some(source(from)?), Some((None, to)))
            },
            ProposalKind::Add { to } => target(MigrationKind::Add, None, Some((None, to))),
            ProposalKind::Remove { from } => target(MigrationKind::Remove, Some(source(from)?), None),
            ProposalKind::Home { to } => {
                let voter = shard.replica_on(to).ok_or(Refusal::HostRefuses(to))?;
                target(MigrationKind::Home, None, Some((Some(voter), to)))
            }
        })
    }

    /// The guards on what a change leads to: epoch, roles, hosts, spread, number of voters.
    fn check_target(&self, shard: &Shard, target: &Target, basis: crate::Epoch) -> Result<(), Refusal> {
        if basis != shard.epoch {
            return Err(Refusal::StaleEpoch { current: shard.epoch });
        }
        if let Some(src) = target.src.filter(|src| !shard.is_voter(src.replica)) {
            return Err(Refusal::NotVoter(src.replica));
        }
        match target {
            Target {
                kind: MigrationKind::Home,
                dst: Some((Some(voter), host)),
                ..
            } => self.check_home(shard, *voter, *host),
            Target {
                split_at: Some(at), ..
            } => self.check_split_at(shard, at),
            Target {
                merge: Some(plan), ..
            } => self.check_merge(shard, plan),
            Target { src, dst, .. } => self.check_replicas(shard, *src, dst.map(|(_, host)| host)),
        }
    }

    fn check_home(&self, shard: &Shard, voter: ReplicaId, host: HostId) -> Result<(), Refusal> {
        if !shard.is_voter(voter) {
            return Err(Refusal::NotVoter(voter));
        }
        if shard.home == Some(voter) && shard.observed.is_none_or(|seen| seen.replica == voter) {
            return Err(Refusal::AlreadyHome(voter));
        }
        self.check_accepts(host)
    }

    fn check_accepts(&self, host: HostId) -> Result<(), Refusal> {
        let known = self.hosts.get(&host).ok_or(Refusal::UnknownHost(host))?;
        if known.accepts() {
            Ok(())
        } else {
            Err(Refusal::HostRefuses(host))
        }
    }

    fn check_replicas(&self, shard: &Shard, src: Option<Placed>, dst: Option<HostId>) -> Result<(), Refusal> {
        if let Some(host) = dst {
            self.check_accepts(host)?;
            if let Some(replica) = shard.replica_on(host) {
                return Err(Refusal::AlreadyThere { host, replica });
            }
        }
        let before: Vec<HostId> = shard.voters().map(|(_, host)| host).collect();
        let stays = before
            .iter()
            .copied()
            .filter(|host| src.is_none_or(|src| src.host != *host));
        let after: Vec<HostId> = stays.chain(dst).collect();
        self.check_count(shard, &before, &after)?;
        // What is added beside a lone voter that leaves is its successor: the two need not be spread.
        let remain = match src.is_none() && self.lone_voter_leaves(shard) {
            true => dst.into_iter().collect(),
            false => after,
        };
        let excess = |hosts: &[HostId]| self.spread_excess(hosts, self.voters_wanted(shard));
        if excess(&remain) > excess(&before) {
            Err(Refusal::NotSpread)
        } else {
            Ok(())
        }
    }

    /// I3, and no more voters than the rules ask for. A lone voter cannot hand over to itself: where it is to leave, a
    /// second one is added first.
    fn check_count(&self, shard: &Shard, before: &[HostId], after: &[HostId]) -> Result<(), Refusal> {
        let number = |hosts: &[HostId]| u32::try_from(hosts.len()).unwrap_or(u32::MAX);
        let (wanted, needed) = (self.voters_wanted(shard), self.voters_floor(shard));
        if after.len() < before.len() && number(after) < needed {
            return Err(Refusal::TooFewVoters { needed });
        }
        let wanted = wanted + u32::from(self.lone_voter_leaves(shard));
        if after.len() > before.len() && number(before) >= wanted {
            return Err(Refusal::EnoughVoters {
                voters: number(before),
            });
        }
        Ok(())
    }

    /// Workload time: a shard that moved on a forecast stays for some windows before it moves on another.
    fn check_dwell(&self, shard: &Shard, kind: MigrationKind, origin: Origin) -> Result<(), Refusal> {
        let (last, dwell) = match kind {
            MigrationKind::Split | MigrationKind::Merge => return Ok(()),
            MigrationKind::Home => (shard.home_window, self.limits.home_dwell_windows),
            _ => (shard.moved_window, self.limits.move_dwell_windows),
        };
        let until = last.map_or(0, |last| last.0.saturating_add(dwell));
        if origin.is_speculative() && self.window.0 < until {
            return Err(Refusal::Dwelling {
                until: WindowId(until),
            });
        }
        Ok(())
    }

    fn create_migration(&mut self, stamp: Stamp, proposal: Proposal, target: Target) -> MigrationId {
        let dst = target.dst.map(|(replica, host)| Placed {
            replica: replica.unwrap_or_else(|| self.next_replica()),
            host,
        });
        self.last.migration += 1;
        let id = MigrationId(self.last.migration);
        let before = self.footing_of(&proposal, target.kind);
        let Proposal {
            shard,
            basis,
            origin,
            expires_ms,
            reasons,
            window,
            ..
        } = proposal;
        let voters = self.shards.get(&shard).map_or(0, Shard::voter_count);
        let migration = Migration {
            id,
            shard,
            kind: target.kind,
            origin,
            src: target.src,
            dst,
            take_home: target.take_home,
            basis,
            state: MigrationState::Proposed,
            since_ms: stamp.now_ms,
            deadline_ms: None,
            expires_ms,
            reasons,
            window,
            voters_before: u32::try_from(voters).unwrap_or(u32::MAX),
            switch_ordered: false,
            holds_out: false,
            limits_version: self.limits_version,
            abort_reason: None,
            steps: Vec::new(),
            split: target.split_at.and_then(|at| self.plan_split(shard, at)),
            merge: target.merge,
            before,
            follows: None,
            recovery: None,
        };
        let detail = format!("{:?} by {origin:?}: {}", migration.kind, migration.reasons.text);
        let about = About::migration(&migration);
        self.open_migration(stamp, migration);
        self.record(stamp, EventKind::Proposed, about, detail);
        id
    }

    /// Writes a new migration down, as the active one of each shard that it begins with.
    pub(super) fn open_migration(&mut self, stamp: Stamp, mut migration: Migration) {
        migration.enter(stamp, MigrationState::Proposed, None, None);
        let id = migration.id;
        let merged = migration.merge.as_ref().map(|plan| plan.shard);
        for shard in std::iter::once(migration.shard).chain(merged) {
            if let Some(shard) = self.shards.get_mut(&shard) {
                shard.active = Some(id);
            }
        }
        self.migrations.insert(id, migration);
        self.active.insert(id);
    }

    pub(super) fn next_replica(&mut self) -> ReplicaId {
        self.last.replica += 1;
        ReplicaId(self.last.replica)
    }

    /// A move that was to end with the new replica as home goes on with a home move of its own. It is exempt from
    /// dwell: it is the second half of a change that was accepted.
    pub(super) fn propose_home_after(&mut self, stamp: Stamp, moved: &Migration, dst: Placed) {
        let Some(shard) = self.shards.get(&moved.shard) else {
            return;
        };
        if shard.home == Some(dst.replica) && shard.route_home() == Some(dst.replica) {
            return;
        }
        let proposal = Proposal {
            shard: moved.shard,
            kind: ProposalKind::Home { to: dst.host },
            basis: shard.epoch,
            origin: moved.origin,
            expires_ms: stamp.now_ms.saturating_add(self.limits.timeouts.switching_ms),
            reasons: Reasons {
                text: format!("the home follows {}", moved.id),
                ..moved.reasons.clone()
            },
            window: moved.window,
            now_ms: stamp.now_ms,
        };
        let home = Some((Some(dst.replica), dst.host));
        let target = Target {
            kind: MigrationKind::Home,
            src: None,
            dst: home,
            take_home: false,
            split_at: None,
            merge: None,
        };
        let id = self.create_migration(stamp, proposal, target);
        // What was predicted is what both together save.
        if let Some(follows) = self.migrations.get_mut(&id) {
            follows.before.clone_from(&moved.before);
            follows.follows = Some(moved.id);
        }
    }

    /// Why a proposed migration cannot start at `now_ms`, or `None` if it can. The controller asks before it writes;
    /// `apply` asks again.
    pub fn start_refusal(&self, migration: &Migration, now_ms: u64) -> Option<Refusal> {
        self.check_start(migration, now_ms).err()
    }

    pub(super) fn check_start(&self, migration: &Migration, now_ms: u64) -> Result<(), Refusal> {
        let Migration {
            shard,
            kind,
            src,
            dst,
            basis,
            expires_ms,
            split,
            merge,
            origin,
            reasons,
            follows,
            ..
        } = migration;
        if *expires_ms <= now_ms {
            return Err(Refusal::Expired {
                expires_ms: *expires_ms,
            });
        }
        if self.limits.paused.contains(origin) {
            return Err(Refusal::Paused(*origin));
        }
        if origin.is_speculative() && self.is_shadowed(*origin, &reasons.policy) {
            return Err(Refusal::Shadowed(*origin));
        }
        // The second half of a change that was begun goes on.
        if follows.is_none() {
            self.check_hours(*origin, now_ms)?;
        }
        let shard = self.shards.get(shard).ok_or(Refusal::UnknownShard(*shard))?;
        let dst = dst.map(|placed| (Some(placed.replica), placed.host));
        self.check_target(
            shard,
            &Target {
                kind: *kind,
                src: *src,
                dst,
                take_home: false,
                split_at: split.as_ref().map(|split| split.at.clone()),
                merge: merge.clone(),
            },
            *basis,
        )?;
        self.check_slots(migration)
    }

    /// I8: the limits.
    fn check_slots(&self, wanted: &Migration) -> Result<(), Refusal> {
        let Limits {
            moves_in_max,
            moves_out_max,
            homes_max,
            ..
        } = self.limits;
        if wanted.kind == MigrationKind::Home {
            return self.check_slot(wanted.origin, homes_max, Slot::Homes, Migration::occupies_home);
        }
        if let Some(dst) = wanted.dst {
            let enters =
                |m: &Migration| m.occupies_in() && m.dst.is_some_and(|placed| placed.host == dst.host);
            self.check_slot(wanted.origin, moves_in_max, Slot::In(dst.host), enters)?;
        }
        match wanted.src.filter(|src| self.is_up(src.host)) {
            Some(src) => {
                let leaves =
                    |m: &Migration| m.occupies_out() && m.src.is_some_and(|placed| placed.host == src.host);
                self.check_slot(wanted.origin, moves_out_max, Slot::Out(src.host), leaves)
            }
            None => Ok(()),
        }
    }

    fn check_slot(
        &self,
        origin: Origin,
        slots: u32,
        slot: Slot,
        holds: impl Fn(&Migration) -> bool,
    ) -> Result<(), Refusal> {
        let (mut all, mut speculative) = (0, 0);
        for migration in self.active_migrations().filter(|m| holds(m)) {
            all += 1;
            speculative += u32::from(migration.origin.is_speculative());
        }
        let kept_out = origin.is_speculative() && speculative >= Limits::slots_for(origin, slots);
        if all >= slots || kept_out {
            Err(Refusal::LimitReached(slot))
        } else {
            Ok(())
        }
    }

    /// Whether a host answers: nothing leaves one that does not, so it needs no slot for what leaves it.
    pub(crate) fn is_up(&self, host: HostId) -> bool {
        self.hosts
            .get(&host)
            .is_some_and(|host| host.state == HostState::Up)
    }

    pub(super) fn expire(&mut self, stamp: Stamp) -> Outcome {
        let overdue = |m: &&Migration| m.state == MigrationState::Proposed && m.expires_ms <= stamp.now_ms;
        let overdue: Vec<MigrationId> = self.active_migrations().filter(overdue).map(|m| m.id).collect();
        for id in &overdue {
            self.end_unstarted(stamp, *id, AbortReason::Deadline);
        }
        Ok(Accepted::Expired {
            rejected: u32::try_from(overdue.len()).unwrap_or(u32::MAX),
        })
    }

    pub(super) fn end_unstarted(&mut self, stamp: Stamp, id: MigrationId, reason: AbortReason) {
        let evidence = Evidence::GiveUp {
            reason,
            conf_ver: None,
        };
        self.enter_state(stamp, id, MigrationState::Rejected, None, evidence);
    }
}
