//! The SDK against hosts that misbehave on purpose, over real loopback connections.
//!
//! `fake` is a cluster of gRPC servers in this process: the smallest key-value machine that has shards, homes, range
//! versions and sessions, and a script of faults. Each other module is one promise of the SDK.
#![allow(
    clippy::unwrap_used,
    reason = "a test fails by panicking, in the functions it calls too"
)]

mod fake;

mod admin;
mod deadlines;
mod exactly_once;
mod random_faults;
mod routing;
mod scans;
mod streaming;
