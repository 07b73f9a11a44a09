//! The `godwit` binary's parts.
//!
//! A host ([`host`]) replicates machines ([`machine`]) with `raft`, answers clients, operators and peers (`service`),
//! tells watchers (`watch`) and monitoring systems (`monitor`), counts accesses ([`profiler`]) and, where it leads the placement group, controls the cluster (`controller`).
//! [`backup`] takes what a cluster holds to a folder and back. [`serve`] composes it from the real world; [`cli`] and [`verbs`] are the command line; [`replay`], [`report`] and
//! [`net`] serve the demonstration. `simulator` plays policies on a trace, without a cluster.

#[cfg(all(feature = "seeded-bugs", not(debug_assertions)))]
compile_error!("seeded bugs are built with debug assertions only, never for release");

mod background;
pub mod backup;
pub mod cli;
pub mod config;
mod controller;
pub mod demo;
pub mod host;
pub mod machine;
mod memory;
mod monitor;
pub mod net;
pub mod process;
pub mod profiler;
pub mod program;
pub mod replay;
pub mod report;
pub mod serve;
mod service;
mod simulator;
pub mod steps;
mod trace;
pub mod verbs;
mod watch;

#[allow(missing_docs, unreachable_pub, clippy::all, reason = "generated code")]
mod control {
    //! Generated from `proto/control.proto`.
    tonic::include_proto!("godwit.control");
}
