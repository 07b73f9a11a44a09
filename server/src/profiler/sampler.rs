//! Which accesses go into the access log.

use std::sync::atomic::{AtomicU64, Ordering};

use super::key_sample::mix;

/// Picks a share of accesses. Equal seeds pick the same places in a sequence of accesses.
#[derive(Debug)]
pub struct AccessSampler {
    seed: u64,
    ppm: u64,
    next: AtomicU64,
}

impl AccessSampler {
    /// Picks `ppm` accesses of a million; all of them from 1,000,000 on.
    pub fn new(seed: u64, ppm: u32) -> Self {
        AccessSampler {
            seed: mix(seed),
            ppm: u64::from(ppm),
            next: AtomicU64::new(0),
        }
    }

    /// Whether the next access is picked.
    pub fn pick(&self) -> bool {
        let place = self.next.fetch_add(1, Ordering::Relaxed);
        let draw = (u128::from(mix(self.seed ^ place)) * 1_000_000) >> 64;
        (draw as u64) < self.ppm
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_share_is_kept_and_the_seed_decides() {
        let picks = |seed, ppm| {
            let sampler = AccessSampler::new(seed, ppm);
            (0..200_000).map(|_| sampler.pick()).collect::<Vec<bool>>()
        };
        let share = |picks: Vec<bool>| picks.into_iter().filter(|picked| *picked).count();
        assert_eq!(share(picks(1, 0)), 0);
        assert_eq!(share(picks(1, 1_000_000)), 200_000);
        // 2,000 expected, standard deviation 45.
        assert!((1_800..2_200).contains(&share(picks(1, 10_000))));
        assert_eq!(picks(1, 10_000), picks(1, 10_000));
        assert_ne!(picks(1, 10_000), picks(2, 10_000));
    }
}
