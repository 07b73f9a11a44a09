//! Where a host's blocking work runs.
//!
//! What a request waits for runs on the runtime's own blocking threads. Copies of whole shards, scrubs, rewrites of files and
//! what prepares a training run on threads of their own, to which the system gives the processor last: on a busy machine a
//! migration takes longer instead of the requests.

use std::io;

use raft::{Executor, TokioExecutor};
use tokio::runtime::{Builder, Runtime};

/// The most jobs in the background that run at once; further ones wait.
const THREADS_MAX: usize = 16;

/// Runs blocking work, and some of it in the background.
#[derive(Debug)]
pub(crate) struct HostExecutor {
    /// Only its blocking threads are used. None once it is dropped.
    background: Option<Runtime>,
}

impl HostExecutor {
    /// `nice` is what the threads in the background add to the process's own, 0 to 19. Where the system has no such thing
    /// for a thread, they are like all others.
    ///
    /// # Errors
    /// When a runtime cannot be made.
    pub(crate) fn new(nice: u32) -> io::Result<Self> {
        let background = Builder::new_current_thread()
            .max_blocking_threads(THREADS_MAX)
            .thread_name("background")
            .on_thread_start(move || be_nice(nice))
            .build()?;
        Ok(Self {
            background: Some(background),
        })
    }
}

impl Executor for HostExecutor {
    fn execute(&self, job: Box<dyn FnOnce() + Send>) {
        TokioExecutor.execute(job);
    }

    fn execute_background(&self, job: Box<dyn FnOnce() + Send>) {
        if let Some(background) = &self.background {
            drop(background.spawn_blocking(job));
        }
    }
}

impl Drop for HostExecutor {
    fn drop(&mut self) {
        // A runtime that is dropped waits for its threads, and tasks must not.
        if let Some(background) = self.background.take() {
            background.shutdown_background();
        }
    }
}

/// Lowers this thread's priority.
#[cfg(target_os = "linux")]
fn be_nice(nice: u32) {
    // Linux means the calling thread, whatever POSIX says of processes.
    let own = rustix::process::getpriority_process(None).unwrap_or(0);
    let lower = own.saturating_add(i32::try_from(nice).unwrap_or(0));
    if let Err(error) = rustix::process::setpriority_process(None, lower) {
        tracing::warn!(%error, nice, "background work keeps its priority");
    }
}

/// Elsewhere it would lower the whole process's.
#[cfg(not(target_os = "linux"))]
fn be_nice(_: u32) {}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use super::*;

    fn niceness(execute: impl FnOnce(Box<dyn FnOnce() + Send>)) -> i32 {
        let (tell, told) = std::sync::mpsc::channel();
        execute(Box::new(move || {
            let _ = tell.send(rustix::process::getpriority_process(None));
        }));
        told.recv().expect("the job runs").expect("it has a priority")
    }

    #[tokio::test]
    async fn background_work_is_nice_and_nothing_else() {
        let executor = HostExecutor::new(3).expect("threads");
        let own = rustix::process::getpriority_process(None).expect("a priority");
        for _ in 0..2 {
            assert_eq!(niceness(|job| executor.execute(job)), own);
            assert_eq!(
                niceness(|job| executor.execute_background(job)),
                (own + 3).min(19)
            );
        }
        // Within a task, where a runtime must not be dropped.
        drop(executor);
    }
}
