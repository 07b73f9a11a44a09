//! Each fail point of the crate's table (`storage/src/failpoint.rs`), armed in a small workload: the
//! step fails there, or the power goes there. Then everything is opened again, and what was
//! acknowledged must be found.

// In a test's own functions, too, an unwrap is an assertion.
#![allow(clippy::unwrap_used)]

mod log_support;
mod shard_support;

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use bytes::Bytes;
use log_support::{GroupState, History, Told};
use shard_support::{apply, create, delete, identity, mark, open_session, options, put};
use storage::clock::ManualClock;
use storage::disk::Disk;
use storage::failpoint::{Action, Failpoints, Firing, HostFailpoints};
use storage::log::{LogGroup, LogHub, LogOptions, LogWriter, OpenLogError, Step};
use storage::shard::{OpenShardError, RewriteLimits, ShardOptions, ShardStore};
use storage::sim_disk::{SimDisk, SyncMode};

const HOST: u64 = 1;
const SHARD: &str = "/shard";
const DOOMED: &str = "/doomed";

/// The points of the table, by name.
fn table() -> BTreeSet<&'static str> {
    let lines = include_str!("../src/failpoint.rs").lines();
    let names = lines.filter_map(|line| line.strip_prefix("//! | `")?.split_once('`'));
    names.map(|(name, _)| name).collect()
}

/// What happens at an armed point.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Style {
    /// The step fails, and the process starts anew.
    Error,
    /// The step fails, and the host loses power before the process starts anew.
    ErrorThenPowerCut,
    /// The power goes at the step: whatever is tried after it fails too.
    PowerCut,
}

const STYLES: [Style; 3] = [Style::Error, Style::ErrorThenPowerCut, Style::PowerCut];

/// A disk and a registry with one point armed.
struct Trial {
    disk: Arc<SimDisk>,
    points: Failpoints,
    fired: Arc<AtomicBool>,
    style: Style,
    name: String,
}

impl Trial {
    fn new(point: &'static str, nth: u64, style: Style, fate: u64) -> Trial {
        let disk = Arc::new(SimDisk::new(fate));
        let (points, fired) = (Failpoints::new(fate), Arc::new(AtomicBool::new(false)));
        points.arm(HOST, point, Action::ReturnError, Firing::Nth(nth));
        let (hooked_disk, hooked) = (disk.clone(), fired.clone());
        points.when_fired(move |_| {
            hooked.store(true, Ordering::Relaxed);
            if style == Style::PowerCut {
                hooked_disk.cut_power_after(0);
            }
        });
        Trial {
            disk,
            points,
            fired,
            style,
            name: format!("{point}, pass {nth}, {style:?}, fate {fate}"),
        }
    }

    fn points(&self) -> HostFailpoints {
        self.points.host(HOST)
    }

    /// The host starts anew. False: the point was never reached.
    fn restart(&self) -> bool {
        if self.style != Style::Error {
            self.disk.crash();
        }
        self.disk.set_sync_mode(SyncMode::Honest);
        self.fired.load(Ordering::Relaxed)
    }
}

/// On a disk whose syncs do nothing, these trials must find broken promises.
fn broken_on_a_lying_disk(trial: impl Fn(Trial) -> bool, point: &'static str) -> usize {
    let broken = |fate: &u64| {
        let trial_here = Trial::new(point, 2, Style::PowerCut, *fate);
        trial_here.disk.set_sync_mode(SyncMode::Lying);
        std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| trial(trial_here))).is_err()
    };
    (0..20).filter(broken).count()
}

/// Runs a trial for each point with this prefix, in each style, at its first, second, ... pass.
/// Every point must have fired, and most of them more than once.
fn try_all(prefix: &str, trial: impl Fn(Trial) -> bool) {
    let points: Vec<_> = table()
        .into_iter()
        .filter(|name| name.starts_with(prefix))
        .collect();
    for point in points {
        for style in STYLES {
            for fate in 0..4 {
                let fired = |nth: &u64| trial(Trial::new(point, *nth, style, fate));
                let passes = (1..=8).take_while(fired).count();
                assert!(passes > 0, "{point} was not reached");
            }
        }
    }
}

