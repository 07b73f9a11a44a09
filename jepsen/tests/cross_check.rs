//! Our linearizability checker against one that shares no code with it, on thousands of small histories: valid ones,
//! and such that were broken. The other checker knows no unknown outcomes: it is given them as operations that return
//! at the very end and fit always, which comes to the same.

use std::collections::HashMap;

use jepsen::Verdict;
use jepsen::generate::{Chance, Recipe, generate};
use jepsen::history::{Action, Operation, Outcome};
use jepsen::linearizability::{Bounds, check_key};
use todc_utils::linearizability::WGLChecker;
use todc_utils::linearizability::history::{Action as Edge, History};
use todc_utils::specifications::Specification;

/// A register in the other checker's words, written down a second time and without any reduction.
struct Register;

/// The value, the last version known, and whether the last write made it.
type State = (Option<String>, u64, bool);

impl Specification for Register {
    type State = State;
    type Operation = Action;

    fn init() -> State {
        (None, 0, true)
    }

    fn apply(action: &Action, state: &State) -> (bool, State) {
        let (now, last, exact) = state.clone();
        let prev_fits = |prev: &Option<Option<String>>| prev.as_ref().is_none_or(|prev| *prev == now);
        let wrote = |fits: bool, value: Option<String>, version: Option<u64>| match version {
            Some(version) => (fits && version > last, (value, version, true)),
            None => (fits, (value, last, false)),
        };
        let appended = |element: &String| match &now {
            Some(list) => Some(format!("{list},{element}")),
            None => Some(element.clone()),
        };
        match action {
            Action::Get(Outcome::Ok(reply)) => {
                // An absent key has no version of its own.
                let version = reply.version.filter(|_| reply.value.is_some());
                let version_fits = match version {
                    Some(version) if exact => version == last,
                    Some(version) => version > last,
                    None => true,
                };
                let after = version.map_or((last, exact), |version| (version, true));
                (reply.value == now && version_fits, (now, after.0, after.1))
            }
            Action::Put {
                value,
                outcome: Outcome::Ok(reply),
            } => wrote(prev_fits(&reply.prev), Some(value.clone()), reply.version),
            Action::Append {
                element,
                outcome: Outcome::Ok(reply),
            } => wrote(prev_fits(&reply.prev), appended(element), reply.version),
            Action::Cas {
                expect,
                value,
                outcome: Outcome::Ok(reply),
            } if reply.succeeded => wrote(
                *expect == now && prev_fits(&reply.prev),
                Some(value.clone()),
                reply.version,
            ),
            Action::Cas {
                expect,
                outcome: Outcome::Ok(reply),
                ..
            } => (*expect != now && prev_fits(&reply.prev), (now, last, exact)),
            Action::Delete(Outcome::Ok(reply)) => {
                let fits =
                    reply.existed.is_none_or(|existed| existed == now.is_some()) && prev_fits(&reply.prev);
                match now {
                    None if reply.existed == Some(false) || reply.prev == Some(None) => {
                        (fits, (now, last, exact))
                    }
                    _ => wrote(fits, None, reply.version),
                }
            }
            Action::Put { value, .. } => (true, (Some(value.clone()), last, false)),
            Action::Append { element, .. } => (true, (appended(element), last, false)),
            Action::Cas { expect, value, .. } if *expect == now => (true, (Some(value.clone()), last, false)),
            Action::Delete(_) => (true, (None, last, false)),
            Action::Cas { .. } | Action::Get(_) => (true, (now, last, exact)),
        }
    }
}

fn other_says_linearizable(history: &[Operation]) -> bool {
    let mut edges = Vec::new();
    for (index, operation) in history.iter().enumerate() {
        if operation.action().outcome() == Outcome::Fail {
            continue;
        }
        let action = operation.action().clone();
        edges.push((operation.call_ns(), 0, index, Edge::Call(action.clone())));
        edges.push((
            operation.ended_ns().unwrap_or(u64::MAX),
            1,
            index,
            Edge::Response(action),
        ));
    }
    edges.sort_by_key(|(at_ns, end, index, _)| (*at_ns, *end, *index));
    if edges.is_empty() {
        return true;
    }
    let edges = edges
        .into_iter()
        .map(|(_, _, index, edge)| (index, edge))
        .collect();
    WGLChecker::<Register>::is_linearizable(History::from_actions(edges))
}

fn ours_says(history: &[Operation]) -> Verdict {
    let operations: Vec<&Operation> = history.iter().collect();
    check_key(
        &operations,
        Bounds {
            threads: 1,
            ..Bounds::default()
        },
    )
}

