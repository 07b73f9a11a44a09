//! From texts to numbers: what a reply demands of the state, and what an operation does to it.
//!
//! A value is a child of the trie's root; where lists are, a value is the path of its elements. An empty text is one
//! empty element, as in a store that joins texts.

use std::collections::HashMap;

use super::model::{ABSENT, Demand, Effect, Step, Value, Version};
use crate::history::{Action, Operation, Outcome};

/// Interns values.
pub(super) struct Names {
    /// Whether values are lists.
    pub(super) lists: bool,
    /// Numbers given out.
    pub(super) values: usize,
    elements: HashMap<String, u32>,
    /// Child nodes by node and element.
    pub(super) children: HashMap<(Value, u32), Value>,
}

impl Names {
    /// Knows nothing yet.
    pub(super) fn new(lists: bool) -> Self {
        Self {
            lists,
            values: 2,
            elements: HashMap::new(),
            children: HashMap::new(),
        }
    }

    fn element(&mut self, text: &str) -> u32 {
        if let Some(known) = self.elements.get(text) {
            return *known;
        }
        let number = u32::try_from(self.elements.len()).unwrap_or(u32::MAX);
        self.elements.insert(text.to_owned(), number);
        number
    }

    fn value(&mut self, text: Option<&str>) -> Value {
        let Some(text) = text else { return ABSENT };
        if !self.lists {
            let element = self.element(text);
            return self.child(ABSENT, element);
        }
        text.split(',').fold(ABSENT, |node, part| {
            let element = self.element(part);
            self.child(node, element)
        })
    }

    fn child(&mut self, node: Value, element: u32) -> Value {
        let next = Value::try_from(self.values).unwrap_or(Value::MAX);
        let child = *self.children.entry((node, element)).or_insert(next);
        if child == next {
            self.values += 1;
        }
        child
    }

    /// What `operation` means; `None`: nothing, for it failed or nobody knows what it saw.
    pub(super) fn step(&mut self, operation: &Operation, source: u32) -> Option<Step> {
        let (demand, effect, version) = match operation.action() {
            Action::Get(Outcome::Ok(reply)) => {
                let value = self.value(reply.value.as_deref());
                let version = reply.version.filter(|_| value != ABSENT);
                (
                    Demand::Is(value),
                    Effect::Keep,
                    version.map_or(Version::Unsaid, |v| Version::Read(v + 1)),
                )
            }
            Action::Put { value, outcome } => {
                let effect = Effect::Set(self.value(Some(value)));
                let (demand, version) =
                    self.reply(outcome, |reply| (Demand::Any, &reply.prev, reply.version))?;
                (demand, effect, version)
            }
            Action::Append { element, outcome } => {
                let effect = Effect::Append(self.element(element));
                let (demand, version) =
                    self.reply(outcome, |reply| (Demand::Any, &reply.prev, reply.version))?;
                (demand, effect, version)
            }
            Action::Delete(outcome) => {
                let (demand, version) = self.reply(outcome, |reply| {
                    let demand = match reply.existed {
                        None => Demand::Any,
                        Some(true) => Demand::Not(ABSENT),
                        Some(false) => Demand::Is(ABSENT),
                    };
                    (
                        demand,
                        &reply.prev,
                        reply.version.filter(|_| reply.existed != Some(false)),
                    )
                })?;
                if demand == Demand::Is(ABSENT) {
                    (demand, Effect::Keep, Version::Unsaid)
                } else {
                    (demand, Effect::Set(ABSENT), version)
                }
            }
            Action::Cas {
                expect,
                value,
                outcome,
            } => {
                let expect = self.value(expect.as_deref());
                let set = Effect::Set(self.value(Some(value)));
                match outcome {
                    Outcome::Info => (Demand::Is(expect), set, Version::Unsaid),
                    Outcome::Ok(reply) if !reply.succeeded => (
                        self.and_prev(Demand::Not(expect), &reply.prev),
                        Effect::Keep,
                        Version::Unsaid,
                    ),
                    Outcome::Ok(reply) => {
                        let demand = self.and_prev(Demand::Is(expect), &reply.prev);
                        (
                            demand,
                            set,
                            reply.version.map_or(Version::Unsaid, |v| Version::Made(v + 1)),
                        )
                    }
                    Outcome::Fail => return None,
                }
            }
            Action::Get(_) => return None,
        };
        Some(Step {
            demand,
            effect,
            version,
            call: 0,
            end: u32::MAX,
            source,
        })
    }

    /// Demand and version of a write: by its reply, or none if the outcome is unknown.
    fn reply<'a, T>(
        &mut self,
        outcome: &'a Outcome<T>,
        says: impl Fn(&'a T) -> (Demand, &'a Option<Option<String>>, Option<u64>),
    ) -> Option<(Demand, Version)> {
        match outcome {
            Outcome::Ok(reply) => {
                let (demand, prev, version) = says(reply);
                Some((
                    self.and_prev(demand, prev),
                    version.map_or(Version::Unsaid, |v| Version::Made(v + 1)),
                ))
            }
            Outcome::Info => Some((Demand::Any, Version::Unsaid)),
            Outcome::Fail => None,
        }
    }

    fn and_prev(&mut self, demand: Demand, prev: &Option<Option<String>>) -> Demand {
        let Some(prev) = prev else { return demand };
        let prev = self.value(prev.as_deref());
        match demand {
            Demand::Is(value) if value != prev => Demand::Never,
            Demand::Not(value) if value == prev => Demand::Never,
            _ => Demand::Is(prev),
        }
    }

    /// Marks every prefix of a demanded list.
    pub(super) fn observed(&self, certain: &[Step]) -> Vec<bool> {
        let mut observed = vec![false; self.values];
        if !self.lists {
            return observed;
        }
        let parents: HashMap<Value, Value> = self
            .children
            .iter()
            .map(|((node, _), child)| (*child, *node))
            .collect();
        for step in certain {
            let Demand::Is(mut node) = step.demand else {
                continue;
            };
            while !std::mem::replace(&mut observed[node as usize], true) {
                let Some(parent) = parents.get(&node) else { break };
                node = *parent;
            }
        }
        observed
    }
}
