//! Snapshots: a checkpoint goes out in frames and comes back whole, or not at all.

// In a test's own functions, too, an unwrap is an assertion.
#![allow(clippy::unwrap_used)]

mod shard_support;

use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;
use shard_support::*;
use storage::disk::Disk;
use storage::shard::{CaptureError, FrameError, ImportError, InstallError, ShardIdentity, ShardStore};
use storage::sim_disk::SimDisk;

struct Pair {
    disk: Arc<SimDisk>,
    sender: ShardStore,
    receiver: ShardStore,
}

const RECEIVER: &str = "/receiver";

/// A sender with some history in its checkpoint and more in memory, and a receiver with other data.
fn pair() -> Pair {
    let disk = Arc::new(SimDisk::new(1));
    let sender = create(disk.clone(), Path::new("/sender"));
    apply(&sender, 1, &[open_session(1), open_session(2)]);
    let megabyte = vec![7; 1 << 20];
    for sequence in 1..=3 {
        apply(
            &sender,
            2,
            &[put(1, sequence, &format!("k{sequence}"), &megabyte)],
        );
    }
    apply(&sender, 3, &[delete(2, 1, "k1"), put(2, 2, "k2", b"small")]);
    checkpoint(&sender);
    apply(&sender, 4, &[put(2, 3, "k3", b"not in the checkpoint")]);
    let mut own = identity(2);
    own.r#gen = 1;
    own.end = None;
    let receiver = ShardStore::create(disk.clone(), Path::new(RECEIVER), own, options()).unwrap();
    apply(&receiver, 9, &[]);
    Pair {
        disk,
        sender,
        receiver,
    }
}

fn frames(store: &ShardStore) -> Vec<Bytes> {
    store.export().unwrap().map(|frame| frame.unwrap()).collect()
}

fn import(store: &ShardStore, frames: &[Bytes]) -> Result<(), ImportError> {
    let mut import = store.begin_import()?;
    for frame in frames {
        import.push(frame.clone())?;
    }
    store.install(import.finish()?).unwrap();
    Ok(())
}

#[test]
fn a_snapshot_arrives_whole_and_the_receiver_goes_on_from_it() {
    let pair = pair();
    let sent = frames(&pair.sender);
    assert!(sent.len() >= 6, "{} frames", sent.len());
    assert!(sent.iter().all(|frame| frame.len() < (2 << 20) + 200));
    import(&pair.receiver, &sent).unwrap();
    let receiver = &pair.receiver;
    assert_eq!(receiver.applied(), Some(at(5)));
    assert_eq!(receiver.mark().unwrap(), "mark 5");
    assert_eq!(receiver.range(), pair.sender.range());
    assert_eq!(receiver.get_at(b"k1", 1).unwrap().unwrap().value.len(), 1 << 20);

    // The entry that the checkpoint lacks, and a retry of one that it has.
    let entry = [put(2, 3, "k3", b"not in the checkpoint")];
    assert_eq!(apply(receiver, 4, &entry)[0].revision, 6);
    assert_eq!(receiver.state_hash(), pair.sender.state_hash());
    assert!(apply(receiver, 5, &[put(1, 2, "k2", b"again")])[0].replayed);

    // The file is the receiver's own.
    checkpoint(receiver);
    let hash = receiver.state_hash();
    drop(pair.receiver);
    let reopened = ShardStore::open(pair.disk.clone(), Path::new(RECEIVER), &identity(2), options());
    assert_eq!(reopened.unwrap().state_hash(), hash);
    assert!(!pair.disk.exists(Path::new("/receiver.import")).unwrap());
}

#[test]
fn checkpoints_go_on_while_an_export_is_open() {
    let pair = pair();
    let mut export = pair.sender.export().unwrap();
    let mut sent = vec![export.next().unwrap().unwrap()];
    apply(&pair.sender, 5_000, &[put(2, 4, "k2", b"later")]);
    apply(&pair.sender, 9_000, &[]);
    checkpoint(&pair.sender);
    assert!(pair.sender.stats().versions < 5, "old versions were reclaimed");
    assert_eq!(export.applied(), Some(at(5)));
    sent.extend(export.map(|frame| frame.unwrap()));
    import(&pair.receiver, &sent).unwrap();
    assert_eq!(pair.receiver.get(b"k2").unwrap().unwrap().value, "small");
}

#[test]
fn an_open_export_outlives_the_state_it_shows() {
    let pair = pair();
    checkpoint(&pair.receiver);
    let before = frames(&pair.receiver);
    let mut export = pair.receiver.export().unwrap();
    let first = export.next().unwrap().unwrap();
    import(&pair.receiver, &frames(&pair.sender)).unwrap();
    let sent: Vec<_> = [first]
        .into_iter()
        .chain(export.map(|frame| frame.unwrap()))
        .collect();
    assert_eq!(sent, before);
}

