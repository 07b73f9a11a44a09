//! Logs whose answer is known: what the trained model must find, and what it must not pretend to find.

use ml::{
    Ewma, Forecaster, HostAffinityModel, HourOfDay, LastWindow, Objective, ReplayConfig, ReplayScore,
    RuleForecaster, StaticMajority, Touch, TrainConfig, TrainedModel, Voters, WindowCounts, WindowLength,
    replay, replay_oracle, train,
};
use placement::{ShardId, WindowId, Zone};
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;

const SHARDS: u64 = 4;
const TRAINING_DAYS: u64 = 30;
const TEST_DAYS: u64 = 4;

fn zones() -> Vec<Zone> {
    ["a", "b", "c"].map(Zone::from).to_vec()
}

fn config() -> TrainConfig {
    TrainConfig {
        epochs: 4,
        batch: 128,
        warm_up_windows: 24 * 10,
        hidden: 12,
        ..TrainConfig::default()
    }
}

/// Hourly windows in which `origin_of(shard, hour, chance)` says where two accesses of each shard come from.
fn windows(seed: u64, origin_of: impl Fn(u64, u64, &mut ChaCha8Rng) -> Option<usize>) -> Vec<WindowCounts> {
    let (zones, mut rng) = (zones(), ChaCha8Rng::seed_from_u64(seed));
    let mut window = |hour| {
        let mut counts = WindowCounts::empty(WindowId(hour));
        for shard in 1..=SHARDS {
            if let Some(origin) = origin_of(shard, hour, &mut rng) {
                counts.count(ShardId(shard), &zones[origin], 1, 1);
                counts.leave_trail(touch(shard, &zones[origin]));
            }
        }
        counts
    };
    (0..(TRAINING_DAYS + TEST_DAYS) * 24).map(&mut window).collect()
}

/// The shard's one key, touched by one user of the zone ten minutes into the window.
fn touch(shard: u64, zone: &Zone) -> Touch {
    let user = zone.0.bytes().map(u64::from).sum();
    Touch {
        shard: ShardId(shard),
        key: shard,
        user,
        origin: zone.clone(),
        offset_ms: 600_000,
    }
}

fn trained(windows: &[WindowCounts]) -> TrainedModel {
    let training = &windows[..(TRAINING_DAYS * 24) as usize];
    train(training, &zones(), WindowLength::HOUR, &config()).expect("thirty days are enough to train on")
}

fn scored(forecaster: &mut dyn Forecaster, windows: &[WindowCounts]) -> ReplayScore {
    with_config(|config| replay(forecaster, windows, config))
}

