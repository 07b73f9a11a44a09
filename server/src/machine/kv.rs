//! A shard's state behind [`raft::Machine`].
//!
//! A thin adapter: what a command means is [`storage::shard`]'s affair, when it is durable is `raft`'s.

use bytes::Bytes;
use raft::{Captured, Imported, Machine, MachineFault, Position, Response, SnapshotSink, SnapshotSource};
use storage::shard::{
    ApplyError, Capture, CaptureError, CheckpointError, Export, ExportError, Import, ImportError,
    ImportedFile, ReadError, ShardStore,
};

/// One shard replica's machine.
#[derive(Debug, Clone)]
pub struct KvMachine(pub ShardStore);

impl Machine for KvMachine {
    /// Answers with the batch's `Vec<Outcome>`.
    fn apply(&self, at: Position, command: Option<&Bytes>) -> Result<Response, MachineFault> {
        let at = storage::shard::Position {
            term: at.term,
            index: at.index,
        };
        let outcomes = self.0.apply(at, command).map_err(apply_fault)?;
        Ok(Response::new(outcomes))
    }

    fn mark(&self) -> Option<Bytes> {
        self.0.mark()
    }

    fn capture(&self, mark: Bytes) -> Result<Box<dyn Captured>, MachineFault> {
        match self.0.capture(mark) {
            Ok(capture) => Ok(Box::new(KvCaptured(capture))),
            Err(CaptureError::InProgress) => Err(MachineFault::Busy),
            Err(e) => Err(MachineFault::Storage(e.to_string())),
        }
    }

    fn dirty_bytes(&self) -> u64 {
        self.0.stats().dirty_bytes
    }

    fn export(&self) -> Result<Box<dyn SnapshotSource>, MachineFault> {
        let export = self.0.export().map_err(export_fault)?;
        Ok(Box::new(KvSource(export)))
    }

    fn begin_import(&self) -> Result<Box<dyn SnapshotSink>, MachineFault> {
        let import = self.0.begin_import().map_err(import_fault)?;
        Ok(Box::new(KvSink(import)))
    }

    fn install(&self, imported: Imported, _mark: Bytes) -> Result<(), MachineFault> {
        // The mark came with the frames, as the sender wrote it; it is the one that openraft was told of.
        let file = imported.0.downcast::<ImportedFile>();
        let file = file.map_err(|_| MachineFault::Storage("the import is another machine's".into()))?;
        self.0
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
        other => MachineFault::Storage(other.to_string()),
    }
}

fn import_fault(error: ImportError) -> MachineFault {
    MachineFault::Storage(error.to_string())
}
