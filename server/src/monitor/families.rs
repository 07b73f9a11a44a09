//! Figures that are read when they are asked for, by name.

use std::collections::BTreeMap;

use prometheus::proto::{Counter, Gauge, LabelPair, Metric, MetricFamily, MetricType};

/// Metrics under way to be told. A name is a counter or a gauge, and has one help text.
#[derive(Default)]
pub(super) struct Families(BTreeMap<&'static str, MetricFamily>);

/// Names and values of a metric's labels.
pub(super) type Labels<'a> = &'a [(&'static str, &'a str)];

impl Families {
    /// Something that only rises while the process lives.
    pub(super) fn counter(&mut self, name: &'static str, help: &str, labels: Labels<'_>, value: f64) {
        debug_assert!(name.ends_with("_total"), "{name}");
        let mut counter = Counter::default();
        counter.set_value(value);
        let mut metric = Metric::from_label(pairs(labels));
        metric.set_counter(counter);
        self.add(name, help, MetricType::COUNTER, metric);
    }

    /// Something that rises and falls.
    pub(super) fn gauge(&mut self, name: &'static str, help: &str, labels: Labels<'_>, value: f64) {
        debug_assert!(!name.ends_with("_total"), "{name}");
        let mut gauge = Gauge::default();
        gauge.set_value(value);
        let mut metric = Metric::from_label(pairs(labels));
        metric.set_gauge(gauge);
        self.add(name, help, MetricType::GAUGE, metric);
    }

    fn add(&mut self, name: &'static str, help: &str, kind: MetricType, metric: Metric) {
        let family = self.0.entry(name).or_insert_with(|| {
            let mut family = MetricFamily::default();
            family.set_name(name.to_owned());
            family.set_help(help.to_owned());
            family.set_field_type(kind);
            family
        });
        family.mut_metric().push(metric);
    }

    pub(super) fn into_iter(self) -> impl Iterator<Item = MetricFamily> {
        self.0.into_values()
    }
}

fn pairs(labels: Labels<'_>) -> Vec<LabelPair> {
    let pair = |(name, value): &(&str, &str)| {
        let mut pair = LabelPair::default();
        pair.set_name((*name).to_owned());
        pair.set_value((*value).to_owned());
        pair
    };
    labels.iter().map(pair).collect()
}