fn with_config(run: impl FnOnce(&ReplayConfig<'_>) -> ReplayScore) -> ReplayScore {
    let (zones, voters) = (zones(), Voters::everywhere(3));
    let rtt_micros = vec![
        vec![500, 20_000, 40_000],
        vec![20_000, 500, 30_000],
        vec![40_000, 30_000, 500],
    ];
    run(&ReplayConfig {
        zones: &zones,
        rtt_micros: &rtt_micros,
        voters: &voters,
        objective: Objective::MostLikely,
        from: WindowId(TRAINING_DAYS * 24),
        to: WindowId((TRAINING_DAYS + TEST_DAYS) * 24),
        lead_windows: 0,
        move_cost: 0,
    })
}

fn model_ratio(windows: &[WindowCounts]) -> f64 {
    scored(&mut HostAffinityModel::new(trained(windows), &zones()), windows).local_access_ratio()
}

fn rule_ratio(rule: impl ml::Rule, windows: &[WindowCounts]) -> f64 {
    scored(&mut RuleForecaster::new("rule", &zones(), rule), windows).local_access_ratio()
}

/// Eight hours a zone, and one access in ten from anywhere.
fn follow_the_sun(_: u64, hour: u64, rng: &mut ChaCha8Rng) -> Option<usize> {
    let by_hour = (hour % 24 / 8) as usize;
    Some(if rng.random_ratio(1, 10) {
        rng.random_range(0..3)
    } else {
        by_hour
    })
}

#[test]
fn the_model_follows_the_sun() {
    let windows = windows(1, follow_the_sun);
    let model = model_ratio(&windows);
    let reactive = rule_ratio(LastWindow::default(), &windows);
    let profile = rule_ratio(HourOfDay::new(WindowLength::HOUR), &windows);
    assert!(model > reactive + 0.05, "model {model}, last window {reactive}");
    assert!(model > profile - 0.02, "model {model}, hour of day {profile}");
    assert!(model > 0.88, "{model}");
}

#[test]
fn the_model_finds_alternation_where_the_last_window_is_always_wrong() {
    // Every third hour, to and fro between two zones, and each shard at its own time.
    let alternate = |shard: u64, hour: u64, _: &mut ChaCha8Rng| {
        let turn = hour + shard;
        turn.is_multiple_of(3).then_some((turn / 3 % 2) as usize)
    };
    let windows = windows(2, alternate);
    let (model, reactive) = (model_ratio(&windows), rule_ratio(LastWindow::default(), &windows));
    assert_eq!(reactive, 0.0);
    assert!(model > 0.97, "{model}");
}

#[test]
fn without_signal_the_model_claims_none() {
    let windows = windows(3, |_, _, rng| Some(rng.random_range(0..3)));
    let model = trained(&windows);
    let metrics = *model.metrics();
    assert!((metrics.nll - 3f32.ln()).abs() < 0.08, "{metrics:?}");
    assert!(metrics.ece < 0.12, "{metrics:?}");
    let mut forecaster = HostAffinityModel::new(model, &zones());
    windows.iter().for_each(|window| forecaster.observe(window));
    let forecast = forecaster.forecast(WindowId(windows.len() as u64));
    let largest = forecast
        .shards
        .values()
        .flat_map(|shard| shard.shares.iter().map(|(_, share)| share))
        .max();
    assert!(largest < Some(600_000), "{forecast:?}");
}

#[test]
fn the_model_is_never_much_worse_than_a_rule_that_suits() {
    // One zone owns each shard, nine accesses in ten.
    let owned = |shard: u64, _: u64, rng: &mut ChaCha8Rng| {
        Some(if rng.random_ratio(1, 10) {
            rng.random_range(0..3)
        } else {
            (shard % 3) as usize
        })
    };
    let windows = windows(4, owned);
    let model = model_ratio(&windows);
    let best = rule_ratio(StaticMajority::new(WindowId(TRAINING_DAYS * 24)), &windows);
    let oracle = with_config(|config| replay_oracle(&windows, config)).local_access_ratio();
    assert!(model > best - 0.01, "model {model}, static {best}");
    assert_eq!(oracle, 1.0);
}

#[test]
fn the_same_seed_trains_the_same_model_and_another_seed_another() {
    let windows = windows(1, follow_the_sun);
    let version = |seed| {
        let config = TrainConfig {
            seed,
            epochs: 1,
            ..config()
        };
        train(&windows, &zones(), WindowLength::HOUR, &config)
            .unwrap()
            .version()
    };
    assert_eq!(version(1), version(1));
    assert_ne!(version(1), version(2));
}

#[test]
fn what_comes_later_changes_no_earlier_forecast() {
    let now = TRAINING_DAYS * 24 + 30;
    let past = windows(5, follow_the_sun);
    let mut other = past.clone();
    for window in other.iter_mut().filter(|window| window.window.0 >= now) {
        let mut counts = WindowCounts::empty(window.window);
        counts.count(ShardId(1), &Zone::from("c"), 50, 50);
        *window = counts;
    }
    let model = trained(&past);
    let forecasters = || -> Vec<Box<dyn Forecaster>> {
        vec![
            Box::new(HostAffinityModel::new(model.clone(), &zones())),
            Box::new(RuleForecaster::new("ewma", &zones(), Ewma::new(0.1))),
            Box::new(RuleForecaster::new(
                "last-window",
                &zones(),
                LastWindow::default(),
            )),
        ]
    };
    for (mut one, mut two) in forecasters().into_iter().zip(forecasters()) {
        for (known, changed) in past.iter().zip(&other) {
            let window = known.window;
            let (left, right) = (one.forecast(window), two.forecast(window));
            // Equal until the change is seen, and not for ever, or the comparison would prove nothing.
            assert_eq!(left == right, window.0 <= now, "{} {window}", one.name());
            left.validate().unwrap();
            one.observe(known);
            two.observe(changed);
        }
    }
    assert_eq!(trained(&past), trained(&other), "training read the test days");
}

/// Fifteen days: the profile by hour of the day, which this model came to trust, takes that long to turn.
const NEW_HOURS: u64 = 15 * 24;

#[test]
fn a_zone_not_trained_with_is_scored_too() {
    let windows = windows(1, follow_the_sun);
    let mut forecaster = HostAffinityModel::new(trained(&windows), &zones());
    windows.iter().for_each(|window| forecaster.observe(window));
    for hour in 0..NEW_HOURS {
        let mut counts = WindowCounts::empty(WindowId(windows.len() as u64 + hour));
        counts.count(ShardId(1), &Zone::from("new"), 5, 5);
        counts.leave_trail(touch(1, &Zone::from("new")));
        forecaster.observe(&counts);
    }
    let forecast = forecaster.forecast(WindowId(windows.len() as u64 + NEW_HOURS));
    let shares = &forecast.shards[&ShardId(1)].shares;
    assert_eq!(shares.iter().count(), 4, "{shares:?}");
    assert!(shares.of(&Zone::from("new")) > 200_000, "{shares:?}");
}
