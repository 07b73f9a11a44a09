use std::fs;
use std::os::unix::process::ExitStatusExt;
use std::thread;
use std::time::{Duration, Instant};

use super::*;
use crate::native::testing::{Folder, Probe, have_compiler};

const SIGKILL: i32 = 9;

/// A folder with a control file, and the probe at work below it.
struct Bench {
    folder: Folder,
    control: FaultControl,
}

impl Bench {
    fn new() -> Option<Self> {
        if !have_compiler() {
            return None;
        }
        let folder = Folder::new();
        fs::create_dir(folder.path().join("disk")).expect("make a folder");
        let control = FaultControl::open(&folder.path().join("control")).expect("make the control file");
        Some(Self { folder, control })
    }

    fn probe(&self) -> Probe {
        Probe::start(&self.control, &self.folder.path().join("disk"))
    }

    fn on_disk(&self) -> Vec<u8> {
        fs::read(self.folder.path().join("disk/file")).expect("read the file")
    }

    fn counters(&self) -> Counters {
        self.control.counters().expect("read the counters")
    }

    fn hold(&self) {
        self.control.set_unsynced(UnsyncedWrites::Held).expect("hold");
    }
}

#[test]
fn without_orders_a_program_is_left_alone() {
    let Some(bench) = Bench::new() else { return };
    let mut probe = bench.probe();
    assert_eq!(probe.ask("write 0 10 a"), "10");
    assert_eq!(probe.ask("read 0 20"), "10a");
    assert_eq!(probe.ask("sync"), "0");
    probe.kill();
    assert_eq!(bench.on_disk(), b"aaaaaaaaaa");
    let counters = bench.counters();
    assert_eq!((counters.attached, counters.files, counters.syncs), (1, 1, 1));
    assert_eq!((counters.writes_held, counters.clock_bent), (0, 0));
}

#[test]
fn a_kill_loses_what_was_not_synced_and_nothing_else() {
    let Some(bench) = Bench::new() else { return };
    bench.hold();
    let mut probe = bench.probe();
    assert_eq!(probe.ask("write 0 5000 a"), "5000");
    assert_eq!(probe.ask("sync"), "0");
    assert_eq!(probe.ask("write 1000 10 b"), "10");
    assert_eq!(probe.ask("write 6000 10 c"), "10");
    assert_eq!(probe.ask("read 0 9000"), "1000a 10b 3990a 1000. 10c");
    assert_eq!(probe.ask("size"), "6010");
    assert_eq!(probe.ask("reopen"), "0");
    assert_eq!(
        probe.ask("size"),
        "6010",
        "a closed file is still in the page cache"
    );
    probe.kill();
    assert_eq!(bench.on_disk(), vec![b'a'; 5000]);
    let counters = bench.counters();
    assert_eq!((counters.writes_held, counters.writes_settled), (3, 1));
    assert_eq!(counters.writes_unsettled(), 2);
}

#[test]
fn changes_of_length_are_held_too() {
    let Some(bench) = Bench::new() else { return };
    bench.hold();
    let mut probe = bench.probe();
    probe.ask("write 0 3000 a");
    probe.ask("sync");
    assert_eq!(probe.ask("length 1000"), "0");
    assert_eq!(probe.ask("length 2000"), "0");
    assert_eq!(
        probe.ask("read 0 9000"),
        "1000a 1000.",
        "what was cut off does not come back"
    );
    assert_eq!(probe.ask("append 5 b"), "5");
    assert_eq!(probe.ask("allocate 0 2500"), "0");
    assert_eq!(probe.ask("read 0 9000"), "1000a 1000. 5b 495.");
    assert_eq!(bench.on_disk(), vec![b'a'; 3000]);
    probe.ask("sync");
    assert_eq!(bench.on_disk()[..1000], [b'a'; 1000]);
    assert_eq!(bench.on_disk()[1000..2000], [0; 1000]);
    assert_eq!(bench.on_disk()[2000..], [&[b'b'; 5][..], &[0; 495]].concat());
    probe.kill();
}

#[test]
fn an_exit_writes_out_and_so_does_the_end_of_holding() {
    let Some(bench) = Bench::new() else { return };
    bench.hold();
    let mut probe = bench.probe();
    probe.ask("write 0 3 a");
    bench.control.heal().expect("heal");
    probe.ask("write 3 3 b");
    assert_eq!(bench.on_disk(), b"aaabbb");
    bench.hold();
    probe.ask("write 6 3 c");
    assert_eq!(bench.on_disk(), b"aaabbb");
    probe.send("exit");
    assert!(probe.wait().success());
    assert_eq!(bench.on_disk(), b"aaabbbccc");
    assert_eq!(bench.counters().writes_unsettled(), 0);
}

