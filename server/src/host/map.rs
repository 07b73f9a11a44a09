//! The shard map as a host knows it: every range, its epoch, its home and its voters, and every host's address.
//!
//! A host with a placement replica derives it from the applied state; any other follows a placement replica's stream.
//! It is a hint: a stale map costs a redirect, never a wrong answer, since a shard's own group decides who leads and
//! its own machine checks the range.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use client::proto::{HostAddress, ShardMapReply, ShardRoute};
use placement::{HostId, Placement, ReplicaId, ShardId};
use prost::Message;

use super::channels::ControlError;
use super::state::{Host, HostFailure};
use crate::control::{MapUpdate, PlacementMember, WatchMapRequest};
use crate::machine::PlacementMachine;

/// A placement replica that says nothing for this long is given up.
const WATCH_TIMEOUT: Duration = Duration::from_secs(5);

/// A host in the map.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MapHost {
    /// Where it is reached.
    pub address: String,
    /// Its zone.
    pub zone: String,
    /// Its region.
    pub region: String,
}

/// One version of the map.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct ShardMap {
    /// Grows with every change.
    pub version: u64,
    /// The cluster.
    pub cluster_id: String,
    /// In key order.
    pub shards: Vec<ShardRoute>,
    /// Every host that was not removed.
    pub hosts: BTreeMap<HostId, MapHost>,
    /// The voters and learners of the placement group.
    pub placement: BTreeMap<ReplicaId, HostId>,
    /// Hosts that were decommissioned and have left for good.
    pub decommissioned: BTreeSet<HostId>,
}

impl ShardMap {
    /// The map that the placement state describes.
    pub fn of(placement: &Placement) -> Self {
        let (gone, hosts): (Vec<_>, Vec<_>) = placement
            .hosts()
            .values()
            .partition(|host| host.state == placement::HostState::Removed);
        let group = placement.shard(ShardId::PLACEMENT);
        Self {
            version: placement.version(),
            cluster_id: placement.cluster_id().unwrap_or_default().to_owned(),
            shards: placement.data_shards().map(route).collect(),
            decommissioned: gone.into_iter().map(|host| host.id).collect(),
            hosts: hosts
                .into_iter()
                .map(|host| {
                    let known = MapHost {
                        address: host.address.clone(),
                        zone: host.zone.0.clone(),
                        region: host.region.0.clone(),
                    };
                    (host.id, known)
                })
                .collect(),
            placement: group
                .map(|shard| {
                    shard
                        .replicas
                        .iter()
                        .map(|(id, replica)| (*id, replica.host))
                        .collect()
                })
                .unwrap_or_default(),
        }
        .in_key_order()
    }

    fn in_key_order(mut self) -> Self {
        self.shards.sort_by(|a, b| a.start.cmp(&b.start));
        self
    }

    /// The shard that holds a key.
    pub fn shard_of(&self, key: &[u8]) -> Option<&ShardRoute> {
        let after = self.shards.partition_point(|route| route.start <= key);
        self.shards.get(after.checked_sub(1)?)
    }

    /// A shard's route.
    pub fn route(&self, shard: ShardId) -> Option<&ShardRoute> {
        self.shards.iter().find(|route| route.shard_id == shard.0)
    }

    /// Whether a majority of a shard's voters is in the region of `host`.
    pub(crate) fn has_quorum_near(&self, shard: ShardId, host: HostId) -> bool {
        let (Some(route), Some(here)) = (self.route(shard), self.hosts.get(&host)) else {
            return false;
        };
        let near = route.hosts.iter().filter(|voter| {
            let voter = self.hosts.get(&HostId(**voter));
            voter.is_some_and(|voter| voter.region == here.region)
        });
        near.count() * 2 > route.hosts.len()
    }

    /// A host as clients are told of it.
    pub fn address(&self, host: HostId) -> Option<HostAddress> {
        let known = self.hosts.get(&host)?;
        Some(HostAddress {
            host_id: host.0,
            address: known.address.clone(),
            zone: known.zone.clone(),
            region: known.region.clone(),
        })
    }

    /// The map as clients get it; empty but for its version when they have it already.
    pub fn reply(&self, known_version: u64) -> ShardMapReply {
        let mut reply = ShardMapReply {
            cluster_id: self.cluster_id.clone(),
            version: self.version,
            ..ShardMapReply::default()
        };
        if known_version != self.version {
            reply.shards = self.shards.clone();
            reply.hosts = self.hosts.keys().filter_map(|host| self.address(*host)).collect();
        }
        reply
    }

