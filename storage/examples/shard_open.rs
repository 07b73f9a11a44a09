//! Measures a shard of many keys on a real disk: checkpoints, open, memory a key, reads.
//!
//! ```text
//! cargo run --release -p storage --example shard_open -- fill FILE [KEYS] [VALUE_BYTES] [VERSIONS]
//! cargo run --release -p storage --example shard_open -- open FILE
//! ```
//!
//! Two processes, so that the memory reported by `open` is that of the open shard alone.

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use prost::Message;
use storage::disk::RealDisk;
use storage::seed::SplitMix64;
use storage::shard::command::{Mutation, OpenSession, Operation, Put};
use storage::shard::{Position, ShardIdentity, ShardOptions, ShardStore, encode_batch};

const BATCH: u64 = 500;
const KEYS_PER_CHECKPOINT: u64 = 100_000;
const READS: u64 = 200_000;

fn main() {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let number = |at: usize, default: u64| {
        args.get(at)
            .map_or(default, |text| text.parse().expect("a number"))
    };
    match (args.first().map(String::as_str), args.get(1)) {
        (Some("fill"), Some(file)) => {
            let (keys, value_bytes, versions) = (number(2, 1_000_000), number(3, 256), number(4, 1));
            fill(Path::new(file), keys, value_bytes, versions);
        }
        (Some("open"), Some(file)) => open(Path::new(file)),
        _ => eprintln!("usage: shard_open fill FILE [KEYS] [VALUE_BYTES] [VERSIONS] | shard_open open FILE"),
    }
}

/// Each key is written `versions` times, one round over all keys after another; all versions are retained.
fn fill(path: &Path, keys: u64, value_bytes: u64, versions: u64) {
    let created = ShardStore::create(Arc::new(RealDisk), path, identity(), ShardOptions::default());
    let store = created.expect("create the shard");
    let (mut applying, mut checkpointing) = (Duration::ZERO, Duration::ZERO);
    let puts = keys * versions;
    for first in (0..puts).step_by(BATCH as usize) {
        let payload = batch(first, (first + BATCH).min(puts), keys, value_bytes);
        let index = first / BATCH + 1;
        let started = Instant::now();
        store
            .apply(Position { term: 1, index }, Some(&payload))
            .expect("apply");
        applying += started.elapsed();
        if (first + BATCH).is_multiple_of(KEYS_PER_CHECKPOINT) || first + BATCH >= puts {
            let started = Instant::now();
            let capture = store.capture(Bytes::new()).expect("capture");
            capture.write().expect("checkpoint");
            checkpointing += started.elapsed();
        }
    }
    println!(
        "keys: {}, bytes of data: {}",
        store.stats().keys,
        store.stats().bytes
    );
    println!("apply: {:.2?} a put", applying / puts as u32);
    println!(
        "checkpoint of {KEYS_PER_CHECKPOINT} rows, synced: {:.2?} a row",
        checkpointing / puts as u32
    );
}

fn open(path: &Path) {
    let before_kib = resident_kib();
    let started = Instant::now();
    let opened = ShardStore::open(Arc::new(RealDisk), path, &identity(), ShardOptions::default());
    let (store, took) = (opened.expect("open the shard"), started.elapsed());
    let (keys, versions) = (store.stats().keys, store.stats().versions);
    let grown_bytes = (resident_kib() - before_kib) * 1024;
    let file_bytes = std::fs::metadata(path).expect("the shard's file").len();
    println!(
        "open: {took:.2?} for {keys} keys in a file of {} MiB",
        file_bytes >> 20
    );
    println!(
        "memory: {} MiB, {} bytes a key, {} versions",
        grown_bytes >> 20,
        grown_bytes / keys,
        versions
    );
    let mut chance = SplitMix64::new(1);
    let started = Instant::now();
    for _ in 0..READS {
        let pair = store.get(&key(chance.below(keys))).expect("get");
        assert!(pair.is_some());
    }
    println!("get of a random key: {:.2?}", started.elapsed() / READS as u32);
    let started = Instant::now();
    let page = store.scan(b"", None, 100_000, usize::MAX).expect("scan");
    println!("scan: {:.2?} a pair", started.elapsed() / page.pairs.len() as u32);
}

/// Keys come in no order, as those of hashed users would.
fn key(number: u64) -> Vec<u8> {
    let mixed = SplitMix64::new(number).next_u64();
    format!("{mixed:016x}").into_bytes()
}

fn batch(first: u64, end: u64, keys: u64, value_bytes: u64) -> Bytes {
    let open = mutation(0, Operation::OpenSession(OpenSession {}));
    let puts = (first..end).map(|number| {
        let put = Put {
            key: key(number % keys).into(),
            value: vec![number as u8; value_bytes as usize].into(),
            return_previous: false,
            lease: 0,
        };
        mutation(number + 1, Operation::Put(put))
    });
    // All within the retention.
    encode_batch(1, std::iter::once(open).chain(puts))
}

fn mutation(sequence: u64, operation: Operation) -> Bytes {
    let mutation = Mutation {
        session: 1,
        sequence,
        low_water: sequence,
        r#gen: 0,
        operation: Some(operation),
    };
    mutation.encode_to_vec().into()
}

fn identity() -> ShardIdentity {
    ShardIdentity {
        cluster_id: "measurement".into(),
        shard_id: 1,
        replica_id: 1,
        start: Bytes::new(),
        end: None,
        r#gen: 1,
    }
}

/// Memory of this process, from Linux's own account of it.
fn resident_kib() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let number = line.and_then(|rest| rest.split_whitespace().next()?.parse().ok());
    number.unwrap_or_default()
}
