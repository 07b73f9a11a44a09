//! The store on a real file: what opening, applying and checkpointing refuse, and what they keep.

// In a test's own functions, too, an unwrap is an assertion.
#![allow(clippy::unwrap_used)]

mod shard_support;

use std::sync::Arc;

use bytes::Bytes;
use shard_support::*;
use storage::disk::{Disk, RealDisk};
use storage::shard::{
    ApplyError, CaptureError, CreateShardError, OpenShardError, ReadError, RowCache, ShardIdentity,
    ShardOptions, ShardStore,
};

fn open(dir: &tempfile::TempDir, identity: &ShardIdentity) -> Result<ShardStore, OpenShardError> {
    ShardStore::open(Arc::new(RealDisk), &dir.path().join("shard"), identity, options())
}

fn created(dir: &tempfile::TempDir) -> ShardStore {
    create(Arc::new(RealDisk), &dir.path().join("shard"))
}

#[test]
fn a_store_is_shared_between_threads() {
    fn shareable<T: Send + Sync + Clone>() {}
    fn movable<T: Send>() {}
    shareable::<ShardStore>();
    movable::<storage::shard::Capture>();
    movable::<storage::shard::Export>();
    movable::<storage::shard::Import>();
}

#[test]
fn a_file_is_opened_by_its_own_replica_only_and_stays_as_it_was() {
    let dir = tempfile::tempdir().unwrap();
    assert!(matches!(
        open(&dir, &identity(1)).unwrap_err(),
        OpenShardError::Missing
    ));
    let store = created(&dir);
    apply(&store, 1, &[open_session(1), put(1, 1, "k", b"kept")]);
    checkpoint(&store);
    let hash = store.state_hash();
    drop(store);

    let stranger = ShardIdentity {
        cluster_id: "other".into(),
        ..identity(1)
    };
    assert!(matches!(
        open(&dir, &stranger).unwrap_err(),
        OpenShardError::WrongCluster { found, .. } if found == "test"
    ));
    assert!(matches!(
        open(&dir, &identity(2)).unwrap_err(),
        OpenShardError::WrongReplica {
            found_replica: 1,
            replica: 2,
            ..
        }
    ));
    let again = ShardStore::create(
        Arc::new(RealDisk),
        &dir.path().join("shard"),
        identity(2),
        options(),
    );
    assert!(matches!(again.unwrap_err(), CreateShardError::Exists));
    // The range in the identity is that of the shard's creation, and no reason to refuse.
    let split = ShardIdentity {
        end: None,
        r#gen: 9,
        ..identity(1)
    };
    let store = open(&dir, &split).unwrap();
    assert_eq!((store.state_hash(), store.range().r#gen), (hash, 3));
    assert_eq!(store.mark().unwrap(), "mark 1");
}

#[test]
fn limits_are_those_of_the_shard_not_of_the_host() {
    let dir = tempfile::tempdir().unwrap();
    drop(created(&dir));
    let path = dir.path().join("shard");
    let store = ShardStore::open(Arc::new(RealDisk), &path, &identity(1), ShardOptions::default());
    assert_eq!(store.unwrap().limits(), options().limits);
}

#[test]
fn what_is_not_a_shard_is_corrupt() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("shard");
    for content in [Vec::new(), vec![7; 20_000]] {
        std::fs::write(&path, &content).unwrap();
        assert!(matches!(
            open(&dir, &identity(1)).unwrap_err(),
            OpenShardError::Corrupt(_)
        ));
        assert_eq!(std::fs::read(&path).unwrap(), content);
    }
}

#[test]
fn leftovers_of_an_interrupted_creation_import_or_rewrite_go_away() {
    let dir = tempfile::tempdir().unwrap();
    let leftovers = ["shard.new", "shard.import", "shard.rewrite"].map(|name| dir.path().join(name));
    std::fs::write(&leftovers[0], b"half a file").unwrap();
    drop(created(&dir));
    std::fs::write(&leftovers[1], b"half a file").unwrap();
    std::fs::write(&leftovers[2], b"half a file").unwrap();
    open(&dir, &identity(1)).unwrap();
    for leftover in &leftovers {
        assert!(!RealDisk.exists(leftover).unwrap());
    }
}

#[test]
fn entries_that_do_not_follow_or_do_not_decode_change_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let store = created(&dir);
    apply(&store, 1, &[open_session(1), put(1, 1, "k", b"one")]);
    let hash = store.state_hash();
    let payload = batch(2, &[put(1, 2, "k", b"two")]);
    assert!(matches!(
        store.apply(at(1), Some(&payload)).unwrap_err(),
        ApplyError::OutOfOrder { .. }
    ));
    let mut newer = payload.to_vec();
    newer[0] = 2;
    assert!(matches!(
        store.apply(at(2), Some(&newer.into())).unwrap_err(),
        ApplyError::Decode(_)
    ));
    assert_eq!((store.state_hash(), store.applied()), (hash, Some(at(1))));
    store.apply(at(2), None).unwrap();
    assert_eq!((store.state_hash(), store.applied()), (hash, Some(at(2))));
}

