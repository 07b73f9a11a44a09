//! Expects the next touch of single keys: a semi-Markov (Markov renewal) process, Cinlar 1969.
//!
//! After a touch by user `u` from origin `o`, a key rests for some time and is then touched from some origin. Gap and
//! next origin are remembered for the class (u, o), and for (shard, o) as the prior of users not seen before. The
//! expected number of touches of a shard in a stretch of time is the sum, over its keys, of the chance that a key
//! that has rested this long is touched in it. This is what a count by origin cannot say: a flight that left two hours
//! ago lands in Chicago within this one, and its aircraft is back in New York in the evening.
//!
//! Must hold: memory is bounded by [`KEYS_MAX`], [`CLASSES_MAX`] and the size of a ring; a key that has rested for
//! [`GAP_MAX_MINUTES`] is forgotten, and its class remembers that the gap was longer.
//! Left out: keys never touched before.

use std::collections::BTreeMap;

use placement::ShardId;

use super::counts::Counts;

/// Most keys remembered; the longest rested are forgotten first.
pub(crate) const KEYS_MAX: usize = 65_536;
/// Most (user, origin) classes remembered; the longest unseen are forgotten first.
pub(crate) const CLASSES_MAX: usize = 65_536;
/// The longest gap told apart from any longer one, in minutes.
pub(crate) const GAP_MAX_MINUTES: u64 = 4 * 24 * 60;

const USER_GAPS: usize = 16;
const SHARD_GAPS: usize = 48;
/// The weight of the prior against the class's own gaps, as a number of observations.
const PRIOR_WEIGHT: f32 = 2.0;
/// Keeps the chance finite for a key that has outlived all the gaps known.
const OVERDUE_WEIGHT: f32 = 0.2;
/// Gaps are spread by a triangle this wide to each side: some minutes, and a part of the gap.
const SPREAD_MINUTES: f32 = 12.0;
const SPREAD_PART: f32 = 0.08;

/// A gap between two touches of a key, and where the second came from.
#[derive(Clone, Copy, Debug)]
struct Gap {
    next: u16,
    minutes: u16,
}

/// The latest gaps of a class.
#[derive(Clone, Debug, Default)]
struct Gaps {
    ring: Vec<Gap>,
    cursor: usize,
    touched_minute: u64,
}

impl Gaps {
    fn push(&mut self, gap: Gap, capacity: usize, minute: u64) {
        self.touched_minute = minute;
        if self.ring.len() < capacity {
            self.ring.push(gap);
        } else {
            self.ring[self.cursor] = gap;
            self.cursor = (self.cursor + 1) % capacity;
        }
    }

    /// Adds the chance mass of the next touch by origin in `[from, to)` to `next`, all in minutes after the touch, and
    /// returns the mass of gaps longer than `rested`.
    fn expect(&self, rested: f32, from: f32, to: f32, weight: f32, next: &mut Counts) -> f32 {
        let mut surviving = 0.0;
        for gap in &self.ring {
            let (middle, spread) = (
                f32::from(gap.minutes),
                SPREAD_MINUTES + SPREAD_PART * f32::from(gap.minutes),
            );
            if middle + spread <= rested {
                continue;
            }
            surviving += weight * (1.0 - triangle_below(rested, middle, spread));
            if middle - spread < to && middle + spread > from {
                let mass =
                    triangle_below(to, middle, spread) - triangle_below(from.max(rested), middle, spread);
                next.add(usize::from(gap.next), weight * mass.max(0.0));
            }
        }
        surviving
    }
}

/// The mass below `x` of a triangle around `middle` that reaches `spread` to each side.
fn triangle_below(x: f32, middle: f32, spread: f32) -> f32 {
    let z = ((x - middle) / spread).clamp(-1.0, 1.0);
    if z < 0.0 {
        0.5 * (1.0 + z) * (1.0 + z)
    } else {
        1.0 - 0.5 * (1.0 - z) * (1.0 - z)
    }
}

#[derive(Clone, Copy, Debug)]
struct Resting {
    user: u64,
    origin: usize,
    since_minute: u64,
}