#[test]
fn a_stream_that_lost_reordered_or_repeated_a_frame_is_refused() {
    let pair = pair();
    let sent = frames(&pair.sender);
    let before = pair.receiver.state_hash();
    let refuse = |frames: Vec<Bytes>| {
        let error = import(&pair.receiver, &frames).unwrap_err();
        assert_eq!(pair.receiver.state_hash(), before);
        error
    };
    for lost in 0..sent.len() {
        let mut frames = sent.clone();
        frames.remove(lost);
        match refuse(frames) {
            ImportError::Frame(FrameError::OutOfOrder { .. }) | ImportError::Incomplete => {}
            other => panic!("frame {lost} lost: {other}"),
        }
    }
    for at in 1..sent.len() {
        let mut reordered = sent.clone();
        reordered.swap(at - 1, at);
        refuse(reordered);
        let mut repeated = sent.clone();
        repeated.insert(at, sent[at - 1].clone());
        refuse(repeated);
        let mut cut = sent.clone();
        cut[at] = sent[at].slice(..sent[at].len() - 1);
        refuse(cut);
    }
    import(&pair.receiver, &sent).unwrap();
}

#[test]
fn a_flipped_bit_anywhere_is_refused() {
    let pair = pair();
    let sent = frames(&pair.sender);
    for (number, frame) in sent.iter().enumerate() {
        for byte in [0, 4, 5, 7, 8, 17, 21, 24, frame.len() / 2, frame.len() - 1] {
            let mut damaged = frame.to_vec();
            damaged[byte] ^= 1 << (byte % 8);
            let mut import = pair.receiver.begin_import().unwrap();
            for good in &sent[..number] {
                import.push(good.clone()).unwrap();
            }
            import.push(damaged.into()).unwrap_err();
            assert!(matches!(
                import.push(frame.clone()).unwrap_err(),
                ImportError::Failed
            ));
            import.finish().unwrap_err();
        }
    }
}

#[test]
fn frames_of_two_streams_do_not_mix() {
    let pair = pair();
    let first = frames(&pair.sender);
    apply(&pair.sender, 5, &[put(2, 4, "k3", b"changed")]);
    checkpoint(&pair.sender);
    let second = frames(&pair.sender);
    for cut in 1..first.len().min(second.len()) {
        let mixed = [&first[..cut], &second[cut..]].concat();
        import(&pair.receiver, &mixed).unwrap_err();
    }
}

#[test]
fn another_shards_snapshot_is_refused() {
    let pair = pair();
    let sent = frames(&pair.sender);
    for (name, stranger) in [
        (
            "/other-shard",
            ShardIdentity {
                shard_id: 8,
                ..identity(2)
            },
        ),
        (
            "/other-cluster",
            ShardIdentity {
                cluster_id: "other".into(),
                ..identity(2)
            },
        ),
    ] {
        let store = ShardStore::create(pair.disk.clone(), Path::new(name), stranger, options()).unwrap();
        assert!(matches!(
            import(&store, &sent).unwrap_err(),
            ImportError::Foreign { shard_id: 7, .. }
        ));
    }
}

#[test]
fn installing_waits_its_turn_and_an_abandoned_import_leaves_nothing() {
    let pair = pair();
    let sent = frames(&pair.sender);
    let fill = || {
        let mut import = pair.receiver.begin_import().unwrap();
        sent.iter().for_each(|frame| import.push(frame.clone()).unwrap());
        import
    };
    let import = fill();
    assert!(matches!(
        pair.receiver.begin_import().unwrap_err(),
        ImportError::InProgress
    ));
    drop(import);
    assert!(!pair.disk.exists(Path::new("/receiver.import")).unwrap());

    let capture = pair.receiver.capture(Bytes::new()).unwrap();
    let imported = fill().finish().unwrap();
    assert_eq!(imported.applied(), Some(at(5)));
    assert!(matches!(
        pair.receiver.install(imported).unwrap_err(),
        InstallError::Busy(CaptureError::InProgress)
    ));
    capture.write().unwrap();
    let imported = fill().finish().unwrap();
    assert!(matches!(
        pair.sender.install(imported).unwrap_err(),
        InstallError::OtherReplica
    ));
    pair.receiver.install(fill().finish().unwrap()).unwrap();
}

#[test]
fn a_file_damaged_between_import_and_installation_is_not_installed() {
    let pair = pair();
    let before = pair.receiver.state_hash();
    let mut import = pair.receiver.begin_import().unwrap();
    for frame in frames(&pair.sender) {
        import.push(frame).unwrap();
    }
    let imported = import.finish().unwrap();
    // Every stretch of the megabyte values' bytes, wherever the engine put them.
    let path = Path::new("/receiver.import");
    let image = pair.disk.image(path).unwrap();
    for (block, bytes) in image.chunks(64 << 10).enumerate() {
        if bytes.starts_with(&[7; 64]) {
            pair.disk.flip(path, (block as u64) << 16, 3).unwrap();
        }
    }
    assert!(matches!(
        pair.receiver.install(imported).unwrap_err(),
        InstallError::Unusable(_)
    ));
    assert_eq!(pair.receiver.state_hash(), before);
    checkpoint(&pair.receiver);
}
