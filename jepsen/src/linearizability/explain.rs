//! Why a key's history is not linearizable: as few operations as can be found within a short time.
//!
//! Where a contradiction was found without a search, it is the start. Else the shortest prefix is: linearizability is closed under prefixes, so the first return that cannot be explained
//! is found by halving. Then operations are left out while what is left stays wrong, in ever smaller pieces. Reads and
//! refused compare-and-sets may always be left out. A write may be if nothing left mentions what it wrote, and nothing
//! left demands that the state is not something: then an order with it would give one without, so what is wrong
//! without it is wrong with it.

use std::collections::HashSet;
use std::time::{Duration, Instant};

use super::check::decide;
use super::model::Model;
use super::search::Answer;
use super::zones::contradiction;
use crate::history::{Action, Operation, Outcome};
use crate::verdict::{Anomaly, Violation};

/// Time spent on finding the first return that is wrong.
const PREFIX_TIME_MAX: Duration = Duration::from_secs(10);

/// Time spent on leaving operations out.
const SHORTEN_TIME_MAX: Duration = Duration::from_secs(3);

/// The violation of a key whose history is known to be wrong.
pub(super) fn explain(operations: &[&Operation], states_max: u64) -> Violation {
    let key = operations.first().map_or("", |operation| operation.key());
    let deadline = Instant::now().checked_add(PREFIX_TIME_MAX);
    let mut shown = match contradiction(&Model::new(operations)) {
        Some(sources) => with_makers(&sources, operations),
        None => shortest_prefix(operations, |candidate| is_wrong(candidate, states_max, deadline)),
    };
    let last = shown.iter().max_by_key(|operation| operation.ended_ns()).cloned();
    let deadline = Instant::now().checked_add(SHORTEN_TIME_MAX);
    shorten(
        &mut shown,
        |candidate| is_wrong(candidate, states_max, deadline),
        deadline,
    );
    let (anomaly, what) = describe(last.as_ref(), operations);
    Violation::new(anomaly, format!("key {key}"), what).shown_by(&shown)
}

/// The operations `sources`, and all that may have written what they demand: without, they would be wrong for another
/// reason.
fn with_makers(sources: &[u32], operations: &[&Operation]) -> Vec<Operation> {
    let chosen: HashSet<usize> = sources.iter().map(|source| *source as usize).collect();
    let mentioned: HashSet<&str> = chosen
        .iter()
        .flat_map(|source| mentions(operations[*source].action()))
        .collect();
    let makes = |operation: &Operation| match writes(operation.action()) {
        Some(text) => text.split(',').any(|part| mentioned.contains(part)),
        None => chosen
            .iter()
            .any(|source| demands_absence(operations[*source].action())),
    };
    let shown = operations.iter().enumerate().filter(|(at, operation)| {
        chosen.contains(at)
            || (is_write(operation.action()) && !is_moot(operation.action()) && makes(operation))
    });
    shown.map(|(_, operation)| (*operation).clone()).collect()
}

fn is_wrong(candidate: &[Operation], states_max: u64, deadline: Option<Instant>) -> bool {
    let borrowed: Vec<&Operation> = candidate.iter().collect();
    decide(&borrowed, states_max, deadline) == Answer::Not
}

/// The part of the history up to the first return at which it is wrong.
fn shortest_prefix(operations: &[&Operation], is_wrong: impl Fn(&[Operation]) -> bool) -> Vec<Operation> {
    let mut returns: Vec<u64> = operations
        .iter()
        .filter_map(|operation| operation.ended_ns())
        .collect();
    returns.sort_unstable();
    returns.dedup();
    let first = returns.partition_point(|at_ns| !is_wrong(&until(operations, *at_ns)));
    until(operations, returns.get(first).copied().unwrap_or(u64::MAX))
}

/// What was known at `at_ns`: what had not returned may or may not have happened.
fn until(operations: &[&Operation], at_ns: u64) -> Vec<Operation> {
    let called = operations.iter().filter(|operation| operation.call_ns() <= at_ns);
    let known = called.filter_map(|operation| match operation.ended_ns() {
        Some(ended) if ended > at_ns => operation.with_action(pending(operation.action())?).ok(),
        _ => Some((*operation).clone()),
    });
    known.filter(|operation| !is_moot(operation.action())).collect()
}

fn is_moot(action: &Action) -> bool {
    matches!(action.outcome(), Outcome::Fail) || matches!(action, Action::Get(Outcome::Info))
}

fn pending(action: &Action) -> Option<Action> {
    Some(match action.clone() {
        Action::Get(_) => return None,
        Action::Put { value, .. } => Action::Put {
            value,
            outcome: Outcome::Info,
        },
        Action::Cas { expect, value, .. } => Action::Cas {
            expect,
            value,
            outcome: Outcome::Info,
        },
        Action::Delete(_) => Action::Delete(Outcome::Info),
        Action::Append { element, .. } => Action::Append {
            element,
            outcome: Outcome::Info,
        },
    })
}

/// Leaves pieces out, halves first, single operations last.
fn shorten(shown: &mut Vec<Operation>, is_wrong: impl Fn(&[Operation]) -> bool, deadline: Option<Instant>) {
    let mut size = shown.len().div_ceil(2);
    while size > 0 {
        let mut from = 0;
        while from < shown.len() {
            if deadline.is_none_or(|at| Instant::now() >= at) {
                return;
            }
            match without(shown, from, size).filter(|rest| is_wrong(rest)) {
                Some(rest) => *shown = rest,
                None => from += size,
            }
        }
        size = if size == 1 { 0 } else { size.div_ceil(2) };
    }
}

