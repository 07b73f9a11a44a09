//! The whole system on one trace: cuts, birth placement, voters, capacity and the model together, in round trips.
//!
//! A shard has three voters at different places; its home is one of them. What a host is expected to serve is bounded.
//! An access costs the round trip to the home, as a read by lease does (`home`); a write or a linearizable read without
//! a lease costs the home's round trip to its nearest majority as well (`quorum`); a read of a bounded staleness costs
//! that to the nearest voter (`near`). All rows of a trace count the same accesses.
//!
//! What is compared: ranges of equal load, where new keys fall in by their bytes; `cut`, which ends ranges where the
//! majority changes and lets a new key be born in a range of the origin that creates it, whose home begins there; and
//! `affinity`, where every key's name begins with its origin. Of a key that is created its first access is at home by
//! construction in the latter two, so means are also given without the first accesses of keys that the history does
//! not know.

use std::collections::{BTreeMap, BTreeSet};

use ml::{
    Bounds, Cell, Contender, Ground, Ledger, Prices, Standings, Terms, Tournament, field, field::family,
    run_tournament,
};
use placement::ShardId;
use serde::Serialize;

use super::interval::Interval;
use super::maps::{BirthRanges, ShardMap};
use super::row::{BEST_EWMA, CutTrace, Measured, Trial};
use super::study::Cut;
use super::trace::Trace;

/// Voters of a shard.
const VOTERS: usize = 3;
/// What a host may serve, as a multiple of the mean over hosts.
pub(super) const FAIR_SHARE_MAX: f64 = 2.0;
/// What is planned for, since demand is not what was expected of it.
const FAIR_SHARE_PLANNED: f64 = 1.9;
/// What a home's move costs, in accesses over the mean round trip. It copies nothing: leadership is handed over in two to
/// three round trips between hosts, and an access of a trace is a session of many operations.
const MOVE_COST: f64 = 0.1;
/// What a replica's copy costs, in the same.
const COPY_COST: f32 = 4.0;
const HALF_LIFE_HOURS: u64 = 72;
const REVIEW_HOURS: u64 = 24;
/// Accesses a window expected of a range for new keys of an origin that has had none.
const FEW: f32 = 0.01;
const TAIL: f64 = 0.99;
/// Passes in which the oracle finds what room at hosts costs.
const ORACLE_PASSES: usize = 30;

/// Names of policies that are not families of contenders.
pub(super) mod name {
    /// Without a limit on what hosts serve.
    pub(crate) const UNBOUNDED_STATIC: &str = "static majority, no limit";
    /// The best home of each window and shard, known beforehand, without a limit.
    pub(crate) const ORACLE: &str = "per-window oracle, no limit";
    /// The same when no host may serve more than the bar allows in all that is scored.
    pub(crate) const BOUNDED_ORACLE: &str = "per-window oracle";
    /// Reads at the nearest of three voters.
    pub(crate) const NEAR: &str = "nearest of three voters";
}

/// What a whole system gets.
#[derive(Clone, Debug, Serialize)]
pub struct SystemRow {
    /// The trace.
    pub trace: String,
    /// Hours of a window.
    pub window_h: u64,
    /// From keys to shards.
    pub map: ShardMap,
    /// The policy.
    pub policy: String,
    /// How its setting was chosen, of the first seed.
    pub setting: String,
    /// Accesses scored.
    pub accesses: u64,
    /// Mean round trip of an access.
    pub mean_ms: Interval,
    /// The same without the first accesses of keys that the history does not know.
    pub mean_ms_known: Interval,
    /// The round trip that 99 of 100 accesses do not exceed.
    pub p99_ms: Interval,
    /// Mean round trip of an access that also waits for a majority of the voters; none where there is no home.
    pub mean_quorum_ms: Option<Interval>,
    /// Accesses that stay at their place.
    pub local_access_ratio: Interval,
    /// Homes moved for each thousand accesses.
    pub moves_per_1000: Interval,
    /// Replicas copied for each thousand accesses.
    pub copies_per_1000: f64,
    /// What the busiest host served, as a multiple of the mean over hosts.
    pub fair_share_max: Interval,
}

