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

use std::collections::{BTreeMap, HashMap};

use placement::ShardId;

use super::counts::Counts;
use super::gaps::{ByOrigin, Gap, Recent, Span, expect};

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

#[derive(Clone, Copy, Debug)]
struct Resting {
    user: u64,
    origin: u16,
    /// Where its class is, if that was known when this was touched.
    class: Option<u32>,
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
    shards: BTreeMap<ShardId, ShardPage>,
    shard_of_key: BTreeMap<u64, ShardId>,
    classes: Classes,
}

/// What is known of one shard.
#[derive(Clone, Debug, Default)]
struct ShardPage {
    resting: BTreeMap<u64, Resting>,
    gaps: ByOrigin,
}

impl RenewalBook {
    /// Takes in a touch; touches come in order of time.
    pub(crate) fn touch(&mut self, touch: NumberedTouch) {
        let origin = touch.origin as u16;
        if let Some(before) = self.take(touch.key) {
            self.learn(touch.shard, before, origin, touch.minute);
        }
        let resting = Resting {
            user: touch.user,
            origin,
            class: self.classes.find((touch.user, origin)),
            since_minute: touch.minute,
        };
        let page = self.shards.entry(touch.shard).or_default();
        page.resting.insert(touch.key, resting);
        self.shard_of_key.insert(touch.key, touch.shard);
    }

    /// Lets a shard that was not touched yet expect what another taught. Keys at rest stay where they were touched last.
    pub(crate) fn inherit(&mut self, from: ShardId, to: ShardId) {
        if let (Some(taught), false) = (self.shards.get(&from), self.shards.contains_key(&to)) {
            let page = ShardPage {
                resting: BTreeMap::new(),
                gaps: taught.gaps.clone(),
            };
            self.shards.insert(to, page);
        }
    }

    /// Forgets what is too old or too much at `minute`; called once a window.
    pub(crate) fn forget(&mut self, minute: u64) {
        let eldest = minute.saturating_sub(GAP_MAX_MINUTES).max(self.eldest_kept());
        let expired: Vec<(u64, ShardId, Resting)> = self
            .shards
            .iter()
            .flat_map(|(shard, page)| {
                let keys = page.resting.iter();
                keys.map(|(key, resting)| (*key, *shard, *resting))
            })
            .filter(|(_, _, resting)| resting.since_minute < eldest)
            .collect();
        for (key, shard, resting) in expired {
            self.take(key);
            self.learn(shard, resting, resting.origin, minute);
        }
        if self.classes.forget() {
            let pages = self.shards.values_mut();
            for resting in pages.flat_map(|page| page.resting.values_mut()) {
                resting.class = self.classes.find((resting.user, resting.origin));
            }
        }
    }

    /// Expected touches of a shard by origin in `[from_minute, to_minute)`, given that nothing is known after
    /// `now_minute`; there are `origins` of them as a rule.
    pub(crate) fn expect(
        &self,
        shard: ShardId,
        (now_minute, from_minute, to_minute): (u64, u64, u64),
        origins: usize,
    ) -> Counts {
        let room = || Counts::with_room_for(origins);
        let (mut expected, mut next) = (room(), room());
        let Some(page) = self.shards.get(&shard) else {
            return expected;
        };
        for resting in page.resting.values() {
            let after = |minute: u64| minute.saturating_sub(resting.since_minute) as f32;
            let span = Span {
                rested: after(now_minute),
                from: after(from_minute),
                to: after(to_minute),
            };
            next.scale(0.0);
            let prior = page.gaps.of(resting.origin);
            let weight = PRIOR_WEIGHT / prior.len().max(1) as f32;
            let mut surviving = OVERDUE_WEIGHT;
            if let Some(own) = self.classes.of(resting) {
                surviving += expect(own.gaps.iter(), span, 1.0, &mut next);
            }
            surviving += expect(prior, span, weight, &mut next);
            next.each()
                .for_each(|(origin, mass)| expected.add(origin, mass * (1.0 / surviving)));
        }
        expected
    }

    fn take(&mut self, key: u64) -> Option<Resting> {
        let shard = self.shard_of_key.remove(&key)?;
        self.shards.get_mut(&shard)?.resting.remove(&key)
    }

