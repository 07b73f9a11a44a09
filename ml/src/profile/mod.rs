//! What is remembered of the windows seen so far, in bounded memory.
//!
//! [`Counts`] and [`DecayedCounts`] are numbers by origin; [`ShardHistory`] keeps them per shard over several spans of
//! time and [`GlobalHistory`] over all shards; [`RenewalBook`] remembers single keys for a while, and after what
//! delay and where they were touched again.

mod access_profile;
mod counts;
mod gaps;
mod history;
mod renewal;
mod time;

pub(crate) use access_profile::{AccessProfile, inherit, numbered};
pub use counts::Counts;
pub(crate) use counts::{DecayedCounts, ZoneIndex};
pub(crate) use history::{EWMA_ALPHAS, HOUR_OF_DAY_ALPHA, HOUR_OF_WEEK_ALPHA, ShardHistory};
pub use time::WindowLength;