    /// The map as other hosts get it.
    pub fn update(&self) -> MapUpdate {
        let member = |(replica, host): (&ReplicaId, &HostId)| PlacementMember {
            replica_id: replica.0,
            host_id: host.0,
        };
        MapUpdate {
            map: self.reply(u64::MAX).encode_to_vec().into(),
            placement: self.placement.iter().map(member).collect(),
            decommissioned: self.decommissioned.iter().map(|host| host.0).collect(),
        }
    }

    /// Reads an update.
    pub fn from_update(update: MapUpdate) -> Result<Self, prost::DecodeError> {
        let map = ShardMapReply::decode(update.map)?;
        let host = |host: HostAddress| {
            (
                HostId(host.host_id),
                MapHost {
                    address: host.address,
                    zone: host.zone,
                    region: host.region,
                },
            )
        };
        Ok(Self {
            version: map.version,
            cluster_id: map.cluster_id,
            shards: map.shards,
            hosts: map.hosts.into_iter().map(host).collect(),
            placement: update
                .placement
                .into_iter()
                .map(|member| (ReplicaId(member.replica_id), HostId(member.host_id)))
                .collect(),
            decommissioned: update.decommissioned.into_iter().map(HostId).collect(),
        }
        .in_key_order())
    }
}

fn route(shard: &placement::Shard) -> ShardRoute {
    ShardRoute {
        shard_id: shard.id.0,
        start: Bytes::copy_from_slice(&shard.range.start),
        end: shard
            .range
            .end
            .as_deref()
            .map(Bytes::copy_from_slice)
            .unwrap_or_default(),
        r#gen: shard.epoch.generation,
        conf_ver: shard.epoch.conf_ver,
        home: shard.home_host().map_or(0, |host| host.0),
        hosts: shard.voters().map(|(_, host)| host.0).collect(),
    }
}

/// Pause before another placement replica is asked for the map.
const FOLLOW_PAUSE: Duration = Duration::from_millis(200);

impl ShardMap {
    /// Reads a map that [`encode`](Self::encode) wrote; `None` if it is not one.
    pub fn decode(encoded: &[u8]) -> Option<Self> {
        let update = MapUpdate::decode(encoded).ok()?;
        Self::from_update(update).ok()
    }

    /// The map as bytes.
    pub fn encode(&self) -> Vec<u8> {
        self.update().encode_to_vec()
    }

    fn same_peers(&self, other: &Self) -> bool {
        self.hosts == other.hosts
            && self.placement == other.placement
            && self.decommissioned == other.decommissioned
    }
}

impl Host {
    /// Takes a newer map; an older one is ignored. A map that says that this host was decommissioned ends it.
    pub(crate) fn set_map(&self, map: ShardMap) {
        let known = self.map();
        if map.version < known.version {
            return;
        }
        if let Some(raft) = self.raft() {
            for (host, at) in &map.hosts {
                raft.set_address(*host, at.address.clone());
            }
        }
        self.forget_gone(&known, &map);
        if !map.same_peers(&known)
            && let Err(e) = self.shared.folder.write_peers(&map.encode())
        {
            tracing::warn!(error = %e, "the shard map was not saved");
        }
        let is_member = !map.decommissioned.contains(&self.id());
        self.shared.map.send_replace(Arc::new(map));
        if !is_member {
            self.fail(HostFailure::Decommissioned(self.id()));
        }
    }

    /// Forgets where the hosts are that have left for good. Their addresses may be others' by now.
    fn forget_gone(&self, known: &ShardMap, map: &ShardMap) {
        let gone = known
            .hosts
            .iter()
            .filter(|(host, _)| map.decommissioned.contains(host));
        for (host, at) in gone {
            if let Some(raft) = self.raft() {
                raft.forget_address(*host);
            }
            if map.hosts.values().all(|other| other.address != at.address) {
                self.channels().forget(&at.address);
            }
        }
    }

    /// Keeps the map up to date for as long as the host runs.
    pub(crate) async fn follow_map(self) {
        loop {
            match self.placement() {
                Some(local) => self.derive_map(&local.machine).await,
                None => self.stream_map().await,
            }
            tokio::time::sleep(FOLLOW_PAUSE).await;
        }
    }

    /// Follows this host's own placement replica, until it is gone.
    async fn derive_map(&self, machine: &PlacementMachine) {
        let mut changes = machine.changes();
        loop {
            changes.borrow_and_update();
            let version = machine.state().version();
            if version > self.map().version {
                let map = ShardMap::of(&machine.state());
                self.set_map(map);
            }
            let gone = async {
                while self.placement().is_some() {
                    tokio::time::sleep(FOLLOW_PAUSE).await;
                }
            };
            tokio::select! {
                changed = changes.changed() => if changed.is_err() { return },
                () = gone => return,
            }
        }
    }

