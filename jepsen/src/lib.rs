//! Histories of client operations, and the checkers that judge them.

pub mod generate;
pub mod history;
pub mod linearizability;
mod verdict;

pub use verdict::{Anomaly, Verdict, Violation};