#[test]
fn a_lying_sync_keeps_nothing() {
    let Some(bench) = Bench::new() else { return };
    bench.hold();
    bench.control.set_syncs(Syncs::Lying).expect("lie");
    let mut probe = bench.probe();
    probe.ask("write 0 100 a");
    assert_eq!(probe.ask("sync"), "0");
    assert_eq!(probe.ask("read 0 200"), "100a");
    probe.kill();
    assert_eq!(bench.on_disk(), b"");
    assert_eq!(bench.counters().sync_lies, 1);
}

/// What a power cut with this seed leaves of eight blocks of four sectors, written over synced ones.
fn after_cut(seed: u64) -> Option<(Vec<u8>, Counters)> {
    let bench = Bench::new()?;
    bench.hold();
    let mut probe = bench.probe();
    probe.ask("write 0 16384 a");
    assert_eq!(probe.ask("sync"), "0");
    for block in 0..8 {
        probe.ask(&format!("write {} 2048 b", block * 2048));
    }
    bench.control.cut_power(CutMoment::Now, seed).expect("cut");
    assert_eq!(probe.wait().signal(), Some(SIGKILL));
    Some((bench.on_disk(), bench.counters()))
}

#[test]
fn a_power_cut_leaves_writes_whole_torn_or_not_at_all() {
    let (mut whole, mut torn, mut dropped) = (0, 0, 0);
    for seed in 0..10 {
        let Some((found, counters)) = after_cut(seed) else {
            return;
        };
        assert_eq!(found.len(), 16384);
        let sectors = |block: &[u8]| -> Vec<bool> {
            let new = block
                .chunks(512)
                .map(|sector| sector.iter().all(|byte| *byte == b'b'));
            let old = block
                .chunks(512)
                .map(|sector| sector.iter().all(|byte| *byte == b'a'));
            assert!(
                new.clone().zip(old).all(|(new, old)| new != old),
                "a sector is torn"
            );
            new.collect()
        };
        let (mut of_whole, mut of_torn) = (0, 0);
        for block in found.chunks(2048).map(sectors) {
            of_whole += u64::from(block.iter().all(|new| *new));
            of_torn += u64::from(block.contains(&true) && block.contains(&false));
        }
        assert_eq!(counters.cuts, 1);
        assert_eq!(
            (counters.writes_settled - 1, counters.writes_torn),
            (of_whole, of_torn)
        );
        assert_eq!(of_whole + of_torn + counters.writes_dropped, 8);
        whole += of_whole;
        torn += of_torn;
        dropped += counters.writes_dropped;
    }
    assert!(whole > 0 && torn > 0 && dropped > 0, "{whole} {torn} {dropped}");
}

#[test]
fn a_power_cut_follows_its_seed_and_spares_later_processes() {
    let Some((first, _)) = after_cut(4) else { return };
    assert_eq!(Some(first), after_cut(4).map(|(again, _)| again));
    let Some(bench) = Bench::new() else { return };
    bench.control.cut_power(CutMoment::Now, 1).expect("cut");
    let mut probe = bench.probe();
    probe.ask("sleep 50");
    assert_eq!(probe.ask("write 0 1 a"), "1");
    assert_eq!(bench.counters().cuts, 0);
    probe.kill();
}

#[test]
fn a_power_cut_can_wait_for_the_next_sync() {
    let Some(bench) = Bench::new() else { return };
    bench.hold();
    let mut probe = bench.probe();
    assert_eq!(probe.ask("size"), "0", "from here on it obeys orders");
    bench.control.cut_power(CutMoment::NextSync, 3).expect("cut");
    assert_eq!(probe.ask("sync"), "0", "it had nothing to write");
    probe.ask("sleep 50");
    assert_eq!(probe.ask("write 0 10 a"), "10");
    assert_eq!(probe.ask("sync"), "", "no answer");
    assert_eq!(probe.wait().signal(), Some(SIGKILL));
    let counters = bench.counters();
    assert_eq!(counters.writes_settled + counters.writes_dropped, 1);
}

#[test]
fn a_sync_fails_once() {
    let Some(bench) = Bench::new() else { return };
    bench.hold();
    let mut probe = bench.probe();
    probe.ask("write 0 4 a");
    bench
        .control
        .fail_next_sync(SyncFailure::KeepsWrites)
        .expect("order");
    assert_eq!(probe.ask("sync"), "EIO");
    assert_eq!(bench.on_disk(), b"");
    assert_eq!(probe.ask("sync"), "0");
    assert_eq!(bench.on_disk(), b"aaaa");
    assert_eq!(bench.counters().sync_errors, 1);
    probe.kill();
}

