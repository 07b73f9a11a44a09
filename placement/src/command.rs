//! What can be written into the placement log.
//!
//! A command carries everything its effect depends on: the proposer stamps `now_ms` (mechanism time) and windows
//! (workload time) once. Formats only grow: a new variant, never a new meaning; a reader that meets a variant or field it
//! does not know must stop (see [`crate::decode`]).

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::hours::HoursChange;
use crate::ids::{ControllerTerm, HostId, MigrationId, Region, ReplicaId, ShardId, WindowId, Zone};
use crate::migration::{Evidence, MigrationState, Proposal};
use crate::model::{Admission, HostAffinityScores, HostState};
use crate::models::ModelChange;
use crate::rules::{Limits, LimitsChange, Origin, Rules};
use crate::trust::MeasuredGain;

/// The most shards a bootstrap may ask for.
pub const SHARDS_MAX: usize = 16_384;

/// What a host says of itself when it joins.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NewHost {
    /// Where its peers and clients reach it (`address:port`).
    pub address: String,
    /// Its fault domain.
    pub zone: Zone,
    /// The group of zones it lies in.
    pub region: Region,
    /// Bytes it offers to shards.
    pub capacity_bytes: u64,
    /// Drawn once by the host and kept in its data folder.
    pub token: String,
}

/// How the key space is cut into ranges at the start. Never by hash: neighbours stay together.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub enum Partition {
    /// This many ranges, equal in the first two bytes of the key.
    Count(u32),
    /// Ranges that end at these keys, in rising order.
    SplitAt(Vec<Vec<u8>>),
}

/// The first entry of a cluster.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Bootstrap {
    /// Names the cluster; hosts of another one are refused.
    pub cluster_id: String,
    /// The first host; it becomes [`HostId::FIRST`] and holds the placement group.
    pub host: NewHost,
    /// What replica sets must look like.
    pub rules: Rules,
    /// How much may be under way at once.
    pub limits: Limits,
    /// How the key space is cut.
    pub partition: Partition,
    /// Shards are created once this many hosts can take replicas.
    pub hosts_before_create: u32,
    /// Mechanism time.
    pub now_ms: u64,
}

/// A step of a migration: a compare-and-set on its state.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Advance {
    /// The migration.
    pub migration: MigrationId,
    /// The state it is believed to be in.
    pub expect_state: MigrationState,
    /// The state it shall enter.
    pub next: MigrationState,
    /// The term of the controller that asks.
    pub controller_term: ControllerTerm,
    /// What the step rests on.
    pub evidence: Evidence,
    /// Mechanism time.
    pub now_ms: u64,
}

