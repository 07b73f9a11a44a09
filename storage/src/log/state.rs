//! The state that the handles and the writer share, and the rules by which it changes.
//!
//! A handle's operation changes the groups' indexes here at once and queues its records, each with
//! the next sequence. The writer drains the queue into a [`Batch`]: at that moment the state in
//! memory is exactly what the log says once the batch is committed. That is when marks are copied
//! into a new segment, entries are moved forward and dead segments leave: their files go after the commit.
//!
//! Nothing here waits for the disk; the lock around it is never held across I/O.

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;

use super::error::LogFault;
use super::files::LogFiles;
use super::group::{Done, LogRecord};
use super::index::{GroupIndex, LogGroup, Slot};
use super::record::{Kind, Record, row_bytes};
use super::segment_file::SegmentFile;
use super::segments::Segments;

/// All groups, the queue and the segments of one log.
#[derive(Debug)]
pub(super) struct LogState {
    pub(super) groups: BTreeMap<LogGroup, GroupIndex>,
    pub(super) segments: Segments,
    /// For reads. Taken away when the writer ends, so that the files are closed with it.
    pub(super) files: Option<Arc<LogFiles>>,
    /// Each group's durable vote, as (ordinal, CRC-32C), for the guard.
    pub(super) durable_votes: BTreeMap<LogGroup, (u64, u32)>,
    /// The newest durable sequence; zero when there is none.
    pub(super) flushed_sequence: u64,
    pub(super) closed: bool,
    pub(super) commits: u64,
    tail: Tail,
    queue: Queue,
    /// The sequence of the next queued record.
    next_sequence: u64,
    /// Records below this sequence have a segment.
    drained_sequence: u64,
    fault: Option<LogFault>,
}

/// What the handles queued and the writer has not taken yet.
#[derive(Default)]
struct Queue {
    records: Vec<Record>,
    dones: Vec<Done>,
    /// Something waits for the commit. A committed mark alone does not; it rides with the next batch.
    urgent: bool,
    /// A vote or a destroy is among the records: its callback waits for the guard too.
    guarded: bool,
}

/// The payloads held in memory, by sequence, up to a limit.
#[derive(Debug)]
struct Tail {
    limit_bytes: usize,
    used_bytes: usize,
    by_sequence: BTreeMap<u64, (LogGroup, u64)>,
}

/// What one commit writes.
pub(super) struct Batch {
    /// The segment that takes the records.
    pub(super) segment: u64,
    /// The segment is new.
    pub(super) rolled: bool,
    /// The first sequence of the oldest segment that counts once the batch is durable.
    pub(super) oldest: u64,
    /// Segments that do not count any more then.
    pub(super) dead: Vec<u64>,
    /// Records in sequence order.
    pub(super) records: Vec<Record>,
    /// Callbacks in queue order.
    pub(super) dones: Vec<Done>,
    /// The callbacks wait for the guard.
    pub(super) guarded: bool,
}

impl LogState {
    /// The state of a log that holds `groups` and `segments` and whose newest sequence is `flushed_sequence`.
    pub(super) fn new(
        files: Arc<LogFiles>,
        groups: BTreeMap<LogGroup, GroupIndex>,
        segments: Segments,
        flushed_sequence: u64,
        tail_bytes: usize,
    ) -> LogState {
        let durable_votes = groups
            .iter()
            .filter_map(|(group, index)| {
                index
                    .vote
                    .as_ref()
                    .map(|(ordinal, vote)| (*group, (*ordinal, crc32c::crc32c(vote))))
            })
            .collect();
        LogState {
            groups,
            segments,
            files: Some(files),
            durable_votes,
            flushed_sequence,
            closed: false,
            commits: 0,
            tail: Tail {
                limit_bytes: tail_bytes,
                used_bytes: 0,
                by_sequence: BTreeMap::new(),
            },
            queue: Queue::default(),
            next_sequence: flushed_sequence + 1,
            drained_sequence: flushed_sequence + 1,
            fault: None,
        }
    }

    /// Err when the log takes no operations.
    pub(super) fn check(&self) -> Result<(), LogFault> {
        match &self.fault {
            Some(fault) => Err(fault.clone()),
            None if self.closed => Err(LogFault::Closed),
            None => Ok(()),
        }
    }

