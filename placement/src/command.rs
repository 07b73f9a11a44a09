//! What can be written into the placement log, and what `apply` answers.
//!
//! A command carries everything its effect depends on: the proposer stamps `now_ms` (mechanism time) and windows
//! (workload time) once. A refusal is part of the answer and equal on every replica. Formats only grow: a new variant,
//! never a new meaning; a reader that meets a variant or field it does not know must stop (see [`crate::decode`]).

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use thiserror::Error;

use crate::check::Invariant;
use crate::ids::{ControllerTerm, HostId, MigrationId, Region, ReplicaId, ShardId, WindowId, Zone};
use crate::migration::{Evidence, MigrationState, Proposal};
use crate::model::{Admission, Epoch, HostAffinityScores, HostState};
use crate::rules::{Limits, Origin, Rules};

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
    /// An operator opens, cordons or drains a host.
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
            | CloseWindow { now_ms, .. } => *now_ms,
        }
    }
}

/// A replica that its host must destroy and never create again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Tombstone {
    /// The shard.
    pub shard: ShardId,
    /// The replica.
    pub replica: ReplicaId,
}

/// What an accepted command did.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Accepted {
    /// The state already was as asked; nothing changed.
    Unchanged,
    /// The state changed.
    Applied,
    /// A host has joined.
    Joined {
        /// Its id.
        host: HostId,
        /// What it must destroy before it serves.
        owed: Vec<Tombstone>,
    },
    /// Shards were created.
    Created {
        /// How many.
        shards: u32,
    },
    /// A controller has taken over under this term.
    Control(ControllerTerm),
    /// A migration was made.
    Proposed(MigrationId),
    /// A migration entered this state.
    Entered(MigrationState),
    /// Proposals rejected because their time was over.
    Expired {
        /// How many.
        rejected: u32,
    },
}

/// A limit that was reached.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Slot {
    /// Replicas on their way to the host.
    In(HostId),
    /// Replicas on their way from the host.
    Out(HostId),
    /// Home moves in the cluster.
    Homes,
}

/// Why a command changed nothing. Equal on every replica.
#[derive(Clone, Debug, PartialEq, Eq, Error, Serialize, Deserialize)]
pub enum Refusal {
    /// There is no cluster yet.
    #[error("the cluster is not bootstrapped")]
    NotBootstrapped,
    /// There is a cluster already.
    #[error("the cluster is bootstrapped already, as {cluster_id}")]
    AlreadyBootstrapped {
        /// Its id.
        cluster_id: String,
    },
    /// The entry was applied before.
    #[error("entry already applied; the state is at index {applied_index}")]
    Replayed {
        /// The state's index.
        applied_index: u64,
    },
    /// A setting or record makes no sense.
    #[error("invalid: {0}")]
    Invalid(String),
    /// No such host.
    #[error("no host {0}")]
    UnknownHost(HostId),
    /// No such shard.
    #[error("no shard {0}")]
    UnknownShard(ShardId),
    /// The shard has no such replica.
    #[error("no replica {0} in the shard")]
    UnknownReplica(ReplicaId),
    /// No such migration is known.
    #[error("no migration {0}")]
    UnknownMigration(MigrationId),
    /// The host was removed for good.
    #[error("host {0} was removed")]
    HostRemoved(HostId),
    /// The token does not belong to the host's id.
    #[error("the data folder is not that of host {0}: its token differs")]
    TokenMismatch(HostId),
    /// Another live host has the address.
    #[error("host {0} has that address")]
    AddressInUse(HostId),
    /// The host still holds replicas.
    #[error("host {host} still holds {replicas} replicas")]
    HostHoldsReplicas {
        /// The host.
        host: HostId,
        /// How many.
        replicas: u32,
    },
    /// The host's state does not allow it.
    #[error("host {host} is {state:?}")]
    HostStateForbids {
        /// The host.
        host: HostId,
        /// Its state.
        state: HostState,
    },
    /// The host takes nothing new.
    #[error("host {0} takes no replicas or homes")]
    HostRefuses(HostId),
    /// Too few hosts to create the shards.
    #[error("no host can take replicas")]
    NoHosts,
    /// The shard's group is not initialised.
    #[error("shard {0} is not ready")]
    ShardNotReady(ShardId),
    /// The shard has an active migration.
    #[error("shard busy with migration {0}")]
    ShardBusy(MigrationId),
    /// The proposer looked at an older shard.
    #[error("the shard's epoch is {current:?}")]
    StaleEpoch {
        /// The shard's epoch.
        current: Epoch,
    },
    /// The shard has a replica on that host.
    #[error("the shard already has replica {replica} on host {host}")]
    AlreadyThere {
        /// The host.
        host: HostId,
        /// The replica there.
        replica: ReplicaId,
    },
    /// The replica leads already, and is meant to.
    #[error("replica {0} is the home already")]
    AlreadyHome(ReplicaId),
    /// The replica does not vote.
    #[error("replica {0} is not a voter")]
    NotVoter(ReplicaId),
    /// The shard would have too few voters.
    #[error("the shard needs at least {needed} voters")]
    TooFewVoters {
        /// The least number.
        needed: u32,
    },
    /// The shard would have more voters than the rules ask for.
    #[error("the shard has {voters} voters already")]
    EnoughVoters {
        /// How many it has.
        voters: u32,
    },
    /// The voters would share fault domains more than the rules and hosts make needed.
    #[error("the voters would not be spread as the rules ask")]
    NotSpread,
    /// A limit is reached.
    #[error("limit reached: {0:?}")]
    LimitReached(Slot),
    /// The shard moved too recently.
    #[error("the shard dwells until window {until}")]
    Dwelling {
        /// The first window in which it may move again.
        until: WindowId,
    },
    /// Proposals of this origin are paused.
    #[error("proposals of origin {0:?} are paused")]
    Paused(Origin),
    /// The proposal's time is over.
    #[error("the proposal expired at {expires_ms} ms")]
    Expired {
        /// When.
        expires_ms: u64,
    },
    /// The window is over.
    #[error("the current window is {current}")]
    StaleWindow {
        /// The current window.
        current: WindowId,
    },
    /// Another controller has taken over.
    #[error("the controller's term is {current}")]
    StaleController {
        /// The current term.
        current: ControllerTerm,
    },
    /// A later leader is known.
    #[error("a leader of term {known} is known")]
    StaleTerm {
        /// The term known.
        known: u64,
    },
    /// The migration is in another state.
    #[error("the migration is {actual:?}")]
    StateChanged {
        /// Its state.
        actual: MigrationState,
    },
    /// The evidence does not show what the step needs.
    #[error("the evidence does not show it: {0}")]
    WeakEvidence(String),
    /// The switch may have committed; only its controller may give it up, by what it sees.
    #[error("the migration is past the point where it can be cancelled ({0:?})")]
    PastCancel(MigrationState),
    /// The command would break an invariant; an alarm is raised.
    #[error("would break {invariant}: {detail}")]
    Breaks {
        /// Which.
        invariant: Invariant,
        /// How.
        detail: String,
    },
}

/// The answer of `apply`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Response {
    /// The command took effect.
    Accepted(Accepted),
    /// The command changed nothing.
    Refused(Refusal),
}

impl Response {
    /// The outcome as a result, for callers that treat a refusal as an error.
    ///
    /// # Errors
    /// The refusal.
    pub fn into_result(self) -> Result<Accepted, Refusal> {
        match self {
            Response::Accepted(accepted) => Ok(accepted),
            Response::Refused(refusal) => Err(refusal),
        }
    }
}
