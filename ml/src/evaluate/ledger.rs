//! What a policy did: accesses by origin and home, moves, and what follows from them.

/// Accesses served and homes moved.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ledger {
    origins: usize,
    /// Accesses by origin and home, row by row.
    served: Vec<u64>,
    /// Times that a home moved.
    pub moves: u64,
    /// Bytes of the shards whose homes moved, each time: what has to be copied where the new home holds no replica.
    pub bytes: u64,
    /// Round trips from homes to their nearest majority, in microseconds, an access each.
    pub quorum_micros: u64,
}

impl Ledger {
    /// Nothing done yet, with this many origins.
    pub fn new(origins: usize) -> Self {
        Self {
            origins,
            served: vec![0; origins * origins],
            moves: 0,
            bytes: 0,
            quorum_micros: 0,
        }
    }

    /// Serves accesses by origin with a home.
    pub fn serve(&mut self, accesses: &[u32], home: usize) {
        for (origin, count) in accesses.iter().enumerate() {
            self.serve_from(origin, u64::from(*count), home);
        }
    }

    /// Serves accesses of one origin at a place.
    pub fn serve_from(&mut self, origin: usize, accesses: u64, place: usize) {
        self.served[origin * self.origins + place] += accesses;
    }

    /// What each place served.
    pub fn by_place(&self) -> Vec<u64> {
        let of = |place| {
            (0..self.origins)
                .map(|origin| self.served[origin * self.origins + place])
                .sum()
        };
        (0..self.origins).map(of).collect()
    }

    /// What the busiest place served, as a multiple of the mean over places.
    pub fn fair_share_max(&self) -> f64 {
        let most = self.by_place().into_iter().max().unwrap_or(0);
        (most * self.origins as u64) as f64 / self.accesses().max(1) as f64
    }

    /// What was served here and is not in `other`, which is a part of it.
    pub fn without(&self, other: &Self) -> Self {
        Self {
            served: self
                .served
                .iter()
                .zip(&other.served)
                .map(|(all, part)| all - part)
                .collect(),
            quorum_micros: self.quorum_micros.saturating_sub(other.quorum_micros),
            ..self.clone()
        }
    }

    /// Moves a home of a shard of this size.
    pub fn moved(&mut self, bytes: u64) {
        self.moves += 1;
        self.bytes += bytes;
    }

    /// Accesses served.
    pub fn accesses(&self) -> u64 {
        self.served.iter().sum()
    }

    /// Of them, those from their shard's home.
    pub fn local(&self) -> u64 {
        (0..self.origins)
            .map(|at| self.served[at * self.origins + at])
            .sum()
    }

    /// The local-access ratio.
    pub fn local_access_ratio(&self) -> f64 {
        self.local() as f64 / self.accesses().max(1) as f64
    }

    /// Remote accesses and `move_cost` for each move, divided by the accesses.
    pub fn cost(&self, move_cost: f64) -> f64 {
        let remote = self.accesses() - self.local();
        (remote as f64 + move_cost * self.moves as f64) / self.accesses().max(1) as f64
    }

    /// The mean round trip to the home, in microseconds.
    pub fn mean_rtt_micros(&self, rtt_micros: &[Vec<u64>]) -> f64 {
        let sum: u64 = self.round_trips(rtt_micros).map(|(rtt, count)| rtt * count).sum();
        sum as f64 / self.accesses().max(1) as f64
    }

    /// The mean round trip to the home and from there to its nearest majority, in microseconds.
    pub fn mean_quorum_rtt_micros(&self, rtt_micros: &[Vec<u64>]) -> f64 {
        self.mean_rtt_micros(rtt_micros) + self.quorum_micros as f64 / self.accesses().max(1) as f64
    }

    /// The round trip that `part` (0 to 1) of the accesses do not exceed, in microseconds.
    pub fn rtt_percentile_micros(&self, rtt_micros: &[Vec<u64>], part: f64) -> u64 {
        let mut trips: Vec<(u64, u64)> = self.round_trips(rtt_micros).collect();
        trips.sort_unstable();
        let wanted = (self.accesses() as f64 * part).ceil() as u64;
        let mut seen = 0;
        let reaches = |(_, count): &&(u64, u64)| {
            seen += count;
            seen >= wanted
        };
        trips.iter().find(reaches).map_or(0, |(rtt, _)| *rtt)
    }

    /// Round trips with how many accesses took them.
    fn round_trips<'a>(&'a self, rtt_micros: &'a [Vec<u64>]) -> impl Iterator<Item = (u64, u64)> + 'a {
        let counts = self.served.iter().enumerate();
        counts
            .filter(|(_, count)| **count > 0)
            .map(|(at, count)| (rtt_micros[at / self.origins][at % self.origins], *count))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cost_and_latency_follow_from_who_was_served_where() {
        let rtt = vec![vec![1, 50], vec![40, 1]];
        let mut ledger = Ledger::new(2);
        ledger.serve(&[97, 2], 0);
        ledger.serve(&[1, 0], 1);
        ledger.moved(10);
        assert_eq!((ledger.accesses(), ledger.local(), ledger.bytes), (100, 97, 10));
        assert_eq!((ledger.by_place(), ledger.fair_share_max()), (vec![99, 1], 1.98));
        assert!((ledger.cost(0.5) - 0.035).abs() < 1e-12);
        assert!((ledger.mean_rtt_micros(&rtt) - (97.0 + 80.0 + 50.0) / 100.0).abs() < 1e-12);
        assert_eq!(ledger.rtt_percentile_micros(&rtt, 0.97), 1);
        assert_eq!(ledger.rtt_percentile_micros(&rtt, 0.99), 40);
        assert_eq!(ledger.rtt_percentile_micros(&rtt, 1.0), 50);
    }
}