/// All rows of a trace.
///
/// # Errors
/// When its history is too short to train on.
pub(super) fn system_rows(
    trace: &Trace,
    window_h: u64,
    shards: usize,
    trial: &Trial,
) -> anyhow::Result<Vec<SystemRow>> {
    let mut rows = Vec::new();
    for map in [ShardMap::Range, ShardMap::Cut, ShardMap::Named] {
        let cut = Cut {
            window_h,
            map,
            shards,
            policies: true,
        };
        let cut_trace = CutTrace::new(trace, cut);
        let measured = Measured::new(trace, cut, trial, &cut_trace);
        let models = measured.models(1 + ml::MOVE_DELAY_WINDOWS, &mut super::row::CutRows::default())?;
        let seeds = models.len();
        let births = births(trace, &cut_trace, cut);
        let system = System {
            trace,
            cut,
            ground: &measured.ground,
            apart: first_accesses(trace, &cut_trace, &measured.ground),
            terms: terms(trace, &cut_trace, births.as_ref(), &measured.ground),
            contenders: field::contenders(&[MOVE_COST], seeds),
            seeds,
        };
        let standings = run_tournament(
            Tournament {
                rules: field::rules(measured.ground.length),
                models,
                mixtures: field::mixtures(&system.contenders, &[MOVE_COST], seeds),
                contenders: system.contenders.clone(),
                bytes: measured.bytes.clone(),
                terms: system.terms.clone(),
                first_homes: first_homes(births.as_ref(), &measured.ground),
                apart: system.apart.clone(),
            },
            &measured.ground,
        );
        rows.extend(system.rows(&standings));
    }
    Ok(rows)
}

fn births(trace: &Trace, cut_trace: &CutTrace<'_>, cut: Cut) -> Option<BirthRanges> {
    matches!(cut.map, ShardMap::Cut | ShardMap::Named)
        .then(|| BirthRanges::new(trace, cut_trace.history, cut.shards))
}

/// A range for new keys begins at home at their origin.
fn first_homes(births: Option<&BirthRanges>, ground: &Ground<'_>) -> Vec<Option<usize>> {
    let of = |births: &BirthRanges| {
        ground
            .shards()
            .iter()
            .map(|shard| births.origin_of(*shard))
            .collect()
    };
    births.map(of).unwrap_or_default()
}

fn terms(
    trace: &Trace,
    cut_trace: &CutTrace<'_>,
    births: Option<&BirthRanges>,
    ground: &Ground<'_>,
) -> Terms {
    let expected = births.map(|births| expected_births(trace, cut_trace, births, ground));
    let bounds = Bounds {
        voters: VOTERS,
        fair_share_max: Some(FAIR_SHARE_PLANNED),
        half_life_windows: ground.length.windows_in_hours(HALF_LIFE_HOURS) as f32,
        review_windows: ground.length.windows_in_hours(REVIEW_HOURS) as usize,
        copy_cost: COPY_COST,
        expected: expected.unwrap_or_default(),
    };
    Terms::system(&trace.rtt_micros, bounds)
}

/// What the history says of ranges for new keys: how often and from where keys were accessed that its first half did
/// not know, by the window that had any accesses.
fn expected_births(
    trace: &Trace,
    cut_trace: &CutTrace<'_>,
    births: &BirthRanges,
    ground: &Ground<'_>,
) -> Vec<Vec<f32>> {
    let accesses = super::maps::births(trace, cut_trace.history);
    let active = (0..ground.from)
        .filter(|at| !ground.cells(*at).is_empty())
        .count();
    let part = |origin: usize| (active.div_ceil(2).max(1) * births.of_origin(origin)) as f32;
    let of = |shard: &ShardId| {
        let origin = births.origin_of(*shard)?;
        let mut row: Vec<f32> = accesses[origin]
            .iter()
            .map(|count| *count as f32 / part(origin))
            .collect();
        row[origin] = row[origin].max(FEW);
        Some(row)
    };
    ground
        .shards()
        .iter()
        .map(|shard| of(shard).unwrap_or_default())
        .collect()
}

/// By window, the first accesses of keys that the history does not know.
fn first_accesses(trace: &Trace, cut_trace: &CutTrace<'_>, ground: &Ground<'_>) -> Vec<Vec<Cell>> {
    let numbers: BTreeMap<ShardId, usize> = ground
        .shards()
        .iter()
        .enumerate()
        .map(|(at, shard)| (*shard, at))
        .collect();
    let mut known: BTreeSet<usize> = cut_trace.history.iter().map(|event| event.key).collect();
    let first_window = ground.windows.first().map_or(0, |window| window.window.0);
    let mut apart = vec![Vec::new(); ground.windows.len()];
    for event in &trace.events[cut_trace.history.len()..] {
        if known.insert(event.key) {
            let mut accesses = vec![0; trace.zones.len()];
            accesses[event.origin] = 1;
            let at = event.timestamp_ms / ground.length.as_ms() - first_window;
            apart[at as usize].push(Cell {
                shard: numbers[&cut_trace.shard_of[event.key]],
                accesses,
            });
        }
    }
    apart
}

