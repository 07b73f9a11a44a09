//! A migration: the logged procedure that changes one shard's replica set, home or range.
//!
//! Its kinds share one table of states; a kind skips what it has no use for:
//!
//! ```text
//! Move    Proposed -> Adding -> CatchingUp -> [Transferring] -> Switching -> Removing -> Cleaning -> Done
//! Add     Proposed -> Adding -> CatchingUp -> Switching -> Done
//! Remove  Proposed -> Transferring -> Switching -> Removing -> Cleaning -> Done
//! Home    Proposed -> Transferring -> Done | Aborted
//! Split   Proposed -> Splitting -> Settling -> Done
//! Merge   Proposed -> Freezing -> Absorbing -> Dissolving -> Done                Freezing -> Thawing -> Aborted
//! abort   Adding | CatchingUp | Transferring | Switching -> Aborting -> CleaningDst -> Aborted
//! Recover Proposed -> Collecting.. -> Reopening -> Cleaning.. -> Done           any of the others -> Superseded
//! ```
//!
//! Each step is: intent entry -> idempotent order -> evidence entry. The commit of the uniform configuration in the
//! shard's own log is the point of no return: an order to switch may commit after its controller gave up, so an
//! aborting migration that finds the switch committed goes on to `Removing` instead. A removal has no new replica
//! whose absence would fence a late switch, so it is retried rather than aborted once a switch was ordered. Neither is a
//! split given up once it was ordered: the shard's own log decides when it happens, and nothing fences an order. A merge
//! can be given up until it is written down that the frozen shard is to be absorbed: a thaw fences a late freeze.
//!
//! A recovery begins a group anew from what is left of it. It is for a shard that lost its majority, so no evidence can
//! come from that shard's own log any more: whatever else was under way is superseded (see [`crate::Recovery`]).

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::ids::{ControllerTerm, HostId, MigrationId, ReplicaId, ShardId, WindowId};
use crate::model::{Epoch, HostAffinityScores};
use crate::recovery::{LogEnd, Recovery};
use crate::rules::Origin;
use crate::trust::Layout;

/// Steps kept per migration; a transfer that goes back and forth drops the oldest.
pub const STEPS_MAX: usize = 32;

/// What a proposal asks for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub enum ProposalKind {
    /// Replace the replica `from` by a new one on `to`.
    Move {
        /// The voter to give up.
        from: ReplicaId,
        /// The host that gets the new voter.
        to: HostId,
        /// Whether the new voter is to lead afterwards: the move then ends with a home move.
        take_home: bool,
    },
    /// Add a voter on `to`.
    Add {
        /// The host that gets it.
        to: HostId,
    },
    /// Remove the voter `from`.
    Remove {
        /// The voter to give up.
        from: ReplicaId,
    },
    /// Hand leadership to the voter on `to`.
    Home {
        /// The host that is to lead the shard.
        to: HostId,
    },
    /// Give the keys from `at` on to a new shard.
    Split {
        /// The new shard's first key: within the range, and not its first.
        #[serde(with = "crate::model::hex")]
        at: Vec<u8>,
    },
    /// Take over the keys of the next shard, which ends.
    Merge {
        /// The shard whose range begins where this one's ends.
        next: ShardId,
    },
}

impl ProposalKind {
    /// The host that a replica or a home goes to.
    pub fn destination(&self) -> Option<HostId> {
        match self {
            ProposalKind::Move { to, .. } | ProposalKind::Add { to } | ProposalKind::Home { to } => Some(*to),
            ProposalKind::Remove { .. } | ProposalKind::Split { .. } | ProposalKind::Merge { .. } => None,
        }
    }
}

/// Why a change was proposed; kept with the migration so that `history` can answer.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Reasons {
    /// The policy that decided.
    pub policy: String,
    /// The version of the model it used, empty without one.
    pub model: String,
    /// The scores it used.
    pub scores: HostAffinityScores,
    /// Forecast latency saved over the horizon, in microseconds summed over accesses.
    pub gain_micros: i64,
    /// What the change costs, in the same unit.
    pub cost_micros: i64,
    /// The second-best host.
    pub runner_up: Option<HostId>,
    /// One line for people.
    pub text: String,
}

