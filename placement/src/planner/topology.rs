//! The input of a plan with hosts, zones and fault domains numbered densely, so that the search touches arrays only.
//!
//! Numbers follow the order of ids and names, so comparing numbers breaks ties the same way everywhere.

use std::collections::{BTreeMap, BTreeSet};

use crate::ids::{HostId, ReplicaId, ShardId, Zone};
use crate::rules::Spread;

use super::cost::Demand;
use super::input::{HostView, PlanInput, ShardView};

/// Number of a host in [`Topology`].
pub(super) type HostIx = usize;
/// Number of a zone in [`Topology`].
pub(super) type ZoneIx = usize;

/// Hosts, zones and the distances between them.
pub(super) struct Topology<'a> {
    /// The hosts, in order of id.
    pub(super) hosts: Vec<(HostId, &'a HostView)>,
    /// The zones of hosts and of origins, in order of name.
    pub(super) zones: Vec<&'a Zone>,
    host_zones: Vec<ZoneIx>,
    host_domains: Vec<usize>,
    rtt_micros: Vec<u32>,
    nearest_hosts: Vec<Vec<HostId>>,
}

/// A shard that has a home.
pub(super) struct DenseShard<'a> {
    /// Its id.
    pub(super) id: ShardId,
    /// The shard itself.
    pub(super) view: &'a ShardView,
    /// Its voters and the hosts they are on.
    pub(super) voters: Vec<(ReplicaId, HostIx)>,
    /// Every host with a replica of it.
    pub(super) occupied: Vec<HostIx>,
    /// The host that leads.
    pub(super) home: HostIx,
    /// What the coming window asks of it.
    pub(super) demand: Demand,
    /// What the slower forecast asks of it, where there is one.
    slow_demand: Option<Demand>,
}

/// A plan's input, numbered.
pub(super) struct Problem<'a> {
    /// What the caller gave.
    pub(super) input: PlanInput<'a>,
    /// Hosts and zones.
    pub(super) topology: Topology<'a>,
    /// The shards whose home is known, in order of id.
    pub(super) shards: Vec<DenseShard<'a>>,
}

impl<'a> Topology<'a> {
    fn of(input: &PlanInput<'a>) -> Self {
        let hosts: Vec<_> = input
            .placement
            .hosts
            .iter()
            .map(|(id, host)| (*id, host))
            .collect();
        let zones = zones_of(input);
        let host_zones = hosts
            .iter()
            .map(|(_, host)| position(&zones, &&host.zone))
            .collect();
        let host_domains = domains_of(&hosts, input.rules.spread);
        let pairs = zones
            .iter()
            .flat_map(|from| zones.iter().map(move |to| (from, to)));
        let rtt_micros = pairs.map(|(from, to)| input.rtt.micros(from, to)).collect();
        let nearest_hosts = Vec::new();
        let mut topology = Self {
            hosts,
            zones,
            host_zones,
            host_domains,
            rtt_micros,
            nearest_hosts,
        };
        topology.nearest_hosts = (0..topology.zones.len())
            .map(|origin| topology.nearest_to(origin))
            .collect();
        topology
    }

    /// The hosts of a zone, or of the nearest zone that has some.
    fn nearest_to(&self, origin: ZoneIx) -> Vec<HostId> {
        let distance = |host: HostIx| (self.zone_of(host) != origin, self.rtt(origin, self.zone_of(host)));
        let least = (0..self.hosts.len()).map(distance).min();
        let near = (0..self.hosts.len()).filter(|host| Some(distance(*host)) == least);
        near.map(|host| self.hosts[host].0).collect()
    }

    /// The hosts that clients of a zone are nearest to.
    pub(super) fn nearest_hosts(&self, origin: ZoneIx) -> &[HostId] {
        &self.nearest_hosts[origin]
    }

    /// Replaces zones, which come in order of name, by their numbers; unknown ones are left out.
    pub(super) fn numbered<'z, T>(
        &self,
        labelled: impl Iterator<Item = (&'z Zone, T)>,
    ) -> impl Iterator<Item = (ZoneIx, T)> {
        let mut next = 0;
        labelled.filter_map(move |(zone, item)| {
            next += self.zones[next..]
                .iter()
                .take_while(|known| **known < zone)
                .count();
            (self.zones.get(next) == Some(&zone)).then_some((next, item))
        })
    }

