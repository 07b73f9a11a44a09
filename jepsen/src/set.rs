//! Sets that only grow: one key, an append adds an element, a get reads all of them. Order means nothing.
//!
//! Found are elements that were acknowledged and are missing from the final read, elements that nobody added or whose
//! add failed, elements read twice, and elements that were seen and later not (for good, or for a while). "Later" is a
//! read called after the other one returned.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use crate::history::{Action, Operation, Outcome};
use crate::verdict::{Anomaly, Verdict, Violation};

/// Judges every key of `history` as a set. Unknown for a set that nobody read after its last add.
pub fn check(history: &[Operation]) -> Verdict {
    let mut by_key: BTreeMap<&str, Set> = BTreeMap::new();
    for operation in history {
        let set = by_key.entry(operation.key()).or_default();
        match operation.action() {
            Action::Append { element, .. } => {
                set.adds.insert(element, operation);
            }
            Action::Get(Outcome::Ok(reply)) => {
                let elements = reply
                    .value
                    .as_deref()
                    .map_or(Vec::new(), |list| list.split(',').collect());
                set.reads.push((operation, elements));
            }
            Action::Get(_) => {}
            _ => {
                return Verdict::Unknown(format!(
                    "key {} has operations other than append and get",
                    operation.key()
                ));
            }
        }
    }
    by_key
        .into_iter()
        .fold(Verdict::Ok, |verdict, (key, set)| verdict.and(set.check(key)))
}

#[derive(Default)]
struct Set<'a> {
    adds: HashMap<&'a str, &'a Operation>,
    reads: Vec<(&'a Operation, Vec<&'a str>)>,
}

impl<'a> Set<'a> {
    fn check(mut self, key: &str) -> Verdict {
        self.reads.sort_by_key(|(read, _)| read.call_ns());
        let mut found = Vec::new();
        for (read, elements) in &self.reads {
            found.extend(self.strange(key, read, elements));
        }
        found.extend(self.unsteady(key));
        let last_add = self
            .adds
            .values()
            .filter_map(|add| add.ended_ns())
            .max()
            .unwrap_or(0);
        match self.reads.last() {
            Some((read, elements)) if read.call_ns() > last_add || self.adds.is_empty() => {
                found.extend(self.lost(key, read, elements));
                Verdict::of(found)
            }
            None if self.adds.is_empty() => Verdict::of(found),
            _ => Verdict::of(found).and(Verdict::Unknown(format!(
                "key {key}: no read was called after the last add"
            ))),
        }
    }

