//! The log's writer: the one place from which the log is written.
//!
//! [`LogWriter::run`] is the body of a thread; [`LogWriter::step`] is one turn of it, for a
//! simulation that decides itself when the disk gets on. A turn drains the queue, commits the batch
//! with one sync, and fires the callbacks in queue order. What arrives during a commit makes up the
//! next batch: that is the group commit.
//!
//! The order of a turn is the order of the promises: first the log's sync; then, if a vote or a
//! destroy waits for it, the guard; then the callbacks; then the guard, if it is due.

use std::io;
use std::sync::Arc;

use super::error::LogFault;
use super::files::LogFiles;
use super::guard::{Guard, Guarded, INTERVAL_MS};
use super::hub::{Hub, LogOptions};
use super::record::{Kind, Record};
use super::rewrite::Rewrite;
use super::state::Batch;
use crate::failpoint;
use crate::failpoint::HostFailpoints;
use crate::seeded_bug;

/// Writes the log. There is one; when it is dropped, the file is closed and every operation that is
/// still queued fails.
#[derive(Debug)]
pub struct LogWriter {
    hub: Arc<Hub>,
    files: Arc<LogFiles>,
    options: LogOptions,
    guard: Guard,
    /// What the guard remembers.
    guarded_sequence: u64,
    guarded_at_ms: u64,
    rewrite: Rewrite,
    last_batch_bytes: u64,
    /// A frame's bytes, kept to be used again.
    buffer: Vec<u8>,
    /// Seeded bug B18: nothing is written any more.
    without_space: bool,
    /// Seeded bug B5: when the last sync was.
    synced_at_ms: u64,
}

/// Memory for frames that is kept from one to the next.
const BUFFER_BYTES_KEPT: usize = 1 << 20;

/// Seeded bug B5: how long a sync is put off, in milliseconds.
const LATE_SYNC_MS: u64 = 500;

/// What a turn of the writer did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Step {
    /// Committed this many records and fired their callbacks.
    Committed {
        /// Records in the batch, copies included.
        records: usize,
    },
    /// Nothing asks for a commit.
    Idle {
        /// Take the next turn at the latest after this many milliseconds: the guard is behind.
        guard_due_ms: Option<u64>,
    },
    /// The log is closed and all is written, or it failed. There is no next turn.
    Stopped,
}

impl LogWriter {
    pub(super) fn new(hub: Arc<Hub>, files: Arc<LogFiles>, guard: Guard, options: LogOptions) -> LogWriter {
        let guarded_sequence = hub.lock().flushed_sequence;
        let guarded_at_ms = options.clock.now_ms();
        let rewrite = Rewrite::default();
        LogWriter {
            hub,
            files,
            options,
            guard,
            guarded_sequence,
            guarded_at_ms,
            rewrite,
            last_batch_bytes: 0,
            buffer: Vec::new(),
            without_space: false,
            synced_at_ms: 0,
        }
    }

    /// Writes until the log is closed or fails; after a failure the host must stop.
    pub fn run(mut self) -> Result<(), LogFault> {
        loop {
            match self.step() {
                Step::Committed { .. } => {}
                Step::Idle { guard_due_ms } => self.hub.wait(guard_due_ms),
                Step::Stopped => break,
            }
        }
        self.outcome()
    }

    /// How the log stands: an error if it failed, and then the host must stop.
    ///
    /// # Errors
    /// [`LogFault::Failed`], with the reason.
    pub fn outcome(&self) -> Result<(), LogFault> {
        match self.hub.lock().check() {
            Err(LogFault::Failed(reason)) => Err(LogFault::Failed(reason)),
            _ => Ok(()),
        }
    }

    /// One turn: commits all that is queued, once.
    pub fn step(&mut self) -> Step {
        match self.turn() {
            Ok(step) => step,
            Err(fault) => {
                self.hub.stop(Vec::new(), &fault);
                Step::Stopped
            }
        }
    }

