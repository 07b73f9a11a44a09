//! Clusters of `godwit serve` processes.

use std::collections::BTreeMap;
use std::fs::File;
use std::net::TcpListener;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use client::proto::{InitRequest, MigrationStatus, MigrationsRequest, ShardStatus, ShardsRequest};
use client::{AdminClient, Client, ClientConfig};
use serde_json::Value;
use tempfile::TempDir;

/// Nothing here takes longer on a loaded machine with two cores.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);
const PAUSE: Duration = Duration::from_millis(50);
/// Below the ports of which the system takes one for each connection that is made.
const PORTS: Range<u32> = 20_000..30_000;

/// A host process and its folder.
pub(crate) struct Host {
    pub(crate) address: String,
    pub(crate) folder: PathBuf,
    pub(crate) zone: String,
    pub(crate) join: Option<String>,
    /// More of its configuration, as `field=value`.
    pub(crate) settings: Vec<String>,
    /// Variables of its environment.
    pub(crate) environment: Vec<(String, String)>,
    child: Option<Child>,
}

/// Some hosts; the first one makes the cluster.
pub(crate) struct Cluster {
    pub(crate) hosts: Vec<Host>,
    _temp: TempDir,
}

impl Drop for Host {
    fn drop(&mut self) {
        self.kill();
        if std::thread::panicking() {
            let log = std::fs::read_to_string(self.folder.join("host.log")).unwrap_or_default();
            let tail: Vec<&str> = log.lines().rev().take(40).collect();
            eprintln!("--- {} ({})", self.address, self.folder.display());
            tail.iter().rev().for_each(|line| eprintln!("{line}"));
        }
    }
}

impl Host {
    /// Starts the process; `points` are fail points at which it ends itself.
    pub(crate) fn start(&mut self, points: &str) {
        std::fs::create_dir_all(&self.folder).unwrap();
        let log = File::options()
            .create(true)
            .append(true)
            .open(self.folder.join("host.log"))
            .unwrap();
        let mut command = Command::new(env!("CARGO_BIN_EXE_godwit"));
        command
            .args(["serve", "--log-filter=info,openraft=error"])
            .arg(format!("--data-dir={}", self.folder.join("data").display()))
            .arg(format!("--listen={}", self.address))
            .arg(format!("--zone={}", self.zone))
            .arg("--region=test")
            .args(self.settings.iter().map(|setting| format!("--set={setting}")))
            .env_remove("RUST_LOG")
            .envs(self.environment.clone())
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log);
        if let Some(join) = &self.join {
            command.arg(format!("--join={join}"));
        }
        if !points.is_empty() {
            command.env("GODWIT_ABORT_AT", points);
        }
        self.child = Some(command.spawn().unwrap());
    }

    /// SIGKILL.
    pub(crate) fn kill(&mut self) {
        if let Some(mut child) = self.child.take() {
            child.kill().ok();
            child.wait().ok();
        }
    }

    /// Any signal, by its name.
    pub(crate) fn signal(&self, name: &str) {
        let child = self.child.as_ref().expect("the host runs");
        let sent = Command::new("kill")
            .arg(format!("-{name}"))
            .arg(child.id().to_string())
            .status();
        assert!(sent.unwrap().success());
    }

    /// Waits for the process to end by itself.
    pub(crate) fn wait_for_end(&mut self) -> std::process::ExitStatus {
        let started = Instant::now();
        let child = self.child.as_mut().expect("the host was started");
        loop {
            if let Some(status) = child.try_wait().unwrap() {
                self.child = None;
                return status;
            }
            assert!(started.elapsed() < PATIENCE, "{} did not end", self.address);
            std::thread::sleep(PAUSE);
        }
    }

    /// Whether the process is still there.
    pub(crate) fn runs(&mut self) -> bool {
        self.child
            .as_mut()
            .is_some_and(|child| child.try_wait().unwrap().is_none())
    }
}

