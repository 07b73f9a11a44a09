//! One group's log: the handle through which a replica writes and reads its entries and marks.
//!
//! Writing operations change the state in memory at once, queue their record and return; the
//! callback tells when, and whether, it became durable. Reads are synchronous and served from memory
//! where possible.

use std::ops::Range;
use std::sync::Arc;

use bytes::Bytes;

use super::error::{LogFault, ReadLogError};
use super::hub::Hub;
use super::index::LogGroup;
use super::record::{Kind, Record};
use super::segment_file::SegmentFile;
use super::state::LogState;

/// Told once whether the operation is durable. Runs on the writer's thread (or, for an operation
/// that was refused, on the caller's) and must not block. An error other than a refusal means that
/// the outcome is unknown and the host must stop.
pub type Done = Box<dyn FnOnce(Result<(), LogFault>) + Send>;

/// One entry.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LogRecord {
    /// Its position in the group's log.
    pub index: u64,
    /// Its content, opaque to the log.
    pub payload: Bytes,
}

/// The log of one group. A cheap handle.
#[derive(Debug, Clone)]
pub struct GroupLog {
    hub: Arc<Hub>,
    group: LogGroup,
}

impl GroupLog {
    pub(super) fn new(hub: Arc<Hub>, group: LogGroup) -> GroupLog {
        GroupLog { hub, group }
    }

    /// The group's id.
    pub fn id(&self) -> LogGroup {
        self.group
    }

    /// Appends entries that follow the last one (or the purged ones; an empty log may begin
    /// anywhere). They can be read when this returns, and are durable when `done` says so.
    pub fn append(&self, records: Vec<LogRecord>, done: Done) {
        self.submit(Some(done), |state, group| state.append(group, records));
    }

    /// Replaces the vote. `done` fires after the guard, too, knows of it.
    pub fn save_vote(&self, vote: Bytes, done: Done) {
        self.submit(Some(done), |state, group| state.save_vote(group, vote));
    }

    /// Replaces the committed mark. It becomes durable with the next commit that anyone asks for;
    /// a fault shows at the next operation that has a callback.
    pub fn save_committed(&self, committed: Bytes) {
        self.submit(None, |state, group| state.save_committed(group, committed));
    }

    /// Removes all entries after `last_kept`, or all when it is None.
    pub fn truncate_after(&self, last_kept: Option<u64>, done: Done) {
        let first_removed = last_kept.map_or(0, |last_kept| last_kept.saturating_add(1));
        self.submit(Some(done), |state, group| state.truncate(group, first_removed));
    }

    /// Removes all entries up to and with `upto`, which may lie past the last entry, and replaces
    /// the purged mark. The caller's state covers them durably. A purge below an earlier one
    /// changes nothing.
    pub fn purge(&self, upto: u64, mark: Bytes, done: Done) {
        self.submit(Some(done), |state, group| state.purge(group, upto, mark));
    }

    /// Removes everything of the group. Later operations are refused as [`LogFault::Destroyed`].
    pub fn destroy(&self, done: Done) {
        self.submit(Some(done), LogState::destroy);
    }

    /// The entries of an index range, as far as there are any: from the first on, and so many as
    /// fit into `bytes_max`, but at least one.
    pub fn read(&self, range: Range<u64>, bytes_max: usize) -> Result<Vec<LogRecord>, ReadLogError> {
        let found = self.find(range, bytes_max)?;
        let loaded = load(self.group, found);
        if let Err(ReadLogError::Corrupt { .. }) = loaded {
            self.hub.lock().quarantine(self.group);
        }
        loaded
    }

    /// The last entry.
    pub fn last(&self) -> Result<Option<LogRecord>, ReadLogError> {
        let Some(last) = self.last_index() else {
            return Ok(None);
        };
        Ok(self.read(last..last + 1, usize::MAX)?.pop())
    }

    /// The index of the first entry that is there.
    pub fn first_index(&self) -> Option<u64> {
        self.hub.lock().groups.get(&self.group)?.first_index()
    }

