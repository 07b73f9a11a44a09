//! What the planner returns: moves with their reasons, what it could not do and why, and its memory for next time.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::ids::{HostId, ReplicaId, ShardId, WindowId, Zone};
use crate::migration::{Proposal, ProposalKind, Reasons};
use crate::model::{Epoch, HostAffinityScores};
use crate::rules::Origin;

use super::memory::PlanMemory;

/// A plan for one window.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Plan {
    /// The window it is for.
    pub window: WindowId,
    /// The moves, most urgent first: draining and rules, then capacity, then by gain. At most one a shard.
    pub proposals: Vec<PlannedMove>,
    /// What to hand to the next call, whether or not the moves were made.
    pub memory: PlanMemory,
    /// Expected latency of the window's accesses as placed now, summed, in microseconds. Shards without a known home
    /// are left out here and below.
    pub expected_cost_before_micros: u64,
    /// The same once the moves are made.
    pub expected_cost_after_micros: u64,
    /// The most wanted move of each shard that was not made.
    pub blocked: Vec<Blocked>,
}

/// One move.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PlannedMove {
    /// The shard.
    pub shard: ShardId,
    /// The version of the shard it is based on.
    pub basis: Epoch,
    /// What moves.
    pub kind: MoveKind,
    /// What it is for.
    pub cause: MoveCause,
    /// Where the home or the replica is.
    pub from: HostId,
    /// Where it goes.
    pub to: HostId,
    /// Forecast latency saved, in microseconds summed over the accesses of one window; negative where a rule, a drain
    /// or a capacity asks for a worse place.
    pub gain_micros: i64,
    /// What the move costs, in the same unit.
    pub cost_micros: u64,
    /// The second-best place.
    pub runner_up: Option<RunnerUp>,
    /// The forecast's name and version.
    pub model: String,
    /// The host affinity scores it rests on.
    pub scores: HostAffinityScores,
    /// One line for people.
    pub text: String,
}

/// What moves.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum MoveKind {
    /// Leadership goes to a voter; no bytes move.
    Home {
        /// The voter that is to lead.
        to: ReplicaId,
    },
    /// A voter is replaced by a new one.
    Replica {
        /// The voter to give up.
        from: ReplicaId,
        /// Whether the gain counts on the new voter leading.
        take_home: bool,
    },
}

/// What a move is for, most urgent first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum MoveCause {
    /// A host is being emptied.
    Drain,
    /// Voters are spread over fewer fault domains than they could be.
    Rule,
    /// A host serves more than its part.
    Capacity,
    /// Accesses become nearer.
    Latency,
}

/// The place that came second.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RunnerUp {
    /// The host.
    pub host: HostId,
    /// What moving there would have saved a window, in microseconds.
    pub gain_micros: i64,
}

/// A move that was wanted and not made.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Blocked {
    /// The shard.
    pub shard: ShardId,
    /// Where it would have gone; `None` where no host would do.
    pub to: Option<HostId>,
    /// What it would have saved a window, in microseconds.
    pub gain_micros: i64,
    /// What stood in the way.
    pub constraint: Constraint,
}

/// What stands in a move's way.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Constraint {
    /// A migration of the shard is active, or it is not initialised.
    Busy,
    /// The host is down, cordoned or draining.
    NotAccepting,
    /// The host would serve more accesses than its part.
    Accesses {
        /// Accesses a window it may serve, in thousandths.
        max_milli: u64,
    },
    /// The zone's hosts have no room for the replica.
    Bytes {
        /// The zone.
        zone: Zone,
    },
    /// No host may take the replica: each is full, does not accept, holds one already, or would crowd a fault domain.
    NoHost,
    /// The plan or a host has as many moves as it may.
    MovesLimit,
    /// The shard moved a short while ago.
    Dwell {
        /// The first window in which it may move again.
        until: WindowId,
    },
    /// Staying has not yet cost as much as the move would.
    Regret {
        /// Latency lost by staying so far, in microseconds.
        regret_micros: u64,
        /// What it must reach.
        bar_micros: u64,
    },
    /// Every way there would put more voters into one fault domain than now.
    Crowded,
    /// What it saves until the horizon is less than what it costs.
    Unpaid,
}

/// For people.
impl fmt::Display for Constraint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Constraint::Busy => write!(f, "a migration of the shard is under way, or it has not begun"),
            Constraint::NotAccepting => write!(f, "the host is down, cordoned or draining"),
            Constraint::Accesses { max_milli } => write!(
                f,
                "the host would serve more than its part of {}.{:03} accesses a window",
                max_milli / 1_000,
                max_milli % 1_000
            ),
            Constraint::Bytes { zone } => write!(f, "no room on the host, or in zone {zone}"),
            Constraint::NoHost => write!(f, "no host may take the replica"),
            Constraint::MovesLimit => write!(f, "as many moves are under way as may be"),
            Constraint::Dwell { until } => {
                write!(f, "the shard moved lately, and stays until window {until}")
            }
            Constraint::Regret {
                regret_micros,
                bar_micros,
            } => write!(
                f,
                "staying has cost {regret_micros} us so far, and a move must have cost {bar_micros} us"
            ),
            Constraint::Crowded => write!(f, "more voters would share a fault domain"),
            Constraint::Unpaid => write!(f, "it would save less than it costs"),
        }
    }
}

impl MoveCause {
    /// The origin that a proposal for this cause carries.
    pub fn origin(self) -> Origin {
        match self {
            MoveCause::Drain => Origin::Drain,
            MoveCause::Rule => Origin::Rule,
            MoveCause::Capacity => Origin::Balance,
            MoveCause::Latency => Origin::Model,
        }
    }
}

impl PlannedMove {
    /// The proposal for the placement log. `policy` names the policy in its reasons; times are mechanism time.
    pub fn proposal(&self, policy: &str, window: WindowId, now_ms: u64, expires_ms: u64) -> Proposal {
        Proposal {
            shard: self.shard,
            kind: self.proposal_kind(),
            basis: self.basis,
            origin: self.cause.origin(),
            expires_ms,
            reasons: Reasons {
                policy: policy.to_owned(),
                model: self.model.clone(),
                scores: self.scores.clone(),
                gain_micros: self.gain_micros,
                cost_micros: i64::try_from(self.cost_micros).unwrap_or(i64::MAX),
                runner_up: self.runner_up.map(|second| second.host),
                text: self.text.clone(),
            },
            window,
            now_ms,
        }
    }

    fn proposal_kind(&self) -> ProposalKind {
        match self.kind {
            MoveKind::Home { .. } => ProposalKind::Home { to: self.to },
            MoveKind::Replica { from, take_home } => ProposalKind::Move {
                from,
                to: self.to,
                take_home,
            },
        }
    }
}