/// A free loopback address, given once. Another process may take it before it is used; then the host says so and the test
/// fails.
pub(crate) fn free_address() -> String {
    static GIVEN: AtomicU32 = AtomicU32::new(0);
    let span = PORTS.end - PORTS.start;
    let begin = std::process::id().wrapping_mul(64);
    let tried = (0..span).map(|_| begin.wrapping_add(GIVEN.fetch_add(1, Ordering::Relaxed)) % span);
    let mut addresses = tried.map(|at| format!("127.0.0.1:{}", PORTS.start + at));
    addresses
        .find(|address| TcpListener::bind(address).is_ok())
        .unwrap()
}

impl Cluster {
    /// Starts `count` hosts in zones of their own, makes a cluster of `shards` shards with three replicas, and waits
    /// until each has a home.
    pub(crate) async fn start(count: usize, shards: u32) -> Self {
        Self::start_with(count, shards, &[]).await
    }

    /// The same, with these settings of every host.
    pub(crate) async fn start_with(count: usize, shards: u32, settings: &[&str]) -> Self {
        let mut cluster = Self::processes(count);
        for host in &mut cluster.hosts {
            host.settings = settings.iter().map(|setting| (*setting).to_owned()).collect();
            host.start("");
        }
        cluster.init(shards).await;
        cluster.wait_until_settled(shards as usize).await;
        cluster
    }

    /// Describes hosts without starting them.
    pub(crate) fn processes(count: usize) -> Self {
        let temp = tempfile::tempdir().unwrap();
        let mut hosts: Vec<Host> = Vec::new();
        for number in 1..=count {
            hosts.push(Host {
                address: free_address(),
                folder: temp.path().join(format!("h{number}")),
                zone: format!("z{number}"),
                join: hosts.first().map(|first| first.address.clone()),
                settings: Vec::new(),
                environment: Vec::new(),
                child: None,
            });
        }
        Self { hosts, _temp: temp }
    }

    /// Describes one more host.
    pub(crate) fn add_host(&mut self) -> usize {
        let number = self.hosts.len() + 1;
        self.hosts.push(Host {
            address: free_address(),
            folder: self._temp.path().join(format!("h{number}")),
            zone: format!("z{number}"),
            join: Some(self.hosts[0].address.clone()),
            settings: Vec::new(),
            environment: Vec::new(),
            child: None,
        });
        self.hosts.len() - 1
    }

    pub(crate) async fn init(&self, shards: u32) {
        let hosts = self.hosts.len() as u32;
        let request = InitRequest {
            shards,
            split_at: Vec::new(),
            replication_factor: 3.min(hosts),
            hosts,
        };
        self.init_as(request).await;
    }

    /// Makes the cluster as asked, by its first host.
    pub(crate) async fn init_as(&self, request: InitRequest) {
        let admin = self.admin_of(&[0]);
        eventually("the cluster is made", || async {
            match admin.init(request.clone()).await.map_err(|e| e.to_string()) {
                // The answer to an earlier attempt was too slow in coming.
                Err(refused) if refused.contains("already") => Ok(()),
                other => other.map(drop),
            }
        })
        .await;
    }

    pub(crate) fn admin(&self) -> AdminClient {
        self.admin_of(&(0..self.hosts.len()).collect::<Vec<_>>())
    }

    pub(crate) fn admin_of(&self, hosts: &[usize]) -> AdminClient {
        let endpoints = hosts.iter().map(|host| self.hosts[*host].address.clone());
        let config = ClientConfig {
            deadline: Duration::from_secs(5),
            ..ClientConfig::new(endpoints)
        };
        AdminClient::new(config).unwrap()
    }

    /// A client whose operations may take a long time: what fails then was not served.
    pub(crate) async fn client(&self) -> Client {
        Self::connect(ClientConfig {
            deadline: Duration::from_secs(30),
            ..ClientConfig::new(self.addresses())
        })
        .await
    }

