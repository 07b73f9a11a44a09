//! Damage at rest: flipped bits, rolled-back and truncated files, lost guards, newer formats.
//! Whatever is damaged is noticed; what does not verify is never served.

#![allow(clippy::unwrap_used, reason = "a panic is how a test reports")]

mod log_support;

use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;
use log_support::*;
use storage::clock::ManualClock;
use storage::disk::Disk;
use storage::failpoint::{Action, Failpoints, Firing};
use storage::log::{LogFault, LogGroup, LogOptions, OpenLogError, ReadLogError, Step};
use storage::seed::SplitMix64;
use storage::sim_disk::SimDisk;

const GROUPS: u64 = 6;

fn vote_of(group: u64) -> Bytes {
    Bytes::from(format!("vote of {group}"))
}

/// A log of a few groups with two segments and more, stopped gracefully.
fn written(disk: &SimDisk) {
    let (hub, mut writer) = open_small(disk);
    for group in 0..GROUPS {
        let log = hub.group(LogGroup(group));
        log.save_vote(vote_of(group), ignore());
        log.append(entries(1..13, group), ignore());
        writer.step();
    }
    shut(hub, writer);
}

fn open_outcome(disk: &SimDisk) -> Result<(), OpenLogError> {
    open(disk, small_options(&Arc::new(ManualClock::at(0)))).map(|_| ())
}

/// Where a byte sequence lies in the log file, the newest copy of it.
fn position_of(disk: &SimDisk, needle: &[u8]) -> u64 {
    let image = disk.image(&log_file()).unwrap();
    image
        .windows(needle.len())
        .rposition(|window| window == needle)
        .unwrap() as u64
}

/// Checks that all groups show what was written or nothing at all; how many were quarantined.
fn check_served(disk: &SimDisk, seed: u64) -> usize {
    let (hub, _writer) = open_small(disk);
    for group in 0..GROUPS {
        let log = hub.group(LogGroup(group));
        match log.read(0..u64::MAX, usize::MAX) {
            Ok(read) => {
                assert_eq!(read, entries(1..13, group), "seed {seed} group {group}");
                assert_eq!(log.vote().unwrap(), vote_of(group), "seed {seed} group {group}");
            }
            Err(ReadLogError::Fault(LogFault::Quarantined { .. }) | ReadLogError::Corrupt { .. }) => {}
            Err(error) => panic!("seed {seed} group {group}: {error}"),
        }
    }
    hub.quarantined().len()
}

#[test]
fn no_flipped_bit_is_served() {
    let (mut refused, mut quarantined) = (0, 0);
    for seed in 0..600 {
        let disk = SimDisk::new(seed);
        written(&disk);
        let mut chance = SplitMix64::new(seed);
        let length = disk.image(&log_file()).unwrap().len() as u64;
        // Most of the file is free pages; the records lie in its first part.
        let within = if seed % 2 == 0 {
            length
        } else {
            length.min(64 << 10)
        };
        disk.flip(&log_file(), chance.below(within), chance.below(8) as u8)
            .unwrap();
        match open_outcome(&disk) {
            Err(_) => refused += 1,
            Ok(()) => quarantined += check_served(&disk, seed),
        }
    }
    assert!(
        refused > 0 && quarantined > 0,
        "refused {refused}, quarantined {quarantined}"
    );
}

