//! A file that lost most of its rows is rewritten: it gets small, says what it said before, and a
//! power cut anywhere in between leaves the old file or the new one.

// In a test's own functions, too, an unwrap is an assertion.
#![allow(clippy::unwrap_used)]

mod shard_support;

use std::path::Path;
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use shard_support::*;
use storage::disk::{Disk, RealDisk};
use storage::engine::WriteEngineError;
use storage::failpoint::{Action, Failpoints, Firing};
use storage::shard::{
    CaptureError, CheckpointError, RewriteError, RewriteLimits, ShardIdentity, ShardOptions, ShardStore,
};
use storage::sim_disk::{SimDisk, SyncMode};

const PATH: &str = "/shard";

/// Writes `keys` keys and deletes nine of ten, each half with its own checkpoint, the superseded
/// versions out of the file.
fn fill_and_delete(store: &ShardStore, keys: u64, value_bytes: usize) {
    let value = vec![7; value_bytes];
    let name = |key: u64| format!("k{key:06}");
    let mut sequence = 0;
    let mut next = || {
        sequence += 1;
        sequence
    };
    apply(store, 0, &[open_session(1)]);
    for chunk in (0..keys).collect::<Vec<_>>().chunks(100) {
        let puts: Vec<_> = chunk
            .iter()
            .map(|key| put(1, next(), &name(*key), &value))
            .collect();
        apply(store, 0, &puts);
    }
    checkpoint(store);
    for chunk in (0..keys).collect::<Vec<_>>().chunks(100) {
        let doomed = chunk.iter().filter(|key| **key % 10 != 0);
        let deletes: Vec<_> = doomed.map(|key| delete(1, next(), &name(*key))).collect();
        apply(store, 100, &deletes);
    }
    // Past the retention, so that the deleted versions leave with the checkpoint after.
    apply(store, 900, &[put(1, next(), "last", b"one")]);
    apply(store, 1_800, &[put(1, next(), "last", b"two")]);
    checkpoint(store);
}

fn names(disk: &dyn Disk, dir: &Path) -> Vec<String> {
    let paths = disk.list(dir).unwrap();
    let name = |path: &std::path::PathBuf| path.file_name().unwrap().to_string_lossy().into_owned();
    paths.iter().map(name).collect()
}

#[test]
fn a_file_that_lost_most_of_its_rows_gives_its_space_back() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("shard");
    let store = create(Arc::new(RealDisk), &path);
    fill_and_delete(&store, 20_000, 500);
    let before = store.file_size().unwrap();
    assert!(before.taken_bytes > 10_000_000, "{before:?}");
    assert!(before.live_bytes < before.taken_bytes / 5, "{before:?}");
    let (hash, mark) = (store.state_hash(), store.mark());
    let old = store.export().unwrap();

    let report = store.rewrite_if_sparse().unwrap().unwrap();
    assert_eq!(
        (report.before, report.after),
        (before, store.file_size().unwrap())
    );
    // One version of "last" more than there are keys.
    assert_eq!((report.rows, report.sessions), (2_002, 1));
    assert!(report.after.taken_bytes < before.taken_bytes / 5, "{report:?}");
    let on_disk = std::fs::metadata(&path).unwrap().len();
    assert!(on_disk <= 2 * report.after.taken_bytes, "{on_disk} of {report:?}");
    assert_eq!(names(&RealDisk, dir.path()), ["shard"]);

    // An export begun before goes on with the old file, one begun now says the same.
    let old: Vec<_> = old.map(|frame| frame.unwrap()).collect();
    let new: Vec<_> = store.export().unwrap().map(|frame| frame.unwrap()).collect();
    assert_eq!(old, new);
    assert_eq!((store.state_hash(), store.mark()), (hash, mark.clone()));
    assert_eq!(pairs(&store).len(), 2_001);
    assert!(store.rewrite_if_sparse().unwrap().is_none());
    drop(store);
    let store = reopen(Arc::new(RealDisk), &path);
    assert_eq!((store.state_hash(), store.mark()), (hash, mark));
    assert_eq!(store.file_size().unwrap().live_bytes, report.after.live_bytes);
}

