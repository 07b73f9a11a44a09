//! A cluster of real processes on one machine.
//!
//! Hosts are `godwit serve` processes, each with a folder, a log file and a zone of its own. Between them lies one of
//! two networks: network namespaces joined by a switch of ours that delays, reorders and drops packets, or a proxy in
//! this process, where bytes are held back. The first is closer to what happens in a data centre and needs root; the second works
//! everywhere. A fault is a [`Condition`] on ordered pairs of ends, so the same nemeses drive both.
//!
//! Everything that a cluster starts is ended by its id, at [`Cluster::stop`] or when the cluster is dropped; what
//! cannot be ended is named.
//!
//! Not here: when which fault happens (that is [`nemesis`](crate::nemesis)), and what clients do.

mod cluster;
mod compare;
mod condition;
mod connections;
mod faults;
mod host;
mod layout;
mod namespaces;
mod network;
mod options;
mod proxy;
mod rebuild;
mod recovery;
mod reentry;
mod shell;
mod switchboard;

pub use cluster::{Cluster, Expected};
pub use compare::{ReplicaState, differences};
pub use condition::{Condition, Effect, End, Way, both_ways, ways_between};
pub(crate) use faults::REFUSAL_LIMIT;
pub use host::Signal;
pub use layout::Layout;
pub use network::{Network, NetworkKind};
pub use options::ClusterOptions;
pub use proxy::Proxy;
pub use reentry::{Entry, enter_client_namespace};
