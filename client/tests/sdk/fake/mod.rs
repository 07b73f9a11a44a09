//! A cluster of fake hosts: what the SDK's tests connect to.
//!
//! `machine` executes operations, `host` serves them over gRPC and commits the faults, `clock` is time by hand.

mod clock;
mod cluster;
mod host;
mod machine;

pub(crate) use clock::ManualClock;
pub(crate) use cluster::{FakeCluster, Fault, seed};
pub(crate) use host::FakeHost;
