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
    /// The list of calls and returns, by position + 1; 0 is the head.
    next: Vec<u32>,
    prev: Vec<u32>,
    /// The certain operation of an entry; `call` tells which end it is.
    owner: Vec<u32>,
    /// For an unknown write, the one that does the same and was called before.
    twin: Vec<Option<usize>>,
    /// For a certain operation with a version made, how many have smaller ones.
    rank: Vec<u32>,
    ranked: u32,
    /// By value: certain operations left that demand it, all left that demand it, all left that set it.
    needed: Vec<u32>,
    wanted: Vec<u32>,
    makers: Vec<u32>,
    reads_left: u32,
    /// Certain operations left that demand that the state is not something.
    nots_left: u32,
    left: usize,
    done: Bits,
    used: Bits,
    state: State,
    chain: Option<State>,
    frames: Vec<Frame>,
    memo: Memo,
}

impl Search {
    fn new(model: Model) -> Self {
        let entries = model.positions as usize + 1;
        let (certain, unknown) = (model.certain.len(), model.unknown.len());
        let state = State {
            value: ABSENT,
            version: 0,
            exact: model.versioned,
        };
        let mut search = Self {
            next: vec![0; entries],
            prev: vec![0; entries],
            owner: vec![0; entries],
            twin: twins(&model.unknown),
            rank: ranks(&model.certain),
            ranked: 0,
            needed: vec![0; model.values],
            wanted: vec![0; model.values],
            makers: vec![0; model.values],
            reads_left: 0,
            nots_left: 0,
            left: certain,
            done: Bits::new(certain),
            used: Bits::new(unknown),
            state,
            chain: None,
            frames: Vec::new(),
            memo: Memo::default(),
            model,
        };
        search.link();
        for index in 0..certain {
            search.count(Move::Certain(index), true);
        }
        for index in 0..unknown {
            search.count(Move::Unknown(index), true);
        }
        search
    }

    /// Links the calls and returns of all certain operations.
    fn link(&mut self) {
        let mut linked = vec![false; self.next.len()];
        for (index, step) in (0u32..).zip(&self.model.certain) {
            for position in [step.call, step.end] {
                linked[position as usize + 1] = true;
                self.owner[position as usize + 1] = index;
            }
        }
        let mut last = 0u32;
        for (entry, _) in (0u32..).zip(&linked).filter(|(_, linked)| **linked) {
            self.next[last as usize] = entry;
            self.prev[entry as usize] = last;
            last = entry;
        }
        self.next[last as usize] = 0;
        self.prev[0] = last;
    }

    fn run(&mut self, states_max: u64, deadline: Option<Instant>) -> Answer {
        let mut cursor = Cursor::Fresh;
        let mut steps = 0u64;
        while self.left > 0 {
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
                (self.next[0] as usize, 0)
            }
            Cursor::Entry(entry) => (entry, 0),
            Cursor::Unknown(index) => (0, index),
        };
        while let Some(index) = self.callable(entry) {
            if self.admits(index) && self.enter(Move::Certain(index)) {
                return true;
            }
            entry = self.next[entry] as usize;
        }
        let bound = self.first_return();
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

    /// The certain operation called at `entry`, before the first return.
    fn callable(&self, entry: usize) -> Option<usize> {
        let index = self.owner[entry] as usize;
        let called = entry != 0 && self.model.certain[index].call as usize + 1 == entry;
        called.then_some(index)
    }

    /// The position of the first return.
    fn first_return(&self) -> usize {
        let mut entry = self.next[0] as usize;
        while self.callable(entry).is_some() {
            entry = self.next[entry] as usize;
        }
        entry.wrapping_sub(1)
    }

    /// An operation that may come next without alternative.
    fn forced(&mut self) -> Option<usize> {
        let mut entry = self.next[0] as usize;
        while let Some(index) = self.callable(entry) {
            let step = self.model.certain[index];
            let keeps = step.effect == Effect::Keep && self.follows(&step) && self.after(&step) == self.state;
            if keeps || self.is_noise(&step) {
                return Some(index);
            }
            entry = self.next[entry] as usize;
        }
        None
    }

