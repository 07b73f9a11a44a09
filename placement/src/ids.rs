//! The ids of the placement state machine.
//!
//! Every id is a newtype, so that a host's number can never be passed where a replica's is meant. Ids are given out
//! by counters in the replicated state and are never used twice (invariant I2): openraft cannot tell a returning
//! node from a wiped one under the same id, so a shard that comes back to a host comes back as a new replica.

use std::fmt;

use serde::{Deserialize, Serialize};

macro_rules! number_id {
    ($(#[$doc:meta])* $name:ident, $letter:literal) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(transparent)]
        pub struct $name(pub u64);

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, concat!($letter, "{}"), self.0)
            }
        }
    };
}

macro_rules! label {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(transparent)]
        pub struct $name(pub String);

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl From<&str> for $name {
            fn from(label: &str) -> Self {
                Self(label.to_owned())
            }
        }
    };
}

number_id!(
    /// A host: a process with an address and locality labels. `HostId(0)` means "not allocated yet".
    HostId,
    "h"
);
number_id!(
    /// A shard: a contiguous key range with its Raft group. `ShardId(0)` is the placement group itself.
    ShardId,
    "s"
);
number_id!(
    /// A shard's copy on a host; the Raft node id of that copy. Never reused.
    ReplicaId,
    "r"
);
number_id!(
    /// A logged procedure that moves a replica or a home.
    MigrationId,
    "m"
);
number_id!(
    /// The term of the controller, raised by each `TakeControl`; older ones are refused everywhere.
    ControllerTerm,
    "c"
);
number_id!(
    /// A window of workload time (the trace's clock in the demo), never of wall time.
    WindowId,
    "w"
);
label!(
    /// A fault domain inside a region.
    Zone
);
label!(
    /// A group of zones.
    Region
);

impl ShardId {
    /// The placement group: the Raft group that replicates the placement state itself.
    pub const PLACEMENT: ShardId = ShardId(0);

    /// Whether this is the placement group.
    pub fn is_placement(self) -> bool {
        self == Self::PLACEMENT
    }
}

impl HostId {
    /// The host that bootstraps a cluster.
    pub const FIRST: HostId = HostId(1);
}

impl ReplicaId {
    /// The placement group's replica on [`HostId::FIRST`]: known before there is any state to ask.
    pub const FIRST: ReplicaId = ReplicaId(1);
}
