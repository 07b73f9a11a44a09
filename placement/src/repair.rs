//! What the rules ask for and the replica sets do not have: proposals that need no forecast.
//!
//! Pure functions of the state. The controller calls them each round and writes what they return; a proposal that is
//! refused or overtaken comes again from the next round, so nothing is remembered here. In order of urgency for one
//! shard: replace a voter on a dead host, add a missing voter, remove one too many, empty a host that leaves (its home
//! first: that takes a few round trips, a replica's bytes may take hours), spread.
//! Hosts that are merely down are left alone: they are expected back with their data.

use std::collections::BTreeMap;

use crate::ids::{HostId, ReplicaId, ShardId};
use crate::migration::{MigrationKind, MigrationState, Proposal, ProposalKind, Reasons};
use crate::model::{HostState, Shard};
use crate::rules::Origin;
use crate::state::Placement;

/// How long a proposal made here may wait for slots, in milliseconds of mechanism time.
const PROPOSAL_LIFE_MS: u64 = 60_000;

/// A change that a shard needs.
struct Need {
    origin: Origin,
    kind: ProposalKind,
    text: String,
}

/// Proposals that bring the shards that hold keys back to the rules, at most one a shard.
///
/// Shards with a migration under way, or with a proposal at least as urgent, are left out.
pub fn repairs(placement: &Placement, now_ms: u64) -> Vec<Proposal> {
    let mut loads = placement.replica_counts();
    let shards = placement.data_shards().filter(|shard| shard.ready);
    shards
        .filter_map(|shard| proposal_for(placement, shard, &mut loads, now_ms))
        .collect()
}

/// The next change of the placement group itself, if it needs one: it grows to 3, then 5 voters in distinct fault
/// domains as hosts join, and replaces its dead. One change at a time, through the same states as any shard.
pub fn placement_group_target(placement: &Placement, now_ms: u64) -> Option<Proposal> {
    let shard = placement.shard(ShardId::PLACEMENT)?;
    proposal_for(placement, shard, &mut placement.replica_counts(), now_ms)
}

/// Hosts that have been down for so long that they should be declared dead.
pub fn overdue_hosts(placement: &Placement, now_ms: u64) -> Vec<HostId> {
    let limit_ms = placement.limits().dead_after_ms;
    let down = placement
        .hosts()
        .values()
        .filter(|host| host.state == HostState::Down);
    down.filter(|host| now_ms >= host.changed_ms.saturating_add(limit_ms))
        .map(|host| host.id)
        .collect()
}

fn proposal_for(
    placement: &Placement,
    shard: &Shard,
    loads: &mut BTreeMap<HostId, u32>,
    now_ms: u64,
) -> Option<Proposal> {
    let Need { origin, kind, text } = need(placement, shard, loads)?;
    // It would be refused, again and again.
    if placement.limits().paused.contains(&origin) {
        return None;
    }
    if shard
        .active
        .is_some_and(|active| !gives_way(placement, active, origin))
    {
        return None;
    }
    if let ProposalKind::Move { to, .. } | ProposalKind::Add { to } = kind {
        *loads.entry(to).or_default() += 1;
    }
    Some(Proposal {
        shard: shard.id,
        kind,
        basis: shard.epoch,
        origin,
        expires_ms: now_ms.saturating_add(PROPOSAL_LIFE_MS),
        reasons: Reasons {
            policy: "rules".to_owned(),
            text,
            ..Reasons::default()
        },
        window: placement.window(),
        now_ms,
    })
}

fn gives_way(placement: &Placement, active: crate::MigrationId, origin: Origin) -> bool {
    let migration = placement.migration(active);
    migration.is_some_and(|m| m.state == MigrationState::Proposed && origin < m.origin)
}

fn need(placement: &Placement, shard: &Shard, loads: &BTreeMap<HostId, u32>) -> Option<Need> {
    let voters: Vec<(ReplicaId, HostId)> = shard.voters().collect();
    let wanted = usize::try_from(placement.voters_wanted(shard)).unwrap_or(usize::MAX);
    replace_dead(placement, shard, &voters, loads)
        .or_else(|| add_missing(placement, shard, &voters, wanted, loads))
        .or_else(|| remove_surplus(placement, shard, &voters, wanted))
        .or_else(|| drain(placement, shard, &voters, loads))
        .or_else(|| spread(placement, shard, &voters, loads))
}

fn replace_dead(
    placement: &Placement,
    shard: &Shard,
    voters: &[(ReplicaId, HostId)],
    loads: &BTreeMap<HostId, u32>,
) -> Option<Need> {
    let (from, host) = *voters.iter().find(|(_, host)| placement.host_is_lost(*host))?;
    let text = format!("{from} is on {host}, which is dead");
    // Without a host to take its place it stays a member: dropping it would let the group lose no more hosts than now.
    let to = replacement(placement, shard, from, loads)?;
    let kind = ProposalKind::Move {
        from,
        to,
        take_home: false,
    };
    Some(Need {
        origin: Origin::Repair,
        kind,
        text,
    })
}

fn add_missing(
    placement: &Placement,
    shard: &Shard,
    voters: &[(ReplicaId, HostId)],
    wanted: usize,
    loads: &BTreeMap<HostId, u32>,
) -> Option<Need> {
    if voters.len() >= wanted {
        return None;
    }
    let taken: Vec<HostId> = shard.replicas.values().map(|replica| replica.host).collect();
    let to = placement.choose_host(&taken, loads)?;
    let text = format!("{} of {wanted} voters", voters.len());
    Some(Need {
        origin: Origin::Repair,
        kind: ProposalKind::Add { to },
        text,
    })
}