/// `shown` without the operations of a piece that may be left out. `None`: there is none.
fn without(shown: &[Operation], from: usize, size: usize) -> Option<Vec<Operation>> {
    let piece = from..(from + size).min(shown.len());
    let keeps = |at: usize| !piece.contains(&at) || is_write(shown[at].action());
    let kept: Vec<&Operation> = (0..shown.len())
        .filter(|at| keeps(*at))
        .map(|at| &shown[at])
        .collect();
    let demands_not = kept.iter().any(|operation| demands_not(operation.action()));
    let mentioned: HashSet<&str> = kept
        .iter()
        .flat_map(|operation| mentions(operation.action()))
        .collect();
    let demands_absence = kept.iter().any(|operation| demands_absence(operation.action()));
    let needed = |action: &Action| {
        demands_not
            || match writes(action) {
                Some(text) => text.split(',').any(|part| mentioned.contains(part)),
                None => demands_absence,
            }
    };
    let rest: Vec<Operation> = (0..shown.len())
        .filter(|at| keeps(*at) && (!piece.contains(at) || needed(shown[*at].action())))
        .map(|at| shown[at].clone())
        .collect();
    (rest.len() < shown.len()).then_some(rest)
}

fn is_write(action: &Action) -> bool {
    action.is_info() || action.is_effective_write()
}

fn demands_not(action: &Action) -> bool {
    match action {
        Action::Cas {
            outcome: Outcome::Ok(reply),
            ..
        } => !reply.succeeded,
        Action::Delete(Outcome::Ok(reply)) => reply.existed == Some(true),
        _ => false,
    }
}

/// Whether the reply says that the key was absent, or its effect rests on that.
fn demands_absence(action: &Action) -> bool {
    match action {
        Action::Get(Outcome::Ok(reply)) => reply.value.is_none(),
        Action::Put {
            outcome: Outcome::Ok(reply),
            ..
        }
        | Action::Append {
            outcome: Outcome::Ok(reply),
            ..
        } => reply.prev == Some(None),
        Action::Cas { expect: None, .. } => true,
        Action::Cas {
            outcome: Outcome::Ok(reply),
            ..
        } => reply.prev == Some(None),
        Action::Delete(Outcome::Ok(reply)) => reply.existed == Some(false) || reply.prev == Some(None),
        _ => false,
    }
}

/// What a write leaves behind; `None` for absence.
fn writes(action: &Action) -> Option<&str> {
    match action {
        Action::Put { value, .. } | Action::Cas { value, .. } => Some(value),
        Action::Append { element, .. } => Some(element),
        Action::Get(_) | Action::Delete(_) => None,
    }
}

/// The parts of all values that an operation compares the state with.
fn mentions(action: &Action) -> impl Iterator<Item = &str> {
    let texts: [Option<&str>; 2] = match action {
        Action::Get(Outcome::Ok(reply)) => [reply.value.as_deref(), None],
        Action::Put {
            outcome: Outcome::Ok(reply),
            ..
        }
        | Action::Append {
            outcome: Outcome::Ok(reply),
            ..
        } => [reply.prev.as_ref().and_then(Option::as_deref), None],
        Action::Delete(Outcome::Ok(reply)) => [reply.prev.as_ref().and_then(Option::as_deref), None],
        Action::Cas {
            expect,
            outcome: Outcome::Ok(reply),
            ..
        } => [expect.as_deref(), reply.prev.as_ref().and_then(Option::as_deref)],
        Action::Cas { expect, .. } => [expect.as_deref(), None],
        _ => [None, None],
    };
    texts.into_iter().flatten().flat_map(|text| text.split(','))
}

/// What is wrong with the last reply of the prefix.
fn describe(last: Option<&Operation>, operations: &[&Operation]) -> (Anomaly, String) {
    let read = last.and_then(|operation| match operation.action() {
        Action::Get(Outcome::Ok(reply)) => reply.value.as_deref(),
        _ => None,
    });
    let wrote = |value: &str, failed: bool| {
        operations.iter().any(|operation| {
            let action = operation.action();
            let tail = value.rsplit(',').next().unwrap_or_default();
            let same = writes(action).is_some_and(|text| text == value)
                || matches!(action, Action::Append { element, .. } if element == tail);
            same && matches!(action.outcome(), Outcome::Fail) == failed
        })
    };
    match (last, read) {
        (_, Some(value)) if !wrote(value, false) && wrote(value, true) => (
            Anomaly::G1a,
            format!("a get returned {value:?}, whose write failed"),
        ),
        (_, Some(value)) if !wrote(value, false) => (
            Anomaly::Phantom,
            format!("a get returned {value:?}, which nobody wrote"),
        ),
        (Some(last), _) => (
            Anomaly::NotLinearizable,
            format!(
                "no order of these operations explains the {} that returned at {} ns",
                last.action().kind().name(),
                last.ended_ns().unwrap_or_default()
            ),
        ),
        (None, _) => (
            Anomaly::NotLinearizable,
            "no order of these operations explains their replies".to_owned(),
        ),
    }
}
