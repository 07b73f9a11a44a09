//! Policies where the answer is known: what should be followed is, what should be left alone is left alone.

use ml::{
    Ground, Ledger, Standings, Touch, Tournament, TrainConfig, WindowCounts, WindowLength, digest, field,
    optimum, run_tournament, run_tournament_observed, train,
};
use placement::{ShardId, WindowId, Zone};
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;

const SHARDS: u64 = 9;
const HISTORY_DAYS: u64 = 42;
const SCORED_DAYS: u64 = 14;
const HISTORY: u64 = HISTORY_DAYS * 24;
const ACCESSES: u64 = 3;

fn zones() -> Vec<Zone> {
    ["a", "b", "c"].map(Zone::from).to_vec()
}

fn rtt() -> Vec<Vec<u64>> {
    vec![vec![1, 40, 90], vec![40, 1, 60], vec![90, 60, 1]]
}

/// Windows of an hour; `origin` says from which zone a shard is accessed in an hour, if it is.
fn windows(seed: u64, origin: impl Fn(u64, u64, &mut ChaCha8Rng) -> Option<usize>) -> Vec<WindowCounts> {
    let (zones, mut rng) = (zones(), ChaCha8Rng::seed_from_u64(seed));
    let window = |hour: u64| {
        let mut counts = WindowCounts::empty(WindowId(hour));
        for shard in 1..=SHARDS {
            if let Some(at) = origin(shard, hour, &mut rng) {
                counts.count(ShardId(shard), &zones[at], ACCESSES, 0);
                counts.leave_trail(touch(shard, &zones[at]));
            }
        }
        counts
    };
    (0..(HISTORY_DAYS + SCORED_DAYS) * 24).map(window).collect()
}

fn touch(shard: u64, origin: &Zone) -> Touch {
    Touch {
        shard: ShardId(shard),
        key: digest(&shard.to_le_bytes()),
        user: shard,
        origin: origin.clone(),
        offset_ms: 600_000,
    }
}

/// The mixture's ledger, the static majority's and the optimum's.
struct Played {
    mixture: Ledger,
    stay: Ledger,
    optimum: Ledger,
}

impl Played {
    /// The mixture's local-access ratio as a part of the optimum's.
    fn of_optimum(&self) -> f64 {
        self.mixture.local_access_ratio() / self.optimum.local_access_ratio()
    }
}

fn tournament(windows: &[WindowCounts], move_cost: f64) -> Tournament {
    let config = TrainConfig {
        epochs: 4,
        batch: 256,
        horizon_windows: 1 + ml::MOVE_DELAY_WINDOWS,
        warm_up_windows: 24 * 14,
        ..TrainConfig::default()
    };
    let history = &windows[..HISTORY as usize];
    let model = train(history, &zones(), WindowLength::HOUR, &config).expect("there is enough to train on");
    let contenders = field::contenders(&[move_cost], 1);
    Tournament {
        rules: field::rules(WindowLength::HOUR),
        models: vec![model.scorer().clone()],
        mixtures: field::mixtures(&contenders, &[move_cost], 1),
        contenders,
        bytes: Vec::new(),
    }
}

fn play(windows: &[WindowCounts], move_cost: f64) -> Played {
    let (zones, rtt) = (zones(), rtt());
    let ground = Ground::new(windows, &zones, &rtt, WindowLength::HOUR, HISTORY as usize);
    let tournament = tournament(windows, move_cost);
    let stay = tournament
        .contenders
        .iter()
        .position(|contender| contender.family == field::family::STATIC_MAJORITY)
        .expect("one stays");
    let standings: Standings = run_tournament(tournament, &ground);
    Played {
        mixture: standings.mixtures[0].scored.clone(),
        stay: standings.contenders[stay].scored.clone(),
        optimum: optimum(&ground, &ground.majority_homes(HISTORY as usize), move_cost, &[]),
    }
}

#[test]
fn the_sun_is_followed() {
    let played = play(&windows(1, |_, hour, _| Some((hour % 24 / 8) as usize)), 0.25);
    assert!(played.of_optimum() > 0.95, "{}", played.of_optimum());
    assert!(played.stay.local_access_ratio() < 0.4);
}

