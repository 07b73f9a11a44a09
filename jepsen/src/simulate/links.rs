//! What is wrong with the links between machines.

use std::time::Duration;

use super::plan::FaultClass;
use super::world::{CLIENTS, World};
use crate::generate::Chance;

/// The slowest message over a slow link.
const SLOW: Duration = Duration::from_millis(400);

/// Two machines, by name: from the first to the second where the direction matters.
pub(super) type Link = (String, String);

pub(super) fn name(host: usize) -> String {
    format!("h{host}")
}

/// Two sides drawn at random, and every link from one to the other.
pub(super) fn sides(chance: &mut Chance, hosts: usize) -> Vec<Link> {
    let mut names: Vec<String> = (0..hosts).map(name).collect();
    // Clients are cut off from some hosts, too.
    if chance.permille(400) {
        names.push(CLIENTS.to_owned());
    }
    let (mut left, mut right) = (Vec::new(), Vec::new());
    for name in names {
        if chance.permille(500) {
            left.push(name)
        } else {
            right.push(name)
        }
    }
    left.iter()
        .flat_map(|a| right.iter().map(|b| (a.clone(), b.clone())))
        .collect()
}

/// The links between one host and all others.
pub(super) fn around(host: usize, hosts: usize) -> Vec<Link> {
    (0..hosts)
        .filter(|other| *other != host)
        .map(|other| (name(host), name(other)))
        .collect()
}

/// Has the links suffer what the class stands for.
pub(super) fn impose(class: FaultClass, links: &[Link], world: &World<'_>) {
    for (a, b) in links {
        match class {
            FaultClass::Hold => world.sim.hold(a.as_str(), b.as_str()),
            FaultClass::OneWay => world.sim.partition_oneway(a.as_str(), b.as_str()),
            FaultClass::Slow => world
                .sim
                .set_link_max_message_latency(a.as_str(), b.as_str(), SLOW),
            _ => world.sim.partition(a.as_str(), b.as_str()),
        }
    }
}

/// Takes that from the links, and with it whatever else they suffered: the caller imposes again what goes on.
pub(super) fn lift(class: FaultClass, links: &[Link], latency_max: Duration, world: &World<'_>) {
    for (a, b) in links {
        match class {
            FaultClass::Hold => world.sim.release(a.as_str(), b.as_str()),
            FaultClass::OneWay => world.sim.repair_oneway(a.as_str(), b.as_str()),
            FaultClass::Slow => {
                world
                    .sim
                    .set_link_max_message_latency(a.as_str(), b.as_str(), latency_max);
            }
            _ => world.sim.repair(a.as_str(), b.as_str()),
        }
    }
}