#[test]
fn one_capture_at_a_time_and_an_abandoned_one_gives_its_rows_back() {
    let dir = tempfile::tempdir().unwrap();
    let store = created(&dir);
    apply(
        &store,
        1,
        &[open_session(1), put(1, 1, "k", b"one"), put(1, 2, "l", b"other")],
    );
    let capture = store.capture(Bytes::from_static(b"first")).unwrap();
    assert_eq!(store.capture(Bytes::new()).unwrap_err(), CaptureError::InProgress);
    // Applied while the checkpoint is in flight: read from memory, and not part of it.
    apply(&store, 2, &[put(1, 3, "k", b"two")]);
    assert_eq!(store.get(b"k").unwrap().unwrap().value, "two");
    assert_eq!(store.get(b"l").unwrap().unwrap().value, "other");
    drop(capture);
    assert_eq!(store.mark(), None);
    let capture = store.capture(Bytes::from_static(b"second")).unwrap();
    apply(&store, 3, &[put(1, 4, "k", b"three")]);
    let report = capture.write().unwrap();
    assert_eq!((report.applied, report.rows_written), (Some(at(2)), 3));
    assert_eq!(store.get(b"k").unwrap().unwrap().value, "three");
    assert_eq!(store.durable_applied(), Some(at(2)));
    drop(store);
    let store = open(&dir, &identity(1)).unwrap();
    assert_eq!(
        (store.applied(), store.mark().unwrap()),
        (Some(at(2)), Bytes::from_static(b"second"))
    );
    assert_eq!(store.get(b"k").unwrap().unwrap().value, "two");
}

#[test]
fn a_checkpoint_writes_only_what_changed() {
    let dir = tempfile::tempdir().unwrap();
    let store = created(&dir);
    apply(
        &store,
        1,
        &[open_session(1), open_session(2), put(1, 1, "k", b"one")],
    );
    let first = store.capture(Bytes::new()).unwrap().write().unwrap();
    assert_eq!((first.rows_written, first.sessions_written), (1, 2));
    apply(&store, 2, &[put(2, 1, "k", b"two")]);
    let second = store.capture(Bytes::new()).unwrap().write().unwrap();
    assert_eq!(
        (second.rows_written, second.rows_removed, second.sessions_written),
        (1, 0, 1)
    );
    let third = store.capture(Bytes::new()).unwrap().write().unwrap();
    assert_eq!((third.rows_written, third.sessions_written), (0, 0));
    assert_eq!(store.stats().dirty_bytes, 0);
}

