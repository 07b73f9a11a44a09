//! Whose orders this host obeys.
//!
//! Controllers are numbered by the placement log. A host remembers the highest number it obeyed, durably and before it
//! acts, and refuses lower ones: a controller that lost its place cannot undo what its successor ordered.

use super::folder::FolderError;
use super::state::Host;
use crate::control::Order;

/// Why an order is not carried out.
#[derive(Debug, thiserror::Error)]
pub(crate) enum OrderRefusal {
    #[error("this host belongs to another cluster")]
    OtherCluster,
    #[error("this is host {here}, not host {meant}")]
    OtherHost { here: u64, meant: u64 },
    #[error("controller term {given} is older than {seen}")]
    OldController { given: u64, seen: u64 },
    #[error("the order names no controller")]
    Unsigned,
    #[error(transparent)]
    Folder(#[from] FolderError),
}

impl Host {
    /// Admits an order, and remembers its controller.
    pub(crate) fn admit(&self, order: Option<&Order>) -> Result<u64, OrderRefusal> {
        let order = order.ok_or(OrderRefusal::Unsigned)?;
        if self.cluster_id().as_deref() != Some(order.cluster_id.as_str()) {
            return Err(OrderRefusal::OtherCluster);
        }
        if order.to_host != self.id().0 {
            return Err(OrderRefusal::OtherHost {
                here: self.id().0,
                meant: order.to_host,
            });
        }
        let mut orders = self.shared.orders.lock().expect("no panic under this lock");
        if order.controller_term < orders.controller_term {
            return Err(OrderRefusal::OldController {
                given: order.controller_term,
                seen: orders.controller_term,
            });
        }
        if order.controller_term > orders.controller_term {
            let mut changed = orders.clone();
            changed.controller_term = order.controller_term;
            self.shared.folder.write_orders(&changed)?;
            *orders = changed;
        }
        Ok(order.controller_term)
    }
}
