//! Transactions, the order of every key's elements, and what is wrong with single reads.

use std::collections::{BTreeMap, HashMap, HashSet};

use crate::history::{Action, Operation, Outcome};
use crate::verdict::{Anomaly, Violation};

/// What is known of a transaction's end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Fate {
    Committed,
    Failed,
    Unknown,
}

/// Operations that take effect together, in the order of the history.
#[derive(Debug)]
pub(super) struct Transaction<'a> {
    pub(super) operations: Vec<&'a Operation>,
    pub(super) fate: Fate,
}

/// One ok get of a list.
#[derive(Debug)]
pub(super) struct ListRead<'a> {
    pub(super) by: usize,
    pub(super) operation: &'a Operation,
    pub(super) elements: Vec<&'a str>,
}

/// One append.
#[derive(Clone, Copy, Debug)]
pub(super) struct Writer<'a> {
    pub(super) by: usize,
    pub(super) operation: &'a Operation,
}

/// One key.
#[derive(Debug, Default)]
pub(super) struct List<'a> {
    pub(super) reads: Vec<ListRead<'a>>,
    pub(super) writers: HashMap<&'a str, Writer<'a>>,
    /// The longest list read.
    pub(super) order: Vec<&'a str>,
}

/// All of a history that is about lists.
#[derive(Debug)]
pub(super) struct Lists<'a> {
    pub(super) transactions: Vec<Transaction<'a>>,
    pub(super) by_key: BTreeMap<&'a str, List<'a>>,
}

/// Groups `history` into transactions and lists. Err: why it cannot be judged.
pub(super) fn lists(history: &[Operation]) -> Result<Lists<'_>, String> {
    let transactions = transactions(history);
    let mut by_key: BTreeMap<&str, List> = BTreeMap::new();
    for (by, transaction) in transactions.iter().enumerate() {
        for operation in &transaction.operations {
            let list = by_key.entry(operation.key()).or_default();
            match operation.action() {
                Action::Append { element, .. } => {
                    if list.writers.insert(element, Writer { by, operation }).is_some() {
                        return Err(format!(
                            "element {element:?} of key {} was appended twice",
                            operation.key()
                        ));
                    }
                }
                Action::Get(Outcome::Ok(reply)) => {
                    let elements = reply
                        .value
                        .as_deref()
                        .map_or(Vec::new(), |list| list.split(',').collect());
                    list.reads.push(ListRead {
                        by,
                        operation,
                        elements,
                    });
                }
                Action::Get(_) => {}
                _ => {
                    return Err(format!(
                        "key {} has operations other than append and get",
                        operation.key()
                    ));
                }
            }
        }
    }
    for list in by_key.values_mut() {
        let longest = list.reads.iter().max_by_key(|read| read.elements.len());
        list.order = longest.map(|read| read.elements.clone()).unwrap_or_default();
    }
    Ok(Lists { transactions, by_key })
}

fn transactions(history: &[Operation]) -> Vec<Transaction<'_>> {
    let mut found: Vec<Transaction> = Vec::new();
    let mut by_txn = HashMap::new();
    for operation in history {
        let next = found.len();
        let index = operation
            .txn()
            .map_or(next, |txn| *by_txn.entry(txn).or_insert(next));
        if index == next {
            found.push(Transaction {
                operations: Vec::new(),
                fate: Fate::Committed,
            });
        }
        let transaction = &mut found[index];
        transaction.operations.push(operation);
        transaction.fate = match (operation.action().outcome(), transaction.fate) {
            (Outcome::Fail, _) | (_, Fate::Failed) => Fate::Failed,
            (Outcome::Info, _) | (_, Fate::Unknown) => Fate::Unknown,
            (Outcome::Ok(()), Fate::Committed) => Fate::Committed,
        };
    }
    found
}

impl<'a> Lists<'a> {
    /// What single reads show: duplicates, phantoms, failed or intermediate writes, forks, lost writes.
    pub(super) fn of_single_reads(&self) -> Vec<Violation> {
        let mut found = Vec::new();
        for (key, list) in &self.by_key {
            for read in &list.reads {
                found.extend(self.of_read(key, list, read));
            }
            found.extend(lost_writes(key, list, &self.transactions));
        }
        found
    }

