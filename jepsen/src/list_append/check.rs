//! The verdict on lists.

use std::collections::{BTreeMap, HashSet};

use super::graph::{Edge, Graph};
use super::lists::{Lists, lists};
use crate::history::{Action, Operation, Outcome};
use crate::verdict::{Anomaly, Verdict, Violation};

/// Judges a history of appends and gets of lists. Unknown if an element was appended twice, or if keys have other
/// operations: the order of writes cannot be read off then.
pub fn check(history: &[Operation]) -> Verdict {
    let lists = match lists(history) {
        Ok(lists) => lists,
        Err(why) => return Verdict::Unknown(why),
    };
    let mut found = lists.of_single_reads();
    found.extend(lost_updates(&lists));
    found.extend(circles(&lists));
    Verdict::of(found)
}

/// A kind of circle: the edge it starts with, and what may follow.
type Circle = (Anomaly, Edge, fn(Edge) -> bool, &'static str);

/// The circles, the strongest kind only: each kind contains those before it.
fn circles(lists: &Lists<'_>) -> Option<Violation> {
    let graph = Graph::new(lists);
    let writes: fn(Edge) -> bool = |edge| edge == Edge::WriteWrite;
    let no_misses: fn(Edge) -> bool = |edge| edge != Edge::ReadWrite;
    let kinds: [Circle; 4] = [
        (
            Anomaly::G0,
            Edge::WriteWrite,
            writes,
            "the writes of these transactions interleave both ways",
        ),
        (
            Anomaly::G1c,
            Edge::WriteRead,
            no_misses,
            "these transactions saw each other's writes in a circle",
        ),
        (
            Anomaly::GSingle,
            Edge::ReadWrite,
            no_misses,
            "one read missed a write that it should have seen",
        ),
        (
            Anomaly::G2,
            Edge::ReadWrite,
            |_| true,
            "several reads missed writes in a circle",
        ),
    ];
    kinds.into_iter().find_map(|(anomaly, first, rest, what)| {
        let circle = graph.circle(first, rest)?;
        let about = format!("{} transactions", circle.len());
        let shown = circle
            .iter()
            .flat_map(|index| lists.transactions[*index].operations.iter().copied());
        Some(Violation::new(anomaly, about, what).shown_by(shown))
    })
}

/// Pairs of transactions that read one version of a key and then both appended to it.
fn lost_updates(lists: &Lists<'_>) -> Vec<Violation> {
    let mut found = Vec::new();
    for (key, list) in &lists.by_key {
        let landed: HashSet<&str> = list.order.iter().copied().collect();
        let mut by_length: BTreeMap<usize, usize> = BTreeMap::new();
        for read in list
            .reads
            .iter()
            .filter(|read| list.order.starts_with(&read.elements))
        {
            let operations = &lists.transactions[read.by].operations;
            let mut later = operations
                .iter()
                .skip_while(|operation| !std::ptr::eq(**operation, read.operation));
            let appended = later.any(|operation| operation.key() == *key && took_effect(operation, &landed));
            if !appended {
                continue;
            }
            let length = read.elements.len();
            match by_length.insert(length, read.by) {
                Some(other) if other != read.by => {
                    let what = format!("two transactions read the first {length} elements and both appended");
                    let shown = lists.transactions[other]
                        .operations
                        .iter()
                        .chain(operations)
                        .copied();
                    found.push(
                        Violation::new(Anomaly::LostUpdate, format!("key {key}"), what).shown_by(shown),
                    );
                }
                _ => {}
            }
        }
    }
    found
}

/// Whether an append certainly took effect: it was acknowledged, or it was read.
fn took_effect(operation: &Operation, landed: &HashSet<&str>) -> bool {
    match operation.action() {
        Action::Append { element, outcome } => {
            matches!(outcome, Outcome::Ok(_)) || landed.contains(element.as_str())
        }
        _ => false,
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

    fn txn(id: u64, operation: Operation) -> Operation {
        operation.in_txn(Some(id))
    }

    #[test]
    fn generated_lists_are_good() {
        for seed in 0..50 {
            let recipe = Recipe {
                operations: 300,
                keys: 3,
                mix: [5, 0, 0, 0, 5],
                ..Recipe::default()
            };
            let verdict = check(&generate(recipe, seed));
            assert!(verdict.is_ok(), "seed {seed}: {verdict}");
        }
    }

    #[test]
    fn an_unknown_append_may_show_or_not() {
        let shown = [append_unknown("x", "1", 0), read_list("x", &["1"], 10, 11)];
        let hidden = [append_unknown("x", "1", 0), read_list("x", &[], 10, 11)];
        assert!(check(&shown).is_ok() && check(&hidden).is_ok());
    }

    #[test]
    fn g0_writes_interleave_both_ways() {
        let history = [
            txn(1, append("x", "1", 0, 9)),
            txn(1, append("y", "1", 0, 9)),
            txn(2, append("x", "2", 0, 9)),
            txn(2, append("y", "2", 0, 9)),
            read_list("x", &["1", "2"], 10, 11),
            read_list("y", &["2", "1"], 10, 11),
        ];
        assert_eq!(anomalies(&history), [Anomaly::G0]);
    }

    #[test]
    fn g1a_a_failed_append_is_read() {
        let history = [append_failed("x", "1", 0, 9), read_list("x", &["1"], 10, 11)];
        assert_eq!(anomalies(&history), [Anomaly::G1a]);
    }

    #[test]
    fn g1b_an_intermediate_append_is_read() {
        let history = [
            txn(1, append("x", "1", 0, 9)),
            txn(1, append("x", "2", 0, 9)),
            read_list("x", &["1"], 2, 5),
            read_list("x", &["1", "2"], 10, 11),
        ];
        assert!(anomalies(&history).contains(&Anomaly::G1b));
    }

    #[test]
    fn g1c_transactions_see_each_other() {
        let history = [
            txn(1, append("x", "1", 0, 9)),
            txn(1, read_list("y", &["2"], 0, 9)),
            txn(2, append("y", "2", 0, 9)),
            txn(2, read_list("x", &["1"], 0, 9)),
        ];
        assert_eq!(anomalies(&history), [Anomaly::G1c]);
    }

    #[test]
    fn g_single_one_read_misses_a_write() {
        let history = [
            txn(1, append("x", "1", 0, 9)),
            txn(1, append("y", "1", 0, 9)),
            txn(2, read_list("x", &[], 0, 9)),
            txn(2, read_list("y", &["1"], 0, 9)),
            read_list("x", &["1"], 10, 11),
        ];
        assert_eq!(anomalies(&history), [Anomaly::GSingle]);
    }

    #[test]
    fn g2_two_reads_miss_writes() {
        let history = [
            txn(1, read_list("x", &[], 0, 9)),
            txn(1, append("y", "1", 0, 9)),
            txn(2, read_list("y", &[], 0, 9)),
            txn(2, append("x", "2", 0, 9)),
            read_list("x", &["2"], 10, 11),
            read_list("y", &["1"], 10, 11),
        ];
        assert_eq!(anomalies(&history), [Anomaly::G2]);
    }

    #[test]
    fn lost_update_both_wrote_on_one_version() {
        let history = [
            txn(1, read_list("x", &[], 0, 9)),
            txn(1, append("x", "1", 0, 9)),
            txn(2, read_list("x", &[], 0, 9)),
            txn(2, append("x", "2", 0, 9)),
            read_list("x", &["1", "2"], 10, 11),
        ];
        assert_eq!(anomalies(&history), [Anomaly::LostUpdate, Anomaly::GSingle]);
    }

    #[test]
    fn lists_fork_double_and_lose() {
        let fork = [
            append("x", "1", 0, 9),
            append("x", "2", 0, 9),
            read_list("x", &["1", "2"], 3, 9),
            read_list("x", &["2"], 3, 9),
        ];
        assert_eq!(anomalies(&fork), [Anomaly::IncompatibleOrder]);
        let double = [append("x", "1", 0, 9), read_list("x", &["1", "1"], 10, 11)];
        assert_eq!(anomalies(&double), [Anomaly::DuplicateElement]);
        let lost = [append("x", "1", 0, 9), read_list("x", &[], 10, 11)];
        assert_eq!(anomalies(&lost), [Anomaly::LostWrite]);
        let phantom = [read_list("x", &["7"], 10, 11)];
        assert_eq!(anomalies(&phantom), [Anomaly::Phantom]);
    }

    #[test]
    fn what_cannot_be_ordered_is_unknown() {
        let twice = [append("x", "1", 0, 9), append("x", "1", 10, 19)];
        assert!(matches!(check(&twice), Verdict::Unknown(_)));
    }
}
