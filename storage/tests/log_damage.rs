//! Damage at rest: flipped bits, rolled-back and truncated files, lost guards, newer formats.
//! Whatever is damaged is noticed; what does not verify is never served.

#![allow(clippy::unwrap_used, reason = "a panic is how a test reports")]

mod log_support;

use std::path::{Path, PathBuf};
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

/// Flips a bit of the newest copy of a byte sequence.
fn flip_in(disk: &SimDisk, needle: &[u8], bit: u8) {
    let position = |path: &PathBuf| {
        let image = disk.image(path).unwrap();
        image.windows(needle.len()).rposition(|window| window == needle)
    };
    let mut paths = segments(disk).into_iter().rev();
    let (path, at) = paths
        .find_map(|path| Some((path.clone(), position(&path)?)))
        .unwrap();
    disk.flip(&path, at as u64, bit).unwrap();
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
        let paths = segments(&disk);
        let path = &paths[chance.below(paths.len() as u64) as usize];
        let length = disk.image(path).unwrap().len() as u64;
        disk.flip(path, chance.below(length), chance.below(8) as u8)
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

/// A disk that became full may have taken a frame whole, but not the padding behind it.
#[test]
fn a_file_may_end_with_its_last_record() {
    for length in 1..=16 {
        let disk = SimDisk::new(length);
        let group = LogGroup(1);
        let written = [entry(1, "first"), entry(2, "x".repeat(length as usize))];
        let (hub, mut writer) = open_small(&disk);
        hub.group(group).append(written.to_vec(), ignore());
        writer.step();
        shut(hub, writer);
        let mut images = images(&disk);
        let path = segments(&disk).pop().unwrap();
        let image = images.get_mut(&path).unwrap();
        let end = image.iter().rposition(|byte| *byte != 0).unwrap() + 1;
        image.truncate(end);
        put_images(&disk, &images);

        let (hub, mut writer) = open_small(&disk);
        assert_eq!(all(&hub.group(group)), written, "a payload of {length} bytes");
        hub.group(group).append(vec![entry(3, "behind it")], ignore());
        writer.step();
        shut(hub, writer);
        let (hub, _writer) = open_small(&disk);
        let all_three = [&written[..], &[entry(3, "behind it")]].concat();
        assert_eq!(all(&hub.group(group)), all_three, "a payload of {length} bytes");
    }
}

#[test]
fn a_damaged_entry_quarantines_its_group_until_it_is_destroyed() {
    let disk = SimDisk::new(1);
    written(&disk);
    flip_in(&disk, b"entry 7 of 3 ", 0);
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
        flip_in(&disk, needle.as_bytes(), 1);
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
        ..small_options(&Arc::new(ManualClock::at(0)))
    };
    let (hub, mut writer) = open(&disk, options).unwrap();
    let log = hub.group(LogGroup(1));
    log.append(entries(1..9, 1), ignore());
    drive(&mut writer);
    flip_in(&disk, b"entry 4 of 1 ", 2);
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
        let mut older = images(&disk);
        for round in 0..8 {
            if round == step {
                older = images(&disk);
            }
            log.append(entries(round * 3..round * 3 + 3, 1), ignore());
            log.save_vote(Bytes::from(format!("vote {round}")), ignore());
            writer.step();
        }
        shut(hub, writer);
        open_outcome(&disk).unwrap();
        let newest = images(&disk);
        put_images(&disk, &older);
        let refused = open_outcome(&disk).unwrap_err();
        assert!(
            matches!(refused, OpenLogError::RolledBack { .. }),
            "step {step}: {refused}"
        );
        put_images(&disk, &newest);
        open_outcome(&disk).unwrap();
    }
}

#[test]
fn a_lost_or_truncated_segment_is_refused() {
    let disk = SimDisk::new(1);
    written(&disk);
    let whole = images(&disk);
    assert!(whole.len() > 1, "{:?}", whole.keys());
    for path in whole.keys() {
        let used = whole[path].iter().rposition(|byte| *byte != 0).unwrap() as u64;
        for kept in [0, 1, 64, used / 2, used] {
            disk.truncate(path, kept).unwrap();
            open_outcome(&disk).expect_err(&format!("{} cut at {kept}", path.display()));
            put_images(&disk, &whole);
        }
        disk.remove(path).unwrap();
        open_outcome(&disk).expect_err(&format!("{} lost", path.display()));
        assert!(!disk.exists(path).unwrap());
        put_images(&disk, &whole);
    }
    open_outcome(&disk).unwrap();
}