/// A touch as the book takes it: numbers only, in minutes of workload time.
#[derive(Clone, Copy, Debug)]
pub(crate) struct NumberedTouch {
    /// The shard that held the key.
    pub(crate) shard: ShardId,
    /// Digest of the key.
    pub(crate) key: u64,
    /// Digest of the user.
    pub(crate) user: u64,
    /// The origin's number.
    pub(crate) origin: usize,
    /// When.
    pub(crate) minute: u64,
}

/// The keys at rest and the gaps known.
#[derive(Clone, Debug, Default)]
pub(crate) struct RenewalBook {
    resting: BTreeMap<ShardId, BTreeMap<u64, Resting>>,
    shard_of_key: BTreeMap<u64, ShardId>,
    user_gaps: BTreeMap<(u64, usize), Gaps>,
    shard_gaps: BTreeMap<(ShardId, usize), Gaps>,
}

impl RenewalBook {
    /// Takes in a touch; touches come in order of time.
    pub(crate) fn touch(&mut self, touch: NumberedTouch) {
        if let Some(before) = self.take(touch.key) {
            self.learn(touch.shard, before, touch.origin, touch.minute);
        }
        let resting = Resting {
            user: touch.user,
            origin: touch.origin,
            since_minute: touch.minute,
        };
        self.resting
            .entry(touch.shard)
            .or_default()
            .insert(touch.key, resting);
        self.shard_of_key.insert(touch.key, touch.shard);
    }

    /// Lets a shard that was not touched yet expect what another taught. Keys at rest stay where they were touched last.
    pub(crate) fn inherit(&mut self, from: ShardId, to: ShardId) {
        let of = |shard: ShardId| (shard, 0)..=(shard, usize::MAX);
        if self.shard_gaps.range(of(to)).next().is_none() {
            let gaps = self.shard_gaps.range(of(from));
            let taught: Vec<_> = gaps
                .map(|((_, origin), gaps)| ((to, *origin), gaps.clone()))
                .collect();
            self.shard_gaps.extend(taught);
        }
    }

    /// Forgets what is too old or too much at `minute`; called once a window.
    pub(crate) fn forget(&mut self, minute: u64) {
        let eldest = minute.saturating_sub(GAP_MAX_MINUTES).max(self.eldest_kept());
        let expired: Vec<(u64, ShardId, Resting)> = self
            .resting
            .iter()
            .flat_map(|(shard, keys)| keys.iter().map(|(key, resting)| (*key, *shard, *resting)))
            .filter(|(_, _, resting)| resting.since_minute < eldest)
            .collect();
        for (key, shard, resting) in expired {
            self.take(key);
            self.learn(shard, resting, resting.origin, minute);
        }
        forget_classes(&mut self.user_gaps);
    }

    /// Expected touches of a shard by origin in `[from_minute, to_minute)`, given that nothing is known after
    /// `now_minute`.
    pub(crate) fn expect(&self, shard: ShardId, now_minute: u64, from_minute: u64, to_minute: u64) -> Counts {
        let (mut expected, mut next) = (Counts::default(), Counts::default());
        for resting in self.resting.get(&shard).into_iter().flat_map(BTreeMap::values) {
            let after = |minute: u64| minute.saturating_sub(resting.since_minute) as f32;
            let span = (after(now_minute), after(from_minute), after(to_minute));
            next.scale(0.0);
            let surviving = self.expect_key(shard, resting, span, &mut next);
            next.each()
                .for_each(|(origin, mass)| expected.add(origin, mass * (1.0 / surviving)));
        }
        expected
    }

    /// Adds the chance mass of a key's next touch by origin to `next`, and returns the mass of all gaps that it may
    /// still have.
    fn expect_key(
        &self,
        shard: ShardId,
        resting: &Resting,
        (rested, from, to): (f32, f32, f32),
        next: &mut Counts,
    ) -> f32 {
        let mut surviving = OVERDUE_WEIGHT;
        if let Some(own) = self.user_gaps.get(&(resting.user, resting.origin)) {
            surviving += own.expect(rested, from, to, 1.0, next);
        }
        if let Some(prior) = self.shard_gaps.get(&(shard, resting.origin)) {
            let weight = PRIOR_WEIGHT / prior.ring.len().max(1) as f32;
            surviving += prior.expect(rested, from, to, weight, next);
        }
        surviving
    }

    fn take(&mut self, key: u64) -> Option<Resting> {
        let shard = self.shard_of_key.remove(&key)?;
        self.resting.get_mut(&shard)?.remove(&key)
    }