fn spell(history: &[Operation]) -> String {
    history.iter().map(|operation| format!("{operation}\n")).collect()
}

/// Changes one reply or one time, so that the history may be wrong.
fn mutate(history: &mut [Operation], chance: &mut Chance) {
    let at = chance.below(history.len() as u64) as usize;
    let from = chance.below(history.len() as u64) as usize;
    let foreign = match history[from].action() {
        Action::Get(Outcome::Ok(reply)) => reply.value.clone(),
        Action::Put { value, .. } | Action::Cas { value, .. } => Some(value.clone()),
        Action::Append { element, .. } => Some(element.clone()),
        _ => None,
    };
    let stretch = chance.below(600);
    let changed = match history[at].action().clone() {
        Action::Get(Outcome::Ok(mut reply)) => {
            reply.value = foreign;
            history[at].with_action(Action::Get(Outcome::Ok(reply)))
        }
        Action::Cas {
            expect,
            value,
            outcome: Outcome::Ok(mut reply),
        } if chance.permille(500) => {
            reply.succeeded = !reply.succeeded;
            history[at].with_action(Action::Cas {
                expect,
                value,
                outcome: Outcome::Ok(reply),
            })
        }
        Action::Delete(Outcome::Ok(mut reply)) if chance.permille(700) => {
            reply.existed = Some(chance.permille(500));
            reply.prev = None;
            history[at].with_action(Action::Delete(Outcome::Ok(reply)))
        }
        Action::Put {
            value,
            outcome: Outcome::Ok(mut reply),
        } if chance.permille(500) => {
            reply.prev = chance.permille(500).then_some(foreign);
            reply.version = chance.permille(500).then(|| 1 + chance.below(8));
            history[at].with_action(Action::Put {
                value,
                outcome: Outcome::Ok(reply),
            })
        }
        action => {
            let call_ns = history[at].call_ns() + stretch;
            let return_ns = history[at]
                .return_ns()
                .map(|at_ns| at_ns.saturating_sub(stretch).max(call_ns));
            Operation::new(history[at].process(), "k0", call_ns, return_ns, action)
        }
    };
    history[at] = changed.expect("a mutation keeps times in order and elements without commas");
}

fn recipe(chance: &mut Chance) -> Recipe {
    let mixes = [
        [5, 3, 2, 1, 0],
        [5, 5, 0, 0, 0],
        [4, 0, 5, 1, 0],
        [5, 0, 0, 0, 5],
        [4, 2, 1, 1, 3],
        [3, 2, 4, 2, 0],
    ];
    Recipe {
        operations: 2 + chance.below(11) as usize,
        keys: 1,
        processes: 1 + chance.below(5),
        mix: mixes[chance.below(6) as usize],
        info_permille: [0, 100, 300, 500][chance.below(4) as usize],
        fail_permille: 50,
        values: chance.below(4),
        versions: chance.permille(300),
    }
}

#[test]
fn two_checkers_agree() {
    let mut seen = HashMap::from([(true, 0), (false, 0)]);
    for seed in 0..12_000 {
        let mut chance = Chance::new(seed);
        let mut history = generate(recipe(&mut chance), seed);
        let valid = ours_says(&history);
        let other = other_says_linearizable(&history);
        assert!(
            valid.is_ok() && other,
            "seed {seed}: a valid history is judged {valid} and {other}\n{}",
            spell(&history)
        );
        for _ in 0..1 + chance.below(3) {
            mutate(&mut history, &mut chance);
            let (ours, other) = (ours_says(&history), other_says_linearizable(&history));
            assert!(!matches!(ours, Verdict::Unknown(_)), "seed {seed}: {ours}");
            assert_eq!(ours.is_ok(), other, "seed {seed}: {ours}\n{}", spell(&history));
            *seen.entry(other).or_insert(0) += 1;
        }
    }
    assert!(
        seen.values().all(|times| *times > 3_000),
        "too few of one kind to mean anything: {seen:?}"
    );
}

/// What the explanation leaves is itself wrong, by the other checker's judgement.
#[test]
fn explanations_are_violations_themselves() {
    let mut explained = 0;
    for seed in 0..1_500 {
        let mut chance = Chance::new(seed);
        let mut history = generate(
            Recipe {
                operations: 30,
                ..recipe(&mut chance)
            },
            seed,
        );
        (0..3).for_each(|_| mutate(&mut history, &mut chance));
        for violation in ours_says(&history).violations() {
            explained += 1;
            assert!(violation.operations.len() <= history.len(), "seed {seed}");
            assert!(
                !other_says_linearizable(&violation.operations),
                "seed {seed}: {violation}"
            );
        }
    }
    assert!(explained > 500, "{explained}");
}
