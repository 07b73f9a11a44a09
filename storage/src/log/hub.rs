//! The log's handle for the whole host: its groups, its figures, its end.

use std::path::Path;
use std::sync::{Arc, Condvar, Mutex, MutexGuard};
use std::time::Duration;

use super::error::{LogFault, OpenLogError};
use super::group::{Done, GroupLog};
use super::index::LogGroup;
use super::open::open;
use super::state::LogState;
use super::writer::LogWriter;
use crate::clock::Clock;
use crate::disk::Disk;
use crate::failpoint::HostFailpoints;

/// How a log is kept.
#[derive(Debug, Clone)]
pub struct LogOptions {
    /// Spaces the guard's writes.
    pub clock: Arc<dyn Clock>,
    /// The host's fail points.
    pub failpoints: HostFailpoints,
    /// A segment closes when its records reach this many bytes. Each takes so much of the disk from its beginning.
    pub segment_bytes: u64,
    /// Payloads of recent entries held in memory, in bytes. What is not durable yet comes on top.
    pub tail_bytes: usize,
    /// Above this many bytes of records the log moves the entries of idle groups forward, and
    /// [`LogHub::pinning_groups`] names the groups to purge.
    pub live_bytes_max: u64,
}

impl LogOptions {
    /// Defaults for a host of up to 256 replicas.
    pub fn new(clock: Arc<dyn Clock>) -> LogOptions {
        LogOptions {
            clock,
            failpoints: HostFailpoints::disarmed(),
            segment_bytes: 16 << 20,
            tail_bytes: 32 << 20,
            live_bytes_max: 1 << 30,
        }
    }
}

/// The figures of a log.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LogStats {
    /// The newest durable sequence: records ever written, copies included.
    pub records: u64,
    /// Bytes of the records in all segments.
    pub bytes: u64,
    /// Bytes of the entries that are neither purged nor truncated.
    pub live_bytes: u64,
    /// Synced commits since the log was opened.
    pub commits: u64,
    /// Segments, each a file.
    pub segments: usize,
    /// How many groups [`LogHub::pinning_groups`] names.
    pub pinning_groups: usize,
    /// Records queued and not yet taken by the writer.
    pub queued: usize,
    /// Bytes of payloads in memory.
    pub cached_bytes: usize,
}

/// One host's log. A cheap handle.
#[derive(Debug, Clone)]
pub struct LogHub {
    hub: Arc<Hub>,
    live_bytes_max: u64,
}

/// What the handles and the writer share.
#[derive(Debug)]
pub(super) struct Hub {
    state: Mutex<LogState>,
    /// Woken when the writer has something to do.
    wake: Condvar,
}

impl LogHub {
    /// Opens the log in the folder `dir`, or creates one. The caller holds the data folder's lock
    /// and gives [`LogWriter::run`] a thread: nothing is written without it.
    pub fn open(
        disk: Arc<dyn Disk>,
        dir: &Path,
        options: LogOptions,
    ) -> Result<(LogHub, LogWriter), OpenLogError> {
        let opened = open(disk, dir, &options)?;
        let hub = Arc::new(Hub {
            state: Mutex::new(opened.state),
            wake: Condvar::new(),
        });
        let live_bytes_max = options.live_bytes_max;
        let writer = LogWriter::new(hub.clone(), opened.files, opened.guard, options);
        Ok((LogHub { hub, live_bytes_max }, writer))
    }

    /// The log of a group; an unknown group begins empty.
    pub fn group(&self, group: LogGroup) -> GroupLog {
        self.hub.lock().groups.entry(group).or_default();
        GroupLog::new(self.hub.clone(), group)
    }

    /// All groups, sorted.
    pub fn groups(&self) -> Vec<LogGroup> {
        self.hub.lock().groups.keys().copied().collect()
    }

    /// The groups with a damaged record, sorted: destroy them and rebuild their replicas under
    /// fresh ids.
    pub fn quarantined(&self) -> Vec<LogGroup> {
        let state = self.hub.lock();
        let damaged = state.groups.iter().filter(|(_, index)| index.quarantined);
        damaged.map(|(group, _)| *group).collect()
    }

    /// The groups whose entries hold the oldest segments while the log is above its limit, sorted.
    /// Purge them, or the log grows on.
    pub fn pinning_groups(&self) -> Vec<LogGroup> {
        self.hub
            .lock()
            .segments
            .pinning(self.live_bytes_max)
            .into_iter()
            .collect()
    }

    /// Bytes of the payloads that were appended to a group's log since this one was opened; 0 for an unknown group.
    pub fn appended_bytes(&self, group: LogGroup) -> u64 {
        let state = self.hub.lock();
        state.groups.get(&group).map_or(0, |index| index.appended_bytes)
    }

    /// How long the log is, by how long it may be: above 1 there are [`pinning_groups`](Self::pinning_groups).
    pub fn fill(&self) -> f64 {
        self.hub.lock().segments.bytes() as f64 / self.live_bytes_max as f64
    }

    /// The log's figures.
    pub fn stats(&self) -> LogStats {
        let state = self.hub.lock();
        LogStats {
            records: state.flushed_sequence,
            bytes: state.segments.bytes(),
            live_bytes: state.segments.live_bytes(),
            commits: state.commits,
            segments: state.segments.count(),
            pinning_groups: state.segments.pinning(self.live_bytes_max).len(),
            queued: state.queued(),
            cached_bytes: state.cached_bytes(),
        }
    }

    /// Whether the log takes operations: an error once it was closed, or failed.
    ///
    /// # Errors
    /// [`LogFault::Closed`], or [`LogFault::Failed`] with the reason.
    pub fn check(&self) -> Result<(), LogFault> {
        self.hub.lock().check()
    }

    /// Refuses further operations. The writer commits what is queued and ends.
    pub fn close(&self) {
        self.hub.lock().closed = true;
        self.hub.wake();
    }
}

impl Hub {
    pub(super) fn lock(&self) -> MutexGuard<'_, LogState> {
        self.state
            .lock()
            .expect("no code panics while it holds the log's state")
    }

    pub(super) fn wake(&self) {
        self.wake.notify_one();
    }

    /// Waits until there is something to commit, the log is closed, or `timeout_ms` have passed.
    pub(super) fn wait(&self, timeout_ms: Option<u64>) {
        let idle = |state: &mut LogState| !state.is_due() && !state.closed;
        let state = self.lock();
        // A poisoned lock is reported by the next one who locks.
        match timeout_ms {
            None => drop(self.wake.wait_while(state, idle)),
            Some(ms) => drop(
                self.wake
                    .wait_timeout_while(state, Duration::from_millis(ms), idle),
            ),
        }
    }

    /// Stops the log for good; what is queued and `dones` fail with `fault`.
    pub(super) fn stop(&self, dones: Vec<Done>, fault: &LogFault) {
        let queued = self.lock().stop(fault.clone());
        for done in dones.into_iter().chain(queued) {
            done(Err(fault.clone()));
        }
    }
}