#[test]
fn versions_superseded_long_ago_are_neither_written_nor_readable() {
    let dir = tempfile::tempdir().unwrap();
    let store = created(&dir);
    apply(&store, 0, &[open_session(1)]);
    for change in 1..=10 {
        apply(
            &store,
            change * 200,
            &[put(1, change, "k", change.to_string().as_bytes())],
        );
    }
    let report = store.capture(Bytes::new()).unwrap().write().unwrap();
    assert!(
        report.rows_written < 6,
        "{report:?}: half a second of history is three or four versions"
    );
    let oldest = store.oldest_revision(b"", None);
    assert!(matches!(
        store.get_at(b"k", oldest - 1).unwrap_err(),
        ReadError::Compacted { .. }
    ));
    assert!(matches!(
        store.get_at(b"k", 11).unwrap_err(),
        ReadError::Future { newest: 10, .. }
    ));
    assert_eq!(
        store.get_at(b"k", oldest).unwrap().unwrap().value,
        oldest.to_string()
    );
}

/// Where a shard is read, what a checkpoint writes stays in memory; elsewhere it comes from the file.
#[test]
fn readers_find_in_memory_what_was_written_if_it_is_kept() {
    let dir = tempfile::tempdir().unwrap();
    let row_cache = RowCache::new(1 << 20);
    let cached = ShardOptions {
        row_cache: row_cache.clone(),
        ..options()
    };
    let path = dir.path().join("shard");
    let store = ShardStore::create(Arc::new(RealDisk), &path, identity(1), cached).unwrap();
    for (index, keeps) in [(1, false), (2, true)] {
        let key = format!("k{index}");
        let before = row_cache.stats();
        store.keep_written_rows(keeps);
        apply(
            &store,
            index,
            &[open_session(index), put(index, 1, &key, b"value")],
        );
        checkpoint(&store);
        let found = store.get(key.as_bytes()).unwrap().expect("it was put");
        assert_eq!((found.value.as_ref(), found.version), (&b"value"[..], 1));
        let (hits, misses) = (
            row_cache.stats().hits - before.hits,
            row_cache.stats().misses - before.misses,
        );
        assert_eq!((hits, misses), if keeps { (1, 0) } else { (0, 1) }, "{key}");
    }
}

/// Rows that were read once come from memory; no reader may tell.
#[test]
fn rows_kept_in_memory_are_those_of_the_file() {
    let dir = tempfile::tempdir().unwrap();
    let cached = ShardOptions {
        row_cache: RowCache::new(1 << 20),
        ..options()
    };
    let path = dir.path().join("shard");
    let store = ShardStore::create(Arc::new(RealDisk), &path, identity(1), cached).unwrap();
    let value = |key: &str| {
        store
            .get(key.as_bytes())
            .unwrap()
            .map(|pair| (pair.value, pair.version))
    };
    apply(
        &store,
        1,
        &[open_session(1), put(1, 1, "k", b"first"), put(1, 2, "gone", b"x")],
    );
    checkpoint(&store);
    let first = store.revision() - 1;
    for _ in 0..2 {
        assert_eq!(value("k"), Some((Bytes::from_static(b"first"), 1)));
        assert_eq!(value("gone"), Some((Bytes::from_static(b"x"), 1)));
    }
    apply(&store, 2, &[put(1, 3, "k", b"second"), delete(1, 4, "gone")]);
    assert_eq!(value("k"), Some((Bytes::from_static(b"second"), 2)));
    checkpoint(&store);
    for _ in 0..2 {
        assert_eq!(value("k"), Some((Bytes::from_static(b"second"), 2)));
        assert_eq!(value("gone"), None);
        let then = store.get_at(b"k", first).unwrap().map(|pair| pair.value);
        assert_eq!(then, Some(Bytes::from_static(b"first")));
    }
    let found = store.get_in_range(b"k", None).unwrap().expect("in the shard");
    assert_eq!(
        (found.pair.map(|pair| pair.version), found.revision),
        (Some(2), store.revision())
    );
    assert_eq!(store.get_in_range(b"z", None).unwrap(), None);
}