#[test]
fn a_damaged_entry_quarantines_its_group_until_it_is_destroyed() {
    let disk = SimDisk::new(1);
    written(&disk);
    let at = position_of(&disk, b"entry 7 of 3 ");
    disk.flip(&log_file(), at, 0).unwrap();
    for _ in 0..2 {
        let (hub, mut writer) = open_small(&disk);
        assert_eq!(hub.quarantined(), [LogGroup(3)]);
        assert_eq!(all(&hub.group(LogGroup(2))), entries(1..13, 2));
        let damaged = hub.group(LogGroup(3));
        assert!(matches!(
            damaged.read(1..2, 1),
            Err(ReadLogError::Fault(LogFault::Quarantined { .. }))
        ));
        assert_eq!(damaged.vote(), None);
        let told = Told::default();
        damaged.append(entries(13..14, 3), told.done());
        assert_eq!(
            told.outcome(),
            Some(Err(LogFault::Quarantined { group: LogGroup(3) }))
        );
        // The damage outlives segments that come and go.
        let busy = hub.group(LogGroup(9));
        let first = busy.last_index().unwrap_or(0) + 1;
        for round in 0..100 {
            busy.append(entries(first + round..first + round + 1, 9), ignore());
            busy.purge(first + round, Bytes::new(), ignore());
            writer.step();
        }
        busy.append(entries(first + 100..first + 101, 9), ignore());
        shut(hub, writer);
    }
    let (hub, writer) = open_small(&disk);
    assert!(
        hub.pinning_groups().contains(&LogGroup(3)),
        "{:?}",
        hub.pinning_groups()
    );
    hub.group(LogGroup(3)).destroy(ignore());
    shut(hub, writer);
    let (hub, _writer) = open_small(&disk);
    assert!(hub.quarantined().is_empty() && !hub.groups().contains(&LogGroup(3)));
    assert_eq!(all(&hub.group(LogGroup(4))), entries(1..13, 4));
}

#[test]
fn a_damaged_vote_quarantines_its_group_unless_a_newer_one_follows() {
    let disk = SimDisk::new(1);
    let (hub, mut writer) = open_small(&disk);
    for (group, votes) in [(1, 1), (2, 2)] {
        for vote in 0..votes {
            let vote = Bytes::from(format!("vote {vote} of {group}"));
            hub.group(LogGroup(group)).save_vote(vote, ignore());
        }
        hub.group(LogGroup(group)).append(entries(1..2, group), ignore());
    }
    drive(&mut writer);
    shut(hub, writer);
    for group in [1, 2] {
        // Of the second group only the vote that no longer counts.
        let needle = format!("vote 0 of {group}");
        disk.flip(&log_file(), position_of(&disk, needle.as_bytes()), 1)
            .unwrap();
    }
    let (hub, _writer) = open_small(&disk);
    assert_eq!(hub.quarantined(), [LogGroup(1)]);
    assert_eq!(hub.group(LogGroup(2)).vote().unwrap(), "vote 1 of 2");
}

#[test]
fn damage_that_shows_at_a_read_is_not_served() {
    let disk = SimDisk::new(1);
    let options = LogOptions {
        tail_bytes: 0,
        cache_bytes: 0,
        ..small_options(&Arc::new(ManualClock::at(0)))
    };
    let (hub, mut writer) = open(&disk, options).unwrap();
    let log = hub.group(LogGroup(1));
    log.append(entries(1..9, 1), ignore());
    drive(&mut writer);
    disk.flip(&log_file(), position_of(&disk, b"entry 4 of 1 "), 2)
        .unwrap();
    assert_eq!(log.read(1..4, usize::MAX).unwrap(), entries(1..4, 1));
    assert!(matches!(
        log.read(1..9, usize::MAX),
        Err(ReadLogError::Corrupt { index: 4, .. })
    ));
    assert_eq!(hub.quarantined(), [LogGroup(1)]);
    assert!(matches!(log.read(1..4, usize::MAX), Err(ReadLogError::Fault(_))));
}

#[test]
fn a_rolled_back_log_is_refused() {
    for step in 0..8 {
        let disk = SimDisk::new(step);
        let (hub, mut writer) = open_small(&disk);
        let log = hub.group(LogGroup(1));
        let mut older = disk.image(&log_file()).unwrap();
        for round in 0..8 {
            if round == step {
                older = disk.image(&log_file()).unwrap();
            }
            log.append(entries(round * 3..round * 3 + 3, 1), ignore());
            log.save_vote(Bytes::from(format!("vote {round}")), ignore());
            writer.step();
        }
        shut(hub, writer);
        open_outcome(&disk).unwrap();
        let newest = disk.image(&log_file()).unwrap();
        disk.put_image(&log_file(), older).unwrap();
        let refused = open_outcome(&disk).unwrap_err();
        assert!(
            matches!(refused, OpenLogError::RolledBack { .. }),
            "step {step}: {refused}"
        );
        disk.put_image(&log_file(), newest).unwrap();
        open_outcome(&disk).unwrap();
    }
}

