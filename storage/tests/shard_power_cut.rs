//! The power fails after any number of disk operations, and unsynced writes are kept, dropped or torn
//! on their own: what is found is one checkpoint, whole, and none older than the newest that was
//! reported written. Importing and installing a snapshot is part of the work that is cut.

// In a test's own functions, too, an unwrap is an assertion.
#![allow(clippy::unwrap_used)]

mod shard_support;

use std::path::Path;
use std::sync::{Arc, OnceLock};

use bytes::Bytes;
use shard_support::*;
use storage::seed::SplitMix64;
use storage::shard::{CaptureError, CheckpointError, OpenShardError, ShardStore};
use storage::sim_disk::{SimDisk, SyncMode};

const PATH: &str = "/shard";

/// A state that a restart may find: its mark and its fingerprint.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Expected {
    mark: Option<Bytes>,
    state_hash: u64,
}

/// The states that were on their way to the disk, in order, and how many of them were reported
/// durable.
#[derive(Debug, Default)]
struct Journal {
    states: Vec<Expected>,
    acknowledged: usize,
}

impl Journal {
    fn announce(&mut self, mark: Option<Bytes>, state_hash: u64) {
        self.states.push(Expected { mark, state_hash });
    }

    fn acknowledge(&mut self) {
        self.acknowledged = self.states.len();
    }
}

/// A peer's snapshot, made once.
fn snapshot() -> &'static (Vec<Bytes>, u64) {
    static SNAPSHOT: OnceLock<(Vec<Bytes>, u64)> = OnceLock::new();
    SNAPSHOT.get_or_init(|| {
        let peer = create(Arc::new(SimDisk::new(0)), Path::new("/peer"));
        let mut chance = SplitMix64::new(99);
        for _ in 0..40 {
            random_entry(&peer, &mut chance);
        }
        let capture = peer.capture(Bytes::from_static(b"of the peer")).unwrap();
        capture.write().unwrap();
        let frames = peer.export().unwrap().map(|frame| frame.unwrap()).collect();
        (frames, peer.state_hash())
    })
}

fn empty_state_hash() -> u64 {
    create(Arc::new(SimDisk::new(0)), Path::new(PATH)).state_hash()
}

fn random_entry(store: &ShardStore, chance: &mut SplitMix64) {
    let index = store.applied().map_or(0, |at| at.index);
    let sequence = store.revision() + 1;
    let key = format!("k{}", chance.below(12));
    let value = vec![chance.below(256) as u8; chance.below(3_000) as usize];
    let change = match chance.below(4) {
        0 => delete(1, sequence, &key),
        _ => put(1, sequence, &key, &value),
    };
    apply(
        store,
        index * 40,
        &[open_session(1 + index % 5), open_session(1), change],
    );
}

/// Entries, checkpoints and an installation, until all is done or the disk fails. The journal says
/// what a restart may find.
fn work(disk: &Arc<SimDisk>, seed: u64, journal: &mut Journal) -> Result<(), String> {
    journal.announce(None, empty_state_hash());
    let store = ShardStore::create(disk.clone(), Path::new(PATH), identity(1), options())
        .map_err(|error| error.to_string())?;
    journal.acknowledge();
    let mut chance = SplitMix64::new(seed);
    for round in 0..7 {
        for _ in 0..=chance.below(6) {
            random_entry(&store, &mut chance);
        }
        let capture = store.capture(mark(&store)).map_err(|error| error.to_string())?;
        journal.announce(Some(mark(&store)), store.state_hash());
        // Applied while the checkpoint is written: belongs to the next one.
        random_entry(&store, &mut chance);
        capture.write().map_err(|error| error.to_string())?;
        journal.acknowledge();
        if round == 3 {
            install_snapshot(&store, journal)?;
        }
    }
    Ok(())
}

fn install_snapshot(store: &ShardStore, journal: &mut Journal) -> Result<(), String> {
    let (frames, state_hash) = snapshot();
    let mut import = store.begin_import().map_err(|error| error.to_string())?;
    for frame in frames {
        import.push(frame.clone()).map_err(|error| error.to_string())?;
    }
    let imported = import.finish().map_err(|error| error.to_string())?;
    journal.announce(imported.mark(), *state_hash);
    store.install(imported).map_err(|error| error.to_string())?;
    journal.acknowledge();
    assert_eq!(store.state_hash(), *state_hash);
    Ok(())
}

/// Opens what the power cut left. Err: the promise is broken.
fn restart(disk: &Arc<SimDisk>, journal: &Journal) -> Result<(), String> {
    let store = match ShardStore::open(disk.clone(), Path::new(PATH), &identity(1), options()) {
        Err(OpenShardError::Missing) if journal.acknowledged == 0 => return Ok(()),
        opened => opened.map_err(|error| format!("not opened: {error}"))?,
    };
    let found = Expected {
        mark: store.mark(),
        state_hash: store.state_hash(),
    };
    let allowed = &journal.states[journal.acknowledged.saturating_sub(1)..];
    if !allowed.contains(&found) {
        return Err(format!("found {found:?}, allowed {allowed:?}"));
    }
    check_usable(disk, store)
}

