//! How fast the linearizability checker is: many keys, and one hot key. Run with `--release`.

use std::time::{Duration, Instant};

use jepsen::Verdict;
use jepsen::generate::{Recipe, generate};
use jepsen::linearizability::{Bounds, check};

fn main() {
    let many = Recipe {
        operations: 1_000_000,
        keys: 1_000,
        processes: 32,
        ..Recipe::default()
    };
    let hot = Recipe {
        operations: 20_000,
        keys: 1,
        processes: 32,
        ..Recipe::default()
    };
    measure(
        "1,000,000 operations, 1,000 keys, 32 processes, 2% unknown",
        many,
        Duration::from_secs(20),
    );
    measure(
        "20,000 operations, one key, 32 processes, 2% unknown",
        hot,
        Duration::from_secs(5),
    );
}

fn measure(name: &str, recipe: Recipe, goal: Duration) {
    let history = generate(recipe, 1);
    let started = Instant::now();
    let verdict = check(
        &history,
        Bounds {
            threads: 2,
            ..Bounds::default()
        },
    );
    let took = started.elapsed();
    let said = match &verdict {
        Verdict::Ok => "ok".to_owned(),
        other => other.to_string(),
    };
    println!(
        "{name}: {said} in {:.3} s (goal: under {} s)",
        took.as_secs_f64(),
        goal.as_secs()
    );
}