    /// A group that exists and is sound.
    pub(super) fn sound(&self, group: LogGroup) -> Result<&GroupIndex, LogFault> {
        let index = self.groups.get(&group).ok_or(LogFault::Destroyed { group })?;
        if index.quarantined {
            Err(LogFault::Quarantined { group })
        } else {
            Ok(index)
        }
    }

    /// The file that holds the record with this sequence.
    pub(super) fn segment_of(&self, sequence: u64) -> Option<Arc<SegmentFile>> {
        let first = self.segments.holding(sequence)?;
        self.files.as_ref()?.segment(first)
    }

    /// Appends entries; readable at once.
    pub(super) fn append(&mut self, group: LogGroup, records: Vec<LogRecord>) -> Result<(), LogFault> {
        check_contiguous(group, self.sound(group)?, &records)?;
        for LogRecord { index, payload } in records {
            let bytes = u32::try_from(row_bytes(&payload)).expect("a payload is far below 4 GiB");
            let slot = Slot {
                sequence: self.next_sequence,
                bytes,
                cached: Some(payload.clone()),
            };
            self.tail.insert(self.next_sequence, group, index, payload.len());
            let of_group = self.index_mut(group);
            of_group.appended_bytes += payload.len() as u64;
            of_group.push(index, slot);
            self.enqueue(Kind::Entry, group, index, payload);
        }
        self.queue.urgent = true;
        Ok(())
    }

    /// Sets the group's vote.
    pub(super) fn save_vote(&mut self, group: LogGroup, vote: Bytes) -> Result<(), LogFault> {
        let ordinal = self
            .sound(group)?
            .vote
            .as_ref()
            .map_or(0, |(ordinal, _)| *ordinal)
            + 1;
        self.index_mut(group).vote = Some((ordinal, vote.clone()));
        self.enqueue(Kind::Vote, group, ordinal, vote);
        self.queue.urgent = true;
        self.queue.guarded = true;
        Ok(())
    }

    /// Sets the group's committed mark. Does not ask for a commit.
    pub(super) fn save_committed(&mut self, group: LogGroup, committed: Bytes) -> Result<(), LogFault> {
        self.sound(group)?;
        self.index_mut(group).committed = Some(committed.clone());
        self.enqueue(Kind::Committed, group, 0, committed);
        Ok(())
    }

    /// Removes the entries from `first_removed` on.
    pub(super) fn truncate(&mut self, group: LogGroup, first_removed: u64) -> Result<(), LogFault> {
        self.sound(group)?;
        let removed = self.index_mut(group).truncate(first_removed);
        self.release(group, removed);
        self.enqueue(Kind::Truncated, group, first_removed, Bytes::new());
        self.queue.urgent = true;
        Ok(())
    }

    /// Removes the entries up to and with `upto`.
    pub(super) fn purge(&mut self, group: LogGroup, upto: u64, mark: Bytes) -> Result<(), LogFault> {
        self.sound(group)?;
        let removed = self.index_mut(group).purge(upto, mark.clone());
        self.release(group, removed);
        self.enqueue(Kind::Purged, group, upto, mark);
        self.queue.urgent = true;
        Ok(())
    }

    /// Removes the group. The one operation that a quarantined group accepts.
    pub(super) fn destroy(&mut self, group: LogGroup) -> Result<(), LogFault> {
        let mut index = self.groups.remove(&group).ok_or(LogFault::Destroyed { group })?;
        self.release(group, index.clear());
        self.segments.forget(group);
        self.enqueue(Kind::Destroyed, group, 0, Bytes::new());
        self.queue.urgent = true;
        self.queue.guarded = true;
        Ok(())
    }

    /// Queues the callback of the operation queued last.
    pub(super) fn enqueue_done(&mut self, done: Done) {
        self.queue.dones.push(done);
        self.queue.urgent = true;
    }

    /// Marks a group as damaged. Its entries stay live, so the damaged record outlives a restart.
    pub(super) fn quarantine(&mut self, group: LogGroup) {
        if let Some(index) = self.groups.get_mut(&group) {
            index.quarantined = true;
        }
    }

    /// Whether the writer has something to commit now.
    pub(super) fn is_due(&self) -> bool {
        self.queue.urgent || (self.closed && !self.queue.records.is_empty())
    }

