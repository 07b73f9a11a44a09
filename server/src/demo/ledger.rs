//! What clients know of their own writes: the basis for finding lost ones.
//!
//! Each key's writes carry rising sequence numbers and are made one after another. A key must hold its last acknowledged
//! write, or a later one whose outcome its client never learnt.

use crate::replay::Stamp;

/// One key's writes.
#[derive(Debug, Clone, Copy, Default)]
struct Written {
    attempted: u64,
    acknowledged: u64,
}

/// All keys' writes, and operations that failed.
pub(crate) struct Ledger {
    keys: Vec<Written>,
    errors: u64,
}

impl Ledger {
    pub(crate) fn new(keys: usize) -> Self {
        Self {
            keys: vec![Written::default(); keys],
            errors: 0,
        }
    }

    /// The next write of a key.
    pub(crate) fn attempt(&mut self, key: usize) -> Stamp {
        self.keys[key].attempted += 1;
        Stamp {
            key: key as u64,
            sequence: self.keys[key].attempted,
        }
    }

    pub(crate) fn acknowledge(&mut self, stamp: Stamp) {
        let written = &mut self.keys[stamp.key as usize];
        written.acknowledged = written.acknowledged.max(stamp.sequence);
    }

    pub(crate) fn fail(&mut self) {
        self.errors += 1;
    }

    pub(crate) fn errors(&self) -> u64 {
        self.errors
    }

    /// The keys with an acknowledged write.
    pub(crate) fn acknowledged(&self) -> impl Iterator<Item = usize> + '_ {
        self.keys
            .iter()
            .enumerate()
            .filter(|(_, written)| written.acknowledged > 0)
            .map(|(key, _)| key)
    }

    /// Whether what was read of a key can be: `None` is an absent key.
    pub(crate) fn admits(&self, key: usize, read: Option<Stamp>) -> bool {
        let written = self.keys[key];
        match read {
            Some(stamp) => {
                stamp.key == key as u64
                    && (written.acknowledged..=written.attempted).contains(&stamp.sequence)
            }
            None => written.acknowledged == 0,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lost_or_foreign_write_is_noticed_and_an_unknown_one_admitted() {
        let mut ledger = Ledger::new(2);
        assert!(ledger.admits(0, None));
        let first = ledger.attempt(0);
        ledger.acknowledge(first);
        let unknown = ledger.attempt(0);
        assert!(ledger.admits(0, Some(first)) && ledger.admits(0, Some(unknown)));
        assert!(!ledger.admits(0, None), "an acknowledged write is lost");
        ledger.acknowledge(unknown);
        assert!(
            !ledger.admits(0, Some(first)),
            "the newest acknowledged write is lost"
        );
        assert!(!ledger.admits(1, Some(unknown)), "another key's value");
        assert_eq!(ledger.acknowledged().collect::<Vec<_>>(), [0]);
    }
}
