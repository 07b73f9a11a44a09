//! The gate: whether a newly trained model may serve, by replay of the latest windows, which it was not trained on.
//!
//! The challenger, the model that serves, if there is one, and every simple rule forecast the held windows one by one,
//! and homes follow within the same voters. Each is given the hesitation that suited it best: at once, or once staying
//! has cost one or four moves. What is compared is the mean round trip with the moves' cost. The challenger passes when
//! it is no worse than any of them: a rule that is better, even in hindsight, means that the model adds nothing.
//!
//! Must hold: no held window lies before the end of what the challenger was trained on.
//! Left out: the time that a move takes; everyone is spared it alike.

use placement::Zone;
use serde::Serialize;
use thiserror::Error;

use super::replay::{Objective, ReplayConfig, ReplayScore, replay};
use super::voters::Voters;
use crate::affinity::{HostAffinityModel, TrainedModel};
use crate::baselines::{
    Ewma, HourOfDay, LastAccess, LastWindow, RuleForecaster, SeasonalNaive, StaticMajority,
};
use crate::forecaster::Forecaster;
use crate::profile::WindowLength;
use crate::window::WindowCounts;

/// A cost above another's by no more than this part of it is no worse.
const TIE_PART: f64 = 0.001;
/// Accesses in the held windows below which nothing can be told.
const ACCESSES_MIN: u64 = 500;
/// Moves that staying must have cost before a home moves.
const HESITATIONS: [u64; 3] = [0, 1, 4];
const EWMA_ALPHAS: [f32; 4] = [0.02, 0.05, 0.1, 0.4];

/// What the gate plays on.
#[derive(Clone, Debug)]
pub struct GateConfig<'a> {
    /// The zones; their order is that of the matrix.
    pub zones: &'a [Zone],
    /// Round trips in microseconds, origin by home.
    pub rtt_micros: &'a [Vec<u64>],
    /// Voters of a shard, chosen by the windows that are not held.
    pub voters: usize,
    /// What a move of a home costs, in microseconds of accesses' waiting.
    pub move_cost_micros: u64,
    /// How many of the latest windows are held.
    pub held_windows: usize,
}

/// Why nobody can be judged.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum GateError {
    /// There are no windows to forecast from, or none to forecast.
    #[error("{windows} windows cannot be divided into a history and {held} to judge by")]
    TooShort {
        /// How many there are.
        windows: usize,
        /// How many were to be held.
        held: usize,
    },
    /// The held windows have too few accesses.
    #[error("{accesses} accesses in the held windows are too few to judge by; {ACCESSES_MIN} are needed")]
    TooFew {
        /// How many there are.
        accesses: u64,
    },
    /// A model knows what it would be judged by.
    #[error("{model} was trained on windows that it would be judged by")]
    Leaks {
        /// Its version.
        model: String,
    },
    /// A model is for windows of another length.
    #[error("{model} forecasts windows of {window_ms} ms, and these are of {found_ms} ms")]
    Window {
        /// Its version.
        model: String,
        /// The length that it was trained for.
        window_ms: u64,
        /// The length that the windows have.
        found_ms: u64,
    },
}

/// What one got.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Contestant {
    /// The model's version or the rule's name.
    pub name: String,
    /// Mean round trip and moves' cost, an access, in microseconds.
    pub cost_micros: f64,
    /// The mean round trip alone.
    pub mean_rtt_micros: f64,
    /// The local-access ratio.
    pub local_access_ratio: f64,
    /// Homes moved.
    pub home_moves: u64,
}

/// Who is better, and by how much.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct GateReport {
    /// Accesses judged by.
    pub accesses: u64,
    /// The model that is judged.
    pub challenger: Contestant,
    /// The model that serves.
    pub active: Option<Contestant>,
    /// The simple rules.
    pub rules: Vec<Contestant>,
    /// Those that are better than the challenger.
    pub better: Vec<String>,
}

impl GateReport {
    /// Whether the challenger may serve.
    pub fn passes(&self) -> bool {
        self.better.is_empty()
    }
}

