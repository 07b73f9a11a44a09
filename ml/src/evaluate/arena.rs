//! What all policies play on: the terms, the shards' sizes and, where homes are bound, voters and what hosts may serve.

use super::capacity::Fitting;
use super::ground::{Cell, Ground};
use super::ledger::Ledger;
use super::outlook::Outlook;
use super::prices::Prices;
use super::replicas::{Replicas, SetFor};
use super::seat::Seat;
use super::terms::{Bounds, Terms};
use super::tournament::Standing;

/// What an access is taken to lose by a move for want of room, so that those that are alike do not change places.
const MOVE_LOSS: f32 = 0.5;
/// What a host may be planned to serve that has served less than the limit until now, as a multiple of the limit, where
/// homes pay for room: prices hold it in the mean over many windows, and shards whose homes follow their accesses do
/// not ask for their mean all the time.
const PEAK_PART: f32 = 1.5;

/// What all play on: the terms, the shards' sizes and, where homes are bound, the voters.
pub(crate) struct Arena {
    terms: Terms,
    bytes: Vec<u64>,
    origins: usize,
    bound: Option<Bound>,
    /// Windows observed that had any accesses, and those.
    observed: (u64, u64),
}

struct Bound {
    bounds: Bounds,
    homes: Replicas,
    near: Replicas,
    near_seat: Seat,
    /// The voters of policies that never move.
    first: Vec<Vec<usize>>,
}

impl Arena {
    pub(crate) fn new(terms: Terms, bytes: Vec<u64>, ground: &Ground<'_>) -> Self {
        let (shards, origins) = (ground.shards().len(), ground.zones.len());
        let bound = terms.bounds.clone().map(|bounds| Bound {
            homes: Replicas::new(SetFor::Homes, shards, origins, &bounds),
            near: Replicas::new(SetFor::NearReads, shards, origins, &bounds),
            near_seat: Seat::new(0, origins),
            first: Vec::new(),
            bounds,
        });
        Self {
            terms,
            bytes,
            origins,
            bound,
            observed: (0, 0),
        }
    }

    pub(crate) fn terms(&self) -> &Terms {
        &self.terms
    }

    /// Takes in a window that has ended.
    pub(crate) fn observe(&mut self, cells: &[Cell]) {
        self.observed.0 += u64::from(!cells.is_empty());
        self.observed.1 += cells.iter().map(Cell::total).sum::<u64>();
        if let Some(bound) = &mut self.bound {
            bound.homes.observe(cells, &self.terms);
            bound.near.observe(cells, &self.terms);
        }
    }

    /// Chooses voters afresh, and fits the homes to begin with to what hosts may serve. Returns the homes of those that
    /// begin where accesses cost least; `history` has each shard's by origin.
    pub(crate) fn begin(&mut self, homes: &mut [usize], history: &[Vec<u64>]) -> Vec<usize> {
        let Some(bound) = &mut self.bound else {
            return homes.to_vec();
        };
        bound.homes.begin(&self.terms);
        bound.near.begin(&self.terms);
        bound.near_seat.begin(&[]);
        for (shard, home) in homes.iter_mut().enumerate() {
            if !bound.homes.now(shard).contains(home) {
                *home = bound.homes.best_home(shard, &self.terms);
            }
        }
        let origins = self.origins;
        fit(bound, &self.terms, origins, homes, None, None);
        let cheapest =
            |(shard, accesses): (usize, &Vec<u64>)| bound.homes.cheapest_home(shard, accesses, &self.terms);
        let mut cheapest: Vec<usize> = history.iter().enumerate().map(cheapest).collect();
        fit(bound, &self.terms, origins, &mut cheapest, None, None);
        bound.first = (0..homes.len())
            .map(|shard| bound.homes.now(shard).to_vec())
            .collect();
        cheapest
    }

    /// Lets decided voters take their places, and reviews them.
    pub(crate) fn decide(&mut self) {
        if let Some(bound) = &mut self.bound {
            bound.homes.decide(&self.terms, &bound.bounds, &self.bytes);
            bound.near.decide(&self.terms, &bound.bounds, &self.bytes);
        }
    }

    /// Serves reads at the voters nearby.
    pub(crate) fn serve(&mut self, cell: &Cell) {
        if let Some(bound) = &mut self.bound {
            bound.near.serve_near(cell, &mut bound.near_seat.ledger);
        }
    }

    /// Serves reads that are also counted apart.
    pub(crate) fn serve_apart(&mut self, cell: &Cell) {
        if let Some(bound) = &mut self.bound {
            bound.near.serve_near(cell, &mut bound.near_seat.apart);
        }
    }

