//! The heaviest labels of a stream in fixed memory: Space-Saving (Metwally, Agrawal and El Abbadi 2005).
//!
//! A label that is not among the kept ones takes the place of the lightest and inherits its count, noted
//! as possible error. So a kept count is never below the truth and exceeds it by at most its error, and
//! a label with more than total / kept accesses is always kept.

/// A kept label.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Slot<T> {
    /// The label, cut to the bytes kept.
    pub(super) label: Vec<u8>,
    /// Upper bound of its count, filled in when the slots are handed out.
    pub(super) count: u64,
    /// By how much `count` may exceed the truth.
    pub(super) error: u64,
    /// What the caller keeps beside it, since it last took the slot.
    pub(super) extra: T,
}

/// At most `slots_max` labels of at most `label_bytes_max` bytes each.
#[derive(Debug)]
pub(super) struct Top<T> {
    slots_max: usize,
    label_bytes_max: usize,
    /// Digests and counts beside the slots, so that finding a label or the lightest scans one small array.
    digests: Vec<u64>,
    counts: Vec<u64>,
    slots: Vec<Slot<T>>,
}

impl<T: Default> Top<T> {
    pub(super) fn new(slots_max: usize, label_bytes_max: usize) -> Self {
        Top {
            slots_max,
            label_bytes_max,
            digests: Vec::new(),
            counts: Vec::new(),
            slots: Vec::new(),
        }
    }

    /// Counts a label, whose digest the caller has at hand, and returns what is kept beside it.
    pub(super) fn add(&mut self, label: &[u8], digest: u64) -> &mut T {
        let kept = &label[..label.len().min(self.label_bytes_max)];
        let index = match self.find(kept, digest) {
            Some(index) => index,
            None if self.slots.len() < self.slots_max => self.push(digest),
            None => self.evict(digest),
        };
        self.counts[index] += 1;
        let slot = &mut self.slots[index];
        if slot.label.is_empty() {
            slot.label.extend_from_slice(kept);
        }
        &mut slot.extra
    }

    /// The kept labels, heaviest first; equal counts in the order of their labels.
    pub(super) fn into_heaviest(self) -> Vec<Slot<T>> {
        let mut slots = self.slots;
        slots
            .iter_mut()
            .zip(self.counts)
            .for_each(|(slot, count)| slot.count = count);
        slots.sort_by(|a, b| b.count.cmp(&a.count).then_with(|| a.label.cmp(&b.label)));
        slots
    }

    fn find(&self, label: &[u8], digest: u64) -> Option<usize> {
        let index = self.digests.iter().position(|known| *known == digest)?;
        (self.slots[index].label == label).then_some(index)
    }

    fn push(&mut self, digest: u64) -> usize {
        self.digests.push(digest);
        self.counts.push(0);
        self.slots.push(Slot {
            label: Vec::new(),
            count: 0,
            error: 0,
            extra: T::default(),
        });
        self.slots.len() - 1
    }

    fn evict(&mut self, digest: u64) -> usize {
        let lightest = self.counts.iter().enumerate().min_by_key(|(_, count)| **count);
        let index = lightest.map_or(0, |(index, _)| index);
        let slot = &mut self.slots[index];
        slot.label.clear();
        slot.error = self.counts[index];
        slot.extra = T::default();
        self.digests[index] = digest;
        index
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;

    fn digest(label: &[u8]) -> u64 {
        ml::digest(label)
    }

    #[test]
    fn labels_are_cut_and_the_extra_is_lost_with_the_slot() {
        let mut top: Top<u32> = Top::new(1, 3);
        *top.add(b"abcd", 1) += 5;
        *top.add(b"abcd", 1) += 5;
        *top.add(b"x", 2) += 1;
        let slots = top.into_heaviest();
        assert_eq!(
            slots,
            [Slot {
                label: b"x".to_vec(),
                count: 3,
                error: 2,
                extra: 1
            }]
        );
    }

    proptest! {
        #[test]
        fn counts_bound_the_truth(stream in proptest::collection::vec(0_u8..40, 0..2_000), slots_max in 1_usize..20) {
            let mut top: Top<()> = Top::new(slots_max, 8);
            let mut truth: BTreeMap<Vec<u8>, u64> = BTreeMap::new();
            for label in &stream {
                let label = vec![*label];
                top.add(&label, digest(&label));
                *truth.entry(label).or_default() += 1;
            }
            let slots = top.into_heaviest();
            prop_assert!(slots.len() <= slots_max);
            prop_assert_eq!(slots.iter().map(|slot| slot.count).sum::<u64>(), stream.len() as u64);
            for slot in &slots {
                let exact = truth[&slot.label];
                prop_assert!(slot.count >= exact && slot.count - slot.error <= exact);
            }
            for (label, count) in truth {
                let is_heavy = count > (stream.len() / slots_max) as u64;
                prop_assert!(!is_heavy || slots.iter().any(|slot| slot.label == label));
            }
        }
    }
}
