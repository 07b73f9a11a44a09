//! Who takes part: the rules, the policies over them, and the grids of their settings.

use placement::WindowId;

use super::mover::Mover;
use super::tournament::{Contender, Forecasts, Mixture};
use crate::baselines::{Ewma, HourOfDay, LastAccess, LastWindow, Rule, SeasonalNaive, StaticMajority};
use crate::profile::WindowLength;

/// Names of the families, as tables call them.
pub mod family {
    /// Homes by the shard's number.
    pub const STATIC_HASH: &str = "static hash";
    /// Homes where the history had most.
    pub const STATIC_MAJORITY: &str = "static majority";
    /// Homes where the history's accesses cost least, but for those that leave a crowded host.
    pub const STATIC_CHEAPEST: &str = "static, least round trip";
    /// Homes where the last window had most.
    pub const LAST_WINDOW: &str = "last window";
    /// Fading means with a margin.
    pub const EWMA: &str = "EWMA + hysteresis";
    /// A day ago, a week ago, or the hour's profile, with a margin.
    pub const SEASONAL: &str = "seasonal";
    /// The walk over coming windows, as simple rules expect them.
    pub const HORIZON: &str = "horizon, no model";
    /// The walk over coming windows, as the model expects them.
    pub const MODEL: &str = "model";
    /// The mixture of all of these.
    pub const MIXTURE: &str = "model + experts";
}

const LAST_WINDOW: usize = 0;
const EWMA_ALPHAS: [f32; 4] = [0.02, 0.05, 0.1, 0.4];
const FIRST_EWMA: usize = 1;
const FIRST_SEASONAL: usize = FIRST_EWMA + EWMA_ALPHAS.len();
const SEASONAL: [&str; 3] = ["24 h ago", "168 h ago", "hour of day"];
const EWMA_MARGINS: [f32; 5] = [0.0, 0.05, 0.15, 0.35, 0.6];
/// Regret, in times what a move costs, after which a ski rental moves.
const EWMA_BARS: [f32; 3] = [1.0, 2.0, 4.0];
const SEASONAL_MARGINS: [f32; 3] = [0.0, 0.15, 0.35];
/// A class's costs fade by half in this many accesses of the class.
const HALF_LIFE_ACCESSES: f64 = 50_000.0;
/// What all classes weigh in each, in accesses: as long as fewer are remembered, all of them.
const BORROWED_ACCESSES: f64 = 1_000_000.0;
/// Caution and windows of the long run of the walks.
const WALKS: [(f32, f32); 4] = [(1.0, 4.0), (1.0, 16.0), (2.0, 16.0), (4.0, 16.0)];

/// The rules behind the policies, in the order in which contenders name them.
pub fn rules(length: WindowLength) -> Vec<Box<dyn Rule>> {
    let mut rules: Vec<Box<dyn Rule>> = vec![Box::new(LastWindow::default())];
    rules.extend(EWMA_ALPHAS.map(|alpha| Box::new(Ewma::new(alpha)) as Box<dyn Rule>));
    rules.extend(seasonal(length));
    rules
}

fn seasonal(length: WindowLength) -> [Box<dyn Rule>; 3] {
    [
        Box::new(SeasonalNaive::new(length.windows_in_hours(24))),
        Box::new(SeasonalNaive::new(length.windows_in_hours(168))),
        Box::new(HourOfDay::new(length)),
    ]
}

/// The rules of the head-room table with their names.
pub fn head_room_rules(length: WindowLength, from: WindowId) -> Vec<(String, Box<dyn Rule>)> {
    let mut rules: Vec<(String, Box<dyn Rule>)> = vec![
        (
            family::STATIC_MAJORITY.into(),
            Box::new(StaticMajority::new(from)),
        ),
        (family::LAST_WINDOW.into(), Box::new(LastWindow::default())),
        ("last access".into(), Box::new(LastAccess::default())),
    ];
    for alpha in [0.02, 0.05, 0.1, 0.2, 0.4, 0.7] {
        rules.push((format!("EWMA {alpha}"), Box::new(Ewma::new(alpha))));
    }
    let named = SEASONAL.map(|name| format!("seasonal {name}")).into_iter();
    rules.extend(named.zip(seasonal(length)));
    rules
}

/// All policies: simple ones once, those that weigh what a move costs once for each cost, those of models also once
/// for each model.
pub fn contenders(costs: &[f64], models: usize) -> Vec<Contender> {
    let mut all = simple();
    for cost in costs {
        all.extend(rentals_of(*cost));
        all.extend(walks_of(
            *cost,
            family::HORIZON,
            &[Forecasts::Rule(FIRST_EWMA), Forecasts::Rule(FIRST_SEASONAL + 2)],
        ));
        let models: Vec<Forecasts> = (0..models).map(Forecasts::Model).collect();
        all.extend(walks_of(*cost, family::MODEL, &models));
    }
    all
}

