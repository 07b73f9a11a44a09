//! Whether the model was worth having, in words that do not flatter it.

use crate::config::PolicyName;

use super::{DemoReport, HeadRoom, PolicyResult};

/// The burn model against the other policies of the same run.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Verdict {
    /// The model's result.
    pub model: PolicyResult,
    /// The other policy with the highest local-access ratio.
    pub most_local: (PolicyName, PolicyResult),
    /// The other policy with the lowest mean round trip.
    pub nearest: (PolicyName, PolicyResult),
}

impl Verdict {
    /// Compares, if the model and at least one other policy were measured.
    pub fn of(report: &DemoReport) -> Option<Verdict> {
        let model = *report.policies.get(PolicyName::BurnModel)?;
        let others = || {
            let all = report.policies.iter().map(|(policy, result)| (policy, *result));
            all.filter(|(policy, _)| *policy != PolicyName::BurnModel)
        };
        let most_local =
            others().max_by(|(_, a), (_, b)| a.local_access_ratio.total_cmp(&b.local_access_ratio))?;
        let nearest = others().min_by(|(_, a), (_, b)| a.rtt_mean_us.total_cmp(&b.rtt_mean_us))?;
        Some(Verdict {
            model,
            most_local,
            nearest,
        })
    }

    /// Whether the model served more accesses locally than every other policy.
    pub fn is_most_local(&self) -> bool {
        self.model.local_access_ratio > self.most_local.1.local_access_ratio
    }

    /// Whether the model's mean round trip was below every other policy's.
    pub fn is_nearest(&self) -> bool {
        self.model.rtt_mean_us < self.nearest.1.rtt_mean_us
    }
}

impl DemoReport {
    /// The offline optimum, which knows the future.
    pub fn optimum(&self) -> Option<&HeadRoom> {
        self.details.head_room.iter().find(|rule| rule.is_optimum)
    }

    /// What the figures say, a sentence each: losses first, then the model, then the optimum.
    pub fn findings(&self) -> Vec<String> {
        let mut findings = vec![durability(self.lost_writes), availability(self.errors)];
        if let Some(verdict) = Verdict::of(self) {
            findings.push(locality(&verdict));
            findings.push(nearness(&verdict));
            findings.extend(self.optimum().map(|optimum| distance(&verdict.model, optimum)));
        }
        findings
    }
}

fn durability(lost: u64) -> String {
    match lost {
        0 => "Every acknowledged write was read back: none lost.".to_owned(),
        _ => format!("LOST: {lost} acknowledged writes could not be read back."),
    }
}

fn availability(errors: u64) -> String {
    match errors {
        0 => "No operation failed that a retry within its deadline could serve.".to_owned(),
        _ => format!("FAILED: {errors} operations that a retry within their deadline should have served."),
    }
}

fn locality(verdict: &Verdict) -> String {
    let (rival, result) = verdict.most_local;
    let points = 100.0 * (verdict.model.local_access_ratio - result.local_access_ratio);
    if verdict.is_most_local() {
        format!(
            "The burn model served {points:.1} points more accesses locally than the best other policy, {rival}."
        )
    } else {
        let behind = -points;
        format!("The burn model did NOT beat {rival}: it served {behind:.1} points fewer accesses locally.")
    }
}

fn nearness(verdict: &Verdict) -> String {
    let (rival, result) = verdict.nearest;
    let millis = (result.rtt_mean_us - verdict.model.rtt_mean_us) / 1_000.0;
    if verdict.is_nearest() {
        format!("Its mean access round trip was {millis:.2} ms shorter than that of {rival}, the next best.")
    } else {
        let behind = -millis;
        format!(
            "Its mean access round trip was NOT the shortest: {behind:.2} ms longer than that of {rival}."
        )
    }
}

fn distance(model: &PolicyResult, optimum: &HeadRoom) -> String {
    let points = 100.0 * (optimum.local_access_ratio - model.local_access_ratio);
    let millis = (model.rtt_mean_us - optimum.rtt_mean_us) / 1_000.0;
    format!(
        "To the offline optimum ({}), which knows the future, {points:.1} points and {millis:.2} ms are missing.",
        optimum.name
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::figures::tests::sample;

    #[test]
    fn a_win_is_told_with_its_margin() {
        let findings = sample().findings();
        assert_eq!(findings.len(), 5);
        assert!(
            findings[2].contains("3.0 points more") && findings[2].contains("hour-of-day"),
            "{findings:?}"
        );
        assert!(findings[3].contains("0.90 ms shorter"), "{findings:?}");
        assert!(
            findings[4].contains("19.0 points and 5.40 ms are missing"),
            "{findings:?}"
        );
    }

    #[test]
    fn a_defeat_a_tie_and_losses_are_not_hidden() {
        let mut report = sample();
        let best = PolicyResult {
            local_access_ratio: 0.9,
            rtt_mean_us: 100.0,
            ..PolicyResult::default()
        };
        report.policies.insert(PolicyName::LastWindow, best);
        (report.lost_writes, report.errors) = (2, 3);
        let findings = report.findings();
        assert!(findings[0].starts_with("LOST: 2 "), "{findings:?}");
        assert!(findings[1].starts_with("FAILED: 3 "), "{findings:?}");
        assert!(
            findings[2].contains("did NOT beat last-window: it served 25.0 points fewer"),
            "{findings:?}"
        );
        assert!(findings[3].contains("NOT the shortest"), "{findings:?}");

        report.policies.insert(PolicyName::BurnModel, best);
        let verdict = Verdict::of(&report).unwrap();
        assert!(
            !verdict.is_most_local() && !verdict.is_nearest(),
            "a tie is no win"
        );
    }

    #[test]
    fn without_the_model_or_without_rivals_there_is_no_verdict() {
        let mut report = sample();
        let results = [(PolicyName::BurnModel, PolicyResult::default())];
        report.policies = results.into_iter().collect();
        assert_eq!(Verdict::of(&report), None);
        assert_eq!(report.findings().len(), 2);
    }
}
