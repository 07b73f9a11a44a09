//! openraft's state machine, driving a [`Machine`].
//!
//! One openraft task applies entries; checkpoints and snapshots run beside it. `Cell::mark` is the lock between
//! them: an entry is applied and the mark advanced under it, and a capture is taken under it, so what is captured
//! and its mark always agree. No I/O happens under the lock.
//!
//! The flush gate: a replica may apply an entry before its own log has it on disk, so a checkpoint waits until the
//! log is flushed up to the captured index. openraft's own storage suite applies entries that were never appended;
//! it runs with the gate open.
//!
//! openraft's shutdown waits for its core but not for the task that applies, so a replica is closed here too: after
//! [`Cell::close`] nothing touches the machine, and its files may be deleted.

use std::io;
use std::sync::{Arc, Mutex, MutexGuard};

use futures_util::{Stream, StreamExt};
use openraft::OptionalSend;
use openraft::storage::{EntryResponder, RaftSnapshotBuilder, RaftStateMachine, Snapshot, SnapshotMeta};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::convert::Mark;
use crate::env::Env;
use crate::machine::{Captured, Imported, Machine, MachineFault, Release, Response};
use crate::put_off::PutOff;
use crate::types::{ConfStamp, Entry, LeaderId, LogId, Member, Position, StoredMembership, TypeConfig};

pub(crate) type RaftSnapshotMeta = SnapshotMeta<LeaderId, u64, Member>;
pub(crate) type RaftSnapshot = Snapshot<LeaderId, u64, Member, SnapshotContent>;

/// A frozen state, and the mark that it covers.
type Frozen = (Box<dyn Captured>, Mark);

/// Whether anything waits for a checkpoint.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Urgency {
    /// Something does: a snapshot, a merge, space in the log.
    Awaited,
    /// Nothing does: it is written behind what requests wait for.
    Background,
}

/// When a checkpoint may be written.
#[derive(Clone)]
pub(crate) enum FlushGate {
    /// Once the log is durable up to the captured index.
    Closed(watch::Receiver<Option<u64>>),
    /// At once.
    #[cfg(test)]
    Open,
}

impl FlushGate {
    async fn pass(&self, upto: u64) -> Result<(), MachineFault> {
        let mut flushed = match self {
            FlushGate::Closed(flushed) => flushed.clone(),
            #[cfg(test)]
            FlushGate::Open => return Ok(()),
        };
        let passed = flushed
            .wait_for(|index| index.is_some_and(|index| index >= upto))
            .await;
        passed
            .map(|_| ())
            .map_err(|_| MachineFault::Storage("the log is closed".into()))
    }
}

/// What a snapshot's bytes are: a replica's last checkpoint, in this process, or a finished import.
pub(crate) enum SnapshotContent {
    Local(Arc<Cell>),
    Received { imported: Imported, stamp: ConfStamp },
}

/// A machine and the mark of what it has applied.
pub(crate) struct Cell {
    machine: Arc<dyn Machine>,
    mark: Mutex<Mark>,
    /// The mark of the last durable checkpoint: what a snapshot sent from here would bring its receiver to.
    durable: Mutex<Option<Mark>>,
    /// Only one checkpoint, snapshot or install at a time.
    writing: tokio::sync::Mutex<()>,
    /// Cancelled under the lock of the mark.
    closed: CancellationToken,
    gate: FlushGate,
    env: Env,
    /// Seeded bug B4: the answers of entries that were applied before they were committed.
    #[cfg(feature = "seeded-bugs")]
    early: Mutex<std::collections::BTreeMap<u64, Response>>,
}

impl Cell {
    pub(crate) fn open(machine: Arc<dyn Machine>, gate: FlushGate, env: Env) -> io::Result<Arc<Self>> {
        let durable = machine.mark().map(Mark::decode).transpose()?;
        Ok(Arc::new(Self {
            machine,
            mark: Mutex::new(durable.clone().unwrap_or_default()),
            durable: Mutex::new(durable),
            writing: tokio::sync::Mutex::new(()),
            closed: CancellationToken::new(),
            gate,
            env,
            #[cfg(feature = "seeded-bugs")]
            early: Mutex::default(),
        }))
    }

