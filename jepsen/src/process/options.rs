//! What cluster to start.

use std::path::PathBuf;

use super::network::NetworkKind;

/// What cluster to start.
#[derive(Clone, Debug)]
pub struct ClusterOptions {
    /// How many hosts.
    pub hosts: usize,
    /// How many shards, equal slices of the key space.
    pub shards: u32,
    /// The first keys of the 2nd, 3rd, ... shard; when there are any, they say how many shards there are.
    pub split_at: Vec<Vec<u8>>,
    /// The program that runs a host, with the arguments that come before `serve`.
    pub program: Vec<String>,
    /// Where data folders, logs and sockets go. Must not exist, or be empty.
    pub folder: PathBuf,
    /// The seed of what is drawn by the network and the fault shims.
    pub seed: u64,
    /// More environment for every host, as `GODWIT_BUG`. Variables of this process are passed on as they are.
    pub environment: Vec<(String, String)>,
    /// What lies between the hosts. `None`: namespaces inside [`enter_client_namespace`], else the proxy.
    ///
    /// [`enter_client_namespace`]: super::enter_client_namespace
    pub network: Option<NetworkKind>,
    /// A library that is loaded into every host before all others: [`library_for`](crate::native::library_for) has
    /// one. Each host has a control file of its own, and only what is below its data folder is touched.
    pub preload: Option<PathBuf>,
}

impl ClusterOptions {
    /// Five hosts and eight shards.
    pub fn new(program: Vec<String>, folder: PathBuf) -> Self {
        Self {
            hosts: 5,
            shards: 8,
            split_at: Vec::new(),
            program,
            folder,
            seed: 0,
            environment: Vec::new(),
            network: None,
            preload: None,
        }
    }

    /// How many shards there will be.
    pub fn shard_count(&self) -> usize {
        match self.split_at.len() {
            0 => usize::try_from(self.shards).unwrap_or(usize::MAX),
            splits => splits + 1,
        }
    }
}
