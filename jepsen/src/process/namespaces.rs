//! A network of namespaces: one for each host, one for the clients, and one with the bridge that joins them.
//!
//! ```text
//! P-c   clients, 10.77.0.250 ---+
//! P-h1  host 1,  10.77.0.1  ----+-- br0 in P-s, where packets are dropped
//! P-h2  host 2,  10.77.0.2  ----+
//! ```
//!
//! Nothing touches the namespace that the program was started in. `P` names the process that made the namespaces, so
//! runs beside each other do not meet, and a run that died is recognised and cleared away by the next.
//!
//! Packets are dropped in one place, by one table that is replaced in one transaction: there is no moment at which half
//! of a partition holds. Resets must come from the receiving end, since this kernel cannot reject on a bridge; each
//! host's namespace has its own small table for them.
//!
//! Not here: delay, reordering and duplication. The kernel's own means for them (netem) may be missing; a switch
//! program that replaces the bridge would be attached in [`Namespaces::add_host`] and asked in [`Namespaces::apply`].

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write;
use std::path::Path;
use std::sync::Mutex;

use super::condition::{Conditions, Effect, End, Way};
use super::shell;

/// Tells a program that it runs in the client namespace, and the prefix of all names.
pub(super) const MARKER: &str = "JEPSEN_NAMESPACES";
/// What all prefixes begin with; the maker's process id follows.
const PREFIX: &str = "jepsen";
const NETNS_FOLDER: &str = "/var/run/netns";
const CLIENTS: u8 = 250;
const TABLE: &str = "jepsen";

/// The programs without which there are no namespaces.
const NEEDED: [&str; 3] = ["ip", "nft", "nsenter"];

/// The namespaces that this process lives among.
#[derive(Debug)]
pub(super) struct Namespaces {
    prefix: String,
    hosts: Mutex<BTreeSet<usize>>,
    /// Hosts whose own table exists.
    resetting: Mutex<BTreeSet<usize>>,
}