    /// A client that says where it is.
    pub(crate) async fn client_from(&self, origin: &str) -> Client {
        Self::connect(ClientConfig {
            origin: origin.to_owned(),
            ..ClientConfig::new(self.addresses())
        })
        .await
    }

    fn addresses(&self) -> Vec<String> {
        self.hosts.iter().map(|host| host.address.clone()).collect()
    }

    async fn connect(config: ClientConfig) -> Client {
        eventually("a client connects", || async {
            Client::connect(config.clone()).await.map_err(|e| e.to_string())
        })
        .await
    }

    pub(crate) async fn shards(&self) -> Vec<ShardStatus> {
        let admin = self.admin();
        eventually("shards are listed", || async {
            admin
                .shards(ShardsRequest {
                    shard_id: 0,
                    placement_group: false,
                })
                .await
                .map(|reply| reply.shards)
                .map_err(|e| e.to_string())
        })
        .await
    }

    pub(crate) async fn placement_group(&self) -> ShardStatus {
        let admin = self.admin();
        eventually("the placement group is shown", || async {
            let request = ShardsRequest {
                shard_id: 0,
                placement_group: true,
            };
            let reply = admin.shards(request).await.map_err(|e| e.to_string())?;
            reply
                .shards
                .into_iter()
                .next()
                .ok_or_else(|| "it is not shown".into())
        })
        .await
    }

    pub(crate) async fn migrations(&self) -> Vec<MigrationStatus> {
        let admin = self.admin();
        let request = MigrationsRequest {
            include_ended: true,
            limit: 1000,
        };
        eventually("migrations are listed", || async {
            admin
                .migrations(request)
                .await
                .map(|reply| reply.migrations)
                .map_err(|e| e.to_string())
        })
        .await
    }

    /// Waits until `shards` shards have homes, the placement group has its voters and nothing moves.
    pub(crate) async fn wait_until_settled(&self, shards: usize) {
        let admin = self.admin();
        eventually("the cluster settles", || async {
            let known = admin
                .shards(ShardsRequest {
                    shard_id: 0,
                    placement_group: false,
                })
                .await
                .map_err(|e| e.to_string())?
                .shards;
            if known.len() != shards || known.iter().any(|shard| shard.home == 0) {
                return Err(format!("{} of {shards} shards, some without home", known.len()));
            }
            let group = ShardsRequest {
                shard_id: 0,
                placement_group: true,
            };
            let group = admin.shards(group).await.map_err(|e| e.to_string())?.shards;
            let voters = group.first().map_or(0, |group| group.replicas.len());
            let wanted = match self.hosts.len() {
                0..=2 => 1,
                3..=4 => 3,
                _ => 5,
            };
            if voters < wanted {
                return Err(format!("the placement group has {voters} of {wanted} voters"));
            }
            let active = MigrationsRequest {
                include_ended: false,
                limit: 10,
            };
            let active = admin
                .migrations(active)
                .await
                .map_err(|e| e.to_string())?
                .migrations;
            if active.is_empty() {
                Ok(())
            } else {
                Err(format!("{active:?}"))
            }
        })
        .await;
    }

    /// Waits until a migration has ended, and returns it.
    pub(crate) async fn wait_for(&self, migration: u64) -> MigrationStatus {
        let admin = self.admin();
        let request = MigrationsRequest {
            include_ended: true,
            limit: 1000,
        };
        eventually("the migration ends", || async {
            let known = admin
                .migrations(request)
                .await
                .map_err(|e| e.to_string())?
                .migrations;
            let found = known.into_iter().find(|known| known.migration_id == migration);
            let found = found.ok_or_else(|| format!("migration {migration} is not known"))?;
            if found.ended_ms > 0 {
                Ok(found)
            } else {
                Err(format!("{found:?}"))
            }
        })
        .await
    }

