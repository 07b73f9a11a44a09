//! The trait behind which every policy forecasts, and how forecasts become integers.
//!
//! Must hold: a forecast uses only windows that were observed, and the shares of a shard sum to exactly one million.

use std::sync::Arc;

use placement::planner::{Forecast, OriginShares, PPM, ShardForecast};
use placement::{ShardId, WindowId, Zone};

use crate::window::WindowCounts;

/// Forecasts a coming window from those that have ended.
pub trait Forecaster {
    /// Name and version, as it is kept with each proposal.
    fn name(&self) -> &str;

    /// Takes in a window that has ended. Windows come in order.
    fn observe(&mut self, counts: &WindowCounts);

    /// Lets a new shard begin with the history of the one that its keys were in. A shard that has a history keeps it.
    ///
    /// Its shares are those of the whole until its own accesses outweigh them, and its rate is too high as long.
    fn inherit(&mut self, from: ShardId, to: ShardId);

    /// What the window will see; it lies after all that were observed.
    fn forecast(&self, window: WindowId) -> Forecast;
}

/// What is expected of a shard, before it becomes integers.
#[derive(Clone, Debug, PartialEq)]
pub struct Expectation {
    /// Share of the accesses by the zone's number; any scale.
    pub shares: Vec<f32>,
    /// Expected accesses.
    pub accesses: f32,
    /// The share of reads among them, 0 to 1.
    pub read_share: f32,
    /// How little the shares are to be trusted, 0 to 1.
    pub uncertainty: f32,
}

/// The origins of a forecast, by number and in order of name.
#[derive(Clone, Debug)]
pub struct OriginNames {
    in_order: Arc<[Zone]>,
    /// The number of each.
    numbers: Vec<usize>,
}

impl OriginNames {
    /// The names of origins by number, each once.
    pub fn new(zones: &[Zone]) -> Self {
        let mut numbers: Vec<usize> = (0..zones.len()).collect();
        numbers.sort_by(|a, b| zones[*a].cmp(&zones[*b]));
        Self {
            in_order: numbers.iter().map(|number| zones[*number].clone()).collect(),
            numbers,
        }
    }

    fn shares(&self, ppm: &[u32]) -> OriginShares {
        let in_order = self.numbers.iter().map(|number| ppm[*number]).collect();
        OriginShares::new(self.in_order.clone(), in_order)
    }
}

impl Expectation {
    /// The integer form, with a share for each of these origins; `None` where none has any.
    pub fn to_forecast(&self, origins: &OriginNames) -> Option<ShardForecast> {
        let ppm = shares_ppm(&self.shares)?;
        let accesses_milli = (f64::from(self.accesses.clamp(0.0, 1e12)) * 1000.0).round() as u64;
        let reads_milli = (accesses_milli as f64 * f64::from(self.read_share.clamp(0.0, 1.0))).round() as u64;
        Some(ShardForecast {
            reads_milli,
            writes_milli: accesses_milli.saturating_sub(reads_milli),
            shares: origins.shares(&ppm),
            uncertainty_ppm: (self.uncertainty.clamp(0.0, 1.0) * PPM as f32) as u32,
        })
    }
}

/// Scales shares to parts per million by largest remainders; `None` if their sum is not a positive number.
pub fn shares_ppm(shares: &[f32]) -> Option<Vec<u32>> {
    let mut exact: Vec<f64> = shares
        .iter()
        .map(|share| if *share > 0.0 { f64::from(*share) } else { 0.0 })
        .collect();
    let total: f64 = exact.iter().sum();
    if !total.is_finite() || total <= 0.0 {
        return None;
    }
    exact
        .iter_mut()
        .for_each(|share| *share = *share / total * f64::from(PPM));
    // Without a fraction: none is above a million, so this is the floor.
    let mut ppm: Vec<u32> = exact.iter().map(|share| *share as u32).collect();
    let missing = PPM.saturating_sub(ppm.iter().sum()) as usize;
    let mut remainders: Vec<(f64, usize)> = exact
        .iter()
        .zip(&ppm)
        .map(|(exact, whole)| exact - f64::from(*whole))
        .zip(0..)
        .collect();
    let (each, rest) = (missing / ppm.len(), missing % ppm.len());
    let larger_first = |a: &(f64, usize), b: &(f64, usize)| b.0.total_cmp(&a.0).then(a.1.cmp(&b.1));
    remainders.select_nth_unstable_by(rest, larger_first);
    ppm.iter_mut().for_each(|share| *share += each as u32);
    remainders[..rest].iter().for_each(|(_, at)| ppm[*at] += 1);
    Some(ppm)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shares_sum_to_one_million() {
        assert_eq!(
            shares_ppm(&[1.0, 1.0, 1.0]),
            Some(vec![333_334, 333_333, 333_333])
        );
        assert_eq!(shares_ppm(&[0.0, 2.0]), Some(vec![0, 1_000_000]));
        let many: Vec<f32> = (1..60).map(|i| (i as f32).sqrt()).collect();
        assert_eq!(shares_ppm(&many).map(|ppm| ppm.iter().sum()), Some(PPM));
    }

    #[test]
    fn shares_of_nothing_are_no_forecast() {
        assert_eq!(shares_ppm(&[0.0, f32::NAN]), None);
        assert_eq!(shares_ppm(&[]), None);
    }

    #[test]
    fn an_expectation_becomes_thousandths() {
        let expectation = Expectation {
            shares: vec![1.0, 3.0],
            accesses: 0.5,
            read_share: 0.25,
            uncertainty: 0.1,
        };
        let forecast = expectation
            .to_forecast(&OriginNames::new(&[Zone::from("b"), Zone::from("a")]))
            .unwrap();
        assert_eq!((forecast.reads_milli, forecast.writes_milli), (125, 375));
        assert_eq!(forecast.shares.of(&Zone::from("a")), 750_000);
        assert_eq!(forecast.uncertainty_ppm, 100_000);
    }
}