/// A wish to change a shard's replica set or home.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Proposal {
    /// The shard.
    pub shard: ShardId,
    /// What is asked for.
    pub kind: ProposalKind,
    /// The epoch of the shard that the proposer looked at.
    pub basis: Epoch,
    /// Who asks.
    pub origin: Origin,
    /// Mechanism time after which it is void if it was not started.
    pub expires_ms: u64,
    /// Why.
    pub reasons: Reasons,
    /// The workload window it is meant for.
    pub window: WindowId,
    /// Mechanism time, stamped by the proposer.
    pub now_ms: u64,
}

/// The kind of a migration.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum MigrationKind {
    /// A replica goes from one host to another.
    Move,
    /// A voter more.
    Add,
    /// A voter less.
    Remove,
    /// Another voter leads.
    Home,
    /// The upper part of the range becomes a new shard.
    Split,
    /// The next shard's range becomes this one's.
    Merge,
    /// A shard that lost its majority goes on from one of its survivors, whatever the others had.
    Recover,
}

/// Where a migration stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum MigrationState {
    /// Wanted, not started.
    Proposed,
    /// The new replica is being created and added as a learner.
    Adding,
    /// The learner is catching up.
    CatchingUp,
    /// Leadership is being handed over.
    Transferring,
    /// The voters are being changed.
    Switching,
    /// The old replica is being dropped from the membership.
    Removing,
    /// The old replica is being destroyed.
    Cleaning,
    /// The shard's log is to part its range.
    Splitting,
    /// The new shard's replicas are being made.
    Settling,
    /// The shard that is to be absorbed is to change no more.
    Freezing,
    /// The shard's log is to absorb the frozen one.
    Absorbing,
    /// The absorbed shard's replicas are being destroyed.
    Dissolving,
    /// The shard that was to be absorbed is to go on.
    Thawing,
    /// Ended as wanted.
    Done,
    /// The new replica is being dropped from the membership.
    Aborting,
    /// The new replica is being destroyed.
    CleaningDst,
    /// Ended where it began.
    Aborted,
    /// Never started.
    Rejected,
    /// The survivors are fenced, and what each has is written down.
    Collecting,
    /// The chosen survivor's data is being opened as a group of one.
    Reopening,
    /// A forced recovery has taken its place.
    Superseded,
}

impl MigrationState {
    /// Whether it never changes again.
    pub fn is_terminal(self) -> bool {
        use MigrationState::*;
        matches!(self, Done | Aborted | Rejected | Superseded)
    }
}

impl MigrationKind {
    /// Whether a migration of this kind may go from `from` to `next` (I6). Anything else is refused.
    pub fn allows(self, from: MigrationState, next: MigrationState) -> bool {
        use MigrationKind::{Add, Home, Merge, Move, Recover, Remove, Split};
        use MigrationState::*;
        match (from, next) {
            (Proposed | Collecting | Reopening, Collecting) => self == Recover,
            (Collecting, Reopening) | (Reopening | Cleaning, Cleaning) => self == Recover,
            (Cleaning, Done) => matches!(self, Move | Remove | Recover),
            (from, Superseded) => matches!(self, Move | Add | Remove | Home) && !from.is_terminal(),
            (Proposed, Rejected) => true,
            (Proposed, Adding) | (Adding, CatchingUp) => matches!(self, Move | Add),
            (Proposed, Transferring) => matches!(self, Remove | Home),
            (CatchingUp, Transferring) => self == Move,
            (CatchingUp, Switching) => matches!(self, Move | Add),
            (Transferring, Switching) | (Switching, Transferring) => matches!(self, Move | Remove),
            (Switching, Removing) | (Removing, Cleaning) => matches!(self, Move | Remove),
            (Switching, Done) | (Aborting, Done) => self == Add,
            (Transferring, Done) => self == Home,
            (Adding | CatchingUp | Switching, Aborting) => matches!(self, Move | Add),
            (Transferring, Aborting) => self == Move,
            (Transferring, Aborted) => matches!(self, Home | Remove),
            (Aborting, Removing) => self == Move,
            (Aborting, CleaningDst) | (CleaningDst, Aborted) => matches!(self, Move | Add),
            (Proposed, Splitting) | (Splitting, Settling) | (Settling, Done) => self == Split,
            (Proposed, Freezing) | (Freezing, Absorbing) => self == Merge,
            (Absorbing, Dissolving) | (Dissolving, Done) => self == Merge,
            (Freezing, Thawing) | (Thawing, Aborted) => self == Merge,
            _ => false,
        }
    }
}

/// What a split makes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SplitPlan {
    /// The new shard's first key.
    #[serde(with = "crate::model::hex")]
    pub at: Vec<u8>,
    /// The new shard.
    pub shard: ShardId,
    /// By replica of the shard that is split: the one that its host makes of it.
    pub successors: BTreeMap<ReplicaId, Placed>,
}