#[test]
fn a_failed_sync_may_drop_what_it_was_to_write() {
    let Some(bench) = Bench::new() else { return };
    bench.hold();
    let mut probe = bench.probe();
    probe.ask("write 0 600 a");
    bench
        .control
        .fail_next_sync(SyncFailure::DropsWrites)
        .expect("order");
    assert_eq!(probe.ask("sync"), "EIO");
    assert_eq!(probe.ask("read 0 999"), "600a", "the page cache still shows it");
    probe.ask("write 1024 4 b");
    assert_eq!(probe.ask("sync"), "0");
    assert_eq!(probe.ask("read 0 9999"), "600a 424. 4b");
    probe.kill();
    let left = bench.on_disk();
    assert_eq!(left, [&[0; 1024][..], b"bbbb"].concat());
    assert_eq!(bench.counters().writes_dropped, 1);
}

#[test]
fn writes_fail_as_often_as_ordered() {
    let Some(bench) = Bench::new() else { return };
    let mut probe = bench.probe();
    bench.control.fail_next_writes(2).expect("order");
    assert_eq!(probe.ask("write 0 4 a"), "EIO");
    assert_eq!(probe.ask("append 4 a"), "EIO");
    assert_eq!(probe.ask("write 0 4 a"), "4");
    assert_eq!(bench.counters().write_errors, 2);
    probe.kill();
}

#[test]
fn a_full_disk_takes_nothing_until_there_is_room() {
    let Some(bench) = Bench::new() else { return };
    let mut probe = bench.probe();
    probe.ask("write 0 100 a");
    bench.control.set_space(Space::Full).expect("order");
    for refused in ["write 0 1 b", "append 1 b", "length 200", "allocate 0 200"] {
        assert_eq!(probe.ask(refused), "ENOSPC", "{refused}");
    }
    assert_eq!(probe.ask("length 50"), "0", "shrinking needs no room");
    assert_eq!(probe.ask("sync"), "0");
    bench.control.set_space(Space::Free).expect("order");
    assert_eq!(probe.ask("write 0 1 b"), "1");
    assert_eq!(bench.counters().space_errors, 4);
    probe.kill();
}

#[test]
fn a_sync_takes_as_long_as_ordered() {
    let Some(bench) = Bench::new() else { return };
    let mut probe = bench.probe();
    bench
        .control
        .slow_sync(Duration::from_millis(300))
        .expect("order");
    let started = Instant::now();
    assert_eq!(probe.ask("sync"), "0");
    assert!(started.elapsed() >= Duration::from_millis(300));
    bench.control.slow_sync(Duration::ZERO).expect("order");
    assert_eq!(probe.ask("sync"), "0");
    assert_eq!(bench.counters().syncs_delayed, 1);
    probe.kill();
}

#[test]
fn one_read_in_some_has_one_bit_wrong() {
    let Some(bench) = Bench::new() else { return };
    let mut probe = bench.probe();
    probe.ask("write 0 1000 a");
    bench.control.flip_one_read_in(4, 7).expect("order");
    let wrong = (0..80).filter(|_| probe.ask("read 0 1000") != "1000a").count();
    assert!((5..40).contains(&wrong), "{wrong}");
    assert_eq!(bench.counters().reads_flipped, wrong as u64);
    bench.control.flip_one_read_in(0, 0).expect("order");
    assert_eq!(probe.ask("read 0 1000"), "1000a");
    probe.kill();
}

#[test]
fn many_threads_see_what_they_wrote() {
    let Some(bench) = Bench::new() else { return };
    let mut probe = bench.probe();
    assert_eq!(probe.ask("storm 4 300"), "0");
    bench.hold();
    assert_eq!(probe.ask("storm 4 300"), "0");
    bench.control.set_syncs(Syncs::Lying).expect("lie");
    assert_eq!(probe.ask("storm 4 300"), "0");
    bench.control.heal().expect("heal");
    assert_eq!(probe.ask("storm 4 300"), "0");
    assert_eq!(bench.counters().writes_unsettled(), 0);
    probe.kill();
}

#[test]
fn a_file_renamed_over_another_keeps_what_it_holds() {
    let Some(bench) = Bench::new() else { return };
    let name = |name: &str| bench.folder.path().join("disk").join(name).display().to_string();
    let mut probe = bench.probe();
    probe.ask("write 0 4 a");
    probe.ask("sync");
    bench.hold();
    assert_eq!(
        probe.ask(&format!("rename {} {}", name("file"), name("other"))),
        "0"
    );
    assert_eq!(probe.ask("write 0 8 b"), "8");
    assert_eq!(probe.ask("reopen"), "0");
    assert_eq!(probe.ask("write 0 2 c"), "2");
    assert_eq!(
        probe.ask(&format!("rename {} {}", name("other"), name("file"))),
        "0"
    );
    assert_eq!(bench.on_disk(), b"aaaa");
    assert_eq!(bench.counters().writes_dropped, 0, "an open file is not gone");
    probe.ask("reopen");
    assert_eq!(probe.ask("read 0 99"), "8b");
    assert_eq!(
        bench.counters().writes_dropped,
        1,
        "a file without name and descriptor is"
    );
    probe.ask("sync");
    probe.kill();
    assert_eq!(bench.on_disk(), b"bbbbbbbb");
}