    /// What a read has that it cannot have.
    fn strange(&self, key: &str, read: &'a Operation, elements: &[&'a str]) -> Vec<Violation> {
        let violation = |anomaly, what| Violation::new(anomaly, format!("key {key}"), what);
        let mut seen = BTreeSet::new();
        let mut found = Vec::new();
        for element in elements {
            let add = self.adds.get(element).copied();
            let shown = add.into_iter().chain([read]);
            if !seen.insert(element) {
                let what = format!("{element:?} is there twice");
                found.push(violation(Anomaly::DuplicateElement, what).shown_by(shown));
            } else if add.is_none() {
                found.push(violation(Anomaly::Phantom, format!("nobody added {element:?}")).shown_by(shown));
            } else if add.is_some_and(|add| add.action().outcome() == Outcome::Fail) {
                let what = format!("the add of {element:?} failed, and was read");
                found.push(violation(Anomaly::G1a, what).shown_by(shown));
            }
        }
        found
    }

    /// Elements that were acknowledged and are not in the final read.
    fn lost(&self, key: &str, read: &'a Operation, elements: &[&'a str]) -> Vec<Violation> {
        let has: BTreeSet<&str> = elements.iter().copied().collect();
        let acked = self.adds.iter().filter(|(_, add)| add.action().is_ok());
        let mut lost: Vec<_> = acked.filter(|(element, _)| !has.contains(*element)).collect();
        lost.sort_by_key(|(element, _)| **element);
        let violation = |(element, add): (&&str, &&'a Operation)| {
            let what = format!("the add of {element:?} was acknowledged and is not in the final read");
            Violation::new(Anomaly::LostWrite, format!("key {key}"), what).shown_by([*add, read])
        };
        lost.into_iter().map(violation).collect()
    }

    /// Elements that were seen and later not; each once.
    fn unsteady(&self, key: &str) -> Vec<Violation> {
        let mut found = Vec::new();
        let mut seen: BTreeMap<&str, &Operation> = BTreeMap::new();
        let mut gone: BTreeMap<&str, (&Operation, &Operation)> = BTreeMap::new();
        for (read, elements) in &self.reads {
            let has: BTreeSet<&str> = elements.iter().copied().collect();
            for (element, first) in &seen {
                if !has.contains(element) && first.ended_ns().is_some_and(|ended| ended < read.call_ns()) {
                    gone.entry(element).or_insert((*first, *read));
                }
            }
            for element in &has {
                let back = gone.get(element).copied();
                if let Some((first, without)) = back.filter(|(_, read_without)| {
                    read_without
                        .ended_ns()
                        .is_some_and(|ended| ended < read.call_ns())
                }) {
                    gone.remove(element);
                    let what = format!("{element:?} was seen, then not, then again");
                    let violation = Violation::new(Anomaly::Resurrected, format!("key {key}"), what);
                    found.push(violation.shown_by([first, without, *read]));
                }
                // The read that ended first serves best: more reads are certainly later.
                let first = seen.entry(element).or_insert(read);
                if read.ended_ns() < first.ended_ns() {
                    *first = read;
                }
            }
        }
        for (element, (first, without)) in gone {
            let what = format!("{element:?} was seen and later not");
            let violation = Violation::new(Anomaly::Vanished, format!("key {key}"), what);
            found.push(violation.shown_by([first, without]));
        }
        found
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::generate::{Recipe, generate};
    use crate::testing::{append, append_failed, append_unknown, read_list};

    fn anomalies(history: &[Operation]) -> Vec<Anomaly> {
        check(history)
            .violations()
            .iter()
            .map(|violation| violation.anomaly)
            .collect()
    }

    #[test]
    fn generated_sets_are_good() {
        for seed in 0..50 {
            let recipe = Recipe {
                operations: 200,
                keys: 2,
                mix: [5, 0, 0, 0, 5],
                ..Recipe::default()
            };
            let verdict = check(&generate(recipe, seed));
            assert!(verdict.violations().is_empty(), "seed {seed}: {verdict}");
        }
    }

    #[test]
    fn a_good_set_whatever_its_order() {
        let history = [
            append("s", "1", 0, 5),
            append("s", "2", 0, 5),
            append_unknown("s", "3", 1),
            read_list("s", &["2"], 1, 4),
            read_list("s", &["3", "1", "2"], 10, 11),
        ];
        assert!(check(&history).is_ok());
    }

    #[test]
    fn lost_from_the_final_read() {
        let history = [
            append("s", "1", 0, 5),
            append("s", "2", 0, 5),
            read_list("s", &["2"], 10, 11),
        ];
        assert_eq!(anomalies(&history), [Anomaly::LostWrite]);
    }

    #[test]
    fn vanished_and_resurrected() {
        let vanished = [
            append_unknown("s", "1", 0),
            read_list("s", &["1"], 2, 3),
            read_list("s", &[], 4, 5),
        ];
        assert_eq!(anomalies(&vanished), [Anomaly::Vanished]);
        let back = [
            append("s", "1", 0, 1),
            read_list("s", &["1"], 2, 3),
            read_list("s", &[], 4, 5),
            read_list("s", &["1"], 6, 7),
        ];
        assert_eq!(anomalies(&back), [Anomaly::Resurrected]);
        let overlapping = [
            append("s", "1", 0, 9),
            read_list("s", &["1"], 2, 6),
            read_list("s", &[], 4, 7),
        ];
        assert!(anomalies(&overlapping).is_empty());
    }

    #[test]
    fn strangers_failed_adds_and_doubles() {
        assert_eq!(anomalies(&[read_list("s", &["7"], 0, 1)]), [Anomaly::Phantom]);
        let failed = [append_failed("s", "1", 0, 1), read_list("s", &["1"], 2, 3)];
        assert_eq!(anomalies(&failed), [Anomaly::G1a]);
        let double = [append("s", "1", 0, 1), read_list("s", &["1", "1"], 2, 3)];
        assert_eq!(anomalies(&double), [Anomaly::DuplicateElement]);
    }

    #[test]
    fn without_a_final_read_it_is_unknown() {
        let history = [append("s", "1", 0, 5), read_list("s", &["1"], 2, 4)];
        assert!(matches!(check(&history), Verdict::Unknown(_)));
    }
}