#[test]
fn a_full_file_a_small_one_and_one_of_other_limits_are_left_alone() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("shard");
    let store = create(Arc::new(RealDisk), &path);
    let value = vec![7; 400];
    apply(&store, 0, &[open_session(1)]);
    for sequence in 1..=5_000 {
        apply(&store, 0, &[put(1, sequence, &format!("k{sequence:05}"), &value)]);
        if sequence % 500 == 0 {
            checkpoint(&store);
            assert!(store.rewrite_if_sparse().unwrap().is_none(), "at {sequence}");
        }
    }
    drop(store);
    let open = |file_bytes_min, live_percent_min| {
        let rewrite = RewriteLimits {
            file_bytes_min,
            live_percent_min,
        };
        let options = ShardOptions { rewrite, ..options() };
        let store = ShardStore::open(Arc::new(RealDisk), &path, &identity(1), options).unwrap();
        store.rewrite_if_sparse().unwrap()
    };
    assert!(open(64 << 20, 100).is_none());
    assert!(open(0, 20).is_none());
    assert!(open(0, 100).is_some());
}

/// A share that no file reaches: a rewrite must not follow a rewrite for nothing.
#[test]
fn a_file_that_stays_sparse_is_rewritten_again_only_when_that_pays() {
    let disk = Arc::new(SimDisk::new(1));
    let eager = ShardOptions {
        rewrite: RewriteLimits {
            file_bytes_min: 0,
            live_percent_min: 1_000,
        },
        ..options()
    };
    let store = ShardStore::create(disk, Path::new(PATH), identity(1), eager).unwrap();
    fill_and_delete(&store, 300, 500);
    assert!(store.rewrite_if_sparse().unwrap().is_some());
    assert!(store.rewrite_if_sparse().unwrap().is_none());
    for key in 0..30 {
        apply(
            &store,
            2_000 + key,
            &[delete(1, 1_000 + key, &format!("k{:06}", key * 10))],
        );
    }
    apply(&store, 9_000, &[open_session(1)]);
    apply(&store, 9_900, &[open_session(1)]);
    checkpoint(&store);
    assert!(store.rewrite_if_sparse().unwrap().is_some());
}

#[test]
fn entries_go_on_and_what_a_checkpoint_has_not_written_stays() {
    let disk = Arc::new(SimDisk::new(1));
    let store = create(disk.clone(), Path::new(PATH));
    fill_and_delete(&store, 1_000, 400);
    // In memory only: a new key, a deletion, an overwritten value.
    apply(
        &store,
        2_000,
        &[
            put(1, 5_001, "fresh", b"new"),
            delete(1, 5_002, "k000010"),
            put(1, 5_003, "k000020", b"other"),
        ],
    );
    let (hash, all) = (store.state_hash(), pairs(&store));
    let durable = store.durable_applied();
    store.rewrite_if_sparse().unwrap().unwrap();
    assert_eq!((store.state_hash(), pairs(&store)), (hash, all.clone()));
    assert_eq!(store.durable_applied(), durable);
    // The next checkpoint removes from the new file what left memory since.
    apply(&store, 2_900, &[put(1, 5_004, "last", b"three")]);
    apply(&store, 3_800, &[open_session(1)]);
    checkpoint(&store);
    let (hash, live) = (store.state_hash(), store.file_size().unwrap().live_bytes);
    drop(store);
    let store = reopen(disk, Path::new(PATH));
    assert_eq!(
        (store.state_hash(), store.file_size().unwrap().live_bytes),
        (hash, live)
    );
}

#[test]
fn a_rewrite_does_not_meet_a_checkpoint_or_an_import() {
    let disk = Arc::new(SimDisk::new(1));
    let store = create(disk.clone(), Path::new(PATH));
    fill_and_delete(&store, 1_000, 400);
    let busy = |store: &ShardStore| {
        assert!(matches!(
            store.rewrite_if_sparse().unwrap_err(),
            RewriteError::Busy(CaptureError::InProgress)
        ));
    };
    let capture = store.capture(Bytes::new()).unwrap();
    busy(&store);
    drop(capture);
    let import = store.begin_import().unwrap();
    busy(&store);
    drop(import);
    assert!(store.rewrite_if_sparse().unwrap().is_some());
    disk.fail_sync(1);
    apply(&store, 3_000, &[put(1, 9_000, "k", b"v")]);
    let unknown = store.capture(Bytes::new()).unwrap().write().unwrap_err();
    assert!(matches!(unknown, CheckpointError::Write(_)));
    assert!(matches!(
        store.rewrite_if_sparse().unwrap_err(),
        RewriteError::Busy(CaptureError::Stopped)
    ));
}

