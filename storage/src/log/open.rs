//! Opening the log: creating it, or reading all of it back and holding it against its guard.
//!
//! The order matters. The guard exists before any segment, so a log without a guard is a log whose
//! guard was lost. The guard is read first: a newer format or a missing log is found before anything
//! is written. What a power cut left behind (a torn frame, a segment without a frame) is removed last,
//! when nothing speaks against opening.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use super::error::OpenLogError;
use super::files::{self, LogFiles};
use super::guard::{Guard, Guarded};
use super::hub::LogOptions;
use super::index::{GroupIndex, LogGroup};
use super::rebuild::Rebuild;
use super::segment_file::{Expected, SegmentFile};
use super::state::LogState;
use crate::disk::Disk;
use crate::failpoint;

const GUARD_FILE: &str = "log.guard";
/// The one file of logs that no released program wrote.
const FORMER_FILE: &str = "log.db";

/// An opened log.
pub(super) struct Opened {
    pub(super) state: LogState,
    pub(super) files: Arc<LogFiles>,
    pub(super) guard: Guard,
}

/// Opens the log in `dir`, or creates it.
pub(super) fn open(disk: Arc<dyn Disk>, dir: &Path, options: &LogOptions) -> Result<Opened, OpenLogError> {
    disk.create_dir_all(dir)?;
    if disk.exists(&dir.join(FORMER_FILE))? {
        return Err(OpenLogError::FormerFormat);
    }
    let (guard, guarded) = open_guard(&*disk, dir, options)?;
    let files = LogFiles::new(disk.clone(), dir, options.segment_bytes);
    let (rebuilt, leftover) = read_segments(&*disk, dir, &files, &guarded)?;
    let flushed = rebuilt.last_sequence();
    refuse_behind(&guarded, flushed)?;
    let (groups, segments) = rebuilt.finish();
    refuse_older_votes(&guarded, &groups)?;
    match leftover {
        Leftover::None => {}
        Leftover::Tail(segment) => {
            if let Some(segment) = files.segment(segment) {
                segment.wipe_tail(options.segment_bytes)?;
            }
        }
        Leftover::Segment(segment) => files.remove(segment)?,
    }
    let files = Arc::new(files);
    let state = LogState::new(files.clone(), groups, segments, flushed, options.tail_bytes);
    Ok(Opened { state, files, guard })
}

fn open_guard(disk: &dyn Disk, dir: &Path, options: &LogOptions) -> Result<(Guard, Guarded), OpenLogError> {
    let path = dir.join(GUARD_FILE);
    if !disk.exists(&path)? {
        if !files::list(disk, dir)?.is_empty() {
            return Err(OpenLogError::GuardLost);
        }
        failpoint!(options.failpoints, "log.create.before_guard")?;
        Guard::create(disk, &path)?;
        failpoint!(options.failpoints, "log.create.after_guard")?;
    }
    Guard::open(disk, &path)
}

/// What a power cut left in the newest segment.
enum Leftover {
    None,
    /// Part of a frame, behind those of the segment that begins at this sequence.
    Tail(u64),
    /// A segment without a frame. It goes: the one that begins next must begin with a copy of all marks.
    Segment(u64),
}

fn read_segments(
    disk: &dyn Disk,
    dir: &Path,
    files: &LogFiles,
    guarded: &Guarded,
) -> Result<(Rebuild, Leftover), OpenLogError> {
    let paths = files::list(disk, dir)?;
    let newest = paths.keys().next_back().copied();
    let mut rebuild = Rebuild::default();
    let mut leftover = Leftover::None;
    let mut counts_from = None;
    for (first, path) in &paths {
        let expected = Expected {
            first: *first,
            newest: Some(*first) == newest,
            flushed: guarded.flushed_sequence,
        };
        let found = SegmentFile::open(disk, path, expected)?;
        match (expected.newest, found.rows.is_empty()) {
            (true, true) => leftover = Leftover::Segment(*first),
            (true, false) if found.torn => leftover = Leftover::Tail(*first),
            _ => {}
        }
        if !found.rows.is_empty() || !expected.newest {
            rebuild.add_segment(*first, &found.rows)?;
        }
        counts_from = found.oldest.or(counts_from);
        files.insert(*first, found.segment);
    }
    let begins = paths.keys().next().copied();
    match counts_from.filter(|from| begins.is_none_or(|begins| begins > *from)) {
        Some(sequence) => Err(OpenLogError::Corrupt {
            sequence,
            why: "a segment is missing".to_owned(),
        }),
        None => Ok((rebuild, leftover)),
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
