//! One key's operations, as the search needs them: what each demands of the state, and what it does to it.
//!
//! Values are interned to numbers. Where a key is appended to, a value is a path in a trie of elements, so that an
//! append is one step and no list is copied. Where versions are reported the state has one too: writes rise, and a
//! read shows that of the last write.
//!
//! Operations of unknown outcome cost most, because each may take effect at any later time or never. Three reductions
//! are made here, each of which keeps the answer:
//!
//! 1. Reads and failed operations are dropped: they did nothing, or nobody knows what they saw.
//! 2. On a key without appends, all values that no operation mentions (reads, expects, was told as the previous
//!    value) become one value [`OTHER`]. Operations tell states apart only by comparing with mentioned values, so
//!    every linearization of the one history is one of the other.
//!    Likewise the demand that the state is not a value that no operation writes always holds.
//! 3. An unknown write whose value nobody mentions is dropped, if no certain operation demands that the state is NOT
//!    something (a compare-and-set that failed, a delete that found a value). Proof: take a linearization with that
//!    write and remove it. Up to the next overwrite the state had the unmentioned value, or a list with the
//!    unmentioned element in it, so no operation there demanded an exact state; the rest demand nothing. The overwrite
//!    makes both states equal again. What demanded nothing still holds, hence the rest is a linearization. (Given a
//!    linearization without it, it is one with it: it never took effect.)

use std::collections::{BTreeSet, HashMap};

use super::names::Names;
use crate::history::{Action, Operation};

/// A value, interned; or a node of the trie of lists.
pub(super) type Value = u32;

/// The key is absent.
pub(super) const ABSENT: Value = 0;

/// Some value that no operation mentions.
pub(super) const OTHER: Value = 1;

/// What an operation needs of the state in order to have had its reply.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) enum Demand {
    Any,
    Is(Value),
    Not(Value),
    /// The reply contradicts itself.
    Never,
}

/// What an operation does to the state.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) enum Effect {
    Keep,
    Set(Value),
    /// Append this element.
    Append(u32),
}

/// What the reply says of the version, counted from 1; 0 is before every write.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Version {
    Unsaid,
    Read(u64),
    Made(u64),
}

/// One operation. `call` and `end` are positions in the order of all calls and returns of the key.
#[derive(Clone, Copy, Debug)]
pub(super) struct Step {
    pub(super) demand: Demand,
    pub(super) effect: Effect,
    pub(super) version: Version,
    pub(super) call: u32,
    pub(super) end: u32,
    /// Which of the key's operations it is.
    pub(super) source: u32,
}

/// One key's history.
#[derive(Debug)]
pub(super) struct Model {
    /// What certainly took effect, by call.
    pub(super) certain: Vec<Step>,
    /// What may have, by call; without an end.
    pub(super) unknown: Vec<Step>,
    /// Calls and returns of both.
    pub(super) positions: u32,
    /// Numbers given out to values.
    pub(super) values: usize,
    /// Whether anything is appended.
    pub(super) appends: bool,
    /// Whether there are only appends that demand nothing, and reads.
    pub(super) pure_list: bool,
    /// Whether some reply has a version.
    pub(super) versioned: bool,
    /// Child nodes by node and element, where lists are.
    children: HashMap<(Value, u32), Value>,
    /// Nodes that are a prefix of a value that some operation demands.
    observed: Vec<bool>,
}

impl Model {
    /// The model of `operations`, all of one key.
    pub(super) fn new(operations: &[&Operation]) -> Self {
        let appends = operations
            .iter()
            .any(|operation| matches!(operation.action(), Action::Append { .. }));
        let mut names = Names::new(appends);
        let (mut certain, mut unknown) = (Vec::new(), Vec::new());
        for (source, operation) in (0u32..).zip(operations) {
            let Some(step) = names.step(operation, source) else {
                continue;
            };
            if operation.action().is_info() {
                unknown.push(step)
            } else {
                certain.push(step)
            }
        }
        if !appends {
            fold_unmentioned(&mut certain, &mut unknown);
        }
        drop_unmentioned(&certain, &mut unknown, &names);
        let steps = || certain.iter().chain(&unknown);
        let pure_list = appends
            && steps().all(|step| {
                matches!(
                    (step.demand, step.effect),
                    (Demand::Is(_), Effect::Keep) | (Demand::Any, Effect::Append(_))
                )
            });
        let versioned = steps().any(|step| step.version != Version::Unsaid);
        let observed = names.observed(&certain);
        let positions = order(operations, &mut certain, &mut unknown);
        let values = names.values;
        Self {
            certain,
            unknown,
            positions,
            values,
            appends,
            pure_list,
            versioned,
            children: names.children,
            observed,
        }
    }

