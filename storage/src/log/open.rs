//! Opening the log: creating it, or reading all of it back and holding it against its guard.
//!
//! The order matters. The guard exists before the log file, so a log without a guard is a log whose
//! guard was lost. The guard is read first: a newer format or a missing log file is found before
//! anything is written. A new log file is made under another name and renamed once it is sound, so
//! a power cut in the middle leaves nothing that must be explained.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use super::error::OpenLogError;
use super::guard::{FORMAT, Guard, Guarded};
use super::hub::LogOptions;
use super::index::{GroupIndex, LogGroup};
use super::rebuild::Rebuild;
use super::state::LogState;
use crate::disk::{Disk, OpenMode};
use crate::engine::{Durability, Engine, EngineOptions, ReadView};
use crate::failpoint;

/// The log file, its name while it is being made, and the guard.
const LOG_FILE: &str = "log.db";
const UNFINISHED_LOG_FILE: &str = "log.db.new";
const GUARD_FILE: &str = "log.guard";

/// The table that says what the file is; its one row is a magic and the format, big-endian.
const META_TABLE: &str = "meta";
const FORMAT_KEY: &[u8] = b"format";
const MAGIC: &[u8] = b"GODWITLG";

/// An opened log.
pub(super) struct Opened {
    pub(super) state: LogState,
    pub(super) engine: Arc<Engine>,
    pub(super) guard: Guard,
}

/// Opens the log in `dir`, or creates it.
pub(super) fn open(disk: &dyn Disk, dir: &Path, options: &LogOptions) -> Result<Opened, OpenLogError> {
    disk.create_dir_all(dir)?;
    let (guard, guarded) = open_guard(disk, dir, options)?;
    if !disk.exists(&dir.join(LOG_FILE))? {
        refuse_behind(&guarded, 0)?;
        create_log(disk, dir, options)?;
    }
    let engine = open_engine(disk, &dir.join(LOG_FILE), OpenMode::Existing, options)?;
    let view = engine.read()?;
    check_format(&view)?;
    let rebuilt = Rebuild::of(&view)?;
    drop(view);
    let flushed = rebuilt.last_sequence();
    refuse_behind(&guarded, flushed)?;
    let (groups, segments) = rebuilt.finish();
    refuse_older_votes(&guarded, &groups)?;
    let engine = Arc::new(engine);
    let state = LogState::new(engine.clone(), groups, segments, flushed, options.tail_bytes);
    Ok(Opened { state, engine, guard })
}

fn open_guard(disk: &dyn Disk, dir: &Path, options: &LogOptions) -> Result<(Guard, Guarded), OpenLogError> {
    let path = dir.join(GUARD_FILE);
    if !disk.exists(&path)? {
        if disk.exists(&dir.join(LOG_FILE))? {
            return Err(OpenLogError::GuardLost);
        }
        failpoint!(options.failpoints, "log.create.before_guard")?;
        Guard::create(disk, &path)?;
    }
    Guard::open(disk, &path)
}

fn create_log(disk: &dyn Disk, dir: &Path, options: &LogOptions) -> Result<(), OpenLogError> {
    let unfinished = dir.join(UNFINISHED_LOG_FILE);
    if disk.exists(&unfinished)? {
        disk.remove(&unfinished)?;
    }
    let engine = open_engine(disk, &unfinished, OpenMode::CreateNew, options)?;
    let format = [MAGIC, &FORMAT.to_be_bytes()].concat();
    engine.write(Durability::Synced, |tx| tx.put(META_TABLE, FORMAT_KEY, &format))?;
    drop(engine);
    failpoint!(options.failpoints, "log.create.before_rename")?;
    disk.rename(&unfinished, &dir.join(LOG_FILE))?;
    Ok(failpoint!(options.failpoints, "log.create.after_rename")?)
}

fn open_engine(
    disk: &dyn Disk,
    path: &Path,
    mode: OpenMode,
    options: &LogOptions,
) -> Result<Engine, OpenLogError> {
    let file = disk.open(path, mode)?;
    // No quick repair: it costs a second sync a commit, and the log is read whole at open anyway.
    let engine_options = EngineOptions {
        cache_bytes: options.cache_bytes,
        quick_repair: false,
        verify_on_open: false,
    };
    Ok(Engine::open(file, engine_options)?)
}

fn check_format(view: &ReadView) -> Result<(), OpenLogError> {
    let row = view.get(META_TABLE, FORMAT_KEY)?.ok_or(OpenLogError::NotALog)?;
    let format = row
        .strip_prefix(MAGIC)
        .and_then(|format| <[u8; 2]>::try_from(format).ok());
    match format.map(u16::from_be_bytes) {
        None => Err(OpenLogError::NotALog),
        Some(found) if found > FORMAT => Err(OpenLogError::NewerFormat { found, known: FORMAT }),
        Some(_) => Ok(()),
    }
}

/// The log must contain all that the guard knows was flushed.
fn refuse_behind(guarded: &Guarded, found: u64) -> Result<(), OpenLogError> {
    let flushed = guarded.flushed_sequence;
    if found < flushed {
        Err(OpenLogError::RolledBack { flushed, found })
    } else {
        Ok(())
    }
}

/// A group's vote must not be older than the one the guard knows. A group that is gone was
/// destroyed: had its records been lost, the flushed sequence would tell.
fn refuse_older_votes(
    guarded: &Guarded,
    groups: &BTreeMap<LogGroup, GroupIndex>,
) -> Result<(), OpenLogError> {
    for (group, (ordinal, crc)) in &guarded.votes {
        let Some(index) = groups.get(group).filter(|index| !index.quarantined) else {
            continue;
        };
        let (found, vote) = index.vote.clone().unwrap_or_default();
        if found < *ordinal || (found == *ordinal && crc32c::crc32c(&vote) != *crc) {
            return Err(OpenLogError::VoteRolledBack { group: *group });
        }
    }
    Ok(())
}
