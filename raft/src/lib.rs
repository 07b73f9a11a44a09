//! Replicates a [`Machine`] with Raft: many groups in one process.
//!
//! A group is one shard's consensus, or the placement group's. Each replica keeps its log in the host's shared
//! [`storage::log::LogHub`] and its state in a machine. All groups of a host share one stream to each peer; reads
//! are confirmed by ReadIndex; membership changes carry the decision that made them in the same entry.
//!
//! This is the only crate that names openraft; what it learned about that library's limits stands in `config.rs`
//! and beside each call it binds. It does **not** know what a command means, where a shard should live, or who may
//! ask: it knows groups, replicas and hosts by id.

#[cfg(all(feature = "seeded-bugs", not(debug_assertions)))]
compile_error!("seeded bugs are built with debug assertions only, never for release");

mod change;
mod config;
mod confirm;
#[cfg(test)]
mod conformance;
mod convert;
mod env;
mod failover;
mod found;
mod group;
mod host;
mod inspect;
mod log_store;
mod machine;
mod pacing;
mod peer;
mod put_off;
mod read;
mod runtime;
mod state_machine;
mod succession;
mod transfers;
mod types;

#[allow(missing_docs, unreachable_pub, clippy::all)]
pub mod proto {
    //! Generated from `proto/peer.proto`.
    tonic::include_proto!("godwit.peer");
}

pub use change::{ChangeError, MemberChange};
pub use config::{RaftOptions, RaftOptionsError};
pub use env::{Connecting, Connector, Env, Executor, IoStream, LogEnded, TokioExecutor};
pub use found::founding_mark;
pub use group::{Group, GroupStatus, ProposeError, ReplicaProgress, TransferError};
pub use host::{DestroyError, HostIdentity, OpenGroupError, RaftHost, StartGroup};
pub use inspect::{EntryPrint, Role, Vitals};
pub use machine::{
    Captured, Imported, Machine, MachineFault, Preparation, Release, Response, SnapshotSink, SnapshotSource,
};
pub use pacing::SnapshotRates;
pub use peer::PeerService;
pub use read::ReadError;
pub use runtime::{ClockSkew, HostContext};
pub use state_machine::Urgency;
pub use succession::{LogEnd, Succession, SuccessionError};
pub use transfers::{SnapshotCounts, SnapshotLimits, SnapshotProgress};
pub use types::{ConfStamp, Position};
