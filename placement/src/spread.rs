//! Which hosts a replica set may use, and how well it is spread over fault domains.
//!
//! The rule is a bound on sharing: with `rf` voters and `d` domains that can take replicas, no domain should hold more
//! than `ceil(rf / d)` of them. The voters above that bound are a set's *excess*. A change is allowed when the excess
//! after it is zero or at most what it was, so that a cluster that lost a zone can still repair, and one that gained a
//! zone can only get better.

use std::collections::{BTreeMap, BTreeSet};

use crate::ids::HostId;
use crate::model::{Host, HostState, Shard};
use crate::rules::Spread;
use crate::state::Placement;

/// Voters of the placement group once five hosts are there.
const PLACEMENT_VOTERS_FULL: u32 = 5;
/// Voters of the placement group once three hosts are there.
const PLACEMENT_VOTERS_SMALL: u32 = 3;

impl Placement {
    /// How many voters the rules ask for.
    ///
    /// The placement group grows with the cluster: 1, then 3, then 5 voters. Hosts that are being drained do not count,
    /// or the last ones could not give up their voter. It never shrinks below 3 again: two voters stop with either, and
    /// a third that is dead is better replaced when a host comes.
    pub fn voters_wanted(&self, shard: &Shard) -> u32 {
        self.voters_wanted_without(shard, None)
    }

    /// As [`Placement::voters_wanted`], once `leaving` has left.
    pub(crate) fn voters_wanted_without(&self, shard: &Shard, leaving: Option<HostId>) -> u32 {
        if !shard.id.is_placement() {
            return self.rules.replication_factor;
        }
        let stays = |host: &&Host| host.stays() && Some(host.id) != leaving;
        match self.hosts.values().filter(stays).count() {
            0..=2 if shard.voter_count() < 3 => 1,
            0..=4 => PLACEMENT_VOTERS_SMALL,
            _ => PLACEMENT_VOTERS_FULL,
        }
    }

    /// The fewest voters a change may leave (I3): what the rules ask for, or all live hosts where there are fewer.
    pub fn voters_floor(&self, shard: &Shard) -> u32 {
        let up = self
            .hosts
            .values()
            .filter(|host| host.state == HostState::Up)
            .count();
        self.voters_wanted(shard)
            .min(u32::try_from(up).unwrap_or(u32::MAX))
            .max(1)
    }

    /// Voters above the bound of the spread rule.
    pub(crate) fn spread_excess(&self, hosts: &[HostId], voters_wanted: u32) -> u32 {
        let Some(share_max) = self.share_max(voters_wanted) else {
            return 0;
        };
        let mut counts: BTreeMap<&str, u32> = BTreeMap::new();
        for host in hosts.iter().filter_map(|id| self.hosts.get(id)) {
            *counts.entry(self.domain(host)).or_default() += 1;
        }
        counts.values().map(|count| count.saturating_sub(share_max)).sum()
    }

    /// The best host for one more voter beside `taken`: an emptier domain first, then an emptier host.
    pub(crate) fn choose_host(&self, taken: &[HostId], loads: &BTreeMap<HostId, u32>) -> Option<HostId> {
        self.choose_host_except(taken, None, loads)
    }

    /// As [`Placement::choose_host`], but not `except`, whose domain counts as free.
    pub(crate) fn choose_host_except(
        &self,
        taken: &[HostId],
        except: Option<HostId>,
        loads: &BTreeMap<HostId, u32>,
    ) -> Option<HostId> {
        let free = |host: &&Host| host.accepts() && !taken.contains(&host.id) && Some(host.id) != except;
        let candidates = self.hosts.values().filter(free);
        candidates
            .min_by_key(|host| self.crowding(host, taken, loads))
            .map(|host| host.id)
    }

    fn crowding(
        &self,
        host: &Host,
        taken: &[HostId],
        loads: &BTreeMap<HostId, u32>,
    ) -> (u32, u32, u32, u32, HostId) {
        let beside = || taken.iter().filter_map(|id| self.hosts.get(id));
        let same_domain = count(beside().filter(|other| self.domain(other) == self.domain(host)));
        let same_zone = count(beside().filter(|other| other.zone == host.zone));
        let same_region = count(beside().filter(|other| other.region == host.region));
        let load = loads.get(&host.id).copied().unwrap_or(0);
        (same_domain, same_zone, same_region, load, host.id)
    }

    /// The most voters that one domain should hold; `None` when any sharing is fine.
    fn share_max(&self, voters_wanted: u32) -> Option<u32> {
        if self.rules.spread == Spread::Host {
            return None;
        }
        let open = self.hosts.values().filter(|host| host.accepts());
        let domains: BTreeSet<&str> = open.map(|host| self.domain(host)).collect();
        let domains = u32::try_from(domains.len()).unwrap_or(u32::MAX).max(1);
        Some(voters_wanted.div_ceil(domains))
    }

    fn domain<'a>(&self, host: &'a Host) -> &'a str {
        match self.rules.spread {
            Spread::Host => &host.address,
            Spread::Zone => &host.zone.0,
            Spread::Region => &host.region.0,
        }
    }
}

fn count<T>(items: impl Iterator<Item = T>) -> u32 {
    u32::try_from(items.count()).unwrap_or(u32::MAX)
}
