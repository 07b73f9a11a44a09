//! What the cluster says of itself: hosts, shards, who controls.

use std::collections::BTreeMap;

use client::proto::{HostStatus, ShardStatus};

/// The cluster as one host sees it; that host may be behind.
#[derive(Clone, Debug)]
pub struct Layout {
    /// Hosts by id. Two may have one address: one that lost its disk, and what joined in its place.
    pub hosts: Vec<HostStatus>,
    /// The shards that hold keys.
    pub shards: Vec<ShardStatus>,
    /// The placement group.
    pub placement: ShardStatus,
    /// The id of the host that leads it; 0: not known.
    pub controller: u64,
    pub(super) numbers: BTreeMap<String, usize>,
}

impl Layout {
    /// The number of the host with this id; `None` for one that is no more.
    pub fn number_of(&self, id: u64) -> Option<usize> {
        let host = self.hosts.iter().find(|host| host.host_id == id)?;
        let number = *self.numbers.get(&host.address)?;
        (self.id_of(number) == Some(id)).then_some(number)
    }

    /// The id under which host `number` takes part: the newest of its address.
    pub fn id_of(&self, number: usize) -> Option<u64> {
        let ours = self
            .hosts
            .iter()
            .filter(|host| self.numbers.get(&host.address) == Some(&number));
        ours.map(|host| host.host_id).max()
    }

    /// The ids of hosts that take replicas.
    pub fn up(&self) -> impl Iterator<Item = u64> + '_ {
        self.hosts
            .iter()
            .filter(|host| host.state == "up")
            .map(|host| host.host_id)
    }

    /// All groups, the placement group first.
    pub fn groups(&self) -> impl Iterator<Item = &ShardStatus> {
        std::iter::once(&self.placement).chain(&self.shards)
    }
}

/// Whether the group has a replica on the host with this id.
pub(crate) fn has_replica(shard: &ShardStatus, host: u64) -> bool {
    shard.replicas.iter().any(|replica| replica.host_id == host)
}
