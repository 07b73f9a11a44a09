//! The network between hosts and clients: which kind it is, and what is wrong with it.

use std::sync::{Mutex, MutexGuard};

use anyhow::{Context, bail};

use super::condition::{Condition, Conditions, Effect, End};
use super::namespaces::{self, Namespaces};
use super::proxy::Proxy;

/// What lies between the hosts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NetworkKind {
    /// A network namespace a host, joined by a switch. Needs root, `ip`, `nft`, TUN devices and a C compiler.
    Namespaces,
    /// A proxy in this process.
    Proxy,
}

/// A network and its conditions.
#[derive(Debug)]
pub struct Network {
    fabric: Fabric,
    /// Held while they are applied, so that what holds is always the last that was asked for.
    conditions: Mutex<Conditions>,
}

#[derive(Debug)]
pub(super) enum Fabric {
    Namespaces(Namespaces),
    Proxy(Proxy),
}

/// Where a new host listens, and what others are told.
#[derive(Debug)]
pub(super) struct Place {
    pub(super) listen: String,
    pub(super) address: String,
}

impl Network {
    pub(super) fn new(kind: Option<NetworkKind>, seed: u64) -> anyhow::Result<Self> {
        let namespaces = match kind {
            Some(NetworkKind::Proxy) => None,
            _ => Namespaces::entered(seed)?,
        };
        let fabric = match (kind, namespaces) {
            (_, Some(namespaces)) => Fabric::Namespaces(namespaces),
            (Some(NetworkKind::Namespaces), None) => bail!("this process is not in a client namespace"),
            (_, None) => Fabric::Proxy(Proxy::new(seed)),
        };
        Ok(Self {
            fabric,
            conditions: Mutex::default(),
        })
    }

    /// Which kind it is.
    pub fn kind(&self) -> NetworkKind {
        match &self.fabric {
            Fabric::Namespaces(_) => NetworkKind::Namespaces,
            Fabric::Proxy(_) => NetworkKind::Proxy,
        }
    }

    /// Whether this network can do it.
    pub fn offers(&self, effect: Effect) -> bool {
        match (&self.fabric, effect) {
            (Fabric::Proxy(_), effect) => !matches!(effect, Effect::Reorder { .. }),
            (Fabric::Namespaces(_), effect) => namespaces::offers(effect),
        }
    }

    /// From now on, and until it is lifted, the condition holds. One of the same name is replaced.
    ///
    /// # Errors
    /// When the network does not offer it, or the machine refuses it.
    pub fn impose(&self, name: &str, condition: Condition) -> anyhow::Result<()> {
        if !self.offers(condition.effect) {
            bail!("{:?} is not available in {:?}", condition.effect, self.kind());
        }
        let mut conditions = self.conditions();
        conditions.0.insert(name.to_owned(), condition);
        self.apply(&conditions)
    }

    /// The condition of this name holds no longer.
    ///
    /// # Errors
    /// When the machine refuses it.
    pub fn lift(&self, name: &str) -> anyhow::Result<()> {
        let mut conditions = self.conditions();
        conditions.0.remove(name);
        self.apply(&conditions)
    }

    /// The network is whole.
    ///
    /// # Errors
    /// When the machine refuses it.
    pub fn heal(&self) -> anyhow::Result<()> {
        let mut conditions = self.conditions();
        conditions.0.clear();
        self.apply(&conditions)
    }

    /// Whether clients and the host do not hear each other.
    pub(super) fn is_cut_off(&self, number: usize) -> bool {
        let conditions = self.conditions();
        let ways = [
            (End::Clients, End::Host(number)),
            (End::Host(number), End::Clients),
        ];
        ways.into_iter()
            .map(|way| conditions.on(way))
            .any(|sum| sum.blocked || sum.reset)
    }

    fn conditions(&self) -> MutexGuard<'_, Conditions> {
        self.conditions.lock().expect("no panic with the lock held")
    }

    fn apply(&self, conditions: &Conditions) -> anyhow::Result<()> {
        match &self.fabric {
            Fabric::Proxy(proxy) => {
                proxy.apply(conditions.clone());
                Ok(())
            }
            Fabric::Namespaces(namespaces) => namespaces.apply(conditions).context("network namespaces"),
        }
    }

    /// Makes room for host `number`, which will listen on `port` of an address of its own or of loopback.
    pub(super) async fn settle(&self, number: usize, port: u16) -> anyhow::Result<Place> {
        match &self.fabric {
            Fabric::Namespaces(namespaces) => {
                let address = format!("{}:{port}", namespaces.address(number)?);
                Ok(Place {
                    listen: address.clone(),
                    address,
                })
            }
            Fabric::Proxy(proxy) => {
                let listen = format!("127.0.0.1:{port}");
                let address = proxy.open(number, listen.clone()).await?;
                Ok(Place { listen, address })
            }
        }
    }

    /// What to put before the command of host `number`.
    pub(super) fn prefix(&self, number: usize) -> Vec<String> {
        match &self.fabric {
            Fabric::Namespaces(namespaces) => namespaces.prefix(number),
            Fabric::Proxy(_) => Vec::new(),
        }
    }

    /// From now on `pid` is host `number`.
    pub(super) fn moved_in(&self, pid: u32, number: usize) {
        if let Fabric::Proxy(proxy) = &self.fabric {
            proxy.moved_in(pid, number);
        }
    }

    /// Takes the network down, and names what is left of it.
    pub(super) fn close(&self) -> Vec<String> {
        match &self.fabric {
            Fabric::Namespaces(namespaces) => namespaces.remove_hosts(),
            Fabric::Proxy(proxy) => {
                proxy.close();
                Vec::new()
            }
        }
    }
}
