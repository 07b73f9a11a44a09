//! Starting, stopping and looking at the hosts.
//!
//! All bookkeeping lies behind one lock that is never held across an await, so any number of tasks may work on one
//! cluster. They must agree on who does what to which host; the lock keeps the books in order, not the intentions.

use std::net::TcpListener;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use anyhow::{Context, bail};
use client::proto::{InitRequest, ShardsRequest};
use client::{AdminClient, ClientConfig};
use tokio::time::Instant;

use super::host::{Host, Launch, Signal};
use super::layout::Layout;
use super::network::{Network, NetworkKind};
use super::options::ClusterOptions;
use super::recovery::until;
use super::shell;
use crate::native::FaultControl;

/// How long a cluster may take to be made.
const START_LIMIT: Duration = Duration::from_secs(60);
/// How long a host that was asked to end may take.
const GRACE: Duration = Duration::from_secs(10);
/// How long a host may take to replace its spoiled self.
pub(crate) const REBUILD_LIMIT: Duration = Duration::from_secs(60);
const LOOK_PAUSE: Duration = Duration::from_millis(20);
/// Beside the data folder of a host.
const CONTROL_FILE: &str = "faults";
/// Every namespace is an address of its own; on loopback ports are drawn.
const NAMESPACE_PORT: u16 = 7420;
/// Below the ports that the kernel gives to outgoing connections.
const LOOPBACK_PORTS: std::ops::Range<u64> = 12_000..32_000;
/// What in a log tells of a broken promise inside a host.
const COMPLAINTS: [&str; 2] = ["panicked at", "assertion"];
/// Where redb's sources lie: it panics on a page that bit rot has changed, and the engine makes an error of that.
const REDB_SOURCES: &str = "/redb-";

/// Small timings, and a log so small that snapshots and purges are part of every run.
const HOST_CONFIG: &str = r#"region = "jepsen"

[raft]
heartbeat_ms = 100
election_min_ms = 500
election_max_ms = 900
snapshot_entries = 300
keep_entries = 20

[log]
segment_bytes = 65536
live_bytes_max = 262144
tail_bytes = 131072

[checkpoint]
interval_ms = 500

[balancer]
enabled = false
host_moves_max = 64
dead_after_ms = 8000

[watch]
progress_interval_ms = 1000

[tracing]
filter = "info,openraft=error"
"#;

/// Host processes, their disks and the network between them.
#[derive(Debug)]
pub struct Cluster {
    options: ClusterOptions,
    launch: Launch,
    network: Network,
    hosts: Mutex<Vec<Host>>,
    ends: Mutex<Vec<String>>,
}

impl Cluster {
    /// Starts the hosts, makes the cluster and waits until every shard has a home.
    ///
    /// # Errors
    /// When a host does not start or the cluster does not settle.
    pub async fn start(options: ClusterOptions) -> anyhow::Result<Self> {
        let cluster = Self::prepare(options)?;
        for _ in 0..cluster.options.hosts {
            cluster.add_host().await?;
        }
        cluster.make().await?;
        cluster.recover(START_LIMIT, START_LIMIT).await?;
        Ok(cluster)
    }

    fn prepare(options: ClusterOptions) -> anyhow::Result<Self> {
        let network = Network::new(options.network, options.seed)?;
        std::fs::create_dir_all(&options.folder)?;
        if std::fs::read_dir(&options.folder)?.next().is_some() {
            bail!("{} is not empty", options.folder.display());
        }
        let folder = options.folder.canonicalize()?;
        let config = folder.join("host.toml");
        std::fs::write(&config, HOST_CONFIG)?;
        let launch = Launch {
            program: options.program.clone(),
            config,
            environment: options.environment.clone(),
            preload: options.preload.clone(),
        };
        Ok(Self {
            options: ClusterOptions { folder, ..options },
            launch,
            network,
            hosts: Mutex::default(),
            ends: Mutex::default(),
        })
    }

    async fn make(&self) -> anyhow::Result<()> {
        let hosts = u32::try_from(self.options.hosts)?;
        let request = InitRequest {
            shards: self.options.shards,
            split_at: self
                .options
                .split_at
                .iter()
                .map(|key| key.clone().into())
                .collect(),
            replication_factor: hosts.min(3),
            hosts,
        };
        let first = self.admin_of(&self.addresses()[..1])?;
        until(START_LIMIT, async || {
            if first.status().await?.cluster_id.is_empty() {
                first.init(request.clone()).await?;
            }
            Ok(())
        })
        .await
        .context("the cluster is not made")
    }

