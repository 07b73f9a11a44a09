//! How much of what is to be done.

use std::sync::Arc;
use std::time::Duration;

use client::{BoxFuture, Client, ConnectError, ReadMode};

use super::name::WorkloadName;

/// Connects logical client number so-and-so. Decides on deadlines, retries and page sizes.
pub type Connect = Arc<dyn Fn(u64) -> BoxFuture<Result<Client, ConnectError>> + Send + Sync>;

/// What the clients are to do.
#[derive(Clone, Debug)]
pub struct WorkloadPlan {
    /// The workloads; each operation draws one of them.
    pub names: Vec<WorkloadName>,
    /// Where every choice comes from.
    pub seed: u64,
    /// Logical clients at a time.
    pub clients: usize,
    /// Clients beside them that watch everything.
    pub watchers: usize,
    /// Operations a second that all clients together try for; 0: as fast as it goes.
    pub operations_per_s: u64,
    /// Operations on a key after which a fresh one takes its place.
    pub key_operations_max: usize,
    /// Unknown outcomes on a key after which a fresh one takes its place.
    pub key_unknown_max: usize,
    /// Keys (or sets, or scanned ranges) of each workload in use at a time.
    pub keys_live: usize,
    /// How reads are made linearizable.
    pub read_mode: ReadMode,
}

impl Default for WorkloadPlan {
    fn default() -> Self {
        Self {
            names: WorkloadName::ALL.to_vec(),
            seed: 0,
            clients: 16,
            watchers: 2,
            operations_per_s: 400,
            key_operations_max: 500,
            key_unknown_max: 20,
            keys_live: 8,
            read_mode: ReadMode::default(),
        }
    }
}

impl WorkloadPlan {
    /// The time between two operations of one client; zero: none.
    pub(super) fn interval(&self) -> Duration {
        let clients = u64::try_from(self.clients.max(1)).unwrap_or(u64::MAX);
        match self.operations_per_s {
            0 => Duration::ZERO,
            rate => Duration::from_nanos(clients.saturating_mul(1_000_000_000) / rate),
        }
    }
}