#[test]
fn the_table_names_the_points_that_are_passed() {
    let names = table();
    assert!(names.len() >= 30, "{} points", names.len());
    let points = Failpoints::new(0);
    let disk = Arc::new(SimDisk::new(0));
    work_on_log(&disk, points.host(HOST), &mut History::default()).unwrap();
    work_on_shards(&disk, points.host(HOST), &mut Journal::default()).unwrap();
    let passed: BTreeSet<_> = points.passed().into_keys().map(|(_, name)| name).collect();
    assert_eq!(passed, names);
}

// The log.

const IDLE: u64 = 0;
const BUSY: u64 = 1;
const DESTROYED: u64 = 2;

fn open_log(
    disk: &SimDisk,
    clock: &Arc<ManualClock>,
    failpoints: HostFailpoints,
) -> Result<(LogHub, LogWriter), OpenLogError> {
    let options = LogOptions {
        failpoints,
        segment_bytes: 1_024,
        live_bytes_max: 4_096,
        ..log_support::small_options(clock)
    };
    log_support::open(disk, options)
}

/// A log that rolls, drops, moves entries forward, votes and loses a group, until all is done or the
/// log stops. The history says what a restart may find.
fn work_on_log(disk: &Arc<SimDisk>, failpoints: HostFailpoints, history: &mut History) -> Result<(), String> {
    let clock = Arc::new(ManualClock::at(0));
    let (hub, mut writer) = open_log(disk, &clock, failpoints).map_err(|error| error.to_string())?;
    for round in 0..24 {
        if round == 0 {
            append(&hub, history, IDLE, 2);
            append(&hub, history, DESTROYED, 2);
        }
        append(&hub, history, BUSY, 5);
        match round % 4 {
            1 => vote(&hub, history, round % 3, round),
            2 => purge(&hub, history, BUSY),
            _ => {}
        }
        if round == 12 {
            let told = Told::default();
            history.push(DESTROYED, GroupState::default(), told.clone());
            hub.group(LogGroup(DESTROYED)).destroy(told.done());
        }
        clock.advance_ms(60);
        if writer.step() == Step::Stopped {
            return Err("the log stopped".into());
        }
    }
    Ok(())
}

fn append(hub: &LogHub, history: &mut History, group: u64, count: u64) {
    let (mut state, told) = (history.newest(group), Told::default());
    let first = state.next_index();
    let appended = log_support::entries(first..first + count, group);
    state.entries.extend(appended.clone());
    hub.group(LogGroup(group)).append(appended, told.done());
    history.push(group, state, told);
}

fn vote(hub: &LogHub, history: &mut History, group: u64, round: u64) {
    let (mut state, told) = (history.newest(group), Told::default());
    let vote = Bytes::from(format!("vote {round}"));
    state.vote = Some(vote.clone());
    hub.group(LogGroup(group)).save_vote(vote, told.done());
    history.push(group, state, told);
}

fn purge(hub: &LogHub, history: &mut History, group: u64) {
    let (mut state, told) = (history.newest(group), Told::default());
    let upto = state.next_index() - 3;
    let mark = Bytes::from_static(b"purged");
    state.entries.retain(|entry| entry.index > upto);
    state.purged = Some((upto, mark.clone()));
    hub.group(LogGroup(group)).purge(upto, mark, told.done());
    history.push(group, state, told);
}

/// Opens the log that a trial left, holds it against its history, and goes on with it.
fn check_log(trial: &Trial, history: &History) {
    let clock = Arc::new(ManualClock::at(0));
    let opened = open_log(&trial.disk, &clock, HostFailpoints::disarmed());
    let (hub, mut writer) = opened.unwrap_or_else(|error| panic!("{}: not opened: {error}", trial.name));
    for group in [IDLE, BUSY, DESTROYED] {
        let found = GroupState::of(&hub.group(LogGroup(group)));
        if let Some(why) = history.broken_promise(group, &found) {
            panic!("{}: {why}", trial.name);
        }
    }
    let told = Told::default();
    hub.group(LogGroup(BUSY))
        .save_vote(Bytes::from_static(b"after"), told.done());
    log_support::drive(&mut writer);
    assert!(told.is_ok(), "{}: {:?}", trial.name, told.outcome());
}

