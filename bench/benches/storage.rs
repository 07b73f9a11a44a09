//! Parts of the data path on one host: the codec of entries, the log's append, a shard's apply and its checkpoint.
//!
//! `cargo bench -p bench --bench storage`. The log and the checkpoint write to the folder for temporary files, which
//! should be on a disk that syncs: `TMPDIR=bench-data cargo bench ...`.

use std::hint::black_box;
use std::sync::Arc;
use std::time::Instant;

use bytes::Bytes;
use criterion::{BatchSize, BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use prost::Message;
use storage::clock::Clock;
use storage::disk::RealDisk;
use storage::log::{LogGroup, LogHub, LogOptions, LogRecord, LogWriter, Step};
use storage::shard::command::{Mutation, OpenSession, Operation, Put};
use storage::shard::{Position, ShardIdentity, ShardOptions, ShardStore, decode_batch, encode_batch};

const VALUE_BYTES: usize = 256;
const SESSION: u64 = 1;
const KEYS: u64 = 100_000;
/// Entries that the log keeps behind the last.
const KEPT: u64 = 1_000;

#[derive(Debug)]
struct WallClock(Instant);

impl Clock for WallClock {
    fn now_ms(&self) -> u64 {
        u64::try_from(self.0.elapsed().as_millis()).unwrap_or(u64::MAX)
    }
}

fn mutation(sequence: u64, operation: Operation) -> Bytes {
    let mutation = Mutation {
        session: SESSION,
        sequence,
        low_water: sequence,
        operation: Some(operation),
        ..Mutation::default()
    };
    mutation.encode_to_vec().into()
}

/// A put of some key under the session's next sequence.
fn put(sequence: u64) -> Bytes {
    let key = sequence.wrapping_mul(0x9E37_79B9_7F4A_7C15) % KEYS;
    let put = Put {
        key: format!("key/{key:012}").into(),
        value: vec![sequence as u8; VALUE_BYTES].into(),
        return_previous: false,
        lease: 0,
    };
    mutation(sequence, Operation::Put(put))
}

fn batch(first: u64, puts: u64) -> Bytes {
    encode_batch(1, (first..first + puts).map(put))
}

fn codec(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("codec");
    for puts in [1, 64] {
        group.throughput(Throughput::Elements(puts));
        let encoded: Vec<Bytes> = (1..=puts).map(put).collect();
        group.bench_function(BenchmarkId::new("encode_batch", puts), |bencher| {
            bencher.iter(|| encode_batch(1, black_box(&encoded).iter().cloned()));
        });
        let payload = batch(1, puts);
        group.bench_function(BenchmarkId::new("decode_batch", puts), |bencher| {
            bencher.iter(|| decode_batch(black_box(payload.clone())).expect("a batch"));
        });
    }
    group.finish();
}

fn commit(writer: &mut LogWriter) {
    assert!(matches!(writer.step(), Step::Committed { .. }), "the log stopped");
}

/// One synced commit of entries of so many groups, each purged as it goes.
fn log_append(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("log_append");
    for groups in [1, 64] {
        let folder = tempfile::tempdir().expect("a folder");
        let options = LogOptions::new(Arc::new(WallClock(Instant::now())));
        let opened = LogHub::open(Arc::new(RealDisk), folder.path(), options);
        let (hub, mut writer) = opened.expect("a log");
        let logs: Vec<_> = (0..groups).map(|group| hub.group(LogGroup(group))).collect();
        let payload = Bytes::from(vec![7; VALUE_BYTES]);
        let mut index = 0;
        group.throughput(Throughput::Elements(groups));
        group.bench_function(BenchmarkId::from_parameter(groups), |bencher| {
            bencher.iter(|| {
                index += 1;
                for log in &logs {
                    let payload = payload.clone();
                    log.append(
                        vec![LogRecord { index, payload }],
                        Box::new(|told| told.expect("durable")),
                    );
                    if index > KEPT && index % KEPT == 0 {
                        log.purge(index - KEPT, Bytes::new(), Box::new(|_| {}));
                    }
                }
                commit(&mut writer);
            });
        });
        hub.close();
        while writer.step() != Step::Stopped {}
    }
    group.finish();
}

fn shard(folder: &std::path::Path) -> ShardStore {
    let identity = ShardIdentity {
        cluster_id: "bench".to_owned(),
        shard_id: 1,
        replica_id: 1,
        start: Bytes::new(),
        end: None,
        r#gen: 1,
    };
    let path = folder.join("shard");
    let created = ShardStore::create(Arc::new(RealDisk), &path, identity, ShardOptions::default());
    let store = created.expect("a shard");
    let open = encode_batch(1, [mutation(0, Operation::OpenSession(OpenSession {}))]);
    store
        .apply(Position { term: 1, index: 1 }, Some(&open))
        .expect("a session");
    store
}

/// One entry, with so many puts in it.
fn shard_apply(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("shard_apply");
    for puts in [1, 64] {
        let folder = tempfile::tempdir().expect("a folder");
        let store = shard(folder.path());
        let (mut sequence, mut index) = (1, 1);
        group.throughput(Throughput::Elements(puts));
        group.bench_function(BenchmarkId::from_parameter(puts), |bencher| {
            bencher.iter_batched(
                || {
                    let payload = batch(sequence, puts);
                    (sequence, index) = (sequence + puts, index + 1);
                    (index, payload)
                },
                |(index, payload)| {
                    store
                        .apply(Position { term: 1, index }, Some(&payload))
                        .expect("applied")
                },
                BatchSize::SmallInput,
            );
        });
    }
    group.finish();
}

/// 1,000 rows, written durably.
fn checkpoint(criterion: &mut Criterion) {
    const ROWS: u64 = 1_000;
    let mut group = criterion.benchmark_group("checkpoint");
    group.sample_size(20);
    group.throughput(Throughput::Elements(ROWS));
    let folder = tempfile::tempdir().expect("a folder");
    let store = shard(folder.path());
    let (mut sequence, mut index) = (1, 1);
    group.bench_function(BenchmarkId::from_parameter(ROWS), |bencher| {
        bencher.iter_batched(
            || {
                index += 1;
                let payload = batch(sequence, ROWS);
                sequence += ROWS;
                store
                    .apply(Position { term: 1, index }, Some(&payload))
                    .expect("applied");
                store.capture(Bytes::new()).expect("a capture")
            },
            |capture| capture.write().expect("written"),
            BatchSize::PerIteration,
        );
    });
    group.finish();
}

criterion_group!(parts, codec, log_append, shard_apply, checkpoint);
criterion_main!(parts);
