//! Which places shall hold a shard's voters: sets of a size, of which one is the cheapest.
//!
//! While there are few sets each of them is tried. Of more the cheapest is searched for: place after place as each is cheapest
//! beside those before it, and then one is exchanged for another as long as that is cheaper (Teitz and Bart 1968, for the
//! p-median). That one cannot be bettered by any single exchange, and may be dearer than the cheapest.

use std::cmp::Ordering;

/// Most sets that are tried one by one.
const TRIED_MAX: usize = 5_000;

/// All sets of `size` numbers below `of`.
#[derive(Clone, Debug)]
pub(super) struct Sets {
    of: usize,
    size: usize,
    /// Each of them, in order; empty if there are too many.
    all: Vec<Vec<usize>>,
}

impl Sets {
    /// `size` is taken to be no more than `of`.
    pub(super) fn new(of: usize, size: usize) -> Self {
        let size = size.min(of);
        let all = match number(of, size) <= TRIED_MAX {
            true => subsets(of, size),
            false => Vec::new(),
        };
        Self { of, size, all }
    }

    /// The cheapest, in ascending order; of equals the first. Costs must be ordered wholly.
    pub(super) fn cheapest<T>(
        &self,
        cost: impl Fn(&[usize]) -> T,
        order: impl Fn(&T, &T) -> Ordering,
    ) -> Vec<usize> {
        if self.all.is_empty() {
            return self.searched(cost, order);
        }
        let costs = self.all.iter().map(|set| (cost(set), set));
        let best = costs.min_by(|a, b| order(&a.0, &b.0));
        best.map(|(_, set)| set.clone()).unwrap_or_default()
    }

    fn searched<T>(&self, cost: impl Fn(&[usize]) -> T, order: impl Fn(&T, &T) -> Ordering) -> Vec<usize> {
        let mut set: Vec<usize> = Vec::with_capacity(self.size);
        // With the place at `at`, which may be a new one, replaced by each other.
        let best_at = |set: &[usize], at: usize| {
            let mut tried = set.to_vec();
            tried.resize(set.len().max(at + 1), 0);
            let others = (0..self.of).filter(|place| !set.contains(place));
            let costs = others.map(|place| {
                tried[at] = place;
                (cost(&tried), place)
            });
            costs.min_by(|a, b| order(&a.0, &b.0))
        };
        while set.len() < self.size
            && let Some((_, place)) = best_at(&set, set.len())
        {
            set.push(place);
        }
        let mut lowest = cost(&set);
        let mut unchanged = 0;
        for at in (0..set.len()).cycle() {
            match best_at(&set, at).filter(|(cost, _)| order(cost, &lowest) == Ordering::Less) {
                Some((cost, place)) => {
                    (set[at], lowest) = (place, cost);
                    unchanged = 0;
                }
                None => unchanged += 1,
            }
            if unchanged == set.len() {
                break;
            }
        }
        set.sort_unstable();
        set
    }
}

/// How many sets there are, or the largest number if that is more.
fn number(of: usize, size: usize) -> usize {
    (0..size).fold(1, |sets: usize, at| sets.saturating_mul(of - at) / (at + 1))
}

fn subsets(of: usize, size: usize) -> Vec<Vec<usize>> {
    let mut sets: Vec<Vec<usize>> = vec![Vec::new()];
    for _ in 0..size {
        let longer = |set: &Vec<usize>| {
            let first = set.last().map_or(0, |last| last + 1);
            let set = set.clone();
            (first..of).map(move |next| set.iter().copied().chain([next]).collect::<Vec<usize>>())
        };
        sets = sets.iter().flat_map(longer).collect();
    }
    sets
}

#[cfg(test)]
mod tests {
    use rand::{RngExt, SeedableRng};
    use rand_chacha::ChaCha8Rng;

    use super::*;

    /// Points on a line, each served by the nearest of the set.
    fn served(points: &[u64], set: &[usize]) -> u64 {
        let nearest = |point: &u64| set.iter().map(|at| points[*at].abs_diff(*point)).min();
        points
            .iter()
            .map(|point| nearest(point).unwrap_or(u64::MAX / 1_000))
            .sum()
    }

    #[test]
    fn there_are_as_many_as_are_counted() {
        for (of, size) in [(4, 2), (6, 3), (15, 3), (5, 5), (3, 0)] {
            assert_eq!(subsets(of, size).len(), number(of, size), "{size} of {of}");
        }
        assert_eq!((number(6, 3), number(256, 7) > TRIED_MAX), (20, true));
        assert_eq!(Sets::new(2, 3).cheapest(|set| set.len(), Ord::cmp), [0, 1]);
    }

    #[test]
    fn what_is_searched_is_as_cheap_as_the_cheapest_or_nearly() {
        let mut rng = ChaCha8Rng::seed_from_u64(7);
        let mut dearer = 0;
        for _ in 0..50 {
            let points: Vec<u64> = (0..15).map(|_| rng.random_range(0..1_000)).collect();
            let sets = Sets::new(15, 3);
            let cost = |set: &[usize]| served(&points, set);
            let (tried, searched) = (sets.cheapest(cost, Ord::cmp), sets.searched(cost, Ord::cmp));
            assert!(searched.is_sorted() && searched.len() == 3, "{searched:?}");
            assert!(
                cost(&searched) * 10 <= cost(&tried) * 11,
                "{searched:?} {tried:?}"
            );
            dearer += usize::from(cost(&searched) > cost(&tried));
        }
        assert!(dearer <= 10, "{dearer} of 50");
    }

    #[test]
    fn many_places_are_searched_in_little_time() {
        let points: Vec<u64> = (0..256).map(|at| (at * 7_919) % 1_009).collect();
        let tries = std::cell::Cell::new(0);
        let set = Sets::new(256, 5).cheapest(
            |set| {
                tries.set(tries.get() + 1);
                served(&points, set)
            },
            Ord::cmp,
        );
        assert_eq!(set.len(), 5);
        assert!(tries.get() < 20_000, "{}", tries.get());
    }
}
