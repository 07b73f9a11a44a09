//! What `apply` answers: what an accepted command did, or why it changed nothing.
//!
//! Refusals are part of the answer and equal on every replica. One kind, [`Refusal::Breaks`], also raises an alarm: the
//! command contradicts the state in a way that a correct proposer never does.

use serde::{Deserialize, Serialize};
use thiserror::Error;

use crate::check::Invariant;
use crate::ids::{ControllerTerm, HostId, MigrationId, ReplicaId, ShardId, WindowId};
use crate::migration::MigrationState;
use crate::model::{Epoch, HostState};
use crate::rules::Origin;

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
    /// A proposal was written down and not carried out.
    Shadowed,
    /// A window in which bets on the future may start was added.
    HoursAdded {
        /// Its id.
        id: u64,
    },
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
    #[error("host {0} was decommissioned and has left the cluster for good")]
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
    /// Proposals of this origin's policy are written down and not carried out, so what it proposed before does not start.
    #[error("what origin {0:?} proposes is not carried out: it is in shadow, or has lost its right")]
    Shadowed(Origin),
    /// No maintenance window is open, and the change is a bet on the future.
    #[error("origin {0:?} waits for a maintenance window")]
    OutsideHours(Origin),
    /// No such model is kept.
    #[error("no model {0} is kept")]
    UnknownModel(String),
    /// No such maintenance window.
    #[error("no maintenance window {0}")]
    UnknownHours(u64),
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
    /// The host's replica of a shard, or of the placement group, would have no place.
    #[error("{} needs {needed} voters, and only {others} other hosts can hold one: let a host join first", group(*shard))]
    NowhereToGo {
        /// The host.
        host: HostId,
        /// A shard on it.
        shard: ShardId,
        /// How many voters that needs.
        needed: u32,
        /// How many other hosts have one and stay, or could get one.
        others: u32,
    },
    /// Nobody else has what the host holds.
    #[error("host {host} is not up and holds the last replica of {}", group(*shard))]
    LastReplica {
        /// The host.
        host: HostId,
        /// The shard.
        shard: ShardId,
    },
    /// Only a host that was decommissioned is removed.
    #[error("host {0} is not being decommissioned")]
    NotDecommissioning(HostId),
    /// The shard may still have its majority.
    #[error(
        "{dead} of the {voters} voters of shard {shard} are on hosts that are declared dead, which is no majority: \
         what is merely down may come back"
    )]
    MajorityNotDead {
        /// The shard.
        shard: ShardId,
        /// Voters on dead hosts.
        dead: u32,
        /// Voters in all.
        voters: u32,
    },
    /// There is nothing to go on from.
    #[error("every replica of shard {0} is on a host that is declared dead: one of them has to come back")]
    NothingSurvives(ShardId),
    /// Its own log would have to say so.
    #[error("the placement group cannot be recovered through its own log")]
    NotThePlacementGroup,
}

fn group(shard: ShardId) -> String {
    match shard.is_placement() {
        true => "the placement group".to_owned(),
        false => format!("shard {shard}"),
    }
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