fn simple() -> Vec<Contender> {
    let policy = |family, variant: String, rule, mover| Contender {
        family,
        variant,
        forecasts: Forecasts::Rule(rule),
        mover,
        move_cost: 0.0,
    };
    let mut all = vec![
        policy(
            family::STATIC_CHEAPEST,
            String::new(),
            LAST_WINDOW,
            Mover::StayCheapest,
        ),
        policy(family::STATIC_MAJORITY, String::new(), LAST_WINDOW, Mover::Stay),
        policy(family::STATIC_HASH, String::new(), LAST_WINDOW, Mover::Spread),
        policy(
            family::LAST_WINDOW,
            String::new(),
            LAST_WINDOW,
            Mover::Margin(0.0),
        ),
    ];
    for (at, alpha) in EWMA_ALPHAS.iter().enumerate() {
        for margin in EWMA_MARGINS {
            let variant = format!("alpha {alpha}, margin {margin}");
            all.push(policy(
                family::EWMA,
                variant,
                FIRST_EWMA + at,
                Mover::Margin(margin),
            ));
        }
    }
    for (at, season) in SEASONAL.iter().enumerate() {
        for margin in SEASONAL_MARGINS {
            let variant = format!("{season}, margin {margin}");
            all.push(policy(
                family::SEASONAL,
                variant,
                FIRST_SEASONAL + at,
                Mover::Margin(margin),
            ));
        }
    }
    all
}

fn rentals_of(cost: f64) -> Vec<Contender> {
    let rental = |at: usize, bar: f32| Contender {
        family: family::EWMA,
        variant: format!("alpha {}, regret {bar}", EWMA_ALPHAS[at]),
        forecasts: Forecasts::Rule(FIRST_EWMA + at),
        mover: Mover::Regret(bar),
        move_cost: cost as f32,
    };
    (0..EWMA_ALPHAS.len())
        .flat_map(|at| EWMA_BARS.map(|bar| rental(at, bar)))
        .collect()
}

fn walks_of(cost: f64, family: &'static str, sources: &[Forecasts]) -> Vec<Contender> {
    let walk = |forecasts: &Forecasts, (caution, long_run_windows): (f32, f32)| Contender {
        family,
        variant: format!("caution {caution}, long run {long_run_windows}"),
        forecasts: *forecasts,
        mover: Mover::Horizon {
            caution,
            long_run_windows,
        },
        move_cost: cost as f32,
    };
    sources
        .iter()
        .flat_map(|forecasts| WALKS.map(|setting| walk(forecasts, setting)))
        .collect()
}

/// Whether a contender weighs moves at another cost than this one.
pub fn is_of_cost(contender: &Contender, cost: f64) -> bool {
    !matches!(contender.mover, Mover::Horizon { .. } | Mover::Regret(_)) || contender.move_cost == cost as f32
}

/// Whether a contender is a model's, and another's than this one.
pub fn is_of_model(contender: &Contender, model: usize) -> bool {
    !matches!(contender.forecasts, Forecasts::Model(_)) || contender.forecasts == Forecasts::Model(model)
}

/// One mixture for each cost and model: costs first.
pub fn mixtures(contenders: &[Contender], costs: &[f64], models: usize) -> Vec<Mixture> {
    let mixture = |cost: f64, model: usize| {
        let mixed = |contender: &Contender| {
            is_of_cost(contender, cost)
                && is_of_model(contender, model)
                // Neither keeps to what hosts may serve, so neither tells what following it would cost.
                && !matches!(contender.family, family::STATIC_HASH | family::STATIC_MAJORITY)
        };
        let places = contenders.iter().enumerate();
        Mixture {
            experts: places
                .filter(|(_, contender)| mixed(contender))
                .map(|(at, _)| at)
                .collect(),
            move_cost: cost as f32,
            half_life_accesses: HALF_LIFE_ACCESSES,
            borrowed_accesses: BORROWED_ACCESSES,
        }
    };
    costs
        .iter()
        .flat_map(|cost| (0..models).map(move |model| mixture(*cost, model)))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_contender_has_its_rule_and_every_mixture_its_own_model() {
        let rules = rules(WindowLength::HOUR).len();
        let contenders = contenders(&[0.05, 1.0], 2);
        for contender in &contenders {
            if let Forecasts::Rule(rule) = contender.forecasts {
                assert!(rule < rules, "{contender:?}");
            }
        }
        let mixtures = mixtures(&contenders, &[0.05, 1.0], 2);
        assert_eq!(mixtures.len(), 4);
        let second = &mixtures[1];
        let models: Vec<&Contender> = second
            .experts
            .iter()
            .map(|expert| &contenders[*expert])
            .filter(|contender| contender.family == family::MODEL)
            .collect();
        assert_eq!(models.len(), WALKS.len());
        assert!(
            models
                .iter()
                .all(|model| model.forecasts == Forecasts::Model(1) && model.move_cost == 0.05)
        );
    }
}
