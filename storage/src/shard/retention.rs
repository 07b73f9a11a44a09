//! How old a version may get: from leaders' stamps to the oldest revision that can still be read.
//!
//! All versions of the last `retention_ms` stay readable; of older ones only the newest of each key.
//! What counts is stamped time, which comes with the entries, so that every replica draws the line
//! ([`Retention::floor`]) at the same revision; when superseded rows leave the file is a matter of
//! each replica's checkpoints and cannot be observed.
//!
//! Time is remembered coarsely, as at most [`AGES_MAX`] + 1 pairs of (time, revision reached), so a
//! version may be kept up to a sixty-fourth of the retention longer.

use std::collections::VecDeque;

use super::record::AgeBody;

const AGES_MAX: u64 = 64;

/// Where the shard stood at a time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Age {
    at_ms: u64,
    revision: u64,
}

/// The line between the readable past and the forgotten one.
#[derive(Debug, Clone)]
pub(crate) struct Retention {
    retention_ms: u64,
    /// Ascending in time and revision; every revision up to `revision` was written by `at_ms`.
    ages: VecDeque<Age>,
    floor: u64,
}

impl Retention {
    pub(crate) fn new(retention_ms: u64) -> Retention {
        Retention {
            retention_ms,
            ages: VecDeque::new(),
            floor: 0,
        }
    }

    pub(crate) fn restore(retention_ms: u64, floor: u64, ages: &[AgeBody]) -> Retention {
        let age = |body: &AgeBody| Age {
            at_ms: body.at_ms,
            revision: body.revision,
        };
        Retention {
            retention_ms,
            ages: ages.iter().map(age).collect(),
            floor,
        }
    }

    /// Takes note that the shard stands at `revision` at `clock_ms`, which never goes back.
    pub(crate) fn observe(&mut self, clock_ms: u64, revision: u64) {
        let step_ms = self.retention_ms / AGES_MAX;
        let due = |last: &Age| clock_ms >= last.at_ms.saturating_add(step_ms);
        if self.ages.back().is_none_or(due) {
            self.ages.push_back(Age {
                at_ms: clock_ms,
                revision,
            });
        }
        while let Some(oldest) = self.ages.front()
            && oldest.at_ms.saturating_add(self.retention_ms) <= clock_ms
        {
            self.floor = self.floor.max(oldest.revision);
            self.ages.pop_front();
        }
    }

    /// Forgets what was superseded at or before `revision`, whatever its age. Nothing is remembered again.
    pub(crate) fn forget(&mut self, revision: u64) {
        self.floor = self.floor.max(revision);
    }

    /// The oldest revision at which the shard can be read. A version superseded at or before it is
    /// no longer visible to anyone.
    pub(crate) fn floor(&self) -> u64 {
        self.floor
    }

    pub(crate) fn ages(&self) -> Vec<AgeBody> {
        let body = |age: &Age| AgeBody {
            at_ms: age.at_ms,
            revision: age.revision,
        };
        self.ages.iter().map(body).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_floor_follows_at_the_distance_of_the_retention() {
        let mut retention = Retention::new(6_400);
        for second in 0..100 {
            retention.observe(second * 1_000, second * 10);
            let expected = second.saturating_sub(7) * 10;
            assert!(retention.floor() >= expected, "second {second}");
            assert!(
                retention.floor() <= second.saturating_sub(6) * 10,
                "second {second}"
            );
            assert!(retention.ages.len() as u64 <= AGES_MAX + 1);
        }
        let restored = Retention::restore(6_400, retention.floor(), &retention.ages());
        assert_eq!(restored.ages, retention.ages);
    }

    #[test]
    fn crowded_stamps_keep_few_ages() {
        let mut retention = Retention::new(6_400);
        for ms in 0..20_000 {
            retention.observe(ms, ms);
            assert!(retention.ages.len() as u64 <= AGES_MAX + 1, "at {ms} ms");
        }
        assert!(retention.floor() >= 19_999 - 6_400 - 100);
    }

    #[test]
    fn what_was_forgotten_by_name_does_not_come_back() {
        let mut retention = Retention::new(6_400);
        for second in 0..5 {
            retention.observe(second * 1_000, second * 10);
        }
        retention.forget(35);
        retention.forget(20);
        assert_eq!(retention.floor(), 35);
        retention.observe(8_000, 50);
        assert_eq!(retention.floor(), 35, "age alone has come to 10");
        retention.observe(20_000, 60);
        assert_eq!(retention.floor(), 50);
    }

    #[test]
    fn without_retention_only_the_newest_stays() {
        let mut retention = Retention::new(0);
        retention.observe(5, 3);
        assert_eq!(retention.floor(), 3);
        retention.observe(5, 4);
        assert_eq!(retention.floor(), 4);
    }
}
