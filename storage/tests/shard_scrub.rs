//! Scrubs: replicas that hold the same say the same, whatever their files look like, and one that does not is found.

// In a test's own functions, too, an unwrap is an assertion.
#![allow(clippy::unwrap_used)]

mod shard_support;

use std::path::Path;
use std::sync::Arc;

use shard_support::*;
use storage::shard::{ScrubError, ScrubPoint, Scrubbed, ShardOptions, ShardStore, encode_scrub};
use storage::sim_disk::SimDisk;

const A: &str = "/a";
const B: &str = "/b";

/// Applies an entry that asks for a scrub, and takes it.
fn ask(store: &ShardStore, id: u64) -> ScrubPoint {
    let index = store.applied().map_or(1, |applied| applied.index + 1);
    store.apply(at(index), Some(&encode_scrub(20, id))).unwrap();
    let point = store.take_scrub().expect("it was asked for");
    assert_eq!((point.id, point.at), (id, at(index)));
    assert_eq!(store.take_scrub(), None, "taken once");
    point
}

fn scrub(store: &ShardStore) -> Result<Scrubbed, ScrubError> {
    store.scrub(&ask(store, 1))
}

/// The same entries on both; one has its rows in the file, the other in memory.
fn replicas(disk: &Arc<SimDisk>) -> [ShardStore; 2] {
    [A, B].map(|path| {
        let store = create(disk.clone(), Path::new(path));
        apply(&store, 1, &[open_session(1)]);
        // More keys than are taken under one lock.
        for sequence in 1..=600 {
            apply(&store, 2, &[put(1, sequence, &format!("k{sequence}"), b"value")]);
        }
        apply(&store, 3, &[delete(1, 601, "k7"), put(1, 602, "k8", b"newer")]);
        if path == A {
            checkpoint(&store);
        }
        store
    })
}

#[test]
fn equal_replicas_agree_wherever_their_rows_lie() {
    let disk = Arc::new(SimDisk::new(1));
    let [a, b] = replicas(&disk);
    let (a_scrubbed, b_scrubbed) = (scrub(&a).unwrap(), scrub(&b).unwrap());
    assert_eq!(a_scrubbed, b_scrubbed);
    assert_eq!(a_scrubbed.keys, 599);
    // After a restart, and after a snapshot, too.
    checkpoint(&a);
    let before = scrub(&a).unwrap();
    checkpoint(&a);
    drop(a);
    let a = reopen(disk.clone(), Path::new(A));
    let mut import = b.begin_import().unwrap();
    for frame in a.export().unwrap() {
        import.push(frame.unwrap()).unwrap();
    }
    b.install(import.finish().unwrap()).unwrap();
    let (a_scrubbed, b_scrubbed) = (scrub(&a).unwrap(), scrub(&b).unwrap());
    assert_eq!(a_scrubbed, b_scrubbed);
    assert_eq!(before.keys, a_scrubbed.keys);
}

/// Replaying the log gives the same number as at the first time: the entry is part of the log.
#[test]
fn a_replayed_scrub_says_the_same() {
    let disk = Arc::new(SimDisk::new(1));
    let [a, b] = replicas(&disk);
    checkpoint(&b);
    drop(b);
    let b = reopen(disk.clone(), Path::new(B));
    assert_eq!(scrub(&a).unwrap(), scrub(&b).unwrap());
}

#[test]
fn what_is_done_after_the_point_does_not_count() {
    let disk = Arc::new(SimDisk::new(1));
    let [a, b] = replicas(&disk);
    let (a_point, b_point) = (ask(&a, 1), ask(&b, 1));
    apply(&a, 4, &[put(1, 603, "k9", b"later"), delete(1, 604, "k10")]);
    assert_eq!(a.scrub(&a_point).unwrap(), b.scrub(&b_point).unwrap());
}

#[test]
fn another_value_or_session_shows() {
    let disk = Arc::new(SimDisk::new(1));
    let [a, b] = replicas(&disk);
    let same = scrub(&a).unwrap();
    assert_eq!(scrub(&b).unwrap(), same);
    apply(&a, 4, &[put(1, 603, "k9", b"one")]);
    apply(&b, 4, &[put(1, 603, "k9", b"two")]);
    assert_ne!(scrub(&a).unwrap().checksum, scrub(&b).unwrap().checksum);
    let [a, b] = {
        let disk = Arc::new(SimDisk::new(2));
        replicas(&disk)
    };
    apply(&a, 4, &[open_session(2)]);
    apply(&b, 4, &[open_session(3)]);
    assert_ne!(scrub(&a).unwrap().checksum, scrub(&b).unwrap().checksum);
}

/// A row that was changed behind the machine's back differs from what was applied, without any peer; and from the peers'
/// once a restart has taken it for what was applied.
#[test]
fn a_spoilt_row_is_found_before_and_after_a_restart() {
    let disk = Arc::new(SimDisk::new(1));
    let [a, b] = replicas(&disk);
    assert!(a.spoil(b"k9"));
    assert!(!a.spoil(b"absent"));
    assert!(matches!(scrub(&a), Err(ScrubError::Differs { keys: 599, .. })));
    let sound = scrub(&b).unwrap();
    checkpoint(&a);
    drop(a);
    let a = reopen(disk.clone(), Path::new(A));
    assert_ne!(scrub(&a).unwrap().checksum, sound.checksum);
}

#[test]
fn a_damaged_row_is_found() {
    let disk = Arc::new(SimDisk::new(1));
    let [a, _] = replicas(&disk);
    drop(a);
    // Pages that are cached would hide what the disk says.
    let uncached = ShardOptions {
        cache_bytes: 0,
        ..options()
    };
    let a = ShardStore::open(disk.clone(), Path::new(A), &identity(1), uncached).unwrap();
    scrub(&a).unwrap();
    let image = disk.image(Path::new(A)).unwrap();
    let found = image
        .windows(5)
        .enumerate()
        .filter(|(_, bytes)| bytes == b"newer");
    for (at, _) in found {
        disk.flip(Path::new(A), at as u64, 0).unwrap();
    }
    assert!(matches!(scrub(&a), Err(ScrubError::Unreadable(_))), "k8");
}

#[test]
fn a_scrub_that_is_overtaken_is_no_finding() {
    let disk = Arc::new(SimDisk::new(1));
    let [a, _] = replicas(&disk);
    let point = ask(&a, 1);
    apply(&a, 4, &[put(1, 603, "k9", b"later"), compact(1, 604, "k9", 603)]);
    let overtaken = a.scrub(&point);
    assert!(
        matches!(overtaken, Err(ScrubError::Overtaken(_))),
        "{overtaken:?}"
    );
}