/// What a merge takes in.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct MergePlan {
    /// The shard that is absorbed, and ends.
    pub shard: ShardId,
    /// The version of its range when the merge was decided on.
    pub generation: u64,
    /// By replica of the shard that stays: the one of the absorbed shard on the same host.
    pub replicas: BTreeMap<ReplicaId, Placed>,
}

impl MergePlan {
    /// The version of the absorbed shard's range while it is frozen.
    pub fn frozen_generation(&self) -> u64 {
        self.generation + 1
    }

    /// The version of that range if it goes on after all, whether it was frozen or not.
    pub fn thawed_generation(&self) -> u64 {
        self.generation + 2
    }

    /// The version of the whole range, where that of the shard that stays was `generation`: above both.
    pub fn merged_generation(&self, generation: u64) -> u64 {
        generation.max(self.frozen_generation()) + 1
    }
}

/// A replica with its host.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Placed {
    /// The replica.
    pub replica: ReplicaId,
    /// Its host.
    pub host: HostId,
}

/// One observation of how far a replica is behind its leader.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LagSample {
    /// When it was taken, mechanism time.
    pub at_ms: u64,
    /// The term of the leader that took it.
    pub raft_term: u64,
    /// Entries not yet flushed by the replica.
    pub lag_entries: u64,
}

/// Why a migration was given up.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum AbortReason {
    /// The state's deadline passed.
    Deadline,
    /// The new replica made no progress.
    NoProgress,
    /// The new replica's host is dead or was removed.
    DestinationLost,
    /// Someone cancelled it.
    Cancelled,
    /// The replica that was to lead is no voter any more.
    TargetGone,
    /// The shard lost its majority, and is recovered by force.
    Superseded,
}

/// What was seen in the world that lets a migration leave its state.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub enum Evidence {
    /// Leaving `Proposed`: rules and limits are judged by `apply` itself.
    Start,
    /// The shard's committed membership has the new replica as a learner.
    Learner {
        /// Index of that membership entry in the shard's log.
        membership_index: u64,
    },
    /// The learner was close to its leader twice.
    CaughtUp {
        /// The leader that measured.
        leader: ReplicaId,
        /// The earlier sample.
        first: LagSample,
        /// The later sample.
        second: LagSample,
    },
    /// This replica leads the shard.
    Leads {
        /// The leader.
        replica: ReplicaId,
        /// Its term.
        raft_term: u64,
    },
    /// The uniform configuration of this migration is committed.
    Switched {
        /// Index of the membership entry in the shard's log.
        membership_index: u64,
        /// The `conf_ver` in that entry.
        conf_ver: u64,
        /// The migration id in that entry.
        migration: MigrationId,
    },
    /// The shard's committed, uniform membership does not have this replica.
    Absent {
        /// The replica.
        replica: ReplicaId,
        /// Index of the membership entry in the shard's log.
        membership_index: u64,
    },
    /// The host has a durable tombstone for the replica and has deleted its files.
    Tombstone {
        /// The host that acknowledged.
        host: HostId,
        /// The replica.
        replica: ReplicaId,
    },
    /// The shard's range, as its log has parted it, has this version.
    Split {
        /// The version.
        generation: u64,
    },
    /// Every replica of the new shard exists, but for those on lost hosts.
    Settled,
    /// The shard that is to be absorbed is frozen, as its log says.
    Frozen {
        /// The version of its range.
        generation: u64,
    },
    /// The shard that was to be absorbed goes on, as its log says.
    Thawed {
        /// The version of its range.
        generation: u64,
    },
    /// The frozen shard was absorbed, as the log of the one that stays says.
    Absorbed {
        /// The version of the whole range.
        generation: u64,
    },
    /// No replica of the absorbed shard is left, but for those on lost hosts.
    Dissolved,
    /// The replica's host is declared dead; the tombstone is owed to it.
    HostDead {
        /// The dead host.
        host: HostId,
    },
    /// The migration is given up; leaving `Switching` needs the membership seen unchanged.
    GiveUp {
        /// Why.
        reason: AbortReason,
        /// `conf_ver` of the shard's committed, uniform membership, where it was seen.
        conf_ver: Option<u64>,
    },
    /// The host has fenced the replica for this migration, durably: it never votes again, and its log ends here.
    Fenced {
        /// The host.
        host: HostId,
        /// The replica.
        replica: ReplicaId,
        /// Its last entry.
        end: LogEnd,
    },
    /// Of the survivors, this one has the greatest end.
    Chosen {
        /// The replica whose data the shard goes on with.
        replica: ReplicaId,
    },
}

