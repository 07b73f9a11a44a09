//! A network of namespaces: one for each host and one for the clients, joined by a switch of ours.
//!
//! ```text
//! P-c   clients, 10.77.0.250 ---+
//! P-h1  host 1,  10.77.0.1  ----+-- native/switch.c
//! P-h2  host 2,  10.77.0.2  ----+
//! ```
//!
//! Nothing touches the namespace that the program was started in. `P` names the process that made the namespaces, so
//! runs beside each other do not meet, and a run that died is recognised and cleared away by the next.
//!
//! The switch cuts, loses, delays and reorders packets by ordered pairs of ends. Resets must come from the receiving
//! end: each host's namespace has a small table of its own for them. The kernel's own means to delay packets (netem)
//! are not needed; a machine may lack them.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write;
use std::path::Path;
use std::sync::{Mutex, MutexGuard};

use anyhow::ensure;

use super::condition::{Conditions, Effect, End, Way};
use super::shell;
use super::switchboard::{self, HOSTS_MAX, Switchboard, address_of};
use crate::native::{DEVICE, compiler};

/// Tells a program that it runs in the client namespace, and the prefix of all names.
pub(super) const MARKER: &str = "JEPSEN_NAMESPACES";
/// What all prefixes begin with; the maker's process id follows.
const PREFIX: &str = "jepsen";
const NETNS_FOLDER: &str = "/var/run/netns";
const TUN: &str = "/dev/net/tun";
const TABLE: &str = "jepsen";

/// The programs without which there are no namespaces.
const NEEDED: [&str; 3] = ["ip", "nft", "nsenter"];

/// The namespaces that this process lives among, of the hosts of one cluster.
#[derive(Debug)]
pub(super) struct Namespaces {
    prefix: String,
    /// `None`: they were removed.
    board: Mutex<Option<Switchboard>>,
    /// Hosts whose own table exists.
    resetting: Mutex<BTreeSet<usize>>,
}

/// Why there can be no namespaces here; `None`: there can.
pub(super) fn missing() -> Option<String> {
    if let Some(program) = NEEDED.iter().find(|name| shell::find_program(name).is_none()) {
        return Some(format!("this machine has no {program}"));
    }
    if !Path::new(TUN).exists() {
        return Some(format!("this machine has no {TUN}"));
    }
    if let Err(refused) = compiler() {
        return Some(format!("{refused:#}"));
    }
    let probe = format!("{}-probe", own_prefix());
    if let Err(refused) = shell::run("ip", ["netns", "add", &probe]) {
        return Some(format!("no network namespaces: {refused:#}"));
    }
    let filters = shell::run(
        "ip",
        ["netns", "exec", &probe, "nft", "add", "table", "inet", TABLE],
    );
    shell::run("ip", ["netns", "del", &probe]).ok();
    filters
        .err()
        .map(|refused| format!("no packet filter: {refused:#}"))
}

/// The prefix of what this process makes.
pub(super) fn own_prefix() -> String {
    format!("{PREFIX}{}", std::process::id())
}

/// Makes the client namespace; returns the prefix of the names to come.
pub(super) fn make() -> anyhow::Result<String> {
    let prefix = own_prefix();
    add(&name_of(&prefix, End::Clients))?;
    Ok(prefix)
}

fn add(namespace: &str) -> anyhow::Result<()> {
    ip(&["netns", "add", namespace])?;
    ip(&["-n", namespace, "link", "set", "lo", "up"])
}

fn name_of(prefix: &str, end: End) -> String {
    match end {
        End::Clients => format!("{prefix}-c"),
        End::Host(number) => format!("{prefix}-h{number}"),
    }
}

/// Whether it can be done here.
pub(super) fn offers(effect: Effect) -> bool {
    effect == Effect::Reset || switchboard::offers(effect)
}

/// Ends what runs in namespaces of this prefix, and removes them; names those that are still there.
pub(super) fn remove_all(prefix: &str) -> Vec<String> {
    let ours = format!("{prefix}-");
    for namespace in existing().iter().filter(|name| name.starts_with(&ours)) {
        remove(namespace);
    }
    existing()
        .into_iter()
        .filter(|name| name.starts_with(&ours))
        .collect()
}

/// Removes the namespaces of runs whose process is gone.
pub(super) fn remove_abandoned() {
    for namespace in existing() {
        let maker = namespace
            .strip_prefix(PREFIX)
            .and_then(|rest| rest.split_once('-'))
            .and_then(|(pid, _)| pid.parse().ok());
        if maker.is_some_and(|pid: u32| !shell::is_alive(pid)) {
            remove(&namespace);
        }
    }
}

fn remove(namespace: &str) {
    let pids = shell::run("ip", ["netns", "pids", namespace]).unwrap_or_default();
    for pid in pids
        .split_ascii_whitespace()
        .filter(|pid| *pid != std::process::id().to_string())
    {
        shell::run("kill", ["-KILL", pid]).ok();
    }
    shell::run("ip", ["netns", "del", namespace]).ok();
}

fn existing() -> Vec<String> {
    let Ok(entries) = std::fs::read_dir(NETNS_FOLDER) else {
        return Vec::new();
    };
    let names = entries
        .flatten()
        .map(|entry| entry.file_name().to_string_lossy().into_owned());
    names.collect()
}