    /// The index of the last entry that is there; None also when all are purged.
    pub fn last_index(&self) -> Option<u64> {
        self.hub.lock().groups.get(&self.group)?.last_index()
    }

    /// The last purged index and the mark given with it.
    pub fn purged(&self) -> Option<(u64, Bytes)> {
        self.hub.lock().groups.get(&self.group)?.purged.clone()
    }

    /// The vote saved last.
    pub fn vote(&self) -> Option<Bytes> {
        self.hub
            .lock()
            .groups
            .get(&self.group)?
            .vote
            .as_ref()
            .map(|(_, vote)| vote.clone())
    }

    /// The committed mark saved last.
    pub fn committed(&self) -> Option<Bytes> {
        self.hub.lock().groups.get(&self.group)?.committed.clone()
    }

    /// The index up to which, and with which, the log is durable: its entries or their purge.
    pub fn flushed_index(&self) -> Option<u64> {
        self.hub.lock().groups.get(&self.group)?.flushed
    }

    /// Runs `change` on the shared state and queues the callback, or tells it of the refusal.
    fn submit(
        &self,
        done: Option<Done>,
        change: impl FnOnce(&mut LogState, LogGroup) -> Result<(), LogFault>,
    ) {
        let mut state = self.hub.lock();
        // Waking is a system call, and only the first of a batch needs it.
        let wake = !state.is_due();
        let changed = state.check().and_then(|()| change(&mut state, self.group));
        match (changed, done) {
            (Ok(()), Some(done)) => {
                state.enqueue_done(done);
                drop(state);
                if wake {
                    self.hub.wake();
                }
            }
            (Err(fault), Some(done)) => {
                drop(state);
                done(Err(fault));
            }
            (_, None) => {}
        }
    }

    /// Looks up a range in memory. Segments are taken under the same lock, so every one that the found slots name is
    /// still there.
    fn find(&self, range: Range<u64>, bytes_max: usize) -> Result<Vec<Found>, ReadLogError> {
        let state = self.hub.lock();
        state.check()?;
        let mut found = Vec::new();
        let mut bytes = 0usize;
        for (index, slot) in state.sound(self.group)?.slots(range) {
            bytes = bytes.saturating_add(slot.bytes as usize);
            if bytes > bytes_max && !found.is_empty() {
                break;
            }
            let place = match &slot.cached {
                Some(payload) => Place::Memory(payload.clone()),
                None => Place::Disk {
                    segment: state.segment_of(slot.sequence),
                    sequence: slot.sequence,
                },
            };
            found.push(Found { index, place });
        }
        Ok(found)
    }
}

/// An entry whose payload is still to be loaded.
struct Found {
    index: u64,
    place: Place,
}

enum Place {
    Memory(Bytes),
    Disk {
        segment: Option<Arc<SegmentFile>>,
        sequence: u64,
    },
}

/// Loads entries, and verifies those that come from the disk.
fn load(group: LogGroup, found: Vec<Found>) -> Result<Vec<LogRecord>, ReadLogError> {
    let mut records = Vec::with_capacity(found.len());
    for Found { index, place } in found {
        let payload = match place {
            Place::Memory(payload) => payload,
            Place::Disk { segment, sequence } => fetch(segment.as_deref(), sequence)?
                .filter(|record| (record.kind, record.group, record.index) == (Kind::Entry, group, index))
                .map(|record| record.payload)
                .ok_or(ReadLogError::Corrupt { group, index })?,
        };
        records.push(LogRecord { index, payload });
    }
    Ok(records)
}

/// The record with this sequence; None when it is missing or does not verify.
fn fetch(segment: Option<&SegmentFile>, sequence: u64) -> Result<Option<Record>, ReadLogError> {
    let Some(segment) = segment else { return Ok(None) };
    let row = segment.row(sequence)?;
    Ok(row.and_then(|row| Record::decode(sequence, &row).ok()))
}
