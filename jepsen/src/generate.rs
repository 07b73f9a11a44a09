//! Valid histories from a seed: a register a key that does one thing at a time, and clients that see it so.
//!
//! Every operation takes effect at one instant between its call and its return. A share of the outcomes is unknown:
//! those operations take effect late or never, and their process goes on under another number. What is made here is
//! linearizable by construction; tests break it on purpose, measurements check it as it is.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap};

use crate::history::{Action, Deleted, Operation, Outcome, Read, Swapped, Wrote};

/// A generator of numbers (SplitMix64): the same on every machine.
#[derive(Clone, Debug)]
pub struct Chance(u64);

impl Chance {
    /// From a seed.
    pub fn new(seed: u64) -> Self {
        Self(seed)
    }

    /// The next number.
    pub fn draw(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    /// A number below `bound`; 0 if that is 0.
    pub fn below(&mut self, bound: u64) -> u64 {
        self.draw() % bound.max(1)
    }

    /// True in `permille` of 1,000 cases.
    pub fn permille(&mut self, permille: u64) -> bool {
        self.below(1_000) < permille
    }
}

/// What a history is made of.
#[derive(Clone, Copy, Debug)]
pub struct Recipe {
    /// Operations in all.
    pub operations: usize,
    /// Keys, drawn evenly.
    pub keys: u64,
    /// Clients at a time.
    pub processes: u64,
    /// Weights of get, put, cas, delete, append.
    pub mix: [u64; 5],
    /// Unknown outcomes of 1,000 operations.
    pub info_permille: u64,
    /// Failed operations of 1,000.
    pub fail_permille: u64,
    /// Values are drawn from this many; 0: every written value is another.
    pub values: u64,
    /// Whether replies carry versions and previous values.
    pub versions: bool,
}

impl Default for Recipe {
    fn default() -> Self {
        Self {
            operations: 1_000,
            keys: 10,
            processes: 8,
            mix: [50, 30, 15, 5, 0],
            info_permille: 20,
            fail_permille: 10,
            values: 0,
            versions: false,
        }
    }
}

/// A history by `recipe`, in order of calls.
pub fn generate(recipe: Recipe, seed: u64) -> Vec<Operation> {
    let mut world = World::new(recipe, seed);
    let mut left = recipe.operations;
    for process in 0..recipe.processes {
        let at_ns = world.chance.below(1_000);
        world.queue.push(Reverse((at_ns, process, Event::Call)));
    }
    let mut open: BTreeMap<u64, Open> = BTreeMap::new();
    while let Some(Reverse((at_ns, id, event))) = world.queue.pop() {
        match event {
            Event::Call if left > 0 => {
                left -= 1;
                let call = world.call(at_ns, id);
                open.insert(call.ticket, call);
            }
            Event::Call => {}
            Event::Effect => {
                if let Some(operation) = open.get_mut(&id) {
                    operation.action = world.take_effect(&operation.key, &operation.action);
                }
            }
            Event::Return => {
                if let Some(done) = open.remove(&id) {
                    world.finish(done, at_ns);
                }
            }
        }
    }
    world.history.sort_by_key(Operation::call_ns);
    world.history
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Event {
    Effect,
    Return,
    Call,
}

struct Open {
    ticket: u64,
    process: u64,
    key: String,
    call_ns: u64,
    action: Action,
    fate: Outcome<()>,
}

#[derive(Default)]
struct Register {
    value: Option<String>,
    revision: u64,
}

impl Register {
    /// Sets the value. The new revision, if it is to be told.
    fn set(&mut self, value: Option<String>, told: bool) -> Option<u64> {
        self.value = value;
        self.revision += 1;
        told.then_some(self.revision)
    }
}

struct World {
    recipe: Recipe,
    chance: Chance,
    state: BTreeMap<String, Register>,
    history: Vec<Operation>,
    queue: BinaryHeap<Reverse<(u64, u64, Event)>>,
    tickets: u64,
    processes: u64,
    written: u64,
}

impl World {
    fn new(recipe: Recipe, seed: u64) -> Self {
        Self {
            recipe,
            chance: Chance::new(seed),
            state: BTreeMap::new(),
            history: Vec::with_capacity(recipe.operations),
            queue: BinaryHeap::new(),
            tickets: 0,
            processes: recipe.processes,
            written: 0,
        }
    }

    /// Draws an operation and when it takes effect and returns.
    fn call(&mut self, call_ns: u64, process: u64) -> Open {
        let key = format!("k{}", self.chance.below(self.recipe.keys));
        let action = self.draw_action(&key);
        let lasts_ns = 1 + self.chance.below(1_000);
        let (fate, effect_ns) = match self.chance.below(1_000) {
            drawn if drawn < self.recipe.info_permille => (
                Outcome::Info,
                self.chance.permille(500).then(|| self.chance.below(20_000)),
            ),
            drawn if drawn < self.recipe.info_permille + self.recipe.fail_permille => (Outcome::Fail, None),
            _ => (Outcome::Ok(()), Some(self.chance.below(lasts_ns))),
        };
        self.tickets += 1;
        let ticket = self.tickets;
        if let Some(after_ns) = effect_ns {
            self.queue
                .push(Reverse((call_ns + after_ns, ticket, Event::Effect)));
        }
        // An unknown outcome stays open until its effect; its client has given up by then.
        let end_ns = call_ns + lasts_ns.max(effect_ns.unwrap_or(0));
        self.queue.push(Reverse((end_ns, ticket, Event::Return)));
        let next = if fate == Outcome::Info {
            self.processes += 1;
            self.processes - 1
        } else {
            process
        };
        let pause_ns = 1 + self.chance.below(300);
        self.queue
            .push(Reverse((call_ns + lasts_ns + pause_ns, next, Event::Call)));
        Open {
            ticket,
            process,
            key,
            call_ns,
            action,
            fate,
        }
    }

    fn draw_value(&mut self) -> String {
        self.written += 1;
        match self.recipe.values {
            0 => format!("v{}", self.written),
            values => format!("v{}", self.chance.below(values)),
        }
    }

    fn draw_action(&mut self, key: &str) -> Action {
        let mut drawn = self.chance.below(self.recipe.mix.iter().sum());
        let mut kind = 0;
        while kind < 4 && drawn >= self.recipe.mix[kind] {
            drawn -= self.recipe.mix[kind];
            kind += 1;
        }
        let outcome = Outcome::Info;
        match kind {
            0 => Action::Get(Outcome::Info),
            1 => Action::Put {
                value: self.draw_value(),
                outcome,
            },
            2 => {
                // Mostly what the key has now: a compare-and-set that never succeeds tests little.
                let now = self.state.get(key).and_then(|register| register.value.clone());
                let expect = if self.chance.permille(700) {
                    now
                } else {
                    Some(self.draw_value())
                };
                Action::Cas {
                    expect,
                    value: self.draw_value(),
                    outcome: Outcome::Info,
                }
            }
            3 => Action::Delete(Outcome::Info),
            _ => Action::Append {
                element: self.draw_value(),
                outcome,
            },
        }
    }

    /// Applies `action`, and answers with its reply.
    fn take_effect(&mut self, key: &str, action: &Action) -> Action {
        let told = self.recipe.versions;
        let register = self.state.entry(key.to_owned()).or_default();
        let prev = told.then(|| register.value.clone());
        match action.clone() {
            Action::Get(_) => {
                let version = (told && register.value.is_some()).then_some(register.revision);
                Action::Get(Outcome::Ok(Read {
                    value: register.value.clone(),
                    version,
                }))
            }
            Action::Put { value, .. } => {
                let version = register.set(Some(value.clone()), told);
                Action::Put {
                    value,
                    outcome: Outcome::Ok(Wrote { prev, version }),
                }
            }
            Action::Append { element, .. } => {
                let list = register
                    .value
                    .as_ref()
                    .map_or(element.clone(), |list| format!("{list},{element}"));
                let version = register.set(Some(list), told);
                Action::Append {
                    element,
                    outcome: Outcome::Ok(Wrote { prev, version }),
                }
            }
            Action::Cas { expect, value, .. } => {
                let succeeded = register.value == expect;
                let version = if succeeded {
                    register.set(Some(value.clone()), told)
                } else {
                    None
                };
                Action::Cas {
                    expect,
                    value,
                    outcome: Outcome::Ok(Swapped {
                        succeeded,
                        prev,
                        version,
                    }),
                }
            }
            Action::Delete(_) => {
                let existed = register.value.is_some();
                let version = if existed { register.set(None, told) } else { None };
                Action::Delete(Outcome::Ok(Deleted {
                    existed: told.then_some(existed),
                    prev,
                    version,
                }))
            }
        }
    }

    fn finish(&mut self, done: Open, at_ns: u64) {
        let action = match done.fate {
            Outcome::Ok(()) => done.action,
            fate => forget(done.action, &fate),
        };
        // By construction these are operations that a client can have seen.
        if let Ok(operation) = Operation::new(done.process, done.key, done.call_ns, Some(at_ns), action) {
            self.history.push(operation);
        }
    }
}

/// `action` as its client saw it: without a reply.
fn forget(action: Action, fate: &Outcome<()>) -> Action {
    fn bare<T>(fate: &Outcome<()>) -> Outcome<T> {
        if *fate == Outcome::Fail {
            Outcome::Fail
        } else {
            Outcome::Info
        }
    }
    match action {
        Action::Get(_) => Action::Get(bare(fate)),
        Action::Put { value, .. } => Action::Put {
            value,
            outcome: bare(fate),
        },
        Action::Cas { expect, value, .. } => Action::Cas {
            expect,
            value,
            outcome: bare(fate),
        },
        Action::Delete(_) => Action::Delete(bare(fate)),
        Action::Append { element, .. } => Action::Append {
            element,
            outcome: bare(fate),
        },
    }
}
