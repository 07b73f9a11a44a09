//! Where every shard of the cluster lives, and how that changes.

mod ids;
mod migration;
mod model;
pub mod planner;
mod rules;

pub use ids::{ControllerTerm, HostId, MigrationId, Region, ReplicaId, ShardId, WindowId, Zone};
pub use migration::{
    AbortReason, Evidence, LagSample, Migration, MigrationKind, MigrationState, Placed, Proposal, ProposalKind,
    Reasons, Step,
};
pub use model::{
    AFFINITY_TOTAL_PPM, Admission, Affinity, Epoch, Host, HostAffinityScores, HostState, KeyRange, ObservedHome,
    Replica, Role, Shard, ShardChange,
};
pub use rules::{Limits, Origin, REPLICATION_FACTOR_MAX, Rules, Spread, Timeouts};
