//! openraft's own storage suite, on the real log and a real shard state.
//!
//! The suite applies entries that were never appended, so it runs with the flush gate open; `state_machine` has the
//! tests of the closed one.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::Bytes;
use openraft::StorageError;
use openraft::testing::log::{StoreBuilder, Suite};
use storage::clock::ManualClock;
use storage::disk::RealDisk;
use storage::log::{LogGroup, LogHub, LogOptions, LogWriter};
use storage::shard::{Capture, Export, Import, ImportedFile, ShardIdentity, ShardOptions, ShardStore};

use crate::env::{Connecting, Connector, Env, TokioExecutor};
use crate::log_store::LogStore;
use crate::machine::{Captured, Imported, Machine, MachineFault, Response, SnapshotSink, SnapshotSource};
use crate::runtime::{ClockSkew, HostContext};
use crate::state_machine::{Cell, FlushGate, StateMachine};
use crate::types::{Position, TypeConfig};

struct NoNetwork;

impl Connector for NoNetwork {
    fn connect(&self, _: String) -> Connecting {
        Box::pin(async { Err(std::io::ErrorKind::Unsupported.into()) })
    }
}

pub(crate) fn test_env() -> Env {
    Env {
        context: HostContext::new(1, ClockSkew::default()),
        executor: Arc::new(TokioExecutor),
        connector: Arc::new(NoNetwork),
    }
}

/// A shard as a machine; the server has the like, with finer errors.
pub(crate) struct ShardMachine(pub(crate) ShardStore);

fn fault(error: impl std::fmt::Display) -> MachineFault {
    MachineFault::Storage(error.to_string())
}

impl Machine for ShardMachine {
    fn apply(&self, at: Position, command: Option<&Bytes>) -> Result<Response, MachineFault> {
        let at = storage::shard::Position {
            term: at.term,
            index: at.index,
        };
        self.0.apply(at, command).map(Response::new).map_err(fault)
    }

    fn mark(&self) -> Option<Bytes> {
        self.0.mark()
    }

    fn capture(&self, mark: Bytes) -> Result<Box<dyn Captured>, MachineFault> {
        Ok(Box::new(ShardCaptured(self.0.capture(mark).map_err(fault)?)))
    }

    fn dirty_bytes(&self) -> u64 {
        self.0.stats().dirty_bytes
    }

    fn export(&self) -> Result<Box<dyn SnapshotSource>, MachineFault> {
        Ok(Box::new(ShardSource(self.0.export().map_err(fault)?)))
    }

    fn begin_import(&self) -> Result<Box<dyn SnapshotSink>, MachineFault> {
        Ok(Box::new(ShardSink(self.0.begin_import().map_err(fault)?)))
    }

    fn install(&self, imported: Imported, _: Bytes) -> Result<(), MachineFault> {
        let file = imported
            .0
            .downcast::<ImportedFile>()
            .map_err(|_| fault("another machine's import"))?;
        self.0.install(*file).map_err(fault)
    }
}

struct ShardCaptured(Capture);
impl Captured for ShardCaptured {
    fn write(self: Box<Self>) -> Result<(), MachineFault> {
        self.0.write().map(|_| ()).map_err(fault)
    }
}

struct ShardSource(Export);
impl SnapshotSource for ShardSource {
    fn mark(&self) -> Bytes {
        self.0.mark().unwrap_or_default()
    }
    fn next_frame(&mut self) -> Result<Option<Bytes>, MachineFault> {
        self.0.next().transpose().map_err(fault)
    }
}

struct ShardSink(Import);
impl SnapshotSink for ShardSink {
    fn push(&mut self, frame: Bytes) -> Result<(), MachineFault> {
        self.0.push(frame).map_err(fault)
    }
    fn finish(self: Box<Self>) -> Result<Imported, MachineFault> {
        Ok(Imported(Box::new(self.0.finish().map_err(fault)?)))
    }
}

/// A folder with a log and a shard; the log's writer ends with it.
pub(crate) struct Stores {
    hub: LogHub,
    folder: tempfile::TempDir,
    shards: AtomicU64,
}

impl Drop for Stores {
    fn drop(&mut self) {
        self.hub.close();
    }
}

impl Stores {
    pub(crate) fn new() -> Self {
        let (stores, writer) = Self::idle();
        std::thread::spawn(move || writer.run());
        stores
    }

    /// With a log that nobody writes yet.
    pub(crate) fn idle() -> (Self, LogWriter) {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let disk = Arc::new(RealDisk);
        let options = LogOptions::new(Arc::new(ManualClock::at(0)));
        let (hub, writer) = LogHub::open(disk, folder.path(), options).expect("an empty log opens");
        let stores = Self {
            hub,
            folder,
            shards: AtomicU64::new(0),
        };
        (stores, writer)
    }

    pub(crate) fn hub(&self) -> LogHub {
        self.hub.clone()
    }

    pub(crate) fn log(&self) -> LogStore {
        LogStore::new(self.hub.group(LogGroup(1))).expect("a new log")
    }

    /// A new shard with nothing in it.
    pub(crate) fn shard(&self) -> Arc<ShardMachine> {
        let identity = ShardIdentity {
            cluster_id: "suite".into(),
            shard_id: 1,
            replica_id: 1,
            start: Bytes::new(),
            end: None,
            r#gen: 1,
        };
        let made = self.shards.fetch_add(1, Ordering::Relaxed);
        let path: PathBuf = self.folder.path().join(format!("shard-{made}"));
        let store = ShardStore::create(Arc::new(RealDisk), &path, identity, ShardOptions::default());
        Arc::new(ShardMachine(store.expect("a new shard")))
    }
}

struct Builder;

impl StoreBuilder<TypeConfig, LogStore, StateMachine, Stores> for Builder {
    async fn build(&self) -> Result<(Stores, LogStore, StateMachine), StorageError<TypeConfig>> {
        let stores = Stores::new();
        let cell = Cell::open(stores.shard(), FlushGate::Open, test_env()).expect("a new cell");
        let log = stores.log();
        let machine = StateMachine { cell, put_off: None };
        Ok((stores, log, machine))
    }
}

#[test]
fn the_log_and_the_state_machine_pass_openrafts_suite() {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .expect("a runtime");
    runtime.block_on(async {
        if let Err(e) = Suite::test_all(Builder).await {
            panic!("{e}");
        }
    });
}