/// Everything can be read, and the store goes on from there.
fn check_usable(disk: &Arc<SimDisk>, store: ShardStore) -> Result<(), String> {
    store
        .scan(b"", None, usize::MAX, usize::MAX)
        .map_err(|error| error.to_string())?;
    apply(
        &store,
        100_000,
        &[open_session(9), put(9, 1, "after", b"the cut")],
    );
    checkpoint(&store);
    let hash = store.state_hash();
    drop(store);
    let again = reopen(disk.clone(), Path::new(PATH));
    match again.state_hash() == hash {
        true => Ok(()),
        false => Err("a checkpoint after the restart was lost".to_owned()),
    }
}

/// How many operations the work takes when nothing fails.
fn operations(seed: u64) -> u64 {
    let disk = Arc::new(SimDisk::new(seed));
    work(&disk, seed, &mut Journal::default()).unwrap();
    disk.stats().operations
}

fn cut(seed: u64, after: u64, fate: u64, mode: SyncMode) -> Result<(), String> {
    let disk = Arc::new(SimDisk::new(fate));
    disk.set_sync_mode(mode);
    disk.cut_power_after(after);
    let mut journal = Journal::default();
    let worked = work(&disk, seed, &mut journal);
    disk.crash();
    disk.set_sync_mode(SyncMode::Honest);
    restart(&disk, &journal).map_err(|why| format!("seed {seed} cut {after} fate {fate} ({worked:?}): {why}"))
}

#[test]
fn a_power_cut_leaves_one_whole_checkpoint_and_no_older_than_reported() {
    let mut cuts = 0;
    for seed in 1..=3 {
        let total = operations(seed);
        assert!(total > 100, "the work writes too little to be cut: {total}");
        for after in 0..total {
            for fate in 0..3 {
                cut(seed, after, seed * 1_000_003 + after * 7 + fate, SyncMode::Honest).unwrap();
                cuts += 1;
            }
        }
    }
    println!("{cuts} power cuts");
}

/// The sweep can fail: on a disk whose syncs do nothing it does.
#[test]
fn the_sweep_notices_a_disk_that_lies_about_syncs() {
    let total = operations(1);
    let broken = (0..total)
        .step_by(7)
        .filter(|after| cut(1, *after, *after, SyncMode::Lying).is_err())
        .count();
    assert!(broken > 3, "{broken} broken promises on a lying disk");
}

/// A failed sync has an unknown outcome: the store captures no further checkpoint, still reads, and a
/// restart finds the state before or after.
#[test]
fn a_failed_sync_stops_checkpoints() {
    for nth in 1..=2 {
        let disk = Arc::new(SimDisk::new(nth));
        let store = create(disk.clone(), Path::new(PATH));
        let mut journal = Journal::default();
        apply(&store, 1, &[open_session(1), put(1, 1, "k", b"one")]);
        checkpoint(&store);
        journal.announce(Some(mark(&store)), store.state_hash());
        journal.acknowledge();
        apply(&store, 2, &[put(1, 2, "k", b"two")]);
        journal.announce(Some(mark(&store)), store.state_hash());
        let capture = store.capture(mark(&store)).unwrap();
        disk.fail_sync(nth);
        assert!(matches!(capture.write().unwrap_err(), CheckpointError::Write(_)));
        assert_eq!(store.get(b"k").unwrap().unwrap().value, "two");
        assert_eq!(store.capture(Bytes::new()).unwrap_err(), CaptureError::Stopped);
        disk.crash();
        restart(&disk, &journal).unwrap();
    }
}

/// A full disk fails the checkpoint and leaves the data as it was.
#[test]
fn a_full_disk_loses_nothing_that_was_reported() {
    for bytes_left in [0, 600, 5_000, 20_000, 60_000] {
        let disk = Arc::new(SimDisk::new(bytes_left));
        let store = create(disk.clone(), Path::new(PATH));
        let mut journal = Journal::default();
        let mut chance = SplitMix64::new(5);
        random_entry(&store, &mut chance);
        checkpoint(&store);
        journal.announce(Some(mark(&store)), store.state_hash());
        journal.acknowledge();
        disk.limit_writes(Some(bytes_left));
        let failed = (0..100).find_map(|_| {
            (0..5).for_each(|_| random_entry(&store, &mut chance));
            let capture = store.capture(mark(&store)).unwrap();
            journal.announce(Some(mark(&store)), store.state_hash());
            let error = capture.write().err();
            if error.is_none() {
                journal.acknowledge();
            }
            error
        });
        failed.expect("the disk is full long before");
        store.scan(b"", None, usize::MAX, usize::MAX).unwrap();
        disk.limit_writes(None);
        disk.crash();
        restart(&disk, &journal).unwrap();
    }
}