    /// Whether `step` is a write that nobody will notice.
    fn is_noise(&self, step: &Step) -> bool {
        (step.demand, step.effect, step.version) == (Demand::Any, Effect::Set(OTHER), Version::Unsaid)
            && !self.model.appends
            && self.chain.is_none()
            && self.nots_left == 0
            && self.wanted[self.state.value as usize] == 0
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
        let in_order = !matches!(step.version, Version::Made(_)) || self.rank[index] == self.ranked;
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
        let needed = self.needed[here as usize] > own;
        if self.model.pure_list {
            let seen = self.model.is_observed(there);
            return !needed && (seen || (certain && self.reads_left == 0));
        }
        self.model.appends || !needed || self.makers[here as usize] > 0
    }

    fn after(&mut self, step: &Step) -> State {
        let value = match step.effect {
            Effect::Keep => self.state.value,
            Effect::Set(value) => value,
            Effect::Append(element) => self.appended(element),
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

    fn appended(&mut self, element: u32) -> Value {
        let value = self.model.appended(self.state.value, element);
        if self.model.values > self.needed.len() {
            for counts in [&mut self.needed, &mut self.wanted, &mut self.makers] {
                counts.resize(self.model.values, 0);
            }
        }
        value
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
                self.left -= 1;
                for position in [step.call, step.end] {
                    let entry = position as usize + 1;
                    let (before, after) = (self.prev[entry], self.next[entry]);
                    self.next[before as usize] = after;
                    self.prev[after as usize] = before;
                }
            }
            Move::Unknown(index) => {
                let step = self.model.unknown[index];
                self.chain = self.chain.or(Some(self.state));
                self.state = self.after(&step);
                self.used.insert(index);
            }
        }
        self.count(made, false);
        self.frames.push(frame);
    }

    /// Takes the last move back.
    fn unmake(&mut self) -> Option<Frame> {
        let frame = self.frames.pop()?;
        match frame.made {
            Move::Certain(index) => {
                let step = self.model.certain[index];
                self.done.remove(index);
                self.left += 1;
                for position in [step.end, step.call] {
                    let entry = position + 1;
                    let (before, after) = (self.prev[entry as usize], self.next[entry as usize]);
                    self.next[before as usize] = entry;
                    self.prev[after as usize] = entry;
                }
            }
            Move::Unknown(index) => self.used.remove(index),
        }
        self.count(frame.made, true);
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
                    return Some(Cursor::Entry(self.next[entry] as usize));
                }
                Move::Unknown(index) => return Some(Cursor::Unknown(index + 1)),
            }
        }
    }

    /// Counts an operation among those left, or takes it out.
    fn count(&mut self, of: Move, left: bool) {
        let bump = |count: &mut u32| *count = if left { *count + 1 } else { *count - 1 };
        let (step, certain) = match of {
            Move::Certain(index) => (self.model.certain[index], true),
            Move::Unknown(index) => (self.model.unknown[index], false),
        };
        if let Demand::Is(value) = step.demand {
            bump(&mut self.wanted[value as usize]);
            if certain {
                bump(&mut self.needed[value as usize]);
            }
        }
        if let Effect::Set(value) = step.effect {
            bump(&mut self.makers[value as usize]);
        }
        if certain && step.effect == Effect::Keep {
            bump(&mut self.reads_left);
        }
        if certain && matches!(step.demand, Demand::Not(_)) {
            bump(&mut self.nots_left);
        }
        if certain && matches!(step.version, Version::Made(_)) {
            self.ranked = if left {
                self.ranked.saturating_sub(1)
            } else {
                self.ranked + 1
            };
        }
    }
}

fn twins(unknown: &[Step]) -> Vec<Option<usize>> {
    let mut last = std::collections::HashMap::new();
    unknown
        .iter()
        .enumerate()
        .map(|(index, step)| last.insert((step.demand, step.effect), index))
        .collect()
}

fn ranks(certain: &[Step]) -> Vec<u32> {
    let mut made: Vec<(u64, usize)> = certain
        .iter()
        .enumerate()
        .filter_map(|(index, step)| match step.version {
            Version::Made(version) => Some((version, index)),
            _ => None,
        })
        .collect();
    made.sort_unstable();
    let mut ranks = vec![0; certain.len()];
    for (rank, (_, index)) in (0u32..).zip(made) {
        ranks[index] = rank;
    }
    ranks
}
