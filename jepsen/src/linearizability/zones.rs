//! Contradictions that need no search, after Gibbons and Korach (1997).
//!
//! A value that only one operation writes is the state for one stretch of time. Its cluster is that write with all that
//! demand the value. If the first end of the cluster is before its last call, the value is the state from the one to
//! the other: its zone. Two zones of different values must not overlap, and nothing that needs or makes another state
//! may lie within a zone. What is found is wrong; what is not found is for the search to judge. It is most of what goes
//! wrong in practice (stale reads, lost writes), and on a long history the search may be lost in it.

use std::collections::BTreeMap;

use super::model::{ABSENT, Demand, Effect, Model, OTHER, Step, Value};

/// Operations of a cluster: what ends first, what is called last.
struct Cluster<'a> {
    /// How many operations write the value; for an absent key the beginning counts.
    makers: usize,
    maker: Option<&'a Step>,
    first: Option<&'a Step>,
    last: Option<&'a Step>,
}

/// A value's stretch of time, by positions, and the operations that show it.
struct Zone {
    from: i64,
    to: i64,
    value: Value,
    shown: Vec<u32>,
}

/// The operations that contradict one another, if such are found.
pub(super) fn contradiction(model: &Model) -> Option<Vec<u32>> {
    if model.appends {
        return None;
    }
    let clusters = clusters(model);
    for (value, cluster) in &clusters {
        let (Some(maker), Some(first)) = (cluster.maker, cluster.first) else {
            continue;
        };
        if *value != ABSENT && cluster.makers == 1 && first.end < maker.call {
            return Some(vec![maker.source, first.source]);
        }
    }
    if let Some(step) = model.certain.iter().find(|step| is_of_nobody(step, &clusters)) {
        return Some(vec![step.source]);
    }
    let mut zones: Vec<Zone> = clusters
        .iter()
        .filter_map(|(value, cluster)| cluster.zone(*value))
        .collect();
    zones.sort_by_key(|zone| zone.from);
    if let Some([a, b]) = zones.array_windows().find(|[a, b]| a.to > b.from) {
        return Some([a.shown.as_slice(), &b.shown].concat());
    }
    model.certain.iter().find_map(|step| {
        let zone = zones.get(
            zones
                .partition_point(|zone| zone.from < i64::from(step.call))
                .checked_sub(1)?,
        )?;
        let within = i64::from(step.end) < zone.to && disturbs(step, zone.value);
        within.then(|| [zone.shown.as_slice(), &[step.source]].concat())
    })
}

fn clusters(model: &Model) -> BTreeMap<Value, Cluster<'_>> {
    let mut clusters: BTreeMap<Value, Cluster> = BTreeMap::new();
    let empty = |value| Cluster {
        makers: usize::from(value == ABSENT),
        maker: None,
        first: None,
        last: None,
    };
    for step in model.certain.iter().chain(&model.unknown) {
        if let Effect::Set(value) = step.effect {
            let cluster = clusters.entry(value).or_insert_with(|| empty(value));
            cluster.makers += 1;
            cluster.maker = Some(step);
            cluster.take(step);
        }
    }
    for step in &model.certain {
        if let Demand::Is(value) = step.demand {
            clusters.entry(value).or_insert_with(|| empty(value)).take(step);
        }
    }
    clusters
}

impl<'a> Cluster<'a> {
    fn take(&mut self, step: &'a Step) {
        if self.first.is_none_or(|first| step.end < first.end) {
            self.first = Some(step);
        }
        if self.last.is_none_or(|last| step.call > last.call) {
            self.last = Some(step);
        }
    }

    fn zone(&self, value: Value) -> Option<Zone> {
        let (first, last) = (self.first?, self.last?);
        // A key is absent from the beginning on.
        let from = if value == ABSENT { -1 } else { i64::from(first.end) };
        let to = i64::from(last.call);
        let shown = [self.maker, Some(first), Some(last)]
            .into_iter()
            .flatten()
            .map(|step| step.source)
            .collect();
        let is_zone = self.makers == 1 && value != OTHER && from < to;
        is_zone.then_some(Zone {
            from,
            to,
            value,
            shown,
        })
    }
}

/// Whether `step` demands what nobody writes.
fn is_of_nobody(step: &Step, clusters: &BTreeMap<Value, Cluster<'_>>) -> bool {
    match step.demand {
        Demand::Never => true,
        Demand::Is(value) => clusters.get(&value).is_none_or(|cluster| cluster.makers == 0),
        Demand::Any | Demand::Not(_) => false,
    }
}

/// Whether `step` cannot happen while `value` is the state and stays it.
fn disturbs(step: &Step, value: Value) -> bool {
    let demands_other = match step.demand {
        Demand::Is(other) => other != value,
        Demand::Not(other) => other == value,
        Demand::Any | Demand::Never => false,
    };
    demands_other || matches!(step.effect, Effect::Set(other) if other != value)
}