    fn turn(&mut self) -> Result<Step, LogFault> {
        if seeded_bug::is_on("B5")
            && let Some(step) = self.acknowledge_early()
        {
            return Ok(step);
        }
        let moved = self.read_ahead()?;
        let batch = {
            let mut state = self.hub.lock();
            if matches!(state.check(), Err(LogFault::Failed(_))) {
                return Ok(Step::Stopped);
            }
            state.drain(self.options.segment_bytes, moved)
        };
        match batch {
            Some(batch) => self.commit(batch),
            None => self.rest(),
        }
    }

    /// Seeded bug B5: callbacks are told of a sync that comes [`LATE_SYNC_MS`] after the one before. Votes are not.
    fn acknowledge_early(&mut self) -> Option<Step> {
        let now_ms = self.options.clock.now_ms();
        let due_ms = self.synced_at_ms.saturating_add(LATE_SYNC_MS);
        let (dones, waits) = self.hub.lock().take_early_dones(now_ms >= due_ms);
        dones.into_iter().for_each(|done| done(Ok(())));
        if waits {
            let guard_due_ms = Some(due_ms.saturating_sub(now_ms));
            return Some(Step::Idle { guard_due_ms });
        }
        self.synced_at_ms = now_ms;
        None
    }

    /// Reads the entries of the oldest segment that the next batch moves forward.
    fn read_ahead(&mut self) -> Result<Vec<Record>, LogFault> {
        let segment = {
            let state = self.hub.lock();
            let due = state.is_due();
            state
                .segments
                .worth_rewriting(self.options.live_bytes_max)
                .filter(|_| due)
        };
        let Some(segment) = segment else {
            return Ok(Vec::new());
        };
        let piece = self.rewrite.read(&self.files, segment, self.last_batch_bytes)?;
        failpoint!(self.options.failpoints, "log.before_move").map_err(fault)?;
        let mut state = self.hub.lock();
        for group in piece.damaged {
            state.quarantine(group);
        }
        Ok(piece.entries)
    }

    fn commit(&mut self, batch: Batch) -> Result<Step, LogFault> {
        let records = batch.records.len();
        tracing::trace!(target: "godwit::steps", count = records as u64, "log batch begun");
        let written = self.write(&batch);
        tracing::trace!(target: "godwit::steps", count = records as u64, "log batch synced");
        // Seeded bug B18: where the disk is full the batch stays in memory and counts as written.
        self.without_space |= seeded_bug::is_on("B18") && written.as_ref().is_err_and(is_full);
        if self.without_space {
            batch.dones.into_iter().for_each(|done| done(Ok(())));
            return Ok(Step::Committed { records });
        }
        let written = written.and_then(|()| {
            self.hub.lock().committed(&batch.records);
            if batch.guarded { self.write_guard() } else { Ok(()) }
        });
        if let Err(fault) = written {
            self.hub.stop(batch.dones, &fault);
            return Ok(Step::Stopped);
        }
        for done in batch.dones {
            done(Ok(()));
        }
        self.remove(&batch.dead).map_err(fault)?;
        if self.guard_due_ms() == Some(0) {
            self.write_guard()?;
        }
        Ok(Step::Committed { records })
    }

    /// Commits the batch's records, durably.
    fn write(&mut self, batch: &Batch) -> Result<(), LogFault> {
        if batch.records.is_empty() || self.without_space {
            return Ok(());
        }
        let points = &self.options.failpoints;
        pass_before_commit(points, batch).map_err(fault)?;
        self.last_batch_bytes = batch.records.iter().map(Record::bytes).sum();
        if batch.rolled {
            self.files.begin(batch.segment).map_err(fault)?;
        }
        let appended = self
            .files
            .append(batch.segment, batch.oldest, &batch.records, &mut self.buffer);
        appended.map_err(fault)?;
        self.buffer.shrink_to(BUFFER_BYTES_KEPT);
        pass_after_commit(points, batch).map_err(fault)
    }