struct System<'a> {
    trace: &'a Trace,
    cut: Cut,
    ground: &'a Ground<'a>,
    apart: Vec<Vec<Cell>>,
    terms: Terms,
    contenders: Vec<Contender>,
    seeds: usize,
}

/// What a policy did, and the part of it that was a key's first access.
type Account<'a> = (&'a Ledger, &'a Ledger);

impl System<'_> {
    fn rows(&self, standings: &Standings) -> Vec<SystemRow> {
        let account = |at: usize| -> Account<'_> {
            let standing = &standings.contenders[at];
            (&standing.scored, &standing.apart)
        };
        let row = |policy: &str, setting: &str, accounts: &[Account<'_>]| {
            self.row(policy, setting, accounts, standings)
        };
        let mut rows = Vec::new();
        for (policy, family, hindsight, seeds) in [
            (family::STATIC_MAJORITY, family::STATIC_MAJORITY, false, 1),
            (family::STATIC_CHEAPEST, family::STATIC_CHEAPEST, false, 1),
            (family::LAST_WINDOW, family::LAST_WINDOW, false, 1),
            (family::EWMA, family::EWMA, false, 1),
            (BEST_EWMA, family::EWMA, true, 1),
            (family::MODEL, family::MODEL, false, self.seeds),
        ] {
            let best: Vec<usize> = (0..seeds)
                .map(|model| self.best(standings, family, model, hindsight))
                .collect();
            let accounts: Vec<Account<'_>> = best.iter().map(|at| account(*at)).collect();
            rows.push(row(policy, &self.contenders[best[0]].variant, &accounts));
        }
        let mixed: Vec<Account<'_>> = standings
            .mixtures
            .iter()
            .map(|standing| (&standing.scored, &standing.apart))
            .collect();
        rows.push(row(family::MIXTURE, "", &mixed));
        rows.push(self.unbounded(name::UNBOUNDED_STATIC, standings, |ground| {
            let homes = ground.majority_homes(ground.from);
            Box::new(move |cell, _| homes[cell.shard])
        }));
        rows.push(self.unbounded(name::ORACLE, standings, |_| {
            Box::new(|cell, terms| cheapest_home(cell, terms, None))
        }));
        rows.push(self.bounded_oracle(standings));
        if let Some(near) = &standings.near_reads {
            let mut near_row = row(name::NEAR, "", &[(&near.scored, &near.apart)]);
            near_row.copies_per_1000 = per_1000(near.scored.moves, &near.scored);
            near_row.moves_per_1000 = Interval::default();
            near_row.mean_quorum_ms = None;
            rows.push(near_row);
        }
        rows
    }

    /// The family's variant that was best in the trial, or in what is scored.
    fn best(&self, standings: &Standings, family: &str, model: usize, hindsight: bool) -> usize {
        let cost = |at: &usize| {
            let standing = &standings.contenders[*at];
            self.cost(if hindsight {
                &standing.scored
            } else {
                &standing.trial
            })
        };
        let of_family = |at: &usize| {
            let contender = &self.contenders[*at];
            contender.family == family && field::is_of_model(contender, model)
        };
        (0..self.contenders.len())
            .filter(of_family)
            .min_by(|a, b| cost(a).total_cmp(&cost(b)))
            .unwrap_or(0)
    }

    /// Round trips and what moves cost, by access, in microseconds.
    fn cost(&self, ledger: &Ledger) -> f64 {
        let moves = ledger.moves as f64 / ledger.accesses().max(1) as f64;
        ledger.mean_rtt_micros(self.ground.rtt_micros) + MOVE_COST * self.terms.unit_micros * moves
    }

    /// One who knows all that is scored, and pays for room at hosts what keeps them below the bar.
    fn bounded_oracle(&self, standings: &Standings) -> SystemRow {
        let mut prices = Prices::new(self.trace.zones.len(), Some(FAIR_SHARE_MAX));
        let total = self.ground.scored() as f32;
        let mut last = Vec::new();
        for pass in 0..ORACLE_PASSES {
            last.clear();
            for cell in (self.ground.from..self.ground.windows.len()).flat_map(|at| self.ground.cells(at)) {
                let home = cheapest_home(cell, &self.terms, Some(&prices));
                prices.charge(home, cell.total() as f32, total, pass);
                last.push(home);
            }
        }
        let mut homes = last.into_iter();
        self.played(name::BOUNDED_ORACLE, standings, |_| homes.next().unwrap_or(0))
    }

    fn unbounded(
        &self,
        policy: &str,
        standings: &Standings,
        homes: impl Fn(&Ground<'_>) -> Box<dyn Fn(&Cell, &Terms) -> usize>,
    ) -> SystemRow {
        let home = homes(self.ground);
        self.played(policy, standings, |cell| home(cell, &self.terms))
    }

    /// Serves every cell that is scored, in order, with the home that it is given.
    fn played(&self, policy: &str, standings: &Standings, mut home: impl FnMut(&Cell) -> usize) -> SystemRow {
        let (mut ledger, mut apart) = (
            Ledger::new(self.trace.zones.len()),
            Ledger::new(self.trace.zones.len()),
        );
        for at in self.ground.from..self.ground.windows.len() {
            let mut homes: BTreeMap<usize, usize> = BTreeMap::new();
            for cell in self.ground.cells(at) {
                let home = home(cell);
                homes.insert(cell.shard, home);
                ledger.serve(&cell.accesses, home);
            }
            self.apart[at]
                .iter()
                .for_each(|cell| apart.serve(&cell.accesses, homes[&cell.shard]));
        }
        let mut row = self.row(policy, "", &[(&ledger, &apart)], standings);
        row.copies_per_1000 = 0.0;
        row.mean_quorum_ms = None;
        row
    }

    fn row(&self, policy: &str, setting: &str, accounts: &[Account<'_>], standings: &Standings) -> SystemRow {
        let rtt = self.ground.rtt_micros;
        let over = |value: &dyn Fn(&Ledger) -> f64| {
            Interval::of(
                &accounts
                    .iter()
                    .map(|(ledger, _)| value(ledger))
                    .collect::<Vec<_>>(),
            )
        };
        let known: Vec<f64> = accounts
            .iter()
            .map(|(ledger, apart)| ledger.without(apart).mean_rtt_micros(rtt) / 1e3)
            .collect();
        SystemRow {
            trace: self.trace.name.clone(),
            window_h: self.cut.window_h,
            map: self.cut.map,
            policy: policy.to_owned(),
            setting: setting.to_owned(),
            accesses: self.ground.scored(),
            mean_ms: over(&|ledger| ledger.mean_rtt_micros(rtt) / 1e3),
            mean_ms_known: Interval::of(&known),
            p99_ms: over(&|ledger| ledger.rtt_percentile_micros(rtt, TAIL) as f64 / 1e3),
            mean_quorum_ms: Some(over(&|ledger| ledger.mean_quorum_rtt_micros(rtt) / 1e3)),
            local_access_ratio: over(&Ledger::local_access_ratio),
            moves_per_1000: over(&|ledger| per_1000(ledger.moves, ledger)),
            copies_per_1000: match policy {
                family::STATIC_MAJORITY => 0.0,
                _ => per_1000(standings.copies.0, accounts[0].0),
            },
            fair_share_max: over(&Ledger::fair_share_max),
        }
    }
}

fn cheapest_home(cell: &Cell, terms: &Terms, prices: Option<&Prices>) -> usize {
    let price = |home: usize| prices.map_or(0.0, |prices| f64::from(prices.by_host()[home]));
    let total = cell.total() as f64;
    let cost = |home: &usize| terms_cost(terms, &cell.accesses, *home) + price(*home) * total;
    (0..cell.accesses.len())
        .min_by(|a, b| cost(a).total_cmp(&cost(b)))
        .unwrap_or(0)
}

fn terms_cost(terms: &Terms, accesses: &[u32], home: usize) -> f64 {
    let each = accesses.iter().zip(&terms.loss);
    each.map(|(count, loss)| f64::from(*count) * f64::from(loss[home]))
        .sum()
}

fn per_1000(count: u64, ledger: &Ledger) -> f64 {
    1000.0 * count as f64 / ledger.accesses().max(1) as f64
}

/// What a trace's rows come to.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct SystemVerdict {
    /// The trace.
    pub trace: String,
    /// The map of the system.
    pub map: ShardMap,
    /// The part of the distance between static majority over ranges of equal load and the oracle over them that the
    /// system closes with reads at the home, in mean round trip; all of them within what hosts may serve.
    pub closed: f64,
    /// The same with neither static majority nor the oracle bound to what hosts may serve, as the system is.
    pub closed_no_limit: f64,
    /// As `closed`, without the first accesses of new keys.
    pub closed_known: f64,
    /// The system's mean round trip over that of the EWMA with hysteresis over ranges of equal load, its setting chosen
    /// in the trial.
    pub to_ewma: f64,
    /// The same over the same map.
    pub to_ewma_same_map: f64,
    /// The mean round trip of reads at the nearest of three voters over that of static majority.
    pub near_to_static: f64,
    /// The same over static majority without a limit.
    pub near_to_static_no_limit: f64,
    /// What the system's busiest host served with reads at the home, as a multiple of the mean.
    pub fair_share_max: f64,
    /// The same with reads at the nearest of three voters.
    pub near_fair_share_max: f64,
}

