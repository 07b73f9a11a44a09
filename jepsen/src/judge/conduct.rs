//! What hosts, scans and faults did besides answering.

use super::evidence::Facts;
use super::judgement::{Check, Finding};

/// The checks of what is told beside the history.
pub(super) fn checks(facts: &Facts) -> Vec<Check> {
    let violation = |name, reasons: &[String]| Check::unless(name, Finding::Violation, reasons.to_vec());
    vec![
        violation("scan_order", &facts.disorder),
        violation("past", &facts.changed_past),
        violation("bank", &facts.unbalanced),
        violation("leases", &facts.lingering),
        violation("replicas", &facts.replica_differences),
        violation("host_logs", &facts.complaints),
        violation("invariants", &facts.invariants),
        Check::unless("nemeses", Finding::Invalid, did_not_happen(facts)),
        Check::unless("coverage", Finding::Invalid, facts.shortfalls.clone()),
        Check::unless("leaks", Finding::Invalid, facts.leaks.clone()),
    ]
}

/// Faults that were asked for, or meant to happen, and did not.
fn did_not_happen(facts: &Facts) -> Vec<String> {
    let mut reasons = Vec::new();
    for name in &facts.nemeses {
        if facts.tally.get(name).copied().unwrap_or(0) == 0 {
            reasons.push(format!("{name} was asked for and never happened"));
        }
    }
    for (name, times) in &facts.tally {
        if *times == 0 && !facts.nemeses.contains(name) {
            reasons.push(format!("{name} was meant to happen and never did"));
        }
    }
    if facts.faults_wanted && facts.tally.values().all(|times| *times == 0) {
        reasons.push("no fault happened at all".to_owned());
    }
    reasons
}
