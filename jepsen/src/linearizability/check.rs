//! All keys of a history, on several threads, within bounds.

use std::collections::BTreeMap;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use super::explain::explain;
use super::model::Model;
use super::search::{Answer, search};
use super::zones::contradiction;
use crate::history::Operation;
use crate::verdict::Verdict;

/// What a check may cost. What does not fit is unknown, never ok.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bounds {
    /// Configurations remembered for one key; some 100 to 200 bytes each.
    pub states_max: u64,
    /// Wall time for all keys, without the explanations of what is wrong.
    pub time_max: Duration,
    /// Threads to use.
    pub threads: usize,
}

impl Default for Bounds {
    fn default() -> Self {
        let threads = thread::available_parallelism().map_or(1, usize::from);
        Self {
            states_max: 5_000_000,
            time_max: Duration::from_secs(300),
            threads,
        }
    }
}

/// Judges every key of `history`.
pub fn check(history: &[Operation], bounds: Bounds) -> Verdict {
    let mut by_key: BTreeMap<&str, Vec<&Operation>> = BTreeMap::new();
    for operation in history {
        by_key.entry(operation.key()).or_default().push(operation);
    }
    // The longest first, so that no thread is left alone with one at the end.
    let mut keys: Vec<Vec<&Operation>> = by_key.into_values().collect();
    keys.sort_by_key(|operations| std::cmp::Reverse(operations.len()));
    let deadline = Instant::now().checked_add(bounds.time_max);
    let next = AtomicUsize::new(0);
    let verdict = Mutex::new(Verdict::Ok);
    thread::scope(|scope| {
        for _ in 0..bounds.threads.max(1) {
            scope.spawn(|| {
                while let Some(operations) = keys.get(next.fetch_add(1, Ordering::Relaxed)) {
                    let found = check_until(operations, bounds.states_max, deadline);
                    let mut verdict = verdict.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
                    *verdict = std::mem::replace(&mut *verdict, Verdict::Ok).and(found);
                }
            });
        }
    });
    let verdict = verdict
        .into_inner()
        .unwrap_or_else(std::sync::PoisonError::into_inner);
    match verdict {
        Verdict::Violation(mut violations) => {
            violations.sort_by(|a, b| a.about.cmp(&b.about));
            Verdict::Violation(violations)
        }
        other => other,
    }
}

/// Judges the operations of one key.
pub fn check_key(operations: &[&Operation], bounds: Bounds) -> Verdict {
    check_until(
        operations,
        bounds.states_max,
        Instant::now().checked_add(bounds.time_max),
    )
}

fn check_until(operations: &[&Operation], states_max: u64, deadline: Option<Instant>) -> Verdict {
    let key = operations.first().map_or("", |operation| operation.key());
    match decide(operations, states_max, deadline) {
        Answer::Linearizable => Verdict::Ok,
        Answer::Not => Verdict::Violation(vec![explain(operations, states_max)]),
        Answer::StatesExceeded => Verdict::Unknown(format!(
            "key {key}: no order was found among the first {states_max} configurations of {} operations",
            operations.len()
        )),
        Answer::TimeExceeded => Verdict::Unknown(format!(
            "key {key}: time was up before an order of {} operations",
            operations.len()
        )),
    }
}

/// Whether the operations of one key have an order.
pub(super) fn decide(operations: &[&Operation], states_max: u64, deadline: Option<Instant>) -> Answer {
    let model = Model::new(operations);
    if contradiction(&model).is_some() {
        return Answer::Not;
    }
    search(model, states_max, deadline)
}