    /// Follows another host's placement replica, until the stream ends or this host gets a replica of its own.
    async fn stream_map(&self) {
        let map = self.map();
        let mut addresses: Vec<String> = map
            .placement
            .values()
            .filter_map(|host| map.hosts.get(host).map(|at| at.address.clone()))
            .collect();
        addresses.extend(self.config().join.iter().cloned());
        for address in addresses {
            if let Err(e) = self.stream_map_from(&address).await {
                tracing::debug!(address, error = %e, "no shard map from there");
            }
            if self.placement().is_some() {
                return;
            }
        }
    }

    async fn stream_map_from(&self, address: &str) -> Result<(), ControlError> {
        let failed = |reason: String| ControlError::Failed {
            address: address.to_owned(),
            reason,
        };
        let mut control = self.channels().control(address)?;
        let request = WatchMapRequest {
            cluster_id: self.cluster_id().unwrap_or_default(),
            known_version: self.map().version,
        };
        let watching = tokio::time::timeout(WATCH_TIMEOUT, control.watch_map(request)).await;
        let watching = watching.map_err(|_| failed("no answer".into()))?;
        let mut updates = watching
            .map_err(|status| failed(status.message().to_owned()))?
            .into_inner();
        while self.placement().is_none() {
            // Updates come at least every few seconds, changed or not, so a silent peer is noticed.
            let update = tokio::time::timeout(WATCH_TIMEOUT, updates.message()).await;
            let update = update.map_err(|_| failed("silent".into()))?;
            match update.map_err(|status| failed(status.message().to_owned()))? {
                Some(update) => match ShardMap::from_update(update) {
                    Ok(map) => self.set_map(map),
                    Err(e) => return Err(failed(e.to_string())),
                },
                None => return Ok(()),
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn map() -> ShardMap {
        let route = |shard_id, start: &'static str, end: &'static str| ShardRoute {
            shard_id,
            start: Bytes::from_static(start.as_bytes()),
            end: Bytes::from_static(end.as_bytes()),
            ..ShardRoute::default()
        };
        let host = MapHost {
            address: "a:1".into(),
            zone: "z".into(),
            region: "r".into(),
        };
        ShardMap {
            version: 3,
            cluster_id: "c".into(),
            shards: vec![route(2, "", "m"), route(1, "m", "")],
            hosts: BTreeMap::from([(HostId(1), host)]),
            placement: BTreeMap::from([(ReplicaId(1), HostId(1))]),
            decommissioned: BTreeSet::from([HostId(2)]),
        }
    }

    #[test]
    fn a_key_is_found_at_both_sides_of_a_boundary() {
        let shard = |key: &[u8]| map().shard_of(key).map(|route| route.shard_id);
        assert_eq!(
            (shard(b""), shard(b"lz"), shard(b"m"), shard(b"z")),
            (Some(2), Some(2), Some(1), Some(1))
        );
        assert_eq!(ShardMap::default().shard_of(b"a"), None);
    }

    #[test]
    fn a_quorum_is_near_where_most_voters_share_the_region() {
        let host = |region: &str| MapHost {
            address: "a:1".into(),
            zone: "z".into(),
            region: region.into(),
        };
        let near = |regions: &[&str], voters: &[u64]| {
            let hosts = (1..).map(HostId).zip(regions.iter().map(|region| host(region)));
            let route = ShardRoute {
                shard_id: 1,
                hosts: voters.to_vec(),
                ..ShardRoute::default()
            };
            let map = ShardMap {
                hosts: hosts.collect(),
                shards: vec![route],
                ..map()
            };
            map.has_quorum_near(ShardId(1), HostId(1))
        };
        assert!(near(&["r", "r", "s"], &[1, 2, 3]));
        assert!(!near(&["r", "s", "s"], &[1, 2, 3]));
        assert!(!near(&["r", "r", "s", "s"], &[1, 2, 3, 4]), "half is no majority");
        assert!(!near(&["r"], &[7, 8, 9]), "of unknown hosts nothing is known");
        assert!(!map().has_quorum_near(ShardId(9), HostId(1)));
    }

    #[test]
    fn an_update_reads_back() {
        assert_eq!(ShardMap::from_update(map().update()).unwrap(), map());
    }

    #[test]
    fn a_client_that_is_up_to_date_gets_the_version_alone() {
        assert!(map().reply(3).shards.is_empty());
        assert_eq!(map().reply(2).shards.len(), 2);
    }
}