/// In the middle of a rewrite entries are applied and read, a second rewrite is refused, and a
/// checkpoint that was captured waits and goes to the new file.
#[test]
fn a_rewrite_stalls_no_entry_and_a_checkpoint_waits_for_it() {
    let disk = Arc::new(SimDisk::new(1));
    let points = Failpoints::new(1);
    let hooked = ShardOptions {
        failpoints: points.host(1),
        ..options()
    };
    let store = ShardStore::create(disk.clone(), Path::new(PATH), identity(1), hooked).unwrap();
    fill_and_delete(&store, 1_000, 400);
    let writer = Arc::new(Mutex::new(None));
    let (inside, started) = (store.clone(), writer.clone());
    points.arm(
        1,
        "shard.rewrite.before_replace",
        Action::Continue,
        Firing::Nth(1),
    );
    points.when_fired(move |_| {
        apply(&inside, 2_000, &[put(1, 5_001, "during", b"the rewrite")]);
        assert_eq!(inside.get(b"last").unwrap().unwrap().value, "two");
        assert!(matches!(
            inside.rewrite_if_sparse().unwrap_err(),
            RewriteError::Busy(CaptureError::InProgress)
        ));
        let capture = inside.capture(mark(&inside)).unwrap();
        *started.lock().unwrap() = Some(std::thread::spawn(move || capture.write()));
        apply(&inside, 2_000, &[put(1, 5_002, "after", b"the capture")]);
    });
    let report = store.rewrite_if_sparse().unwrap().unwrap();
    assert_eq!(report.rows, 102);
    let writer = writer.lock().unwrap().take().unwrap();
    let written = writer.join().unwrap().unwrap();
    assert_eq!(
        (written.rows_written, store.durable_applied()),
        (1, written.applied)
    );
    assert_eq!(store.get(b"after").unwrap().unwrap().value, "the capture");
    drop((points, store));
    let store = reopen(disk, Path::new(PATH));
    assert_eq!(store.get(b"during").unwrap().unwrap().value, "the rewrite");
    assert_eq!(store.get(b"after").unwrap(), None);
}

/// A capture whose checkpoint would go to a file that may have lost its name is not written.
#[test]
fn a_capture_is_not_written_after_a_rewrite_that_failed_half_way() {
    let disk = Arc::new(SimDisk::new(1));
    let points = Failpoints::new(1);
    let hooked = ShardOptions {
        failpoints: points.host(1),
        ..options()
    };
    let store = ShardStore::create(disk.clone(), Path::new(PATH), identity(1), hooked).unwrap();
    fill_and_delete(&store, 1_000, 400);
    let (captured, inside) = (Arc::new(Mutex::new(None)), store.clone());
    let slot = captured.clone();
    points.arm(
        1,
        "shard.rewrite.after_replace",
        Action::ReturnError,
        Firing::Nth(1),
    );
    points.when_fired(move |_| *slot.lock().unwrap() = Some(inside.capture(Bytes::new()).unwrap()));
    let failed = store.rewrite_if_sparse().unwrap_err();
    assert!(matches!(failed, RewriteError::UnknownOutcome(_)));
    let capture = captured.lock().unwrap().take().unwrap();
    assert!(matches!(
        capture.write().unwrap_err(),
        CheckpointError::Write(WriteEngineError::Stopped)
    ));
    assert_eq!(store.capture(Bytes::new()).unwrap_err(), CaptureError::Stopped);
}

#[test]
fn a_damaged_file_is_not_copied_and_a_full_disk_leaves_the_old_one() {
    let disk = Arc::new(SimDisk::new(1));
    let store = ShardStore::create(disk.clone(), Path::new(PATH), identity(1), options()).unwrap();
    fill_and_delete(&store, 1_000, 400);
    let hash = store.state_hash();
    disk.limit_writes(Some(10_000));
    assert!(store.rewrite_if_sparse().is_err());
    disk.limit_writes(None);
    assert_eq!(names(&*disk, Path::new("/")), ["shard"]);
    assert_eq!(store.state_hash(), hash);
    drop(store);

    let uncached = ShardOptions {
        cache_bytes: 0,
        ..options()
    };
    let store = ShardStore::open(disk.clone(), Path::new(PATH), &identity(1), uncached).unwrap();
    // The last key's rows, wherever the engine put them.
    let image = disk.image(Path::new(PATH)).unwrap();
    let found = image.windows(4).enumerate().filter(|(_, bytes)| bytes == b"last");
    for (at, _) in found.collect::<Vec<_>>() {
        disk.flip(Path::new(PATH), at as u64, 0).unwrap();
    }
    let refused = store.rewrite_if_sparse().unwrap_err();
    assert!(matches!(refused, RewriteError::Read(_)), "{refused}");
    assert_eq!(names(&*disk, Path::new("/")), ["shard"]);
}

