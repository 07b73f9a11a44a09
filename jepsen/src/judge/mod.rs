//! One verdict on a run, from everything that is known of it.
//!
//! Each question is a [`Check`] with its own [`Finding`]; the run's is the worst of them. What counts as what:
//!
//! - violation: a checker found a promise broken; acknowledged operations are too few, a key cannot be read at the end,
//!   recovery took too long (a dead cluster breaks no promise of order, so it has to fail here); replicas differ; a
//!   host panicked;
//! - invalid: the run does not show what it set out to show, or left something behind that may spoil the next one: a
//!   fault that was asked for never happened, a process, namespace or mount is still there;
//! - unknown: a checker could not tell. Never taken for ok.
//!
//! - `evidence`: what is judged. `demands`: what is asked of it.
//! - `judgement`: the answer. `verdict_of`: from one to the other.
//! - `order`: the checkers of this crate, each on the operations that it understands; `sets`, `counters`: two of them.
//! - `progress`: whether the cluster got anything done, and came back. `conduct`: hosts, faults and what was left.
//! - `files`: a run's folder.

mod conduct;
mod counters;
mod demands;
mod evidence;
mod files;
mod judgement;
mod order;
mod progress;
mod sets;
#[cfg(test)]
mod tests;
mod verdict_of;

pub use demands::Demands;
pub use evidence::{Evidence, Facts, Recovery};
pub use files::{FilesError, judge_files, write_files};
pub use judgement::{Check, Counts, Finding, Judgement};
pub use verdict_of::judge;
