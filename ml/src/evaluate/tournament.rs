//! Many policies over the same windows, each as if it alone decided, and a mixture that follows the best of them.
//!
//! The protocol: a window ends, every forecaster observes it, every policy decides; what is decided then serves the
//! window after the next, for a move takes time and this is the [`MOVE_DELAY_WINDOWS`]. At the beginning of what is
//! scored, every home is where the history's accesses cost least: on plain terms, where it had most. What an access costs and what homes are bound to, the
//! [`Terms`] say; what binds homes binds all policies alike, but for those that never move. Room at a host costs each policy
//! what its own homes have made it cost.
//!
//! Must hold: a decision at the end of window w depends on windows up to w and on nothing else.

use placement::WindowId;

use super::arena::Arena;
use super::experts::{Experts, ShardClasses};
use super::ground::{Cell, Ground};
use super::ledger::Ledger;
use super::mover::{Mover, ORIGINS_MAX};
use super::outlook::{HORIZON_WINDOWS, ModelSource, Outlook, RuleSource};
use super::seat::Seat;
use super::terms::Terms;
use crate::affinity::Scorer;
use crate::baselines::Rule;

/// Windows between the end of the last window known and the beginning of the first that a decision serves.
pub const MOVE_DELAY_WINDOWS: usize = 1;

/// Where a policy's outlook comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Forecasts {
    /// The simple rule of this number.
    Rule(usize),
    /// The model of this number.
    Model(usize),
}

/// A policy that takes part.
#[derive(Clone, Debug, PartialEq)]
pub struct Contender {
    /// What the table calls it.
    pub family: &'static str,
    /// The variant within the family.
    pub variant: String,
    /// What it expects.
    pub forecasts: Forecasts,
    /// When it moves.
    pub mover: Mover,
    /// What it takes a move to cost, in remote accesses.
    pub move_cost: f32,
}

/// Follows, for each class of shards, the contender that would have cost least until now; where homes are bound, all
/// shards are one class.
#[derive(Clone, Debug, PartialEq)]
pub struct Mixture {
    /// The contenders' numbers.
    pub experts: Vec<usize>,
    /// What a move costs, in remote accesses.
    pub move_cost: f32,
    /// A class's costs fade by half in this many of its accesses.
    pub half_life_accesses: f64,
    /// How much the costs of all classes weigh in each, in accesses.
    pub borrowed_accesses: f64,
}

/// What one policy got.
#[derive(Clone, Debug, PartialEq)]
pub struct Standing {
    /// In the trial, from the history.
    pub trial: Ledger,
    /// In what is scored.
    pub scored: Ledger,
    /// Of that, what was to be counted apart.
    pub apart: Ledger,
}

/// Who takes part.
pub struct Tournament {
    /// Simple rules, which nothing has been shown to yet.
    pub rules: Vec<Box<dyn Rule>>,
    /// Models trained on the history, with the lead of [`MOVE_DELAY_WINDOWS`].
    pub models: Vec<Scorer>,
    /// The policies.
    pub contenders: Vec<Contender>,
    /// Mixtures of them.
    pub mixtures: Vec<Mixture>,
    /// Bytes of the shards by number.
    pub bytes: Vec<u64>,
    /// What accesses cost, and what homes are bound to.
    pub terms: Terms,
    /// The home to begin with of shards that the history knows nothing of, by the shard's number; where it is not given,
    /// the origin with most accesses of all shards.
    pub first_homes: Vec<Option<usize>>,
    /// Accesses by window that are also counted apart; none where this is empty.
    pub apart: Vec<Vec<Cell>>,
}

/// Everyone's standing, in the order in which they were given.
#[derive(Clone, Debug, PartialEq)]
pub struct Standings {
    /// Of the contenders.
    pub contenders: Vec<Standing>,
    /// Of the mixtures.
    pub mixtures: Vec<Standing>,
    /// Of voters that are chosen for reads at the nearest one, whose moves are replicas copied; where homes are bound.
    pub near_reads: Option<Standing>,
    /// Replicas copied so that homes can be at them, where homes are bound, and their bytes.
    pub copies: (u64, u64),
}

/// Runs the windows once for all. Panics with more than [`ORIGINS_MAX`] origins.
pub fn run(tournament: Tournament, ground: &Ground<'_>) -> Standings {
    run_observed(tournament, ground, |_, _| ())
}