    /// The index of the host with this id.
    pub(crate) async fn index_of(&self, host_id: u64) -> usize {
        let admin = self.admin();
        let hosts = eventually("hosts are listed", || async {
            admin
                .hosts()
                .await
                .map(|reply| reply.hosts)
                .map_err(|e| e.to_string())
        })
        .await;
        let address = hosts
            .into_iter()
            .find(|host| host.host_id == host_id)
            .expect("a known host")
            .address;
        self.hosts
            .iter()
            .position(|host| host.address == address)
            .expect("one of ours")
    }
}

/// Tries until it works; fails with the last reason when patience ends.
pub(crate) async fn eventually<T, F: Future<Output = Result<T, String>>>(
    what: &str,
    mut attempt: impl FnMut() -> F,
) -> T {
    let started = Instant::now();
    loop {
        match attempt().await {
            Ok(done) => return done,
            Err(reason) if started.elapsed() > PATIENCE => {
                panic!("{what}: not within {PATIENCE:?}: {reason}")
            }
            Err(_) => tokio::time::sleep(PAUSE).await,
        }
    }
}

/// A key of each shard, spread by its first byte.
pub(crate) fn keys(count: u32) -> Vec<String> {
    (0..count)
        .map(|at| format!("{}key{at}", char::from_u32(33 + at % 90).unwrap_or('a')))
        .collect()
}

/// Writes every key once and remembers what was acknowledged.
pub(crate) async fn write_all(client: &Client, keys: &[String], value: &str) -> BTreeMap<String, String> {
    let mut acknowledged = BTreeMap::new();
    for key in keys {
        client
            .put(key.clone(), value.to_owned())
            .await
            .unwrap_or_else(|e| panic!("put {key}: {e}"));
        acknowledged.insert(key.clone(), value.to_owned());
    }
    acknowledged
}

/// Every acknowledged write must be there.
pub(crate) async fn check_all(client: &Client, acknowledged: &BTreeMap<String, String>) {
    let mut wrong = Vec::new();
    for (key, value) in acknowledged {
        let read = client
            .get(key.clone())
            .await
            .unwrap_or_else(|e| panic!("get {key}: {e}"));
        let pair = read
            .pair
            .unwrap_or_else(|| panic!("the acknowledged write of {key} is lost"));
        if pair.value != value.as_bytes() {
            wrong.push(format!(
                "{key}: {} instead of {value}, revision {}",
                String::from_utf8_lossy(&pair.value),
                pair.mod_revision
            ));
        }
    }
    assert!(wrong.is_empty(), "acknowledged writes are lost: {wrong:#?}");
}

/// Runs the binary and returns its exit code, standard output and standard error.
pub(crate) fn godwit(arguments: &[&str]) -> (Option<i32>, String, String) {
    let ran = Command::new(env!("CARGO_BIN_EXE_godwit"))
        .args(arguments)
        .stdin(Stdio::null())
        .output()
        .unwrap();
    let text = |bytes: Vec<u8>| String::from_utf8_lossy(&bytes).into_owned();
    (ran.status.code(), text(ran.stdout), text(ran.stderr))
}

/// The JSON document that an admin verb answers with, asked of any host.
pub(crate) fn admin(cluster: &Cluster, verb: &[&str]) -> Value {
    let addresses: Vec<&str> = cluster.hosts.iter().map(|host| host.address.as_str()).collect();
    let connect = addresses.join(",");
    let (code, out, err) = godwit(&[&["--connect", &connect, "admin", "--json"], verb].concat());
    assert_eq!(code, Some(0), "{verb:?}: {err}");
    serde_json::from_str(&out).unwrap()
}

/// A folder's files with their content, to show that it was left alone.
pub(crate) fn contents(folder: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    let mut found = BTreeMap::new();
    let mut folders = vec![folder.to_owned()];
    while let Some(next) = folders.pop() {
        for entry in std::fs::read_dir(next).unwrap() {
            let path = entry.unwrap().path();
            match path.is_dir() {
                true => folders.push(path),
                false => drop(found.insert(path.clone(), std::fs::read(&path).unwrap())),
            }
        }
    }
    found
}
