//! Numbers by origin, whole or fading.

use placement::Zone;

/// The origins known so far, numbered densely in the order given and then in the order seen.
#[derive(Clone, Debug, Default)]
pub(crate) struct ZoneIndex {
    zones: Vec<Zone>,
}

impl ZoneIndex {
    /// Numbers the given zones in their order.
    pub(crate) fn new(zones: &[Zone]) -> Self {
        Self {
            zones: zones.to_vec(),
        }
    }

    /// The zone's number; a new zone gets the next one.
    pub(crate) fn intern(&mut self, zone: &Zone) -> usize {
        if let Some(at) = self.position(zone) {
            return at;
        }
        self.zones.push(zone.clone());
        self.zones.len() - 1
    }

    /// The zone's number, if it is known. A cluster has few zones, so a walk beats a map.
    pub(crate) fn position(&self, zone: &Zone) -> Option<usize> {
        self.zones.iter().position(|known| known == zone)
    }

    /// All zones by number.
    pub(crate) fn zones(&self) -> &[Zone] {
        &self.zones
    }

    /// How many there are.
    pub(crate) fn len(&self) -> usize {
        self.zones.len()
    }
}

/// A number for each origin; one not counted yet is zero.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Counts(Vec<f32>);

impl Counts {
    /// No numbers yet, and room for those of `origins` origins.
    pub(crate) fn with_room_for(origins: usize) -> Self {
        Self(Vec::with_capacity(origins))
    }

    /// Adds to an origin.
    pub fn add(&mut self, origin: usize, amount: f32) {
        if self.0.len() <= origin {
            self.0.resize(origin + 1, 0.0);
        }
        self.0[origin] += amount;
    }

    /// Adds another's numbers.
    pub fn add_all(&mut self, other: &Self) {
        other
            .0
            .iter()
            .enumerate()
            .for_each(|(origin, amount)| self.add(origin, *amount));
    }

    /// The number of an origin.
    pub fn at(&self, origin: usize) -> f32 {
        self.0.get(origin).copied().unwrap_or(0.0)
    }

    /// The origins with a number above zero, and the number.
    pub fn each(&self) -> impl Iterator<Item = (usize, f32)> + '_ {
        self.0
            .iter()
            .copied()
            .enumerate()
            .filter(|(_, amount)| *amount > 0.0)
    }

    /// The sum over all origins.
    pub fn total(&self) -> f32 {
        self.0.iter().sum()
    }

    /// Multiplies every number.
    pub fn scale(&mut self, factor: f32) {
        self.0.iter_mut().for_each(|value| *value *= factor);
    }

    /// The shares of `origins` origins, with `weight` accesses' worth of a prior mixed in: with nothing counted the
    /// prior itself, so that no share is ever zero while the prior's is not.
    pub fn shares(&self, origins: usize, prior: &[f32], weight: f32) -> Vec<f32> {
        let total = self.total() + weight;
        (0..origins)
            .map(|origin| (self.at(origin) + weight * prior[origin]) / total)
            .collect()
    }
}

/// Counts that fade: each step of time keeps `1 - alpha` of what was there.
#[derive(Clone, Debug)]
pub(crate) struct DecayedCounts {
    counts: Counts,
    alpha: f32,
    at: u64,
}

impl DecayedCounts {
    /// Nothing counted yet, fading by `alpha` (0 to 1) a step.
    pub(crate) fn new(alpha: f32) -> Self {
        Self {
            counts: Counts::default(),
            alpha,
            at: 0,
        }
    }

    /// Adds `alpha` times the amount at step `at`, after fading up to it. Steps never go back.
    pub(crate) fn add(&mut self, at: u64, origin: usize, amount: f32) {
        let faded = self.fade_to(at);
        self.counts.scale(faded);
        self.at = self.at.max(at);
        self.counts.add(origin, self.alpha * amount);
    }

    /// The counts, not faded since the last addition: their shares are what fading does not change.
    pub(crate) fn counts(&self) -> &Counts {
        &self.counts
    }

    /// The sum as of step `at`.
    pub(crate) fn total_at(&self, at: u64) -> f32 {
        self.counts.total() * self.fade_to(at)
    }

    /// The factor that takes the counts from their last step to `at`.
    pub(crate) fn fade_to(&self, at: u64) -> f32 {
        let steps = at.saturating_sub(self.at).min(10_000) as i32;
        (1.0 - self.alpha).powi(steps)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shares_of_nothing_are_the_prior() {
        assert_eq!(Counts::default().shares(2, &[0.25, 0.75], 1.0), [0.25, 0.75]);
        let mut counts = Counts::default();
        counts.add(1, 3.0);
        assert_eq!(counts.shares(2, &[0.5, 0.5], 1.0), [0.125, 0.875]);
    }

    #[test]
    fn decayed_counts_fade_by_the_step() {
        let mut counts = DecayedCounts::new(0.5);
        counts.add(1, 0, 8.0);
        counts.add(3, 1, 2.0);
        assert_eq!((counts.counts().at(0), counts.counts().at(1)), (1.0, 1.0));
        assert_eq!(counts.total_at(4), 1.0);
    }

    #[test]
    fn a_new_zone_gets_the_next_number() {
        let mut index = ZoneIndex::new(&[Zone::from("a")]);
        assert_eq!(
            (index.intern(&Zone::from("b")), index.intern(&Zone::from("a"))),
            (1, 0)
        );
    }
}