    fn lock_mark(&self) -> MutexGuard<'_, Mark> {
        self.mark.lock().expect("an apply does not panic")
    }

    pub(crate) fn mark(&self) -> Mark {
        self.lock_mark().clone()
    }

    /// The last entry applied, and the last of those that set a membership.
    pub(crate) fn position(&self) -> (Option<LogId>, Option<u64>) {
        let mark = self.lock_mark();
        (mark.applied, mark.membership.log_id().map(|id| id.index()))
    }

    pub(crate) fn machine(&self) -> &Arc<dyn Machine> {
        &self.machine
    }

    /// Refuses every later apply, checkpoint and install, and waits for the one under way.
    pub(crate) async fn close(&self) {
        {
            let _no_apply = self.lock_mark();
            self.closed.cancel();
        }
        drop(self.writing.lock().await);
    }

    fn check_open(&self) -> Result<(), MachineFault> {
        match self.closed.is_cancelled() {
            true => Err(MachineFault::Closed),
            false => Ok(()),
        }
    }

    /// Waits for a checkpoint that is being written: what is opened then covers it.
    pub(crate) async fn settled(&self) {
        drop(self.writing.lock().await);
    }

    /// Waits until the log is durable up to `index`.
    pub(crate) async fn flushed_to(&self, index: u64) -> Result<(), MachineFault> {
        let passing = self.gate.pass(index);
        let passed = self.closed.run_until_cancelled(passing).await;
        passed.ok_or(MachineFault::Closed)?
    }

    /// Makes the present state durable and returns the mark it covers.
    pub(crate) async fn checkpoint(&self, urgency: Urgency) -> Result<Mark, MachineFault> {
        let _writing = self.writing.lock().await;
        let (captured, mark) = loop {
            match self.try_capture()? {
                Ok(frozen) => break frozen,
                Err(release) => self.wait_for(release).await?,
            }
        };
        if let Some(applied) = &mark.applied {
            self.flushed_to(applied.index()).await?;
        }
        match urgency {
            Urgency::Awaited => self.env.blocking(move || captured.write()).await?,
            Urgency::Background => self.env.background(move || captured.write()).await?,
        }
        self.set_durable(&mark);
        Ok(mark)
    }

    /// Freezes the present state, with its mark, unless the machine is detained.
    fn try_capture(&self) -> Result<Result<Frozen, Release>, MachineFault> {
        let mark = self.lock_mark();
        self.check_open()?;
        match self.machine.detained() {
            Some(release) => Ok(Err(release)),
            None => Ok(Ok((self.machine.capture(mark.encode())?, mark.clone()))),
        }
    }

    async fn wait_for(&self, release: Release) -> Result<(), MachineFault> {
        let released = self.closed.run_until_cancelled(release).await;
        released.ok_or(MachineFault::Closed)
    }

    /// Imports the last checkpoint of another replica in this process.
    async fn copy_of(&self, from: &Self) -> Result<(Imported, ConfStamp), MachineFault> {
        let (source, target) = (from.machine.clone(), self.machine.clone());
        self.env
            .background(move || {
                let mut frames = source.export()?;
                let stamp = Mark::decode(frames.mark())
                    .map_err(|e| MachineFault::Corrupt(e.to_string()))?
                    .stamp;
                let mut sink = target.begin_import()?;
                while let Some(frame) = frames.next_frame()? {
                    sink.push(frame)?;
                }
                Ok((sink.finish()?, stamp))
            })
            .await
    }

    async fn install(&self, imported: Imported, mark: Mark) -> Result<(), MachineFault> {
        let _writing = self.writing.lock().await;
        self.check_open()?;
        // Nothing is applied meanwhile: openraft applies and installs in one task.
        while let Some(release) = self.machine.detained() {
            self.wait_for(release).await?;
        }
        let machine = self.machine.clone();
        let encoded = mark.encode();
        // Reading a large state takes seconds, and who waits for it is nobody but this replica.
        self.env
            .background(move || machine.install(imported, encoded))
            .await?;
        self.set_durable(&mark);
        *self.lock_mark() = mark;
        Ok(())
    }

    fn set_durable(&self, mark: &Mark) {
        *self.durable.lock().expect("no panic while storing a mark") = Some(mark.clone());
    }

    /// The mark of the last durable checkpoint.
    pub(crate) fn durable(&self) -> Option<Mark> {
        self.durable
            .lock()
            .expect("no panic while storing a mark")
            .clone()
    }

    /// Applies an entry once what it needs is there.
    async fn apply_prepared(&self, item: EntryResponder<TypeConfig>) -> Result<(), MachineFault> {
        let command = item.0.payload.command.as_ref();
        let Some(preparation) = command.and_then(|command| self.machine.preparation(&command.0)) else {
            return self.apply(item);
        };
        self.checkpoint(Urgency::Awaited).await?;
        let _writing = self.writing.lock().await;
        let prepared = self.closed.run_until_cancelled(preparation).await;
        prepared.ok_or(MachineFault::Closed)??;
        self.apply(item)
    }

    fn apply(&self, item: EntryResponder<TypeConfig>) -> Result<(), MachineFault> {
        let (entry, responder) = item;
        #[cfg(feature = "seeded-bugs")]
        let response = self.apply_unless_early(entry)?;
        #[cfg(not(feature = "seeded-bugs"))]
        let response = self.apply_entry(entry)?;
        tracing::trace!(target: "godwit::steps", count = 1_u64, "entry applied");
        if let Some(responder) = responder {
            responder.send(response);
        }
        Ok(())
    }

    fn apply_entry(&self, entry: Entry) -> Result<Response, MachineFault> {
        let mut mark = self.lock_mark();
        self.check_open()?;
        let at = Position {
            term: entry.log_id.committed_leader_id().term,
            index: entry.log_id.index(),
        };
        let response = self
            .machine
            .apply(at, entry.payload.command.as_ref().map(|command| &command.0))?;
        mark.follow(entry);
        Ok(response)
    }
}

