//! What a window's accesses cost a shard at a place: the planner's reckoning, of what was counted instead of forecast.
//!
//! It is how a move is judged afterwards: the same accesses, served from where the shard was and from where it is. So a
//! window with more accesses than were forecast, or fewer, is no merit and no fault of the place.

use std::collections::BTreeMap;

use crate::ids::Zone;

use super::forecast::PPM;
use super::rtt::RttMatrix;

/// The accesses of one shard in one window.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Counted {
    /// Reads.
    pub reads: u64,
    /// Writes.
    pub writes: u64,
    /// Accesses of both kinds by the zone they came from; they sum to reads and writes.
    pub origins: BTreeMap<Zone, u64>,
}

impl Counted {
    /// Latency of the accesses, summed, in microseconds: each pays the round trip from its origin to the home, and a
    /// write, or a read that is not by lease (`lease_reads_ppm` parts per million of the reads are), the home's round to
    /// the nearest of `voters` that make a majority with it. `voters` are the zones of all voters, the home's among them.
    pub fn latency_micros(
        &self,
        rtt: &RttMatrix,
        home: &Zone,
        voters: &[&Zone],
        lease_reads_ppm: u32,
    ) -> u64 {
        let near: u128 = self
            .origins
            .iter()
            .map(|(origin, accesses)| u128::from(*accesses) * u128::from(rtt.micros(origin, home)))
            .sum();
        let lease = u128::from(self.reads) * u128::from(lease_reads_ppm.min(PPM)) / u128::from(PPM);
        let rounds = (u128::from(self.reads) + u128::from(self.writes)).saturating_sub(lease);
        let quorum = rounds * u128::from(quorum_micros(rtt, home, voters));
        u64::try_from(near + quorum).unwrap_or(u64::MAX)
    }
}

/// The round trip from `home` to the nearest other voters that make a majority with it, in microseconds.
fn quorum_micros(rtt: &RttMatrix, home: &Zone, voters: &[&Zone]) -> u32 {
    let mut others: Vec<&Zone> = voters.to_vec();
    if let Some(own) = others.iter().position(|zone| *zone == home) {
        others.swap_remove(own);
    }
    let mut micros: Vec<u32> = others.iter().map(|zone| rtt.micros(home, zone)).collect();
    micros.sort_unstable();
    let acks = voters.len() / 2;
    acks.checked_sub(1)
        .and_then(|last| micros.get(last))
        .copied()
        .unwrap_or(0)
}
