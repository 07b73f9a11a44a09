//! The seam for time, chance, work and connections: everything a host takes from the outside.
//!
//! The composition root builds one [`Env`] a host. A simulator builds another, and the same code then runs in
//! virtual time with one seed.

use std::future::Future;
use std::io;
use std::pin::Pin;
use std::sync::Arc;

use storage::log::{LogFault, LogWriter};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::oneshot;

use crate::runtime::HostContext;

/// A byte stream to a peer.
pub trait IoStream: AsyncRead + AsyncWrite + Send + Unpin + 'static {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin + 'static> IoStream for T {}

/// A connection being opened.
pub type Connecting = Pin<Box<dyn Future<Output = io::Result<Box<dyn IoStream>>> + Send>>;

/// Opens byte streams to `host:port` addresses.
pub trait Connector: Send + Sync + 'static {
    /// Connects, or says why not.
    fn connect(&self, address: String) -> Connecting;
}

/// Runs work that blocks on a disk.
pub trait Executor: Send + Sync + 'static {
    /// Starts the job; it may run on any thread.
    fn execute(&self, job: Box<dyn FnOnce() + Send>);

    /// Starts a job that no request waits for; it may come behind those that one does.
    fn execute_background(&self, job: Box<dyn FnOnce() + Send>) {
        self.execute(job);
    }

    /// Runs the log's writer until the log is closed or fails, then says how it ended.
    fn write_log(&self, writer: LogWriter, ended: LogEnded) {
        self.execute(Box::new(move || ended(writer.run())));
    }
}

/// Told how the log's writer ended.
pub type LogEnded = Box<dyn FnOnce(Result<(), LogFault>) + Send>;

/// Runs blocking work on tokio's blocking pool.
#[derive(Debug, Clone, Copy, Default)]
pub struct TokioExecutor;

impl Executor for TokioExecutor {
    fn execute(&self, job: Box<dyn FnOnce() + Send>) {
        drop(tokio::task::spawn_blocking(job));
    }
}

/// What a host is handed by its composition root.
#[derive(Clone)]
pub struct Env {
    /// Clock and random numbers of this host.
    pub context: HostContext,
    /// Where blocking work runs.
    pub executor: Arc<dyn Executor>,
    /// How peers are reached.
    pub connector: Arc<dyn Connector>,
}

impl Env {
    /// Runs `job` on the executor and waits for its result.
    ///
    /// # Panics
    /// When the executor dropped the job or the job panicked: its effect is unknown.
    pub async fn blocking<T: Send + 'static>(&self, job: impl FnOnce() -> T + Send + 'static) -> T {
        result_of(job, |job| self.executor.execute(job)).await
    }

    /// Runs `job`, for which no request waits, on the executor behind what requests wait for, and waits for its result.
    ///
    /// # Panics
    /// As [`Env::blocking`].
    pub async fn background<T: Send + 'static>(&self, job: impl FnOnce() -> T + Send + 'static) -> T {
        result_of(job, |job| self.executor.execute_background(job)).await
    }

    /// Spawns a task in this host's context.
    pub fn spawn<F>(&self, task: F) -> tokio::task::JoinHandle<F::Output>
    where
        F: Future + Send + 'static,
        F::Output: Send + 'static,
    {
        tokio::spawn(self.context.scope(task))
    }
}

/// Has a job started, and waits for its result.
async fn result_of<T: Send + 'static>(
    job: impl FnOnce() -> T + Send + 'static,
    start: impl FnOnce(Box<dyn FnOnce() + Send>),
) -> T {
    let (done, result) = oneshot::channel();
    start(Box::new(move || drop(done.send(job()))));
    result.await.expect("blocking work ended without a result")
}

impl std::fmt::Debug for Env {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Env")
            .field("context", &self.context)
            .finish_non_exhaustive()
    }
}
