//! The client SDK of godwit, and its public protocol.
//!
//! [`Client`] is the way in: it finds the cluster through any host, keeps the shard map, sends operations to the
//! shards' homes on one batching stream a host, and retries them within their deadlines so that a mutation takes
//! effect once. [`AdminClient`] makes operators' calls. [`proto`] is the protocol itself, for the server and for
//! those who write another client.
//!
//! How an operation goes: [`dispatch`] drives it; [`routes`] says which shard and host; [`session`] gives a mutation
//! its identity; [`link`] carries the request and its reply; [`setback`] classifies what goes wrong. [`watch`] has streams
//! of its own.
//!
//! This crate knows nothing of Raft, of placement or of storage. It has no clock, no randomness and no sockets of its
//! own: see [`Clock`], [`Connector`] and [`ClientConfig::seed`].
#![allow(
    rustdoc::private_intra_doc_links,
    reason = "the overview is for those who change this crate"
)]

pub mod proto;

mod admin;
mod client;
mod cluster;
mod config;
mod dispatch;
mod error;
mod lease;
mod link;
mod operation;
mod pool;
mod retry;
mod routes;
mod scan;
mod seam;
mod seeded_bug;
mod session;
mod setback;
mod shared;
mod stats;
mod transaction;
mod transport;
mod watch;

pub use admin::AdminClient;
pub use client::{Client, Location};
pub use config::{ClientConfig, Limits, ReadMode, RequestOptions, RetryPolicy, Transport};
pub use error::{AdminError, ConnectError, MutationError, ReadError};
pub use lease::{Lease, LeaseStatus};
pub use operation::{Expect, Fetched, KeyRange, Previous, Swapped, Versions, Written};
pub use proto::KeyValue;
pub use scan::Scan;
pub use seam::{
    BoxFuture, ByteStream, Clock, Connector, TcpConnector, TokioClock, TraceContext, TraceSource,
};
pub use stats::Stats;
pub use transaction::{Action, ActionResult, Compare, Property, Relation, Transacted, Transaction};
pub use watch::{Event, Watch, WatchError, WatchFrom, WatchOptions, WatchPosition, WatchUpdate};
