//! What clients ask for: operations, keys and values.

use bytes::Bytes;
use clap::ValueEnum;
use rand::rngs::SmallRng;
use rand::{RngExt, SeedableRng};
use rand_distr::{Distribution, Zipf};
use serde::{Deserialize, Serialize};

/// Pairs that a scan asks for.
pub const SCAN_PAIRS: usize = 100;
/// The length of a lease, in seconds: it is ended long before.
pub const LEASE_S: u16 = 60;
/// As YCSB's default: the hottest of 100,000 keys gets about 8 % of the accesses.
const ZIPF_EXPONENT: f64 = 0.99;
/// Values are cut out of random bytes of this length, so that nothing can be compressed or told by its content.
const RANDOM_BYTES: usize = 1 << 20;

/// A mix of operations.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, ValueEnum)]
#[serde(rename_all = "snake_case")]
pub enum Kind {
    /// Sets a key.
    Put,
    /// Reads a key, linearizably, without any assumption on clocks.
    Get,
    /// Reads a key by the leader's lease, where the store has that; else as `get`.
    LeaseGet,
    /// Half puts, half gets.
    Mix,
    /// Reads [`SCAN_PAIRS`] pairs in key order.
    Scan,
    /// Sets a key if it exists, in one transaction.
    Txn,
    /// Sets a key, and waits until a watch of all keys has told of it.
    Watch,
    /// Makes a lease and ends it: two writes.
    Lease,
}

/// Which keys are asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, ValueEnum)]
#[serde(rename_all = "snake_case")]
pub enum Keys {
    /// Each as often as any other.
    Uniform,
    /// Some far more often than others, with YCSB's exponent 0.99.
    Zipfian,
}

/// One operation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Operation {
    /// Sets a key.
    Put(Bytes, Bytes),
    /// Reads a key.
    Get(Bytes),
    /// Reads a key, by lease where there is one.
    LeaseGet(Bytes),
    /// Reads so many pairs from a key on.
    Scan(Bytes, usize),
    /// Compares whether a key exists, and then sets it.
    Txn(Bytes, Bytes),
    /// Sets a key and waits to be told of it.
    Watch(Bytes, Bytes),
    /// Makes and ends a lease, on the shard of a key where shards have leases of their own.
    Lease(Bytes),
}

/// All that decides which operations are drawn.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Workload {
    /// The mix.
    pub kind: Kind,
    /// The keys' distribution.
    pub keys: Keys,
    /// How many keys there are.
    pub key_count: u64,
    /// Bytes of a value.
    pub value_bytes: usize,
}

/// Draws one client's operations.
#[derive(Debug)]
pub struct Draw {
    workload: Workload,
    random: SmallRng,
    zipf: Option<Zipf<f64>>,
    bytes: Bytes,
}

/// The key with this number: 16 bytes. Neighbours in number lie far apart, evenly over the key space, as the hottest
/// keys of a Zipfian draw must.
pub fn key(number: u64) -> Bytes {
    const ODD: u64 = 0x9E37_79B9_7F4A_7C15;
    let mut key = [0; 16];
    key[..8].copy_from_slice(&number.wrapping_mul(ODD).to_be_bytes());
    key[8..].copy_from_slice(&number.to_be_bytes());
    Bytes::copy_from_slice(&key)
}

/// Bytes of which values are cut, to be shared by all clients of a process.
pub fn random_bytes(seed: u64) -> Bytes {
    let mut bytes = vec![0; RANDOM_BYTES];
    SmallRng::seed_from_u64(seed).fill(&mut bytes[..]);
    bytes.into()
}

impl Draw {
    /// The operations of client number `client`; `bytes` come from [`random_bytes`].
    ///
    /// # Errors
    /// When there are no keys, or values are longer than what they are cut of.
    pub fn new(workload: &Workload, seed: u64, client: u64, bytes: Bytes) -> anyhow::Result<Self> {
        anyhow::ensure!(workload.key_count > 0, "a workload needs a key");
        anyhow::ensure!(
            workload.value_bytes < bytes.len(),
            "values may have {} bytes at most",
            bytes.len() - 1
        );
        let zipf = match workload.keys {
            Keys::Uniform => None,
            Keys::Zipfian => Some(Zipf::new(workload.key_count as f64, ZIPF_EXPONENT)?),
        };
        Ok(Self {
            workload: workload.clone(),
            random: SmallRng::seed_from_u64(seed ^ client.wrapping_mul(0xD134_2543_DE82_EF95)),
            zipf,
            bytes,
        })
    }

