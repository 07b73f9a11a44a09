//! The shard map as this client knows it: which key range is which shard, and where that shard is led.
//!
//! The map may be out of date at any moment; nothing depends on its being right. A host that is asked for a shard it
//! does not lead, or by an old range version, refuses and says so, and the client corrects the one home it was told
//! of ([`Routes::correct_home`]) or fetches the whole map anew. Maps only ever go forward in version.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use bytes::Bytes;
use thiserror::Error;
use tokio::sync::watch;

use crate::proto::{HostAddress, ShardMapReply, ShardRoute};

/// The current map; replaced as a whole.
pub(crate) struct Routes {
    /// The zone nearest to this client.
    zone: String,
    current: watch::Sender<Arc<RoutingTable>>,
}

/// One version of the map.
#[derive(Debug, Clone, Default)]
pub(crate) struct RoutingTable {
    /// The cluster's version of the map.
    pub(crate) version: u64,
    /// Counts the answers this client has had: tells an operation whether somebody else has refreshed the map since
    /// it last looked.
    pub(crate) fetched: u64,
    /// In key order, covering all keys. Empty only before the first answer.
    shards: Vec<Arc<Shard>>,
    /// All hosts' addresses, in the order of their ids.
    pub(crate) hosts: Vec<Arc<str>>,
}

/// A shard's range and whereabouts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Shard {
    pub(crate) id: u64,
    pub(crate) start: Bytes,
    /// Empty: to the end of the key space.
    pub(crate) end: Bytes,
    /// The range version.
    pub(crate) generation: u64,
    /// The address of the host that leads it, if known.
    pub(crate) home: Option<Arc<str>>,
    /// The addresses of the hosts with a voting replica.
    pub(crate) replicas: Vec<Arc<str>>,
    /// The first of them that lies in the client's zone.
    pub(crate) near: Option<Arc<str>>,
}

/// A shard map that contradicts itself.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub(crate) enum MapError {
    #[error("the cluster has no shards yet")]
    Empty,
    #[error("the shard map does not cover the keys at shard {shard_id}")]
    Gap { shard_id: u64 },
}

impl Routes {
    /// No map yet, for a client in `zone`; empty: it does not say.
    pub(crate) fn new(zone: &str) -> Self {
        Self {
            zone: zone.to_owned(),
            current: watch::Sender::new(Arc::default()),
        }
    }

    pub(crate) fn table(&self) -> Arc<RoutingTable> {
        Arc::clone(&self.current.borrow())
    }

    /// The shard of `key`, and how many answers the map rests on. Only after the first answer.
    pub(crate) fn shard_of(&self, key: &[u8]) -> (Arc<Shard>, u64) {
        let table = self.current.borrow();
        (Arc::clone(table.shard_of(key)), table.fetched)
    }

    /// Takes over a map. An older one than the current counts as an answer, and changes nothing else.
    pub(crate) fn install(&self, reply: ShardMapReply) -> Result<(), MapError> {
        let fetched = RoutingTable::parse(reply, &self.zone)?;
        self.current.send_modify(|current| {
            let count = current.fetched + 1;
            let newer = if fetched.version >= current.version {
                fetched
            } else {
                (**current).clone()
            };
            *current = Arc::new(RoutingTable {
                fetched: count,
                ..newer
            });
        });
        Ok(())
    }

    /// Notes that shard `shard_id` is led at `address`, unless its range has changed since the route was looked up.
    pub(crate) fn correct_home(&self, shard_id: u64, range_version: u64, address: &str) {
        self.current.send_if_modified(|current| {
            let found = current
                .shards
                .iter()
                .position(|shard| shard.id == shard_id && shard.generation == range_version);
            let Some(index) = found else { return false };
            if current.shards[index].home.as_deref() == Some(address) {
                return false;
            }
            let table = Arc::make_mut(current);
            Arc::make_mut(&mut table.shards[index]).home = Some(Arc::from(address));
            true
        });
    }
}

impl RoutingTable {
    /// Checks that the shards cover all keys once, in order: everything after relies on it.
    fn parse(reply: ShardMapReply, zone: &str) -> Result<Self, MapError> {
        let hosts: BTreeMap<u64, Arc<str>> = reply
            .hosts
            .iter()
            .map(|host| (host.host_id, Arc::from(host.address.as_str())))
            .collect();
        let in_zone = |host: &&HostAddress| host.zone == zone && !zone.is_empty();
        let near: BTreeSet<u64> = reply
            .hosts
            .iter()
            .filter(in_zone)
            .map(|host| host.host_id)
            .collect();
        let mut next = Some(Bytes::new());
        let mut shards = Vec::with_capacity(reply.shards.len());
        for route in reply.shards {
            if next.as_ref() != Some(&route.start) || route.end == route.start && !route.end.is_empty() {
                return Err(MapError::Gap {
                    shard_id: route.shard_id,
                });
            }
            next = Some(route.end.clone()).filter(|end| !end.is_empty());
            shards.push(Arc::new(Shard::locate(route, &hosts, &near)));
        }
        match (shards.last(), next) {
            (None, _) => Err(MapError::Empty),
            (Some(last), Some(_)) => Err(MapError::Gap { shard_id: last.id }),
            (Some(_), None) => Ok(Self {
                version: reply.version,
                fetched: 0,
                shards,
                hosts: hosts.into_values().collect(),
            }),
        }
    }

