//! Invariants I1 to I8 and I10 of placement, over the lines of a placement history.
//!
//! Lines are JSON objects in the order of the placement log, with what shards' own logs and hosts showed in between
//! (`PlacementLine`). The checker keeps its own small picture and shares no code with the state machine it judges.
//! I9 (acknowledged writes stay readable) is judged by `migration` and `linearizability`.
//!
//! Not to be seen in such lines, and so left out: fault domains beyond hosts (I4), the order of priorities, bandwidth
//! and dwell (I8).
//!
//! - `lines`: the lines.
//! - `edges`: which state may follow which.
//! - `check`: the picture and the verdict.

mod check;
mod edges;
mod lines;

pub use check::check;
pub use lines::{MigrationKind, Placed, PlacementLine, Showing};
