//! The switch between the namespaces: whose plug is where, and what conditions mean for its links.

use std::net::Ipv4Addr;
use std::time::Duration;

use anyhow::Context;
use tempfile::TempDir;

use super::condition::{Conditions, Effect, End, Treatment};
use crate::native::{Link, Port, Reachability, Switch, SwitchControl, compile_switch};

/// Hosts that there are plugs for.
pub(super) const HOSTS_MAX: usize = 15;
/// Of the machines that clients share.
const CLIENTS_LAST: u8 = 250;

/// A running switch with a plug for the clients and for each host. It ends with this value.
#[derive(Debug)]
pub(super) struct Switchboard {
    // Before its files.
    _switch: Switch,
    control: SwitchControl,
    _folder: TempDir,
}

/// Everyone who has a plug, in the order of the plugs.
pub(super) fn ends() -> impl Iterator<Item = End> + Clone {
    std::iter::once(End::Clients).chain((1..=HOSTS_MAX).map(End::Host))
}

/// The address of an end.
///
/// # Panics
/// When a host has a number past [`HOSTS_MAX`].
pub(super) fn address_of(end: End) -> Ipv4Addr {
    let last = match end {
        End::Clients => CLIENTS_LAST,
        End::Host(number) => {
            assert!((1..=HOSTS_MAX).contains(&number), "no plug for host {number}");
            number as u8
        }
    };
    Ipv4Addr::new(10, 77, 0, last)
}

/// Whether a switch can do it.
pub(super) fn offers(effect: Effect) -> bool {
    !matches!(effect, Effect::Limit { .. } | Effect::Reset)
}

impl Switchboard {
    /// Starts a switch. `namespace` names the namespace of each end.
    ///
    /// # Errors
    /// When the switch cannot be compiled, or makes no devices in the namespaces.
    pub(super) fn start(namespace: impl Fn(End) -> String, seed: u64) -> anyhow::Result<Self> {
        let folder = tempfile::tempdir().context("a folder for the switch")?;
        let program = compile_switch(folder.path())?;
        let control = SwitchControl::open(&folder.path().join("control"))?;
        let ports: Vec<Port> = ends()
            .map(|end| Port {
                namespace: namespace(end),
                address: address_of(end),
            })
            .collect();
        let switch = Switch::start(&program, &control, &ports, seed)?;
        Ok(Self {
            _switch: switch,
            control,
            _folder: folder,
        })
    }

    /// Sets every link, one after another within a few milliseconds.
    ///
    /// # Errors
    /// When the switch cannot be told.
    pub(super) fn apply(&self, conditions: &Conditions) -> anyhow::Result<()> {
        for (from, sender) in ends().enumerate() {
            for (to, receiver) in ends().enumerate().filter(|(to, _)| *to != from) {
                let link = link_of(&conditions.on((sender, receiver)));
                self.control.pair(from, to).set(link)?;
            }
        }
        Ok(())
    }
}

fn link_of(treatment: &Treatment) -> Link {
    // The switch takes no longer ones.
    const LONGEST: Duration = Duration::from_secs(3_600);
    let share = |permille: u32| f64::from(permille.min(1_000)) / 1_000.0;
    Link {
        reachability: match treatment.blocked {
            true => Reachability::Cut,
            false => Reachability::Open,
        },
        loss: share(treatment.lost_permille),
        delay: treatment.delay.min(LONGEST),
        jitter: treatment.jitter.min(LONGEST),
        reorder: share(treatment.reordered_permille),
        duplicate: 0.0,
    }
}

#[cfg(test)]
mod tests {
    use super::super::condition::{Condition, both_ways, ways_between};
    use super::*;

    #[test]
    fn conditions_become_links() {
        let (one, two) = (End::Host(1), End::Host(2));
        let named = |name: &str, effect, ways| (name.to_owned(), Condition { effect, ways });
        let conditions = Conditions(
            [
                named("cut", Effect::Block, ways_between(&[one], &[two])),
                named(
                    "mix",
                    Effect::Reorder { permille: 250 },
                    both_ways(&[one], &[two]),
                ),
                named("loss", Effect::Lose { permille: 30 }, both_ways(&[one], &[two])),
            ]
            .into(),
        );
        let there = link_of(&conditions.on((one, two)));
        assert_eq!(there.reachability, Reachability::Cut);
        let back = link_of(&conditions.on((two, one)));
        assert_eq!(back.reachability, Reachability::Open);
        assert_eq!((back.loss, back.reorder), (0.03, 0.25));
        assert_eq!(link_of(&conditions.on((End::Clients, two))), Link::default());
    }

    #[test]
    fn every_end_has_an_address_of_its_own() {
        let addresses: std::collections::BTreeSet<Ipv4Addr> = ends().map(address_of).collect();
        assert_eq!(addresses.len(), HOSTS_MAX + 1);
    }
}
