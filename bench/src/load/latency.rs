//! How long operations took.

use std::collections::BTreeMap;
use std::time::Duration;

use hdrhistogram::Histogram;
use serde::{Deserialize, Serialize};

/// Three digits of whatever lies between a microsecond and ten minutes. The histogram counts in steps of its lowest
/// bound, so that has to be a thousandth of the shortest time.
const STEP_NS: u64 = 1;
const LONGEST_NS: u64 = 600_000_000_000;
const DIGITS: u8 = 3;

/// Times, as a histogram with three digits; as JSON, counts by nanoseconds.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(from = "BTreeMap<u64, u64>", into = "BTreeMap<u64, u64>")]
pub struct Latencies(Histogram<u64>);

impl Default for Latencies {
    fn default() -> Self {
        let made = Histogram::new_with_bounds(STEP_NS, LONGEST_NS, DIGITS);
        Self(made.expect("bounds and digits are in range"))
    }
}

impl Latencies {
    /// Counts one. What lies beyond the bounds counts as the bound.
    pub fn record(&mut self, latency: Duration) {
        let nanos = u64::try_from(latency.as_nanos()).unwrap_or(u64::MAX);
        self.0.saturating_record(nanos);
    }

    /// Counts what `other` counted.
    pub fn add(&mut self, other: &Self) {
        self.0.add(&other.0).expect("the same bounds");
    }

    /// The time, in microseconds, within which this share of the operations ended; NaN without operations.
    pub fn quantile_us(&self, share: f64) -> f64 {
        match self.0.is_empty() {
            true => f64::NAN,
            false => self.0.value_at_quantile(share) as f64 / 1e3,
        }
    }

    /// How many were counted.
    pub fn count(&self) -> u64 {
        self.0.len()
    }
}

impl From<BTreeMap<u64, u64>> for Latencies {
    fn from(counts: BTreeMap<u64, u64>) -> Self {
        let mut latencies = Self::default();
        for (nanos, count) in counts {
            latencies.0.saturating_record_n(nanos, count);
        }
        latencies
    }
}

impl From<Latencies> for BTreeMap<u64, u64> {
    fn from(latencies: Latencies) -> Self {
        let recorded = latencies.0.iter_recorded();
        recorded
            .map(|step| (step.value_iterated_to(), step.count_at_value()))
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantiles_survive_json() {
        let mut latencies = Latencies::default();
        (1..=1_000).for_each(|step| latencies.record(Duration::from_micros(step * 10)));
        let json = serde_json::to_string(&latencies).expect("JSON");
        let again: Latencies = serde_json::from_str(&json).expect("the same");
        assert_eq!(again.count(), 1_000);
        for share in [0.001, 0.01, 0.5, 0.99, 1.0] {
            let exact = share * 10_000.0;
            assert!((latencies.quantile_us(share) / exact - 1.0).abs() < 1e-3);
            assert!((again.quantile_us(share) / exact - 1.0).abs() < 1e-3);
        }
        assert!(Latencies::default().quantile_us(0.5).is_nan());
    }
}
