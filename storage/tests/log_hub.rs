//! The log's promises on a sound disk: order, group commit, segments that leave, groups apart.

#![allow(clippy::unwrap_used, reason = "a panic is how a test reports")]

mod log_support;

use std::sync::{Arc, Mutex};

use bytes::Bytes;
use log_support::*;
use storage::clock::ManualClock;
use storage::log::{LogFault, LogGroup, LogOptions, LogRecord, LogWriter, ReadLogError, Step};
use storage::sim_disk::SimDisk;

#[test]
fn an_entry_is_readable_before_it_is_durable() {
    let (hub, mut writer) = open_small(&SimDisk::new(1));
    let log = hub.group(LogGroup(1));
    let told = Told::default();
    log.append(entries(5..8, 1), told.done());
    assert_eq!(all(&log), entries(5..8, 1));
    assert_eq!((log.flushed_index(), told.outcome()), (None, None));
    assert_eq!(writer.step(), Step::Committed { records: 3 });
    assert_eq!((log.flushed_index(), told.is_ok()), (Some(7), true));
}

#[test]
fn one_sync_covers_what_all_groups_queued() {
    let disk = SimDisk::new(1);
    let (hub, mut writer) = open_small(&disk);
    // The first commit begins a segment, which takes a sync of its own.
    hub.group(LogGroup(64)).append(entries(1..2, 0), ignore());
    drive(&mut writer);
    let told: Vec<Told> = (0..64).map(|_| Told::default()).collect();
    for (group, told) in told.iter().enumerate() {
        hub.group(LogGroup(group as u64))
            .append(entries(1..2, 0), told.done());
    }
    let before = disk.stats().syncs;
    assert_eq!(writer.step(), Step::Committed { records: 64 });
    assert_eq!(disk.stats().syncs - before, 1);
    assert!(told.iter().all(Told::is_ok));
}

#[test]
fn what_was_appended_is_counted_by_group_whatever_became_of_it() {
    let (hub, mut writer) = open_small(&SimDisk::new(1));
    let log = hub.group(LogGroup(1));
    let bytes = |entries: &[LogRecord]| {
        entries
            .iter()
            .map(|entry| entry.payload.len() as u64)
            .sum::<u64>()
    };
    let (first, second) = (entries(1..5, 0), entries(3..9, 1));
    log.append(first.clone(), ignore());
    hub.group(LogGroup(2)).append(entries(1..2, 0), ignore());
    log.truncate_after(Some(2), ignore());
    log.append(second.clone(), ignore());
    drive(&mut writer);
    log.purge(8, Bytes::new(), ignore());
    drive(&mut writer);
    assert_eq!(hub.appended_bytes(LogGroup(1)), bytes(&first) + bytes(&second));
    assert_eq!(hub.appended_bytes(LogGroup(3)), 0);
}

#[test]
fn callbacks_fire_in_queue_order() {
    let (hub, mut writer) = open_small(&SimDisk::new(1));
    let log = hub.group(LogGroup(1));
    let order = Arc::new(Mutex::new(Vec::new()));
    let note = |name: &'static str| {
        let order = order.clone();
        Box::new(move |outcome: Result<(), LogFault>| {
            outcome.unwrap();
            order.lock().unwrap().push(name);
        })
    };
    log.append(entries(1..5, 0), note("append"));
    log.save_vote(Bytes::from_static(b"vote"), note("vote"));
    log.append(Vec::new(), note("empty append"));
    log.truncate_after(Some(3), note("truncate"));
    log.purge(2, Bytes::from_static(b"mark"), note("purge"));
    drive(&mut writer);
    assert_eq!(
        *order.lock().unwrap(),
        ["append", "vote", "empty append", "truncate", "purge"]
    );
    assert_eq!(all(&log), entries(3..4, 0));
    log.append(Vec::new(), note("empty append alone"));
    drive(&mut writer);
    assert_eq!(order.lock().unwrap().len(), 6);
}

#[test]
fn marks_and_entries_survive_a_graceful_stop() {
    let disk = SimDisk::new(1);
    let (hub, writer) = open_small(&disk);
    let log = hub.group(LogGroup(7));
    log.append(entries(1..40, 0), ignore());
    log.save_vote(Bytes::from_static(b"vote"), ignore());
    log.purge(9, Bytes::from_static(b"purged"), ignore());
    log.save_committed(Bytes::from_static(b"committed"));
    shut(hub, writer);
    let (hub, _writer) = open_small(&disk);
    assert_eq!(hub.groups(), [LogGroup(7)]);
    let log = hub.group(LogGroup(7));
    assert_eq!(all(&log), entries(10..40, 0));
    assert_eq!(log.last().unwrap(), entries(39..40, 0).pop());
    assert_eq!(
        (log.first_index(), log.last_index(), log.flushed_index()),
        (Some(10), Some(39), Some(39))
    );
    assert_eq!(log.purged(), Some((9, Bytes::from_static(b"purged"))));
    assert_eq!(log.vote().unwrap(), "vote");
    assert_eq!(log.committed().unwrap(), "committed");
}

