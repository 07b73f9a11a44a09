//! What a window's accesses of one shard cost at a given home among given voters.
//!
//! An access pays the round trip from its origin's zone to the home's. A write, and a read that is not by lease, also
//! pays the home's quorum round: the round trip to the nearest voters that make a majority with it. Thousandths of an
//! access times microseconds are nanoseconds, the unit here; sums are exact in 128 bits.

use super::forecast::{PPM, ShardForecast};
use super::input::{Objective, PlanOptions};
use super::topology::{HostIx, Topology, ZoneIx};

/// The most voters a set can have here: the largest replication factor and one that is on its way.
pub(super) const VOTERS_MAX: usize = 8;

/// Latency summed over a window's accesses, in nanoseconds.
pub(super) type Nanos = i128;

/// A difference of latencies times the trust in the forecast, in nanoseconds times parts per million. It is never
/// rounded inside a search, so that what two places differ by does not depend on where a shard is now.
pub(super) type Gain = i128;

/// Nanoseconds times parts per million in a microsecond.
const GAIN_MICRO: Gain = 1_000 * PPM as Gain;

/// What one window's accesses ask of a shard.
pub(super) struct Demand {
    near: Vec<Nanos>,
    /// Origins with what each asks for: accesses in thousandths times parts per million.
    origins: Vec<(ZoneIx, u128)>,
    follow_ppm: u32,
    rounds_milli: u64,
    trust_ppm: u32,
    /// Expected accesses, in thousandths.
    pub(super) accesses_milli: u64,
}

impl Demand {
    /// Reads the demand off a forecast; no forecast is no demand.
    pub(super) fn of(topology: &Topology, options: &PlanOptions, forecast: Option<&ShardForecast>) -> Self {
        let Some(forecast) = forecast else {
            return Self {
                near: Vec::new(),
                origins: Vec::new(),
                follow_ppm: 0,
                rounds_milli: 0,
                trust_ppm: 0,
                accesses_milli: 0,
            };
        };
        let accesses_milli = forecast.accesses_milli();
        let lease =
            u128::from(forecast.reads_milli) * u128::from(options.lease_reads_ppm.min(PPM)) / u128::from(PPM);
        let weights = weights(topology, options.objective, forecast);
        let weighed =
            |(zone, share): &(ZoneIx, u32)| (*zone, u128::from(*share) * u128::from(accesses_milli));
        Self {
            near: near(topology, &weights, accesses_milli),
            origins: weights.iter().map(weighed).collect(),
            follow_ppm: options.follow_ppm.min(PPM),
            rounds_milli: accesses_milli.saturating_sub(u64::try_from(lease).unwrap_or(u64::MAX)),
            trust_ppm: PPM.saturating_sub(forecast.uncertainty_ppm),
            accesses_milli,
        }
    }

    /// The cost of the round trips to a home in `zone`, without its quorum rounds.
    pub(super) fn near(&self, zone: ZoneIx) -> Nanos {
        self.near.get(zone).copied().unwrap_or(0)
    }

    /// The cost of quorum rounds of `micros` each.
    pub(super) fn rounds(&self, micros: u32) -> Nanos {
        Nanos::from(self.rounds_milli) * Nanos::from(micros)
    }

    /// The cost with the home on `home` and voters on `voters`, which include it.
    pub(super) fn cost(&self, topology: &Topology, home: HostIx, voters: &[HostIx]) -> Nanos {
        self.near(topology.zone_of(home)) + self.rounds(quorum_micros(topology, home, voters))
    }

    /// What a set of voters costs whose best home costs `settled`: in part that, in part what it would cost if each
    /// access found the home at the voter nearest to it.
    pub(super) fn cost_of_set(&self, topology: &Topology, settled: Nanos, voters: &[HostIx]) -> Nanos {
        if self.follow_ppm == 0 {
            return settled;
        }
        let follow = Nanos::from(self.follow_ppm);
        let stay = Nanos::from(PPM) - follow;
        (settled * stay + self.followed(topology, voters) * follow) / Nanos::from(PPM)
    }

    fn followed(&self, topology: &Topology, voters: &[HostIx]) -> Nanos {
        let of = |(origin, weight): &(ZoneIx, u128)| {
            let row = topology.rtt_from(*origin);
            let nearest = voters
                .iter()
                .map(|voter| row[topology.zone_of(*voter)])
                .min()
                .unwrap_or(0);
            Nanos::try_from(*weight * u128::from(nearest) / u128::from(PPM)).unwrap_or(Nanos::MAX)
        };
        self.origins.iter().map(of).sum()
    }

    /// The least that a set can cost whose best home costs at least `settled`.
    pub(super) fn least_of_set(&self, settled: Nanos) -> Nanos {
        settled * Nanos::from(PPM - self.follow_ppm) / Nanos::from(PPM)
    }

    /// A difference of costs, discounted by how little the forecast is to be trusted.
    pub(super) fn trusted(&self, saved: Nanos) -> Gain {
        saved * Gain::from(self.trust_ppm)
    }
}

/// A gain in whole microseconds.
pub(super) fn gain_micros(gain: Gain) -> i64 {
    i64::try_from(gain / GAIN_MICRO).unwrap_or(if gain < 0 { i64::MIN } else { i64::MAX })
}

/// A cost in microseconds as the gain that pays for it.
pub(super) fn gain_for(cost_micros: u64) -> Gain {
    Gain::from(cost_micros) * GAIN_MICRO
}

/// Nanoseconds as whole microseconds.
pub(super) fn micros(nanos: Nanos) -> u64 {
    u64::try_from(nanos / 1_000).unwrap_or(if nanos < 0 { 0 } else { u64::MAX })
}

/// The round trip from `home` to the nearest of `voters` that make a majority with it, in microseconds.
pub(super) fn quorum_micros(topology: &Topology, home: HostIx, voters: &[HostIx]) -> u32 {
    let row = topology.rtt_from(topology.zone_of(home));
    let others = voters.iter().filter(|voter| **voter != home);
    let acks = voters.len() / 2;
    if acks == 1 {
        return others
            .map(|voter| row[topology.zone_of(*voter)])
            .min()
            .unwrap_or(0);
    }
    let mut sorted: Vec<u32> = others.map(|voter| row[topology.zone_of(*voter)]).collect();
    sorted.sort_unstable();
    acks.checked_sub(1)
        .and_then(|last| sorted.get(last))
        .copied()
        .unwrap_or(0)
}

/// The weight of each origin zone, in parts per million.
fn weights(topology: &Topology, objective: Objective, forecast: &ShardForecast) -> Vec<(ZoneIx, u32)> {
    match objective {
        Objective::ExpectedRtt => topology.numbered(forecast.shares.iter()).collect(),
        Objective::MostLikely => forecast
            .likeliest_origin()
            .and_then(|zone| topology.zone(zone))
            .map(|zone| (zone, PPM))
            .into_iter()
            .collect(),
    }
}

/// The cost of the ways to each zone, without quorum rounds.
fn near(topology: &Topology, weights: &[(ZoneIx, u32)], accesses_milli: u64) -> Vec<Nanos> {
    let mut weighted_micros = vec![0u64; topology.zones.len()];
    for (origin, share) in weights {
        for (sum, micros) in weighted_micros.iter_mut().zip(topology.rtt_from(*origin)) {
            *sum = sum.saturating_add(u64::from(*micros) * u64::from(*share));
        }
    }
    let scaled = |sum: u64| Nanos::from(sum) * Nanos::from(accesses_milli) / Nanos::from(PPM);
    weighted_micros.into_iter().map(scaled).collect()
}