const CLOSED_MIN: f64 = 0.35;
const NEAR_MAX: f64 = 0.6;

impl SystemVerdict {
    /// For each trace and map with births or names by origin.
    pub(super) fn of(rows: &[SystemRow]) -> Vec<Self> {
        let traces: BTreeSet<&str> = rows.iter().map(|row| row.trace.as_str()).collect();
        let pairs = traces
            .into_iter()
            .flat_map(|trace| [ShardMap::Cut, ShardMap::Named].map(|map| (trace, map)));
        pairs
            .filter_map(|(trace, map)| Self::of_trace(rows, trace, map))
            .collect()
    }

    fn of_trace(rows: &[SystemRow], trace: &str, map: ShardMap) -> Option<Self> {
        let row = |map: ShardMap, policy: &str| {
            rows.iter()
                .find(|row| row.trace == trace && row.map == map && row.policy == policy)
        };
        let (system, near) = (row(map, family::MIXTURE)?, row(map, name::NEAR)?);
        let still = row(ShardMap::Range, family::STATIC_MAJORITY)?;
        let oracle = row(ShardMap::Range, name::BOUNDED_ORACLE)?;
        let still_no_limit = row(ShardMap::Range, name::UNBOUNDED_STATIC)?;
        let oracle_no_limit = row(ShardMap::Range, name::ORACLE)?;
        let ewma = row(ShardMap::Range, family::EWMA)?;
        let ewma_same_map = row(map, family::EWMA)?;
        let closed = |still: &SystemRow, oracle: &SystemRow, mean: fn(&SystemRow) -> f64| {
            (mean(still) - mean(system)) / (mean(still) - mean(oracle))
        };
        let all = |row: &SystemRow| row.mean_ms.mean;
        Some(Self {
            trace: trace.to_owned(),
            map,
            closed: closed(still, oracle, all),
            closed_no_limit: closed(still_no_limit, oracle_no_limit, all),
            closed_known: closed(still, oracle, |row| row.mean_ms_known.mean),
            to_ewma: system.mean_ms.mean / ewma.mean_ms.mean,
            to_ewma_same_map: system.mean_ms.mean / ewma_same_map.mean_ms.mean,
            near_to_static: near.mean_ms.mean / still.mean_ms.mean,
            near_to_static_no_limit: near.mean_ms.mean / still_no_limit.mean_ms.mean,
            fair_share_max: system.fair_share_max.mean,
            near_fair_share_max: near.fair_share_max.mean,
        })
    }

