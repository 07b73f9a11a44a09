//! One policy's homes and its account.

use super::arena::Arena;
use super::ground::Cell;
use super::ledger::Ledger;
use super::prices::Prices;
use super::tournament::Standing;

/// Where a policy's homes are, and where they will be when what was decided has happened.
pub(crate) struct Homes {
    pub now: Vec<usize>,
    pub next: Vec<usize>,
}

/// One policy's homes and its account.
pub(crate) struct Seat {
    pub homes: Homes,
    pub regrets: Vec<f32>,
    /// What room costs it, by what its homes have served.
    pub prices: Prices,
    /// What its homes have served in the window, by host.
    pub served: Vec<u64>,
    pub ledger: Ledger,
    pub apart: Ledger,
    trial: Ledger,
    origins: usize,
}

impl Seat {
    pub(crate) fn new(shards: usize, origins: usize) -> Self {
        Self {
            homes: Homes {
                now: vec![0; shards],
                next: vec![0; shards],
            },
            regrets: vec![0.0; shards],
            prices: Prices::new(origins, None),
            served: vec![0; origins],
            ledger: Ledger::new(origins),
            apart: Ledger::new(origins),
            trial: Ledger::new(origins),
            origins,
        }
    }

    /// Begins from these homes; what was done until now was the trial.
    pub(crate) fn begin(&mut self, homes: &[usize]) {
        self.trial = std::mem::replace(&mut self.ledger, Ledger::new(self.origins));
        self.apart = Ledger::new(self.origins);
        self.homes.now.copy_from_slice(homes);
        self.homes.next.copy_from_slice(homes);
        self.regrets.fill(0.0);
    }

    /// Serves a cell at its shard's home.
    pub(crate) fn serve(&mut self, cell: &Cell, arena: &Arena, rtt_micros: &[Vec<u64>]) {
        let home = self.homes.now[cell.shard];
        self.served[home] += cell.total();
        serve_cell(&mut self.ledger, cell, home, arena, rtt_micros);
    }

    /// Serves a cell that is also counted apart.
    pub(crate) fn serve_apart(&mut self, cell: &Cell, arena: &Arena, rtt_micros: &[Vec<u64>]) {
        let home = self.homes.now[cell.shard];
        serve_cell(&mut self.apart, cell, home, arena, rtt_micros);
    }

    /// A window is over: what was decided happens, and room costs what the window taught.
    pub(crate) fn end_window(&mut self, arena: &Arena) {
        self.prices.follow(&self.served, arena.mean_accesses());
        self.served.fill(0);
        self.homes.now.copy_from_slice(&self.homes.next);
    }

    pub(crate) fn standing(self) -> Standing {
        Standing {
            trial: self.trial,
            scored: self.ledger,
            apart: self.apart,
        }
    }
}

fn serve_cell(ledger: &mut Ledger, cell: &Cell, home: usize, arena: &Arena, rtt_micros: &[Vec<u64>]) {
    ledger.serve(&cell.accesses, home);
    ledger.quorum_micros += cell.total() * arena.quorum_micros(cell.shard, home, rtt_micros);
}
