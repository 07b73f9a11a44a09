//! Histories of client operations, and the checkers that judge them.

pub mod events;
pub mod generate;
pub mod history;
pub mod linearizability;
pub mod list_append;
pub mod migration;
pub mod placement;
pub mod revisions;
pub mod set;
#[cfg(test)]
mod testing;
mod verdict;
pub mod watch;

pub use verdict::{Anomaly, Verdict, Violation};
