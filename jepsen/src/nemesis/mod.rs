//! Faults of real processes: which, where, when, and how each is undone.
//!
//! [`torment`] draws a schedule from a seed. Changes of shards go on all the time, one every few seconds, because
//! moving data is where replicated stores break; beside them one or two other faults hold for some seconds each, with
//! quiet in between. Every name gets its turn before any gets a second one.
//!
//! A fault is a function from the field to what it struck; how it is undone is data, so that it can be undone at any
//! moment, and by [`Cluster::heal`] if all else was cut short. A fault is counted when it happened: a kill that found
//! a process, a migration that was accepted.
//!
//! Files: processes, network, shards, controllers and disks hold one class of faults each; `torment` is the schedule.
//!
//! [`Cluster::heal`]: crate::process::Cluster::heal

use std::collections::BTreeMap;

mod controllers;
mod disks;
mod fault;
mod field;
mod migrations;
mod network;
mod processes;
mod shards;
mod torment;

pub use fault::{available, names};
pub use torment::torment;

/// What a run injects when it is not told otherwise. Narrow it with [`available`].
pub const DEFAULT_MIX: [&str; 27] = [
    "move-replica",
    "move-home",
    "transfer-storm",
    "join",
    "kill-random",
    "kill-leader",
    "kill-minority",
    "kill-all",
    "pause-random",
    "pause-leader",
    "restart",
    "isolate-random",
    "isolate-leader",
    "partition-halves",
    "one-way",
    "bridge",
    "majority-ring",
    "flapping",
    "client-partition",
    "delay",
    "loss",
    "reset",
    "controller-kill",
    "controller-failpoint",
    "wipe",
    "rollback",
    "bit-rot",
];

/// How often each fault happened. A name with a slash counts how a fault of that name went.
#[derive(Clone, Debug, Default)]
pub struct Tally(pub BTreeMap<String, u64>);
