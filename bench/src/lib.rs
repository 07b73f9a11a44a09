//! Godwit beside other stores: the same workloads, on the same machine, in one run.
//!
//! [`compare`] starts a cluster of each peer, every host a process with a disk of its own, and lets the peers take
//! turns at one workload after another. The load comes from a process of its own ([`load`]), which knows a store only
//! as a [`peer::Store`]. Another peer is one more implementation of [`peer::Peer`].

pub mod compare;
pub mod failover;
pub mod layout_change;
pub mod load;
pub mod migrate;
pub mod peer;
pub mod placement;
pub mod process;
pub mod profile;
pub mod restart;
pub mod scale;
pub mod training;
pub mod watch;
pub mod workload;