fn seconds(ns: i64) -> f64 {
    ns as f64 / 1e9
}

fn true_wall() -> i64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).expect("after 1970");
    i64::try_from(now.as_nanos()).expect("before 2262")
}

#[test]
fn the_wall_clock_jumps_both_ways_and_the_monotonic_one_does_not_follow() {
    let Some(bench) = Bench::new() else { return };
    let mut probe = bench.probe();
    let before = probe.number("mono");
    bench
        .control
        .set_wall_clock(Clock::JumpForward(Duration::from_secs(3600)))
        .expect("order");
    assert!((seconds(probe.number("wall") - true_wall()) - 3600.0).abs() < 2.0);
    bench
        .control
        .set_wall_clock(Clock::JumpBack(Duration::from_secs(7200)))
        .expect("order");
    assert!((seconds(probe.number("wall") - true_wall()) + 3600.0).abs() < 2.0);
    assert!(seconds(probe.number("mono") - before) < 10.0);
    probe.kill();
    let mut restarted = bench.probe();
    assert!((seconds(restarted.number("wall") - true_wall()) + 3600.0).abs() < 2.0);
    bench.control.heal().expect("heal");
    assert!(seconds(restarted.number("wall") - true_wall()).abs() < 2.0);
    assert!(bench.counters().clock_bent > 0);
    restarted.kill();
}

#[test]
fn the_monotonic_clock_jumps_forward_only() {
    let Some(bench) = Bench::new() else { return };
    let mut probe = bench.probe();
    let before = probe.number("mono");
    bench
        .control
        .set_monotonic_clock(Clock::JumpForward(Duration::from_secs(600)))
        .expect("order");
    let after = probe.number("mono");
    assert!((600.0..630.0).contains(&seconds(after - before)));
    bench.control.heal().expect("heal");
    assert!((0.0..30.0).contains(&seconds(probe.number("mono") - after)));
    assert!(
        bench
            .control
            .set_monotonic_clock(Clock::JumpBack(Duration::from_secs(1)))
            .is_err()
    );
    assert!(seconds(probe.number("wall") - true_wall()).abs() < 2.0);
    probe.kill();
}

#[test]
fn clocks_and_waits_run_at_the_rate_ordered_without_a_step() {
    let Some(bench) = Bench::new() else { return };
    let mut probe = bench.probe();
    let start = probe.number("mono");
    let true_start = Instant::now();
    bench
        .control
        .set_monotonic_clock(Clock::Rate { ppm: 9_000_000 })
        .expect("order");
    bench
        .control
        .set_wall_clock(Clock::Rate { ppm: 9_000_000 })
        .expect("order");
    assert!(seconds(probe.number("mono") - start) < 10.0 * true_start.elapsed().as_secs_f64() + 0.1);
    for wait in ["sleep", "epoll", "poll", "futex", "condition"] {
        let started = Instant::now();
        let shown = probe.number(&format!("{wait} 5000"));
        let (shown, truly) = (seconds(shown), started.elapsed().as_secs_f64());
        assert!(shown >= 4.99, "{wait} took {shown} s by its own clock");
        assert!((0.45..2.5).contains(&truly), "{wait} took {truly} s");
    }
    assert!(bench.counters().waits_bent > 0);
    let ahead = seconds(probe.number("wall") - true_wall());
    bench
        .control
        .set_wall_clock(Clock::Rate { ppm: 0 })
        .expect("order");
    let still_ahead = seconds(probe.number("wall") - true_wall());
    assert!(
        ahead > 15.0 && (0.0..9.0).contains(&(still_ahead - ahead)),
        "{ahead} {still_ahead}"
    );
    probe.kill();
}

#[test]
fn a_wait_notices_that_its_clock_jumped() {
    let Some(bench) = Bench::new() else { return };
    // A rate that hardly differs, so that a wait that has begun is counted.
    bench
        .control
        .set_monotonic_clock(Clock::Rate { ppm: 1 })
        .expect("order");
    for wait in ["sleep", "epoll", "futex"] {
        let mut probe = bench.probe();
        let waits = bench.counters().waits_bent;
        let started = Instant::now();
        probe.send(&format!("{wait} 60000"));
        while bench.counters().waits_bent == waits {
            thread::yield_now();
        }
        bench
            .control
            .set_monotonic_clock(Clock::JumpForward(Duration::from_secs(61)))
            .expect("order");
        let shown: i64 = probe.answer().parse().expect("a number");
        assert!(seconds(shown) >= 60.0, "{wait}");
        assert!(started.elapsed() < Duration::from_secs(30), "{wait}");
        probe.kill();
    }
}
