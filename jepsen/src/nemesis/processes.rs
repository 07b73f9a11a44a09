//! Processes are killed, paused and asked to end.

use super::fault::{Cure, Struck};
use super::field::{Field, host_names};
use crate::process::Signal;

pub(super) const NAMES: [&str; 7] = [
    "kill-random",
    "kill-leader",
    "kill-minority",
    "kill-all",
    "pause-random",
    "pause-leader",
    "restart",
];

pub(super) async fn strike(name: &str, field: &Field<'_>) -> anyhow::Result<Option<Struck>> {
    let all = field.cluster.numbers();
    let taken = match name {
        "kill-leader" | "pause-leader" => field.take(&leader(field).await, 1),
        "kill-minority" => field.take(&all, field.minority()),
        "kill-all" => field.take(&all, all.len()),
        _ => field.take(&all, 1),
    };
    // Another fault holds some host: "all" must wait for it.
    if taken.is_empty() || (name == "kill-all" && taken.len() < all.len()) {
        field.release(&taken);
        return Ok(None);
    }
    field.begin(name, host_names(&taken));
    let cure = match name {
        "pause-random" | "pause-leader" => pause(name, field, &taken)?,
        "restart" => restart(name, field, &taken).await?,
        _ => kill(name, field, &taken)?,
    };
    let name = name.to_owned();
    Ok(Some(Struck { name, taken, cure }))
}

/// The home of a random shard.
async fn leader(field: &Field<'_>) -> Vec<usize> {
    let Some(layout) = field.layout().await else {
        return Vec::new();
    };
    let homes: Vec<usize> = layout
        .shards
        .iter()
        .filter_map(|shard| layout.number_of(shard.home))
        .collect();
    field.pick(&homes).into_iter().collect()
}

fn kill(name: &str, field: &Field<'_>, hosts: &[usize]) -> anyhow::Result<Cure> {
    let mut killed = 0;
    for host in hosts {
        killed += usize::from(field.cluster.kill(*host)?);
    }
    if killed == hosts.len() {
        field.count(name);
    }
    Ok(Cure::Start(hosts.to_vec()))
}

/// Faults last longer than an election takes, so a paused leader wakes up deposed.
fn pause(name: &str, field: &Field<'_>, hosts: &[usize]) -> anyhow::Result<Cure> {
    for host in hosts {
        if field.cluster.signal(*host, Signal::Stop)? {
            field.count(name);
        }
    }
    Ok(Cure::Continue(hosts.to_vec()))
}

async fn restart(name: &str, field: &Field<'_>, hosts: &[usize]) -> anyhow::Result<Cure> {
    for host in hosts {
        if field.cluster.terminate(*host).await? {
            field.count(name);
        }
    }
    Ok(Cure::Start(hosts.to_vec()))
}
