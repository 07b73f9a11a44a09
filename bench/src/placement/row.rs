//! One cut of one trace: trained, forecast, played and written into rows.

use std::time::Instant;

use anyhow::Context;
use ml::{
    Contender, Ground, HeadRoomScore, Ledger, Scorer, Standings, Tournament, TrainConfig, TrainingSet,
    WindowCounts, WindowLength, field, field::family, head_room, optimum, run_tournament,
};
use placement::ShardId;
use serde::Serialize;

use super::interval::Interval;
use super::maps::{ShardMap, windows};
use super::study::{Cut, HOUR_MS};
use super::trace::{Event, Trace};

const WARM_UP_HOURS: u64 = 24 * 14;
/// Idle samples for each active one, at most, from which the rate is learnt.
const IDLE_PER_ACTIVE: u64 = 2;
const TAIL: f64 = 0.99;

/// How well a forecaster says where accesses come from.
#[derive(Clone, Debug, Serialize)]
pub struct ForecastRow {
    /// The trace.
    pub trace: String,
    /// Hours of a window.
    pub window_h: u64,
    /// From keys to shards.
    pub map: ShardMap,
    /// Shards that were accessed.
    pub shards: usize,
    /// Accesses scored.
    pub accesses: u64,
    /// Rule or model.
    pub forecaster: String,
    /// Local-access ratio with the likeliest origin as home.
    pub local_access_ratio: Interval,
    /// Mean round trip with it.
    pub mean_ms: Interval,
    /// Mean round trip with the home of the least expected one.
    pub mean_ms_nearest: Interval,
    /// Expected calibration error, of models.
    pub ece: Option<Interval>,
    /// Negative log-likelihood an access in nats, of models.
    pub nll: Option<Interval>,
}

/// What a policy got.
#[derive(Clone, Debug, Serialize)]
pub struct PolicyRow {
    /// The trace.
    pub trace: String,
    /// Hours of a window.
    pub window_h: u64,
    /// From keys to shards.
    pub map: ShardMap,
    /// Shards that were accessed.
    pub shards: usize,
    /// Accesses scored.
    pub accesses: u64,
    /// The policy's family.
    pub policy: String,
    /// How its setting was chosen, and which it is (of the first seed).
    pub setting: String,
    /// What a move costs, in remote accesses.
    pub move_cost: f64,
    /// Remote accesses and moves' cost, by access.
    pub cost: Interval,
    /// The cost beyond the optimum's.
    pub regret: Interval,
    /// Local-access ratio.
    pub local_access_ratio: Interval,
    /// Mean round trip.
    pub mean_ms: Interval,
    /// The round trip that 99 of 100 accesses do not exceed.
    pub p99_ms: Interval,
    /// Homes moved.
    pub moves: Interval,
    /// Bytes of the shards whose homes moved.
    pub bytes_moved: Interval,
}

/// A cut's rows.
#[derive(Clone, Debug, Default)]
pub(super) struct CutRows {
    /// Forecasters.
    pub forecasts: Vec<ForecastRow>,
    /// Policies; none where only forecasters are compared.
    pub policies: Vec<PolicyRow>,
    /// Seconds that the longest training took.
    pub train_s: f64,
    /// Seconds that the replay for policies took.
    pub replay_s: f64,
}

/// What to measure a cut with.
#[derive(Clone, Debug)]
pub(super) struct Trial {
    /// Seeds of the models.
    pub seeds: Vec<u64>,
    /// Costs of a move, in remote accesses.
    pub costs: Vec<f64>,
    /// Passes over the samples.
    pub epochs: usize,
}

/// A trace as one cut has it.
pub(super) struct CutTrace<'a> {
    /// What is known when scoring begins.
    pub history: &'a [Event],
    /// Each key's shard, by the key's number.
    pub shard_of: Vec<ShardId>,
    /// All windows.
    pub windows: Vec<WindowCounts>,
    /// The place of the first that is scored.
    pub from: usize,
    /// How long each is.
    pub length: WindowLength,
}