/// The same; `decided` hears at the end of the window at a place where everyone's homes will be, by the shards'
/// numbers: the contenders' and then the mixtures'.
pub fn run_observed(
    tournament: Tournament,
    ground: &Ground<'_>,
    mut decided: impl FnMut(usize, &[&[usize]]),
) -> Standings {
    assert!(ground.zones.len() <= ORIGINS_MAX, "at most {ORIGINS_MAX} origins");
    let mut round = Round::new(tournament, ground);
    let trial = ground.trial();
    (0..trial).for_each(|at| round.observe(at));
    round.begin(trial);
    round.begin_paying();
    for at in trial..ground.windows.len() {
        if at == ground.from {
            round.begin_scoring();
        }
        round.serve(at);
        round.observe(at);
        round.decide(at);
        decided(at, &round.decisions());
    }
    round.finish()
}

struct Round<'a> {
    ground: &'a Ground<'a>,
    rules: Vec<RuleSource>,
    models: ModelSource,
    contenders: Vec<Contender>,
    first_homes: Vec<Option<usize>>,
    apart: Vec<Vec<Cell>>,
    seats: Vec<Seat>,
    mixtures: Vec<(Experts, Seat)>,
    classes: ShardClasses,
    rule_outlooks: Vec<Outlook>,
    model_outlooks: Vec<Outlook>,
    /// What one contender's homes are worth once their room is paid for.
    priced: Outlook,
    arena: Arena,
}

impl<'a> Round<'a> {
    fn new(tournament: Tournament, ground: &'a Ground<'a>) -> Self {
        let origins = ground.zones.len();
        let classes = match tournament.terms.bounds {
            Some(_) => ShardClasses::one(ground.shards().len()),
            None => ShardClasses::of(ground, ground.trial()),
        };
        let seat = || Seat::new(ground.shards().len(), origins);
        Self {
            rule_outlooks: vec![Outlook::empty(1, origins); tournament.rules.len()],
            model_outlooks: vec![Outlook::empty(HORIZON_WINDOWS, origins); tournament.models.len()],
            priced: Outlook::empty(1, origins),
            arena: Arena::new(tournament.terms, tournament.bytes, ground),
            rules: tournament
                .rules
                .into_iter()
                .map(|rule| RuleSource::new(rule, ground.zones))
                .collect(),
            models: ModelSource::new(tournament.models, ground.zones, ground.length),
            seats: tournament.contenders.iter().map(|_| seat()).collect(),
            mixtures: tournament
                .mixtures
                .into_iter()
                .map(|mixture| (Experts::new(mixture, &classes), seat()))
                .collect(),
            contenders: tournament.contenders,
            first_homes: tournament.first_homes,
            apart: tournament.apart,
            classes,
            ground,
        }
    }

    fn observe(&mut self, at: usize) {
        self.rules
            .iter_mut()
            .for_each(|rule| rule.observe(self.ground, at));
        self.models.observe(&self.ground.windows[at]);
        self.arena.observe(self.ground.cells(at));
    }

    /// Everyone begins from the same homes, where accesses before place `until` would have cost least; those that stay
    /// where most came from begin there.
    fn begin(&mut self, until: usize) {
        let mut homes = self.ground.majority_homes(until);
        for (home, first) in homes.iter_mut().zip(&self.first_homes) {
            *home = first.unwrap_or(*home);
        }
        let cheapest = self.arena.begin(&mut homes, &self.ground.sums(until));
        for (seat, contender) in self.seats.iter_mut().zip(&self.contenders) {
            match contender.mover {
                Mover::Stay => seat.begin(&homes),
                _ => seat.begin(&cheapest),
            }
        }
        self.mixtures
            .iter_mut()
            .for_each(|(_, seat)| seat.begin(&cheapest));
    }

    /// Room costs everyone the same, until homes make the difference.
    fn begin_paying(&mut self) {
        for seat in &mut self.seats {
            seat.prices = self.arena.prices();
        }
    }

    fn begin_scoring(&mut self) {
        self.begin(self.ground.from);
        self.mixtures
            .iter_mut()
            .for_each(|(experts, _)| experts.choose_afresh());
    }

    /// Serves a window with the homes that were decided two windows ago.
    fn serve(&mut self, at: usize) {
        for cell in self.ground.cells(at) {
            let (total, class) = (cell.total(), self.classes.of_shard(cell.shard));
            let (seats, terms) = (&self.seats, self.arena.terms());
            // Whoever serves more at a host than it may would seem cheap.
            let cost = |contender: usize| {
                let seat: &Seat = &seats[contender];
                let home = seat.homes.now[cell.shard];
                let room = f64::from(seat.prices.excess(home)) * total as f64;
                terms.cost(&cell.accesses, home) + room
            };
            for (experts, _) in &mut self.mixtures {
                experts.served(class, total, cost);
            }
            let mixed = self.mixtures.iter_mut().map(|(_, seat)| seat);
            for seat in self.seats.iter_mut().chain(mixed) {
                seat.serve(cell, &self.arena, self.ground.rtt_micros);
            }
            self.arena.serve(cell);
        }
        for cell in self.apart.get(at).into_iter().flatten() {
            let mixed = self.mixtures.iter_mut().map(|(_, seat)| seat);
            for seat in self.seats.iter_mut().chain(mixed) {
                seat.serve_apart(cell, &self.arena, self.ground.rtt_micros);
            }
            self.arena.serve_apart(cell);
        }
        let mixed = self.mixtures.iter_mut().map(|(_, seat)| seat);
        self.seats
            .iter_mut()
            .chain(mixed)
            .for_each(|seat| seat.end_window(&self.arena));
    }

