//! Where every shard of the cluster lives, and how that changes.

mod apply;
mod check;
mod codec;
mod command;
mod history;
mod ids;
mod migration;
mod model;
pub mod planner;
mod procedure;
mod repair;
mod rules;
mod spread;
mod state;

pub use check::{Invariant, Violation};
pub use codec::{DecodeError, FORMAT_VERSION, decode, decode_state, encode, encode_state};
pub use command::{
    Accepted, Advance, Bootstrap, Command, NewHost, Partition, Refusal, Response, SHARDS_MAX, Slot, Tombstone,
};
pub use history::{EVENTS_MAX, EventKind, History, HistoryEvent, Totals};
pub use ids::{ControllerTerm, HostId, MigrationId, Region, ReplicaId, ShardId, WindowId, Zone};
pub use migration::{
    AbortReason, Evidence, LagSample, Migration, MigrationKind, MigrationState, Placed, Proposal,
    ProposalKind, Reasons, STEPS_MAX, Step,
};
pub use model::{
    AFFINITY_TOTAL_PPM, Admission, Affinity, Epoch, Host, HostAffinityScores, HostState, KeyRange,
    ObservedHome, Replica, Role, SHARD_CHANGES_MAX, Shard, ShardChange,
};
pub use procedure::{
    Action, HostView, LeaderView, Membership, Observation, Pacer, ReplicaProgress, next_actions, strays,
};
pub use repair::{overdue_hosts, placement_group_target, repairs};
pub use rules::{Limits, Origin, REPLICATION_FACTOR_MAX, Rules, Spread, Timeouts};
pub use state::{Controller, ENDED_MAX, Placement, Route};
