//! What each host serves and stores, and how much it may.
//!
//! Accesses are counted at the home, which serves them; bytes at every replica. While a plan is made a replica that
//! moves counts at both ends, as it does on the disks until its migration ends. No host is ever given more than its
//! maximum; one that has more already keeps it until a move takes some away.

use super::forecast::PPM;
use super::topology::{HostIx, Problem};

/// The load of every host, by number.
pub(super) struct Loads {
    accesses_milli: Vec<u64>,
    bytes: Vec<u64>,
    accesses_max_milli: u64,
    bytes_max: Vec<u64>,
}

impl Loads {
    /// The loads of the present placement, under the forecast of the window.
    pub(super) fn of(problem: &Problem) -> Self {
        let hosts = problem.topology.hosts.len();
        let (mut accesses_milli, mut bytes) = (vec![0u64; hosts], vec![0u64; hosts]);
        for shard in &problem.shards {
            accesses_milli[shard.home] =
                accesses_milli[shard.home].saturating_add(shard.demand.accesses_milli);
            for host in &shard.occupied {
                bytes[*host] = bytes[*host].saturating_add(shard.view.bytes);
            }
        }
        let largest_milli = problem
            .shards
            .iter()
            .map(|shard| shard.demand.accesses_milli)
            .max();
        let largest_bytes = problem.shards.iter().map(|shard| shard.view.bytes).max();
        let accesses_max_milli = share_max(problem, &accesses_milli, largest_milli);
        let share_bytes = share_max(problem, &bytes, largest_bytes);
        let capacities = problem
            .topology
            .hosts
            .iter()
            .map(|(_, host)| host.capacity_bytes.min(share_bytes));
        let bytes_max = capacities.collect();
        Self {
            accesses_milli,
            bytes,
            accesses_max_milli,
            bytes_max,
        }
    }

    /// Accesses that one host may serve in the window, in thousandths.
    pub(super) fn accesses_max_milli(&self) -> u64 {
        self.accesses_max_milli
    }

    /// Accesses that a host serves in the window, in thousandths.
    pub(super) fn accesses_milli(&self, host: HostIx) -> u64 {
        self.accesses_milli[host]
    }

    /// Whether a host may serve `more_milli` accesses once it has given away `less_milli`.
    pub(super) fn may_serve(&self, host: HostIx, more_milli: u64, less_milli: u64) -> bool {
        let rest = self.accesses_milli[host].saturating_sub(less_milli);
        rest.saturating_add(more_milli) <= self.accesses_max_milli
    }

    /// Whether a host has room for `more` bytes.
    pub(super) fn may_store(&self, host: HostIx, more: u64) -> bool {
        self.bytes[host].saturating_add(more) <= self.bytes_max[host]
    }

    /// How full a host is, in parts per million of what it may store.
    pub(super) fn fullness_ppm(&self, host: HostIx) -> u128 {
        u128::from(self.bytes[host]) * u128::from(PPM) / u128::from(self.bytes_max[host].max(1))
    }

    /// Serves `milli` thousandths of accesses at `to` instead of `from`.
    pub(super) fn move_accesses(&mut self, from: HostIx, to: HostIx, milli: u64) {
        self.accesses_milli[from] = self.accesses_milli[from].saturating_sub(milli);
        self.accesses_milli[to] = self.accesses_milli[to].saturating_add(milli);
    }

    /// Stores `bytes` more at a host.
    pub(super) fn add_bytes(&mut self, host: HostIx, bytes: u64) {
        self.bytes[host] = self.bytes[host].saturating_add(bytes);
    }
}

/// The part of a total that one host may have, but never less than the largest single piece.
fn share_max(problem: &Problem, loads: &[u64], largest: Option<u64>) -> u64 {
    let Some(ppm) = problem.input.options.fair_share_max_ppm else {
        return u64::MAX;
    };
    let hosts = problem
        .topology
        .hosts
        .iter()
        .filter(|(_, host)| host.accepts())
        .count();
    let total: u128 = loads.iter().map(|load| u128::from(*load)).sum();
    let part = total * u128::from(ppm) / (u128::from(PPM) * hosts.max(1) as u128);
    u64::try_from(part).unwrap_or(u64::MAX).max(largest.unwrap_or(0))
}
