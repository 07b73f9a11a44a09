//! The checkers of histories, each on the operations that it understands.

use super::evidence::Evidence;
use super::judgement::Check;
use super::{counters, sets};
use crate::events::Happening;
use crate::history::Operation;
use crate::verdict::{Verdict, Violation};
use crate::workload::WorkloadName;
use crate::{linearizability, list_append, migration, placement, revisions, watch};

/// Runs every checker that has something to judge.
pub(super) fn checks(evidence: &Evidence) -> (Vec<Check>, Vec<Violation>) {
    let history = &evidence.recorded.operations;
    let events = &evidence.recorded.events;
    let mut verdicts = vec![
        (
            "linearizability",
            linearizability::check(history, evidence.demands.bounds),
        ),
        ("revisions", revisions::check(history)),
    ];
    let lists = of(history, WorkloadName::Append);
    if !lists.is_empty() {
        verdicts.push(("list_append", list_append::check(&lists)));
    }
    if has(history, WorkloadName::Set) {
        verdicts.push(("sets", sets::check(history)));
    }
    if has(history, WorkloadName::Counter) {
        verdicts.push(("counters", counters::check(history)));
    }
    if events
        .iter()
        .any(|event| matches!(event.what, Happening::MigrationStep { .. }))
    {
        verdicts.push(("migration", migration::check(history, events)));
    }
    if !evidence.recorded.watches.is_empty() {
        verdicts.push(("watches", watch::check(&evidence.recorded.watches, history)));
    }
    if !evidence.placement.is_empty() {
        verdicts.push(("placement", placement::check(&evidence.placement)));
    }
    let checks = verdicts
        .iter()
        .map(|(name, verdict)| Check::of(name, verdict))
        .collect();
    let violations = verdicts.into_iter().flat_map(|(_, verdict)| match verdict {
        Verdict::Violation(violations) => violations,
        _ => Vec::new(),
    });
    (checks, violations.collect())
}

fn has(history: &[Operation], workload: WorkloadName) -> bool {
    history
        .iter()
        .any(|operation| WorkloadName::of_key(operation.key()) == Some(workload))
}

fn of(history: &[Operation], workload: WorkloadName) -> Vec<Operation> {
    history
        .iter()
        .filter(|operation| WorkloadName::of_key(operation.key()) == Some(workload))
        .cloned()
        .collect()
}
