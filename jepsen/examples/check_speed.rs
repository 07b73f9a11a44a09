//! How fast the linearizability checker is: many keys, and one hot key. Run with `--release`.

use std::time::{Duration, Instant};

use jepsen::Verdict;
use jepsen::generate::{Recipe, generate};
use jepsen::history::{Action, Operation, Outcome};
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
    let history = with_stale_read(generate(hot, 1));
    let started = Instant::now();
    let verdict = check(
        &history,
        Bounds {
            threads: 2,
            ..Bounds::default()
        },
    );
    println!(
        "the same with one stale read, in {:.3} s: {verdict}",
        started.elapsed().as_secs_f64()
    );
}

/// Lets the last read return what the first did.
fn with_stale_read(mut history: Vec<Operation>) -> Vec<Operation> {
    let has_value = |operation: &Operation| matches!(operation.action(), Action::Get(Outcome::Ok(read)) if read.value.is_some());
    let old = history.iter().position(has_value);
    let new = history.iter().rposition(has_value);
    if let (Some(old), Some(new)) = (old, new)
        && let Ok(stale) = history[new].with_action(history[old].action().clone())
    {
        history[new] = stale;
    }
    history
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
