//! The search for an order of one key's operations that explains every reply.
//!
//! Wing and Gong (1993): whatever is called before the first return that is not yet linearized may come next; take
//! one, go on with the rest, go back where nothing fits. Lowe (2017): remember the configurations entered. Calls and
//! returns are a linked list, so that taking an operation out and putting it back is one step each.
//!
//! What keeps the search narrow. Each rule only cuts branches that cannot succeed, or that succeed only if a branch
//! that is kept does:
//!
//! - A fitting operation that leaves the state as it is comes next, without alternative: wherever a linearization
//!   has it, moving it here changes nothing for the others. So does a write that demands nothing and whose value
//!   nobody mentions, when nobody is left that demands the present value, or that the state is not something: taken
//!   out of its place it is missed by nobody, and whatever comes next in an order of the rest demands nothing.
//! - A value is not overwritten while a certain operation that demands it is left and nobody is left who writes it.
//! - Writes whose replies have versions come in the order of their versions.
//! - On a list that is only appended to and read, while reads are left, the list must be a prefix of a list read.
//! - Unknown writes come only directly before the certain operation that needs them: one that fits after them and did
//!   not before (`chain` holds the state before), or an append. A row of them before an operation that fits without
//!   either is overwritten by it, hence can be left out, or is left untouched by it, hence can come after it. Within
//!   such a row each needs the one before it: it appends, or expects a value.
//! - Of unknown writes that do the same, the first called comes first.

use std::time::Instant;

use super::calls::Calls;
use super::left::Left;
use super::memo::{Bits, Memo};
use super::model::{ABSENT, Demand, Effect, Model, OTHER, Step, Value, Version};

/// Steps between two looks at the clock.
const STEPS_PER_LOOK: u64 = 1 << 12;

/// How a search ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Answer {
    /// There is an order.
    Linearizable,
    /// There is none.
    Not,
    /// A bound was reached first.
    StatesExceeded,
    /// A bound was reached first.
    TimeExceeded,
}

/// The state of the key. `exact`: the last write made `version`; otherwise it made a later one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct State {
    value: Value,
    version: u64,
    exact: bool,
}

impl State {
    fn fits(&self, step: &Step) -> bool {
        let demand = match step.demand {
            Demand::Any => true,
            Demand::Is(value) => value == self.value,
            Demand::Not(value) => value != self.value,
            Demand::Never => false,
        };
        demand
            && match step.version {
                Version::Unsaid => true,
                Version::Read(version) if self.exact => version == self.version,
                Version::Read(version) | Version::Made(version) => version > self.version,
            }
    }

    fn spell(&self) -> [u64; 2] {
        [u64::from(self.value) << 1 | u64::from(self.exact), self.version]
    }
}

#[derive(Clone, Copy, Debug)]
enum Move {
    Certain(usize),
    Unknown(usize),
}

/// Where to look for the next move of a configuration.
#[derive(Clone, Copy, Debug)]
enum Cursor {
    /// It was just entered.
    Fresh,
    /// At this entry of the list.
    Entry(usize),
    /// At this unknown write.
    Unknown(usize),
}

/// A move made, and what it changed.
struct Frame {
    made: Move,
    forced: bool,
    state: State,
    chain: Option<State>,
}

/// Searches until an answer or a bound.
pub(super) fn search(model: Model, states_max: u64, deadline: Option<Instant>) -> Answer {
    Search::new(model).run(states_max, deadline)
}

struct Search {
    model: Model,
    calls: Calls,
    left: Left,
    /// For an unknown write, the one that does the same and was called before.
    twin: Vec<Option<usize>>,
    /// For a certain operation with a version made, how many have larger ones.
    rank: Vec<u32>,
    done: Bits,
    used: Bits,
    state: State,
    chain: Option<State>,
    frames: Vec<Frame>,
    memo: Memo,
}