impl<'a> CutTrace<'a> {
    pub(super) fn new(trace: &'a Trace, cut: Cut) -> Self {
        let length = WindowLength::from_ms(cut.window_h * HOUR_MS);
        let split_ms = trace.split_ms(length);
        let history = &trace.events[..trace
            .events
            .partition_point(|event| event.timestamp_ms < split_ms)];
        let shard_of = cut.map.shards_of(trace, history, cut.shards);
        let windows = windows(trace, &shard_of, length);
        Self {
            from: windows.partition_point(|window| length.start_ms(window.window) < split_ms),
            history,
            shard_of,
            windows,
            length,
        }
    }

    pub(super) fn ground(&'a self, trace: &'a Trace) -> Ground<'a> {
        Ground::new(
            &self.windows,
            &trace.zones,
            &trace.rtt_micros,
            self.length,
            self.from,
        )
    }
}

/// Measures one cut of a trace.
///
/// # Errors
/// When its history is too short to train on.
pub(super) fn measure(trace: &Trace, cut: Cut, trial: &Trial) -> anyhow::Result<CutRows> {
    let cut_trace = CutTrace::new(trace, cut);
    let measured = Measured::new(trace, cut, trial, &cut_trace);
    let mut rows = CutRows::default();
    measured.forecasts(&mut rows)?;
    if cut.policies {
        measured.policies(&mut rows)?;
    }
    Ok(rows)
}

/// The last known sizes of the history's keys, by shard.
fn bytes_of(trace: &Trace, history: &[Event], shard_of: &[ShardId], ground: &Ground<'_>) -> Vec<u64> {
    let mut sizes = vec![0; trace.keys.len()];
    history.iter().for_each(|event| sizes[event.key] = event.bytes);
    let mut by_shard: std::collections::BTreeMap<ShardId, u64> = std::collections::BTreeMap::new();
    for (size, shard) in sizes.iter().zip(shard_of) {
        *by_shard.entry(*shard).or_default() += size;
    }
    let bytes = |shard| by_shard.get(shard).copied().unwrap_or(0);
    ground.shards().iter().map(bytes).collect()
}

/// A cut that is being measured.
pub(super) struct Measured<'a> {
    trace: &'a Trace,
    cut: Cut,
    trial: &'a Trial,
    /// Its windows in numbers.
    pub ground: Ground<'a>,
    /// Bytes of the shards by number.
    pub bytes: Vec<u64>,
}

impl<'a> Measured<'a> {
    pub(super) fn new(trace: &'a Trace, cut: Cut, trial: &'a Trial, cut_trace: &'a CutTrace<'a>) -> Self {
        let ground = cut_trace.ground(trace);
        Self {
            trace,
            cut,
            trial,
            bytes: bytes_of(trace, cut_trace.history, &cut_trace.shard_of, &ground),
            ground,
        }
    }

    /// One model a seed, trained on the history with this lead.
    pub(super) fn models(&self, horizon_windows: usize, rows: &mut CutRows) -> anyhow::Result<Vec<Scorer>> {
        let history = &self.ground.windows[..self.ground.from];
        let config = |seed| TrainConfig {
            seed,
            epochs: self.trial.epochs,
            horizon_windows,
            warm_up_windows: (self.ground.length.windows_in_hours(WARM_UP_HOURS) as usize)
                .min(history.len() / 4),
            idle_keep: idle_keep(history),
            ..TrainConfig::default()
        };
        let named = || {
            format!(
                "{} in windows of {} h, {}",
                self.trace.name,
                self.cut.window_h,
                self.cut.map.name()
            )
        };
        let begun = Instant::now();
        let set = TrainingSet::new(history, self.ground.zones, self.ground.length, &config(1))
            .with_context(named)?;
        let sampled_s = begun.elapsed().as_secs_f64();
        let mut models = Vec::new();
        for seed in &self.trial.seeds {
            let begun = Instant::now();
            models.push(set.train(&config(*seed)).with_context(named)?.scorer().clone());
            rows.train_s = rows.train_s.max(sampled_s + begun.elapsed().as_secs_f64());
        }
        Ok(models)
    }

