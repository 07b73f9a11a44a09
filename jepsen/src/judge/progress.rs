//! Whether the cluster got anything done, and came back when all faults were over.
//!
//! A cluster that answers nothing contradicts nothing: without these checks a dead one would pass.

use std::collections::BTreeMap;

use super::evidence::{Evidence, Recovery};
use super::judgement::{Check, Counts, Finding};
use crate::events::Happening;
use crate::history::{Action, Operation, Outcome};

/// The checks of progress.
pub(super) fn checks(evidence: &Evidence, counts: &Counts) -> Vec<Check> {
    let mut checks = vec![
        Check::unless("ok_operations", Finding::Violation, too_few(evidence, counts)),
        Check::unless("final_reads", Finding::Violation, not_read(evidence)),
    ];
    let recovery = evidence.facts.as_ref().and_then(|facts| facts.recovery.as_ref());
    if let Some(recovery) = recovery {
        checks.push(Check::unless(
            "recovery",
            Finding::Violation,
            too_slow(evidence, recovery),
        ));
    }
    checks
}

fn too_few(evidence: &Evidence, counts: &Counts) -> Vec<String> {
    let demands = &evidence.demands;
    let mut reasons = Vec::new();
    if counts.outcomes.ok < demands.ok_min {
        reasons.push(format!(
            "{} operations were acknowledged; {} is the least that shows anything",
            counts.outcomes.ok, demands.ok_min
        ));
    }
    for (kind, outcomes) in &counts.by_kind {
        let total = outcomes.total();
        if total >= demands.kind_operations_min && outcomes.ok * 1_000 < total * demands.ok_permille_min {
            reasons.push(format!(
                "{} of {total} operations of the kind {} were acknowledged",
                outcomes.ok,
                kind.name()
            ));
        }
    }
    let asked = evidence.facts.iter().flat_map(|facts| &facts.workloads);
    for workload in asked {
        let ok = counts.by_workload.get(workload).map_or(0, |outcomes| outcomes.ok);
        if ok == 0 {
            reasons.push(format!(
                "no operation of the workload {workload} was acknowledged"
            ));
        }
    }
    reasons
}

/// Keys without a successful read that was called after all faults were over and all certain writes had ended.
fn not_read(evidence: &Evidence) -> Vec<String> {
    let healed = evidence
        .recorded
        .events
        .iter()
        .filter(|event| matches!(event.what, Happening::Healed | Happening::FaultStop { .. }));
    let healed_ns = healed.map(|event| event.at_ns).max().unwrap_or(0);
    let mut keys: BTreeMap<&str, (u64, u64)> = BTreeMap::new();
    for operation in &evidence.recorded.operations {
        let (due, read) = keys.entry(operation.key()).or_insert((healed_ns, 0));
        match operation.action() {
            Action::Get(Outcome::Ok(_)) => *read = (*read).max(operation.call_ns()),
            Action::Get(_) => {}
            action if action.is_effective_write() => *due = (*due).max(ended_ns(operation)),
            _ => {}
        }
    }
    let unread = keys.into_iter().filter(|(_, (due, read))| read <= due);
    let mut reasons: Vec<String> = unread
        .map(|(key, _)| format!("key {key} was not read after the last fault and its last write"))
        .collect();
    let told = evidence.facts.iter().flat_map(|facts| &facts.unread);
    reasons.extend(told.map(|key| format!("key {key} could not be read at the end")));
    reasons
}

fn ended_ns(operation: &Operation) -> u64 {
    operation.ended_ns().unwrap_or(0)
}

fn too_slow(evidence: &Evidence, recovery: &Recovery) -> Vec<String> {
    let demands = &evidence.demands;
    let mut reasons: Vec<String> = recovery.failure.iter().cloned().collect();
    let limits = [
        ("every shard had a home", recovery.homes_ms, demands.homes_max),
        (
            "no migration was active",
            recovery.migrations_ms,
            demands.migrations_max,
        ),
    ];
    for (what, took_ms, most) in limits {
        match took_ms {
            Some(took_ms) if u128::from(took_ms) > most.as_millis() => {
                reasons.push(format!("{what} only after {took_ms} ms; {most:?} are allowed"));
            }
            None if recovery.failure.is_none() => reasons.push(format!("nobody saw that {what}")),
            Some(_) | None => {}
        }
    }
    reasons
}
