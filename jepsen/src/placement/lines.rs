//! What a placement history consists of.

use serde::{Deserialize, Serialize};

use crate::events::MigrationState;

/// One line.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PlacementLine {
    /// Its place in the history; a placement log index where it is an entry of that.
    pub index: u64,
    /// What it shows.
    #[serde(flatten)]
    pub shows: Showing,
}

/// What a line can show.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "shows", rename_all = "snake_case", deny_unknown_fields)]
pub enum Showing {
    /// The rules and limits from here on.
    Rules {
        /// Voters that a shard should have.
        replication_factor: usize,
        /// Migrations at a time that take a replica away from one host.
        out_max: usize,
        /// Migrations at a time that bring a replica to one host.
        in_max: usize,
    },
    /// A host can or cannot take replicas.
    Host {
        /// The host.
        host: u64,
        /// Whether it counts for the replication factor.
        eligible: bool,
    },
    /// The placement log's copy of a shard.
    Shard {
        /// The shard.
        shard: u64,
        /// The version of its replica set.
        conf_ver: u64,
        /// The voters.
        voters: Vec<Placed>,
        /// The learners.
        #[serde(default)]
        learners: Vec<Placed>,
    },
    /// A membership that the shard's own log committed.
    Committed {
        /// The shard.
        shard: u64,
        /// The version in that entry.
        conf_ver: u64,
        /// Voters and learners; of a joint configuration those of both.
        replicas: Vec<u64>,
    },
    /// A migration entered a state.
    Step {
        /// The migration.
        migration: u64,
        /// The shard.
        shard: u64,
        /// Its kind.
        kind: MigrationKind,
        /// The state entered.
        state: MigrationState,
        /// The replica given up.
        #[serde(default)]
        src: Option<Placed>,
        /// The new replica, or the new home.
        #[serde(default)]
        dst: Option<Placed>,
    },
    /// A host destroyed a replica's data.
    Destroyed {
        /// The shard.
        shard: u64,
        /// The replica.
        replica: u64,
    },
    /// An operator forced a shard back to life with fewer voters.
    ForcedRecovery {
        /// The shard.
        shard: u64,
    },
    /// Another shard has absorbed this one: its range is the other's, and its replicas are to be destroyed.
    Absorbed {
        /// The shard.
        shard: u64,
    },
    /// All faults are over, and the time that migrations may take since has passed.
    Settled,
}

/// A replica and its host.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Placed {
    /// The replica.
    pub replica: u64,
    /// Its host.
    pub host: u64,
}

/// The kind of a migration.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
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
    /// A shard that lost its majority goes on from one survivor.
    Recover,
}