/// The command line that runs what follows it in a namespace. Unlike `ip netns exec` it leaves mounts alone.
pub(super) fn entering(prefix: &str, end: End) -> Vec<String> {
    let path = Path::new(NETNS_FOLDER).join(name_of(prefix, end));
    vec!["nsenter".to_owned(), format!("--net={}", path.display())]
}

impl Namespaces {
    /// Those that this process was put into, with a plug for every host that may come.
    pub(super) fn entered(seed: u64) -> anyhow::Result<Option<Self>> {
        let prefix = std::env::var(MARKER).ok().filter(|prefix| !prefix.is_empty());
        let Some(prefix) = prefix else {
            return Ok(None);
        };
        let namespaces = Self {
            prefix,
            board: Mutex::default(),
            resetting: Mutex::default(),
        };
        namespaces.plug_in(seed)?;
        Ok(Some(namespaces))
    }

    fn plug_in(&self, seed: u64) -> anyhow::Result<()> {
        let name = |end| name_of(&self.prefix, end);
        for end in switchboard::ends().filter(|end| *end != End::Clients) {
            add(&name(end))?;
        }
        let board = Switchboard::start(name, seed)?;
        for end in switchboard::ends() {
            let (namespace, address) = (name(end), format!("{}/24", address_of(end)));
            ip(&["-n", &namespace, "addr", "add", &address, "dev", DEVICE])?;
            ip(&["-n", &namespace, "link", "set", DEVICE, "up"])?;
        }
        *self.lock_board() = Some(board);
        Ok(())
    }

    fn lock_board(&self) -> MutexGuard<'_, Option<Switchboard>> {
        self.board.lock().expect("no panic with the lock held")
    }

    /// The address of host `number`.
    pub(super) fn address(&self, number: usize) -> anyhow::Result<String> {
        ensure!(
            number <= HOSTS_MAX,
            "no address for host {number}: there are at most {HOSTS_MAX}"
        );
        Ok(address_of(End::Host(number)).to_string())
    }

    /// What to put before a command of host `number`.
    pub(super) fn prefix(&self, number: usize) -> Vec<String> {
        entering(&self.prefix, End::Host(number))
    }

    /// Has these conditions hold, and no others.
    pub(super) fn apply(&self, conditions: &Conditions) -> anyhow::Result<()> {
        if let Some(board) = &*self.lock_board() {
            board.apply(conditions)?;
        }
        let broken = conditions.ways_with(|effect| effect == Effect::Reset);
        let mut receivers: BTreeMap<usize, Vec<Way>> = BTreeMap::new();
        for way in &broken {
            if let End::Host(number) = way.1 {
                receivers.entry(number).or_default().push(*way);
            }
        }
        let mut resetting = self.resetting.lock().expect("no panic with the lock held");
        let was: Vec<usize> = resetting.iter().copied().collect();
        for number in was.iter().filter(|number| !receivers.contains_key(number)) {
            self.replace_filter(*number, &rejecting(&[]))?;
            resetting.remove(number);
        }
        for (number, ways) in receivers {
            self.replace_filter(number, &rejecting(&ways))?;
            resetting.insert(number);
        }
        Ok(())
    }

    fn replace_filter(&self, number: usize, script: &str) -> anyhow::Result<()> {
        let line = entering(&self.prefix, End::Host(number));
        let arguments = line.iter().skip(1).map(String::as_str).chain(["nft", "-f", "-"]);
        shell::run_with_input(&line[0], arguments, script).map(drop)
    }

    /// Stops the switch, removes the hosts' namespaces, and names those that are still there. The clients' stays: this
    /// process lives there.
    pub(super) fn remove_hosts(&self) -> Vec<String> {
        drop(self.lock_board().take());
        let names: Vec<String> = switchboard::ends()
            .filter(|end| *end != End::Clients)
            .map(|end| name_of(&self.prefix, end))
            .collect();
        let made = existing();
        names
            .iter()
            .filter(|name| made.contains(name))
            .for_each(|name| remove(name));
        let left = existing();
        names.into_iter().filter(|name| left.contains(name)).collect()
    }
}

impl Drop for Namespaces {
    fn drop(&mut self) {
        self.remove_hosts();
    }
}

fn ip(arguments: &[&str]) -> anyhow::Result<()> {
    shell::run("ip", arguments).map(drop)
}

/// A host's table: whose packets are answered with a reset.
fn rejecting(ways: &[Way]) -> String {
    // One transaction, whether there was a table or not.
    let mut script = format!("add table inet {TABLE}\ndelete table inet {TABLE}\n");
    if !ways.is_empty() {
        let senders: BTreeSet<String> = ways
            .iter()
            .map(|(from, _)| address_of(*from).to_string())
            .collect();
        let senders: Vec<String> = senders.into_iter().collect();
        writeln!(
            script,
            "table inet {TABLE} {{\n chain entering {{\n  type filter hook input priority 0\n  \
             ip saddr {{ {} }} meta l4proto tcp reject with tcp reset\n }}\n}}",
            senders.join(", ")
        )
        .ok();
    }
    script
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_table_rejects_the_senders_it_is_for() {
        let script = rejecting(&[(End::Host(1), End::Host(2)), (End::Clients, End::Host(2))]);
        assert!(
            script.contains("ip saddr { 10.77.0.1, 10.77.0.250 } meta l4proto tcp reject"),
            "{script}"
        );
        assert!(!rejecting(&[]).contains("reject"));
    }
}
