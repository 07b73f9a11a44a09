//! Real hosts as processes: one file for each thing that must hold.
//!
//! Every test starts its own cluster on free loopback ports and temporary folders, and ends the processes it started,
//! by their ids, also when it fails.

#![allow(clippy::unwrap_used)]

mod access_splits;
mod backups;
mod bad_input;
mod control;
mod explains;
mod failing_disk;
mod harness;
mod kills;
mod leases;
mod leaving;
mod membership;
mod merges;
mod migrations;
mod models;
mod monitoring;
mod power_cut;
mod quota;
mod recovery;
mod replica_states;
mod reshaping;
mod scrub;
mod simulated;
mod snapshots;
mod splits;
mod stale_reads;
#[cfg(feature = "otel")]
mod traces;
mod transactions;
mod trust;
mod versions;
mod watches;
