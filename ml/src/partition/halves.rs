//! Where a shard that is asked for too much, or from too many places, is best parted in two.
//!
//! Two questions with two answers. [`by_load`] is for a shard with too many accesses: both sides must get a fair part of
//! them, and of such cuts the one is best whose sides differ most in where they are accessed from, since each side gets a
//! home of its own. [`by_affinity`] is for one whose sides belong to different places, however much it is accessed.
//!
//! What differs by chance does not count: a cut is compared with what it would show if the origins had nothing to do
//! with the keys (the G-test of independence, whose statistic is chi-squared).
//!
//! Must hold: the same loads give the same cut; a cut is at a key that was accessed, and leaves accesses on both sides.

use super::loads::{KeyLoad, add_counts};

/// The least part of the accesses that a side must have when a shard is parted for its load.
const SIDE_MIN: f64 = 0.25;
/// Standard deviations beyond its mean that the statistic must reach: the best of many cuts is looked at.
const DEVIATIONS: f64 = 4.0;

/// Where to part a shard, and why there.
#[derive(Clone, Debug, PartialEq)]
pub struct Halves {
    /// The first key of the second side.
    pub at: Vec<u8>,
    /// The part of the accesses before `at`, 0 to 1.
    pub left: f64,
    /// How much the side tells about the origin, in bits: 0 where both sides are alike, 1 at most.
    pub divergence: f64,
    /// The part of the accesses that are at home once each side's home is where most of its accesses come from, beyond
    /// those of one home for both.
    pub gain: f64,
}

/// Parts the load: each side has at least a quarter of the accesses. Where no origins tell the sides apart, the middle.
///
/// `None` if no cut leaves as much on both sides, as where a single key has most accesses.
pub fn by_load(loads: &KeyLoad) -> Option<Halves> {
    let cuts = cuts(loads).filter(|cut| (SIDE_MIN..=1.0 - SIDE_MIN).contains(&cut.halves.left));
    // To the middle of those that are alike: none of them has a significant divergence.
    let score = |cut: &Cut| (cut.significant(), -(cut.halves.left - 0.5).abs());
    let best = cuts.max_by(|a, b| {
        let ((a_differs, a_even), (b_differs, b_even)) = (score(a), score(b));
        a_differs.total_cmp(&b_differs).then(a_even.total_cmp(&b_even))
    });
    best.map(|cut| cut.halves)
}

/// Parts what belongs to different places: the cut that brings most accesses home.
///
/// `None` if no cut brings more than chance would.
pub fn by_affinity(loads: &KeyLoad) -> Option<Halves> {
    let cuts = cuts(loads).filter(|cut| cut.significant() > 0.0 && cut.halves.gain > 0.0);
    cuts.max_by(|a, b| a.halves.gain.total_cmp(&b.halves.gain))
        .map(|cut| cut.halves)
}

struct Cut {
    halves: Halves,
    accesses: f64,
    origins: usize,
}

impl Cut {
    /// The divergence if it is more than chance, else 0.
    fn significant(&self) -> f64 {
        let freedom = self.origins.saturating_sub(1) as f64;
        let statistic = 2.0 * std::f64::consts::LN_2 * self.accesses * self.halves.divergence;
        match statistic > freedom + DEVIATIONS * (2.0 * freedom).sqrt() {
            true => self.halves.divergence,
            false => 0.0,
        }
    }
}

/// Every cut between two keys.
fn cuts(loads: &KeyLoad) -> impl Iterator<Item = Cut> {
    let mut whole = Vec::new();
    loads.values().for_each(|counts| add_counts(&mut whole, counts));
    let mut left: Vec<u64> = Vec::new();
    let before = loads.values().zip(loads.keys().skip(1));
    before.filter_map(move |(counts, at)| {
        add_counts(&mut left, counts);
        cut_at(at, &left, &whole)
    })
}