    fn decide(&mut self, at: usize) {
        let first = WindowId(self.ground.windows[at].window.0 + 1 + MOVE_DELAY_WINDOWS as u64);
        self.arena.decide();
        for shard in 0..self.ground.shards().len() {
            self.decide_shard(shard, first);
        }
        for at in 0..self.seats.len() {
            self.settle_contender(at);
        }
        for (experts, seat) in &mut self.mixtures {
            experts.follow(|contender| self.seats[contender].homes.next.as_slice());
            let mut is_beside = true;
            for shard in 0..self.ground.shards().len() {
                let expert = &self.seats[experts.of_class(self.classes.of_shard(shard))].homes;
                is_beside &= seat.homes.now[shard] == expert.now[shard];
                seat.homes.next[shard] = expert.next[shard];
            }
            // Whoever is where the expert is can go where that goes, and does.
            if !is_beside {
                self.arena.settle(seat, true);
            }
            self.arena.count_moves(seat, |_| ());
        }
    }

    fn decide_shard(&mut self, shard: usize, first: WindowId) {
        let id = self.ground.shards()[shard];
        let known: Vec<bool> = self
            .rules
            .iter()
            .zip(&mut self.rule_outlooks)
            .map(|(rule, outlook)| rule.expect(id, first, outlook))
            .collect();
        let modelled = self.models.expect(id, first, &mut self.model_outlooks);
        for (outlook, _) in self
            .rule_outlooks
            .iter_mut()
            .zip(&known)
            .filter(|(_, known)| **known)
        {
            self.arena.weigh(shard, outlook);
        }
        for outlook in self.model_outlooks.iter_mut().filter(|_| modelled) {
            self.arena.weigh(shard, outlook);
        }
        for (at, contender) in self.contenders.iter().enumerate() {
            let outlook = match contender.forecasts {
                Forecasts::Rule(rule) => known[rule].then(|| &self.rule_outlooks[rule]),
                Forecasts::Model(model) => modelled.then(|| &self.model_outlooks[model]),
            };
            let Some(outlook) = outlook else { continue };
            let seat = &mut self.seats[at];
            let outlook = if self.arena.is_bound() {
                self.priced.become_priced(outlook, seat.prices.by_host());
                &self.priced
            } else {
                outlook
            };
            let (home, regret) = (seat.homes.now[shard], &mut seat.regrets[shard]);
            seat.homes.next[shard] =
                contender
                    .mover
                    .choose(shard, home, outlook, contender.move_cost, regret);
        }
    }

    /// Fits a contender's homes to what they are bound to, but for the baselines that never move whatever happens, and
    /// counts what it moves. Whatever a mixture may follow is fitted: it would follow what its homes cannot do otherwise.
    fn settle_contender(&mut self, at: usize) {
        let seat = &mut self.seats[at];
        match self.contenders[at].mover {
            Mover::Stay | Mover::Spread => (),
            Mover::StayCheapest => self.arena.settle(seat, false),
            _ => self.arena.settle(seat, true),
        }
        let (mixtures, classes) = (&mut self.mixtures, &self.classes);
        self.arena.count_moves(seat, |shard| {
            let class = classes.of_shard(shard);
            mixtures
                .iter_mut()
                .for_each(|(experts, _)| experts.moved(class, at));
        });
    }

    fn decisions(&self) -> Vec<&[usize]> {
        let mixed = self.mixtures.iter().map(|(_, seat)| seat);
        let seats = self.seats.iter().chain(mixed);
        seats.map(|seat| seat.homes.next.as_slice()).collect()
    }

    fn finish(self) -> Standings {
        let (near_reads, copies) = self.arena.finish();
        Standings {
            contenders: self.seats.into_iter().map(Seat::standing).collect(),
            mixtures: self
                .mixtures
                .into_iter()
                .map(|(_, seat)| seat.standing())
                .collect(),
            near_reads,
            copies,
        }
    }
}