    /// Starts one more host, which joins the others. Its number.
    ///
    /// # Errors
    /// When it cannot be started.
    pub async fn add_host(&self) -> anyhow::Result<usize> {
        let number = self.hosts().len() + 1;
        let port = match self.network.kind() {
            NetworkKind::Namespaces => NAMESPACE_PORT,
            NetworkKind::Proxy => free_port(number)?,
        };
        let place = self.network.settle(number, port).await?;
        let folder = self.options.folder.join(format!("h{number}"));
        std::fs::create_dir_all(&folder)?;
        let control = match self.options.preload {
            Some(_) => Some(Arc::new(FaultControl::open(&folder.join(CONTROL_FILE))?)),
            None => None,
        };
        let host = Host {
            number,
            join: self.addresses(),
            address: place.address,
            listen: place.listen,
            zone: format!("z{number}"),
            folder,
            may_end: false,
            paused: false,
            must_restart: false,
            spoiled: None,
            renewed: false,
            doubted: None,
            control,
            attached_before: 0,
            child: None,
        };
        self.hosts().push(host);
        self.start_host(number)?;
        Ok(number)
    }

    /// What the cluster was started with.
    pub fn options(&self) -> &ClusterOptions {
        &self.options
    }

    /// The network, to break it.
    pub fn network(&self) -> &Network {
        &self.network
    }

    /// The numbers of all hosts.
    pub fn numbers(&self) -> Vec<usize> {
        (1..=self.hosts().len()).collect()
    }

    /// Where clients reach the hosts.
    pub fn addresses(&self) -> Vec<String> {
        self.hosts().iter().map(|host| host.address.clone()).collect()
    }

    /// The addresses of all hosts but one.
    pub(super) fn other_addresses(&self, number: usize) -> Vec<String> {
        let hosts = self.hosts();
        let others = hosts.iter().filter(|host| host.number != number);
        others.map(|host| host.address.clone()).collect()
    }

    /// Hosts that have a process which is not paused.
    pub fn running(&self) -> Vec<usize> {
        let mut hosts = self.hosts();
        let running = hosts
            .iter_mut()
            .filter_map(|host| (host.running() && !host.paused).then_some(host.number));
        running.collect()
    }

    /// The data folder of a host.
    pub fn data_folder(&self, number: usize) -> PathBuf {
        self.with_host(number, |host| host.data())
    }

    /// How a client is to reach the cluster. Its operations end within seconds, so that a client that is cut off does
    /// not stand still for a whole fault.
    pub fn client_config(&self) -> ClientConfig {
        config_for(&self.addresses())
    }

    /// An operator's client, which asks hosts that can answer before others.
    ///
    /// # Errors
    /// When there is no host.
    pub fn admin(&self) -> anyhow::Result<AdminClient> {
        let running = self.running();
        let mut numbers = self.numbers();
        numbers.sort_by_key(|number| !running.contains(number) || self.network.is_cut_off(*number));
        let addresses = self.addresses();
        let ordered: Vec<String> = numbers
            .iter()
            .filter_map(|number| addresses.get(number - 1).cloned())
            .collect();
        self.admin_of(&ordered)
    }

    /// An operator's client of one host.
    ///
    /// # Errors
    /// When there is no such host.
    pub fn admin_of_host(&self, number: usize) -> anyhow::Result<AdminClient> {
        let address = self.with_host(number, |host| host.address.clone());
        self.admin_of(&[address])
    }

    /// Where a host is reached.
    pub fn address_of(&self, number: usize) -> String {
        self.with_host(number, |host| host.address.clone())
    }

    fn admin_of(&self, addresses: &[String]) -> anyhow::Result<AdminClient> {
        Ok(AdminClient::new(config_for(addresses))?)
    }

    /// What the cluster says of itself.
    ///
    /// # Errors
    /// When no host answers.
    pub async fn layout(&self) -> anyhow::Result<Layout> {
        let admin = self.admin()?;
        let shards = |placement_group| ShardsRequest {
            shard_id: 0,
            placement_group,
        };
        let mut placement = admin.shards(shards(true)).await?.shards;
        let addresses = self.addresses();
        Ok(Layout {
            hosts: admin.hosts().await?.hosts,
            shards: admin.shards(shards(false)).await?.shards,
            placement: placement.pop().context("no placement group")?,
            controller: self.controller().await.unwrap_or(0),
            numbers: addresses.into_iter().zip(1..).collect(),
        })
    }

