//! What is compared: the cells, and how long each takes.

use crate::load::Pace;
use crate::peer::Route;
use crate::workload::{Keys, Kind};

/// One workload at one pace.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Cell {
    /// The mix.
    pub kind: Kind,
    /// The keys' distribution.
    pub keys: Keys,
    /// When operations begin.
    pub pace: Pace,
}

/// All cells, by their dimensions, and the lengths of what is measured.
#[derive(Clone, Debug, PartialEq)]
pub struct Matrix {
    /// Mixes.
    pub kinds: Vec<Kind>,
    /// Distributions.
    pub keys: Vec<Keys>,
    /// Bytes of a value; clusters are made anew for each.
    pub value_bytes: Vec<usize>,
    /// Closed loops: clients of each.
    pub clients: Vec<usize>,
    /// Shards of godwit; clusters are made anew for each.
    pub shards: Vec<u32>,
    /// How godwit is reached.
    pub routes: Vec<Route>,
    /// Connections of which each contender gets its best number.
    pub connections: Vec<usize>,
    /// Keys.
    pub key_count: u64,
    /// Turns of each contender at each cell.
    pub rounds: u64,
    /// Seconds of a turn that are not measured, at first.
    pub warm_up_s: f64,
    /// Seconds of a turn that are.
    pub seconds: f64,
    /// Seconds for each attempt at finding the best number of connections.
    pub calibration_s: f64,
    /// Whether puts and gets are also measured at a fixed rate.
    pub open: bool,
}

impl Matrix {
    /// Everything: a few hours.
    pub fn full() -> Self {
        Self {
            kinds: vec![
                Kind::Put,
                Kind::Get,
                Kind::LeaseGet,
                Kind::Mix,
                Kind::Scan,
                Kind::Txn,
                Kind::Watch,
                Kind::Lease,
            ],
            keys: vec![Keys::Uniform, Keys::Zipfian],
            value_bytes: vec![256, 4096],
            clients: vec![1, 16, 64, 256, 1024],
            shards: vec![1, 16],
            routes: vec![Route::Stream, Route::Unary],
            connections: vec![1, 16, 64],
            key_count: 100_000,
            rounds: 3,
            warm_up_s: 1.0,
            seconds: 5.0,
            calibration_s: 2.0,
            open: true,
        }
    }

    /// What tells most, within five minutes.
    pub fn quick() -> Self {
        Self {
            kinds: vec![Kind::Put, Kind::Get, Kind::LeaseGet, Kind::Mix],
            keys: vec![Keys::Uniform],
            value_bytes: vec![256],
            clients: vec![1, 256],
            // As many as `init` makes when nothing is said.
            shards: vec![1],
            key_count: 20_000,
            rounds: 3,
            warm_up_s: 0.5,
            seconds: 2.0,
            calibration_s: 1.0,
            ..Self::full()
        }
    }

    /// The closed loops.
    pub fn cells(&self) -> Vec<Cell> {
        let mut cells = Vec::new();
        for kind in &self.kinds {
            for keys in &self.keys {
                for clients in &self.clients {
                    cells.push(Cell {
                        kind: *kind,
                        keys: *keys,
                        pace: Pace::Closed { clients: *clients },
                    });
                }
            }
        }
        cells
    }

    /// What is measured at a fixed rate.
    pub(super) fn open_loops(&self) -> Vec<Kind> {
        let kinds = [Kind::Put, Kind::Get].into_iter();
        kinds
            .filter(|kind| self.open && self.kinds.contains(kind))
            .collect()
    }

    /// Connections worth trying for so many clients: no more of them than clients.
    pub(super) fn connections_for(&self, clients: usize) -> Vec<usize> {
        let few = self.connections.iter().copied().filter(|count| *count <= clients);
        let few: Vec<usize> = few.collect();
        match few.is_empty() {
            true => vec![clients.max(1)],
            false => few,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_combination_is_a_cell() {
        let matrix = Matrix::full();
        assert_eq!(matrix.cells().len(), 8 * 2 * 5);
        assert_eq!(matrix.open_loops(), vec![Kind::Put, Kind::Get]);
        assert_eq!(matrix.connections_for(1), vec![1]);
        assert_eq!(matrix.connections_for(16), vec![1, 16]);
    }
}
