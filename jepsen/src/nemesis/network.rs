//! The network is cut, or carries late, too little, or resets.
//!
//! Cuts are between hosts only: clients still reach both sides, which is how stale reads are found. The clients' own
//! cut is `client-partition`.

use std::collections::BTreeSet;
use std::time::Duration;

use super::fault::{Cure, Struck};
use super::field::{Field, host_names};
use crate::process::{Cluster, Condition, Effect, End, Way, both_ways, ways_between};

pub(super) const NAMES: [&str; 13] = [
    "isolate-random",
    "isolate-leader",
    "partition-halves",
    "one-way",
    "bridge",
    "majority-ring",
    "flapping",
    "client-partition",
    "delay",
    "loss",
    "reorder",
    "reset",
    "narrow",
];

const DELAY_MS: (u64, u64) = (5, 295);
const LOSS_PERMILLE: (u64, u64) = (10, 290);
const REORDER_PERMILLE: (u64, u64) = (10, 490);
const BYTES_PER_SECOND: (u64, u64) = (20_000, 180_000);

pub(super) fn unavailable(cluster: &Cluster, name: &str) -> Option<String> {
    let network = cluster.network();
    let effect = match name {
        "delay" => Effect::Delay {
            delay: Duration::ZERO,
            jitter: Duration::ZERO,
        },
        "loss" => Effect::Lose { permille: 1 },
        "reorder" => Effect::Reorder { permille: 1 },
        "narrow" => Effect::Limit { bytes_per_second: 1 },
        "reset" => Effect::Reset,
        _ => Effect::Block,
    };
    if !network.offers(effect) {
        return Some(format!("{:?} cannot do it", network.kind()));
    }
    let hosts: Vec<End> = cluster.numbers().into_iter().map(End::Host).collect();
    (name == "majority-ring" && ring(&hosts).is_empty()).then(|| "a ring needs four hosts".to_owned())
}

pub(super) async fn strike(name: &str, field: &Field<'_>) -> anyhow::Result<Option<Struck>> {
    let Some(condition) = draw(name, field)
        .await
        .filter(|condition| !condition.ways.is_empty())
    else {
        return Ok(None);
    };
    field.begin(name, targets(&condition.ways));
    field.cluster.network().impose(name, condition.clone())?;
    field.count(name);
    let cure = match name {
        "flapping" => Cure::Flap(condition),
        _ => Cure::Lift,
    };
    Ok(Some(Struck {
        name: name.to_owned(),
        taken: Vec::new(),
        cure,
    }))
}

/// What is to be wrong; `None`: the cluster does not say who leads.
async fn draw(name: &str, field: &Field<'_>) -> Option<Condition> {
    let hosts: Vec<End> = field.cluster.numbers().into_iter().map(End::Host).collect();
    let hosts = field.shuffled(hosts);
    let (minority, majority) = hosts.split_at(field.minority().max(1).min(hosts.len()));
    let everyone: Vec<End> = hosts.iter().copied().chain([End::Clients]).collect();
    let blocked = |ways| Condition {
        effect: Effect::Block,
        ways,
    };
    Some(match name {
        "isolate-leader" => {
            let leader = leader(field).await?;
            blocked(both_ways(&[leader], &hosts))
        }
        "isolate-random" | "flapping" => blocked(both_ways(&hosts[..1], &hosts)),
        "partition-halves" => blocked(both_ways(minority, majority)),
        "one-way" => match field.below(2) {
            0 => blocked(ways_between(minority, majority)),
            _ => blocked(ways_between(majority, minority)),
        },
        "bridge" => {
            // The host in the middle talks with both sides, which do not talk with each other.
            let (left, right) = hosts[1..].split_at((hosts.len() - 1) / 2);
            blocked(both_ways(left, right))
        }
        "majority-ring" => blocked(ring(&hosts)),
        "client-partition" => blocked(both_ways(&[End::Clients], minority)),
        "delay" => Condition {
            effect: Effect::Delay {
                delay: field.length(DELAY_MS) / 2,
                jitter: field.length(DELAY_MS) / 2,
            },
            ways: both_ways(&hosts, &everyone),
        },
        "loss" => Condition {
            effect: Effect::Lose {
                permille: share(field, LOSS_PERMILLE),
            },
            ways: both_ways(&hosts, &everyone),
        },
        "reorder" => Condition {
            effect: Effect::Reorder {
                permille: share(field, REORDER_PERMILLE),
            },
            ways: both_ways(&hosts, &everyone),
        },
        "narrow" => Condition {
            effect: Effect::Limit {
                bytes_per_second: BYTES_PER_SECOND.0 + field.below(BYTES_PER_SECOND.1),
            },
            ways: both_ways(&hosts, &hosts),
        },
        _ => Condition {
            effect: Effect::Reset,
            ways: both_ways(&hosts[..1], &everyone),
        },
    })
}

/// A share drawn from `range`: at least, and up to so much more.
fn share(field: &Field<'_>, range: (u64, u64)) -> u32 {
    u32::try_from(range.0 + field.below(range.1)).unwrap_or(u32::MAX)
}

/// The home of a random shard, as an end.
async fn leader(field: &Field<'_>) -> Option<End> {
    let layout = field.layout().await?;
    let homes: Vec<usize> = layout
        .shards
        .iter()
        .filter_map(|shard| layout.number_of(shard.home))
        .collect();
    field.pick(&homes).map(End::Host)
}

/// Cuts such that each host still talks with a majority, and no two with the same one: its neighbours on a ring.
fn ring(hosts: &[End]) -> BTreeSet<Way> {
    let count = hosts.len();
    let majority = count / 2 + 1;
    let reach = (majority - 1).div_ceil(2);
    let mut ways = BTreeSet::new();
    for (left, from) in hosts.iter().enumerate() {
        for (right, to) in hosts.iter().enumerate() {
            let apart = left.abs_diff(right).min(count - left.abs_diff(right));
            if apart > reach {
                ways.insert((*from, *to));
            }
        }
    }
    ways
}

/// Who sends on these ways.
fn targets(ways: &BTreeSet<Way>) -> Vec<String> {
    let senders: BTreeSet<End> = ways.iter().map(|(from, _)| *from).collect();
    let hosts: Vec<usize> = senders
        .iter()
        .filter_map(|end| match end {
            End::Host(number) => Some(*number),
            End::Clients => None,
        })
        .collect();
    let clients = senders.contains(&End::Clients).then(|| "clients".to_owned());
    host_names(&hosts).into_iter().chain(clients).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn on_a_ring_everybody_keeps_a_majority_of_his_own() {
        for count in 4..=7 {
            let hosts: Vec<End> = (1..=count).map(End::Host).collect();
            let cut = ring(&hosts);
            let seen: BTreeSet<Vec<End>> = hosts
                .iter()
                .map(|from| {
                    hosts
                        .iter()
                        .copied()
                        .filter(|to| !cut.contains(&(*from, *to)))
                        .collect()
                })
                .collect();
            assert!(
                seen.iter().all(|seen| seen.len() > count / 2),
                "{count}: {seen:?}"
            );
            assert_eq!(seen.len(), count, "two of {count} see the same");
        }
        assert!(ring(&[End::Host(1), End::Host(2), End::Host(3)]).is_empty());
    }
}