#[test]
fn no_fail_point_of_the_log_loses_what_was_acknowledged() {
    try_all("log.", try_log);
}

fn try_log(trial: Trial) -> bool {
    let mut history = History::default();
    let worked = work_on_log(&trial.disk, trial.points(), &mut history);
    let fired = trial.restart();
    assert_eq!(worked.is_err(), fired, "{}: {worked:?}", trial.name);
    check_log(&trial, &history);
    fired
}

// The shards.

/// The states that were on their way to the disk, as (mark, fingerprint), in order, and how many of
/// them were acknowledged; and what became of the file that was to be destroyed.
#[derive(Debug, Default)]
struct Journal {
    states: Vec<(Option<Bytes>, u64)>,
    acknowledged: usize,
    doomed_created: bool,
    doomed_destroyed: bool,
}

impl Journal {
    fn announce(&mut self, mark: Option<Bytes>, state_hash: u64) {
        self.states.push((mark, state_hash));
    }

    fn acknowledge(&mut self) {
        self.acknowledged = self.states.len();
    }
}

fn shard_options(failpoints: HostFailpoints) -> ShardOptions {
    ShardOptions {
        failpoints,
        // Every file counts as sparse, once.
        rewrite: RewriteLimits {
            file_bytes_min: 0,
            live_percent_min: 1_000,
        },
        ..options()
    }
}

fn text(error: impl ToString) -> String {
    error.to_string()
}

/// A step of the work on a shard; an error ends it.
type WorkStep<'a> = dyn Fn(&mut Journal) -> Result<(), String> + 'a;

/// Creates, checkpoints, imports, rewrites and destroys, until all is done or a step fails.
fn work_on_shards(
    disk: &Arc<SimDisk>,
    failpoints: HostFailpoints,
    journal: &mut Journal,
) -> Result<(), String> {
    let options = || shard_options(failpoints.clone());
    let empty = create(Arc::new(SimDisk::new(0)), Path::new(SHARD));
    journal.announce(None, empty.state_hash());
    let store = ShardStore::create(disk.clone(), Path::new(SHARD), identity(1), options()).map_err(text)?;
    journal.acknowledge();
    drop(ShardStore::create(disk.clone(), Path::new(DOOMED), identity(1), options()).map_err(text)?);
    journal.doomed_created = true;
    let steps: [&WorkStep; 6] = [
        &|journal| write_checkpoint(&store, journal),
        &|journal| write_checkpoint(&store, journal),
        &|_| rewrite(&store),
        &|journal| install_snapshot(&store, journal),
        &|journal| write_checkpoint(&store, journal),
        &|_| rewrite(&store),
    ];
    for step in steps {
        step(journal).inspect_err(|_| go_on(&store, journal))?;
    }
    ShardStore::destroy(&**disk, Path::new(DOOMED), &failpoints).map_err(text)?;
    journal.doomed_destroyed = true;
    Ok(())
}

/// After a failed step the store either takes no further checkpoint or writes one.
fn go_on(store: &ShardStore, journal: &mut Journal) {
    let keys = store.stats().keys;
    assert_eq!(
        store
            .scan(b"", None, usize::MAX, usize::MAX)
            .map_or(keys, |page| page.pairs.len() as u64),
        keys
    );
    drop(write_checkpoint(store, journal));
}

/// A checkpoint of some more rows, with entries applied while it is written.
fn write_checkpoint(store: &ShardStore, journal: &mut Journal) -> Result<(), String> {
    let sequence = store.revision() + 1;
    let value = vec![sequence as u8; 20_000];
    let stamp = sequence * 100;
    let mut batch = vec![open_session(1)];
    batch.extend((0..4).map(|n| put(1, sequence + n, &format!("k{n}"), &value)));
    apply(store, stamp, &batch);
    let capture = store.capture(mark(store)).map_err(text)?;
    journal.announce(Some(mark(store)), store.state_hash());
    apply(store, stamp, &[open_session(1), delete(1, sequence + 4, "k0")]);
    capture.write().map_err(text)?;
    journal.acknowledge();
    Ok(())
}

