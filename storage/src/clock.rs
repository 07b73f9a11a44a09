//! Mechanism time: the clock that spaces syncs, checkpoints and retries.
//!
//! The crate never asks the operating system for the time. The composition root hands in a
//! [`Clock`]; under simulation it is the simulated host's clock, which may drift or jump.
//! Nothing that is replicated may depend on it: time that matters to data arrives in entries.

use std::fmt::Debug;
use std::sync::atomic::{AtomicU64, Ordering};

/// A host's mechanism clock.
pub trait Clock: Send + Sync + Debug {
    /// Milliseconds since an epoch of the clock's own. It should not go backwards; a caller that
    /// sees it do so waits longer or shorter once, and nothing worse.
    fn now_ms(&self) -> u64;
}

/// A clock that stands still until it is moved. For tests and simulation.
#[derive(Debug, Default)]
pub struct ManualClock {
    now_ms: AtomicU64,
}

impl ManualClock {
    /// A clock that shows `now_ms`.
    pub fn at(now_ms: u64) -> ManualClock {
        ManualClock {
            now_ms: AtomicU64::new(now_ms),
        }
    }

    /// Moves the clock forward.
    pub fn advance_ms(&self, by_ms: u64) {
        self.now_ms.fetch_add(by_ms, Ordering::Relaxed);
    }
}

impl Clock for ManualClock {
    fn now_ms(&self) -> u64 {
        self.now_ms.load(Ordering::Relaxed)
    }
}
