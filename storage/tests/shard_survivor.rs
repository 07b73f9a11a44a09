//! A shard that lost its majority goes on from one survivor's file: all that was in it is there, under another replica's
//! name, and nothing of the old group's revisions or ranges comes again.

// In a test's own functions, too, an unwrap is an assertion.
#![allow(clippy::unwrap_used)]

mod shard_support;

use std::path::Path;
use std::sync::Arc;

use shard_support::*;
use storage::disk::Disk;
use storage::failpoint::{Action, Failpoints, Firing};
use storage::shard::command::Mutation;
use storage::shard::{
    NewGroup, OpenShardError, OutcomeKind, Position, Refusal, ShardOptions, ShardStore, Split, Successor,
    SurvivorError, encode_new_group, encode_split,
};
use storage::sim_disk::SimDisk;

const OLD: &str = "/s7-r1";
const NEW: &str = "/s7-r2";

fn survivor(disk: &Arc<dyn Disk>) {
    let store = create(disk.clone(), Path::new(OLD));
    apply(&store, 0, &[open_session(1)]);
    apply(&store, 0, &[put(1, 1, "b", b"one"), put(1, 2, "c", b"two")]);
    checkpoint(&store);
}

fn begin(disk: &Arc<dyn Disk>, options: ShardOptions) -> Result<ShardStore, SurvivorError> {
    ShardStore::copy_survivor(
        disk.clone(),
        &identity(1),
        Path::new(OLD),
        Path::new(NEW),
        options,
    )
}

fn new_group(generation: u64) -> bytes::Bytes {
    encode_new_group(NewGroup {
        stamped_ms: 10,
        r#gen: generation,
        revisions_skipped: 1_000,
    })
}

#[test]
fn a_successor_has_all_that_the_survivor_had() {
    let disk: Arc<dyn Disk> = Arc::new(SimDisk::new(1));
    survivor(&disk);
    let store = begin(&disk, options()).unwrap();
    let position = Position { term: 9, index: 500 };
    let outcomes = store.apply(position, Some(&new_group(4))).unwrap();
    assert!(
        matches!(outcomes[0].kind, OutcomeKind::Applied { .. }),
        "{outcomes:?}"
    );
    store.capture("mark".into()).unwrap().write().unwrap();
    assert!(!disk.exists(Path::new(NEW)).unwrap(), "it has no name yet");
    drop(store);
    ShardStore::make_over(&*disk, &identity(1), &identity(2), Path::new(NEW), &options()).unwrap();

    let store = ShardStore::open(disk.clone(), Path::new(NEW), &identity(2), options()).unwrap();
    assert_eq!((store.generation(), store.revision()), (4, 1_002));
    assert_eq!(
        store.oldest_revision(b"", None),
        1_002,
        "whoever follows changes reads anew"
    );
    assert_eq!(store.applied(), Some(position));
    let read = |key: &str| store.get(key.as_bytes()).unwrap().unwrap().value;
    assert_eq!((&read("b")[..], &read("c")[..]), (&b"one"[..], &b"two"[..]));
    // The session goes on: what was answered before is answered again.
    let again = Mutation {
        r#gen: 4,
        ..put(1, 2, "c", b"two")
    };
    let retried = batch(10, &[again]);
    let at = Position { term: 9, index: 501 };
    assert!(store.apply(at, Some(&retried)).unwrap()[0].replayed);

    let untouched = reopen(disk, Path::new(OLD));
    assert_eq!((untouched.generation(), untouched.revision()), (3, 2));
}

#[test]
fn a_range_version_is_not_given_twice() {
    let disk: Arc<dyn Disk> = Arc::new(SimDisk::new(1));
    survivor(&disk);
    let store = begin(&disk, options()).unwrap();
    let outcomes = store
        .apply(Position { term: 9, index: 500 }, Some(&new_group(3)))
        .unwrap();
    assert_eq!(outcomes[0].kind, OutcomeKind::Refused(Refusal::StaleRange));
    assert_eq!((store.generation(), store.revision()), (3, 2));
}

#[test]
fn an_attempt_that_failed_is_made_again() {
    let disk: Arc<dyn Disk> = Arc::new(SimDisk::new(1));
    survivor(&disk);
    let registry = Failpoints::new(1);
    registry.arm(0, "shard.rewrite.piece", Action::ReturnError, Firing::Nth(1));
    let failing = ShardOptions {
        failpoints: registry.host(0),
        ..options()
    };
    assert!(begin(&disk, failing).is_err());
    let store = begin(&disk, options()).unwrap();
    assert_eq!(store.revision(), 2);
}

#[test]
fn another_replicas_file_is_refused() {
    let disk: Arc<dyn Disk> = Arc::new(SimDisk::new(1));
    survivor(&disk);
    let (old, new) = (Path::new(OLD), Path::new(NEW));
    let refused = ShardStore::copy_survivor(disk.clone(), &identity(5), old, new, options()).unwrap_err();
    assert!(
        matches!(refused, SurvivorError::Open(OpenShardError::WrongReplica { .. })),
        "{refused}"
    );
}

/// A split that only the survivor's log has: its half of the new shard is not lost with the fresh id.
#[test]
fn a_split_in_the_rest_of_the_log_is_the_survivors() {
    let disk: Arc<dyn Disk> = Arc::new(SimDisk::new(1));
    survivor(&disk);
    let store = begin(&disk, options()).unwrap();
    let split = Split {
        r#gen: 3,
        key: "c".into(),
        shard: 8,
        successors: vec![Successor { of: 1, replica: 30 }],
        mark: "mark of 30".into(),
    };
    let at = Position { term: 1, index: 90 };
    store.apply(at, Some(&encode_split(5, split))).unwrap();
    let heirs = store.heirs();
    let [heir] = &heirs[..] else { panic!("{heirs:?}") };
    assert_eq!((heir.shard_id, heir.replica_id), (8, 30));
    assert!(
        store.capture("early".into()).is_err(),
        "its half is not on the disk yet"
    );
    let half = Path::new("/s8-r30");
    heir.write(&*disk, half, &identity(1), 1 << 20, &options().failpoints)
        .unwrap();
    store
        .apply(Position { term: 9, index: 500 }, Some(&new_group(5)))
        .unwrap();
    store.capture("mark".into()).unwrap().write().unwrap();
    assert_eq!((store.generation(), pairs(&store).len()), (5, 1));
}
