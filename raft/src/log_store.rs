//! openraft's log, kept in the host's shared log.
//!
//! Entries can be read as soon as `append` returns; `IOFlushed` fires after the one sync that made them durable,
//! in the order of submission (it is a watermark: firing for N says that everything before N is durable).
//!
//! How far the log is committed is not kept. A replica that starts would apply up to there before it is open to anyone,
//! and an entry may need another replica of its host first: one that absorbs a shard. So it hears that from its leader.

use std::fmt::Debug;
use std::io;
use std::ops::{Bound, RangeBounds};
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use openraft::OptionalSend;
use openraft::storage::{IOFlushed, LogState, RaftLogReader, RaftLogStorage};
use prost::Message;
use storage::log::{GroupLog, LogFault, LogRecord};
use tokio::sync::{oneshot, watch};

use crate::convert;
use crate::proto;
use crate::types::{Entry, LeaderId, LogId, TypeConfig, Vote};

/// Bytes of log read at once; an append larger than this is sent in parts.
const READ_BYTES_MAX: usize = 4 << 20;

/// One group's log, and how far it is durable.
#[derive(Clone)]
pub(crate) struct LogStore {
    log: GroupLog,
    flushed: Arc<watch::Sender<Option<u64>>>,
    told: Arc<Told>,
    #[cfg(feature = "seeded-bugs")]
    seeded: Seeded,
}

/// What openraft has told a log last, durable or not: it tells the log before it acts on it.
#[derive(Default)]
pub(crate) struct Told(Mutex<ToldLast>);

#[derive(Default)]
struct ToldLast {
    vote: Option<Vote>,
    /// The last entry since the start that holds a membership.
    membership: Option<u64>,
}

impl Told {
    fn lock(&self) -> std::sync::MutexGuard<'_, ToldLast> {
        self.0.lock().expect("no panic under this lock")
    }

    /// Whether the highest vote that was granted is this leader's.
    pub(crate) fn follows(&self, leader: LeaderId) -> bool {
        let vote = self.lock().vote;
        vote.is_some_and(|vote| *vote.leader_id() == leader)
    }

    #[cfg(test)]
    pub(crate) fn set_membership(&self, index: u64) {
        self.lock().membership = Some(index);
    }

    /// The last entry since the start that holds a membership.
    pub(crate) fn membership(&self) -> Option<u64> {
        self.lock().membership
    }
}

/// What seeded bugs remember.
#[cfg(feature = "seeded-bugs")]
#[derive(Clone, Default)]
struct Seeded {
    /// B4: where entries are applied before they are committed.
    cell: Option<Arc<crate::state_machine::Cell>>,
    /// B7: the vote that is written after the next entries.
    late_vote: Arc<std::sync::Mutex<Option<Bytes>>>,
}

impl LogStore {
    /// # Errors
    /// When the vote that the log holds makes no sense.
    pub(crate) fn new(log: GroupLog) -> io::Result<Self> {
        let flushed = Arc::new(watch::Sender::new(log.flushed_index()));
        let told = Told::default();
        told.lock().vote = stored_vote(&log)?;
        Ok(Self {
            log,
            flushed,
            told: Arc::new(told),
            #[cfg(feature = "seeded-bugs")]
            seeded: Seeded::default(),
        })
    }

    /// Follows what openraft tells this log.
    pub(crate) fn told(&self) -> Arc<Told> {
        self.told.clone()
    }

    #[cfg(feature = "seeded-bugs")]
    pub(crate) fn applying_to(mut self, cell: Arc<crate::state_machine::Cell>) -> Self {
        self.seeded.cell = Some(cell);
        self
    }

    /// Seeded bug B7: the vote goes to the disk behind the entries of its term, in a commit of its own.
    #[cfg(feature = "seeded-bugs")]
    fn write_late_vote(&self) {
        let late = self
            .seeded
            .late_vote
            .lock()
            .expect("no panic under this lock")
            .take();
        if let Some(vote) = late {
            self.log.save_vote(vote, Box::new(|_| {}));
        }
    }

    /// Follows the index up to which the log is durable.
    pub(crate) fn flushed(&self) -> watch::Receiver<Option<u64>> {
        self.flushed.subscribe()
    }

    /// Whether a vote is kept here, so that this replica is not a new one.
    pub(crate) fn has_voted(&self) -> bool {
        self.log.vote().is_some()
    }

    fn read(&self, from: u64, to: u64, bytes_max: usize) -> io::Result<Vec<Entry>> {
        let records = self.log.read(from..to, bytes_max).map_err(io::Error::other)?;
        records
            .into_iter()
            .map(|record| Ok(convert::decode_record(record.payload)?))
            .collect()
    }
}

fn range_ends<R: RangeBounds<u64>>(range: &R, after_last: u64) -> (u64, u64) {
    let from = match range.start_bound() {
        Bound::Included(index) => *index,
        Bound::Excluded(index) => index + 1,
        Bound::Unbounded => 0,
    };
    let to = match range.end_bound() {
        Bound::Included(index) => index.saturating_add(1),
        Bound::Excluded(index) => *index,
        Bound::Unbounded => u64::MAX,
    };
    (from, to.min(after_last))
}

fn flush_error(fault: LogFault) -> io::Error {
    io::Error::other(fault)
}

pub(crate) async fn durable(start: impl FnOnce(storage::log::Done)) -> io::Result<()> {
    let (done, result) = oneshot::channel();
    start(Box::new(move |outcome| drop(done.send(outcome))));
    match result.await {
        Ok(outcome) => outcome.map_err(flush_error),
        Err(_) => Err(io::Error::other("the log's writer stopped")),
    }
}

