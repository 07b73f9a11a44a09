//! What a run leaves behind: operations and events, on one clock.

use std::sync::{Arc, Mutex};
use std::time::Instant;

use crate::events::{Event, Happening};
use crate::history::Operation;
use crate::watch::WatchLine;

/// The clock of a run: the same for clients, faults and migrations.
pub trait RunClock: Send + Sync {
    /// Nanoseconds since the run began. Never goes back.
    fn now_ns(&self) -> u64;
}

/// The operating system's monotonic clock.
#[derive(Clone, Copy, Debug)]
pub struct MonotonicClock(Instant);

impl MonotonicClock {
    /// A clock that begins now.
    #[allow(
        clippy::new_without_default,
        reason = "a default that reads a clock surprises"
    )]
    pub fn new() -> Self {
        Self(Instant::now())
    }
}

impl RunClock for MonotonicClock {
    fn now_ns(&self) -> u64 {
        u64::try_from(self.0.elapsed().as_nanos()).unwrap_or(u64::MAX)
    }
}

/// All that was recorded.
#[derive(Clone, Debug, Default)]
pub struct Recorded {
    /// Operations, in order of their ends.
    pub operations: Vec<Operation>,
    /// Faults and steps of migrations, in order.
    pub events: Vec<Event>,
    /// What watchers were told, in order.
    pub watches: Vec<WatchLine>,
}

/// Takes down what clients and nemeses do. A cheap handle.
#[derive(Clone)]
pub struct Recorder {
    clock: Arc<dyn RunClock>,
    recorded: Arc<Mutex<Recorded>>,
    processes: Arc<std::sync::atomic::AtomicU64>,
}

impl Recorder {
    /// An empty record on this clock.
    pub fn new(clock: Arc<dyn RunClock>) -> Self {
        Self {
            clock,
            recorded: Arc::default(),
            processes: Arc::default(),
        }
    }

    /// The clock's time.
    pub fn now_ns(&self) -> u64 {
        self.clock.now_ns()
    }

    /// A process number that no client had before.
    pub fn next_process(&self) -> u64 {
        self.processes.fetch_add(1, std::sync::atomic::Ordering::Relaxed)
    }

    /// Takes down an operation that ended.
    pub fn operation(&self, operation: Operation) {
        self.lock().operations.push(operation);
    }

    /// Takes down what happens now.
    pub fn event(&self, what: Happening) {
        let at_ns = self.now_ns();
        self.lock().events.push(Event { at_ns, what });
    }

    /// Takes down what a watcher was told.
    pub fn watched(&self, line: WatchLine) {
        self.lock().watches.push(line);
    }

    /// How many operations were recorded so far.
    pub fn operations(&self) -> usize {
        self.lock().operations.len()
    }

    /// A copy of all that was recorded so far.
    pub fn recorded(&self) -> Recorded {
        self.lock().clone()
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Recorded> {
        self.recorded.lock().expect("no panic while recording")
    }
}

impl std::fmt::Debug for Recorder {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Recorder").finish_non_exhaustive()
    }
}