#[test]
fn a_committed_mark_asks_for_no_commit_and_rides_with_the_next() {
    let disk = SimDisk::new(1);
    let (hub, mut writer) = open_small(&disk);
    let log = hub.group(LogGroup(1));
    log.append(entries(1..2, 0), ignore());
    drive(&mut writer);
    log.save_committed(Bytes::from_static(b"5"));
    assert!(matches!(writer.step(), Step::Idle { .. }));
    hub.group(LogGroup(2)).append(entries(1..2, 0), ignore());
    assert_eq!(writer.step(), Step::Committed { records: 2 });
}

#[test]
fn an_append_that_does_not_follow_is_refused_and_changes_nothing() {
    let (hub, mut writer) = open_small(&SimDisk::new(1));
    let log = hub.group(LogGroup(1));
    log.append(entries(4..6, 0), ignore());
    for (first, last) in [(5, 7), (7, 9)] {
        let told = Told::default();
        log.append(entries(first..last, 1), told.done());
        let refused = LogFault::NotContiguous {
            group: LogGroup(1),
            expected: 6,
            found: first,
        };
        assert_eq!(told.outcome(), Some(Err(refused)));
    }
    log.purge(20, Bytes::new(), ignore());
    let told = Told::default();
    log.append(entries(21..23, 2), told.done());
    drive(&mut writer);
    assert!(told.is_ok());
    assert_eq!(all(&log), entries(21..23, 2));
}

#[test]
fn reads_stop_at_the_byte_limit_but_give_at_least_one_entry() {
    let (hub, mut writer) = open_small(&SimDisk::new(1));
    let log = hub.group(LogGroup(1));
    log.append(entries(1..100, 0), ignore());
    drive(&mut writer);
    assert!(hub.stats().cached_bytes <= 2048, "{:?}", hub.stats());
    assert_eq!(log.read(1..100, 1).unwrap(), entries(1..2, 0));
    let some = log.read(50..100, 1000).unwrap();
    assert!((2..12).contains(&some.len()), "{}", some.len());
    assert_eq!(log.read(97..200, usize::MAX).unwrap(), entries(97..100, 0));
    assert!(log.read(100..200, usize::MAX).unwrap().is_empty());
}

#[test]
fn a_destroyed_group_is_gone_and_stays_gone() {
    let disk = SimDisk::new(1);
    let (hub, mut writer) = open_small(&disk);
    let log = hub.group(LogGroup(1));
    log.append(entries(1..9, 0), ignore());
    log.save_vote(Bytes::from_static(b"vote"), ignore());
    drive(&mut writer);
    let told = Told::default();
    log.destroy(told.done());
    let refused = Told::default();
    log.append(entries(9..10, 0), refused.done());
    assert_eq!(
        refused.outcome(),
        Some(Err(LogFault::Destroyed { group: LogGroup(1) }))
    );
    assert!(matches!(
        log.read(1..9, 1),
        Err(ReadLogError::Fault(LogFault::Destroyed { .. }))
    ));
    drive(&mut writer);
    assert!(told.is_ok());
    shut(hub, writer);
    assert!(open_small(&disk).0.groups().is_empty());
}

#[test]
fn a_closed_log_commits_what_is_queued_and_refuses_the_rest() {
    let (hub, mut writer) = open_small(&SimDisk::new(1));
    let log = hub.group(LogGroup(1));
    let (queued, late) = (Told::default(), Told::default());
    log.append(entries(1..2, 0), queued.done());
    hub.close();
    log.append(entries(2..3, 0), late.done());
    assert_eq!(late.outcome(), Some(Err(LogFault::Closed)));
    assert_eq!(drive(&mut writer), Step::Stopped);
    assert!(queued.is_ok());
}

#[test]
fn a_writer_that_is_dropped_fails_what_is_queued() {
    let (hub, writer) = open_small(&SimDisk::new(1));
    let log = hub.group(LogGroup(1));
    let told = Told::default();
    log.append(entries(1..2, 0), told.done());
    drop(writer);
    assert_eq!(told.outcome(), Some(Err(LogFault::Closed)));
    assert!(matches!(
        log.read(1..2, 1),
        Err(ReadLogError::Fault(LogFault::Closed))
    ));
}

/// A busy group that is purged as it goes, among `idle` groups that wrote a little once.
fn busy_among_idle(idle: u64, writer: &mut LogWriter, hub: &storage::log::LogHub) -> u64 {
    for group in 1..=idle {
        let log = hub.group(LogGroup(group));
        log.append(entries(1..4, group), ignore());
        log.save_vote(Bytes::from(format!("vote of {group}")), ignore());
        writer.step();
    }
    let busy = hub.group(LogGroup(0));
    let mut bytes_max = 0;
    for round in 0..600u64 {
        busy.append(entries(round * 10..round * 10 + 10, 0), ignore());
        if round >= 2 {
            busy.purge(round * 10 - 20, Bytes::from_static(b"mark"), ignore());
        }
        writer.step();
        bytes_max = bytes_max.max(hub.stats().bytes);
    }
    bytes_max
}

