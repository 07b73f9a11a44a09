//! Histories of client operations, and the checkers that judge them.
//!
//! A run leaves lines: what every client asked and was told ([`history`]), what was done to the cluster
//! ([`events`]), what watchers were told ([`watch`]), what the placement log decided ([`placement`]). Each checker
//! takes such lines and answers with a [`Verdict`]: ok, violations with the fewest operations that show them, or
//! unknown. Unknown is never taken for ok: a checker that ran out of time, or that found nothing to judge, says so.
//!
//! What the checkers do not know: the client, the server, Raft, or how a history came about. They share no code with
//! what they judge, so a mistake there is not repeated here; the linearizability checker is held against one that
//! others wrote (`tests/cross_check.rs`).
//!
//! Histories come about in two ways, with the same clients ([`workload`]) and the same judge ([`judge`]): from
//! processes that are killed, paused, cut off and robbed of their disks ([`process`], [`nemesis`], [`run`]), and from
//! a whole cluster in one process on simulated time, network and disks ([`simulate`]).
//!
//! Start reading at [`history`], then [`linearizability`], then [`run`].

pub mod events;
pub mod generate;
pub mod history;
pub mod judge;
pub mod linearizability;
pub mod list_append;
pub mod migration;
pub mod mutants;
pub mod native;
pub mod nemesis;
pub mod placement;
pub mod process;
mod ranges;
pub mod record;
pub mod revisions;
pub mod run;
pub mod set;
pub mod simulate;
pub mod timeline;
pub mod watch;
pub mod workload;

#[cfg(test)]
mod testing;
mod verdict;

pub use verdict::{Anomaly, Verdict, Violation};