    fn forecasts(&self, rows: &mut CutRows) -> anyhow::Result<()> {
        let models = self.models(1, rows)?;
        let first = self
            .ground
            .windows
            .get(self.ground.from)
            .context("nothing to score")?;
        let named = field::head_room_rules(self.ground.length, first.window);
        let (names, rules): (Vec<String>, Vec<_>) = named.into_iter().unzip();
        let scores = head_room(rules, models, &self.ground);
        let known = |name: &str, ledger: &Ledger| self.forecast_row(name, &[ledger], &[ledger], None);
        rows.forecasts.push(known(family::STATIC_HASH, &scores.spread));
        for (name, score) in names.iter().zip(&scores.rules) {
            rows.forecasts
                .push(self.forecast_row(name, &[&score.likeliest], &[&score.nearest], None));
        }
        let pick =
            |ledger: fn(&HeadRoomScore) -> &Ledger| scores.models.iter().map(ledger).collect::<Vec<_>>();
        rows.forecasts.push(self.forecast_row(
            family::MODEL,
            &pick(|score| &score.likeliest),
            &pick(|score| &score.nearest),
            Some(&scores.models),
        ));
        rows.forecasts.push(known("per-window oracle", &scores.oracle));
        Ok(())
    }

    fn forecast_row(
        &self,
        forecaster: &str,
        likeliest: &[&Ledger],
        nearest: &[&Ledger],
        models: Option<&[HeadRoomScore]>,
    ) -> ForecastRow {
        let rtt = self.ground.rtt_micros;
        let over = |ledgers: &[&Ledger], value: &dyn Fn(&Ledger) -> f64| {
            Interval::of(&ledgers.iter().map(|ledger| value(ledger)).collect::<Vec<_>>())
        };
        let mean_ms = |ledger: &Ledger| ledger.mean_rtt_micros(rtt) / 1e3;
        let calibrated = |value: fn(&ml::CalibrationScore) -> f64| {
            let scores = models?.iter().filter_map(|score| score.calibration.as_ref());
            Some(Interval::of(&scores.map(value).collect::<Vec<_>>()))
        };
        ForecastRow {
            trace: self.trace.name.clone(),
            window_h: self.cut.window_h,
            map: self.cut.map,
            shards: self.ground.shards().len(),
            accesses: self.ground.scored(),
            forecaster: forecaster.to_owned(),
            local_access_ratio: over(likeliest, &Ledger::local_access_ratio),
            mean_ms: over(likeliest, &mean_ms),
            mean_ms_nearest: over(nearest, &mean_ms),
            ece: calibrated(|score| score.ece),
            nll: calibrated(|score| score.nll),
        }
    }

    fn policies(&self, rows: &mut CutRows) -> anyhow::Result<()> {
        let models = self.models(1 + ml::MOVE_DELAY_WINDOWS, rows)?;
        let begun = Instant::now();
        let (costs, seeds) = (&self.trial.costs, models.len());
        let contenders = field::contenders(costs, seeds);
        let standings = run_tournament(
            Tournament {
                rules: field::rules(self.ground.length),
                models,
                mixtures: field::mixtures(&contenders, costs, seeds),
                contenders: contenders.clone(),
                bytes: self.bytes.clone(),
                terms: ml::Terms::plain(self.ground.zones.len()),
                first_homes: Vec::new(),
                apart: Vec::new(),
            },
            &self.ground,
        );
        rows.replay_s = begun.elapsed().as_secs_f64();
        let first_homes = self.ground.majority_homes(self.ground.from);
        for (at, cost) in costs.iter().enumerate() {
            let best = optimum(&self.ground, &first_homes, *cost, &self.bytes);
            let mixed = &standings.mixtures[at * seeds..(at + 1) * seeds];
            let playing = Playing {
                contenders: &contenders,
                standings: &standings,
                cost: *cost,
                seeds,
            };
            let row = |policy: &str, setting: String, ledgers: &[&Ledger]| {
                self.policy_row(policy, setting, *cost, ledgers, &best)
            };
            for (policy, setting, ledgers) in playing.chosen() {
                rows.policies.push(row(policy, setting, &ledgers));
            }
            let mixed: Vec<&Ledger> = mixed.iter().map(|standing| &standing.scored).collect();
            rows.policies.push(row(family::MIXTURE, String::new(), &mixed));
            rows.policies.push(row("optimum", String::new(), &[&best]));
        }
        Ok(())
    }

