//! A bit that flipped at rest is found, or was in a byte that means nothing: data that differs from
//! what was written is never served, neither by a read, nor at open, nor in a snapshot.

// In a test's own functions, too, an unwrap is an assertion.
#![allow(clippy::unwrap_used)]

mod shard_support;

use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;
use shard_support::*;
use storage::seed::SplitMix64;
use storage::shard::{ReadError, ShardOptions, ShardStore};
use storage::sim_disk::SimDisk;

const PATH: &str = "/shard";

/// Pages are read from the disk each time.
fn uncached() -> ShardOptions {
    ShardOptions {
        cache_bytes: 0,
        ..options()
    }
}

fn filled(disk: &Arc<SimDisk>) -> ShardStore {
    let store = ShardStore::create(disk.clone(), Path::new(PATH), identity(1), uncached()).unwrap();
    apply(&store, 1, &[open_session(1), open_session(2)]);
    for sequence in 1..=60 {
        let key = format!("k{}", sequence % 40);
        let value = format!("value {sequence} ").repeat(12);
        apply(
            &store,
            1 + sequence,
            &[put(1 + sequence % 2, sequence, &key, value.as_bytes())],
        );
        if sequence % 20 == 0 {
            checkpoint(&store);
        }
    }
    store
}

fn flips(count: usize, len: usize) -> impl Iterator<Item = (u64, u8)> {
    let mut chance = SplitMix64::new(42);
    (0..count).map(move |_| (chance.below(len as u64), chance.below(8) as u8))
}

/// Where the file has bytes other than zero: flips elsewhere hit nothing.
fn used_blocks(image: &[u8]) -> Vec<u64> {
    let used = |(_, block): &(usize, &[u8])| block.iter().any(|byte| *byte != 0);
    let blocks = image.chunks(64).enumerate().filter(used);
    blocks.map(|(block, _)| block as u64 * 64).collect()
}

#[test]
fn a_damaged_file_is_refused_at_open_or_holds_what_was_written() {
    let disk = Arc::new(SimDisk::new(3));
    let store = filled(&disk);
    let (expected, hash) = (pairs(&store), store.state_hash());
    drop(store);
    let image = disk.image(Path::new(PATH)).unwrap();
    let used = used_blocks(&image);
    let mut refused = 0;
    for (at, bit) in flips(1_500, used.len() * 64) {
        let byte = used[at as usize / 64] + at % 64;
        disk.put_image(Path::new(PATH), image.clone()).unwrap();
        disk.flip(Path::new(PATH), byte, bit).unwrap();
        match ShardStore::open(disk.clone(), Path::new(PATH), &identity(1), uncached()) {
            Err(_) => refused += 1,
            Ok(store) => {
                assert_eq!(store.state_hash(), hash, "byte {byte} bit {bit}");
                assert_eq!(pairs(&store), expected, "byte {byte} bit {bit}");
            }
        }
    }
    assert!(refused > 100, "only {refused} of 1500 flips were noticed");
}

#[test]
fn damage_under_an_open_store_is_an_error_never_data() {
    let disk = Arc::new(SimDisk::new(4));
    let store = filled(&disk);
    let expected = pairs(&store);
    let image = disk.image(Path::new(PATH)).unwrap();
    let mut used = used_blocks(&image);
    // Most of the used pages are of older checkpoints; aim at values.
    used.retain(|at| {
        image[*at as usize..*at as usize + 64]
            .windows(5)
            .any(|text| text == b"value")
    });
    let (mut noticed, mut stopped_exports) = (0, 0);
    let sent: Vec<Bytes> = store.export().unwrap().map(|frame| frame.unwrap()).collect();
    for (at, bit) in flips(400, used.len() * 64) {
        let byte = used[at as usize / 64] + at % 64;
        disk.flip(Path::new(PATH), byte, bit).unwrap();
        for (key, value) in &expected {
            match store.get(key.as_bytes()) {
                Ok(pair) => assert_eq!(&pair.unwrap().value, value, "byte {byte} bit {bit}"),
                Err(ReadError::Corrupt(_)) => noticed += 1,
                Err(other) => panic!("byte {byte} bit {bit}: {other}"),
            }
        }
        match store.export().map(Iterator::collect::<Result<Vec<_>, _>>) {
            Ok(Ok(frames)) => assert_eq!(frames, sent, "byte {byte} bit {bit}"),
            Ok(Err(_)) | Err(_) => stopped_exports += 1,
        }
        disk.flip(Path::new(PATH), byte, bit).unwrap();
    }
    assert!(noticed > 50, "only {noticed} reads met the damage");
    assert!(
        stopped_exports > 50,
        "only {stopped_exports} exports met the damage"
    );
}