#[test]
fn a_week_is_learnt() {
    let weekend = |hour: u64| hour / 24 % 7 >= 5;
    let played = play(&windows(2, |_, hour, _| Some(usize::from(weekend(hour)))), 0.25);
    assert!(played.of_optimum() > 0.95, "{}", played.of_optimum());
}

#[test]
fn a_flash_crowd_is_followed_there_and_back() {
    let crowd = (HISTORY + 5 * 24)..(HISTORY + 8 * 24);
    let origin = |shard: u64, hour: u64, _: &mut ChaCha8Rng| {
        Some(if crowd.contains(&hour) {
            2
        } else {
            (shard % 2) as usize
        })
    };
    let played = play(&windows(3, origin), 0.25);
    assert!(played.of_optimum() > 0.9, "{}", played.of_optimum());
}

#[test]
fn drift_is_followed() {
    // Each shard leaves its zone for the next one on a day of its own.
    let origin = |shard: u64, hour: u64, rng: &mut ChaCha8Rng| {
        let moved = hour >= HISTORY + shard * 24;
        rng.random_ratio(1, 2)
            .then_some(((shard + u64::from(moved)) % 3) as usize)
    };
    let played = play(&windows(4, origin), 0.25);
    assert!(played.of_optimum() > 0.9, "{}", played.of_optimum());
}

#[test]
fn without_signal_nothing_moves() {
    let played = play(&windows(5, |_, _, rng| Some(rng.random_range(0..3))), 1.0);
    assert_eq!(played.mixture.moves, 0);
}

#[test]
fn flapping_is_not_followed() {
    // A shard's zone changes when the last hour's has just been followed: every second hour, in the mean.
    let flaps = |shard: u64, hour: u64| {
        let mut rng =
            ChaCha8Rng::seed_from_u64(digest(&[shard.to_le_bytes(), (hour / 2).to_le_bytes()].concat()));
        rng.random_range(0..2usize)
    };
    let played = play(&windows(6, |shard, hour, _| Some(flaps(shard, hour))), 1.0);
    let hours = SCORED_DAYS * 24 * SHARDS;
    assert!(
        played.mixture.moves * 20 < hours,
        "{} moves in {hours} hours",
        played.mixture.moves
    );
    assert!(played.mixture.cost(1.0) < played.stay.cost(1.0) * 1.02);
}

#[test]
fn what_comes_later_changes_no_earlier_decision() {
    let changed_from = (HISTORY + 100) as usize;
    let past = windows(7, |shard, hour, rng| {
        let by_hour = ((hour + shard) % 24 / 8) as usize;
        Some(if rng.random_ratio(1, 5) {
            rng.random_range(0..3)
        } else {
            by_hour
        })
    });
    let mut other = past.clone();
    for window in &mut other[changed_from..] {
        let mut counts = WindowCounts::empty(window.window);
        counts.count(ShardId(1), &Zone::from("c"), 50, 50);
        counts.count(ShardId(99), &Zone::from("c"), 50, 50);
        *window = counts;
    }
    let (zones, rtt) = (zones(), rtt());
    let decisions = |windows: &[WindowCounts]| {
        let ground = Ground::new(windows, &zones, &rtt, WindowLength::HOUR, HISTORY as usize);
        let mut decided: Vec<(usize, Vec<usize>)> = Vec::new();
        run_tournament_observed(tournament(windows, 0.05), &ground, |at, homes| {
            decided.push((
                at,
                homes
                    .iter()
                    .flat_map(|homes| homes[..SHARDS as usize].to_vec())
                    .collect(),
            ));
        });
        decided
    };
    let (one, two) = (decisions(&past), decisions(&other));
    let mut differ = false;
    for ((at, left), (_, right)) in one.iter().zip(&two) {
        // A decision at the end of a window has seen it, so the first that may differ is that of the first change.
        if *at < changed_from {
            assert_eq!(
                left, right,
                "the decision at the end of window {at} read what came later"
            );
        }
        differ |= left != right;
    }
    assert!(differ, "nothing was compared: what was changed did not matter");
}
