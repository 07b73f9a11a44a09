//! How much each key is accessed and from where, within bounded memory.
//!
//! A log may name more keys than fit. When there are too many, every second key's load joins that of the key before it:
//! what is left are runs of adjacent keys, each named by its first, and a cut at any of them is still a cut at a key.
//!
//! Must hold: no access is lost, and the order of keys is that of their bytes.
//! Left out: time. A cut is made for the whole of what was logged.

use std::collections::BTreeMap;

use thiserror::Error;

/// Accesses of a key by origin; origins are any dense numbering, and a list may end after the last that is not zero.
pub type KeyLoad = BTreeMap<Vec<u8>, Vec<u64>>;

/// Most origins that loads are told apart by: each takes room in every key.
pub const LOAD_ORIGINS_MAX: usize = 256;

/// A log names more origins than can be told apart.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error("there are more than {LOAD_ORIGINS_MAX} origins; map them to zones")]
pub struct TooManyOrigins;

/// Loads of keys, taken in one access at a time.
#[derive(Clone, Debug)]
pub struct KeyLoads {
    by_key: KeyLoad,
    origins: Vec<String>,
    numbers: BTreeMap<String, usize>,
    keys_max: usize,
    accesses: u64,
    joined: bool,
}

impl KeyLoads {
    /// Holds at most this many keys, at least two.
    pub fn new(keys_max: usize) -> Self {
        Self {
            by_key: KeyLoad::new(),
            origins: Vec::new(),
            numbers: BTreeMap::new(),
            keys_max: keys_max.max(2),
            accesses: 0,
            joined: false,
        }
    }

    /// Takes in accesses of one key from one origin.
    ///
    /// # Errors
    /// When the origin would be one too many; nothing is taken in then.
    pub fn add(&mut self, key: &[u8], origin: &str, accesses: u64) -> Result<(), TooManyOrigins> {
        let at = self.number(origin)?;
        if !self.by_key.contains_key(key) {
            if self.by_key.len() >= self.keys_max {
                self.join_pairs();
            }
            self.by_key.insert(key.to_vec(), Vec::new());
        }
        if let Some(counts) = self.by_key.get_mut(key) {
            counts.resize(counts.len().max(at + 1), 0);
            counts[at] += accesses;
        }
        self.accesses += accesses;
        Ok(())
    }

    /// By key, or by the first key of a run.
    pub fn by_key(&self) -> &KeyLoad {
        &self.by_key
    }

    /// The origins by number.
    pub fn origins(&self) -> &[String] {
        &self.origins
    }

    /// All that was taken in.
    pub fn accesses(&self) -> u64 {
        self.accesses
    }

    /// Whether keys had to be joined into runs.
    pub fn joined(&self) -> bool {
        self.joined
    }

    fn number(&mut self, origin: &str) -> Result<usize, TooManyOrigins> {
        if let Some(number) = self.numbers.get(origin) {
            return Ok(*number);
        }
        let next = self.origins.len();
        if next >= LOAD_ORIGINS_MAX {
            return Err(TooManyOrigins);
        }
        self.origins.push(origin.to_owned());
        self.numbers.insert(origin.to_owned(), next);
        Ok(next)
    }

    fn join_pairs(&mut self) {
        self.joined = true;
        let mut runs = KeyLoad::new();
        let mut loads = std::mem::take(&mut self.by_key).into_iter();
        while let Some((first, mut counts)) = loads.next() {
            if let Some((_, joining)) = loads.next() {
                add_counts(&mut counts, &joining);
            }
            runs.insert(first, counts);
        }
        self.by_key = runs;
    }
}

/// Adds counts by origin to others.
pub(super) fn add_counts(counts: &mut Vec<u64>, more: &[u64]) {
    counts.resize(counts.len().max(more.len()), 0);
    counts
        .iter_mut()
        .zip(more)
        .for_each(|(mine, theirs)| *mine += theirs);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn loads_are_counted_by_key_and_origin() {
        let mut loads = KeyLoads::new(10);
        for (key, origin) in [("b", "x"), ("a", "y"), ("b", "y"), ("b", "x")] {
            loads.add(key.as_bytes(), origin, 1).unwrap();
        }
        assert_eq!(loads.origins(), ["x", "y"]);
        assert_eq!(loads.by_key()[b"b".as_slice()], [2, 1]);
        assert_eq!(loads.by_key()[b"a".as_slice()], [0, 1]);
        assert!(!loads.joined());
    }

    #[test]
    fn with_too_many_keys_neighbours_are_joined_and_no_access_is_lost() {
        let mut loads = KeyLoads::new(100);
        for at in 0..10_000u64 {
            let key = format!("k{:05}", at * 7919 % 10_000);
            loads
                .add(key.as_bytes(), ["x", "y"][(at % 2) as usize], 1)
                .unwrap();
        }
        assert!(loads.by_key().len() <= 100 && loads.joined());
        let held: u64 = loads.by_key().values().flatten().sum();
        assert_eq!((held, loads.accesses()), (10_000, 10_000));
    }

    #[test]
    fn origins_are_bounded() {
        let mut loads = KeyLoads::new(10);
        for at in 0..LOAD_ORIGINS_MAX {
            loads.add(b"k", &at.to_string(), 1).unwrap();
        }
        assert_eq!(loads.add(b"k", "one more", 1), Err(TooManyOrigins));
        assert_eq!(loads.add(b"k", "0", 1), Ok(()));
        assert_eq!(loads.accesses(), LOAD_ORIGINS_MAX as u64 + 1);
    }
}