fn remove_surplus(
    placement: &Placement,
    shard: &Shard,
    voters: &[(ReplicaId, HostId)],
    wanted: usize,
) -> Option<Need> {
    if voters.len() <= wanted || !may_shrink(placement, shard, voters.len()) {
        return None;
    }
    let home = shard.route_home();
    let left = |gone: ReplicaId| hosts_without(voters, gone);
    let excess = |gone| placement.spread_excess(&left(gone), placement.voters_wanted(shard));
    let accepts = |host| placement.host(host).is_some_and(|host| host.accepts());
    let worst = voters
        .iter()
        .min_by_key(|(id, host)| (accepts(*host), excess(*id), Some(*id) == home, *id));
    let text = format!("{} voters, {wanted} wanted", voters.len());
    worst.map(|(from, _)| Need {
        origin: Origin::Rule,
        kind: ProposalKind::Remove { from: *from },
        text,
    })
}

fn drain(
    placement: &Placement,
    shard: &Shard,
    voters: &[(ReplicaId, HostId)],
    loads: &BTreeMap<HostId, u32>,
) -> Option<Need> {
    let (from, host) = *voters.iter().find(|(_, host)| placement.gives_away(*host))?;
    let home = drain_home(placement, shard, voters);
    let replica = || {
        let to = replacement(placement, shard, from, loads)?;
        Some(match placement.lone_voter_leaves(shard) {
            // It has nobody to hand over to; once it has, it is one too many.
            true => ProposalKind::Add { to },
            false => ProposalKind::Move {
                from,
                to,
                take_home: false,
            },
        })
    };
    // A home that could not be handed over must not keep the replica: a move tries every voter in turn.
    let kind = match home_stayed(placement, shard) {
        true => replica().or(home),
        false => home.or_else(replica),
    }?;
    Some(Need {
        origin: Origin::Drain,
        kind,
        text: format!("{host} is draining"),
    })
}

/// Hands the home over to a voter that stays. The placement group's goes with its replica: each change of its leader is
/// a change of the controller.
fn drain_home(placement: &Placement, shard: &Shard, voters: &[(ReplicaId, HostId)]) -> Option<ProposalKind> {
    let home = shard.home_host().filter(|host| placement.gives_away(*host))?;
    let accepts = |host: HostId| placement.host(host).is_some_and(|known| known.accepts());
    let heirs: Vec<HostId> = voters
        .iter()
        .map(|(_, host)| *host)
        .filter(|host| *host != home && accepts(*host))
        .collect();
    // By number, so that the homes of one host go to all that can take them.
    let turn = shard.id.0.checked_rem(u64::try_from(heirs.len()).ok()?)?;
    let to = *heirs.get(usize::try_from(turn).ok()?)?;
    (!shard.id.is_placement()).then_some(ProposalKind::Home { to })
}

/// Whether the last thing tried with a shard was to hand its home over, in vain.
fn home_stayed(placement: &Placement, shard: &Shard) -> bool {
    let mut newest = placement.migrations().values().rev();
    newest
        .find(|migration| migration.shard == shard.id)
        .is_some_and(|last| last.kind == MigrationKind::Home && last.state == MigrationState::Aborted)
}

fn spread(
    placement: &Placement,
    shard: &Shard,
    voters: &[(ReplicaId, HostId)],
    loads: &BTreeMap<HostId, u32>,
) -> Option<Need> {
    let wanted = placement.voters_wanted(shard);
    let hosts: Vec<HostId> = voters.iter().map(|(_, host)| *host).collect();
    let before = placement.spread_excess(&hosts, wanted);
    if before == 0 {
        return None;
    }
    let after = |from, to| {
        let mut hosts = hosts_without(voters, from);
        hosts.push(to);
        placement.spread_excess(&hosts, wanted)
    };
    let home = shard.route_home();
    let mut moves: Vec<(ReplicaId, HostId)> = voters
        .iter()
        .filter_map(|(from, _)| Some((*from, replacement(placement, shard, *from, loads)?)))
        .collect();
    moves.retain(|(from, to)| after(*from, *to) < before);
    let (from, to) = moves
        .into_iter()
        .min_by_key(|(from, to)| (after(*from, *to), Some(*from) == home, *from))?;
    let text = format!("{before} voters share a fault domain beyond the rule");
    Some(Need {
        origin: Origin::Rule,
        kind: ProposalKind::Move {
            from,
            to,
            take_home: false,
        },
        text,
    })
}

/// The best host for a voter in place of `from`. The host of `from` itself holds a replica, so it is no candidate.
fn replacement(
    placement: &Placement,
    shard: &Shard,
    from: ReplicaId,
    loads: &BTreeMap<HostId, u32>,
) -> Option<HostId> {
    let stays: Vec<HostId> = shard
        .replicas
        .iter()
        .filter(|(id, _)| **id != from)
        .map(|(_, r)| r.host)
        .collect();
    let leaves = shard.replicas.get(&from).map(|replica| replica.host);
    placement.choose_host_except(&stays, leaves, loads)
}

fn may_shrink(placement: &Placement, shard: &Shard, voters: usize) -> bool {
    let floor = usize::try_from(placement.voters_floor(shard)).unwrap_or(usize::MAX);
    voters > floor
}

fn hosts_without(voters: &[(ReplicaId, HostId)], gone: ReplicaId) -> Vec<HostId> {
    voters
        .iter()
        .filter(|(id, _)| *id != gone)
        .map(|(_, host)| *host)
        .collect()
}
