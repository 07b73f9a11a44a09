//! How fresh a replica is known to be: for reads that may be served from a moment ago.
//!
//! Whenever a replica has made sure, by asking a quorum, that it misses nothing, it misses nothing of the moment at which it
//! began to ask, and whatever it applies later only adds to that. Leases do not count: theirs is a moment of others.

use std::sync::Mutex;
use std::time::Duration;

use client::proto::ReadMode;

/// A host's clock may run slow by so much, in parts of a hundred.
const SLOW_PERCENT: u32 = 10;

/// The last moment of which a replica misses nothing, on its host's clock.
#[derive(Debug, Default)]
pub(super) struct Freshness(Mutex<Option<Duration>>);

impl Freshness {
    /// Takes note of a confirmation that began at a moment.
    pub(super) fn note(&self, mode: ReadMode, began: Duration) {
        if matches!(mode, ReadMode::Index | ReadMode::Follower | ReadMode::Stale) {
            let mut known = self.0.lock().expect("no panic under this lock");
            *known = (*known).max(Some(began));
        }
    }

    /// Whether the replica misses nothing of some moment at most `most` ago.
    pub(super) fn is_within(&self, most: Duration, now: Duration) -> bool {
        let known = *self.0.lock().expect("no panic under this lock");
        let most = most * (100 - SLOW_PERCENT) / 100;
        known.is_some_and(|known| now.saturating_sub(known) <= most)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(ms: u64) -> Duration {
        Duration::from_millis(ms)
    }

    #[test]
    fn a_replica_is_as_fresh_as_its_last_confirmation() {
        let freshness = Freshness::default();
        assert!(!freshness.is_within(at(1_000_000), at(5)));
        freshness.note(ReadMode::Lease, at(5));
        assert!(
            !freshness.is_within(at(1_000), at(5)),
            "a lease is the word of a moment ago"
        );
        freshness.note(ReadMode::Follower, at(1_000));
        freshness.note(ReadMode::Index, at(400));
        assert!(freshness.is_within(at(100), at(1_090)));
        assert!(!freshness.is_within(at(100), at(1_091)), "a clock may be slow");
        assert!(!freshness.is_within(at(0), at(1_001)));
    }
}