#[cfg(feature = "seeded-bugs")]
impl Cell {
    /// Seeded bug B4: applies an entry as it comes into the log, before a quorum has it, unless some before it are
    /// still to be applied.
    pub(crate) fn apply_early(&self, entry: &Entry) {
        if !storage::seeded_bug::is_on("B4") {
            return;
        }
        let mut early = self.early.lock().expect("no panic while storing an answer");
        let next = self.mark().applied.map_or(0, |applied| applied.index() + 1);
        if entry.log_id.index() == next
            && let Ok(response) = self.apply_entry(entry.clone())
        {
            early.insert(next, response);
        }
    }

    /// Applies a committed entry, or finds its answer where it was applied already.
    fn apply_unless_early(&self, entry: Entry) -> Result<Response, MachineFault> {
        if !storage::seeded_bug::is_on("B4") {
            return self.apply_entry(entry);
        }
        let mut early = self.early.lock().expect("no panic while storing an answer");
        let index = entry.log_id.index();
        if self
            .mark()
            .applied
            .is_some_and(|applied| applied.index() >= index)
        {
            return Ok(early.remove(&index).unwrap_or_default());
        }
        self.apply_entry(entry)
    }
}

impl From<MachineFault> for io::Error {
    fn from(fault: MachineFault) -> Self {
        Self::other(fault)
    }
}

/// openraft's view of a [`Cell`].
#[derive(Clone)]
pub(crate) struct StateMachine {
    pub(crate) cell: Arc<Cell>,
    /// What puts snapshots off; nothing in openraft's own storage suite.
    pub(crate) put_off: Option<Arc<PutOff>>,
}

pub(crate) fn meta_of(mark: &Mark) -> RaftSnapshotMeta {
    SnapshotMeta {
        last_log_id: mark.applied,
        last_membership: mark.membership.clone(),
    }
}

impl RaftStateMachine<TypeConfig> for StateMachine {
    type SnapshotData = SnapshotContent;
    type SnapshotBuilder = SnapshotBuilder;

    async fn applied_state(&mut self) -> Result<(Option<LogId>, StoredMembership), io::Error> {
        let mark = self.cell.mark();
        Ok((mark.applied, mark.membership))
    }

    async fn apply<Strm>(&mut self, mut entries: Strm) -> Result<(), io::Error>
    where
        Strm: Stream<Item = Result<EntryResponder<TypeConfig>, io::Error>> + Unpin + OptionalSend,
    {
        while let Some(item) = entries.next().await {
            self.cell.apply_prepared(item?).await?;
        }
        Ok(())
    }

    async fn get_snapshot_builder(&mut self) -> SnapshotBuilder {
        SnapshotBuilder {
            cell: self.cell.clone(),
            put_off: self.put_off.clone(),
        }
    }

    async fn install_snapshot(
        &mut self,
        meta: &RaftSnapshotMeta,
        snapshot: SnapshotContent,
    ) -> Result<(), io::Error> {
        let (imported, stamp) = match snapshot {
            // At a start openraft installs the current snapshot: that is the checkpoint the machine was opened from.
            SnapshotContent::Local(from) if Arc::ptr_eq(&from, &self.cell) => return Ok(()),
            SnapshotContent::Local(from) => self.cell.copy_of(&from).await?,
            SnapshotContent::Received { imported, stamp } => (imported, stamp),
        };
        let mark = Mark {
            applied: meta.last_log_id,
            membership: meta.last_membership.clone(),
            stamp,
        };
        Ok(self.cell.install(imported, mark).await?)
    }

