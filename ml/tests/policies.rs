//! Policies where the answer is known: what should be followed is, what should be left alone is left alone.

use ml::{
    Bounds, Ground, Ledger, Mixture, Standings, Terms, Touch, Tournament, TrainConfig, WindowCounts,
    WindowLength, digest, field, optimum, run_tournament, run_tournament_observed, train,
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

fn tournament(windows: &[WindowCounts], move_cost: f64, terms: Terms) -> Tournament {
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
        terms,
        first_homes: Vec::new(),
        apart: Vec::new(),
    }
}

fn play(windows: &[WindowCounts], move_cost: f64) -> Played {
    play_on(windows, move_cost, Terms::plain(3)).0
}

/// Round trips, this many voters, and hosts that serve at most this many times the mean.
fn bounded(voters: usize, fair_share_max: f64) -> Terms {
    let bounds = Bounds {
        voters,
        fair_share_max: Some(fair_share_max),
        half_life_windows: 72.0,
        review_windows: 24,
        copy_cost: 4.0,
        expected: Vec::new(),
    };
    Terms::system(&rtt(), bounds)
}

fn play_on(windows: &[WindowCounts], move_cost: f64, terms: Terms) -> (Played, Standings) {
    let (zones, rtt) = (zones(), rtt());
    let ground = Ground::new(windows, &zones, &rtt, WindowLength::HOUR, HISTORY as usize);
    let tournament = tournament(windows, move_cost, terms);
    let stay = tournament
        .contenders
        .iter()
        .position(|contender| contender.family == field::family::STATIC_MAJORITY)
        .expect("one stays");
    let standings: Standings = run_tournament(tournament, &ground);
    let played = Played {
        mixture: standings.mixtures[0].scored.clone(),
        stay: standings.contenders[stay].scored.clone(),
        optimum: optimum(&ground, &ground.majority_homes(HISTORY as usize), move_cost, &[]),
    };
    (played, standings)
}

/// What a mixture is told of a contender is what it gets by following it, whatever voters and hosts do to its homes.
#[test]
fn whoever_follows_one_contender_gets_what_that_is_charged() {
    let windows = windows(1, |shard, hour, rng| {
        let moved = hour / (24 * 14) + shard / 4;
        (rng.random_range(0..4) > 0).then_some((moved % 3) as usize)
    });
    let (zones, rtt) = (zones(), rtt());
    let ground = Ground::new(&windows, &zones, &rtt, WindowLength::HOUR, HISTORY as usize);
    let mut tournament = tournament(&windows, 0.25, bounded(2, 1.2));
    let all = tournament.mixtures.remove(0);
    let only = |contender: &usize| Mixture {
        experts: vec![*contender],
        ..all.clone()
    };
    tournament.mixtures = all.experts.iter().map(only).collect();
    let contenders = tournament.contenders.clone();
    let standings = run_tournament(tournament, &ground);
    for (contender, mixture) in all.experts.iter().zip(&standings.mixtures) {
        let charged = &standings.contenders[*contender];
        assert_eq!(charged.scored, mixture.scored, "{:?}", contenders[*contender]);
        // Where accesses went voters went too, and no home stays where there is none.
        assert!(charged.scored.moves > 0, "{:?}", contenders[*contender]);
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
fn the_sun_is_followed_within_voters_and_limits() {
    let origin = |shard: u64, hour: u64, _: &mut ChaCha8Rng| Some(((hour % 24 / 8 + shard) % 3) as usize);
    let (played, standings) = play_on(&windows(8, origin), 0.25, bounded(3, 1.75));
    assert!(played.of_optimum() > 0.95, "{}", played.of_optimum());
    assert!(played.mixture.fair_share_max() <= 1.75);
    assert!(played.mixture.quorum_micros > 0 && standings.copies.0 == 0);
}

#[test]
fn a_host_is_not_given_more_than_it_may_serve() {
    let origin = |shard: u64, _: u64, rng: &mut ChaCha8Rng| {
        let elsewhere = shard.is_multiple_of(3) && rng.random_ratio(1, 3);
        Some(usize::from(elsewhere))
    };
    // What a host serves hovers about what is planned, window by window.
    let (played, standings) = play_on(&windows(9, origin), 0.25, bounded(3, 1.45));
    // Four of nine shards fit where all accesses come from; those go elsewhere that lose least.
    assert!(
        played.mixture.fair_share_max() <= 1.5,
        "{}",
        played.mixture.fair_share_max()
    );
    let local = played.mixture.local_access_ratio();
    assert!((0.44..0.6).contains(&local), "{local}");
    let near = standings.near_reads.unwrap();
    assert!(
        near.scored.fair_share_max() <= 1.5,
        "{}",
        near.scored.fair_share_max()
    );
}

/// Neither copies nor moves homes by more than one in a hundred shard-hours.
fn assert_rests(played: &Played, standings: &Standings) {
    assert_eq!(standings.copies.0, 0, "replicas were copied for homes");
    let near = standings.near_reads.as_ref().expect("homes are bound");
    assert_eq!(near.scored.moves, 0, "replicas were copied for reads");
    let hours = SCORED_DAYS * 24 * SHARDS;
    assert!(
        played.mixture.moves * 100 <= hours,
        "{} moves in {hours} hours",
        played.mixture.moves
    );
}

#[test]
fn without_signal_nothing_is_copied_and_hardly_anything_moved() {
    let windows = windows(10, |_, _, rng| Some(rng.random_range(0..3)));
    // Every host has room for all.
    let (played, standings) = play_on(&windows, 1.0, bounded(2, 3.0));
    assert_rests(&played, &standings);
}

#[test]
fn without_signal_hardly_anything_moves_where_a_limit_binds() {
    let windows = windows(10, |_, _, rng| Some(rng.random_range(0..3)));
    for limit in [1.4, 1.1] {
        let (played, standings) = play_on(&windows, 1.0, bounded(2, limit));
        eprintln!("limit {limit}: {} moves", played.mixture.moves);
        assert_rests(&played, &standings);
    }
}

#[test]
fn voters_follow_where_accesses_go_for_good() {
    let origin = |_: u64, hour: u64, rng: &mut ChaCha8Rng| {
        Some(match hour < HISTORY + 24 {
            true => rng.random_range(0..2),
            false => 2,
        })
    };
    let (_, standings) = play_on(&windows(11, origin), 0.25, bounded(2, 3.0));
    let near = standings.near_reads.unwrap().scored;
    assert_eq!((near.moves, standings.copies.0), (SHARDS, SHARDS));
    assert!(near.local_access_ratio() > 0.75, "{}", near.local_access_ratio());
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
        run_tournament_observed(
            tournament(windows, 0.05, bounded(2, 2.0)),
            &ground,
            |at, homes| {
                decided.push((
                    at,
                    homes
                        .iter()
                        .flat_map(|homes| homes[..SHARDS as usize].to_vec())
                        .collect(),
                ));
            },
        );
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
