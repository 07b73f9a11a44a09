//! A shard's state behind [`raft::Machine`].
//!
//! A thin adapter: what a command means is [`storage::shard`]'s affair, when it is durable is `raft`'s.

use std::sync::Arc;

use bytes::Bytes;
use prometheus::IntCounter;
use raft::{
    Captured, Env, Imported, Machine, MachineFault, Position, Preparation, Release, Response, SnapshotSink,
    SnapshotSource,
};
use storage::shard::{
    ApplyError, Capture, CaptureError, CheckpointError, Export, ExportError, Import, ImportError,
    ImportedFile, OpenShardError, OutcomeKind, ReadError, ShardStore,
};

use crate::host::{Neighbours, Successions};
use crate::watch::Feed;

/// One shard replica's machine.
pub struct KvMachine {
    store: ShardStore,
    /// Who watches the shard.
    feed: Feed,
    /// Told when the shard was split: a new replica is to be made.
    successions: Arc<Successions>,
    /// Where what it absorbs is found.
    neighbours: Neighbours,
    env: Env,
    /// Entries applied.
    applied: IntCounter,
}

impl KvMachine {
    /// A shard's state, whose changes are told to `feed`, and whose splits to `successions`; it absorbs `neighbours`, and
    /// `applied` counts its entries.
    pub(crate) fn new(
        store: ShardStore,
        feed: Feed,
        successions: Arc<Successions>,
        neighbours: Neighbours,
        env: Env,
        applied: IntCounter,
    ) -> KvMachine {
        KvMachine {
            store,
            feed,
            successions,
            neighbours,
            env,
            applied,
        }
    }
}

impl Machine for KvMachine {
    fn preparation(&self, command: &Bytes) -> Option<Preparation> {
        let absorb = self.store.absorbs(command)?;
        Some(self.neighbours.preparation(&self.store, &self.env, absorb))
    }

    /// Answers with the batch's `Vec<Outcome>`.
    fn apply(&self, at: Position, command: Option<&Bytes>) -> Result<Response, MachineFault> {
        let at = storage::shard::Position {
            term: at.term,
            index: at.index,
        };
        let outcomes = crate::trace::applied(command, at.index, || self.store.apply(at, command));
        let outcomes = outcomes.map_err(apply_fault)?;
        self.applied.inc();
        // An outcome that is remembered has an older revision than those around it.
        if let Some(newest) = outcomes.iter().map(|outcome| outcome.revision).max() {
            self.feed.advance(newest);
        }
        if outcomes.iter().any(|outcome| outcome.kind == OutcomeKind::Split) {
            self.feed.look_again();
            self.successions.asked.notify_one();
        }
        if outcomes
            .iter()
            .any(|outcome| outcome.kind == OutcomeKind::MergeStep)
        {
            self.feed.begin_anew(self.store.revision());
            self.neighbours.frozen();
        }
        Ok(Response::new(outcomes))
    }

    fn mark(&self) -> Option<Bytes> {
        self.store.mark()
    }

    fn capture(&self, mark: Bytes) -> Result<Box<dyn Captured>, MachineFault> {
        match self.store.capture(mark) {
            Ok(capture) => Ok(Box::new(KvCaptured(capture))),
            Err(CaptureError::InProgress) => Err(MachineFault::Busy),
            Err(e) => Err(MachineFault::Storage(e.to_string())),
        }
    }

    /// A new shard's replica that is not durable yet is made from this state.
    fn detained(&self) -> Option<Release> {
        // Begun before the question: what is settled in between is not missed.
        let settled = self.successions.settled.clone().notified_owned();
        self.store.holds_heirs().then(|| Box::pin(settled) as Release)
    }

    fn dirty_bytes(&self) -> u64 {
        let dirty_bytes = self.store.stats().dirty_bytes;
        // What a compaction has forgotten leaves the file with a checkpoint, also where nothing was written since.
        dirty_bytes.max(u64::from(self.store.has_forgotten_rows()))
    }

    fn export(&self) -> Result<Box<dyn SnapshotSource>, MachineFault> {
        let export = self.store.export().map_err(export_fault)?;
        Ok(Box::new(KvSource(export)))
    }

    fn begin_import(&self) -> Result<Box<dyn SnapshotSink>, MachineFault> {
        let import = self.store.begin_import().map_err(import_fault)?;
        Ok(Box::new(KvSink(import)))
    }

    fn install(&self, imported: Imported, _mark: Bytes) -> Result<(), MachineFault> {
        // The mark came with the frames, as the sender wrote it; it is the one that openraft was told of.
        let file = imported.0.downcast::<ImportedFile>();
        let file = file.map_err(|_| MachineFault::Storage("the import is another machine's".into()))?;
        self.store
            .install(*file)
            .map_err(|e| MachineFault::Storage(e.to_string()))
    }
}

struct KvCaptured(Capture);

impl Captured for KvCaptured {
    fn write(self: Box<Self>) -> Result<(), MachineFault> {
        self.0
            .write()
            .map(|_| ())
            .map_err(|e: CheckpointError| MachineFault::Storage(e.to_string()))
    }
}

struct KvSource(Export);

impl SnapshotSource for KvSource {
    fn mark(&self) -> Bytes {
        self.0.mark().unwrap_or_default()
    }

    fn next_frame(&mut self) -> Result<Option<Bytes>, MachineFault> {
        self.0.next().transpose().map_err(export_fault)
    }
}

struct KvSink(Import);

impl SnapshotSink for KvSink {
    fn push(&mut self, frame: Bytes) -> Result<(), MachineFault> {
        self.0.push(frame).map_err(import_fault)
    }

    fn finish(self: Box<Self>) -> Result<Imported, MachineFault> {
        let file = self.0.finish().map_err(import_fault)?;
        Ok(Imported(Box::new(file)))
    }
}

fn apply_fault(error: ApplyError) -> MachineFault {
    match error {
        ApplyError::Decode(e) => MachineFault::UnknownEntry(e.to_string()),
        ApplyError::Read(ReadError::Corrupt(what)) => MachineFault::Corrupt(what),
        other => MachineFault::Storage(other.to_string()),
    }
}

fn export_fault(error: ExportError) -> MachineFault {
    match error {
        ExportError::Corrupt(e) => MachineFault::Corrupt(e.to_string()),
        ExportError::Open(OpenShardError::Corrupt(what)) => MachineFault::Corrupt(what),
        other => MachineFault::Storage(other.to_string()),
    }
}

fn import_fault(error: ImportError) -> MachineFault {
    MachineFault::Storage(error.to_string())
}