/// A step that a migration made.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Step {
    /// The state entered.
    pub state: MigrationState,
    /// Placement log index of the entry.
    pub index: u64,
    /// Mechanism time stamped in it.
    pub at_ms: u64,
    /// The controller that made it; `None` for steps that a command of another kind implied.
    pub controller_term: Option<ControllerTerm>,
    /// What it rested on.
    pub evidence: Option<Evidence>,
}

/// A logged procedure that moves a replica or a home.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Migration {
    /// Its id.
    pub id: MigrationId,
    /// The shard.
    pub shard: ShardId,
    /// Its kind.
    pub kind: MigrationKind,
    /// Who asked.
    pub origin: Origin,
    /// The replica given up (Move, Remove).
    pub src: Option<Placed>,
    /// The new replica (Move, Add), or the voter that is to lead (Home).
    pub dst: Option<Placed>,
    /// Whether the new replica is to lead afterwards.
    pub take_home: bool,
    /// The epoch it was proposed on.
    pub basis: Epoch,
    /// Where it stands.
    pub state: MigrationState,
    /// When it entered that state.
    pub since_ms: u64,
    /// When its controller gives that state up; `None`: never.
    pub deadline_ms: Option<u64>,
    /// When it is void if not started.
    pub expires_ms: u64,
    /// Why it was proposed.
    pub reasons: Reasons,
    /// The workload window it was proposed for.
    pub window: WindowId,
    /// Voters of the shard when it started; never fewer until it ends (I3), one less for a removal.
    pub voters_before: u32,
    /// Whether a switch was ever ordered.
    pub switch_ordered: bool,
    /// Whether it holds a slot at its source: not where that host was already down when it started.
    pub holds_out: bool,
    /// The version of the limits it started under.
    pub limits_version: u64,
    /// Why it was given up.
    pub abort_reason: Option<AbortReason>,
    /// The last [`STEPS_MAX`] steps, oldest first.
    pub steps: Vec<Step>,
    /// What it makes (Split).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub split: Option<SplitPlan>,
    /// What it takes in (Merge).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub merge: Option<MergePlan>,
    /// Where the shard was served from, of a move whose gain is to be measured.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub before: Option<Layout>,
    /// The move that it ends: the home follows the replica.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub follows: Option<MigrationId>,
    /// What a recovery has found and does.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub recovery: Option<Recovery>,
}

impl Migration {
    /// Whether it is about this shard: its own, the one that it makes, or the one that it takes in.
    pub fn concerns(&self, shard: ShardId) -> bool {
        self.shard == shard || self.other_shard() == Some(shard)
    }

    /// The other shard of a split or a merge.
    pub fn other_shard(&self) -> Option<ShardId> {
        let made = self.split.as_ref().map(|split| split.shard);
        made.or_else(|| self.merge.as_ref().map(|merge| merge.shard))
    }

    /// Whether it holds a slot for incoming bytes at its destination.
    pub fn occupies_in(&self) -> bool {
        use MigrationState::*;
        let moves_bytes = matches!(self.kind, MigrationKind::Move | MigrationKind::Add);
        moves_bytes
            && matches!(
                self.state,
                Adding | CatchingUp | Transferring | Switching | Aborting
            )
    }

    /// Whether it holds a slot for outgoing bytes at its source.
    pub fn occupies_out(&self) -> bool {
        use MigrationState::*;
        let under_way = matches!(
            self.state,
            Adding | CatchingUp | Transferring | Switching | Removing | Aborting
        );
        self.holds_out && under_way
    }

    /// Whether it still has something to do on `host`.
    pub(crate) fn touches(&self, host: HostId) -> bool {
        let old_group = self
            .recovery
            .iter()
            .flat_map(|recovery| recovery.members.values());
        let ends = self.src.into_iter().chain(self.dst);
        let dissolved = self
            .merge
            .iter()
            .flat_map(|merge| merge.replicas.values().copied());
        let placed = ends.chain(dissolved).map(|placed| placed.host);
        placed.chain(old_group.copied()).any(|at| at == host)
    }

    /// Whether it is a home move under way.
    pub fn occupies_home(&self) -> bool {
        self.kind == MigrationKind::Home && self.state == MigrationState::Transferring
    }
}
