//! How many requests of each kind ended how, and how long they took on this host.

use std::sync::OnceLock;
use std::time::Duration;

use client::proto::{Reply, Request};
use prometheus::core::Metric;
use prometheus::{Histogram, HistogramVec, IntCounter, IntCounterVec, Registry};

use super::kinds::{Kind, outcome_of, outcomes};
use super::metrics::{counters, durations};

/// Counts requests as they are answered.
#[derive(Debug)]
pub(crate) struct RequestMetrics {
    answered: IntCounterVec,
    outcomes: Vec<String>,
    /// By the number of the kind.
    kinds: Vec<OfKind>,
}

/// What is counted of one kind, found without hashing a label.
#[derive(Debug)]
struct OfKind {
    duration: Histogram,
    /// By the place of the outcome; a series begins with its first request.
    by_outcome: Vec<OnceLock<IntCounter>>,
}

/// What was answered of one kind since the host was started.
#[derive(Debug)]
pub(crate) struct RequestLoad {
    pub(crate) kind: &'static str,
    pub(crate) requests: u64,
    /// How long they took together.
    pub(crate) sum_micros: u64,
    /// How many took no longer than so many microseconds.
    pub(crate) buckets: Vec<(u64, u64)>,
}

impl RequestMetrics {
    /// The kinds that were asked for at all.
    pub(crate) fn loads(&self) -> Vec<RequestLoad> {
        let load = |kind: Kind| {
            let duration = self.kinds[kind as usize].duration.metric();
            let duration = duration.get_histogram();
            let micros = |seconds: f64| (seconds * 1e6).round() as u64;
            let buckets = duration.get_bucket().iter();
            RequestLoad {
                kind: kind.as_str(),
                requests: duration.get_sample_count(),
                sum_micros: micros(duration.get_sample_sum()),
                buckets: buckets
                    .map(|bucket| (micros(bucket.upper_bound()), bucket.cumulative_count()))
                    .collect(),
            }
        };
        let loads = Kind::ALL.into_iter().map(load);
        loads.filter(|load| load.requests > 0).collect()
    }

    pub(super) fn new(registry: &Registry) -> Self {
        let answered = counters(
            registry,
            "godwit_requests_total",
            "Requests of clients that this host answered, by kind and outcome.",
            &["kind", "outcome"],
        );
        let duration = durations(
            registry,
            "godwit_request_duration_seconds",
            "From when a request was read to when its answer was ready, by kind.",
            &["kind"],
        );
        let outcomes: Vec<String> = outcomes().collect();
        let kinds = Kind::ALL.map(|kind| OfKind::new(kind, &duration, outcomes.len()));
        let measured = Self {
            answered,
            outcomes,
            kinds: kinds.into(),
        };
        // A rate needs a zero before the first request.
        for kind in Kind::ALL {
            measured.count(kind, 0, 0);
        }
        measured
    }

    /// Counts an answer, which took so long.
    pub(crate) fn note(&self, request: &Request, reply: &Reply, took: Duration) {
        let kind = Kind::of(request);
        self.count(kind, outcome_of(reply), 1);
        self.kinds[kind as usize].duration.observe(took.as_secs_f64());
    }

    fn count(&self, kind: Kind, outcome: usize, by: u64) {
        let Some(counter) = self.kinds[kind as usize].by_outcome.get(outcome) else {
            return;
        };
        let series = || {
            let labels = [kind.as_str(), &self.outcomes[outcome]];
            self.answered.with_label_values(&labels)
        };
        counter.get_or_init(series).inc_by(by);
    }
}

impl OfKind {
    fn new(kind: Kind, duration: &HistogramVec, outcomes: usize) -> Self {
        Self {
            duration: duration.with_label_values(&[kind.as_str()]),
            by_outcome: (0..outcomes).map(|_| OnceLock::new()).collect(),
        }
    }
}
