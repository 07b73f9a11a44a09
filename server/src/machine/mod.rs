//! The two machines that a host replicates: a shard's keys and values, and the placement state.

mod kv;
mod placement;

pub use kv::KvMachine;
pub use placement::{OpenPlacementError, PlacementMachine};
