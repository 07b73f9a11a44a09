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

use bytes::Bytes;

use super::fingerprint::Fingerprint;
use super::record::{AgeBody, StrainBody};

const AGES_MAX: u64 = 64;

/// Where the shard stood at a time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Age {
    at_ms: u64,
    revision: u64,
}

/// A part of the range, up to where the next one begins, that was another shard's.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Strain {
    start: Bytes,
    floor: u64,
}

/// The line between the readable past and the forgotten one.
#[derive(Debug, Clone)]
pub(crate) struct Retention {
    retention_ms: u64,
    /// Ascending in time and revision; every revision up to `revision` was written by `at_ms`.
    ages: VecDeque<Age>,
    floor: u64,
    /// Ascending in `start`. Of merged shards, one may have forgotten more than another; none once the floor has passed
    /// what any of them had forgotten.
    strains: Vec<Strain>,
}

impl Retention {
    pub(crate) fn new(retention_ms: u64) -> Retention {
        Retention {
            retention_ms,
            ages: VecDeque::new(),
            floor: 0,
            strains: Vec::new(),
        }
    }

    pub(crate) fn restore(
        retention_ms: u64,
        floor: u64,
        ages: &[AgeBody],
        strains: &[StrainBody],
    ) -> Retention {
        let strain = |body: &StrainBody| Strain {
            start: body.start.clone(),
            floor: body.floor,
        };
        let age = |body: &AgeBody| Age {
            at_ms: body.at_ms,
            revision: body.revision,
        };
        Retention {
            retention_ms,
            ages: ages.iter().map(age).collect(),
            floor,
            strains: strains.iter().map(strain).collect(),
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
        self.drop_outgrown();
    }

    /// Forgets what was superseded at or before `revision`, whatever its age. Nothing is remembered again.
    pub(crate) fn forget(&mut self, revision: u64) {
        self.floor = self.floor.max(revision);
        self.drop_outgrown();
    }

    /// Goes on for a shard that has absorbed another, whose range began at `start`, at `revision`. The two counted their
    /// revisions apart, so what each had forgotten is remembered for its part of the range, and all that is older than
    /// the merge is kept until the merge itself is as old as the retention.
    pub(crate) fn absorb(&mut self, own_start: &Bytes, start: &Bytes, other: &Retention) {
        let mut strains = self.strains_within(own_start, Some(start));
        strains.extend(other.strains_within(start, None));
        self.strains = strains;
        self.floor = self.floor.min(other.floor);
        self.ages.clear();
        self.drop_outgrown();
    }

    /// The oldest revision at which any key can be read. A version superseded at or before it is
    /// no longer visible to anyone.
    pub(crate) fn floor(&self) -> u64 {
        self.floor
    }

    /// The oldest revision at which the keys of `[start, end)` can be read; an `end` of `None` means to the end.
    pub(crate) fn floor_over(&self, start: &[u8], end: Option<&[u8]>) -> u64 {
        let first = self.strains.partition_point(|strain| strain.start <= start);
        let touched = self.strains[first.saturating_sub(1)..].iter();
        let touched = touched.take_while(|strain| end.is_none_or(|end| strain.start < end));
        touched.map(|strain| strain.floor).fold(self.floor, u64::max)
    }

    /// The oldest revision at which a key can be read.
    pub(crate) fn floor_of(&self, key: &[u8]) -> u64 {
        let after = self.strains.partition_point(|strain| strain.start <= key);
        let strain = after.checked_sub(1).map(|at| self.strains[at].floor);
        self.floor.max(strain.unwrap_or(0))
    }

    pub(crate) fn strains(&self) -> Vec<StrainBody> {
        let body = |strain: &Strain| StrainBody {
            start: strain.start.clone(),
            floor: strain.floor,
        };
        self.strains.iter().map(body).collect()
    }

    pub(crate) fn fingerprint(&self, print: Fingerprint) -> Fingerprint {
        let print = print.number(self.floor);
        self.strains.iter().fold(print, |print, strain| {
            print.bytes(&strain.start).number(strain.floor)
        })
    }

    /// What was forgotten in `[start, end)`, by parts.
    fn strains_within(&self, start: &Bytes, end: Option<&Bytes>) -> Vec<Strain> {
        let first = Strain {
            start: start.clone(),
            floor: self.floor_of(start),
        };
        let within = |strain: &&Strain| strain.start > *start && end.is_none_or(|end| strain.start < *end);
        let further = self.strains.iter().filter(within).cloned();
        std::iter::once(first).chain(further).collect()
    }

    fn drop_outgrown(&mut self) {
        if self.strains.iter().all(|strain| strain.floor <= self.floor) {
            self.strains = Vec::new();
        }
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
        let restored = Retention::restore(6_400, retention.floor(), &retention.ages(), &[]);
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

    fn at(floor: u64) -> Retention {
        Retention::restore(6_400, floor, &[], &[])
    }

    #[test]
    fn merged_shards_keep_what_each_had_forgotten_until_all_of_it_is_old() {
        let [a, m, t] = ["", "m", "t"].map(|key| Bytes::from_static(key.as_bytes()));
        let mut left = at(50);
        left.absorb(&a, &m, &at(7));
        left.absorb(&a, &t, &at(90));
        assert_eq!(left.floor(), 7);
        let floors = |retention: &Retention| {
            let of = [&b"c"[..], b"m", b"s", b"z"].map(|key| retention.floor_of(key));
            let over = [
                retention.floor_over(b"", Some(b"m")),
                retention.floor_over(b"n", Some(b"t")),
                retention.floor_over(b"a", None),
            ];
            (of, over)
        };
        assert_eq!(floors(&left), ([50, 7, 7, 90], [50, 7, 90]));
        let restored = Retention::restore(6_400, left.floor(), &left.ages(), &left.strains());
        assert_eq!(floors(&restored), floors(&left));
        left.forget(60);
        assert_eq!(floors(&left), ([60, 60, 60, 90], [60, 60, 90]));
        left.observe(1_000, 100);
        left.observe(10_000, 110);
        assert_eq!((left.floor(), left.strains.len()), (100, 0));
    }

    #[test]
    fn shards_that_forgot_alike_have_one_floor() {
        let mut left = at(0);
        left.absorb(&Bytes::new(), &Bytes::from_static(b"m"), &at(0));
        assert_eq!(left.strains(), []);
        assert_eq!(left.floor_over(b"", None), 0);
    }
}
