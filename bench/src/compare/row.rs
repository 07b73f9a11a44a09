//! What came out of one cell.

use serde::{Deserialize, Serialize};

use super::{Cell, Sample};
use crate::load::Pace;
use crate::peer::Route;
use crate::workload::{Keys, Kind};

/// All rows, and what was compared.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Report {
    /// Of godwit.
    pub version: String,
    /// Of the peer.
    pub peer_version: String,
    /// A row a cell and route.
    pub rows: Vec<Row>,
}

/// One contender at one cell: medians over its turns.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Figures {
    /// Operations a second.
    pub ops_s: f64,
    /// Half of the operations took no longer, in microseconds.
    pub p50_us: f64,
    /// 99 of 100 took no longer.
    pub p99_us: f64,
    /// 999 of 1,000 took no longer.
    pub p999_us: f64,
    /// Seconds of processor time of all hosts, an operation.
    pub cpu_s_per_op: f64,
    /// Seconds of processor time of the clients, an operation.
    pub client_cpu_s_per_op: f64,
    /// Bytes that all hosts sent to their disks, an operation.
    pub written_bytes_per_op: f64,
    /// Memory of all hosts, in bytes.
    pub resident_bytes: f64,
    /// Operations that failed, in all turns.
    pub failures: u64,
    /// Operations that were due and not begun, in all turns.
    pub dropped: u64,
}

/// One cell: godwit beside the peer.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Row {
    /// The mix.
    pub workload: Kind,
    /// Closed loops: callers, each with one operation under way. 0: an open loop.
    pub clients: usize,
    /// Open loops: operations begun a second.
    pub per_s: Option<f64>,
    /// The keys' distribution.
    pub keys: Keys,
    /// Bytes of a value.
    pub value_bytes: usize,
    /// How godwit is reached.
    pub path: Route,
    /// Shards of godwit.
    pub shards: u32,
    /// Connections to godwit; its best number.
    pub connections: usize,
    /// Connections to the peer; its best number.
    pub peer_connections: usize,
    /// Ours.
    pub godwit: Figures,
    /// The peer's.
    pub peer: Figures,
    /// Throughput, ours by the peer's: median over the rounds...
    pub ratio: f64,
    /// ... the smallest...
    pub ratio_min: f64,
    /// ... and the largest.
    pub ratio_max: f64,
    /// Latency at the median, ours by the peer's.
    pub p50_ratio: f64,
    /// Latency at 99 %, ours by the peer's.
    pub p99_ratio: f64,
}

/// A contender's turns at a cell.
#[derive(Clone, Debug)]
pub struct Outcome {
    figures: Figures,
    /// Throughput of each turn.
    ops_s: Vec<f64>,
}

impl Outcome {
    pub(super) fn of(samples: &[Sample]) -> Self {
        let median_of = |figure: fn(&Sample) -> f64| median(samples.iter().map(figure).collect());
        let operations = |sample: &Sample| sample.measured.operations.max(1) as f64;
        let ops_s = |sample: &Sample| sample.measured.operations as f64 / sample.measured.seconds;
        let each = |figure: &dyn Fn(&Sample) -> f64| median(samples.iter().map(figure).collect());
        Self {
            figures: Figures {
                ops_s: each(&ops_s),
                p50_us: median_of(|sample| sample.measured.latencies.quantile_us(0.5)),
                p99_us: median_of(|sample| sample.measured.latencies.quantile_us(0.99)),
                p999_us: median_of(|sample| sample.measured.latencies.quantile_us(0.999)),
                cpu_s_per_op: each(&|sample| sample.used.cpu_s / operations(sample)),
                client_cpu_s_per_op: each(&|sample| sample.measured.usage.cpu_s / operations(sample)),
                written_bytes_per_op: each(&|sample| sample.used.written_bytes as f64 / operations(sample)),
                resident_bytes: median_of(|sample| sample.used.resident_bytes as f64),
                failures: samples.iter().map(|sample| sample.measured.failures).sum(),
                dropped: samples.iter().map(|sample| sample.measured.dropped).sum(),
            },
            ops_s: samples.iter().map(ops_s).collect(),
        }
    }
}

impl Row {
    pub(super) fn of(cell: &Cell, own: &Outcome, peer: &Outcome) -> Self {
        let ratios: Vec<f64> = own
            .ops_s
            .iter()
            .zip(&peer.ops_s)
            .map(|(own, peer)| own / peer)
            .collect();
        let (clients, per_s) = match cell.pace {
            Pace::Closed { clients } | Pace::Fill { clients } => (clients, None),
            Pace::Open { per_s } => (0, Some(per_s)),
        };
        Self {
            workload: cell.kind,
            clients,
            per_s,
            keys: cell.keys,
            value_bytes: 0,
            path: Route::Stream,
            shards: 0,
            connections: 0,
            peer_connections: 0,
            godwit: own.figures,
            peer: peer.figures,
            ratio_min: ratios.iter().copied().fold(f64::INFINITY, f64::min),
            ratio_max: ratios.iter().copied().fold(0.0, f64::max),
            ratio: median(ratios),
            p50_ratio: own.figures.p50_us / peer.figures.p50_us,
            p99_ratio: own.figures.p99_us / peer.figures.p99_us,
        }
    }
}

/// The one in the middle; of an even number the mean of the two. NaN of none.
fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    let middle = values.len() / 2;
    match values.len() {
        0 => f64::NAN,
        count if count % 2 == 1 => values[middle],
        _ => f64::midpoint(values[middle - 1], values[middle]),
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::load::Measured;
    use crate::process::Usage;

    fn sample(operations: u64) -> Sample {
        let mut measured = Measured {
            operations,
            seconds: 2.0,
            ..Measured::default()
        };
        measured.latencies.record(Duration::from_micros(operations));
        Sample {
            measured,
            used: Usage {
                cpu_s: 1.0,
                ..Usage::default()
            },
        }
    }

    #[test]
    fn ratios_are_taken_round_by_round() {
        let own = Outcome::of(&[sample(100), sample(400), sample(900)]);
        let peer = Outcome::of(&[sample(100), sample(100), sample(300)]);
        let cell = Cell {
            kind: Kind::Put,
            keys: Keys::Uniform,
            pace: Pace::Closed { clients: 4 },
        };
        let row = Row::of(&cell, &own, &peer);
        assert_eq!((row.ratio_min, row.ratio, row.ratio_max), (1.0, 3.0, 4.0));
        assert_eq!((row.godwit.ops_s, row.peer.ops_s), (200.0, 50.0));
        assert_eq!(row.godwit.cpu_s_per_op, 1.0 / 400.0);
        assert!((row.p50_ratio - 4.0).abs() < 0.01);
    }

    #[test]
    fn the_median_of_an_even_number_lies_between() {
        assert_eq!(median(vec![4.0, 1.0, 3.0, 2.0]), 2.5);
        assert!(median(Vec::new()).is_nan());
    }
}