    /// The id of the host that leads the placement group, by the first host that knows.
    async fn controller(&self) -> Option<u64> {
        for number in self.running() {
            let status = self.admin_of_host(number).ok()?.status().await;
            if let Ok(status) = status
                && status.placement_leader != 0
            {
                return Some(status.placement_leader);
            }
        }
        None
    }

    /// Starts a host that does not run; nothing happens to one that does.
    ///
    /// # Errors
    /// When the process cannot be started.
    pub fn start_host(&self, number: usize) -> anyhow::Result<()> {
        self.start_with(number, &[])
    }

    /// Starts a host with more environment, such as armed fail points. It counts as one that may end by itself, and
    /// gets a new process when the cluster is healed.
    ///
    /// # Errors
    /// When the process cannot be started.
    pub fn start_armed(&self, number: usize, environment: &[(String, String)]) -> anyhow::Result<()> {
        self.start_with(number, environment)
    }

    fn start_with(&self, number: usize, environment: &[(String, String)]) -> anyhow::Result<()> {
        self.note_ends();
        let prefix = self.network.prefix(number);
        self.with_host(number, |host| {
            if host.child.is_some() {
                return Ok(());
            }
            host.may_end = !environment.is_empty()
                || host.doubted.is_some()
                || (host.spoiled.is_some() && !host.renewed);
            let pid = host.start(&self.launch, &prefix, environment)?;
            self.network.moved_in(pid, number);
            Ok(())
        })
    }

    /// SIGKILL. Whether there was a process to kill.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn kill(&self, number: usize) -> anyhow::Result<bool> {
        self.note_ends();
        self.with_host(number, Host::kill)
    }

    /// Any other signal. Whether there was a process to get it.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn signal(&self, number: usize, signal: Signal) -> anyhow::Result<bool> {
        self.with_host(number, |host| host.signal(signal))
    }

    /// Asks a host to end, and waits until it has. False if it did not run, or had to be killed.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub async fn terminate(&self, number: usize) -> anyhow::Result<bool> {
        if !self.signal(number, Signal::Terminate)? {
            return Ok(false);
        }
        if self.wait_for_end(number, GRACE).await {
            self.with_host(number, Host::take_end);
            return Ok(true);
        }
        self.complain(format!("host {number} did not end within {GRACE:?} of SIGTERM"));
        self.kill(number)?;
        Ok(false)
    }

    /// Waits until the process of a host has ended by itself; whether it did.
    pub async fn wait_for_end(&self, number: usize, limit: Duration) -> bool {
        let started = Instant::now();
        while self.with_host(number, Host::running) {
            if started.elapsed() >= limit {
                return false;
            }
            tokio::time::sleep(LOOK_PAUSE).await;
        }
        true
    }

    /// Whether an end of this host that nobody asked for is part of a fault. Of a host in doubt it always is.
    pub fn expect_end(&self, number: usize, expected: Expected) {
        self.with_host(number, |host| {
            host.may_end = expected == Expected::Yes || host.doubted.is_some();
        });
    }

    /// Ends all faults: the network is whole, disks and clocks are sound, every host runs.
    ///
    /// # Errors
    /// When something cannot be undone.
    pub async fn heal(&self) -> anyhow::Result<()> {
        self.network.heal()?;
        self.note_ends();
        for number in self.numbers() {
            self.call_off(number)?;
            // One that may end could be about to: what it was told is over, so it begins again.
            let (paused, must_restart, spoiled) = self.with_host(number, |host| {
                let must_restart = host.must_restart || host.may_end;
                (host.paused, must_restart, host.spoiled.is_some())
            });
            if paused {
                self.signal(number, Signal::Continue)?;
            }
            if must_restart {
                self.kill(number)?;
            }
            if !spoiled {
                self.expect_end(number, Expected::No);
                self.start_host(number)?;
            }
        }
        for number in self.numbers() {
            self.settle_doubt(number).await;
            self.rebuild(number, REBUILD_LIMIT).await?;
        }
        Ok(())
    }

    /// What must not be in a run: lines of the hosts' logs that tell of a panic or a broken assertion, hosts that
    /// ended without being asked to, and such as did not end when asked.
    pub fn complaints(&self) -> Vec<String> {
        self.note_ends();
        let mut found = self.ends.lock().expect("no panic with the lock held").clone();
        for number in self.numbers() {
            let log = std::fs::read(self.with_host(number, |host| host.log())).unwrap_or_default();
            let text = String::from_utf8_lossy(&log);
            let lines = text.lines().filter(|line| is_complaint(line));
            found.extend(lines.map(|line| format!("host {number}: {line}")));
        }
        found
    }

    /// Ends everything that was started, and names what is still there: processes, namespaces, mounts.
    pub async fn stop(self) -> Vec<String> {
        let mut pids = Vec::new();
        let mut left = Vec::new();
        for host in self.hosts().iter_mut() {
            pids.extend(host.child.as_ref().map(|child| (host.number, child.id())));
            left.extend(
                host.kill()
                    .err()
                    .map(|error| format!("host {}: {error:#}", host.number)),
            );
        }
        let alive = pids.into_iter().filter(|(_, pid)| shell::is_alive(*pid));
        left.extend(alive.map(|(number, pid)| format!("process {pid} of host {number}")));
        left.extend(
            self.network
                .close()
                .into_iter()
                .map(|name| format!("namespace {name}")),
        );
        let mounts = shell::mounts_below(&self.options.folder);
        left.extend(mounts.into_iter().map(|point| format!("mount {point}")));
        left
    }

    /// Takes down who ended without being asked to.
    fn note_ends(&self) {
        let mut lines = Vec::new();
        for host in self.hosts().iter_mut() {
            let asked = host.may_end || host.must_restart;
            if let Some(status) = host.take_end()
                && !asked
            {
                lines.push(format!("host {} ended by itself: {status}", host.number));
            }
        }
        self.ends
            .lock()
            .expect("no panic with the lock held")
            .extend(lines);
    }

    pub(crate) fn complain(&self, line: String) {
        self.ends.lock().expect("no panic with the lock held").push(line);
    }

    /// Works on one host's books. Numbers come from [`Cluster::numbers`]; hosts are never removed.
    pub(super) fn with_host<T>(&self, number: usize, work: impl FnOnce(&mut Host) -> T) -> T {
        let mut hosts = self.hosts();
        let host = hosts.get_mut(number.wrapping_sub(1));
        work(host.unwrap_or_else(|| panic!("there is no host {number}")))
    }

    fn hosts(&self) -> std::sync::MutexGuard<'_, Vec<Host>> {
        self.hosts.lock().expect("no panic with the lock held")
    }
}