    async fn get_current_snapshot(&mut self) -> Result<Option<RaftSnapshot>, io::Error> {
        let Some(mark) = self.cell.durable() else {
            return Ok(None);
        };
        let meta = meta_of(&mark);
        Ok(meta.last_log_id.is_some().then_some(Snapshot {
            meta,
            snapshot: SnapshotContent::Local(self.cell.clone()),
        }))
    }
}

/// Takes a snapshot: a checkpoint, remembered as metadata only. Its view is opened when sending starts.
pub(crate) struct SnapshotBuilder {
    cell: Arc<Cell>,
    put_off: Option<Arc<PutOff>>,
}

impl RaftSnapshotBuilder<TypeConfig> for SnapshotBuilder {
    type SnapshotData = SnapshotContent;

    async fn build_snapshot(&mut self) -> Result<RaftSnapshot, io::Error> {
        if let Some(put_off) = &self.put_off {
            // A replica that is closed takes none.
            self.cell.closed.run_until_cancelled(put_off.over()).await;
        }
        // Also one that is due for its policy: the log behind it is purged, and the longer it takes, the likelier a replica
        // that is sent the one before needs that log.
        let mark = self.cell.checkpoint(Urgency::Awaited).await?;
        Ok(Snapshot {
            meta: meta_of(&mark),
            snapshot: SnapshotContent::Local(self.cell.clone()),
        })
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::time::Duration;

    use openraft::vote::RaftLeaderId;

    use super::*;
    use crate::conformance::{Stores, test_env};
    use crate::env::Executor;
    use crate::types::Payload;

    fn entry(index: u64) -> EntryResponder<TypeConfig> {
        let log_id = LogId::new(LeaderId::new(1, 1), index);
        (
            openraft::Entry {
                log_id,
                payload: Payload::default(),
            },
            None,
        )
    }

    #[tokio::test(start_paused = true)]
    async fn a_checkpoint_waits_until_the_log_is_flushed_so_far() {
        let stores = Stores::new();
        let (flush, flushed) = watch::channel(Some(6));
        let cell = Cell::open(stores.shard(), FlushGate::Closed(flushed), test_env()).unwrap();
        cell.apply(entry(7)).unwrap();
        let early = tokio::time::timeout(Duration::from_secs(5), cell.checkpoint(Urgency::Awaited)).await;
        assert!(early.is_err(), "entry 7 was checkpointed before it was flushed");
        assert!(cell.durable().is_none());
        flush.send_replace(Some(7));
        let mark = cell.checkpoint(Urgency::Awaited).await.unwrap();
        assert_eq!(mark.applied.map(|id| id.index()), Some(7));
        assert_eq!(cell.durable(), Some(mark));
    }

    /// Counts what comes in the background.
    #[derive(Default)]
    struct Counting(AtomicUsize);

    impl Executor for Counting {
        fn execute(&self, job: Box<dyn FnOnce() + Send>) {
            job();
        }

        fn execute_background(&self, job: Box<dyn FnOnce() + Send>) {
            self.0.fetch_add(1, Ordering::Relaxed);
            job();
        }
    }

    #[tokio::test]
    async fn a_checkpoint_that_nothing_waits_for_is_written_in_the_background() {
        let (stores, executor) = (Stores::new(), Arc::new(Counting::default()));
        let env = Env {
            executor: executor.clone(),
            ..test_env()
        };
        let cell = Cell::open(stores.shard(), FlushGate::Open, env).unwrap();
        let mut background = Vec::new();
        for (index, urgency) in [(7, Urgency::Background), (8, Urgency::Awaited)] {
            cell.apply(entry(index)).unwrap();
            let mark = cell.checkpoint(urgency).await.unwrap();
            assert_eq!(mark.applied.map(|id| id.index()), Some(index));
            background.push(executor.0.load(Ordering::Relaxed));
        }
        assert_eq!(background, [1, 1]);
    }

    #[tokio::test(start_paused = true)]
    async fn a_closed_replica_is_left_alone() {
        let stores = Stores::new();
        let (_flush, flushed) = watch::channel(None);
        let cell = Cell::open(stores.shard(), FlushGate::Closed(flushed), test_env()).unwrap();
        cell.apply(entry(7)).unwrap();
        let waiting = tokio::spawn({
            let cell = cell.clone();
            async move { cell.checkpoint(Urgency::Awaited).await }
        });
        tokio::task::yield_now().await;
        cell.close().await;
        let waited = waiting.await.unwrap();
        // Hosts end of faults that are not harmless, and this replica was only moved away.
        assert!(waited.is_err_and(|fault| fault.is_harmless()));
        let applied = cell.apply(entry(8));
        assert!(matches!(applied, Err(MachineFault::Closed)), "{applied:?}");
        assert_eq!(cell.position().0.map(|id| id.index()), Some(7));
    }
}
