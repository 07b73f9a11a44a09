//! Replaying an access trace: from a file to the operations of each window.
//!
//! [`Trace`] reads and checks a trace, [`ReplayPlan`] says which of its rows are replayed in which
//! window, and [`Stamp`] makes values that say which write they come from, so that what is read back
//! can be checked. Nothing here talks to a cluster or keeps time; the plan is the same for every policy.
//!
//! The mapping is plain: a row whose verb is the store's (`get`, `put`, ...) is that read or write; any
//! other row is a session on a record, replayed as one get and then one put of `size` bytes. So are the
//! departures and landings of the flights trace: an airport reads an aircraft's record and updates it.

mod plan;
mod stamp;
mod trace;

pub use plan::{PlanError, PlannedWindow, ReplayPlan, Slice};
pub use stamp::{STAMP_BYTES, Stamp};
pub use trace::{Row, RowKind, Trace, TraceError, TraceLimits};
