//! An even part of a stream of unknown length, in its order and in bounded memory.
//!
//! Each item draws a number. An item stays while its number is below a bound, and the bound is halved whenever more than
//! the most allowed have stayed: every item that was ever offered has had the same chance. Until then all stay.
//!
//! Must hold: what is drawn decides what stays, and nothing else; at most `max` items stay.

use rand::RngExt;
use rand_chacha::ChaCha8Rng;

/// The part that stayed so far.
#[derive(Clone, Debug)]
pub(crate) struct Thinned<T> {
    kept: Vec<(u32, T)>,
    max: usize,
    /// Highest number that stays.
    bound: u32,
    rng: ChaCha8Rng,
}

impl<T> Thinned<T> {
    /// Keeps at most `max` items, at least 1.
    pub(crate) fn new(max: usize, rng: ChaCha8Rng) -> Self {
        Self {
            kept: Vec::new(),
            max: max.max(1),
            bound: u32::MAX,
            rng,
        }
    }

    /// Offers an item, which is made only if it stays for now. It may turn out that there is none.
    pub(crate) fn offer(&mut self, make: impl FnOnce() -> Option<T>) {
        let drawn = self.rng.random::<u32>();
        if drawn > self.bound {
            return;
        }
        self.kept.extend(make().map(|item| (drawn, item)));
        while self.kept.len() > self.max {
            self.bound /= 2;
            let bound = self.bound;
            self.kept.retain(|(drawn, _)| *drawn <= bound);
        }
    }

    /// What stayed, in the order of the offers.
    pub(crate) fn into_items(self) -> impl Iterator<Item = T> {
        self.kept.into_iter().map(|(_, item)| item)
    }
}

#[cfg(test)]
mod tests {
    use rand::SeedableRng;

    use super::*;

    fn thinned(max: usize, offered: u64) -> Vec<u64> {
        let mut thinned = Thinned::new(max, ChaCha8Rng::seed_from_u64(1));
        for item in 0..offered {
            thinned.offer(|| Some(item));
            assert!(thinned.kept.len() <= max);
        }
        thinned.into_items().collect()
    }

    #[test]
    fn all_stay_while_there_is_room() {
        assert_eq!(thinned(100, 100), (0..100).collect::<Vec<_>>());
    }

    #[test]
    fn of_more_an_even_part_stays_in_order() {
        let kept = thinned(1000, 100_000);
        assert!((400..=1000).contains(&kept.len()), "{}", kept.len());
        assert!(kept.is_sorted());
        let late = kept.iter().filter(|item| **item >= 50_000).count() as f64 / kept.len() as f64;
        assert!((0.45..0.55).contains(&late), "{late}");
    }

    #[test]
    fn what_does_not_stay_is_not_made() {
        let mut thinned = Thinned::new(10, ChaCha8Rng::seed_from_u64(1));
        let mut made = 0;
        for item in 0..10_000 {
            thinned.offer(|| {
                made += 1;
                Some(item)
            });
        }
        assert!(made < 200, "{made}");
    }
}