    pub(crate) fn shard_of(&self, key: &[u8]) -> &Arc<Shard> {
        let after = self.shards.partition_point(|shard| *shard.start <= *key);
        assert!(
            after > 0,
            "a map is installed before the first operation, and starts at the empty key"
        );
        &self.shards[after - 1]
    }

    pub(crate) fn has_shard(&self, id: u64) -> bool {
        self.shards.iter().any(|shard| shard.id == id)
    }
}

impl Shard {
    fn locate(route: ShardRoute, hosts: &BTreeMap<u64, Arc<str>>, near: &BTreeSet<u64>) -> Self {
        let near = route.hosts.iter().find(|id| near.contains(id));
        Self {
            near: near.and_then(|id| hosts.get(id).cloned()),
            id: route.shard_id,
            start: route.start,
            end: route.end,
            generation: route.r#gen,
            home: hosts.get(&route.home).cloned(),
            replicas: route
                .hosts
                .iter()
                .filter_map(|id| hosts.get(id).cloned())
                .collect(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn route(shard_id: u64, start: &'static str, end: &'static str, home: u64) -> ShardRoute {
        ShardRoute {
            shard_id,
            start: start.into(),
            end: end.into(),
            r#gen: 1,
            home,
            hosts: vec![1, 2],
            ..ShardRoute::default()
        }
    }

    fn map(version: u64, shards: Vec<ShardRoute>) -> ShardMapReply {
        let host = |host_id| HostAddress {
            host_id,
            address: format!("host{host_id}:1"),
            zone: format!("z{host_id}"),
            ..HostAddress::default()
        };
        ShardMapReply {
            cluster_id: "c".into(),
            version,
            shards,
            hosts: vec![host(1), host(2)],
        }
    }

    fn home_of(routes: &Routes, key: &str) -> Option<String> {
        routes
            .shard_of(key.as_bytes())
            .0
            .home
            .as_ref()
            .map(ToString::to_string)
    }

    #[test]
    fn keys_fall_into_the_shard_whose_range_holds_them() {
        let routes = Routes::new("z2");
        routes
            .install(map(
                1,
                vec![route(1, "", "g", 1), route(2, "g", "p", 2), route(3, "p", "", 1)],
            ))
            .unwrap();
        for (key, shard) in [
            ("", 1),
            ("a", 1),
            ("fzz", 1),
            ("g", 2),
            ("oz", 2),
            ("p", 3),
            ("zz", 3),
        ] {
            assert_eq!(routes.shard_of(key.as_bytes()).0.id, shard, "key {key:?}");
        }
    }

    #[test]
    fn the_replica_of_the_clients_zone_is_near() {
        let lone = ShardRoute {
            hosts: vec![1],
            ..route(2, "g", "", 1)
        };
        let shards = vec![route(1, "", "g", 1), lone];
        for (zone, near) in [("z2", Some("host2:1")), ("z9", None), ("", None)] {
            let routes = Routes::new(zone);
            routes.install(map(1, shards.clone())).unwrap();
            assert_eq!(routes.shard_of(b"a").0.near.as_deref(), near, "{zone}");
            assert_eq!(
                routes.shard_of(b"h").0.near,
                None,
                "{zone}: it has no replica there"
            );
        }
    }

    #[test]
    fn maps_with_gaps_overlaps_or_no_end_are_refused() {
        let gap = |shard_id| Err(MapError::Gap { shard_id });
        for (shards, expected) in [
            (vec![], Err(MapError::Empty)),
            (vec![route(1, "a", "", 1)], gap(1)),
            (vec![route(1, "", "g", 1), route(2, "h", "", 1)], gap(2)),
            (vec![route(1, "", "g", 1), route(2, "f", "", 1)], gap(2)),
            (
                vec![route(1, "", "g", 1), route(2, "g", "g", 1), route(3, "g", "", 1)],
                gap(2),
            ),
            (vec![route(1, "", "g", 1)], gap(1)),
            (vec![route(1, "", "", 1), route(2, "", "", 1)], gap(2)),
        ] {
            assert_eq!(
                Routes::new("z2").install(map(1, shards.clone())),
                expected,
                "{shards:?}"
            );
        }
    }

    #[test]
    fn an_older_map_is_counted_but_not_believed() {
        let routes = Routes::new("z2");
        routes.install(map(5, vec![route(1, "", "", 2)])).unwrap();
        routes.install(map(4, vec![route(1, "", "", 1)])).unwrap();
        assert_eq!(home_of(&routes, "k").as_deref(), Some("host2:1"));
        assert_eq!(routes.table().fetched, 2);
        routes.install(map(5, vec![route(1, "", "", 1)])).unwrap();
        assert_eq!(
            home_of(&routes, "k").as_deref(),
            Some("host1:1"),
            "the same version may know a newer home"
        );
    }

    #[test]
    fn a_hint_corrects_the_home_of_the_range_it_was_given_for() {
        let routes = Routes::new("z2");
        routes
            .install(map(1, vec![route(1, "", "g", 1), route(2, "g", "", 1)]))
            .unwrap();
        routes.correct_home(2, 1, "elsewhere:9");
        assert_eq!(home_of(&routes, "a").as_deref(), Some("host1:1"));
        assert_eq!(home_of(&routes, "h").as_deref(), Some("elsewhere:9"));
        routes.correct_home(1, 7, "elsewhere:9");
        assert_eq!(
            home_of(&routes, "a").as_deref(),
            Some("host1:1"),
            "a hint for another range version is ignored"
        );
    }
}