/// Whether something is to be expected.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Expected {
    /// It is part of a fault.
    Yes,
    /// It is a failure of the host.
    No,
}

fn config_for(addresses: &[String]) -> ClientConfig {
    let mut config = ClientConfig {
        deadline: Duration::from_secs(3),
        ..ClientConfig::new(addresses)
    };
    config.retry.attempt_timeout = Duration::from_secs(1);
    config.transport.connect_timeout = Duration::from_millis(500);
    config.transport.keep_alive_interval = Duration::from_secs(1);
    config.transport.keep_alive_timeout = Duration::from_secs(1);
    config
}

/// A loopback port that nobody listens on. Where the search begins differs from process to process.
fn free_port(number: usize) -> anyhow::Result<u16> {
    let span = LOOPBACK_PORTS.end - LOOPBACK_PORTS.start;
    let begin = u64::from(std::process::id()) * 64 + number as u64;
    let tried = (0..span).map(|step| LOOPBACK_PORTS.start + (begin + step) % span);
    let ports = tried.filter_map(|port| u16::try_from(port).ok());
    let mut free = ports.filter(|port| TcpListener::bind(("127.0.0.1", *port)).is_ok());
    free.next().context("no free port")
}

/// Whether a line of a host's log tells of a broken promise. A panic inside redb is none by itself: that a host ended
/// of a file that no fault had touched is found by how it ended.
fn is_complaint(line: &str) -> bool {
    COMPLAINTS.iter().any(|word| line.contains(word)) && !line.contains(REDB_SOURCES)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn panics_are_complaints_but_those_of_a_rotten_page() {
        assert!(is_complaint("thread 'main' panicked at server/src/serve.rs:7:1:"));
        assert!(is_complaint("assertion `left == right` failed"));
        assert!(!is_complaint(
            "thread 'main' panicked at /crates/redb-4.5.0/src/tree_store/btree_base.rs:283:42:"
        ));
        assert!(!is_complaint("INFO a host's state changed"));
    }
}