    /// How many records are queued.
    pub(super) fn queued(&self) -> usize {
        self.queue.records.len()
    }

    /// Bytes of payloads held in memory.
    pub(super) fn cached_bytes(&self) -> usize {
        self.tail.used_bytes
    }

    /// Takes all that is queued as one batch, with the `moved` entries that are still live rewritten
    /// at its end. None when nothing asks for a commit.
    pub(super) fn drain(&mut self, segment_bytes: u64, moved: Vec<Record>) -> Option<Batch> {
        if !self.is_due() {
            return None;
        }
        if self.queue.records.is_empty() {
            // Callbacks alone, of empty appends: all before them is durable already.
            return Some(Batch::without_records(std::mem::take(&mut self.queue).dones));
        }
        let rolled = self
            .segments
            .newest()
            .is_none_or(|(_, bytes)| bytes >= segment_bytes);
        if rolled {
            self.segments.open(self.drained_sequence);
        }
        // From here on the queued records have a segment: what is counted live now is counted off
        // when it is removed.
        self.drained_sequence = self.next_sequence;
        self.count_live();
        if rolled {
            self.copy_marks();
        }
        self.move_forward(moved);
        self.drained_sequence = self.next_sequence;
        let queue = std::mem::take(&mut self.queue);
        for record in &queue.records {
            self.segments.add_bytes(record.bytes());
        }
        let (segment, _) = self
            .segments
            .newest()
            .expect("a segment was opened above or before");
        let dead = self.segments.take_dead();
        let oldest = self.segments.oldest().unwrap_or(segment);
        let Queue {
            records,
            dones,
            guarded,
            ..
        } = queue;
        Some(Batch {
            segment,
            rolled,
            oldest,
            dead,
            records,
            dones,
            guarded,
        })
    }

    /// Seeded bug B5: takes the callbacks of records that are not written yet, and says whether the records are to
    /// wait. They do not where a vote is among them, where the log closes, or where the sync is `due`.
    pub(super) fn take_early_dones(&mut self, due: bool) -> (Vec<Done>, bool) {
        if self.queue.guarded || self.closed || self.queue.records.is_empty() {
            return (Vec::new(), false);
        }
        self.queue.urgent = due;
        (std::mem::take(&mut self.queue.dones), !due)
    }

    /// Takes note that a batch is durable.
    pub(super) fn committed(&mut self, records: &[Record]) {
        self.commits += 1;
        for record in records {
            self.flushed_sequence = record.sequence;
            self.note_durable(record);
        }
        self.evict();
    }

    /// Stops the log for good and returns the callbacks that will not get their commit.
    pub(super) fn stop(&mut self, fault: LogFault) -> Vec<Done> {
        self.fault.get_or_insert(fault);
        std::mem::take(&mut self.queue).dones
    }

    fn index_mut(&mut self, group: LogGroup) -> &mut GroupIndex {
        self.groups.get_mut(&group).expect("the caller found the group")
    }

    fn enqueue(&mut self, kind: Kind, group: LogGroup, index: u64, payload: Bytes) {
        let sequence = self.next_sequence;
        self.next_sequence += 1;
        self.queue.records.push(Record {
            kind,
            group,
            index,
            sequence,
            payload,
        });
    }

    /// Counts removed slots off their segments and out of memory.
    fn release(&mut self, group: LogGroup, removed: Vec<Slot>) {
        for slot in removed {
            // A record that is still queued has no segment yet; it will not be counted live.
            if slot.sequence < self.drained_sequence {
                self.segments
                    .remove_live(group, slot.sequence, u64::from(slot.bytes));
            }
            if let Some(payload) = slot.cached {
                self.tail.remove(slot.sequence, payload.len());
            }
        }
    }

    /// Counts the queued entries that are still live into the segment that takes them.
    fn count_live(&mut self) {
        for record in self
            .queue
            .records
            .iter()
            .filter(|record| record.kind == Kind::Entry)
        {
            let slot = self
                .groups
                .get(&record.group)
                .and_then(|index| index.slot(record.index));
            if slot.is_some_and(|slot| slot.sequence == record.sequence) {
                self.segments
                    .add_live(record.group, record.sequence, record.bytes());
            }
        }
    }

