//! One running host: its data folder, its replicas, its place in the cluster.
//!
//! [`run`] is what `main`, the tests and the demo call. Everything a host takes from the outside (disk, clock, random
//! numbers, blocking work, connections) is handed to it as a [`HostEnv`].

mod accesses;
mod channels;
mod folder;
mod homes;
mod join;
mod leases;
mod maintenance;
mod map;
mod merges;
mod orders;
mod propose;
mod recovery;
mod replicas;
mod run;
pub(crate) mod scrub;
#[cfg(feature = "seeded-bugs")]
mod seeded_bug;
mod snapshots;
mod space;
mod state;
mod successors;
#[cfg(test)]
pub(crate) mod testing;

pub(crate) use accesses::AccessOf;
pub use channels::{Channels, ControlError};
pub use folder::{DataFolder, FolderError, Identity};
pub(crate) use join::DECOMMISSIONED;
pub use map::{MapHost, ShardMap};
pub(crate) use merges::{Absorber, Neighbours};
pub use propose::ProposeFailure;
pub use replicas::{LocalShard, ReplicaError};
pub use run::{RunError, run};
pub(crate) use space::adds_data;
pub(crate) use state::LocalPlacement;
pub use state::{Host, HostEnv, HostFailure};
pub(crate) use successors::{Predecessor, Successions};
