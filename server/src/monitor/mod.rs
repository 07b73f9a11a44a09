//! What monitoring systems are told, over HTTP: metrics, whether the process lives, whether the host is ready.
//!
//! What happens often (requests, applied entries, syncs) is counted as it happens, in [`Metrics`], which each host has for
//! itself. All else is read from the host when somebody asks: nothing runs, and nothing is kept, for a figure that nobody
//! looks at. Labels are bounded: kinds and outcomes are fixed lists, shards have series of their own up to a configured
//! number, and no key, user or address ever becomes a label.

mod disk;
mod endpoint;
mod families;
mod health;
mod kinds;
mod metrics;
mod placement;
mod raft;
mod requests;
mod shards;
mod storage;
mod trust;

pub(crate) use disk::MeasuredDisk;
pub(crate) use endpoint::serve;
pub(crate) use metrics::Metrics;
pub(crate) use requests::{RequestLoad, RequestMetrics};
