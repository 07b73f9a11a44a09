//! How fast a group's log grows while a replica is brought what it lacks.

use std::time::Duration;

/// How long the growth is measured before it counts.
const MEASURE_MIN: Duration = Duration::from_secs(1);

/// How a log has grown since something began: by its own bytes, for the entries that a replica gets meanwhile may be of
/// another time and size than those that are written now.
#[derive(Debug, Clone, Copy)]
pub(super) struct Growth {
    since: Duration,
    appended_bytes: u64,
}

impl Growth {
    /// `appended_bytes`: what was ever appended to the log.
    pub(super) fn begin(now: Duration, appended_bytes: u64) -> Self {
        Self {
            since: now,
            appended_bytes,
        }
    }

    /// Bytes a second; 0 until it is measured.
    fn bytes_per_s(&self, now: Duration, appended_bytes: u64) -> u64 {
        let elapsed = now.saturating_sub(self.since);
        if elapsed < MEASURE_MIN {
            return 0;
        }
        let grown = appended_bytes.saturating_sub(self.appended_bytes);
        (grown as f64 / elapsed.as_secs_f64()) as u64
    }

    /// The bytes a second that come to an end: twice as many as are added.
    pub(super) fn outpaced(&self, now: Duration, appended_bytes: u64) -> u64 {
        self.bytes_per_s(now, appended_bytes).saturating_mul(2)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn growth_is_what_was_appended_since_by_the_second() {
        let growth = Growth::begin(Duration::from_secs(10), 1_000);
        let at = |secs, appended_bytes| growth.outpaced(Duration::from_secs(secs), appended_bytes);
        assert_eq!(at(10, 5_000), 0, "not measured yet");
        assert_eq!(at(12, 5_000), 4_000);
        assert_eq!(at(20, 1_000), 0);
    }
}
