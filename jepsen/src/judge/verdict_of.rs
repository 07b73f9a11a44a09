//! From evidence to judgement.

use super::evidence::Evidence;
use super::judgement::{Counts, Finding, Judgement};
use super::{conduct, order, progress};

/// Asks every question that the evidence allows, and answers with the worst finding.
pub fn judge(evidence: &Evidence) -> Judgement {
    let counts = Counts::of(&evidence.recorded);
    let (mut checks, violations) = order::checks(evidence);
    checks.extend(progress::checks(evidence, &counts));
    if let Some(facts) = &evidence.facts {
        checks.extend(conduct::checks(facts));
    }
    let worst = checks.iter().map(|check| check.verdict).max();
    Judgement {
        verdict: worst.unwrap_or(Finding::Unknown),
        seed: evidence.facts.as_ref().map(|facts| facts.seed),
        checks,
        counts,
        facts: evidence.facts.clone(),
        violations,
    }
}
