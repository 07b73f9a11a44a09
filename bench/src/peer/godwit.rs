//! Godwit: three `serve` processes, and the SDK.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::Context;
use async_trait::async_trait;
use bytes::Bytes;
use client::proto::{InitRequest, ShardsRequest};
use client::{
    Action, AdminClient, Client, ClientConfig, Compare, KeyRange, ReadMode, Transaction, Watch, WatchOptions,
};
use futures_util::stream;
use rand::Rng;
use tokio::sync::OnceCell;

use super::watched::{Changes, Watched};
use super::{Access, Cluster, Peer, Route, Store};
use crate::process::{Launch, Process, free_address};
use crate::workload::{LEASE_S, Operation};

/// How long a cluster may take to be made.
const START_LIMIT: Duration = Duration::from_secs(60);
const LOOK_PAUSE: Duration = Duration::from_millis(50);
/// Shards stay as many as a row says: none is split for what it is asked, or holds.
const FIXED_LAYOUT: [&str; 3] = [
    "shards.accesses_max_per_s=0",
    "shards.affinity_gain_min_ppm=0",
    "shards.bytes_max=0",
];

/// Our own store, with its default settings but for what is named here.
#[derive(Clone, Debug)]
pub struct Godwit {
    /// The program and its first arguments, to which `serve` is added.
    pub program: Vec<String>,
    /// Shards of the cluster.
    pub shards: u32,
    /// How clients' operations travel.
    pub route: Route,
    /// More settings for every host, as `field=value`.
    pub settings: Vec<String>,
}

impl Godwit {
    /// This very program's `godwit` verb.
    ///
    /// # Errors
    /// When it cannot be told where this program lies.
    pub fn own(shards: u32, route: Route) -> anyhow::Result<Self> {
        let program = std::env::current_exe()?.to_string_lossy().into_owned();
        Ok(Self {
            program: vec![program, "godwit".to_owned()],
            shards,
            route,
            settings: Vec::new(),
        })
    }

    fn command(&self) -> Command {
        let mut command = Command::new(&self.program[0]);
        command.args(&self.program[1..]);
        command
    }

    async fn make(&self, endpoints: &[String]) -> anyhow::Result<()> {
        let hosts = u32::try_from(endpoints.len())?;
        let request = InitRequest {
            shards: self.shards,
            split_at: Vec::new(),
            replication_factor: hosts.min(3),
            hosts,
        };
        let first = AdminClient::new(ClientConfig::new(endpoints[..1].iter().cloned()))?;
        until("the cluster is made", || async {
            if first.status().await?.cluster_id.is_empty() {
                first.init(request.clone()).await?;
            }
            Ok(())
        })
        .await?;
        let admin = AdminClient::new(ClientConfig::new(endpoints.iter().cloned()))?;
        until("every shard has a home", || async {
            let request = ShardsRequest {
                shard_id: 0,
                placement_group: false,
            };
            let known = admin.shards(request).await?.shards;
            let homeless = known.iter().filter(|shard| shard.home == 0).count();
            anyhow::ensure!(
                known.len() == self.shards as usize && homeless == 0,
                "{} of {} shards, {homeless} without a home",
                known.len(),
                self.shards
            );
            Ok(())
        })
        .await
    }
}

/// Tries until it works.
pub(super) async fn until<T, F: Future<Output = anyhow::Result<T>>>(
    what: &str,
    mut attempt: impl FnMut() -> F,
) -> anyhow::Result<T> {
    let deadline = tokio::time::Instant::now() + START_LIMIT;
    loop {
        match attempt().await {
            Ok(done) => return Ok(done),
            Err(e) if tokio::time::Instant::now() > deadline => {
                return Err(e.context(format!("waited {START_LIMIT:?} until {what}")));
            }
            Err(_) => tokio::time::sleep(LOOK_PAUSE).await,
        }
    }
}

