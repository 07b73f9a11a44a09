//! The simple rules that a model must beat, behind the same trait.
//!
//! [`RuleForecaster`] does what they share (numbering zones, reads against writes, integers); a [`Rule`] says only how
//! many accesses it expects by origin.

mod rule;
mod rules;

pub use rule::{Rule, RuleForecaster};
pub use rules::{Ewma, HourOfDay, LastAccess, LastWindow, SeasonalNaive, StaticHash, StaticMajority};
