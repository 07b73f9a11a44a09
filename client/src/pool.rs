//! The streams to all hosts, opened when they are first needed and replaced when they broke.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex},
};

use crate::{link::Link, setback::Setback, shared::Shared};

/// The client's streams, by the host's address.
pub(crate) struct Pool {
    shared: Arc<Shared>,
    hosts: Mutex<BTreeMap<Arc<str>, HostLinks>>,
}

/// The streams to one host, used in turn.
struct HostLinks {
    links: Vec<Option<Arc<Link>>>,
    turn: usize,
}

impl Pool {
    pub(crate) fn new(shared: Arc<Shared>) -> Self {
        Self {
            shared,
            hosts: Mutex::default(),
        }
    }

    /// A stream to `address`. Does not wait: one that is only being opened takes requests already.
    pub(crate) fn link(&self, address: &str) -> Result<Arc<Link>, Setback> {
        let mut hosts = self.hosts.lock().expect("no holder of the pool's map panics");
        if !hosts.contains_key(address) {
            hosts.insert(
                Arc::from(address),
                HostLinks::new(self.shared.config.limits.connections_per_host),
            );
        }
        let host = hosts.get_mut(address).expect("inserted above");
        host.next(|| Link::open(&self.shared, address))
    }
}

impl HostLinks {
    fn new(connections: usize) -> Self {
        Self {
            links: vec![None; connections.max(1)],
            turn: 0,
        }
    }

    fn next(&mut self, open: impl FnOnce() -> Result<Arc<Link>, Setback>) -> Result<Arc<Link>, Setback> {
        self.turn = (self.turn + 1) % self.links.len();
        let slot = &mut self.links[self.turn];
        if let Some(link) = slot {
            if !link.is_closed() {
                return Ok(Arc::clone(link));
            }
            link.stop();
        }
        Ok(Arc::clone(slot.insert(open()?)))
    }
}

impl Drop for Pool {
    /// The streams' tasks hold their own streams; without this they would outlive the client.
    fn drop(&mut self) {
        let hosts = self.hosts.get_mut().expect("no holder of the pool's map panics");
        for link in hosts.values().flat_map(|host| host.links.iter().flatten()) {
            link.stop();
        }
    }
}
