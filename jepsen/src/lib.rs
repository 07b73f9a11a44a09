//! Histories of client operations, and the checkers that judge them.
//!
//! A run leaves lines: what every client asked and was told ([`history`]), what was done to the cluster
//! ([`events`]), what watchers were told ([`watch`]), what the placement log decided ([`placement`]). Each checker
//! takes such lines and answers with a [`Verdict`]: ok, violations with the fewest operations that show them, or
//! unknown. Unknown is never taken for ok: a checker that ran out of time, or that found nothing to judge, says so.
//!
//! What this crate does not know: the client, the server, Raft, or how a history came about. It shares no code with
//! what it judges, so a mistake there is not repeated here; its linearizability checker is held against one that
//! others wrote (`tests/cross_check.rs`).
//!
//! Start reading at [`history`], then [`linearizability`].

pub mod events;
pub mod generate;
pub mod history;
pub mod linearizability;
pub mod list_append;
pub mod migration;
pub mod placement;
pub mod revisions;
pub mod set;
pub mod timeline;
pub mod watch;

#[cfg(test)]
mod testing;
mod verdict;

pub use verdict::{Anomaly, Verdict, Violation};
