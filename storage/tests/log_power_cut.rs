//! Power cuts at random points, and what must survive them.
//!
//! A run does random operations on a few groups while a [`History`] keeps, per group, every state
//! that was asked for, in order, and how far the log promised durability. Then the power goes, every
//! unsynced write is kept, dropped or torn, and the log is opened again: each group must show one
//! of the states from the last promised one on. That is at once: nothing promised is lost, votes do
//! not go back, and what survives of the rest is a prefix.

#![allow(clippy::unwrap_used, reason = "a panic is how a test reports")]

mod log_support;

use std::sync::Arc;

use bytes::Bytes;
use log_support::*;
use storage::clock::ManualClock;
use storage::log::{LogGroup, LogHub, LogOptions, LogWriter, OpenLogError, Step};
use storage::seed::SplitMix64;
use storage::sim_disk::{SimDisk, SyncMode};

const GROUPS: u64 = 5;
const RUNS: u64 = 400;

/// A log under random operations.
struct Run {
    chance: SplitMix64,
    clock: Arc<ManualClock>,
    hub: LogHub,
    writer: LogWriter,
    tag: u64,
}

impl Run {
    fn open(disk: &SimDisk, seed: u64) -> Result<Run, OpenLogError> {
        let clock = Arc::new(ManualClock::at(0));
        // So small that segments roll, leave and are rewritten all the time.
        let options = LogOptions {
            segment_bytes: 1024,
            live_bytes_max: 4096,
            ..small_options(&clock)
        };
        let (hub, writer) = open(disk, options)?;
        Ok(Run {
            chance: SplitMix64::new(seed),
            clock,
            hub,
            writer,
            tag: seed << 16,
        })
    }

    fn operate(&mut self, history: &mut History) {
        let group = self.chance.below(GROUPS);
        let log = self.hub.group(LogGroup(group));
        let mut state = history.newest(group);
        let told = Told::default();
        self.tag += 1;
        match self.chance.below(10) {
            0..=4 => {
                let first = state.next_index();
                let appended = entries(first..first + 1 + self.chance.below(6), self.tag);
                state.entries.extend(appended.clone());
                log.append(appended, told.done());
            }
            5 => {
                let vote = Bytes::from(format!("vote {}", self.tag));
                state.vote = Some(vote.clone());
                log.save_vote(vote, told.done());
            }
            6 => {
                let Some(last) = state.entries.last().map(|entry| entry.index) else {
                    return;
                };
                let kept = last.saturating_sub(self.chance.below(4));
                state.entries.retain(|entry| entry.index <= kept);
                log.truncate_after(Some(kept), told.done());
            }
            7 | 8 => {
                let Some(first) = state.entries.first().map(|entry| entry.index) else {
                    return;
                };
                let upto = first + self.chance.below(8);
                let mark = Bytes::from(format!("mark {}", self.tag));
                state.entries.retain(|entry| entry.index > upto);
                state.purged = Some((upto, mark.clone()));
                log.purge(upto, mark, told.done());
            }
            _ => return log.save_committed(Bytes::from(format!("committed {}", self.tag))),
        }
        history.push(group, state, told);
    }

    /// Operates and commits until the disk fails or `turns` are over.
    fn operate_until_stopped(&mut self, history: &mut History, turns: u64) {
        for _ in 0..turns {
            for _ in 0..1 + self.chance.below(6) {
                self.operate(history);
            }
            self.clock.advance_ms(self.chance.below(80));
            if self.writer.step() == Step::Stopped {
                return;
            }
        }
    }
}

/// Opens the log after the crash and holds each group against its history.
fn check_after_crash(disk: &SimDisk, seed: u64, history: &mut History) -> Result<Run, String> {
    let run = Run::open(disk, seed).map_err(|error| format!("the log does not open: {error}"))?;
    for group in 0..GROUPS {
        let found = GroupState::of(&run.hub.group(LogGroup(group)));
        if let Some(why) = history.broken_promise(group, &found) {
            return Err(why);
        }
        history.restart(group, found);
    }
    Ok(run)
}

/// Three lives of a log, each ended by a power cut. Err tells which promise broke.
fn three_lives(seed: u64, mode: SyncMode) -> Result<(), String> {
    let disk = SimDisk::new(seed);
    let mut chance = SplitMix64::new(seed ^ 0x5eed);
    let mut history = History::default();
    for life in 0..3 {
        disk.cut_power_after(chance.below(400));
        // The power may go while the log is being opened or created.
        if let Ok(mut run) = Run::open(&disk, seed + life) {
            disk.set_sync_mode(mode);
            run.operate_until_stopped(&mut history, 40);
        }
        disk.crash();
        disk.set_sync_mode(SyncMode::Honest);
        drop(check_after_crash(&disk, seed + life, &mut history)?);
    }
    Ok(())
}

#[test]
fn no_power_cut_breaks_a_promise() {
    for seed in 0..RUNS {
        if let Err(why) = three_lives(seed, SyncMode::Honest) {
            panic!("seed {seed}: {why}");
        }
    }
}

/// The test above is worth something: with a sync that does nothing it fails, and what it misses of
/// the lost records the guard finds.
#[test]
fn without_the_sync_promises_break() {
    let broken = (0..40)
        .filter(|seed| three_lives(*seed, SyncMode::Lying).is_err())
        .count();
    assert!(
        broken > 20,
        "only {broken} of 40 runs noticed that nothing was synced"
    );
}

#[test]
fn a_failed_sync_stops_the_log_and_loses_nothing_promised() {
    for seed in 0..RUNS / 2 {
        let disk = SimDisk::new(seed);
        let mut history = History::default();
        let mut run = Run::open(&disk, seed).unwrap();
        disk.fail_sync(1 + seed % 30);
        run.operate_until_stopped(&mut history, 100);
        check_stopped(&mut run, &disk, seed);
        disk.crash();
        drop(run);
        check_after_crash(&disk, seed, &mut history).unwrap_or_else(|why| panic!("seed {seed}: {why}"));
    }
}

#[test]
fn a_full_disk_stops_the_log_and_loses_nothing_promised() {
    for seed in 0..RUNS / 2 {
        let disk = SimDisk::new(seed);
        let mut history = History::default();
        let mut run = Run::open(&disk, seed).unwrap();
        disk.limit_writes(Some(seed * 1500));
        run.operate_until_stopped(&mut history, 200);
        check_stopped(&mut run, &disk, seed);
        drop(run);
        // The host restarts once there is space; no power cut, so the file shows the last write.
        if seed % 2 == 0 {
            disk.crash();
        }
        disk.limit_writes(None);
        check_after_crash(&disk, seed, &mut history).unwrap_or_else(|why| panic!("seed {seed}: {why}"));
    }
}

/// A stopped log fails each operation with the same fault and syncs nothing more.
fn check_stopped(run: &mut Run, disk: &SimDisk, seed: u64) {
    let (first, second) = (Told::default(), Told::default());
    let log = run.hub.group(LogGroup(0));
    log.save_vote(Bytes::new(), first.done());
    assert!(
        matches!(first.outcome(), Some(Err(_))),
        "seed {seed}: the log went on"
    );
    let syncs = disk.stats().syncs;
    assert_eq!(run.writer.step(), Step::Stopped);
    log.append(entries(900..901, 0), second.done());
    assert_eq!(first.outcome(), second.outcome(), "seed {seed}");
    assert_eq!(
        disk.stats().syncs,
        syncs,
        "seed {seed}: a failed sync was repeated"
    );
}
