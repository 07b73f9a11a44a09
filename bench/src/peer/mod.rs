//! Stores that can be measured.
//!
//! A [`Peer`] starts hosts as processes on loopback, each with a folder of its own, and says how a client reaches them
//! ([`Access`]). A [`Store`] is such a client: what a load generator needs, and no more.

mod etcd;
mod godwit;
mod unary;
mod watched;

use std::path::Path;
use std::sync::Arc;

use async_trait::async_trait;
use clap::ValueEnum;
use serde::{Deserialize, Serialize};

pub use etcd::Etcd;
pub use godwit::Godwit;

use crate::process::{Process, Usage};
use crate::workload::Operation;

/// How a client's operations travel.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, ValueEnum)]
#[serde(rename_all = "snake_case")]
pub enum Route {
    /// By godwit's SDK: streams, with batches of what many callers ask for.
    Stream,
    /// By godwit's unary calls, one an operation.
    Unary,
    /// By etcd's API: unary calls.
    Etcd,
}

/// All that a client in another process needs to reach a cluster.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Access {
    /// How.
    pub route: Route,
    /// The hosts that clients connect to, `address:port`.
    pub endpoints: Vec<String>,
    /// Connections, spread over the endpoints in turn. For [`Route::Stream`] these are clients of the SDK, each of which
    /// connects to all hosts that it needs.
    pub connections: usize,
}

/// A client of some store.
#[async_trait]
pub trait Store: Send + Sync {
    /// Performs an operation; answers when it is durable, or read linearizably.
    ///
    /// # Errors
    /// When it fails, in the client's words, or reads a key that was never written.
    async fn perform(&self, operation: Operation) -> anyhow::Result<()>;
}

/// Hosts of a peer, running.
#[derive(Debug)]
pub struct Cluster {
    /// The hosts' addresses, as clients use them.
    pub endpoints: Vec<String>,
    /// The hosts.
    pub hosts: Vec<Process>,
}

impl Cluster {
    /// What all hosts have used together.
    ///
    /// # Errors
    /// When one of them has ended.
    pub fn usage(&self) -> anyhow::Result<Usage> {
        let mut sum = Usage::default();
        for host in &self.hosts {
            sum = sum + host.usage()?;
        }
        Ok(sum)
    }
}

/// A store that can be started.
#[async_trait]
pub trait Peer: Send + Sync {
    /// What tables call it.
    fn name(&self) -> &'static str;

    /// Its version, in its own words.
    ///
    /// # Errors
    /// When the program cannot be asked.
    fn version(&self) -> anyhow::Result<String>;

    /// Starts `hosts` hosts with empty disks below `folder`, and waits until they serve.
    ///
    /// # Errors
    /// When one does not start, or the cluster does not come to serve.
    async fn start(&self, folder: &Path, hosts: usize) -> anyhow::Result<Cluster>;

    /// The place among the hosts of the one that leads: of a sharded store, the first shard's leader.
    ///
    /// # Errors
    /// When none leads.
    async fn leader(&self, cluster: &Cluster) -> anyhow::Result<usize>;

    /// Ways to place `connections` connections; a comparison takes the best of them for its peer.
    ///
    /// # Errors
    /// When the cluster cannot be asked who leads.
    async fn accesses(&self, cluster: &Cluster, connections: usize) -> anyhow::Result<Vec<Access>>;
}

/// Connects. A connection that breaks later is made again when it is used.
///
/// # Errors
/// When a host cannot be reached.
pub async fn connect(access: &Access) -> anyhow::Result<Vec<Arc<dyn Store>>> {
    let mut stores: Vec<Arc<dyn Store>> = Vec::new();
    for number in 0..access.connections.max(1) {
        let endpoint = &access.endpoints[number % access.endpoints.len()];
        stores.push(match access.route {
            Route::Stream => Arc::new(godwit::Stream::connect(&access.endpoints).await?),
            Route::Unary => Arc::new(unary::Unary::connect(&access.endpoints, endpoint).await?),
            Route::Etcd => Arc::new(etcd::Connection::open(endpoint)?),
        });
    }
    Ok(stores)
}
