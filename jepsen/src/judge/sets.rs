//! Sets whose elements are keys of their own, as the history that the checker of sets understands.
//!
//! An element is put once; a scan is recorded as gets of all its keys, by one process with one call and one return.
//! Each put becomes an append of its key to the set, each scan a get of the set.

use std::collections::{BTreeMap, BTreeSet};

use crate::history::{Action, Invalid, Operation, Outcome, Read};
use crate::verdict::{Anomaly, Verdict, Violation};
use crate::{set, workload::WorkloadName};

/// Judges every set in `history`.
pub(super) fn check(history: &[Operation]) -> Verdict {
    match as_appends(history) {
        Ok(appends) => set::check(&appends),
        Err(why) => Verdict::Violation(vec![Violation::new(
            Anomaly::Phantom,
            "a set",
            format!("its history cannot be read: {why}"),
        )]),
    }
}

fn as_appends(history: &[Operation]) -> Result<Vec<Operation>, Invalid> {
    let mut appends = Vec::new();
    let mut scans: BTreeMap<(&str, u64, u64, Option<u64>), BTreeSet<&str>> = BTreeMap::new();
    for operation in history {
        let key = operation.key();
        let Some((set, _)) = key
            .rsplit_once('.')
            .filter(|_| WorkloadName::of_key(key) == Some(WorkloadName::Set))
        else {
            continue;
        };
        match operation.action() {
            Action::Put { outcome, .. } => {
                let action = Action::Append {
                    element: key.replace(',', ";"),
                    outcome: outcome.clone(),
                };
                appends.push(Operation::new(
                    operation.process(),
                    set,
                    operation.call_ns(),
                    operation.return_ns(),
                    action,
                )?);
            }
            Action::Get(Outcome::Ok(reply)) => {
                let scan = (
                    set,
                    operation.process(),
                    operation.call_ns(),
                    operation.return_ns(),
                );
                let elements = scans.entry(scan).or_default();
                elements.extend(reply.value.as_ref().map(|_| key));
            }
            _ => {}
        }
    }
    for ((set, process, call_ns, return_ns), elements) in scans {
        let list: Vec<String> = elements.into_iter().map(|key| key.replace(',', ";")).collect();
        let value = (!list.is_empty()).then(|| list.join(","));
        let reply = Read { value, version: None };
        appends.push(Operation::new(
            process,
            set,
            call_ns,
            return_ns,
            Action::Get(Outcome::Ok(reply)),
        )?);
    }
    Ok(appends)
}