impl Search {
    fn new(model: Model) -> Self {
        Self {
            calls: Calls::new(&model.certain, model.positions),
            left: Left::new(&model),
            twin: twins(&model.unknown),
            rank: ranks(&model.certain),
            done: Bits::new(model.certain.len()),
            used: Bits::new(model.unknown.len()),
            state: State {
                value: ABSENT,
                version: 0,
                exact: model.versioned,
            },
            chain: None,
            frames: Vec::new(),
            memo: Memo::default(),
            model,
        }
    }

    fn run(&mut self, states_max: u64, deadline: Option<Instant>) -> Answer {
        let mut cursor = Cursor::Fresh;
        let mut steps = 0u64;
        while self.left.certain > 0 {
            steps += 1;
            if steps.is_multiple_of(STEPS_PER_LOOK) && deadline.is_some_and(|at| Instant::now() >= at) {
                return Answer::TimeExceeded;
            }
            if self.memo.len() > states_max {
                return Answer::StatesExceeded;
            }
            cursor = match self.advance(cursor) {
                true => Cursor::Fresh,
                false => match self.retreat() {
                    Some(cursor) => cursor,
                    None => return Answer::Not,
                },
            };
        }
        Answer::Linearizable
    }

    /// Makes the next move of this configuration, if it has one.
    fn advance(&mut self, cursor: Cursor) -> bool {
        let (mut entry, mut unknown) = match cursor {
            Cursor::Fresh => {
                if let Some(index) = self.forced() {
                    self.make(Move::Certain(index), true);
                    return true;
                }
                (self.calls.first(), 0)
            }
            Cursor::Entry(entry) => (entry, 0),
            Cursor::Unknown(index) => (0, index),
        };
        while let Some(index) = self.calls.callable(entry) {
            if self.admits(index) && self.enter(Move::Certain(index)) {
                return true;
            }
            entry = self.calls.after(entry);
        }
        let bound = self.calls.first_return();
        while let Some(step) = self
            .model
            .unknown
            .get(unknown)
            .filter(|step| (step.call as usize) < bound)
        {
            let step = *step;
            if self.admits_unknown(unknown, &step) && self.enter(Move::Unknown(unknown)) {
                return true;
            }
            unknown += 1;
        }
        false
    }

    /// An operation that may come next without alternative.
    fn forced(&mut self) -> Option<usize> {
        let mut entry = self.calls.first();
        while let Some(index) = self.calls.callable(entry) {
            let step = self.model.certain[index];
            let keeps = step.effect == Effect::Keep && self.follows(&step) && self.after(&step) == self.state;
            if keeps || self.is_noise(&step) {
                return Some(index);
            }
            entry = self.calls.after(entry);
        }
        None
    }

    /// Whether `step` is a write that nobody will notice.
    fn is_noise(&self, step: &Step) -> bool {
        (step.demand, step.effect, step.version) == (Demand::Any, Effect::Set(OTHER), Version::Unsaid)
            && !self.model.appends
            && self.chain.is_none()
            && self.left.nots == 0
            && self.left.of(self.state.value).wanted == 0
    }

    /// Whether `step` fits here, and did not before the unknown writes that directly precede it.
    fn follows(&self, step: &Step) -> bool {
        let needs_chain = self
            .chain
            .is_none_or(|before| matches!(step.effect, Effect::Append(_)) || !before.fits(step));
        needs_chain && self.state.fits(step)
    }

    fn admits(&mut self, index: usize) -> bool {
        let step = self.model.certain[index];
        let in_order =
            !matches!(step.version, Version::Made(_)) || self.rank[index] + 1 == self.left.versions;
        in_order && self.follows(&step) && self.may_leave(&step, true)
    }

    fn admits_unknown(&mut self, index: usize, step: &Step) -> bool {
        let first = self.twin[index].is_none_or(|twin| self.used.contains(twin));
        let linked =
            self.chain.is_none() || step.demand != Demand::Any || matches!(step.effect, Effect::Append(_));
        !self.used.contains(index)
            && first
            && linked
            && self.state.fits(step)
            && self.after(step) != self.state
            && self.may_leave(step, false)
    }