    fn learn(&mut self, shard: ShardId, before: Resting, next: usize, minute: u64) {
        let minutes = minute
            .saturating_sub(before.since_minute)
            .min(2 * GAP_MAX_MINUTES) as u16;
        let gap = Gap {
            next: next as u16,
            minutes,
        };
        self.user_gaps
            .entry((before.user, before.origin))
            .or_default()
            .push(gap, USER_GAPS, minute);
        self.shard_gaps
            .entry((shard, before.origin))
            .or_default()
            .push(gap, SHARD_GAPS, minute);
    }

    /// The oldest minute that may stay, so that at most [`KEYS_MAX`] keys do.
    fn eldest_kept(&self) -> u64 {
        if self.shard_of_key.len() <= KEYS_MAX {
            return 0;
        }
        let mut since: Vec<u64> = self
            .resting
            .values()
            .flat_map(BTreeMap::values)
            .map(|resting| resting.since_minute)
            .collect();
        since.sort_unstable();
        since[since.len() - KEYS_MAX]
    }
}

fn forget_classes(classes: &mut BTreeMap<(u64, usize), Gaps>) {
    if classes.len() > CLASSES_MAX {
        let mut touched: Vec<u64> = classes.values().map(|gaps| gaps.touched_minute).collect();
        touched.sort_unstable();
        let eldest = touched[touched.len() - CLASSES_MAX / 2];
        classes.retain(|_, gaps| gaps.touched_minute >= eldest);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SHARD: ShardId = ShardId(1);

    fn touch(user: u64, origin: usize, minute: u64) -> NumberedTouch {
        NumberedTouch {
            shard: SHARD,
            key: 7,
            user,
            origin,
            minute,
        }
    }

    /// Key 7 goes out with user 1 at origin 0, lands at origin 1 two hours later, and stays ten hours.
    fn commuting(days: u64) -> RenewalBook {
        let mut book = RenewalBook::default();
        for day in 0..days {
            book.touch(touch(1, 0, day * 720));
            book.touch(touch(1, 1, day * 720 + 120));
        }
        book
    }

    #[test]
    fn a_key_in_flight_is_expected_where_and_when_it_lands() {
        let mut book = commuting(10);
        book.touch(touch(1, 0, 7200));
        let landing = book.expect(SHARD, 7260, 7260, 7380);
        assert!(landing.at(1) > 0.85, "{landing:?}");
        assert!(landing.at(0) < 0.05, "{landing:?}");
        let early = book.expect(SHARD, 7220, 7220, 7280);
        assert!(early.total() < 0.05, "{early:?}");
    }

    #[test]
    fn a_user_not_seen_before_is_expected_like_the_shard() {
        let mut book = commuting(10);
        book.touch(touch(99, 0, 7200));
        let landing = book.expect(SHARD, 7260, 7260, 7380);
        assert!(landing.at(1) > 0.8, "{landing:?}");
    }

    #[test]
    fn a_key_at_rest_too_long_is_forgotten_and_its_class_remembers() {
        let mut book = commuting(3);
        book.forget(2 * 720 + 120 + GAP_MAX_MINUTES + 1);
        assert_eq!(book.shard_of_key.len(), 0);
        let longest = book.user_gaps[&(1, 1)]
            .ring
            .iter()
            .map(|gap| u64::from(gap.minutes))
            .max();
        assert!(longest > Some(GAP_MAX_MINUTES));
    }

    #[test]
    fn memory_is_bounded() {
        let mut book = RenewalBook::default();
        for key in 0..(KEYS_MAX as u64 + 500) {
            book.touch(NumberedTouch {
                shard: SHARD,
                key,
                user: key,
                origin: 0,
                minute: key / 100,
            });
        }
        book.forget(700);
        assert!(book.shard_of_key.len() <= KEYS_MAX + 100);
        assert!(book.user_gaps.len() <= CLASSES_MAX);
    }

    #[test]
    fn the_triangle_has_mass_one() {
        assert_eq!(triangle_below(-1.0, 0.0, 1.0), 0.0);
        assert_eq!(triangle_below(0.0, 0.0, 1.0), 0.5);
        assert_eq!(triangle_below(1.0, 0.0, 1.0), 1.0);
    }
}
