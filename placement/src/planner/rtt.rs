//! Round-trip times between zones, in whole microseconds.
//!
//! The matrix need not be symmetric and need not be full: a pair that was never measured counts as far as the farthest
//! pair that was, so the planner never bets on a distance nobody knows. Two places in one zone that was not measured
//! against itself are next to each other (0).

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::ids::Zone;

/// Round-trip times between zones, in microseconds.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct RttMatrix {
    micros: BTreeMap<Zone, BTreeMap<Zone, u32>>,
}

impl RttMatrix {
    /// Records the round trip of a message sent from `from` to `to` and answered, in microseconds.
    pub fn insert(&mut self, from: Zone, to: Zone, micros: u32) {
        self.micros.entry(from).or_default().insert(to, micros);
    }

    /// Records the same round trip for both directions, in microseconds.
    pub fn insert_both(&mut self, one: Zone, other: Zone, micros: u32) {
        self.insert(one.clone(), other.clone(), micros);
        self.insert(other, one, micros);
    }

    /// The round trip between two zones in microseconds; the largest known one where this pair was not measured.
    pub fn micros(&self, from: &Zone, to: &Zone) -> u32 {
        let measured = self.micros.get(from).and_then(|row| row.get(to));
        measured
            .copied()
            .unwrap_or_else(|| if from == to { 0 } else { self.micros_max() })
    }

    /// The largest round trip recorded, in microseconds; 0 for an empty matrix.
    pub fn micros_max(&self) -> u32 {
        self.micros
            .values()
            .flat_map(BTreeMap::values)
            .copied()
            .max()
            .unwrap_or(0)
    }

    /// Every zone that a round trip was recorded from.
    pub fn zones(&self) -> impl Iterator<Item = &Zone> {
        self.micros.keys()
    }
}

impl FromIterator<(Zone, Zone, u32)> for RttMatrix {
    fn from_iter<I: IntoIterator<Item = (Zone, Zone, u32)>>(pairs: I) -> Self {
        let mut matrix = Self::default();
        for (from, to, micros) in pairs {
            matrix.insert(from, to, micros);
        }
        matrix
    }
}
