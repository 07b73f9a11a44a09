//! What an access costs by where it comes from and where its shard's home is, and what homes are bound to.
//!
//! Plain terms are those of the study: an access from afar costs 1 however far it is, a home may be anywhere, and hosts
//! have no limits. [`Terms::system`] are those of a store: an access costs its round trip, a home is one of the shard's
//! voters, voters are few and on hosts of their own, and no host is expected to serve more than its share allows.

/// The terms that policies play on.
#[derive(Clone, Debug, PartialEq)]
pub struct Terms {
    /// Cost by origin and home. 1 is a remote access, or the mean round trip between two places.
    pub loss: Vec<Vec<f32>>,
    /// What homes are bound to, if to anything.
    pub bounds: Option<Bounds>,
    /// The round trip that a loss of 1 stands for, beyond the one within a place, in microseconds; 0 in plain terms.
    pub unit_micros: f64,
    plain: bool,
}

/// What homes are bound to.
#[derive(Clone, Debug, PartialEq)]
pub struct Bounds {
    /// Voters of a shard, each at another place.
    pub voters: usize,
    /// What a host may be expected to serve, as a multiple of the mean over hosts; none without a limit.
    pub fair_share_max: Option<f64>,
    /// Windows in which what a shard's demand was weighs half as much.
    pub half_life_windows: f32,
    /// Windows between two looks at a shard's voters.
    pub review_windows: usize,
    /// What the copy of a replica costs, in accesses of loss 1.
    pub copy_cost: f32,
    /// Accesses a window and origin that are expected of a shard before any is seen, by the shard's number: what is
    /// known beforehand of a range for new keys. Empty where nothing is.
    pub expected: Vec<Vec<f32>>,
}

impl Terms {
    /// An access costs nothing at home and 1 elsewhere.
    pub fn plain(origins: usize) -> Self {
        let loss = |origin, home| if origin == home { 0.0 } else { 1.0 };
        Self {
            loss: (0..origins)
                .map(|origin| (0..origins).map(|home| loss(origin, home)).collect())
                .collect(),
            bounds: None,
            unit_micros: 0.0,
            plain: true,
        }
    }

    /// An access costs its round trip beyond that within a place, and 1 for the mean between two places.
    pub fn system(rtt_micros: &[Vec<u64>], bounds: Bounds) -> Self {
        let origins = rtt_micros.len();
        let beyond = |origin: usize, home: usize| {
            rtt_micros[origin][home].saturating_sub(rtt_micros[origin][origin]) as f64
        };
        let pairs = || (0..origins).flat_map(|origin| (0..origins).map(move |home| (origin, home)));
        let sum: f64 = pairs().map(|(origin, home)| beyond(origin, home)).sum();
        let mean = (sum / (origins * origins.saturating_sub(1)).max(1) as f64).max(1.0);
        Self {
            loss: (0..origins)
                .map(|origin| {
                    (0..origins)
                        .map(|home| (beyond(origin, home) / mean) as f32)
                        .collect()
                })
                .collect(),
            bounds: Some(bounds),
            unit_micros: mean,
            plain: false,
        }
    }

    /// Whether demand by origin is worth by home.
    pub(crate) fn is_plain(&self) -> bool {
        self.plain
    }

    /// What accesses by origin cost from a home.
    pub(crate) fn cost(&self, accesses: &[u32], home: usize) -> f64 {
        let each = accesses.iter().zip(&self.loss);
        each.map(|(count, loss)| f64::from(*count) * f64::from(loss[home]))
            .sum()
    }

    /// What demand by origin costs from a home.
    pub(crate) fn expected_cost(&self, demand: &[f32], home: usize) -> f32 {
        demand
            .iter()
            .zip(&self.loss)
            .map(|(demand, loss)| demand * loss[home])
            .sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_round_trip_is_weighed_against_the_mean_one() {
        let rtt = vec![vec![1, 11, 31], vec![11, 1, 21], vec![31, 21, 1]];
        let bounds = Bounds {
            voters: 3,
            fair_share_max: None,
            half_life_windows: 1.0,
            review_windows: 1,
            copy_cost: 1.0,
            expected: Vec::new(),
        };
        let terms = Terms::system(&rtt, bounds);
        assert_eq!(terms.loss[0], [0.0, 0.5, 1.5]);
        assert_eq!(terms.cost(&[2, 4, 0], 2), 2.0 * 1.5 + 4.0);
        assert_eq!(Terms::plain(3).cost(&[2, 4, 1], 2), 6.0);
    }
}