    fn of_read(&self, key: &str, list: &List<'a>, read: &ListRead<'a>) -> Option<Violation> {
        let violation = |anomaly, what: String, others: &[&'a Operation]| {
            let shown = others.iter().copied().chain([read.operation]);
            Some(Violation::new(anomaly, format!("key {key}"), what).shown_by(shown))
        };
        let mut seen = HashSet::new();
        for element in &read.elements {
            if !seen.insert(element) {
                let writer: Vec<_> = list
                    .writers
                    .get(element)
                    .map(|writer| writer.operation)
                    .into_iter()
                    .collect();
                return violation(
                    Anomaly::DuplicateElement,
                    format!("{element:?} is there twice"),
                    &writer,
                );
            }
            match list.writers.get(element) {
                None => return violation(Anomaly::Phantom, format!("nobody appended {element:?}"), &[]),
                Some(writer) if self.transactions[writer.by].fate == Fate::Failed => {
                    let what = format!("the append of {element:?} failed, and was read");
                    return violation(Anomaly::G1a, what, &[writer.operation]);
                }
                Some(_) => {}
            }
        }
        if let Some((mid, last)) = self.intermediate(key, list, read) {
            let what = format!(
                "{:?} was read as the last element, but its transaction appended more",
                mid.1
            );
            return violation(Anomaly::G1b, what, &[mid.0, last]);
        }
        if list.order.starts_with(&read.elements) {
            return None;
        }
        let longest = list.reads.iter().max_by_key(|read| read.elements.len())?;
        let at = read
            .elements
            .iter()
            .zip(&list.order)
            .take_while(|(mine, theirs)| mine == theirs)
            .count();
        let what = format!(
            "two reads differ at element {at}: {:?} and {:?}",
            read.elements[at], list.order[at]
        );
        violation(Anomaly::IncompatibleOrder, what, &[longest.operation])
    }

    /// The write that `read` ends with, if its transaction wrote on: `((append, element), later append)`.
    fn intermediate(
        &self,
        key: &str,
        list: &List<'a>,
        read: &ListRead<'a>,
    ) -> Option<((&'a Operation, &'a str), &'a Operation)> {
        let element = *read.elements.last()?;
        let writer = list.writers.get(element)?;
        if writer.by == read.by {
            return None;
        }
        let mut of_key = self.transactions[writer.by]
            .operations
            .iter()
            .filter(|operation| operation.key() == key);
        of_key.find(|operation| std::ptr::eq(**operation, writer.operation));
        let later = of_key.find(|operation| matches!(operation.action(), Action::Append { .. }))?;
        Some(((writer.operation, element), later))
    }
}

/// Acknowledged appends that a read does not have though it was called after they returned: for each, the first.
fn lost_writes(key: &str, list: &List<'_>, transactions: &[Transaction<'_>]) -> Vec<Violation> {
    let mut acked: Vec<(u64, &str, &Operation)> = list
        .writers
        .iter()
        .filter(|(_, writer)| transactions[writer.by].fate == Fate::Committed)
        .filter_map(|(element, writer)| Some((writer.operation.ended_ns()?, *element, writer.operation)))
        .collect();
    acked.sort_unstable_by_key(|(ended, element, _)| (*ended, *element));
    let mut reads: Vec<&ListRead> = list.reads.iter().collect();
    reads.sort_by_key(|read| read.operation.call_ns());
    let mut told = HashSet::new();
    let mut found = Vec::new();
    for read in reads {
        let elements: HashSet<&str> = read.elements.iter().copied().collect();
        let due = acked
            .iter()
            .take_while(|(ended, ..)| *ended < read.operation.call_ns());
        for (_, element, append) in due.filter(|(_, element, _)| !elements.contains(element)) {
            if told.insert(*element) {
                let what = format!("the append of {element:?} was acknowledged and is not in a later read");
                let violation = Violation::new(Anomaly::LostWrite, format!("key {key}"), what);
                found.push(violation.shown_by([*append, read.operation]));
            }
        }
    }
    found
}
