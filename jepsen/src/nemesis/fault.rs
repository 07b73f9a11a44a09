//! What all faults have in common: names, classes, what was struck, how it is undone.

use std::time::Duration;

use anyhow::bail;

use super::field::Field;
use super::{clocks, controllers, disk_errors, disks, network, power, processes, proof, shards};
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
    /// What was ordered from the library in these hosts is called off, and they are started if they ended of it.
    Soothe(Vec<usize>),
    /// The wall clock of the host flips between the truth and `ahead` of it until it is soothed.
    Strobe {
        /// Whose clock.
        host: usize,
        /// By how much.
        ahead: Duration,
    },
    /// The host reads what is on its disk again, and starts anew; it is rebuilt if it cannot.
    Doubt(usize),
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
    DiskErrors,
    Power,
    Clocks,
}

/// Classes by the names that stand for all of their faults.
const CLASSES: [(Class, &str, &[&str]); 9] = [
    (Class::Processes, "process", &processes::NAMES),
    (Class::Network, "network", &network::NAMES),
    (Class::Shards, "shards", &shards::NAMES),
    (Class::Controllers, "controller", &controllers::NAMES),
    (Class::Disks, "disk", &disks::NAMES),
    (Class::DiskErrors, "disk", &disk_errors::NAMES),
    (Class::Power, "disk", &power::NAMES),
    (Class::Clocks, "clock", &clocks::NAMES),
    (Class::Clocks, "clock-wild", &clocks::WILD),
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
    let of_class = CLASSES.iter().filter(|(_, class, _)| *class == name);
    let found: Vec<String> = of_class
        .flat_map(|(_, _, names)| names.iter().map(|name| (*name).to_owned()))
        .collect();
    if found.is_empty() {
        bail!(
            "there is no fault {name}; known are {}",
            names().collect::<Vec<_>>().join(", ")
        );
    }
    Ok(found)
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
        Class::DiskErrors | Class::Power | Class::Clocks => proof::unavailable(cluster),
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
        Some(Class::DiskErrors) => disk_errors::strike(name, field).await,
        Some(Class::Power) => power::strike(name, field).await,
        Some(Class::Clocks) => clocks::strike(name, field).await,
        None => bail!("there is no fault {name}"),
    }
}

/// Lets the fault go on for so long.
pub(super) async fn hold(struck: &Struck, field: &Field<'_>, length: Duration) -> anyhow::Result<()> {
    let ends = tokio::time::Instant::now() + length;
    let goes_on = || tokio::time::Instant::now() < ends;
    match &struck.cure {
        Cure::Flap(condition) => {
            let network = field.cluster.network();
            while goes_on() {
                field.pause(FLAP_MS).await;
                network.lift(&struck.name)?;
                field.pause(FLAP_MS).await;
                network.impose(&struck.name, condition.clone())?;
            }
        }
        Cure::Strobe { host, ahead } => {
            while goes_on() {
                clocks::flip(field, *host, *ahead).await?;
            }
        }
        _ => tokio::time::sleep_until(ends).await,
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
        Cure::Soothe(hosts) => {
            for host in hosts {
                cluster.soothe(*host).await?;
            }
        }
        Cure::Strobe { host, .. } => cluster.soothe(*host).await?,
        Cure::Doubt(host) => {
            cluster.kill(*host)?;
            cluster.soothe(*host).await?;
            let outcome = match cluster.settle_doubt(*host).await {
                true => "rebuilt",
                false => "came back",
            };
            field.count(&format!("{}/{outcome}", struck.name));
            return rebuild(&struck, *host, field).await;
        }
        Cure::Rebuild(host) => return rebuild(&struck, *host, field).await,
    }
    field.release(&struck.taken);
    field.end(&struck.name);
    Ok(())
}

/// Rebuilds the host if it is to be, and gives back the field's place for disks.
async fn rebuild(struck: &Struck, host: usize, field: &Field<'_>) -> anyhow::Result<()> {
    match field.cluster.rebuild(host, REBUILD_LIMIT).await {
        Ok(()) => {
            field.release_disk();
            field.release(&struck.taken);
        }
        // It stays taken, and its disk spoiled: no other disk is struck before healing has repaired this one.
        Err(reason) => tracing::warn!("{reason:#}"),
    }
    field.end(&struck.name);
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_name_has_two_classes_and_the_mix_leaves_out_only_what_is_named() {
        assert_eq!(super::super::default_mix().count(), names().count() - 2);
        let mut all: Vec<&str> = names().collect();
        all.sort_unstable();
        let before = all.len();
        all.dedup();
        assert_eq!(all.len(), before);
    }

    #[test]
    fn a_class_stands_for_its_faults() {
        assert_eq!(expand("controller").unwrap(), controllers::NAMES);
        let disk = expand("disk").unwrap();
        assert!(disk.contains(&"wipe".to_owned()) && disk.contains(&"power-cut-all".to_owned()));
        assert_eq!(expand("clock").unwrap(), clocks::NAMES);
        assert_eq!(expand("clock-rate-wild").unwrap(), clocks::WILD);
        assert_eq!(expand("wipe").unwrap(), ["wipe"]);
        assert!(
            expand("earthquake")
                .unwrap_err()
                .to_string()
                .contains("majority-ring")
        );
    }
}