fn rewrite(store: &ShardStore) -> Result<(), String> {
    let (hash, durable) = (store.state_hash(), store.durable_applied());
    let report = store.rewrite_if_sparse().map_err(text)?;
    assert!(report.is_some());
    assert_eq!((store.state_hash(), store.durable_applied()), (hash, durable));
    Ok(())
}

fn install_snapshot(store: &ShardStore, journal: &mut Journal) -> Result<(), String> {
    let peer = create(Arc::new(SimDisk::new(0)), Path::new("/peer"));
    write_checkpoint(&peer, &mut Journal::default())?;
    // So that the export, which is of the newest checkpoint, and the peer's memory say the same.
    peer.capture(Bytes::from_static(b"of the peer"))
        .map_err(text)?
        .write()
        .map_err(text)?;
    let mut import = store.begin_import().map_err(text)?;
    for frame in peer.export().map_err(text)? {
        import.push(frame.map_err(text)?).map_err(text)?;
    }
    let imported = import.finish().map_err(text)?;
    journal.announce(imported.mark(), peer.state_hash());
    store.install(imported).map_err(text)?;
    journal.acknowledge();
    Ok(())
}

/// Opens what a trial left and holds it against the journal, then goes on with it.
fn check_shards(trial: &Trial, journal: &Journal) {
    let open =
        |path: &str, options| ShardStore::open(trial.disk.clone(), Path::new(path), &identity(1), options);
    let name = &trial.name;
    match open(SHARD, shard_options(HostFailpoints::disarmed())) {
        Err(OpenShardError::Missing) if journal.acknowledged == 0 => {}
        Err(error) => panic!("{name}: not opened: {error}"),
        Ok(store) => {
            let found = (store.mark(), store.state_hash());
            let allowed = &journal.states[journal.acknowledged.saturating_sub(1)..];
            assert!(allowed.contains(&found), "{name}: {found:?} of {journal:?}");
            store.scan(b"", None, usize::MAX, usize::MAX).unwrap();
            rewrite(&store).unwrap();
            write_checkpoint(&store, &mut Journal::default()).unwrap();
        }
    }
    let doomed = open(DOOMED, options());
    match (journal.doomed_created, journal.doomed_destroyed) {
        (_, true) => assert!(matches!(doomed, Err(OpenShardError::Missing)), "{name}"),
        (true, false) if doomed.is_err() => assert!(name.starts_with("shard.destroy.after"), "{name}"),
        _ => drop(doomed),
    }
    // An order to destroy is obeyed again after a restart, and then nothing is left.
    ShardStore::destroy(&*trial.disk, Path::new(DOOMED), &HostFailpoints::disarmed()).unwrap();
    let left = trial.disk.list(Path::new("/")).unwrap();
    assert!(
        !left.iter().any(|path| path.to_string_lossy().starts_with(DOOMED)),
        "{name}: {left:?}"
    );
}

#[test]
fn no_fail_point_of_a_shard_loses_what_was_acknowledged() {
    try_all("shard.", try_shards);
}

fn try_shards(trial: Trial) -> bool {
    let mut journal = Journal::default();
    let worked = work_on_shards(&trial.disk, trial.points(), &mut journal);
    let fired = trial.restart();
    assert_eq!(worked.is_err(), fired, "{}: {worked:?}", trial.name);
    check_shards(&trial, &journal);
    fired
}

/// The trials can fail: on a disk whose syncs do nothing they do.
#[test]
fn the_trials_notice_a_disk_that_lies_about_syncs() {
    let broken = [
        broken_on_a_lying_disk(try_log, "log.after_guard"),
        broken_on_a_lying_disk(try_shards, "shard.checkpoint.before_write"),
        broken_on_a_lying_disk(try_shards, "shard.rewrite.before_finish"),
    ];
    assert!(broken.iter().all(|broken| *broken > 3), "{broken:?} of 20 each");
}
