//! A peer, reached in one way, with its best connections.

use std::collections::BTreeMap;

use anyhow::Context;

use super::Cell;
use crate::load::Pace;
use crate::peer::{Access, Peer, Route};
use crate::workload::Kind;

/// Workloads for which the best connections are looked for; the others take those of the one that is most like them.
pub(super) const CALIBRATED: [Kind; 2] = [Kind::Put, Kind::Get];

pub(super) struct Contender {
    pub(super) peer: Box<dyn Peer>,
    pub(super) route: Route,
    pub(super) is_peer: bool,
    /// By whether they serve puts, and whether they serve one client.
    best: BTreeMap<(bool, bool), Access>,
}

impl Contender {
    pub(super) fn own(route: Route, peer: Box<dyn Peer>) -> Self {
        Self {
            peer,
            route,
            is_peer: false,
            best: BTreeMap::new(),
        }
    }

    pub(super) fn peer(peer: Box<dyn Peer>) -> Self {
        Self {
            peer,
            route: Route::Etcd,
            is_peer: true,
            best: BTreeMap::new(),
        }
    }

    pub(super) fn name(&self) -> &'static str {
        self.peer.name()
    }

    /// Whether it has such a workload: a unary call cannot watch.
    pub(super) fn serves(&self, kind: Kind) -> bool {
        (self.route, kind) != (Route::Unary, Kind::Watch)
    }

    /// Takes the way in which most operations were done.
    pub(super) fn settle(&mut self, kind: Kind, clients: usize, tried: Vec<(u64, Access)>) {
        let best = tried.into_iter().max_by_key(|(operations, _)| *operations);
        if let Some((_, access)) = best {
            self.best.insert((writes(kind), clients == 1), access);
        }
    }

    /// How its clients connect for a cell.
    pub(super) fn access(&self, cell: &Cell) -> anyhow::Result<Access> {
        let alone = matches!(cell.pace, Pace::Closed { clients: 1 });
        let best = self.best.get(&(writes(cell.kind), alone));
        let mut access = best.context("a contender that was not calibrated")?.clone();
        if let Pace::Closed { clients } = cell.pace {
            access.connections = access.connections.min(clients);
        }
        Ok(access)
    }

    pub(super) fn connections(&self, cell: &Cell) -> usize {
        self.access(cell).map_or(0, |access| access.connections)
    }
}

fn writes(kind: Kind) -> bool {
    match kind {
        Kind::Put | Kind::Mix | Kind::Txn | Kind::Watch | Kind::Lease => true,
        Kind::Get | Kind::LeaseGet | Kind::Scan => false,
    }
}