    /// Turns expected accesses into what homes are worth, where terms are not plain.
    pub(crate) fn weigh(&self, shard: usize, outlook: &mut Outlook) {
        if !self.terms.is_plain() {
            let homes = self.bound.as_ref().map(|bound| &bound.homes);
            outlook.weigh(&self.terms, homes.map(|homes| homes.next(shard)));
        }
    }

    /// Whether homes are bound to voters, and hosts to a limit.
    pub(crate) fn is_bound(&self) -> bool {
        self.bound.is_some()
    }

    /// What room costs to begin with; nothing where homes are not bound.
    pub(crate) fn prices(&self) -> Prices {
        match &self.bound {
            Some(bound) => bound.homes.prices().clone(),
            None => Prices::new(self.origins, None),
        }
    }

    /// Accesses in the mean over windows that had any.
    pub(crate) fn mean_accesses(&self) -> f32 {
        self.observed.1 as f32 / self.observed.0.max(1) as f32
    }

    /// Brings homes to voters, and below what hosts may serve; those that pay for room may peak.
    pub(crate) fn settle(&self, seat: &mut Seat, pays: bool) {
        let Some(bound) = &self.bound else { return };
        let Seat { homes, ledger, .. } = seat;
        for (shard, next) in homes.next.iter_mut().enumerate() {
            let (voters, now) = (bound.homes.next(shard), homes.now[shard]);
            if voters.contains(next) {
                continue;
            }
            *next = match voters.contains(&now) {
                true => now,
                false => bound.homes.best_home(shard, &self.terms),
            };
        }
        fit(
            bound,
            &self.terms,
            self.origins,
            &mut homes.next,
            Some(&homes.now),
            pays.then_some(&*ledger),
        );
    }

    /// Writes down which homes will be elsewhere, and tells of each.
    pub(crate) fn count_moves(&self, seat: &mut Seat, mut told: impl FnMut(usize)) {
        for shard in 0..seat.homes.now.len() {
            if seat.homes.next[shard] != seat.homes.now[shard] {
                seat.ledger.moved(self.bytes.get(shard).copied().unwrap_or(0));
                told(shard);
            }
        }
    }

    /// The round trip from a home to the nearest majority of its voters; zero where there are none. A home that is none
    /// of today's voters is of those to begin with.
    pub(crate) fn quorum_micros(&self, shard: usize, home: usize, rtt_micros: &[Vec<u64>]) -> u64 {
        let Some(bound) = &self.bound else { return 0 };
        let now = bound.homes.now(shard);
        let voters = if now.contains(&home) {
            now
        } else {
            &bound.first[shard]
        };
        let mut others: Vec<u64> = voters
            .iter()
            .filter(|voter| **voter != home)
            .map(|voter| rtt_micros[home][*voter])
            .collect();
        others.sort_unstable();
        match voters.len() / 2 {
            0 => 0,
            majority => others.get(majority - 1).copied().unwrap_or(0),
        }
    }

    pub(crate) fn finish(self) -> (Option<Standing>, (u64, u64)) {
        let Some(bound) = self.bound else {
            return (None, (0, 0));
        };
        let mut near = bound.near_seat;
        (near.ledger.moves, near.ledger.bytes) = (bound.near.copies, bound.near.bytes);
        (Some(near.standing()), (bound.homes.copies, bound.homes.bytes))
    }
}

/// Fits homes to what hosts may serve. One that has yet to move, from `now`, loses by staying what the move would gain. Those
/// that pay for room have `served` so far.
fn fit(
    bound: &Bound,
    terms: &Terms,
    origins: usize,
    homes: &mut [usize],
    now: Option<&[usize]>,
    served: Option<&Ledger>,
) {
    let Some(limit) = bound.bounds.fair_share_max else {
        return;
    };
    let share = limit as f32 / origins as f32;
    let loads: Vec<f32> = (0..homes.len())
        .map(|shard| bound.homes.demand(shard).iter().sum())
        .collect();
    let total: f32 = loads.iter().sum();
    let mut limits = vec![share * total; origins];
    if let Some(served) = served {
        let until_now = share * served.accesses() as f32;
        let by_place = served.by_place().into_iter();
        for (limit, _) in limits
            .iter_mut()
            .zip(by_place)
            .filter(|(_, served)| *served as f32 <= until_now)
        {
            *limit *= PEAK_PART;
        }
    }
    let fitting = Fitting {
        loads: &loads,
        limits: &limits,
        variance_part: bound.homes.variance_part(),
    };
    fitting.fit(homes, |shard, host| {
        let permitted = bound.homes.next(shard).contains(&host);
        let stays = now.is_some_and(|now| now[shard] == host);
        let cost = terms.expected_cost(bound.homes.demand(shard), host);
        let move_cost = if stays { 0.0 } else { MOVE_LOSS * loads[shard] };
        (permitted || stays).then_some(cost + move_cost)
    });
}
