//! Cuts the key space into shards, from access logs alone.
//!
//! [`KeyLoads`] takes in accesses of any number of keys within bounded memory; [`equal_load`] and [`affinity_aware`]
//! cut what it holds; a [`Proposal`] is a cut with its reasons: what each range carries, from where, and how much less
//! mixed its origins are than in ranges of equal load. [`by_load`] and [`by_affinity`] part a single shard of a cluster
//! that runs.
//!
//! Must hold: shards are contiguous ranges, never hashes; the same log gives the same cut.

mod cut;
mod halves;
mod loads;
mod proposal;
mod ranges;

pub use cut::{affinity_aware, equal_load};
pub use halves::{Halves, by_affinity, by_load};
pub use loads::{KeyLoad, KeyLoads, LOAD_ORIGINS_MAX, TooManyOrigins};
pub use proposal::{Births, CutScore, ORIGIN_END, Proposal, ProposedRange};
pub use ranges::KeyRanges;