    /// Whether the bars of reads at the home and of hosts' shares are met.
    pub fn home_met(&self) -> bool {
        self.closed >= CLOSED_MIN && self.to_ewma <= 1.0 && self.fair_share_max <= FAIR_SHARE_MAX
    }

    /// Whether the bar of reads nearby is met.
    pub fn near_met(&self) -> bool {
        self.near_to_static <= NEAR_MAX && self.near_fair_share_max <= FAIR_SHARE_MAX
    }
}

impl std::fmt::Display for SystemVerdict {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let miss = |met: bool| if met { "" } else { " (misses a bar)" };
        write!(
            f,
            "{}, {}: closes {:.0} % of the distance from static majority to the oracle{}, {:.0} % where those have no limit, \
             {:.0} % without first accesses; {:.3} of the EWMA over equal ranges, {:.3} over the same; reads nearby {:.2} of \
             static majority{}, {:.2} where it has no limit; the busiest host serves {:.2} times the mean, \
             {:.2} with reads nearby",
            self.trace,
            self.map.name(),
            100.0 * self.closed,
            miss(self.home_met()),
            100.0 * self.closed_no_limit,
            100.0 * self.closed_known,
            self.to_ewma,
            self.to_ewma_same_map,
            self.near_to_static,
            miss(self.near_met()),
            self.near_to_static_no_limit,
            self.fair_share_max,
            self.near_fair_share_max,
        )
    }
}
