//! Many policies over the same windows, each as if it alone decided, and a mixture that follows the best of them.
//!
//! The protocol: a window ends, every forecaster observes it, every policy decides; what is decided then serves the
//! window after the next, for a move takes time and this is the [`MOVE_DELAY_WINDOWS`]. At the beginning of what is
//! scored, every home is where the history had most accesses.
//!
//! Must hold: a decision at the end of window w depends on windows up to w and on nothing else.

use placement::WindowId;

use super::experts::{Experts, ShardClasses};
use super::ground::Ground;
use super::ledger::Ledger;
use super::mover::{Mover, ORIGINS_MAX};
use super::outlook::{HORIZON_WINDOWS, ModelSource, Outlook, RuleSource};
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

/// Follows, for each class of shards, the contender that would have cost least until now.
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
}

/// Everyone's standing, in the order in which they were given.
#[derive(Clone, Debug, PartialEq)]
pub struct Standings {
    /// Of the contenders.
    pub contenders: Vec<Standing>,
    /// Of the mixtures.
    pub mixtures: Vec<Standing>,
}

/// Runs the windows once for all. Panics with more than 64 origins.
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

/// One policy's homes and its account.
struct Seat {
    homes: Homes,
    regrets: Vec<f32>,
    trial: Ledger,
    ledger: Ledger,
}

/// Where a policy's homes are, and where they will be when what was decided has happened.
struct Homes {
    now: Vec<usize>,
    next: Vec<usize>,
}

impl Seat {
    fn new(homes: &[usize], origins: usize) -> Self {
        Self {
            homes: Homes {
                now: homes.to_vec(),
                next: homes.to_vec(),
            },
            regrets: vec![0.0; homes.len()],
            trial: Ledger::new(origins),
            ledger: Ledger::new(origins),
        }
    }

    fn begin_scoring(&mut self, homes: &[usize], origins: usize) {
        self.trial = std::mem::replace(&mut self.ledger, Ledger::new(origins));
        self.homes.now.copy_from_slice(homes);
        self.homes.next.copy_from_slice(homes);
        self.regrets.fill(0.0);
    }

    fn standing(self) -> Standing {
        Standing {
            trial: self.trial,
            scored: self.ledger,
        }
    }
}

struct Round<'a> {
    ground: &'a Ground<'a>,
    rules: Vec<RuleSource>,
    models: ModelSource,
    contenders: Vec<Contender>,
    bytes: Vec<u64>,
    seats: Vec<Seat>,
    mixtures: Vec<(Experts, Seat)>,
    classes: ShardClasses,
    rule_outlooks: Vec<Outlook>,
    model_outlooks: Vec<Outlook>,
}

impl<'a> Round<'a> {
    fn new(tournament: Tournament, ground: &'a Ground<'a>) -> Self {
        let origins = ground.zones.len();
        let homes = ground.majority_homes(ground.trial());
        let classes = ShardClasses::of(ground, ground.trial());
        let mixture = |mixture: Mixture| (Experts::new(mixture, &classes), Seat::new(&homes, origins));
        Self {
            rule_outlooks: vec![Outlook::empty(1, origins); tournament.rules.len()],
            model_outlooks: vec![Outlook::empty(HORIZON_WINDOWS, origins); tournament.models.len()],
            rules: tournament
                .rules
                .into_iter()
                .map(|rule| RuleSource::new(rule, ground.zones))
                .collect(),
            models: ModelSource::new(tournament.models, ground.zones, ground.length),
            seats: tournament
                .contenders
                .iter()
                .map(|_| Seat::new(&homes, origins))
                .collect(),
            mixtures: tournament.mixtures.into_iter().map(mixture).collect(),
            contenders: tournament.contenders,
            bytes: tournament.bytes,
            classes,
            ground,
        }
    }