/// Creates, deletes, rewrites, goes on. Answers with the states that a restart may find, or the error.
fn work(disk: &Arc<SimDisk>, cut_after: Option<u64>) -> (Vec<u64>, Result<u64, String>) {
    let store = create(disk.clone(), Path::new(PATH));
    fill_and_delete(&store, 200, 900);
    let mut allowed = vec![store.state_hash()];
    apply(&store, 2_000, &[put(1, 5_000, "fresh", b"not in the file")]);
    let begun = disk.stats().operations;
    if let Some(after) = cut_after {
        disk.cut_power_after(after);
    }
    let worked = (|| {
        let report = store.rewrite_if_sparse().map_err(|error| error.to_string())?;
        assert!(report.is_some());
        let capture = store.capture(mark(&store)).map_err(|error| error.to_string())?;
        allowed.push(store.state_hash());
        capture.write().map_err(|error| error.to_string())?;
        allowed.remove(0);
        Ok(())
    })();
    drop(store);
    (allowed, worked.map(|()| disk.stats().operations - begun))
}

/// Err: the promise is broken.
fn restart(disk: &Arc<SimDisk>, allowed: &[u64]) -> Result<(), String> {
    let store = ShardStore::open(disk.clone(), Path::new(PATH), &identity(1), options())
        .map_err(|error| format!("not opened: {error}"))?;
    if !allowed.contains(&store.state_hash()) {
        return Err("another state than the newest checkpoint's".into());
    }
    assert_eq!(names(&**disk, Path::new("/")), ["shard"]);
    let found = pairs(&store);
    assert!(found.len() == 21 || found.len() == 22, "{}", found.len());
    apply(
        &store,
        100_000,
        &[open_session(9), put(9, 1, "after", b"the cut")],
    );
    checkpoint(&store);
    store.rewrite_if_sparse().map_err(|error| error.to_string())?;
    let hash = store.state_hash();
    drop(store);
    match reopen(disk.clone(), Path::new(PATH)).state_hash() == hash {
        true => Ok(()),
        false => Err("a checkpoint after the restart was lost".into()),
    }
}

fn cut(after: u64, fate: u64, mode: SyncMode) -> Result<(), String> {
    let disk = Arc::new(SimDisk::new(fate));
    disk.set_sync_mode(mode);
    let (allowed, worked) = work(&disk, Some(after));
    disk.crash();
    disk.set_sync_mode(SyncMode::Honest);
    restart(&disk, &allowed).map_err(|why| format!("cut {after} fate {fate} ({worked:?}): {why}"))
}

fn operations() -> u64 {
    work(&Arc::new(SimDisk::new(0)), None).1.unwrap()
}

#[test]
fn a_power_cut_at_any_operation_leaves_the_old_file_or_the_new() {
    let total = operations();
    assert!(total > 20, "the rewrite writes too little to be cut: {total}");
    for after in 0..=total {
        for fate in 0..12 {
            cut(after, after * 31 + fate, SyncMode::Honest).unwrap();
        }
    }
    println!("{total} operations");
}

/// The sweep can fail: without syncs the new file has the name before it has its content.
#[test]
fn the_sweep_notices_a_disk_that_lies_about_syncs() {
    let broken = (0..=operations()).filter(|after| {
        let caught = std::panic::catch_unwind(|| cut(*after, *after, SyncMode::Lying));
        !matches!(caught, Ok(Ok(())))
    });
    assert!(broken.count() > 3);
}

/// Which of the two files has the name is not known then: nothing more is written to either.
#[test]
fn a_rename_that_fails_stops_the_store() {
    let total = operations();
    let mut stopped = 0;
    for after in 0..total {
        let disk = Arc::new(SimDisk::new(after));
        let store = create(disk.clone(), Path::new(PATH));
        fill_and_delete(&store, 200, 900);
        disk.cut_power_after(after);
        if let Err(RewriteError::UnknownOutcome(_)) = store.rewrite_if_sparse() {
            assert_eq!(store.capture(Bytes::new()).unwrap_err(), CaptureError::Stopped);
            assert_eq!(store.stats().keys, 21);
            stopped += 1;
        }
    }
    assert_eq!(stopped, 1);
}

#[test]
fn the_identity_of_a_rewritten_file_is_the_replicas_own() {
    let disk = Arc::new(SimDisk::new(1));
    let store = create(disk.clone(), Path::new(PATH));
    fill_and_delete(&store, 1_000, 400);
    store.rewrite_if_sparse().unwrap().unwrap();
    drop(store);
    let other = ShardIdentity {
        replica_id: 2,
        ..identity(1)
    };
    ShardStore::open(disk.clone(), Path::new(PATH), &other, options()).unwrap_err();
    reopen(disk, Path::new(PATH));
}