    /// The number of a host.
    pub(super) fn host(&self, id: HostId) -> Option<HostIx> {
        self.hosts.binary_search_by_key(&id, |(id, _)| *id).ok()
    }

    /// The number of a zone.
    pub(super) fn zone(&self, zone: &Zone) -> Option<ZoneIx> {
        self.zones.binary_search(&zone).ok()
    }

    /// The zone of a host.
    pub(super) fn zone_of(&self, host: HostIx) -> ZoneIx {
        self.host_zones[host]
    }

    /// The fault domain of a host, under the spread rule.
    pub(super) fn domain_of(&self, host: HostIx) -> usize {
        self.host_domains[host]
    }

    /// Round trip between two zones, in microseconds.
    pub(super) fn rtt(&self, from: ZoneIx, to: ZoneIx) -> u32 {
        self.rtt_micros[from * self.zones.len() + to]
    }

    /// Round trips from one zone to all, in microseconds.
    pub(super) fn rtt_from(&self, from: ZoneIx) -> &[u32] {
        &self.rtt_micros[from * self.zones.len()..][..self.zones.len()]
    }
}

impl<'a> Problem<'a> {
    /// Numbers the input. Shards without a known home or with a replica on an unknown host are left out.
    pub(super) fn of(input: PlanInput<'a>) -> Self {
        let topology = Topology::of(&input);
        let shards = input.placement.shards.iter();
        let shards = shards
            .filter_map(|(id, view)| dense(&input, &topology, *id, view))
            .collect();
        Self {
            input,
            topology,
            shards,
        }
    }
}

impl DenseShard<'_> {
    /// What decides the replica set.
    pub(super) fn replica_demand(&self) -> &Demand {
        self.slow_demand.as_ref().unwrap_or(&self.demand)
    }

    /// The hosts of the voters.
    pub(super) fn voter_hosts(&self) -> Vec<HostIx> {
        self.voters.iter().map(|(_, host)| *host).collect()
    }
}

fn dense<'a>(
    input: &PlanInput<'a>,
    topology: &Topology<'a>,
    id: ShardId,
    view: &'a ShardView,
) -> Option<DenseShard<'a>> {
    let voters = view.voters().map(|(id, host)| Some((id, topology.host(host)?)));
    let occupied = view.replicas.values().map(|replica| topology.host(replica.host));
    let demand = |forecast| Demand::of(topology, input.options, forecast);
    Some(DenseShard {
        id,
        view,
        voters: voters.collect::<Option<_>>()?,
        occupied: occupied.collect::<Option<_>>()?,
        home: topology.host(view.home_host()?)?,
        demand: demand(input.forecast.shards.get(&id)),
        slow_demand: input.replica_forecast.map(|slow| demand(slow.shards.get(&id))),
    })
}

/// The zones of all hosts and origins, in order of name. Most shards name the same origins, so each list is only
/// compared with what is known.
fn zones_of<'a>(input: &PlanInput<'a>) -> Vec<&'a Zone> {
    let hosts = input.placement.hosts.values().map(|host| &host.zone);
    let mut known: Vec<&Zone> = hosts.collect::<BTreeSet<_>>().into_iter().collect();
    let forecasts = std::iter::once(input.forecast).chain(input.replica_forecast);
    for shard in forecasts.flat_map(|forecast| forecast.shards.values()) {
        let mut next = 0;
        for (zone, _) in shard.shares.iter() {
            next += known[next..].iter().take_while(|other| **other < zone).count();
            if known.get(next) != Some(&zone) {
                known.insert(next, zone);
            }
        }
    }
    known
}

fn domains_of(hosts: &[(HostId, &HostView)], spread: Spread) -> Vec<usize> {
    let label = |id: HostId, host: &HostView| match spread {
        Spread::Host => id.to_string(),
        Spread::Zone => host.zone.0.clone(),
        Spread::Region => host.region.0.clone(),
    };
    let mut numbers = BTreeMap::new();
    let number = |label: String| {
        let next = numbers.len();
        *numbers.entry(label).or_insert(next)
    };
    hosts
        .iter()
        .map(|(id, host)| label(*id, host))
        .map(number)
        .collect()
}

fn position<T: Ord>(sorted: &[T], item: &T) -> usize {
    sorted
        .binary_search(item)
        .expect("every host's zone is among the zones")
}