    fn policy_row(
        &self,
        policy: &str,
        setting: String,
        cost: f64,
        ledgers: &[&Ledger],
        best: &Ledger,
    ) -> PolicyRow {
        let rtt = self.ground.rtt_micros;
        let over = |value: &dyn Fn(&Ledger) -> f64| {
            Interval::of(&ledgers.iter().map(|ledger| value(ledger)).collect::<Vec<_>>())
        };
        PolicyRow {
            trace: self.trace.name.clone(),
            window_h: self.cut.window_h,
            map: self.cut.map,
            shards: self.ground.shards().len(),
            accesses: self.ground.scored(),
            policy: policy.to_owned(),
            setting,
            move_cost: cost,
            cost: over(&|ledger| ledger.cost(cost)),
            regret: over(&|ledger| ledger.cost(cost) - best.cost(cost)),
            local_access_ratio: over(&Ledger::local_access_ratio),
            mean_ms: over(&|ledger| ledger.mean_rtt_micros(rtt) / 1e3),
            p99_ms: over(&|ledger| ledger.rtt_percentile_micros(rtt, TAIL) as f64 / 1e3),
            moves: over(&|ledger| ledger.moves as f64),
            bytes_moved: over(&|ledger| ledger.bytes as f64),
        }
    }
}

/// Keeps as many idle samples as there is something to learn from.
fn idle_keep(history: &[WindowCounts]) -> u32 {
    let active: u64 = history.iter().map(|window| window.shards.len() as u64).sum();
    let shards = history
        .iter()
        .flat_map(|window| window.shards.keys())
        .collect::<std::collections::BTreeSet<_>>();
    let all = shards.len() as u64 * history.len() as u64;
    let idle_keep = all.saturating_sub(active) / (IDLE_PER_ACTIVE * active).max(1);
    u32::try_from(idle_keep).unwrap_or(u32::MAX).max(1)
}

/// The contenders of one cost.
struct Playing<'a> {
    contenders: &'a [Contender],
    standings: &'a Standings,
    cost: f64,
    seeds: usize,
}

impl<'a> Playing<'a> {
    /// Of each family the variant that was best in the trial, or, of the baseline, also the best in hindsight.
    fn chosen(&self) -> Vec<(&'static str, String, Vec<&'a Ledger>)> {
        let mut chosen = Vec::new();
        for family in [
            family::STATIC_HASH,
            family::STATIC_MAJORITY,
            family::LAST_WINDOW,
            family::EWMA,
            family::SEASONAL,
            family::HORIZON,
        ] {
            chosen.push(self.tuned(family, 0, 1));
            if family == family::EWMA {
                let best = self.best(family, 0, |standing| standing.scored.cost(self.cost));
                chosen.push((
                    BEST_EWMA,
                    self.contenders[best].variant.clone(),
                    vec![self.ledger(best)],
                ));
            }
        }
        chosen.push(self.tuned(family::MODEL, 0, self.seeds));
        chosen
    }

    fn tuned(
        &self,
        family: &'static str,
        first: usize,
        seeds: usize,
    ) -> (&'static str, String, Vec<&'a Ledger>) {
        let best: Vec<usize> = (first..seeds)
            .map(|model| self.best(family, model, |standing| standing.trial.cost(self.cost)))
            .collect();
        let ledgers = best.iter().map(|at| self.ledger(*at)).collect();
        (family, self.contenders[best[0]].variant.clone(), ledgers)
    }

    fn best(&self, family: &str, model: usize, cost: impl Fn(&ml::Standing) -> f64) -> usize {
        let of_family = |at: &usize| {
            let contender = &self.contenders[*at];
            contender.family == family
                && field::is_of_cost(contender, self.cost)
                && field::is_of_model(contender, model)
        };
        let costs = (0..self.contenders.len()).filter(of_family);
        costs
            .min_by(|a, b| {
                cost(&self.standings.contenders[*a]).total_cmp(&cost(&self.standings.contenders[*b]))
            })
            .unwrap_or(0)
    }

    fn ledger(&self, at: usize) -> &'a Ledger {
        &self.standings.contenders[at].scored
    }
}

/// The baseline of the bars: its setting chosen when all is known.
pub(super) const BEST_EWMA: &str = "EWMA + hysteresis, best in hindsight";
