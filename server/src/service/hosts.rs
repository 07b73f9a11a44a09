//! Hosts as operators see them: their state, what they take on, and what one that leaves still holds.

use client::proto::{Affinity, DepartureReply, HostStatus, Remnant};
use placement::{Admission, Host, HostId, HostState, Placement, Refusal, ShardId};
use tonic::Status;

use crate::host::DECOMMISSIONED;

/// Affinities shown for each host.
const AFFINITIES_MAX: usize = 8;

/// What operators call each admission.
const ADMISSIONS: [(Admission, &str); 4] = [
    (Admission::Open, "open"),
    (Admission::Cordoned, "cordoned"),
    (Admission::Draining, "draining"),
    (Admission::Decommissioning, "decommissioning"),
];

/// The admission of this name.
pub(super) fn admission_named(name: &str) -> Option<Admission> {
    let found = ADMISSIONS.iter().find(|(_, known)| *known == name);
    found.map(|(admission, _)| *admission)
}

fn name_of(admission: Admission) -> &'static str {
    let found = ADMISSIONS.iter().find(|(known, _)| *known == admission);
    found.map_or("", |(_, name)| name)
}

/// The hosts, but those that have left for good unless they are asked for.
pub(super) fn hosts(state: &Placement, decommissioned: bool) -> Vec<HostStatus> {
    let hosts = state.hosts().values();
    hosts
        .filter(|host| decommissioned || host.state != HostState::Removed)
        .map(|host| host_status(state, host))
        .collect()
}

/// A refusal to let a host join; one that has left for good is told so in a word for programs.
pub(super) fn not_joined(refusal: &Refusal) -> Status {
    let mut status = Status::failed_precondition(refusal.to_string());
    if let Refusal::HostRemoved(id) = refusal {
        status.metadata_mut().insert(DECOMMISSIONED, id.0.into());
    }
    status
}

/// What a host still holds.
pub(super) fn departure(state: &Placement, host: HostId, now_ms: u64) -> DepartureReply {
    let remnant = |remnant: placement::Remnant| Remnant {
        shard_id: remnant.shard.0,
        replica_id: remnant.replica.map_or(0, |replica| replica.0),
        is_home: remnant.is_home,
        waits_for: remnant.holdup.to_string(),
    };
    DepartureReply {
        host: state.host(host).map(|known| host_status(state, known)),
        remnants: placement::remnants(state, host, now_ms)
            .into_iter()
            .map(remnant)
            .collect(),
    }
}

fn host_status(state: &Placement, host: &Host) -> HostStatus {
    let shards = || state.data_shards();
    let score = |shard: ShardId| Some(*state.affinity(shard)?.scores.0.get(&host.id)?);
    let mut affinities: Vec<Affinity> = shards()
        .filter_map(|shard| {
            Some(Affinity {
                shard_id: shard.id.0,
                score_ppm: score(shard.id)?,
            })
        })
        .collect();
    affinities.sort_by_key(|affinity| (std::cmp::Reverse(affinity.score_ppm), affinity.shard_id));
    affinities.truncate(AFFINITIES_MAX);
    HostStatus {
        host_id: host.id.0,
        address: host.address.clone(),
        zone: host.zone.0.clone(),
        region: host.region.0.clone(),
        state: state_of(host).to_owned(),
        replicas: shards()
            .filter(|shard| shard.replica_on(host.id).is_some())
            .count() as u64,
        homes: shards()
            .filter(|shard| shard.home_host() == Some(host.id))
            .count() as u64,
        capacity_bytes: host.capacity_bytes,
        affinities,
        admission: name_of(host.admission).to_owned(),
    }
}

fn state_of(host: &Host) -> &'static str {
    match (host.state, host.admission) {
        (HostState::Up, Admission::Open) => "up",
        (HostState::Up, admission) => name_of(admission),
        (HostState::Down, _) => "down",
        (HostState::Dead, _) => "dead",
        (HostState::Removed, _) => "decommissioned",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_admission_has_one_name() {
        for (admission, name) in ADMISSIONS {
            assert_eq!(admission_named(name), Some(admission));
            assert_eq!(name_of(admission), name);
        }
        assert_eq!(admission_named("closed"), None);
    }
}