/// An entry of the placement log.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub enum Command {
    /// Begins a cluster.
    Bootstrap(Bootstrap),
    /// A host joins (`host_id` 0) or comes back (its id and token); answers with its id and the tombstones owed to it.
    JoinHost {
        /// 0 for a new host.
        host_id: HostId,
        /// What it says of itself.
        host: NewHost,
        /// Mechanism time.
        now_ms: u64,
    },
    /// A host was seen up or down, or is removed for good.
    SetHostState {
        /// The host.
        host: HostId,
        /// `Up`, `Down` or `Removed`; `Dead` has its own command.
        state: HostState,
        /// Mechanism time.
        now_ms: u64,
    },
    /// What a host takes on changes, without a guard or a reason: logs may hold it, and
    /// [`Command::ChangeAdmission`] has taken its place.
    SetAdmission {
        /// The host.
        host: HostId,
        /// What it takes on from now on.
        admission: Admission,
        /// Mechanism time.
        now_ms: u64,
    },
    /// A host that is down is declared dead: its replicas are rebuilt elsewhere.
    DeclareDead {
        /// The host.
        host: HostId,
        /// Mechanism time.
        now_ms: u64,
    },
    /// A host acknowledges a tombstone that was owed to it.
    AckTombstone {
        /// The host.
        host: HostId,
        /// The destroyed replica.
        replica: ReplicaId,
        /// Mechanism time.
        now_ms: u64,
    },
    /// Creates the shards with the hosts at hand, without waiting for `hosts_before_create`.
    CreateShards {
        /// Mechanism time.
        now_ms: u64,
    },
    /// A shard's Raft group is initialised.
    ShardReady {
        /// The shard.
        shard: ShardId,
        /// Mechanism time.
        now_ms: u64,
    },
    /// A replica leads its shard: a routing hint, fenced by the Raft term.
    ObserveHome {
        /// The shard.
        shard: ShardId,
        /// The leading replica.
        replica: ReplicaId,
        /// Its Raft term.
        raft_term: u64,
        /// Mechanism time.
        now_ms: u64,
    },
    /// A new leader of the placement group takes control; answers with its term.
    TakeControl {
        /// The host it runs on.
        host: HostId,
        /// Mechanism time.
        now_ms: u64,
    },
    /// Asks for a change of a replica set or home.
    Propose(Proposal),
    /// Moves a migration along one edge.
    Advance(Advance),
    /// Gives a migration up before the point of no return.
    Cancel {
        /// The migration.
        migration: MigrationId,
        /// Mechanism time.
        now_ms: u64,
    },
    /// Rejects proposals that are past their time.
    Expire {
        /// Mechanism time.
        now_ms: u64,
    },
    /// Replaces the rules.
    SetRules {
        /// The new rules.
        rules: Rules,
        /// Mechanism time.
        now_ms: u64,
    },
    /// Replaces the limits; what is under way goes on.
    SetLimits {
        /// The new limits.
        limits: Limits,
        /// Mechanism time.
        now_ms: u64,
    },
    /// Stores the affinity scores that a model forecast, by shard.
    RecordAffinities {
        /// The window they forecast.
        window: WindowId,
        /// The model's version.
        model: String,
        /// Scores by shard, each a whole.
        scores: BTreeMap<ShardId, HostAffinityScores>,
        /// Mechanism time.
        now_ms: u64,
    },
    /// A window of workload time is over; the next one begins.
    CloseWindow {
        /// The window that ended.
        window: WindowId,
        /// Mechanism time.
        now_ms: u64,
    },
    /// Opens, cordons, drains or decommissions a host. Refused where what it holds has nowhere to go. Decommissioning a
    /// host that is down declares it dead.
    ChangeAdmission {
        /// The host.
        host: HostId,
        /// What it takes on from now on.
        admission: Admission,
        /// Who asks.
        origin: Origin,
        /// Why, in words.
        reason: String,
        /// Mechanism time.
        now_ms: u64,
    },
    /// A host that is being decommissioned and holds nothing leaves the cluster for good.
    RemoveHost {
        /// The host.
        host: HostId,
        /// Who asks.
        origin: Origin,
        /// Why, in words.
        reason: String,
        /// Mechanism time.
        now_ms: u64,
    },
    /// A shard that lost its majority for good goes on from what one survivor has. Unsafe: what only the dead had is
    /// lost, though it was acknowledged. Refused while the hosts of a majority are not declared dead.
    RecoverShard {
        /// The shard.
        shard: ShardId,
        /// Who asks.
        origin: Origin,
        /// Why, in words.
        reason: String,
        /// Mechanism time.
        now_ms: u64,
    },
    /// What the accesses of a window that is over say of the moves on trial.
    RecordGains {
        /// The window; each is measured once, in rising order.
        window: WindowId,
        /// By trial. One that is missing was not measured in this window.
        gains: BTreeMap<u64, MeasuredGain>,
        /// Mechanism time.
        now_ms: u64,
    },
    /// Adds or removes a window in which bets on the future may start.
    ChangeHours {
        /// What changes.
        change: HoursChange,
        /// Who asks.
        origin: Origin,
        /// Why, in words.
        reason: String,
        /// Mechanism time.
        now_ms: u64,
    },
    /// Keeps a model, or lets another one forecast.
    ChangeModel {
        /// What changes.
        change: ModelChange,
        /// Who asks.
        origin: Origin,
        /// Why, in words.
        reason: String,
        /// Mechanism time.
        now_ms: u64,
    },
    /// Gives the policies of an origin their right to propose back.
    RestoreTrust {
        /// Whose.
        restored: Origin,
        /// Who asks.
        origin: Origin,
        /// Why, in words.
        reason: String,
        /// Mechanism time.
        now_ms: u64,
    },
    /// Pauses or resumes origins, or changes single limits. What is under way goes on.
    ChangeLimits {
        /// What changes.
        change: LimitsChange,
        /// Who asks.
        origin: Origin,
        /// Why, in words.
        reason: String,
        /// Mechanism time.
        now_ms: u64,
    },
}

impl Command {
    /// The mechanism time stamped into the command.
    pub fn now_ms(&self) -> u64 {
        use Command::*;
        match self {
            Bootstrap(bootstrap) => bootstrap.now_ms,
            Propose(proposal) => proposal.now_ms,
            Advance(advance) => advance.now_ms,
            JoinHost { now_ms, .. }
            | SetHostState { now_ms, .. }
            | SetAdmission { now_ms, .. }
            | DeclareDead { now_ms, .. }
            | AckTombstone { now_ms, .. }
            | CreateShards { now_ms }
            | ShardReady { now_ms, .. }
            | ObserveHome { now_ms, .. }
            | TakeControl { now_ms, .. }
            | Cancel { now_ms, .. }
            | Expire { now_ms }
            | SetRules { now_ms, .. }
            | SetLimits { now_ms, .. }
            | RecordAffinities { now_ms, .. }
            | CloseWindow { now_ms, .. }
            | ChangeAdmission { now_ms, .. }
            | RemoveHost { now_ms, .. }
            | RecoverShard { now_ms, .. }
            | RecordGains { now_ms, .. }
            | RestoreTrust { now_ms, .. }
            | ChangeHours { now_ms, .. }
            | ChangeModel { now_ms, .. }
            | ChangeLimits { now_ms, .. } => *now_ms,
        }
    }
}
