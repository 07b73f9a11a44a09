//! What all faults have in common: names, classes, what was struck, how it is undone.

use std::time::Duration;

use anyhow::bail;

use super::field::Field;
use super::{controllers, disks, network, processes, shards};
use crate::process::{Cluster, Condition, Signal};

/// A fault that holds.
#[derive(Debug)]
pub(super) struct Struck {
    pub(super) name: String,
    /// Hosts that no other fault may stop or start meanwhile.
    pub(super) taken: Vec<usize>,
    pub(super) cure: Cure,
}

/// How a fault is undone.
#[derive(Debug)]
pub(super) enum Cure {
    /// It is over already.
    Nothing,
    /// These hosts are started.
    Start(Vec<usize>),
    /// These hosts are killed, if they still run, and started as they should be.
    StartAnew(Vec<usize>),
    /// These hosts go on.
    Continue(Vec<usize>),
    /// The network's condition of the fault's name is lifted.
    Lift,
    /// The condition comes and goes until it is lifted.
    Flap(Condition),
    /// The host gets an empty disk and replaces what it was.
    Rebuild(usize),
}

/// How long a condition that flaps holds, and how long it does not: at least, and so much more.
const FLAP_MS: (u64, u64) = (200, 1_300);
/// How long a host may take to replace itself while other faults go on. Healing gives it more.
const REBUILD_LIMIT: Duration = Duration::from_secs(30);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Class {
    Processes,
    Network,
    Shards,
    Controllers,
    Disks,
}

const CLASSES: [(Class, &str, &[&str]); 5] = [
    (Class::Processes, "process", &processes::NAMES),
    (Class::Network, "network", &network::NAMES),
    (Class::Shards, "shards", &shards::NAMES),
    (Class::Controllers, "controller", &controllers::NAMES),
    (Class::Disks, "disk", &disks::NAMES),
];

/// The names of all faults.
pub fn names() -> impl Iterator<Item = &'static str> {
    CLASSES.iter().flat_map(|(_, _, names)| names.iter().copied())
}

pub(super) fn class_of(name: &str) -> Option<Class> {
    let class = CLASSES.iter().find(|(_, _, names)| names.contains(&name));
    class.map(|(class, _, _)| *class)
}

/// The names that `name` stands for: itself, or a whole class.
pub(super) fn expand(name: &str) -> anyhow::Result<Vec<String>> {
    if class_of(name).is_some() {
        return Ok(vec![name.to_owned()]);
    }
    match CLASSES.iter().find(|(_, class, _)| *class == name) {
        Some((_, _, names)) => Ok(names.iter().map(|name| (*name).to_owned()).collect()),
        None => bail!(
            "there is no fault {name}; known are {}",
            names().collect::<Vec<_>>().join(", ")
        ),
    }
}

/// Why the fault cannot happen in this cluster on this machine; `None`: it can.
pub fn available(cluster: &Cluster, name: &str) -> Option<String> {
    let Some(class) = class_of(name) else {
        return Some("there is no such fault".to_owned());
    };
    match class {
        Class::Network => network::unavailable(cluster, name),
        Class::Controllers => controllers::unavailable(name),
        Class::Shards => shards::unavailable(cluster, name),
        Class::Processes | Class::Disks => None,
    }
}

/// Makes the fault happen. `None`: there was nothing to strike at this moment.
pub(super) async fn strike(name: &str, field: &Field<'_>) -> anyhow::Result<Option<Struck>> {
    match class_of(name) {
        Some(Class::Processes) => processes::strike(name, field).await,
        Some(Class::Network) => network::strike(name, field).await,
        Some(Class::Shards) => shards::strike(name, field).await,
        Some(Class::Controllers) => controllers::strike(name, field).await,
        Some(Class::Disks) => disks::strike(name, field).await,
        None => bail!("there is no fault {name}"),
    }
}

/// Lets the fault go on for so long.
pub(super) async fn hold(struck: &Struck, field: &Field<'_>, length: Duration) -> anyhow::Result<()> {
    let ends = tokio::time::Instant::now() + length;
    let Cure::Flap(condition) = &struck.cure else {
        tokio::time::sleep_until(ends).await;
        return Ok(());
    };
    let network = field.cluster.network();
    while tokio::time::Instant::now() < ends {
        field.pause(FLAP_MS).await;
        network.lift(&struck.name)?;
        field.pause(FLAP_MS).await;
        network.impose(&struck.name, condition.clone())?;
    }
    Ok(())
}

/// Undoes the fault.
pub(super) async fn relent(struck: Struck, field: &Field<'_>) -> anyhow::Result<()> {
    let cluster = field.cluster;
    match &struck.cure {
        Cure::Nothing => {}
        Cure::Start(hosts) => hosts.iter().try_for_each(|host| cluster.start_host(*host))?,
        Cure::StartAnew(hosts) => {
            for host in hosts {
                cluster.kill(*host)?;
                cluster.start_host(*host)?;
            }
        }
        Cure::Continue(hosts) => {
            for host in hosts {
                cluster.signal(*host, Signal::Continue)?;
            }
        }
        Cure::Lift | Cure::Flap(_) => cluster.network().lift(&struck.name)?,
        Cure::Rebuild(host) => {
            if let Err(reason) = cluster.rebuild(*host, REBUILD_LIMIT).await {
                // It stays taken, and its disk spoiled: no other disk is struck before healing has repaired this one.
                tracing::warn!("{reason:#}");
                field.end(&struck.name);
                return Ok(());
            }
            field.release_disk();
        }
    }
    field.release(&struck.taken);
    field.end(&struck.name);
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_name_of_the_mix_is_a_fault_and_no_name_has_two_classes() {
        for name in super::super::DEFAULT_MIX {
            assert!(class_of(name).is_some(), "{name}");
        }
        let mut all: Vec<&str> = names().collect();
        all.sort_unstable();
        let before = all.len();
        all.dedup();
        assert_eq!(all.len(), before);
    }

    #[test]
    fn a_class_stands_for_its_faults() {
        assert_eq!(expand("disk").unwrap(), disks::NAMES);
        assert_eq!(expand("wipe").unwrap(), ["wipe"]);
        assert!(
            expand("earthquake")
                .unwrap_err()
                .to_string()
                .contains("majority-ring")
        );
    }
}