    /// The list `value` with `element` at its end; a new number if no operation knows such a list.
    pub(super) fn appended(&mut self, value: Value, element: u32) -> Value {
        let next = Value::try_from(self.values).unwrap_or(Value::MAX);
        let child = *self.children.entry((value, element)).or_insert(next);
        if child == next {
            self.values += 1;
        }
        child
    }

    /// Whether `value` is a prefix of what some operation demands.
    pub(super) fn is_observed(&self, value: Value) -> bool {
        self.observed.get(value as usize).copied().unwrap_or(false)
    }
}

fn mentioned(step: &Step) -> Option<Value> {
    match step.demand {
        Demand::Is(value) | Demand::Not(value) => Some(value),
        Demand::Any | Demand::Never => None,
    }
}

/// The second reduction of the header.
fn fold_unmentioned(certain: &mut [Step], unknown: &mut [Step]) {
    let written: BTreeSet<Effect> = certain
        .iter()
        .chain(unknown.iter())
        .map(|step| step.effect)
        .collect();
    for step in certain.iter_mut() {
        if let Demand::Not(value) = step.demand
            && value != ABSENT
            && !written.contains(&Effect::Set(value))
        {
            step.demand = Demand::Any;
        }
    }
    let known: BTreeSet<Value> = certain
        .iter()
        .chain(unknown.iter())
        .filter_map(mentioned)
        .chain([ABSENT])
        .collect();
    for step in certain.iter_mut().chain(unknown) {
        if let Effect::Set(value) = &mut step.effect
            && !known.contains(value)
        {
            *value = OTHER;
        }
    }
}

/// The third reduction of the header.
fn drop_unmentioned(certain: &[Step], unknown: &mut Vec<Step>, names: &Names) {
    if certain.iter().any(|step| matches!(step.demand, Demand::Not(_))) {
        return;
    }
    let values: BTreeSet<Value> = certain
        .iter()
        .chain(unknown.iter())
        .filter_map(mentioned)
        .chain([ABSENT])
        .collect();
    if !names.lists {
        unknown.retain(|step| !matches!(step.effect, Effect::Set(value) if !values.contains(&value)));
        return;
    }
    // On a list the last element stands for what was written: a demanded list that has it may stem from this write.
    let last: HashMap<Value, u32> = names
        .children
        .iter()
        .map(|((_, element), child)| (*child, *element))
        .collect();
    let parents: HashMap<Value, Value> = names
        .children
        .iter()
        .map(|((node, _), child)| (*child, *node))
        .collect();
    let mut seen = BTreeSet::new();
    let mut elements = BTreeSet::new();
    for mut node in values {
        while seen.insert(node) {
            let (Some(element), Some(parent)) = (last.get(&node), parents.get(&node)) else {
                break;
            };
            elements.insert(*element);
            node = *parent;
        }
    }
    unknown.retain(|step| match step.effect {
        Effect::Append(element) => elements.contains(&element),
        Effect::Set(value) => {
            value == ABSENT || last.get(&value).is_some_and(|element| elements.contains(element))
        }
        Effect::Keep => false,
    });
}

/// Gives every call and return its position. At one instant calls come first: such operations overlap.
fn order(operations: &[&Operation], certain: &mut [Step], unknown: &mut [Step]) -> u32 {
    certain.sort_by_key(|step| operations[step.source as usize].call_ns());
    unknown.sort_by_key(|step| operations[step.source as usize].call_ns());
    let mut marks = Vec::with_capacity(certain.len() * 2 + unknown.len());
    for (index, step) in certain.iter().enumerate() {
        let operation = operations[step.source as usize];
        marks.push((operation.call_ns(), 0, index));
        marks.push((operation.ended_ns().unwrap_or(u64::MAX), 2, index));
    }
    for (index, step) in unknown.iter().enumerate() {
        marks.push((operations[step.source as usize].call_ns(), 1, index));
    }
    marks.sort_unstable();
    for (position, (_, kind, index)) in (0u32..).zip(&marks) {
        match kind {
            0 => certain[*index].call = position,
            1 => unknown[*index].call = position,
            _ => certain[*index].end = position,
        }
    }
    u32::try_from(marks.len()).unwrap_or(u32::MAX)
}
