//! Simulated schedules: those of the committed seeds, fresh ones, and the proof that a seed stands for one run.

#![allow(clippy::unwrap_used)]

use std::hash::{BuildHasher, Hasher, RandomState};
use std::path::Path;
use std::process::Command;

use jepsen::simulate::{Campaign, Summary};

const JOBS: usize = 2;
const FRESH: u64 = 4;

fn campaign(seeds: Vec<u64>) -> Summary {
    let campaign = Campaign {
        program: env!("CARGO_BIN_EXE_jepsen").into(),
        seeds,
        faults: Vec::new(),
        jobs: JOBS,
        environment: Vec::new(),
    };
    let mut wrong = Vec::new();
    let summary = campaign
        .run(|report, _| {
            if report.verdict != "ok" {
                wrong.push(report.clone());
            }
        })
        .unwrap();
    assert!(wrong.is_empty(), "{summary}{wrong:#?}");
    summary
}

#[test]
fn schedules_of_the_committed_seeds_hold() {
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("seeds.txt");
    let seeds = Campaign::seeds_of(&file).unwrap();
    let count = seeds.len() as u64;
    let summary = campaign(seeds);
    assert_eq!(summary.schedules, count);
    println!("{summary}");
}

#[test]
fn fresh_schedules_hold() {
    let from = RandomState::new().build_hasher().finish();
    println!("from seed {from}");
    let summary = campaign((0..FRESH).map(|number| from.wrapping_add(number)).collect());
    println!("{summary}");
}

/// Everything that a schedule says, down to every state of every replica.
fn trace(seed: u64) -> Vec<u8> {
    let output = Command::new(env!("CARGO_BIN_EXE_jepsen"))
        .args(["simulate", "--json", "--seed", &seed.to_string()])
        // openraft's own lines show the machine's clock.
        .env("RUST_LOG", "info,openraft=off,jepsen::states=trace")
        .output()
        .unwrap();
    output.stderr
}

/// The lines that are compared: the forming of the cluster and its first seconds under faults.
const LINES: usize = 2_000;

fn begin(states: &[u8]) -> Vec<&[u8]> {
    states.split(|byte| *byte == b'\n').take(LINES).collect()
}

/// h2 forgets streams that were reset by the machine's clock, a second after: a build as slow as the tests' may differ
/// from itself from there on. The program of `jepsen mutants` is fast enough to be compared whole.
#[test]
fn a_seed_gives_the_same_trace_in_two_processes() {
    for seed in [11, 12, 13] {
        let states = trace(seed);
        assert!(
            states.len() > 100_000,
            "seed {seed}: a trace of {} bytes",
            states.len()
        );
        let again = trace(seed);
        assert!(begin(&states) == begin(&again), "seed {seed} has two traces");
    }
    assert!(begin(&trace(11)) != begin(&trace(12)), "two seeds have one trace");
}
