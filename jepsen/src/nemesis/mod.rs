//! Faults of real processes: which, where, when, and how each is undone.
//!
//! [`torment`] draws a schedule from a seed. Changes of shards go on all the time, one every few seconds, because
//! moving data is where replicated stores break; beside them one or two other faults hold for some seconds each, with
//! quiet in between. Every name gets its turn before any gets a second one.
//!
//! A fault is a function from the field to what it struck; how it is undone is data, so that it can be undone at any
//! moment, and by [`Cluster::heal`] if all else was cut short. A fault is counted when it happened: a kill that found
//! a process, a migration that was accepted, a failed sync that the library in the host counted.
//!
//! Files: processes, network, shards, controllers, disks (what is done to files), `disk_errors`, power and clocks (what is
//! ordered from the library in the hosts) hold one class of faults each; `torment` is the schedule.
//!
//! [`Cluster::heal`]: crate::process::Cluster::heal

use std::collections::BTreeMap;

mod clocks;
mod controllers;
mod disk_errors;
mod disks;
mod fault;
mod field;
mod migrations;
mod network;
mod power;
mod processes;
mod proof;
mod shards;
mod torment;

pub use fault::{available, names};
pub use torment::torment;

/// Faults that only those who ask for them get: clocks that lease reads do not allow, and links too narrow to recover in
/// time.
const NOT_BY_DEFAULT: [&str; 2] = ["clock-rate-wild", "narrow"];

/// What a run injects when it is not told otherwise. Narrow it with [`available`].
pub fn default_mix() -> impl Iterator<Item = &'static str> {
    names().filter(|name| !NOT_BY_DEFAULT.contains(name))
}

/// How often each fault happened. A name with a slash counts how a fault of that name went.
#[derive(Clone, Debug, Default)]
pub struct Tally(pub BTreeMap<String, u64>);