impl RaftLogReader<TypeConfig> for LogStore {
    async fn try_get_log_entries<RB>(&mut self, range: RB) -> Result<Vec<Entry>, io::Error>
    where
        RB: RangeBounds<u64> + Clone + Debug + OptionalSend,
    {
        let after_last = self.log.last_index().map_or(0, |last| last + 1);
        let (from, to) = range_ends(&range, after_last);
        let from = from.max(self.log.purged().map_or(0, |(index, _)| index + 1));
        if from >= to {
            return Ok(Vec::new());
        }
        self.read(from, to, usize::MAX)
    }

    async fn limited_get_log_entries(&mut self, start: u64, end: u64) -> Result<Vec<Entry>, io::Error> {
        self.read(start, end, READ_BYTES_MAX)
    }

    async fn read_vote(&mut self) -> Result<Option<Vote>, io::Error> {
        stored_vote(&self.log)
    }
}

impl RaftLogStorage<TypeConfig> for LogStore {
    type LogReader = Self;

    async fn get_log_state(&mut self) -> Result<LogState<TypeConfig>, io::Error> {
        let last_purged_log_id = match self.log.purged() {
            Some((_, mark)) => Some(decode_log_id(mark)?),
            None => None,
        };
        let last_log_id = match self.log.last_index() {
            Some(last) => self
                .read(last, last + 1, usize::MAX)?
                .pop()
                .map(|entry| entry.log_id),
            None => None,
        };
        Ok(LogState {
            last_log_id: last_log_id.or(last_purged_log_id),
            last_purged_log_id,
        })
    }

    async fn get_log_reader(&mut self) -> Self {
        self.clone()
    }

    async fn save_vote(&mut self, vote: &Vote) -> Result<(), io::Error> {
        self.told.lock().vote = Some(*vote);
        let vote: Bytes = convert::vote_to_proto(vote).encode_to_vec().into();
        #[cfg(feature = "seeded-bugs")]
        match storage::seeded_bug::chosen() {
            // Seeded bug B6: the vote is kept in memory only.
            Some("B6") => return Ok(()),
            Some("B7") => {
                *self.seeded.late_vote.lock().expect("no panic under this lock") = Some(vote);
                return Ok(());
            }
            _ => {}
        }
        durable(|done| self.log.save_vote(vote, done)).await
    }

    async fn append<I>(&mut self, entries: I, callback: IOFlushed<TypeConfig>) -> Result<(), io::Error>
    where
        I: IntoIterator<Item = Entry> + OptionalSend,
        I::IntoIter: OptionalSend,
    {
        let entries = entries.into_iter();
        #[cfg(feature = "seeded-bugs")]
        let entries = entries.inspect(|entry| {
            if let Some(cell) = &self.seeded.cell {
                cell.apply_early(entry);
            }
        });
        let records: Vec<LogRecord> = entries
            .map(|entry| {
                if entry.payload.membership.is_some() {
                    self.told.lock().membership = Some(entry.log_id.index());
                }
                LogRecord {
                    index: entry.log_id.index(),
                    payload: convert::encode_record(&entry),
                }
            })
            .collect();
        let Some(last) = records.last().map(|record| record.index) else {
            callback.io_completed(Ok(()));
            return Ok(());
        };
        tracing::trace!(target: "godwit::steps", count = records.len() as u64, "log append queued");
        let flushed = self.flushed.clone();
        #[cfg(feature = "seeded-bugs")]
        let store = self.clone();
        let done = Box::new(move |outcome: Result<(), LogFault>| {
            if outcome.is_ok() {
                flushed.send_replace(Some(last));
            }
            #[cfg(feature = "seeded-bugs")]
            store.write_late_vote();
            callback.io_completed(outcome.map_err(flush_error));
        });
        self.log.append(records, done);
        Ok(())
    }

    async fn truncate_after(&mut self, last_log_id: Option<LogId>) -> Result<(), io::Error> {
        let last_kept = last_log_id.map(|id| id.index());
        {
            let mut told = self.told.lock();
            told.membership = told.membership.min(last_kept);
        }
        durable(|done| self.log.truncate_after(last_kept, done)).await?;
        self.flushed.send_replace(last_kept);
        Ok(())
    }

    async fn purge(&mut self, log_id: LogId) -> Result<(), io::Error> {
        let mark: Bytes = convert::log_id_to_proto(&log_id).encode_to_vec().into();
        durable(|done| self.log.purge(log_id.index(), mark, done)).await?;
        // Entries up to here are covered by a durable state, so they count as flushed even if they never were here
        // (a snapshot was installed over a hole).
        self.flushed.send_if_modified(|flushed| {
            let advance = flushed.is_none_or(|index| index < log_id.index());
            if advance {
                *flushed = Some(log_id.index());
            }
            advance
        });
        Ok(())
    }
}

fn stored_vote(log: &GroupLog) -> io::Result<Option<Vote>> {
    let Some(vote) = log.vote() else {
        return Ok(None);
    };
    let vote = proto::Vote::decode(vote).map_err(convert::Malformed::from)?;
    Ok(Some(convert::vote_from_proto(&vote)))
}

pub(crate) fn decode_log_id(encoded: Bytes) -> io::Result<LogId> {
    let id = proto::LogId::decode(encoded).map_err(convert::Malformed::from)?;
    Ok(convert::log_id_from_proto(&id))
}
