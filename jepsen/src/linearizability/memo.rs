//! The configurations that a search has entered.
//!
//! A configuration is what certainly happened (a bit an operation), the state, and which unknown writes took effect.
//! One is pointless to enter if another with the same first two and a subset of the third was entered before: with
//! more unknown writes left, that one could do all that this one can.
//!
//! The bits are nearly a prefix, as operations are linearized about in the order of their calls: only the words
//! between the first that is not full and the last that is not empty are kept.

use std::collections::HashMap;

/// A set of small numbers.
#[derive(Clone, Debug)]
pub(super) struct Bits {
    words: Vec<u64>,
    /// All words before this one are full.
    full: usize,
}

impl Bits {
    pub(super) fn new(len: usize) -> Self {
        Self {
            words: vec![0; len.div_ceil(64)],
            full: 0,
        }
    }

    pub(super) fn contains(&self, index: usize) -> bool {
        self.words[index / 64] & (1 << (index % 64)) != 0
    }

    pub(super) fn insert(&mut self, index: usize) {
        self.words[index / 64] |= 1 << (index % 64);
        while self.words.get(self.full) == Some(&u64::MAX) {
            self.full += 1;
        }
    }

    pub(super) fn remove(&mut self, index: usize) {
        self.words[index / 64] &= !(1 << (index % 64));
        self.full = self.full.min(index / 64);
    }

    /// Writes the set to `key` in a form that two sets share only if they are equal.
    fn spell(&self, key: &mut Vec<u64>) {
        key.push(self.full as u64);
        let empty = self.words.iter().rev().take_while(|word| **word == 0).count();
        let end = self.words.len() - empty;
        if self.full < end {
            key.extend_from_slice(&self.words[self.full..end]);
        }
    }
}

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Memo {
    entered: HashMap<Box<[u64]>, Vec<Box<[u64]>>>,
    key: Vec<u64>,
    len: u64,
}

impl Memo {
    /// Notes a configuration. False: it is pointless, one at least as good was entered before.
    pub(super) fn enter(&mut self, certain: &Bits, unknown: &Bits, state: &[u64]) -> bool {
        self.key.clear();
        self.key.extend_from_slice(state);
        certain.spell(&mut self.key);
        let Some(sets) = self.entered.get_mut(self.key.as_slice()) else {
            self.entered
                .insert(self.key.as_slice().into(), vec![unknown.words.as_slice().into()]);
            self.len += 1;
            return true;
        };
        if sets.iter().any(|set| is_subset(set, &unknown.words)) {
            return false;
        }
        sets.retain(|set| !is_subset(&unknown.words, set));
        sets.push(unknown.words.as_slice().into());
        self.len += 1;
        true
    }

    /// Configurations entered.
    pub(super) fn len(&self) -> u64 {
        self.len
    }
}

fn is_subset(set: &[u64], of: &[u64]) -> bool {
    set.iter().zip(of).all(|(word, of)| word & !of == 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bits(len: usize, members: &[usize]) -> Bits {
        let mut bits = Bits::new(len);
        members.iter().for_each(|member| bits.insert(*member));
        bits
    }

    #[test]
    fn a_subset_of_unknown_writes_dominates() {
        let mut memo = Memo::default();
        let certain = bits(200, &[0, 1, 130]);
        assert!(memo.enter(&certain, &bits(70, &[3, 66]), &[7]));
        assert!(!memo.enter(&certain, &bits(70, &[3, 5, 66]), &[7]));
        assert!(memo.enter(&certain, &bits(70, &[3]), &[7]));
        assert!(!memo.enter(&certain, &bits(70, &[3, 66]), &[7]));
        assert!(memo.enter(&certain, &bits(70, &[3]), &[8]));
        assert!(memo.enter(&bits(200, &[0, 1]), &bits(70, &[3]), &[7]));
    }

    #[test]
    fn removal_undoes_insertion() {
        let all: Vec<usize> = (0..130).collect();
        let mut full = bits(200, &all);
        full.remove(5);
        full.remove(129);
        let mut memo = Memo::default();
        let rest: Vec<usize> = all
            .into_iter()
            .filter(|index| ![5, 129].contains(index))
            .collect();
        assert!(memo.enter(&full, &Bits::new(0), &[]));
        assert!(!memo.enter(&bits(200, &rest), &Bits::new(0), &[]));
    }
}
