//! The answer.

use std::collections::BTreeMap;
use std::fmt;

use serde::{Deserialize, Serialize};

use super::evidence::Facts;
use crate::events::{Event, Happening};
use crate::history::{Action, Operation, OperationKind, Outcome};
use crate::record::Recorded;
use crate::verdict::{Verdict, Violation};
use crate::workload::{Outcomes, WorkloadName};

/// Details kept of one check.
const DETAILS_MAX: usize = 20;

/// What a check found, the worse the later.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Finding {
    /// It holds.
    Ok,
    /// It could not be told.
    Unknown,
    /// The run is no evidence.
    Invalid,
    /// It does not hold.
    Violation,
}

/// One question, answered.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Check {
    /// What was asked, as `linearizability`.
    pub name: String,
    /// The answer.
    pub verdict: Finding,
    /// Why, in words; the first few.
    pub details: Vec<String>,
    /// How many more there are.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub details_left_out: usize,
}

/// How much there was of what.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Counts {
    /// Operations of the history.
    pub operations: u64,
    /// Those that the linearizability checker has to explain: not those that failed.
    pub operations_checked: u64,
    /// Keys.
    pub keys: u64,
    /// How operations ended.
    pub outcomes: Outcomes,
    /// The same by kind.
    pub by_kind: BTreeMap<OperationKind, Outcomes>,
    /// The same by workload.
    pub by_workload: BTreeMap<WorkloadName, Outcomes>,
    /// Begins of faults, by name.
    pub faults: BTreeMap<String, u64>,
    /// Steps of migrations.
    pub migration_steps: u64,
    /// From the first line to the last, in milliseconds.
    pub lasted_ms: u64,
}

/// The verdict on a run.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Judgement {
    /// The worst finding.
    pub verdict: Finding,
    /// What all choices of the run came from, where known.
    pub seed: Option<u64>,
    /// Every question that was asked.
    pub checks: Vec<Check>,
    /// How much there was of what.
    pub counts: Counts,
    /// What was known beside the history.
    pub facts: Option<Facts>,
    /// What the checkers found, with the operations that show it.
    #[serde(skip)]
    pub violations: Vec<Violation>,
}

impl Judgement {
    /// Whether every check holds.
    pub fn is_ok(&self) -> bool {
        self.verdict == Finding::Ok
    }

    /// The check of this name.
    pub fn check(&self, name: &str) -> Option<&Check> {
        self.checks.iter().find(|check| check.name == name)
    }
}

impl Check {
    /// A check that finds `otherwise`, for these reasons, or holds if there are none.
    pub(super) fn unless(name: &str, otherwise: Finding, reasons: Vec<String>) -> Self {
        let verdict = if reasons.is_empty() {
            Finding::Ok
        } else {
            otherwise
        };
        let details_left_out = reasons.len().saturating_sub(DETAILS_MAX);
        Self {
            name: name.to_owned(),
            verdict,
            details: reasons.into_iter().take(DETAILS_MAX).collect(),
            details_left_out,
        }
    }

    /// What a checker said.
    pub(super) fn of(name: &str, verdict: &Verdict) -> Self {
        match verdict {
            Verdict::Ok => Self::unless(name, Finding::Ok, Vec::new()),
            Verdict::Unknown(why) => Self::unless(name, Finding::Unknown, vec![why.clone()]),
            Verdict::Violation(violations) => {
                let reasons = violations.iter().map(Violation::to_string).collect();
                Self::unless(name, Finding::Violation, reasons)
            }
        }
    }
}

impl Counts {
    pub(super) fn of(recorded: &Recorded) -> Self {
        let mut counts = Self::default();
        let mut keys = std::collections::BTreeSet::new();
        for operation in &recorded.operations {
            counts.count(operation);
            keys.insert(operation.key());
        }
        counts.keys = keys.len() as u64;
        for event in &recorded.events {
            match &event.what {
                Happening::FaultStart { fault, .. } => {
                    *counts.faults.entry(fault.clone()).or_default() += 1;
                }
                Happening::MigrationStep { .. } => counts.migration_steps += 1,
                Happening::FaultStop { .. } | Happening::Healed => {}
            }
        }
        counts.lasted_ms = lasted_ns(&recorded.operations, &recorded.events) / 1_000_000;
        counts
    }

    fn count(&mut self, operation: &Operation) {
        let action = operation.action();
        self.operations += 1;
        let explained = match action {
            Action::Get(outcome) => matches!(outcome, Outcome::Ok(_)),
            _ => !matches!(action.outcome(), Outcome::Fail),
        };
        self.operations_checked += u64::from(explained);
        self.outcomes.add(action);
        self.by_kind.entry(action.kind()).or_default().add(action);
        if let Some(workload) = WorkloadName::of_key(operation.key()) {
            self.by_workload.entry(workload).or_default().add(action);
        }
    }
}

fn lasted_ns(operations: &[Operation], events: &[Event]) -> u64 {
    let calls = operations.iter().map(Operation::call_ns);
    let returns = operations.iter().filter_map(Operation::return_ns);
    let events = || events.iter().map(|event| event.at_ns);
    let first = calls.chain(events()).min().unwrap_or(0);
    returns.chain(events()).max().unwrap_or(0).saturating_sub(first)
}

#[allow(clippy::trivially_copy_pass_by_ref, reason = "serde hands in a reference")]
fn is_zero(count: &usize) -> bool {
    *count == 0
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Ok => "ok",
            Self::Unknown => "unknown",
            Self::Invalid => "invalid",
            Self::Violation => "violation",
        })
    }
}

/// What a person reads first: the verdict, what is wrong, then the figures.
impl fmt::Display for Judgement {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "verdict: {}", self.verdict)?;
        for check in &self.checks {
            writeln!(f, "  {:<16} {}", check.name, check.verdict)?;
            for detail in &check.details {
                writeln!(f, "      {}", detail.replace('\n', "\n      "))?;
            }
            if check.details_left_out > 0 {
                writeln!(f, "      and {} more", check.details_left_out)?;
            }
        }
        let Counts {
            operations,
            operations_checked,
            keys,
            lasted_ms,
            ..
        } = &self.counts;
        writeln!(
            f,
            "{operations} operations ({operations_checked} to explain) on {keys} keys in {:.1} s",
            *lasted_ms as f64 / 1e3
        )?;
        for what in self.facts.iter().flat_map(|facts| &facts.left_out) {
            writeln!(f, "  not possible here: {what}")?;
        }
        for (kind, Outcomes { ok, fail, info }) in &self.counts.by_kind {
            writeln!(f, "  {:<8} {ok} ok, {fail} fail, {info} info", kind.name())?;
        }
        for (fault, times) in &self.counts.faults {
            writeln!(f, "  {times} x {fault}")?;
        }
        if self.counts.migration_steps > 0 {
            writeln!(f, "  {} steps of migrations", self.counts.migration_steps)?;
        }
        Ok(())
    }
}
