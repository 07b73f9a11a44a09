//! What is counted as it happens, and everything that a host tells, as text.

use std::time::Duration;

use prometheus::{
    Encoder, HistogramOpts, HistogramVec, IntCounter, IntCounterVec, Opts, Registry, TextEncoder,
};

use super::disk::DiskMetrics;
use super::families::Families;
use super::requests::RequestMetrics;
use super::{health, placement, raft, shards, storage};
use crate::host::Host;

/// From a read in memory to a write that waited for an election, in seconds.
const DURATION_BUCKETS: [f64; 16] = [
    0.000_1, 0.000_25, 0.000_5, 0.001, 0.002_5, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0,
];

/// The counters of one host. Hosts of one process have their own.
#[derive(Debug)]
pub(crate) struct Metrics {
    registry: Registry,
    pub(crate) requests: std::sync::Arc<RequestMetrics>,
    /// Entries that the replicas of data shards have applied.
    pub(crate) applied_entries: IntCounter,
    /// Terms in which this host has begun to lead a data shard.
    pub(crate) leaderships: IntCounter,
    pub(super) disk: DiskMetrics,
}

impl Metrics {
    pub(crate) fn new() -> Self {
        let registry = Registry::new();
        let counter = |name: &str, help: &str| {
            let counter = IntCounter::new(name, help).expect("the name is one of a metric");
            let registered = registry.register(Box::new(counter.clone()));
            registered.expect("each name is registered once");
            counter
        };
        Self {
            applied_entries: counter(
                "godwit_raft_applied_entries_total",
                "Entries applied by the replicas of this host's shards.",
            ),
            leaderships: counter(
                "godwit_raft_leaderships_total",
                "Times that this host began to lead a shard: over all hosts, the elections won.",
            ),
            requests: std::sync::Arc::new(RequestMetrics::new(&registry)),
            disk: DiskMetrics::new(&registry),
            registry,
        }
    }
}

/// Everything that a host tells, in Prometheus' text format.
pub(super) fn text(host: &Host) -> prometheus::Result<Vec<u8>> {
    let mut families = Families::default();
    health::collect(host, &mut families);
    raft::collect(host, &mut families);
    storage::collect(host, &mut families);
    shards::collect(host, &mut families);
    placement::collect(host, &mut families);
    let mut all = host.metrics().registry.gather();
    all.extend(families.into_iter());
    all.sort_by(|a, b| a.name().cmp(b.name()));
    let mut text = Vec::new();
    TextEncoder::new().encode(&all, &mut text)?;
    Ok(text)
}

/// Registers counters with labels.
pub(super) fn counters(registry: &Registry, name: &str, help: &str, labels: &[&str]) -> IntCounterVec {
    let counters = IntCounterVec::new(Opts::new(name, help), labels).expect("the names are valid");
    let registered = registry.register(Box::new(counters.clone()));
    registered.expect("each name is registered once");
    counters
}

/// Registers histograms of durations with labels.
pub(super) fn durations(registry: &Registry, name: &str, help: &str, labels: &[&str]) -> HistogramVec {
    let options = HistogramOpts::new(name, help).buckets(DURATION_BUCKETS.to_vec());
    let durations = HistogramVec::new(options, labels).expect("the names are valid");
    let registered = registry.register(Box::new(durations.clone()));
    registered.expect("each name is registered once");
    durations
}

/// Seconds of a duration in milliseconds.
pub(super) fn seconds(millis: u64) -> f64 {
    Duration::from_millis(millis).as_secs_f64()
}