    fn observe(&mut self, at: usize) {
        self.rules
            .iter_mut()
            .for_each(|rule| rule.observe(self.ground, at));
        self.models.observe(&self.ground.windows[at]);
    }

    fn begin_scoring(&mut self) {
        let (homes, origins) = (
            self.ground.majority_homes(self.ground.from),
            self.ground.zones.len(),
        );
        let mixed = self.mixtures.iter_mut().map(|(_, seat)| seat);
        self.seats
            .iter_mut()
            .chain(mixed)
            .for_each(|seat| seat.begin_scoring(&homes, origins));
        self.mixtures
            .iter_mut()
            .for_each(|(experts, _)| experts.choose_afresh());
    }

    /// Serves a window with the homes that were decided two windows ago.
    fn serve(&mut self, at: usize) {
        for cell in self.ground.cells(at) {
            let (total, class) = (cell.total(), self.classes.of_shard(cell.shard));
            let remote = |seat: &Seat| total - u64::from(cell.accesses[seat.homes.now[cell.shard]]);
            for (experts, _) in &mut self.mixtures {
                experts.served(class, total, |contender| remote(&self.seats[contender]));
            }
            for seat in self
                .seats
                .iter_mut()
                .chain(self.mixtures.iter_mut().map(|(_, seat)| seat))
            {
                seat.ledger.serve(&cell.accesses, seat.homes.now[cell.shard]);
            }
        }
        for seat in self
            .seats
            .iter_mut()
            .chain(self.mixtures.iter_mut().map(|(_, seat)| seat))
        {
            seat.homes.now.copy_from_slice(&seat.homes.next);
        }
    }

    fn decide(&mut self, at: usize) {
        let first = WindowId(self.ground.windows[at].window.0 + 1 + MOVE_DELAY_WINDOWS as u64);
        for shard in 0..self.ground.shards().len() {
            self.decide_shard(shard, first);
        }
        for (experts, seat) in &mut self.mixtures {
            experts.follow(|contender| self.seats[contender].homes.next.as_slice());
            for shard in 0..self.ground.shards().len() {
                let expert = experts.of_class(self.classes.of_shard(shard));
                let next = self.seats[expert].homes.next[shard];
                move_home(seat, shard, next, &self.bytes);
            }
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
        for (at, contender) in self.contenders.iter().enumerate() {
            let outlook = match contender.forecasts {
                Forecasts::Rule(rule) => known[rule].then(|| &self.rule_outlooks[rule]),
                Forecasts::Model(model) => modelled.then(|| &self.model_outlooks[model]),
            };
            let Some(outlook) = outlook else { continue };
            let seat = &mut self.seats[at];
            let (home, regret) = (seat.homes.now[shard], &mut seat.regrets[shard]);
            let next = contender
                .mover
                .choose(shard, home, outlook, contender.move_cost, regret);
            if move_home(seat, shard, next, &self.bytes) {
                let class = self.classes.of_shard(shard);
                self.mixtures
                    .iter_mut()
                    .for_each(|(experts, _)| experts.moved(class, at));
            }
        }
    }

    fn decisions(&self) -> Vec<&[usize]> {
        let mixed = self.mixtures.iter().map(|(_, seat)| seat);
        let seats = self.seats.iter().chain(mixed);
        seats.map(|seat| seat.homes.next.as_slice()).collect()
    }

    fn finish(self) -> Standings {
        Standings {
            contenders: self.seats.into_iter().map(Seat::standing).collect(),
            mixtures: self
                .mixtures
                .into_iter()
                .map(|(_, seat)| seat.standing())
                .collect(),
        }
    }
}

/// Whether the home will be elsewhere than it is.
fn move_home(seat: &mut Seat, shard: usize, next: usize, bytes: &[u64]) -> bool {
    let moves = next != seat.homes.now[shard];
    if moves {
        seat.ledger.moved(bytes.get(shard).copied().unwrap_or(0));
    }
    seat.homes.next[shard] = next;
    moves
}
