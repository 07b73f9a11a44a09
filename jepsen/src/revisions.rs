//! Versions of keys: they rise with every write, never go back in real time, and name one value each.
//!
//! Judged is what replies say; a reply without a version says nothing. A read of an absent key has no version of its
//! own, nor has a compare-and-set that was refused or a delete that found nothing.

use std::collections::{BTreeMap, HashMap};

use crate::history::{Action, Operation, Outcome};
use crate::verdict::{Anomaly, Verdict, Violation};

/// Judges the versions of every key.
pub fn check(history: &[Operation]) -> Verdict {
    let mut by_key: BTreeMap<&str, Vec<Said>> = BTreeMap::new();
    for operation in history {
        if let Some(said) = Said::of(operation) {
            by_key.entry(operation.key()).or_default().push(said);
        }
    }
    let mut found = Vec::new();
    for (key, mut said) in by_key {
        said.sort_by_key(|said| said.operation.call_ns());
        found.extend(went_back(key, &said));
        found.extend(ambiguous(key, &said));
    }
    Verdict::of(found)
}

/// A version that a reply named.
#[derive(Clone, Copy)]
struct Said<'a> {
    operation: &'a Operation,
    version: u64,
    writes: bool,
    /// The value at that version; `None`: not known (an append does not say the list).
    value: Option<Option<&'a str>>,
}

impl<'a> Said<'a> {
    fn of(operation: &'a Operation) -> Option<Self> {
        let (version, value) = match operation.action() {
            Action::Get(Outcome::Ok(reply)) if reply.value.is_some() => {
                (reply.version, Some(reply.value.as_deref()))
            }
            Action::Put {
                value,
                outcome: Outcome::Ok(reply),
            } => (reply.version, Some(Some(value.as_str()))),
            Action::Append {
                outcome: Outcome::Ok(reply),
                ..
            } => (reply.version, None),
            Action::Cas {
                value,
                outcome: Outcome::Ok(reply),
                ..
            } if reply.succeeded => (reply.version, Some(Some(value.as_str()))),
            Action::Delete(Outcome::Ok(reply)) if reply.existed != Some(false) => (reply.version, Some(None)),
            _ => return None,
        };
        Some(Self {
            operation,
            version: version?,
            writes: operation.action().is_effective_write(),
            value,
        })
    }
}

/// Sweeps over calls and returns: whatever is called after a return has at least that version, and a write more.
fn went_back(key: &str, said: &[Said<'_>]) -> Option<Violation> {
    let mut by_return: Vec<&Said> = said.iter().collect();
    by_return.sort_by_key(|said| said.operation.ended_ns());
    let mut returned = by_return.into_iter().peekable();
    let mut highest: Option<&Said> = None;
    for later in said {
        while let Some(earlier) =
            returned.next_if(|earlier| earlier.operation.ended_ns() < Some(later.operation.call_ns()))
        {
            if highest.is_none_or(|highest| highest.version < earlier.version) {
                highest = Some(earlier);
            }
        }
        let Some(earlier) = highest else { continue };
        if later.version < earlier.version || (later.writes && later.version == earlier.version) {
            let what = format!(
                "version {} was returned before the call that got {}",
                earlier.version, later.version
            );
            let violation = Violation::new(Anomaly::VersionWentBack, format!("key {key}"), what);
            return Some(violation.shown_by([earlier.operation, later.operation]));
        }
    }
    None
}

/// Versions that two writes share, or that two values have.
fn ambiguous(key: &str, said: &[Said<'_>]) -> Vec<Violation> {
    let mut found = Vec::new();
    let mut writes: HashMap<u64, &Said> = HashMap::new();
    let mut values: HashMap<u64, &Said> = HashMap::new();
    for one in said {
        let violation = |anomaly, what, other: &Said<'_>| {
            Violation::new(anomaly, format!("key {key}"), what).shown_by([other.operation, one.operation])
        };
        if one.writes
            && let Some(other) = writes.insert(one.version, one)
        {
            let what = format!("two writes made version {}", one.version);
            found.push(violation(Anomaly::VersionTwice, what, other));
        } else if one.value.is_some() {
            let other = *values.entry(one.version).or_insert(one);
            if other.value != one.value {
                let what = format!("version {} has two values", one.version);
                found.push(violation(Anomaly::VersionAmbiguous, what, other));
            }
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::generate::{Recipe, generate};
    use crate::testing::{get_at, put_at};

    fn anomalies(history: &[Operation]) -> Vec<Anomaly> {
        check(history)
            .violations()
            .iter()
            .map(|violation| violation.anomaly)
            .collect()
    }

    #[test]
    fn generated_versions_are_good() {
        for seed in 0..50 {
            let verdict = check(&generate(
                Recipe {
                    versions: true,
                    ..Recipe::default()
                },
                seed,
            ));
            assert!(verdict.is_ok(), "seed {seed}: {verdict}");
        }
    }

    #[test]
    fn overlapping_operations_may_have_any_order() {
        assert!(
            check(&[
                put_at("k", "a", 2, 0, 9),
                put_at("k", "b", 1, 1, 8),
                get_at("k", "a", 2, 5, 6)
            ])
            .is_ok()
        );
    }

    #[test]
    fn a_read_goes_back() {
        let history = [
            put_at("k", "a", 1, 0, 1),
            put_at("k", "b", 2, 2, 3),
            get_at("k", "a", 1, 4, 5),
        ];
        assert_eq!(anomalies(&history), [Anomaly::VersionWentBack]);
        assert_eq!(check(&history).violations()[0].operations.len(), 2);
    }

    #[test]
    fn a_write_makes_no_new_version() {
        let history = [get_at("k", "a", 3, 0, 1), put_at("k", "a", 3, 2, 3)];
        assert_eq!(anomalies(&history), [Anomaly::VersionWentBack]);
    }

    #[test]
    fn two_writes_with_one_version() {
        let history = [put_at("k", "a", 3, 0, 9), put_at("k", "b", 3, 1, 8)];
        assert_eq!(anomalies(&history), [Anomaly::VersionTwice]);
    }

    #[test]
    fn one_version_with_two_values() {
        let history = [put_at("k", "a", 3, 0, 9), get_at("k", "b", 3, 1, 8)];
        assert_eq!(anomalies(&history), [Anomaly::VersionAmbiguous]);
    }
}
