//! Counters: what was acknowledged is counted, and nothing is counted that nobody may have added.
//!
//! With every increment by one, a counter's last read lies between the increments that were acknowledged and those
//! together with the unknown ones.

use std::collections::BTreeMap;

use crate::history::{Action, Operation, Outcome};
use crate::verdict::{Anomaly, Verdict, Violation};
use crate::workload::WorkloadName;

/// Judges every counter in `history`. Unknown for one that was not read after its last acknowledged increment.
pub(super) fn check(history: &[Operation]) -> Verdict {
    let mut counters: BTreeMap<&str, Counter> = BTreeMap::new();
    let ours = |key: &str| WorkloadName::of_key(key) == Some(WorkloadName::Counter);
    for operation in history.iter().filter(|operation| ours(operation.key())) {
        counters.entry(operation.key()).or_default().add(operation);
    }
    let verdicts = counters.iter().map(|(key, counter)| counter.check(key));
    verdicts.fold(Verdict::Ok, Verdict::and)
}

#[derive(Default)]
struct Counter<'a> {
    acknowledged: u64,
    unknown: u64,
    last_ack_ns: u64,
    /// The read that was called last.
    last_read: Option<(&'a Operation, Option<&'a str>)>,
}

impl<'a> Counter<'a> {
    fn add(&mut self, operation: &'a Operation) {
        match operation.action() {
            Action::Cas { outcome, .. } => match outcome {
                Outcome::Ok(reply) if reply.succeeded => {
                    self.acknowledged += 1;
                    self.last_ack_ns = self.last_ack_ns.max(operation.ended_ns().unwrap_or(0));
                }
                Outcome::Info => self.unknown += 1,
                Outcome::Ok(_) | Outcome::Fail => {}
            },
            Action::Get(Outcome::Ok(reply)) => {
                let later = |(last, _): (&Operation, _)| last.call_ns() < operation.call_ns();
                if self.last_read.is_none_or(later) {
                    self.last_read = Some((operation, reply.value.as_deref()));
                }
            }
            _ => {}
        }
    }

    fn check(&self, key: &str) -> Verdict {
        let Some((read, value)) = self
            .last_read
            .filter(|(read, _)| read.call_ns() > self.last_ack_ns)
        else {
            return Verdict::Unknown(format!(
                "counter {key} was not read after its last acknowledged increment"
            ));
        };
        let violation = |anomaly, what: String| {
            let violation = Violation::new(anomaly, format!("counter {key}"), what);
            Verdict::Violation(vec![violation.shown_by([read])])
        };
        let Ok(count) = value.unwrap_or("0").parse::<u64>() else {
            return violation(Anomaly::Phantom, "it does not hold a number".to_owned());
        };
        let (acknowledged, most) = (self.acknowledged, self.acknowledged + self.unknown);
        if count < acknowledged {
            let what = format!("{acknowledged} increments were acknowledged, {count} are there");
            return violation(Anomaly::LostWrite, what);
        }
        if count > most {
            let what = format!("at most {most} increments can have happened, {count} are there");
            return violation(Anomaly::DuplicateElement, what);
        }
        Verdict::Ok
    }
}
