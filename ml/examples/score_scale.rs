//! Measures how long a forecast of many shards over many origins takes.
//!
//!     cargo run --release -p ml --example score_scale -- [SHARDS] [ORIGINS]
//!
//! The weights are made up: what is timed is reading the features and scoring them.

use std::error::Error;
use std::time::Duration;

use ml::{Forecaster, HostAffinityModel, Touch, TrainConfig, WindowCounts, WindowLength, digest, train};
use placement::{ShardId, WindowId, Zone};
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;

const HOURS: u64 = 48;
const TOUCHES: u64 = 20_000;
/// A machine that does other things too tells its speed by the best of some rounds.
const ROUNDS: usize = 21;

fn main() -> Result<(), Box<dyn Error>> {
    let numbers: Vec<u64> = std::env::args()
        .skip(1)
        .map(|arg| arg.parse())
        .collect::<Result<_, _>>()?;
    let (shards, origins) = (
        numbers.first().copied().unwrap_or(10_000),
        numbers.get(1).copied().unwrap_or(50),
    );
    let zones: Vec<Zone> = (0..origins).map(|at| Zone(format!("z{at:02}"))).collect();
    let mut rng = ChaCha8Rng::seed_from_u64(1);
    let config = TrainConfig {
        epochs: 1,
        warm_up_windows: 4,
        ..TrainConfig::default()
    };
    let small: Vec<WindowCounts> = (0..HOURS)
        .map(|hour| window(hour, 40, &zones, 400, &mut rng))
        .collect();
    let model = train(&small, &zones, WindowLength::HOUR, &config)?;
    let mut forecaster = HostAffinityModel::new(model, &zones);
    let observed = timed(|| {
        (0..HOURS).for_each(|hour| forecaster.observe(&window(hour, shards, &zones, TOUCHES, &mut rng)));
    });
    let mut scored = 0;
    let mut took: Vec<Duration> = (0..ROUNDS)
        .map(|_| timed(|| scored = forecaster.forecast(WindowId(HOURS)).shards.len()))
        .collect();
    took.sort_unstable();
    println!("{HOURS} windows of {TOUCHES} accesses made and observed in {observed:?}");
    println!(
        "{scored} shards x {origins} origins forecast in {:?} at best, {:?} at the median of {ROUNDS}",
        took[0],
        took[ROUNDS / 2]
    );
    Ok(())
}

fn window(hour: u64, shards: u64, zones: &[Zone], touches: u64, rng: &mut ChaCha8Rng) -> WindowCounts {
    let mut counts = WindowCounts::empty(WindowId(hour));
    for at in 0..touches {
        let shard = ShardId(rng.random_range(1..=shards));
        let origin = zones[rng.random_range(0..zones.len())].clone();
        counts.count(shard, &origin, 1, 1);
        let key = digest(&(shard.0 * 8 + rng.random_range(0..8)).to_le_bytes());
        counts.leave_trail(Touch {
            shard,
            key,
            user: at % 997,
            origin,
            offset_ms: at * 3_600_000 / touches,
        });
    }
    counts
}

fn timed(work: impl FnOnce()) -> Duration {
    let begun = std::time::Instant::now();
    work();
    begun.elapsed()
}
