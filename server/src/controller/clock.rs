//! The controller's time.
//!
//! Deadlines and samples in the placement log were stamped by whichever host was the controller then, and hosts' clocks
//! may be far apart. A controller whose clock is behind would take every new sample for older than the migration it is
//! about, and wait until its clock has caught up. So its time is its host's clock, set forward to where the log's time
//! already stood; it runs on from there.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use storage::clock::Clock;

/// A clock that is never behind the placement log. A cheap handle.
#[derive(Clone, Debug)]
pub(super) struct LogClock {
    host: Arc<dyn Clock>,
    ahead_ms: Arc<AtomicU64>,
}

impl LogClock {
    /// The host's clock, set forward to `log_ms` if it is behind that.
    pub(super) fn new(host: Arc<dyn Clock>, log_ms: u64) -> Self {
        let clock = Self {
            host,
            ahead_ms: Arc::default(),
        };
        clock.follow(log_ms);
        clock
    }

    /// Takes note of the log's time, which another host may have moved on.
    pub(super) fn follow(&self, log_ms: u64) {
        let behind_ms = log_ms.saturating_sub(self.host.now_ms());
        self.ahead_ms.fetch_max(behind_ms, Ordering::Relaxed);
    }

    /// Mechanism time, in milliseconds.
    pub(super) fn now_ms(&self) -> u64 {
        self.host.now_ms() + self.ahead_ms.load(Ordering::Relaxed)
    }
}

#[cfg(test)]
mod tests {
    use storage::clock::ManualClock;

    use super::*;

    #[test]
    fn time_goes_on_from_where_the_log_stands() {
        let host = Arc::new(ManualClock::at(1_000));
        let clock = LogClock::new(host.clone(), 61_000);
        assert_eq!(clock.now_ms(), 61_000);
        host.advance_ms(5);
        assert_eq!(clock.now_ms(), 61_005);
        clock.follow(61_005);
        assert_eq!(clock.now_ms(), 61_005, "its own stamps do not drive it on");
        clock.follow(70_000);
        assert_eq!(clock.now_ms(), 70_000);
    }

    #[test]
    fn a_clock_ahead_of_the_log_is_left_alone() {
        let clock = LogClock::new(Arc::new(ManualClock::at(9_000)), 1_000);
        assert_eq!(clock.now_ms(), 9_000);
    }
}
