//! What a policy's placement cost the accesses, and what it cost itself.

use std::collections::BTreeMap;

/// The account of one policy.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Score {
    /// Accesses served.
    pub(crate) accesses: u64,
    /// Of them, those from the zone of their shard's home.
    pub(crate) local: u64,
    /// Accesses by latency in microseconds.
    latencies: BTreeMap<u64, u64>,
    /// Homes that moved.
    pub(crate) home_moves: u64,
    /// Replicas that moved.
    pub(crate) replica_moves: u64,
    /// Bytes that were copied for them.
    pub(crate) bytes_moved: u64,
    /// Windows in which a host held more bytes than it offers, each host counted.
    pub(crate) over_capacity: u64,
    /// Windows in which two voters of a shard shared a zone though there were zones enough, each shard counted.
    pub(crate) crowded: u64,
}

impl Score {
    /// Serves accesses at one latency.
    pub(crate) fn serve(&mut self, accesses: u64, micros: u64, local: bool) {
        if accesses > 0 {
            self.accesses += accesses;
            self.local += if local { accesses } else { 0 };
            *self.latencies.entry(micros).or_default() += accesses;
        }
    }

    /// The share of accesses from the zone of their home.
    pub(crate) fn local_ratio(&self) -> f64 {
        self.local as f64 / self.accesses.max(1) as f64
    }

    /// The mean latency in microseconds.
    pub(crate) fn mean_micros(&self) -> f64 {
        let sum: u128 = self
            .latencies
            .iter()
            .map(|(micros, count)| u128::from(*micros) * u128::from(*count))
            .sum();
        sum as f64 / self.accesses.max(1) as f64
    }

    /// The latency in microseconds that one access in a hundred exceeds at most.
    pub(crate) fn p99_micros(&self) -> u64 {
        let rank = self.accesses - self.accesses / 100;
        let mut seen = 0;
        for (micros, count) in &self.latencies {
            seen += count;
            if seen >= rank {
                return *micros;
            }
        }
        0
    }

    /// Rules that did not hold, in windows.
    pub(crate) fn violations(&self) -> u64 {
        self.over_capacity + self.crowded
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn latencies_are_weighed_by_accesses() {
        let mut score = Score::default();
        score.serve(98, 1_000, true);
        score.serve(2, 51_000, false);
        score.serve(0, 9, true);
        assert_eq!((score.accesses, score.p99_micros()), (100, 51_000));
        assert!((score.mean_micros() - 2_000.0).abs() < 1e-9);
        assert!((score.local_ratio() - 0.98).abs() < 1e-9);
        score.serve(100, 1_000, true);
        assert_eq!(score.p99_micros(), 1_000, "2 of 200 are one in a hundred");
        assert_eq!(Score::default().p99_micros(), 0);
    }
}