    /// Queues a copy of every group's marks, so that no older segment is needed for them.
    fn copy_marks(&mut self) {
        let mut marks = Vec::new();
        for (group, index) in &self.groups {
            let vote = index
                .vote
                .iter()
                .map(|(ordinal, vote)| (Kind::Vote, *ordinal, vote));
            let committed = index.committed.iter().map(|mark| (Kind::Committed, 0, mark));
            let purged = index
                .purged
                .iter()
                .map(|(upto, mark)| (Kind::Purged, *upto, mark));
            let of_group = vote.chain(committed).chain(purged);
            marks.extend(of_group.map(|(kind, index, mark)| (kind, *group, index, mark.clone())));
        }
        for (kind, group, index, mark) in marks {
            self.enqueue(kind, group, index, mark);
        }
    }

    /// Queues the entries among `moved` that are still live under new sequences.
    fn move_forward(&mut self, moved: Vec<Record>) {
        for Record {
            group,
            index,
            sequence,
            payload,
            ..
        } in moved
        {
            let next = self.next_sequence;
            let Some(slot) = self
                .groups
                .get_mut(&group)
                .and_then(|groups| groups.slot_mut(index, sequence))
            else {
                continue;
            };
            let bytes = u64::from(slot.bytes);
            slot.sequence = next;
            // In memory until the copy is durable: no reader can find it on disk before.
            if slot.cached.replace(payload.clone()).is_some() {
                self.tail.remove(sequence, payload.len());
            }
            self.tail.insert(next, group, index, payload.len());
            self.segments.remove_live(group, sequence, bytes);
            self.segments.add_live(group, next, bytes);
            self.enqueue(Kind::Entry, group, index, payload);
        }
    }

    fn note_durable(&mut self, record: &Record) {
        if record.kind == Kind::Destroyed {
            self.durable_votes.remove(&record.group);
        }
        if record.kind == Kind::Vote {
            let vote = (record.index, crc32c::crc32c(&record.payload));
            self.durable_votes.insert(record.group, vote);
        }
        let Some(index) = self.groups.get_mut(&record.group) else {
            return;
        };
        let current = match record.kind {
            // An entry that was truncated meanwhile has no slot with this sequence any more.
            Kind::Entry => index.slot_mut(record.index, record.sequence).is_some(),
            Kind::Purged => index
                .purged
                .as_ref()
                .is_some_and(|(upto, _)| *upto >= record.index),
            _ => false,
        };
        if current {
            index.flush(record.index);
        }
    }

    /// Drops the oldest durable payloads from memory while there are more than the limit.
    fn evict(&mut self) {
        while self.tail.used_bytes > self.tail.limit_bytes {
            let Some((&sequence, &(group, index))) = self.tail.by_sequence.first_key_value() else {
                return;
            };
            if sequence > self.flushed_sequence {
                return;
            }
            let slot = self
                .groups
                .get_mut(&group)
                .and_then(|groups| groups.slot_mut(index, sequence));
            let payload = slot.and_then(|slot| slot.cached.take());
            self.tail
                .remove(sequence, payload.map_or(0, |payload| payload.len()));
        }
    }
}

impl Batch {
    fn without_records(dones: Vec<Done>) -> Batch {
        Batch {
            segment: 0,
            rolled: false,
            oldest: 0,
            dead: Vec::new(),
            records: Vec::new(),
            dones,
            guarded: false,
        }
    }
}

impl Tail {
    fn insert(&mut self, sequence: u64, group: LogGroup, index: u64, bytes: usize) {
        self.by_sequence.insert(sequence, (group, index));
        self.used_bytes += bytes;
    }

    fn remove(&mut self, sequence: u64, bytes: usize) {
        self.by_sequence.remove(&sequence);
        self.used_bytes -= bytes;
    }
}

impl std::fmt::Debug for Queue {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Queue")
            .field("records", &self.records.len())
            .field("urgent", &self.urgent)
            .finish()
    }
}

fn check_contiguous(group: LogGroup, index: &GroupIndex, records: &[LogRecord]) -> Result<(), LogFault> {
    let mut expected = index.next_index();
    for record in records {
        let found = record.index;
        if let Some(expected) = expected.filter(|expected| *expected != found) {
            return Err(LogFault::NotContiguous {
                group,
                expected,
                found,
            });
        }
        expected = Some(found + 1);
    }
    Ok(())
}