    /// A value.
    pub fn value(&mut self) -> Bytes {
        let length = self.workload.value_bytes;
        let from = self.random.random_range(0..self.bytes.len() - length);
        self.bytes.slice(from..from + length)
    }

    fn key(&mut self) -> Bytes {
        let number = match &self.zipf {
            // It draws from 1 to the count.
            Some(zipf) => zipf.sample(&mut self.random) as u64 - 1,
            None => self.random.random_range(0..self.workload.key_count),
        };
        key(number)
    }
}

impl Iterator for Draw {
    type Item = Operation;

    fn next(&mut self) -> Option<Operation> {
        let kind = match self.workload.kind {
            Kind::Mix if self.random.random() => Kind::Put,
            Kind::Mix => Kind::Get,
            kind => kind,
        };
        let key = self.key();
        Some(match kind {
            Kind::Put | Kind::Mix => Operation::Put(key, self.value()),
            Kind::Get => Operation::Get(key),
            Kind::LeaseGet => Operation::LeaseGet(key),
            Kind::Scan => Operation::Scan(key, SCAN_PAIRS),
            Kind::Txn => Operation::Txn(key, self.value()),
            Kind::Watch => Operation::Watch(key, self.value()),
            Kind::Lease => Operation::Lease(key),
        })
    }
}

#[cfg(test)]
mod tests {
    use std::collections::{BTreeMap, BTreeSet};

    use super::*;

    fn drawn(kind: Kind, keys: Keys, seed: u64) -> Vec<Operation> {
        let workload = Workload {
            kind,
            keys,
            key_count: 1_000,
            value_bytes: 10,
        };
        let draw = Draw::new(&workload, seed, 1, random_bytes(1)).expect("a workload");
        draw.take(10_000).collect()
    }

    #[test]
    fn a_seed_draws_the_same_again() {
        assert_eq!(
            drawn(Kind::Mix, Keys::Zipfian, 5),
            drawn(Kind::Mix, Keys::Zipfian, 5)
        );
        assert_ne!(
            drawn(Kind::Mix, Keys::Zipfian, 5),
            drawn(Kind::Mix, Keys::Zipfian, 6)
        );
    }

    #[test]
    fn a_mix_is_half_puts() {
        let puts = drawn(Kind::Mix, Keys::Uniform, 1);
        let puts = puts
            .iter()
            .filter(|operation| matches!(operation, Operation::Put(..)))
            .count();
        assert!((4_800..5_200).contains(&puts), "{puts}");
    }

    #[test]
    fn a_transaction_sets_a_key_that_there_is() {
        let known: BTreeSet<Bytes> = (0..1_000).map(key).collect();
        for operation in drawn(Kind::Txn, Keys::Uniform, 1) {
            let Operation::Txn(key, value) = operation else {
                panic!("{operation:?}")
            };
            assert!(known.contains(&key) && value.len() == 10);
        }
    }

    #[test]
    fn zipfian_keys_are_drawn_in_their_proportions() {
        let known: BTreeSet<Bytes> = (0..1_000).map(key).collect();
        let mut counts: BTreeMap<Bytes, usize> = BTreeMap::new();
        for operation in drawn(Kind::Get, Keys::Zipfian, 1) {
            let Operation::Get(key) = operation else {
                panic!("{operation:?}")
            };
            assert!(known.contains(&key));
            *counts.entry(key).or_default() += 1;
        }
        // The normaliser of 1,000 keys at 0.99 is about 7.73: the first has 12.9 %, the tenth 1.3 %.
        assert!((1_150..1_450).contains(&counts[&key(0)]), "{counts:?}");
        assert!((90..180).contains(&counts[&key(9)]), "{counts:?}");
    }

    #[test]
    fn keys_lie_evenly_over_the_key_space() {
        let mut sixteenths = [0; 16];
        (0..1_600).for_each(|number| sixteenths[usize::from(key(number)[0] >> 4)] += 1);
        assert!(
            sixteenths.iter().all(|count| (90..=110).contains(count)),
            "{sixteenths:?}"
        );
    }
}
