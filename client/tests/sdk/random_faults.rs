//! Everything at once: many writers, while streams break, homes move, shards split and merge and sessions are lost.
//!
//! Each writer sets keys of its own, so a key's version counts how often its puts took effect.

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::SeqCst},
    },
    time::Duration,
};

use client::{Client, proto::Code};
use futures_util::future::join_all;
use rand::{RngExt, SeedableRng, rngs::SmallRng};

use crate::fake::{FakeCluster, Fault, seed};

const WRITERS: usize = 20;
const KEYS: usize = 4;
const PUTS: usize = 40;

/// What one writer knows about one of its keys.
#[derive(Default, Clone, Copy)]
struct Tally {
    confirmed: u64,
    unknown: u64,
}

async fn write(client: Client, writer: usize) -> Vec<(String, Tally)> {
    let mut tallies = vec![Tally::default(); KEYS];
    for put in 0..PUTS {
        let tally = &mut tallies[put % KEYS];
        match client.put(key(writer, put % KEYS), format!("{put}")).await {
            Ok(_) => tally.confirmed += 1,
            Err(error) if error.is_outcome_unknown() => tally.unknown += 1,
            // All trouble passes, so there is time to serve whatever can be served.
            Err(error) => panic!("put {put} of writer {writer}: {error}"),
        }
    }
    tallies
        .into_iter()
        .enumerate()
        .map(|(index, tally)| (key(writer, index), tally))
        .collect()
}

fn key(writer: usize, index: usize) -> String {
    format!("{}-{writer:02}-{index}", ["a", "h", "p", "w"][index])
}

/// What a piece of trouble may cost.
#[derive(PartialEq)]
enum Trouble {
    Nothing,
    /// The outcome of every mutation in flight may remain open.
    SessionsLost,
}

/// One piece of trouble.
fn trouble(cluster: &FakeCluster, random: &mut SmallRng) -> Trouble {
    let shards = cluster.shard_ids();
    let shard = shards[random.random_range(0..shards.len())];
    match random.random_range(0..13) {
        0 => cluster.inject(Fault::DropBefore),
        1 => cluster.inject(Fault::DropAfter),
        2 => cluster.inject(Fault::UnknownBefore),
        3 => cluster.inject(Fault::UnknownAfter),
        4 => cluster.inject(Fault::SilentAfter),
        5 => cluster.inject(Fault::Refuse(Code::Unavailable)),
        6 => cluster.inject(Fault::Refuse(Code::Overloaded)),
        7 => {
            cluster.inject(Fault::DropAfterAndForget);
            return Trouble::SessionsLost;
        }
        8 => cluster.inject_at_open(Fault::DropAfter),
        9 => cluster.move_home(shard, random.random_range(1..=3)),
        10 => cluster.move_home_silently(shard, random.random_range(1..=3)),
        11 if shards.len() < 8 => cluster.split_at_random(shard, random),
        _ => drop(cluster.merge_right(shard)),
    }
    Trouble::Nothing
}

#[tokio::test]
async fn no_put_is_lost_or_done_twice() {
    let first = seed();
    for seed in first..first + 5 {
        println!("round with seed {seed}");
        let (cluster, _hosts) = FakeCluster::start(3, &["g", "n"]).await;
        let mut config = cluster.config();
        config.seed = Some(seed);
        config.retry.attempt_timeout = Duration::from_millis(200);
        let client = Client::connect(config).await.unwrap();
        let losses = Arc::new(AtomicUsize::new(0));
        let random = SmallRng::seed_from_u64(seed);
        let troublemaker = tokio::spawn(make_trouble(Arc::clone(&cluster), random, Arc::clone(&losses)));
        let written = join_all((0..WRITERS).map(|writer| tokio::spawn(write(client.clone(), writer)))).await;
        troublemaker.abort();
        println!("{:?}", client.stats());
        check(
            &cluster,
            written.into_iter().flat_map(Result::unwrap),
            losses.load(SeqCst),
            seed,
        );
    }
}

/// A piece of trouble for every ten requests; counts the losses of sessions.
async fn make_trouble(cluster: Arc<FakeCluster>, mut random: SmallRng, losses: Arc<AtomicUsize>) {
    for round in 1.. {
        cluster.saw(round * 10).await;
        if trouble(&cluster, &mut random) == Trouble::SessionsLost {
            losses.fetch_add(1, SeqCst);
        }
    }
}

fn check(cluster: &FakeCluster, written: impl Iterator<Item = (String, Tally)>, losses: usize, seed: u64) {
    let mut unknown = 0;
    for (key, tally) in written {
        let version = cluster.version_of(&key);
        let possible = tally.confirmed..=tally.confirmed + tally.unknown;
        assert!(
            possible.contains(&version),
            "seed {seed}: {key} was set {version} times, expected {possible:?}"
        );
        unknown += tally.unknown;
    }
    // A writer has one put in flight.
    let excusable = (losses * WRITERS) as u64;
    assert!(
        unknown <= excusable,
        "seed {seed}: {unknown} outcomes unknown, {losses} losses of sessions"
    );
}
