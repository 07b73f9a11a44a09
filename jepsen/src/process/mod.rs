//! A cluster of real processes on one machine.

use std::path::PathBuf;
use std::time::Duration;

/// What cluster to start.
#[derive(Clone, Debug)]
pub struct ClusterOptions {
    /// How many hosts.
    pub hosts: usize,
    /// How many shards.
    pub shards: u32,
    /// The program that runs a host, with the arguments that come before `serve`.
    pub program: Vec<String>,
    /// Where data folders, logs and sockets go. Must not exist, or be empty.
    pub folder: PathBuf,
    /// The seed of what is drawn by the network and the fault shims.
    pub seed: u64,
    /// More environment for every host, as `GODWIT_BUG`.
    pub environment: Vec<(String, String)>,
}

/// Host processes, their disks and the network between them.
#[derive(Debug)]
pub struct Cluster {}

impl Cluster {
    /// Starts the hosts, makes the cluster and waits until every shard has a home.
    ///
    /// # Errors
    /// When a host does not start or the cluster does not settle.
    pub async fn start(_options: ClusterOptions) -> anyhow::Result<Self> {
        anyhow::bail!("not written yet")
    }

    /// Where clients reach the hosts.
    pub fn addresses(&self) -> Vec<String> {
        Vec::new()
    }

    /// Ends all faults: the network is whole, disks and clocks are sound, every host runs.
    ///
    /// # Errors
    /// When something cannot be undone.
    pub async fn heal(&self) -> anyhow::Result<()> {
        Ok(())
    }

    /// Waits until every shard has a home and answers, then until no migration is active: how long each took.
    ///
    /// # Errors
    /// When it takes longer than the limit given for it.
    pub async fn recover(
        &self,
        _homes: Duration,
        _migrations: Duration,
    ) -> anyhow::Result<(Duration, Duration)> {
        anyhow::bail!("not written yet")
    }

    /// Compares what the replicas of every shard hold: a line for each difference.
    ///
    /// # Errors
    /// When a host cannot be asked.
    pub async fn compare_replicas(&self) -> anyhow::Result<Vec<String>> {
        anyhow::bail!("not written yet")
    }

    /// Lines of the hosts' logs that tell of a panic or a broken assertion.
    pub fn complaints(&self) -> Vec<String> {
        Vec::new()
    }

    /// Ends everything that was started, and names what is still there: processes, namespaces, mounts.
    pub async fn stop(self) -> Vec<String> {
        Vec::new()
    }
}