#[async_trait]
impl Peer for Godwit {
    fn name(&self) -> &'static str {
        "godwit"
    }

    fn version(&self) -> anyhow::Result<String> {
        first_line(self.command().arg("--version"))
    }

    async fn start(&self, folder: &Path, hosts: usize) -> anyhow::Result<Cluster> {
        let endpoints = (0..hosts)
            .map(|_| free_address())
            .collect::<anyhow::Result<Vec<_>>>()?;
        let mut processes = Vec::new();
        for (number, address) in endpoints.iter().enumerate() {
            let home: PathBuf = folder.join(format!("h{}", number + 1));
            std::fs::create_dir_all(&home)?;
            let mut line = self.program.clone();
            line.extend([
                "serve".to_owned(),
                "--log-filter=warn,openraft=error".to_owned(),
                "--region=bench".to_owned(),
                format!("--data-dir={}", home.join("data").display()),
                format!("--listen={address}"),
                format!("--zone=z{}", number + 1),
            ]);
            let settings = FIXED_LAYOUT
                .into_iter()
                .chain(self.settings.iter().map(String::as_str));
            line.extend(settings.map(|setting| format!("--set={setting}")));
            if number > 0 {
                line.push(format!("--join={}", endpoints[0]));
            }
            let log = home.join("log");
            processes.push(Process::start(Launch { line, log })?);
        }
        self.make(&endpoints).await?;
        Ok(Cluster {
            endpoints,
            hosts: processes,
        })
    }

    async fn leader(&self, cluster: &Cluster) -> anyhow::Result<usize> {
        let admin = AdminClient::new(ClientConfig::new(cluster.endpoints.iter().cloned()))?;
        let request = ShardsRequest {
            shard_id: 0,
            placement_group: false,
        };
        let shards = admin.shards(request).await?.shards;
        let home = shards.first().map_or(0, |shard| shard.home);
        let hosts = admin.hosts().await?.hosts;
        let host = hosts.iter().find(|host| host.host_id == home);
        let address = &host.context("the first shard has no home")?.address;
        let place = cluster.endpoints.iter().position(|endpoint| endpoint == address);
        place.context("a home that is not of this cluster")
    }

    async fn accesses(&self, cluster: &Cluster, connections: usize) -> anyhow::Result<Vec<Access>> {
        Ok(vec![Access {
            route: self.route,
            endpoints: cluster.endpoints.clone(),
            connections,
        }])
    }
}

/// What a command says first.
pub(super) fn first_line(command: &mut Command) -> anyhow::Result<String> {
    let output = command
        .output()
        .with_context(|| format!("cannot start {}", command.get_program().display()))?;
    let said = String::from_utf8_lossy(&output.stdout);
    Ok(said.lines().next().unwrap_or_default().to_owned())
}

/// A client of the SDK.
pub(super) struct Stream {
    client: Client,
    by_lease: Client,
    /// Made when it is first asked for.
    watched: OnceCell<Watched>,
}

impl Stream {
    pub(super) async fn connect(endpoints: &[String]) -> anyhow::Result<Self> {
        let client = Client::connect(ClientConfig::new(endpoints.iter().cloned())).await?;
        Ok(Self {
            by_lease: client.with_read_mode(ReadMode::Lease),
            client,
            watched: OnceCell::new(),
        })
    }

    async fn watched(&self) -> anyhow::Result<&Watched> {
        let watch = || async {
            let watch = self
                .client
                .watch(KeyRange::all(), WatchOptions::default())
                .await?;
            Ok(Watched::by(changes(watch)))
        };
        self.watched.get_or_try_init(watch).await
    }

    async fn put(&self, key: Bytes, value: Bytes) -> anyhow::Result<()> {
        self.client.put(key, value).await?;
        Ok(())
    }
}

fn changes(watch: Watch) -> impl futures_util::Stream<Item = anyhow::Result<Changes>> {
    stream::try_unfold(watch, |mut watch| async move {
        let events = watch.next().await?.events.into_iter();
        let changes = events.map(|event| (event.pair.key, event.pair.value)).collect();
        Ok(Some((changes, watch)))
    })
}

#[async_trait]
impl Store for Stream {
    async fn perform(&self, operation: Operation) -> anyhow::Result<()> {
        let fetched = match operation {
            Operation::Put(key, value) => return self.put(key, value).await,
            Operation::Get(key) => self.client.get(key).await?,
            Operation::LeaseGet(key) => self.by_lease.get(key).await?,
            Operation::Scan(start, pairs) => {
                let range = KeyRange {
                    start,
                    ..KeyRange::all()
                };
                let mut scan = self.client.scan(range, pairs);
                while scan.next().await?.is_some() {}
                return Ok(());
            }
            Operation::Txn(key, value) => {
                let transaction = Transaction::new()
                    .when(Compare::exists(key.clone()))
                    .then(Action::put(key, value));
                let done = self.client.transact(transaction).await?;
                anyhow::ensure!(done.succeeded, "a key is missing");
                return Ok(());
            }
            Operation::Watch(key, value) => {
                let put = self.put(key.clone(), value.clone());
                return self.watched().await?.tell(key, value, put).await;
            }
            Operation::Lease(key) => {
                let (lease, ttl) = (rand::rng().next_u64(), Duration::from_secs(LEASE_S.into()));
                let granted = self.client.grant_lease(key.clone(), lease, ttl).await?;
                anyhow::ensure!(granted, "there is such a lease");
                self.client.revoke_lease(key, lease).await?;
                return Ok(());
            }
        };
        fetched.pair.map(drop).context("a key is missing")
    }
}