/// Why there can be no namespaces here; `None`: there can.
pub(super) fn missing() -> Option<String> {
    if let Some(program) = NEEDED.iter().find(|name| shell::find_program(name).is_none()) {
        return Some(format!("this machine has no {program}"));
    }
    let probe = format!("{}-probe", own_prefix());
    if let Err(refused) = shell::run("ip", ["netns", "add", &probe]) {
        return Some(format!("no network namespaces: {refused:#}"));
    }
    let filters = shell::run(
        "ip",
        ["netns", "exec", &probe, "nft", "add", "table", "bridge", TABLE],
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

/// Makes the bridge and the client namespace; returns the prefix of their names.
pub(super) fn make() -> anyhow::Result<String> {
    let prefix = own_prefix();
    let switch = format!("{prefix}-s");
    ip(&["netns", "add", &switch])?;
    ip(&["-n", &switch, "link", "add", "br0", "type", "bridge"])?;
    ip(&["-n", &switch, "link", "set", "br0", "up"])?;
    attach(&prefix, "c", CLIENTS)?;
    Ok(prefix)
}

/// Makes a namespace that is joined to the bridge at the address's last byte.
fn attach(prefix: &str, name: &str, last: u8) -> anyhow::Result<()> {
    let (switch, namespace) = (format!("{prefix}-s"), format!("{prefix}-{name}"));
    let port = format!("p{last}");
    ip(&["netns", "add", &namespace])?;
    ip(&[
        "-n", &switch, "link", "add", &port, "type", "veth", "peer", "name", "eth0", "netns", &namespace,
    ])?;
    ip(&["-n", &switch, "link", "set", &port, "master", "br0", "up"])?;
    ip(&[
        "-n",
        &namespace,
        "addr",
        "add",
        &format!("10.77.0.{last}/24"),
        "dev",
        "eth0",
    ])?;
    ip(&["-n", &namespace, "link", "set", "eth0", "up"])?;
    ip(&["-n", &namespace, "link", "set", "lo", "up"])
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
pub(super) fn entering(prefix: &str, name: &str) -> Vec<String> {
    let path = Path::new(NETNS_FOLDER).join(format!("{prefix}-{name}"));
    vec!["nsenter".to_owned(), format!("--net={}", path.display())]
}

impl Namespaces {
    /// Those that this process was put into.
    pub(super) fn entered() -> Option<Self> {
        Some(Self {
            prefix: std::env::var(MARKER).ok().filter(|prefix| !prefix.is_empty())?,
            hosts: Mutex::default(),
            resetting: Mutex::default(),
        })
    }

    /// Whether it can be done here.
    pub(super) fn offers(&self, effect: Effect) -> bool {
        matches!(effect, Effect::Block | Effect::Reset | Effect::Lose { .. })
    }

    /// Makes the namespace of host `number`; its address.
    pub(super) fn add_host(&self, number: usize) -> anyhow::Result<String> {
        let last = u8::try_from(number).ok().filter(|last| *last < CLIENTS);
        let last = last.ok_or_else(|| anyhow::anyhow!("no address for host {number}"))?;
        self.hosts
            .lock()
            .expect("no panic with the lock held")
            .insert(number);
        attach(&self.prefix, &format!("h{number}"), last)?;
        Ok(address_of(End::Host(number)))
    }

    /// What to put before a command of host `number`.
    pub(super) fn prefix(&self, number: usize) -> Vec<String> {
        entering(&self.prefix, &format!("h{number}"))
    }

    /// Replaces the packet filters.
    pub(super) fn apply(&self, conditions: &Conditions) -> anyhow::Result<()> {
        self.replace_filter("s", &crossing(conditions))?;
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
            self.replace_filter(&format!("h{number}"), &rejecting(&[]))?;
            resetting.remove(number);
        }
        for (number, ways) in receivers {
            self.replace_filter(&format!("h{number}"), &rejecting(&ways))?;
            resetting.insert(number);
        }
        Ok(())
    }

    fn replace_filter(&self, name: &str, script: &str) -> anyhow::Result<()> {
        let line = entering(&self.prefix, name);
        let arguments = line.iter().skip(1).map(String::as_str).chain(["nft", "-f", "-"]);
        shell::run_with_input(&line[0], arguments, script).map(drop)
    }

    /// Removes the hosts' namespaces, and names those that are still there. Switch and clients stay: this process
    /// lives there.
    pub(super) fn remove_hosts(&self) -> Vec<String> {
        let hosts = std::mem::take(&mut *self.hosts.lock().expect("no panic with the lock held"));
        let names: Vec<String> = hosts
            .iter()
            .map(|number| format!("{}-h{number}", self.prefix))
            .collect();
        names.iter().for_each(|name| remove(name));
        // The filter outlives the hosts it names; the next cluster begins with an open one.
        self.replace_filter("s", &crossing(&Conditions::default())).ok();
        let left = existing();
        names.into_iter().filter(|name| left.contains(name)).collect()
    }
}

impl Drop for Namespaces {
    fn drop(&mut self) {
        if !self.hosts.lock().is_ok_and(|hosts| hosts.is_empty()) {
            self.remove_hosts();
        }
    }
}

fn ip(arguments: &[&str]) -> anyhow::Result<()> {
    shell::run("ip", arguments).map(drop)
}

fn address_of(end: End) -> String {
    match end {
        End::Clients => format!("10.77.0.{CLIENTS}"),
        End::Host(number) => format!("10.77.0.{number}"),
    }
}

/// The switch's table: what is dropped on its way across the bridge.
fn crossing(conditions: &Conditions) -> String {
    let mut script = emptied("bridge");
    let blocked = conditions.ways_with(|effect| effect == Effect::Block);
    writeln!(
        script,
        "table bridge {TABLE} {{\n set blocked {{ type ipv4_addr . ipv4_addr"
    )
    .ok();
    if !blocked.is_empty() {
        writeln!(script, "  elements = {{ {} }}", pairs(&blocked)).ok();
    }
    script.push_str(" }\n chain crossing {\n  type filter hook forward priority 0\n");
    script.push_str("  ip saddr . ip daddr @blocked drop\n");
    for condition in conditions.0.values() {
        if let Effect::Lose { permille } = condition.effect
            && !condition.ways.is_empty()
        {
            let ways = pairs(&condition.ways);
            writeln!(
                script,
                "  ip saddr . ip daddr {{ {ways} }} numgen random mod 1000 < {permille} drop"
            )
            .ok();
        }
    }
    script.push_str(" }\n}\n");
    script
}

/// A host's table: whose packets are answered with a reset.
fn rejecting(ways: &[Way]) -> String {
    let mut script = emptied("inet");
    if !ways.is_empty() {
        let senders: BTreeSet<String> = ways.iter().map(|(from, _)| address_of(*from)).collect();
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

/// The beginning of a transaction that replaces a table, whether there was one or not.
fn emptied(family: &str) -> String {
    format!("add table {family} {TABLE}\ndelete table {family} {TABLE}\n")
}

fn pairs(ways: &BTreeSet<Way>) -> String {
    let pairs: Vec<String> = ways
        .iter()
        .map(|(from, to)| format!("{} . {}", address_of(*from), address_of(*to)))
        .collect();
    pairs.join(", ")
}

#[cfg(test)]
mod tests {
    use super::super::condition::{Condition, ways_between};
    use super::*;

    #[test]
    fn one_table_says_what_is_dropped() {
        let one_way = ways_between(&[End::Host(1)], &[End::Host(2), End::Clients]);
        let named = |name: &str, effect| {
            let ways = one_way.clone();
            (name.to_owned(), Condition { effect, ways })
        };
        let conditions = Conditions(BTreeMap::from([
            named("cut", Effect::Block),
            named("loss", Effect::Lose { permille: 30 }),
        ]));
        let script = crossing(&conditions);
        let pairs = "10.77.0.1 . 10.77.0.250, 10.77.0.1 . 10.77.0.2";
        assert!(script.contains(&format!("elements = {{ {pairs} }}")), "{script}");
        assert!(
            script.contains(&format!("{{ {pairs} }} numgen random mod 1000 < 30 drop")),
            "{script}"
        );
        assert!(!crossing(&Conditions::default()).contains("elements"));
    }
}