#[test]
fn a_lost_or_truncated_log_file_is_refused() {
    let disk = SimDisk::new(1);
    written(&disk);
    let length = disk.image(&log_file()).unwrap().len() as u64;
    for kept in [0, 1, 4096, length / 2] {
        let image = disk.image(&log_file()).unwrap();
        disk.truncate(&log_file(), kept).unwrap();
        open_outcome(&disk).unwrap_err();
        disk.put_image(&log_file(), image).unwrap();
    }
    disk.remove(&log_file()).unwrap();
    let refused = open_outcome(&disk).unwrap_err();
    assert!(
        matches!(refused, OpenLogError::RolledBack { found: 0, .. }),
        "{refused}"
    );
    assert!(!disk.exists(&log_file()).unwrap());
}

#[test]
fn a_log_without_its_guard_is_refused() {
    let disk = SimDisk::new(1);
    written(&disk);
    disk.remove(&guard_file()).unwrap();
    assert!(matches!(open_outcome(&disk), Err(OpenLogError::GuardLost)));
    assert!(!disk.exists(&guard_file()).unwrap());
}

#[test]
fn a_newer_format_is_refused_and_the_files_stay_as_they_are() {
    let disk = SimDisk::new(1);
    written(&disk);
    // The format in the guard's head, in both slots.
    for slot in [0, 256 << 10] {
        disk.flip(&guard_file(), slot + 9, 1).unwrap();
    }
    let before = [log_file(), guard_file()].map(|path| disk.image(&path).unwrap());
    let refused = open_outcome(&disk).unwrap_err();
    assert!(
        matches!(refused, OpenLogError::NewerFormat { found: 3, known: 1 }),
        "{refused}"
    );
    assert_eq!(
        [log_file(), guard_file()].map(|path| disk.image(&path).unwrap()),
        before
    );
}

#[test]
fn another_database_is_not_taken_for_a_log() {
    let disk = SimDisk::new(1);
    drop(open_small(&disk));
    let other = storage::engine::Engine::open(
        disk.open(Path::new("/other"), storage::disk::OpenMode::CreateNew)
            .unwrap(),
        storage::engine::EngineOptions {
            cache_bytes: 1 << 20,
            quick_repair: false,
            verify_on_open: false,
        },
    );
    drop(other.unwrap());
    disk.put_image(&log_file(), disk.image(Path::new("/other")).unwrap())
        .unwrap();
    assert!(matches!(open_outcome(&disk), Err(OpenLogError::NotALog)));
}

#[test]
fn a_fail_point_at_each_durable_step_stops_the_log() {
    let steps = [
        "log.before_commit",
        "log.before_roll",
        "log.after_commit",
        "log.before_guard",
        "log.after_guard",
    ];
    for (host, name) in steps.into_iter().enumerate() {
        let (disk, points) = (SimDisk::new(1), Failpoints::new(1));
        points.arm(host as u64, name, Action::ReturnError, Firing::Nth(1));
        let clock = Arc::new(ManualClock::at(0));
        let options = LogOptions {
            failpoints: points.host(host as u64),
            ..small_options(&clock)
        };
        let (hub, mut writer) = open(&disk, options).unwrap();
        let told = Told::default();
        hub.group(LogGroup(1)).save_vote(vote_of(1), told.done());
        assert_eq!(writer.step(), Step::Stopped, "{name}");
        assert!(
            matches!(told.outcome(), Some(Err(LogFault::Failed(why))) if why.contains(name)),
            "{name}"
        );
        drop((hub, writer));
        // Before the commit the vote is lost, after it it is there: it was promised to nobody.
        let kept = open_small(&disk).0.group(LogGroup(1)).vote().is_some();
        assert_eq!(
            kept,
            !matches!(name, "log.before_commit" | "log.before_roll"),
            "{name}"
        );
    }
}