    /// Whether nothing that is left is lost by doing `step` here.
    fn may_leave(&mut self, step: &Step, certain: bool) -> bool {
        let here = self.state.value;
        let there = self.after(step).value;
        if here == there {
            return true;
        }
        let own = u32::from(certain && step.demand == Demand::Is(here));
        let needed = self.left.of(here).needed > own;
        if self.model.pure_list {
            let seen = self.model.is_observed(there);
            return !needed && (seen || (certain && self.left.reads == 0));
        }
        self.model.appends || !needed || self.left.of(here).makers > 0
    }

    fn after(&mut self, step: &Step) -> State {
        let value = match step.effect {
            Effect::Keep => self.state.value,
            Effect::Set(value) => value,
            Effect::Append(element) => self.model.appended(self.state.value, element),
        };
        match (step.version, step.effect) {
            (Version::Read(version) | Version::Made(version), _) => State {
                value,
                version,
                exact: true,
            },
            (Version::Unsaid, Effect::Keep) => State { value, ..self.state },
            (Version::Unsaid, _) => State {
                value,
                exact: false,
                ..self.state
            },
        }
    }

    /// Makes a move unless the configuration it leads to is known.
    fn enter(&mut self, candidate: Move) -> bool {
        self.make(candidate, false);
        let [value, version] = self.state.spell();
        let [chain_value, chain_version] = self.chain.map_or([u64::MAX, 0], |state| state.spell());
        let fresh = self.memo.enter(
            &self.done,
            &self.used,
            &[value, version, chain_value, chain_version],
        );
        if !fresh {
            self.unmake();
        }
        fresh
    }

    fn make(&mut self, made: Move, forced: bool) {
        let frame = Frame {
            made,
            forced,
            state: self.state,
            chain: self.chain,
        };
        match made {
            Move::Certain(index) => {
                let step = self.model.certain[index];
                self.state = self.after(&step);
                self.chain = None;
                self.done.insert(index);
                self.calls.take(&step);
                self.left.count(&step, true, false);
            }
            Move::Unknown(index) => {
                let step = self.model.unknown[index];
                self.chain = self.chain.or(Some(self.state));
                self.state = self.after(&step);
                self.used.insert(index);
                self.left.count(&step, false, false);
            }
        }
        self.frames.push(frame);
    }

    /// Takes the last move back.
    fn unmake(&mut self) -> Option<Frame> {
        let frame = self.frames.pop()?;
        match frame.made {
            Move::Certain(index) => {
                let step = self.model.certain[index];
                self.done.remove(index);
                self.calls.put_back(&step);
                self.left.count(&step, true, true);
            }
            Move::Unknown(index) => {
                self.used.remove(index);
                self.left.count(&self.model.unknown[index], false, true);
            }
        }
        (self.state, self.chain) = (frame.state, frame.chain);
        Some(frame)
    }

    /// Goes back to the last configuration that had a choice, and says where to go on there.
    fn retreat(&mut self) -> Option<Cursor> {
        loop {
            let frame = self.unmake()?;
            match frame.made {
                _ if frame.forced => {}
                Move::Certain(index) => {
                    let entry = self.model.certain[index].call as usize + 1;
                    return Some(Cursor::Entry(self.calls.after(entry)));
                }
                Move::Unknown(index) => return Some(Cursor::Unknown(index + 1)),
            }
        }
    }
}

/// For each, the last before it that demands and does the same.
fn twins(unknown: &[Step]) -> Vec<Option<usize>> {
    let mut last = std::collections::HashMap::new();
    unknown
        .iter()
        .enumerate()
        .map(|(index, step)| last.insert((step.demand, step.effect), index))
        .collect()
}

/// For each that made a version, how many made a later one.
fn ranks(certain: &[Step]) -> Vec<u32> {
    let mut made: Vec<(u64, usize)> = certain
        .iter()
        .enumerate()
        .filter_map(|(index, step)| match step.version {
            Version::Made(version) => Some((version, index)),
            _ => None,
        })
        .collect();
    made.sort_unstable_by_key(|made| std::cmp::Reverse(*made));
    let mut ranks = vec![0; certain.len()];
    for (rank, (_, index)) in (0u32..).zip(made) {
        ranks[index] = rank;
    }
    ranks
}
