//! How hosts reach each other: one long-lived stream to each peer for all groups, snapshots on their own.
//!
//! `link` is the outgoing side, `service` the incoming one, `network` what openraft sees, `snapshot` the transfer
//! of a whole state, `catch_up` how fast the log behind it follows. A message lost with its connection is reported to the caller at once, never waited for.

mod catch_up;
mod growth;
mod link;
mod network;
mod pipeline;
mod service;
mod snapshot;

use std::collections::BTreeMap;
use std::sync::{Arc, RwLock};

pub(crate) use link::{CallError, Link};
pub(crate) use network::NetworkFactory;
pub use service::PeerService;

use crate::env::Env;
use crate::host::HostIdentity;
use crate::proto;

/// The version of the peer protocol; hosts of another version are refused.
pub(crate) const PROTOCOL: u32 = 1;
/// The largest frame a peer accepts: one append of the largest entries fits with room to spare.
pub(crate) const FRAME_BYTES_MAX: usize = 64 << 20;

/// Every peer's address and link.
#[derive(Clone)]
pub(crate) struct Peers {
    shared: Arc<PeersShared>,
}

struct PeersShared {
    identity: HostIdentity,
    env: Env,
    addresses: RwLock<BTreeMap<u64, String>>,
    links: RwLock<BTreeMap<u64, Link>>,
}

impl Peers {
    pub(crate) fn new(identity: HostIdentity, env: Env) -> Self {
        let shared = PeersShared {
            identity,
            env,
            addresses: RwLock::default(),
            links: RwLock::default(),
        };
        Self {
            shared: Arc::new(shared),
        }
    }

    pub(crate) fn env(&self) -> &Env {
        &self.shared.env
    }

    pub(crate) fn set_address(&self, host: u64, address: String) {
        self.shared
            .addresses
            .write()
            .expect("no panic under this lock")
            .insert(host, address);
    }

    pub(crate) fn forget_address(&self, host: u64) {
        let mut addresses = self.shared.addresses.write().expect("no panic under this lock");
        addresses.remove(&host);
        drop(addresses);
        let mut links = self.shared.links.write().expect("no panic under this lock");
        links.remove(&host);
    }

    pub(crate) fn address(&self, host: u64) -> Option<String> {
        self.shared
            .addresses
            .read()
            .expect("no panic under this lock")
            .get(&host)
            .cloned()
    }

    /// The link to a host; opened at its first use.
    pub(crate) fn link(&self, host: u64) -> Link {
        if let Some(link) = self
            .shared
            .links
            .read()
            .expect("no panic under this lock")
            .get(&host)
        {
            return link.clone();
        }
        let mut links = self.shared.links.write().expect("no panic under this lock");
        links
            .entry(host)
            .or_insert_with(|| Link::open(self.clone(), host))
            .clone()
    }

    /// Ends every link; later calls fail.
    pub(crate) fn close(&self) {
        self.shared
            .links
            .write()
            .expect("no panic under this lock")
            .clear();
    }

    fn hello(&self, to_host: u64) -> proto::Hello {
        proto::Hello {
            cluster_id: self.shared.identity.cluster_id.clone(),
            from_host: self.shared.identity.host,
            to_host,
            protocol: PROTOCOL,
        }
    }
}