    fn learn(&mut self, shard: ShardId, before: Resting, next: u16, minute: u64) {
        let minutes = minute.saturating_sub(before.since_minute);
        let gap = Gap {
            next,
            minutes: minutes.min(2 * GAP_MAX_MINUTES) as u16,
        };
        self.classes.learn((before.user, before.origin), gap, minute);
        let page = self.shards.entry(shard).or_default();
        page.gaps.push(before.origin, gap, SHARD_GAPS);
    }

    /// The oldest minute that may stay, so that at most [`KEYS_MAX`] keys do.
    fn eldest_kept(&self) -> u64 {
        if self.shard_of_key.len() <= KEYS_MAX {
            return 0;
        }
        let keys = self.shards.values().flat_map(|page| page.resting.values());
        let mut since: Vec<u64> = keys.map(|resting| resting.since_minute).collect();
        since.sort_unstable();
        since[since.len() - KEYS_MAX]
    }
}

/// The classes of keys by the user and origin of their last touch. Most keys at rest know the place of their class, so that a
/// forecast has little to look up.
#[derive(Clone, Debug, Default)]
struct Classes {
    known: Vec<Class>,
    /// Nothing depends on its order.
    places: HashMap<(u64, u16), u32>,
}

#[derive(Clone, Debug)]
struct Class {
    gaps: Recent<USER_GAPS>,
    name: (u64, u16),
    touched_minute: u64,
}

impl Classes {
    fn find(&self, name: (u64, u16)) -> Option<u32> {
        self.places.get(&name).copied()
    }

    /// The class of a key at rest, which may have been learnt since that was touched.
    fn of(&self, resting: &Resting) -> Option<&Class> {
        let place = resting
            .class
            .or_else(|| self.find((resting.user, resting.origin)))?;
        Some(&self.known[place as usize])
    }

    fn learn(&mut self, name: (u64, u16), gap: Gap, minute: u64) {
        let place = *self.places.entry(name).or_insert_with(|| {
            self.known.push(Class {
                gaps: Recent::default(),
                name,
                touched_minute: minute,
            });
            (self.known.len() - 1) as u32
        });
        let class = &mut self.known[place as usize];
        class.gaps.push(gap);
        class.touched_minute = minute;
    }

    /// Forgets those that were not touched for longest, if there are too many; true: the places are others now.
    fn forget(&mut self) -> bool {
        if self.known.len() <= CLASSES_MAX {
            return false;
        }
        let mut touched: Vec<u64> = self.known.iter().map(|class| class.touched_minute).collect();
        touched.sort_unstable();
        let eldest = touched[touched.len() - CLASSES_MAX / 2];
        self.known.retain(|class| class.touched_minute >= eldest);
        let places = self
            .known
            .iter()
            .zip(0..)
            .map(|(class, place)| (class.name, place));
        self.places = places.collect();
        true
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
        let landing = book.expect(SHARD, (7260, 7260, 7380), 2);
        assert!(landing.at(1) > 0.85, "{landing:?}");
        assert!(landing.at(0) < 0.05, "{landing:?}");
        let early = book.expect(SHARD, (7220, 7220, 7280), 2);
        assert!(early.total() < 0.05, "{early:?}");
    }

    #[test]
    fn a_user_not_seen_before_is_expected_like_the_shard() {
        let mut book = commuting(10);
        book.touch(touch(99, 0, 7200));
        let landing = book.expect(SHARD, (7260, 7260, 7380), 2);
        assert!(landing.at(1) > 0.8, "{landing:?}");
    }

    #[test]
    fn a_key_at_rest_too_long_is_forgotten_and_its_class_remembers() {
        let mut book = commuting(3);
        book.forget(2 * 720 + 120 + GAP_MAX_MINUTES + 1);
        assert_eq!(book.shard_of_key.len(), 0);
        let class = book.classes.find((1, 1)).unwrap();
        let gaps = book.classes.known[class as usize].gaps.iter();
        let longest = gaps.map(|gap| u64::from(gap.minutes)).max();
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
        assert!(book.classes.known.len() <= CLASSES_MAX);
    }
}