fn cut_at(at: &[u8], left: &[u64], whole: &[u64]) -> Option<Cut> {
    let of_left = |origin: usize| left.get(origin).copied().unwrap_or(0);
    let right: Vec<u64> = (0..whole.len())
        .map(|origin| whole[origin] - of_left(origin))
        .collect();
    let (before, after) = (total(left), total(&right));
    if before == 0 || after == 0 {
        return None;
    }
    let accesses = (before + after) as f64;
    let part = before as f64 / accesses;
    let mixed = part * entropy(left) + (1.0 - part) * entropy(&right);
    let at_home = most(left) + most(&right) - most(whole);
    Some(Cut {
        halves: Halves {
            at: at.to_vec(),
            left: part,
            divergence: (entropy(whole) - mixed).max(0.0),
            gain: at_home as f64 / accesses,
        },
        accesses,
        origins: whole.iter().filter(|count| **count > 0).count(),
    })
}

fn total(counts: &[u64]) -> u64 {
    counts.iter().sum()
}

fn most(counts: &[u64]) -> u64 {
    counts.iter().copied().max().unwrap_or(0)
}

/// Bits.
fn entropy(counts: &[u64]) -> f64 {
    let all = total(counts) as f64;
    let bits = |count: &u64| {
        let share = *count as f64 / all;
        -share * share.log2()
    };
    counts.iter().filter(|count| **count > 0).map(bits).sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn loads(keys: u64, of: impl Fn(u64) -> Vec<u64>) -> KeyLoad {
        (0..keys)
            .map(|key| (format!("k{key:03}").into_bytes(), of(key)))
            .collect()
    }

    #[test]
    fn load_is_parted_in_the_middle_where_origins_say_nothing() {
        let alike = loads(100, |key| vec![1 + key % 2, 2 - key % 2]);
        let halves = by_load(&alike).unwrap();
        assert_eq!(halves.at, b"k050");
        assert_eq!(by_affinity(&alike), None);
    }

    #[test]
    fn load_is_parted_where_the_origins_change_if_both_sides_get_enough() {
        let changing = |at: u64| {
            loads(100, move |key| {
                vec![u64::from(key < at) * 4, u64::from(key >= at) * 4]
            })
        };
        let halves = by_load(&changing(70)).unwrap();
        assert_eq!((halves.at.as_slice(), halves.left), (b"k070".as_slice(), 0.7));
        assert!(
            halves.divergence > 0.85 && (halves.gain - 0.3).abs() < 1e-9,
            "{halves:?}"
        );
        // One tenth would leave nearly all the load on one side; a home of its own is worth it all the same.
        let uneven = by_load(&changing(90)).unwrap();
        assert!((0.25..=0.75).contains(&uneven.left), "{uneven:?}");
        assert_eq!(by_affinity(&changing(90)).unwrap().at, b"k090");
    }

    #[test]
    fn one_hot_key_cannot_be_parted() {
        let hot = loads(20, |key| vec![if key == 7 { 1_000 } else { 1 }]);
        assert_eq!(by_load(&hot), None);
        assert_eq!(by_load(&loads(1, |_| vec![9])), None);
        assert_eq!(by_load(&KeyLoad::new()), None);
    }

    #[test]
    fn chance_is_no_affinity() {
        // Draws without any pattern, from a fixed seed: the best of all cuts must not look like a reason.
        let mut state = 11_u64;
        let mut draw = move || {
            state = state
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1_442_695_040_888_963_407);
            (state >> 33) % 4
        };
        let mut found = 0;
        for _ in 0..200 {
            let drawn: Vec<u64> = (0..256).map(|_| draw()).collect();
            let noise = loads(256, |key| {
                let mut counts = vec![0; 4];
                counts[drawn[key as usize] as usize] = 1;
                counts
            });
            found += u64::from(by_affinity(&noise).is_some_and(|halves| halves.gain >= 0.15));
        }
        assert_eq!(found, 0);
    }
}