/// Judges a challenger by the latest of consecutive windows.
///
/// # Errors
/// When there is too little to judge by, or a model knows it already.
pub fn judge(
    challenger: &TrainedModel,
    active: Option<&TrainedModel>,
    windows: &[WindowCounts],
    length: WindowLength,
    config: &GateConfig<'_>,
) -> Result<GateReport, GateError> {
    let too_short = GateError::TooShort {
        windows: windows.len(),
        held: config.held_windows,
    };
    let from = windows
        .len()
        .checked_sub(config.held_windows)
        .filter(|from| *from > 0);
    let (Some(from), Some(last)) = (from.filter(|from| *from < windows.len()), windows.last()) else {
        return Err(too_short);
    };
    let accesses = windows[from..].iter().map(WindowCounts::accesses).sum();
    if accesses < ACCESSES_MIN {
        return Err(GateError::TooFew { accesses });
    }
    for model in std::iter::once(challenger).chain(active) {
        check(model, length, length.start_ms(windows[from].window))?;
    }
    let voters = Voters::nearest(&windows[..from], config.zones, config.rtt_micros, config.voters);
    let judging = Judging {
        windows,
        config,
        replay: ReplayConfig {
            zones: config.zones,
            rtt_micros: config.rtt_micros,
            voters: &voters,
            objective: Objective::ExpectedRtt,
            from: windows[from].window,
            to: placement::WindowId(last.window.0 + 1),
            lead_windows: 0,
            move_cost: 0,
        },
    };
    Ok(judging.report(challenger, active, length))
}

fn check(model: &TrainedModel, length: WindowLength, held_from_ms: u64) -> Result<(), GateError> {
    let span = model.span();
    if span.window_ms != length.as_ms() {
        return Err(GateError::Window {
            model: model.version(),
            window_ms: span.window_ms,
            found_ms: length.as_ms(),
        });
    }
    match span.to_ms > held_from_ms {
        true => Err(GateError::Leaks {
            model: model.version(),
        }),
        false => Ok(()),
    }
}

struct Judging<'a> {
    windows: &'a [WindowCounts],
    config: &'a GateConfig<'a>,
    replay: ReplayConfig<'a>,
}

impl Judging<'_> {
    fn report(
        &self,
        challenger: &TrainedModel,
        active: Option<&TrainedModel>,
        length: WindowLength,
    ) -> GateReport {
        let model = |model: &TrainedModel| {
            self.best(&|| Box::new(HostAffinityModel::new(model.clone(), self.config.zones)))
        };
        let challenger = model(challenger);
        let active = active.map(model);
        let rules = self.rules(length);
        let worse_than = |other: &&Contestant| challenger.cost_micros > other.cost_micros * (1.0 + TIE_PART);
        GateReport {
            accesses: self.windows[self.windows.len() - self.config.held_windows..]
                .iter()
                .map(WindowCounts::accesses)
                .sum(),
            better: active
                .iter()
                .chain(&rules)
                .filter(worse_than)
                .map(|other| other.name.clone())
                .collect(),
            challenger,
            active,
            rules,
        }
    }

    fn rules(&self, length: WindowLength) -> Vec<Contestant> {
        let (zones, from) = (self.config.zones, self.replay.from);
        let mut rules = vec![
            self.best(&|| {
                Box::new(RuleForecaster::new(
                    "static majority",
                    zones,
                    StaticMajority::new(from),
                ))
            }),
            self.best(&|| Box::new(RuleForecaster::new("last window", zones, LastWindow::default()))),
            self.best(&|| Box::new(RuleForecaster::new("last access", zones, LastAccess::default()))),
            self.best(&|| Box::new(RuleForecaster::new("hour of day", zones, HourOfDay::new(length)))),
        ];
        for alpha in EWMA_ALPHAS {
            let name = format!("EWMA {alpha}");
            rules.push(self.best(&|| Box::new(RuleForecaster::new(name.clone(), zones, Ewma::new(alpha)))));
        }
        for hours in [24, 168] {
            let (name, season) = (format!("{hours} h ago"), length.windows_in_hours(hours));
            rules.push(self.best(&|| {
                Box::new(RuleForecaster::new(
                    name.clone(),
                    zones,
                    SeasonalNaive::new(season),
                ))
            }));
        }
        rules
    }

    /// With the hesitation that suits best.
    fn best(&self, forecaster: &dyn Fn() -> Box<dyn Forecaster>) -> Contestant {
        let name = forecaster().name().to_owned();
        let with = |hesitation: u64| {
            let config = ReplayConfig {
                move_cost: hesitation * self.config.move_cost_micros,
                ..self.replay.clone()
            };
            self.contestant(&name, &replay(forecaster().as_mut(), self.windows, &config))
        };
        let tried = HESITATIONS.map(with).into_iter();
        tried
            .min_by(|a, b| a.cost_micros.total_cmp(&b.cost_micros))
            .expect("there are hesitations")
    }

    fn contestant(&self, name: &str, score: &ReplayScore) -> Contestant {
        let moves = score.home_moves as f64 * self.config.move_cost_micros as f64;
        Contestant {
            name: name.to_owned(),
            cost_micros: score.mean_rtt_micros() + moves / score.accesses.max(1) as f64,
            mean_rtt_micros: score.mean_rtt_micros(),
            local_access_ratio: score.local_access_ratio(),
            home_moves: score.home_moves,
        }
    }
}
