//! Where every shard of the cluster lives, and how that changes.
//!
//! The placement group's log holds every decision; [`Placement`] is what the log comes to. Four parts, all pure:
//!
//! - The state machine: [`Placement::apply`] takes one [`Command`] and answers with a [`Response`]. It knows hosts,
//!   shards with their replicas and homes, epochs, rules, limits and migrations, and refuses whatever would break an
//!   invariant (I1 to I8, `check`), equally on every replica.
//! - The procedure: [`next_actions`] says what the controller should order or write next for a migration, given the
//!   log and one [`Observation`]. A controller that dies is replaced by one that knows nothing else.
//! - Proposals: [`repairs`] and [`placement_group_target`] from the rules, [`planner`] from a forecast. They are
//!   wishes; `apply` decides. `departure` says whether a host can leave, and what it still holds.
//! - What came of them: `trust` holds what a move was predicted to save against what it saved, and says who may propose;
//!   `hours` says when a bet on the future may start.
//!
//! A migration is a row of states (`migration`), each left on evidence: intent entry, idempotent order, evidence entry.
//! The point of no return is the commit of the new voters in the shard's own log, never an entry here: this log holds
//! intent and routing, the shard's log orders data.
//!
//! What this crate does not know: Raft (it sees terms, memberships and log indexes as numbers), sockets, disks, clocks,
//! threads, chance and floats. Mechanism time arrives stamped in commands and as an argument; workload time arrives as
//! windows. It cannot tell whether evidence is true: whoever observes must report only what is committed.
//!
//! Left out for now: a cluster version that holds back new entry kinds, and byte-rate limits on snapshots.
//!
//! Start reading at `migration`, then `apply/advance`, then a script in `testscripts/migration`.

mod apply;
mod check;
mod codec;
mod command;
mod departure;
mod history;
mod hours;
mod ids;
mod migration;
mod model;
mod models;
pub mod planner;
mod procedure;
mod recovery;
mod repair;
mod response;
mod rules;
mod spread;
mod state;
mod trust;

pub use check::{Invariant, Violation};
pub use codec::{DecodeError, FORMAT_VERSION, decode, decode_state, encode, encode_state};
pub use command::{Advance, Bootstrap, Command, NewHost, Partition, SHARDS_MAX};
pub use departure::{Holdup, Remnant, emptied_hosts, remnants};
pub use history::{Dropped, EVENTS_MAX, EventKind, History, HistoryEvent, HistoryLimits, Totals};
pub use hours::{DAY_MINUTES, HOURS_MAX, Hours, HoursChange, Weekday};
pub use ids::{ControllerTerm, HostId, MigrationId, Region, ReplicaId, ShardId, WindowId, Zone};
pub use migration::{
    AbortReason, Evidence, LagSample, MergePlan, Migration, MigrationKind, MigrationState, Placed, Proposal,
    ProposalKind, Reasons, STEPS_MAX, SplitPlan, Step,
};
pub use model::{
    AFFINITY_TOTAL_PPM, Admission, Affinity, Epoch, FirstRange, Host, HostAffinityScores, HostState,
    KeyRange, ObservedHome, Replica, Role, SHARD_CHANGES_MAX, Shard, ShardChange,
};
pub use models::{KeptModel, MODEL_BYTES_MAX, MODELS_MAX, ModelChange, ModelRecord, Models, ROLLBACKS_MAX};
pub use procedure::{
    Action, Fenced, HostView, LeaderView, Membership, MergeStep, Observation, Pacer, ReplicaProgress,
    next_actions, strays,
};
pub use recovery::{LogEnd, Recovery, Succession, recovery_refusal};
pub use repair::{overdue_hosts, placement_group_target, repairs};
pub use response::{Accepted, Refusal, Response, Slot, Tombstone};
pub use rules::{
    Limits, LimitsChange, Origin, REPLICATION_FACTOR_MAX, Rules, SnapshotRate, Spread, Timeouts,
};
pub use state::{Controller, ENDED_MAX, Placement, Route};
pub use trust::{
    GainTotals, Layout, MeasuredGain, POLICIES_MAX, TRIALS_MAX, TRUST_MOVES_MAX, TrackRecord, Trial, Trust,
    TrustLimits, VERDICTS_MAX, Verdict,
};
