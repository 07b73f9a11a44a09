//! All logical clients of a run: started together, stopped together.

use std::sync::Arc;

use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use super::plan::{Connect, WorkloadPlan};
use super::used::Used;
use super::watcher::watch_all;
use super::worker::{Shared, work};
use crate::record::Recorder;

/// Clients at work.
#[derive(Debug)]
pub struct Running {
    shared: Arc<Shared>,
    tasks: Vec<JoinHandle<()>>,
    watchers: Vec<JoinHandle<()>>,
    /// Nobody writes any more.
    over: CancellationToken,
}

impl std::fmt::Debug for Shared {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Shared")
            .field("plan", &self.plan)
            .finish_non_exhaustive()
    }
}

/// Starts the clients of `plan` on the current runtime. They work until `stop`, or until [`Running::finish`].
pub fn start(plan: WorkloadPlan, recorder: Recorder, connect: Connect, stop: CancellationToken) -> Running {
    let clients = plan.clients as u64;
    let shared = Arc::new(Shared::new(plan, recorder, connect, stop.child_token()));
    let tasks = (0..clients)
        .map(|number| tokio::spawn(work(shared.clone(), number)))
        .collect();
    let over = CancellationToken::new();
    let watchers = (clients..clients + shared.plan.watchers as u64)
        .map(|number| tokio::spawn(watch_all(shared.clone(), number, over.clone())))
        .collect();
    Running {
        shared,
        tasks,
        watchers,
        over,
    }
}

impl Running {
    /// Has every client finish what it is at, which takes as long as an operation may take, has watchers wait for what
    /// they are still to be told, and says what was used.
    ///
    /// # Panics
    /// When a client panicked: its record is not to be trusted.
    pub async fn finish(self) -> Used {
        let Self {
            shared,
            tasks,
            watchers,
            over,
        } = self;
        shared.stop.cancel();
        for task in tasks {
            task.await.expect("a client does not panic");
        }
        over.cancel();
        for watcher in watchers {
            watcher.await.expect("a watcher does not panic");
        }
        Arc::into_inner(shared)
            .map(Shared::into_used)
            .expect("all clients have ended")
    }
}