#[test]
fn damage_in_the_newest_frame_is_told_from_a_torn_one() {
    for flushed in [true, false] {
        let disk = SimDisk::new(1);
        let (hub, mut writer) = open_small(&disk);
        let log = hub.group(LogGroup(1));
        log.append(entries(1..3, 1), ignore());
        drive(&mut writer);
        // The guard is written when the log is closed, and not yet before.
        match flushed {
            true => shut(hub, writer),
            false => drop((hub, writer)),
        }
        flip_in(&disk, b"entry 2 of 1 ", 0);
        let (hub, _writer) = open_small(&disk);
        let quarantined = hub.quarantined();
        match flushed {
            true => assert_eq!(quarantined, [LogGroup(1)]),
            // Nothing tells it from what a power cut leaves.
            false => assert!(quarantined.is_empty() && hub.group(LogGroup(1)).last_index().is_none()),
        }
    }
}

#[test]
fn a_damaged_frame_is_no_torn_one_where_another_follows() {
    let disk = SimDisk::new(1);
    let (hub, mut writer) = open_small(&disk);
    for index in 1..4 {
        hub.group(LogGroup(1))
            .append(entries(index..index + 1, 1), ignore());
        writer.step();
    }
    // The guard knows of none of them.
    drop((hub, writer));
    let path = segments(&disk).pop().unwrap();
    let whole = disk.image(&path).unwrap();
    let frames: Vec<usize> = (0..whole.len())
        .filter(|at| whole[*at..].starts_with(b"GDWF"))
        .collect();
    assert_eq!(frames.len(), 3);
    disk.flip(&path, frames[1] as u64 + 20, 0).unwrap();
    assert!(matches!(
        open_outcome(&disk),
        Err(OpenLogError::Corrupt { sequence: 2, .. })
    ));
    disk.put_image(&path, whole.clone()).unwrap();
    flip_in(&disk, b"entry 2 of 1 ", 0);
    assert_eq!(open_small(&disk).0.quarantined(), [LogGroup(1)]);
    disk.put_image(&path, whole).unwrap();
    assert_eq!(all(&open_small(&disk).0.group(LogGroup(1))), entries(1..4, 1));
}

#[test]
fn a_log_of_the_former_form_is_refused() {
    let disk = SimDisk::new(1);
    disk.create_dir_all(Path::new(DIR)).unwrap();
    disk.replace(&Path::new(DIR).join("log.db"), b"redb").unwrap();
    assert!(matches!(open_outcome(&disk), Err(OpenLogError::FormerFormat)));
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
    let before = (images(&disk), disk.image(&guard_file()).unwrap());
    let refused = open_outcome(&disk).unwrap_err();
    assert!(
        matches!(refused, OpenLogError::NewerFormat { found: 3, known: 1 }),
        "{refused}"
    );
    assert_eq!((images(&disk), disk.image(&guard_file()).unwrap()), before);
}

#[test]
fn another_file_is_not_taken_for_a_segment() {
    let disk = SimDisk::new(1);
    written(&disk);
    let whole = images(&disk);
    let path = whole.keys().next().unwrap();
    disk.put_image(path, vec![7; 4096]).unwrap();
    assert!(matches!(open_outcome(&disk), Err(OpenLogError::NotALog)));
    // One segment under the name of another.
    disk.put_image(path, whole.values().next_back().unwrap().clone())
        .unwrap();
    assert!(matches!(open_outcome(&disk), Err(OpenLogError::NotALog)));
    put_images(&disk, &whole);
    // The format, in the head.
    let mut newer = whole[path].clone();
    newer[9] = 2;
    let crc = crc32c::crc32c(&newer[..20]);
    newer[20..24].copy_from_slice(&crc.to_be_bytes());
    disk.put_image(path, newer).unwrap();
    let refused = open_outcome(&disk).unwrap_err();
    assert!(
        matches!(refused, OpenLogError::NewerFormat { found: 2, known: 1 }),
        "{refused}"
    );
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