    /// Removes segments in which nothing is live. The commit that says so is durable; if this is interrupted, it is made
    /// up for after a restart. The oldest go first.
    fn remove(&self, dead: &[u64]) -> io::Result<()> {
        for segment in dead {
            failpoint!(self.options.failpoints, "log.before_drop")?;
            self.files.remove(*segment)?;
            failpoint!(self.options.failpoints, "log.after_drop")?;
        }
        Ok(())
    }

    /// Nothing is queued: brings the guard up to date when it is due, and ends when closed.
    fn rest(&mut self) -> Result<Step, LogFault> {
        let closed = self.hub.lock().closed;
        let due_ms = self.guard_due_ms();
        if due_ms == Some(0) || (closed && due_ms.is_some()) {
            self.write_guard()?;
        }
        Ok(if closed {
            Step::Stopped
        } else {
            Step::Idle {
                guard_due_ms: self.guard_due_ms(),
            }
        })
    }

    /// In how many milliseconds the guard must be written; None when it is up to date.
    fn guard_due_ms(&self) -> Option<u64> {
        if self.hub.lock().flushed_sequence == self.guarded_sequence {
            return None;
        }
        let elapsed_ms = self.options.clock.now_ms().saturating_sub(self.guarded_at_ms);
        Some(INTERVAL_MS.saturating_sub(elapsed_ms))
    }

    fn write_guard(&mut self) -> Result<(), LogFault> {
        let guarded = {
            let state = self.hub.lock();
            Guarded {
                flushed_sequence: state.flushed_sequence,
                votes: state.durable_votes.clone(),
            }
        };
        failpoint!(self.options.failpoints, "log.before_guard").map_err(fault)?;
        self.guard.write(&guarded).map_err(fault)?;
        failpoint!(self.options.failpoints, "log.after_guard").map_err(fault)?;
        self.guarded_sequence = guarded.flushed_sequence;
        self.guarded_at_ms = self.options.clock.now_ms();
        Ok(())
    }
}

impl Drop for LogWriter {
    fn drop(&mut self) {
        self.hub.stop(Vec::new(), &LogFault::Closed);
        self.hub.lock().files = None;
    }
}

fn pass_before_commit(points: &HostFailpoints, batch: &Batch) -> io::Result<()> {
    failpoint!(points, "log.before_commit")?;
    if batch.rolled {
        failpoint!(points, "log.before_roll")?;
    }
    if has_asked_for(batch, Kind::Vote) {
        failpoint!(points, "log.before_vote")?;
    }
    if has_asked_for(batch, Kind::Destroyed) {
        failpoint!(points, "log.before_destroy")?;
    }
    Ok(())
}

fn pass_after_commit(points: &HostFailpoints, batch: &Batch) -> io::Result<()> {
    failpoint!(points, "log.after_commit")?;
    if batch.rolled {
        failpoint!(points, "log.after_roll")?;
    }
    if has_asked_for(batch, Kind::Vote) {
        failpoint!(points, "log.after_vote")?;
    }
    if has_asked_for(batch, Kind::Destroyed) {
        failpoint!(points, "log.after_destroy")?;
    }
    Ok(())
}

/// Whether somebody waits for a record of this kind; a new segment's copies nobody waits for.
fn has_asked_for(batch: &Batch, kind: Kind) -> bool {
    batch.guarded && batch.records.iter().any(|record| record.kind == kind)
}

/// Whether a write failed for want of space, as a disk or a simulated one says it.
fn is_full(fault: &LogFault) -> bool {
    let text = fault.to_string().to_lowercase();
    ["no space left", "no storage space"]
        .iter()
        .any(|known| text.contains(known))
}

fn fault(error: io::Error) -> LogFault {
    LogFault::Failed(error.to_string().into())
}