#[test]
fn idle_groups_do_not_keep_the_log_from_shrinking() {
    let disk = SimDisk::new(1);
    let (hub, mut writer) = open_small(&disk);
    let bytes_max = busy_among_idle(63, &mut writer, &hub);
    // 600 rounds of 10 entries of about 120 bytes are 700 KiB in all.
    let stats = hub.stats();
    assert!(stats.records > 6000);
    assert!(bytes_max < 80 << 10, "the log grew to {bytes_max} bytes");
    assert!(stats.segments < 20, "{stats:?}");
    let file_bytes: usize = images(&disk).values().map(Vec::len).sum();
    assert!(file_bytes < 160 << 10, "the files grew to {file_bytes} bytes");
    shut(hub, writer);
    let (hub, _writer) = open_small(&disk);
    for group in 1..=63 {
        let log = hub.group(LogGroup(group));
        assert_eq!(all(&log), entries(1..4, group));
        assert_eq!(log.vote().unwrap(), format!("vote of {group}"));
    }
    assert_eq!(all(&hub.group(LogGroup(0))), entries(5971..6000, 0));
}

#[test]
fn groups_that_hold_a_large_log_are_named() {
    let (hub, mut writer) = open_small(&SimDisk::new(1));
    for group in [3, 4] {
        hub.group(LogGroup(group))
            .append(entries(1..200, group), ignore());
        writer.step();
    }
    assert!(hub.stats().bytes > 32 << 10);
    assert_eq!(hub.pinning_groups(), [LogGroup(3), LogGroup(4)]);
    for group in [3, 4] {
        hub.group(LogGroup(group)).purge(190, Bytes::new(), ignore());
    }
    hub.group(LogGroup(5)).append(entries(1..60, 5), ignore());
    drive(&mut writer);
    hub.group(LogGroup(5)).append(entries(60..61, 5), ignore());
    drive(&mut writer);
    assert!(hub.pinning_groups().is_empty(), "{:?}", hub.stats());
    assert_eq!(all(&hub.group(LogGroup(3))), entries(191..200, 3));
}

#[test]
fn the_guard_is_written_at_most_every_interval_and_at_once_for_a_vote() {
    let disk = SimDisk::new(1);
    let clock = Arc::new(ManualClock::at(1000));
    let (hub, mut writer) = open(&disk, LogOptions::new(clock.clone())).unwrap();
    let log = hub.group(LogGroup(1));
    let syncs_of = |act: &dyn Fn(), writer: &mut LogWriter| {
        let before = disk.stats().syncs;
        act();
        writer.step();
        disk.stats().syncs - before
    };
    assert_eq!(
        syncs_of(&|| log.append(entries(1..2, 0), ignore()), &mut writer),
        2,
        "the first segment begins with a sync of its own"
    );
    assert_eq!(
        writer.step(),
        Step::Idle {
            guard_due_ms: Some(100)
        }
    );
    assert_eq!(
        syncs_of(&|| log.save_vote(Bytes::new(), ignore()), &mut writer),
        2
    );
    assert_eq!(writer.step(), Step::Idle { guard_due_ms: None });
    assert_eq!(
        syncs_of(&|| log.append(entries(2..3, 0), ignore()), &mut writer),
        1
    );
    clock.advance_ms(60);
    assert_eq!(
        writer.step(),
        Step::Idle {
            guard_due_ms: Some(40)
        }
    );
    clock.advance_ms(40);
    assert_eq!(syncs_of(&|| {}, &mut writer), 1);
    assert_eq!(writer.step(), Step::Idle { guard_due_ms: None });
}

#[test]
fn a_thread_that_runs_the_writer_serves_many_callers() {
    let dir = tempfile::tempdir().unwrap();
    let options = LogOptions::new(Arc::new(ManualClock::at(0)));
    let disk = Arc::new(storage::disk::RealDisk);
    let (hub, writer) = storage::log::LogHub::open(disk.clone(), dir.path(), options.clone()).unwrap();
    std::thread::scope(|scope| {
        scope.spawn(|| writer.run());
        let callers: Vec<_> = (0..4)
            .map(|group| {
                let log = hub.group(LogGroup(group));
                scope.spawn(move || {
                    for index in 1..50 {
                        let (sender, receiver) = std::sync::mpsc::channel();
                        log.append(
                            entries(index..index + 1, group),
                            Box::new(move |told| sender.send(told).unwrap()),
                        );
                        receiver.recv().unwrap().unwrap();
                        assert_eq!(log.flushed_index(), Some(index));
                    }
                })
            })
            .collect();
        callers.into_iter().for_each(|caller| caller.join().unwrap());
        hub.close();
    });
    drop(hub);
    let (hub, _writer) = storage::log::LogHub::open(disk, dir.path(), options).unwrap();
    for group in 0..4 {
        assert_eq!(all(&hub.group(LogGroup(group))), entries(1..50, group));
    }
}
