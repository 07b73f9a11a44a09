//! Where the accesses of a shard are expected to come from.
//!
//! Forecasts of many shards name the same origins, so the names are one list that they share, and each has its own numbers:
//! a forecast of 10,000 shards by 50 origins would copy half a million names otherwise.
//!
//! Must hold: the names are in order, none twice; there is a number for each.

use std::collections::BTreeMap;
use std::sync::Arc;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::ids::Zone;

/// Shares by the origin's zone, in parts per million. An origin without a share is as good as one that is not named.
#[derive(Clone, Debug)]
pub struct OriginShares {
    zones: Arc<[Zone]>,
    ppm: Vec<u32>,
}

impl OriginShares {
    /// The shares of these zones, which are in order of name, each once.
    pub fn new(zones: Arc<[Zone]>, ppm: Vec<u32>) -> Self {
        assert_eq!(zones.len(), ppm.len(), "a share for each zone");
        debug_assert!(zones.is_sorted_by(|a, b| a < b), "{zones:?} are not in order");
        Self { zones, ppm }
    }

    /// The origins that have a share, in order of name.
    pub fn iter(&self) -> impl Iterator<Item = (&Zone, u32)> {
        let named = self.zones.iter().zip(self.ppm.iter().copied());
        named.filter(|(_, ppm)| *ppm > 0)
    }

    /// The share of an origin; 0: none.
    pub fn of(&self, zone: &Zone) -> u32 {
        self.zones.binary_search(zone).map_or(0, |at| self.ppm[at])
    }

    /// The sum of all.
    pub fn total_ppm(&self) -> u64 {
        self.ppm.iter().map(|ppm| u64::from(*ppm)).sum()
    }
}

impl Default for OriginShares {
    fn default() -> Self {
        Self::from_iter([])
    }
}

/// Of an origin that comes more than once, the last counts.
impl FromIterator<(Zone, u32)> for OriginShares {
    fn from_iter<I: IntoIterator<Item = (Zone, u32)>>(shares: I) -> Self {
        let by_zone: BTreeMap<Zone, u32> = shares.into_iter().collect();
        let (zones, ppm): (Vec<Zone>, Vec<u32>) = by_zone.into_iter().unzip();
        Self::new(zones.into(), ppm)
    }
}

impl PartialEq for OriginShares {
    fn eq(&self, other: &Self) -> bool {
        self.iter().eq(other.iter())
    }
}

impl Eq for OriginShares {}

/// As a map from names to shares.
impl Serialize for OriginShares {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_map(self.iter())
    }
}

impl<'de> Deserialize<'de> for OriginShares {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let by_zone = BTreeMap::<Zone, u32>::deserialize(deserializer)?;
        Ok(by_zone.into_iter().collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn zone(name: &str) -> Zone {
        Zone::from(name)
    }

    #[test]
    fn an_origin_without_a_share_is_as_one_that_is_not_named() {
        let names: Arc<[Zone]> = [zone("a"), zone("b"), zone("c")].into();
        let shares = OriginShares::new(names.clone(), vec![400_000, 0, 600_000]);
        let named: OriginShares = [(zone("c"), 600_000), (zone("a"), 400_000)].into_iter().collect();
        assert_eq!(shares, named);
        assert_ne!(shares, OriginShares::new(names, vec![600_000, 0, 400_000]));
        assert_eq!((shares.of(&zone("b")), shares.of(&zone("z"))), (0, 0));
        assert_eq!((shares.of(&zone("c")), shares.total_ppm()), (600_000, 1_000_000));
    }

    #[test]
    fn shares_are_written_as_a_map() {
        let shares: OriginShares = [(zone("a"), 1), (zone("b"), 0), (zone("c"), 2)]
            .into_iter()
            .collect();
        let json = serde_json::to_string(&shares).unwrap();
        assert_eq!(json, r#"{"a":1,"c":2}"#);
        assert_eq!(serde_json::from_str::<OriginShares>(&json).unwrap(), shares);
    }
}
