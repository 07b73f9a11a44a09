//! The gate: whether a newly trained model may serve, by replay of the latest windows, which it was not trained on.
//!
//! The challenger, the model that serves, if there is one, and every simple rule forecast the held windows one by one,
//! and homes follow within the same voters. Each is given the hesitation that suited it best: at once, or once staying
//! has cost one or four moves. What is compared is the mean round trip with the moves' cost. The challenger passes when
//! it is no worse than any of them: a rule that is better, even in hindsight, means that the model adds nothing.
//!
//! Must hold: no held window lies before the end of what the challenger was trained on.
//! Left out: the time that a move takes; everyone is spared it alike.

use placement::{WindowId, Zone};
use serde::Serialize;
use thiserror::Error;

use super::replay::{Homes, Objective, ReplayConfig, ReplayScore};
use super::voters::Voters;
use crate::affinity::{HostAffinityModel, TrainedModel};
use crate::baselines::{
    Ewma, HourOfDay, LastAccess, LastWindow, Rule, RuleForecaster, SeasonalNaive, StaticMajority,
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
    /// Where homes may be, chosen by the windows that are not held.
    pub voters: &'a Voters,
    /// What a move of a home costs, in microseconds of accesses' waiting.
    pub move_cost_micros: u64,
    /// How long a window is.
    pub length: WindowLength,
    /// The first window that is held.
    pub held_from: WindowId,
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

/// Judges a challenger by the latest of consecutive windows, which are shown to it one by one.
pub struct Gate<'a> {
    config: GateConfig<'a>,
    challenger: Player<'a>,
    active: Option<Player<'a>>,
    rules: Vec<Player<'a>>,
    history_windows: usize,
    held_windows: usize,
    accesses: u64,
}

impl<'a> Gate<'a> {
    /// Nothing shown yet.
    ///
    /// # Errors
    /// When a model is for other windows, or knows those that are held.
    pub fn new(
        challenger: &TrainedModel,
        active: Option<&TrainedModel>,
        config: GateConfig<'a>,
    ) -> Result<Self, GateError> {
        for model in std::iter::once(challenger).chain(active) {
            check(model, config.length, config.length.start_ms(config.held_from))?;
        }
        let model =
            |model: &TrainedModel| Player::new(HostAffinityModel::new(model.clone(), config.zones), &config);
        Ok(Self {
            challenger: model(challenger),
            active: active.map(model),
            rules: rules(&config),
            config,
            history_windows: 0,
            held_windows: 0,
            accesses: 0,
        })
    }

    /// Takes in the next window: everyone is asked before it, if it is held, and sees it then.
    pub fn observe(&mut self, window: &WindowCounts) {
        let is_held = window.window >= self.config.held_from;
        match is_held {
            true => {
                self.held_windows += 1;
                self.accesses += window.accesses();
            }
            false => self.history_windows += 1,
        }
        let models = std::iter::once(&mut self.challenger).chain(&mut self.active);
        for player in models.chain(&mut self.rules) {
            if is_held {
                player.play(window);
            }
            player.forecaster.observe(window);
        }
    }

    /// Who is better, and by how much.
    ///
    /// # Errors
    /// When there was too little to judge by.
    pub fn report(&self) -> Result<GateReport, GateError> {
        let (held, accesses) = (self.held_windows, self.accesses);
        if held == 0 || self.history_windows == 0 {
            let windows = self.history_windows + held;
            return Err(GateError::TooShort { windows, held });
        }
        if accesses < ACCESSES_MIN {
            return Err(GateError::TooFew { accesses });
        }
        let best = |player: &Player<'_>| player.best(self.config.move_cost_micros);
        let challenger = best(&self.challenger);
        let active = self.active.as_ref().map(best);
        let rules: Vec<Contestant> = self.rules.iter().map(best).collect();
        let worse_than = |other: &&Contestant| challenger.cost_micros > other.cost_micros * (1.0 + TIE_PART);
        Ok(GateReport {
            accesses,
            better: active
                .iter()
                .chain(&rules)
                .filter(worse_than)
                .map(|other| other.name.clone())
                .collect(),
            challenger,
            active,
            rules,
        })
    }
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

fn rules<'a>(config: &GateConfig<'a>) -> Vec<Player<'a>> {
    fn rule<'a>(name: &str, rule: impl Rule + 'static, config: &GateConfig<'a>) -> Player<'a> {
        Player::new(RuleForecaster::new(name, config.zones, rule), config)
    }
    let mut rules = vec![
        rule("static majority", StaticMajority::new(config.held_from), config),
        rule("last window", LastWindow::default(), config),
        rule("last access", LastAccess::default(), config),
        rule("hour of day", HourOfDay::new(config.length), config),
    ];
    let ewma = |alpha| rule(&format!("EWMA {alpha}"), Ewma::new(alpha), config);
    rules.extend(EWMA_ALPHAS.map(ewma));
    let season = |hours| {
        let season = SeasonalNaive::new(config.length.windows_in_hours(hours));
        rule(&format!("{hours} h ago"), season, config)
    };
    rules.extend([24, 168].map(season));
    rules
}

/// A forecaster, and homes that follow it with each of the hesitations.
struct Player<'a> {
    forecaster: Box<dyn Forecaster>,
    homes: [Homes<'a>; HESITATIONS.len()],
}

impl<'a> Player<'a> {
    fn new(forecaster: impl Forecaster + 'static, config: &GateConfig<'a>) -> Self {
        let homes = |hesitation: u64| {
            Homes::new(ReplayConfig {
                zones: config.zones,
                rtt_micros: config.rtt_micros,
                voters: config.voters,
                objective: Objective::ExpectedRtt,
                from: config.held_from,
                to: WindowId(u64::MAX),
                lead_windows: 0,
                move_cost: hesitation * config.move_cost_micros,
            })
        };
        Self {
            forecaster: Box::new(forecaster),
            homes: HESITATIONS.map(homes),
        }
    }

    fn play(&mut self, window: &WindowCounts) {
        let forecast = self.forecaster.forecast(window.window);
        for homes in &mut self.homes {
            forecast
                .shards
                .iter()
                .for_each(|(shard, forecast)| homes.choose(*shard, forecast));
            homes.serve(window);
        }
    }

    /// With the hesitation that suited best.
    fn best(&self, move_cost_micros: u64) -> Contestant {
        let tried = self
            .homes
            .iter()
            .map(|homes| self.contestant(&homes.score(), move_cost_micros));
        tried
            .min_by(|a, b| a.cost_micros.total_cmp(&b.cost_micros))
            .expect("there are hesitations")
    }

    fn contestant(&self, score: &ReplayScore, move_cost_micros: u64) -> Contestant {
        let moves = score.home_moves as f64 * move_cost_micros as f64;
        Contestant {
            name: self.forecaster.name().to_owned(),
            cost_micros: score.mean_rtt_micros() + moves / score.accesses.max(1) as f64,
            mean_rtt_micros: score.mean_rtt_micros(),
            local_access_ratio: score.local_access_ratio(),
            home_moves: score.home_moves,
        }
    }
}
