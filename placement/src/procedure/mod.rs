//! The controller's side of a migration: what to order, what to write, given what is seen.
//!
//! `next_actions` is a pure function of the log (a [`crate::Placement`] and one of its migrations), of one
//! [`Observation`] of the shard, and of the time. It keeps nothing between calls, so a controller that dies after any
//! action is replaced by one that knows nothing but the log, observes, and goes on: every order is idempotent, every
//! step is a compare-and-set. What it leaves out: sending the orders, and how often to repeat one (a [`Pacer`]).

mod actions;
mod evidence;
mod merge;
mod observation;
mod pacer;
mod recovery;
mod strays;

pub use actions::{Action, MergeStep, next_actions};
pub use observation::{Fenced, HostView, LeaderView, Membership, Observation, ReplicaProgress};
pub use pacer::Pacer;
pub use strays::strays;
