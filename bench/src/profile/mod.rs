//! Where the time of one operation goes, and how much work many of them share.
//!
//! A cluster writes its steps down ([`server::steps`]), and so does its client. One client alone shows how
//! long an operation is in each layer; many at once show how many operations travel in a frame, an entry, a sync.

mod busy;
mod page;
mod path;
mod timeline;

use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::Context;
use serde::{Deserialize, Serialize};

pub use busy::Shared;
pub use page::render;
pub use path::Passed;

use crate::load::{Load, Pace, run};
use crate::peer::{Cluster, Godwit, Peer, Route};
use crate::workload::{Keys, Kind, Workload};
use timeline::Timelines;

const HOSTS: usize = 3;
const KEY_COUNT: u64 = 20_000;
const FILL_CLIENTS: usize = 256;
const BUSY_CLIENTS: usize = 256;
const WARM_UP_S: f64 = 0.5;
/// Steps are in the files after this.
const FLUSHED_AFTER: Duration = Duration::from_millis(600);
const KINDS: [Kind; 3] = [Kind::Put, Kind::Get, Kind::LeaseGet];

/// What is profiled.
#[derive(Clone, Debug)]
pub struct ProfileOptions {
    /// Shards of the cluster. With more than one, no path of an operation is looked for: each has a home of its own.
    pub shards: u32,
    /// Of each load, in seconds.
    pub seconds: f64,
    /// Where the cluster's data lies meanwhile.
    pub folder: PathBuf,
    /// More settings of the hosts, as `field=value`.
    pub settings: Vec<String>,
    /// Of every random choice.
    pub seed: u64,
}

/// Profiles of all kinds of operation.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Profile {
    /// Of godwit.
    pub version: String,
    /// Shards of the cluster.
    pub shards: u32,
    /// A profile a kind.
    pub kinds: Vec<KindProfile>,
}

/// The profile of one kind of operation.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct KindProfile {
    /// The kind.
    pub kind: Kind,
    /// Operations whose whole path was found.
    pub operations: usize,
    /// One client: the steps of an operation, in order. Empty with more than one shard.
    pub alone: Vec<Passed>,
    /// Many clients: what operations share.
    pub busy: Shared,
}

/// Profiles each kind of operation.
///
/// # Errors
/// When the cluster does not start, a load fails, or a file of steps makes no sense.
pub async fn profile(options: &ProfileOptions) -> anyhow::Result<Profile> {
    std::fs::create_dir_all(&options.folder)?;
    let folder = tempfile::tempdir_in(&options.folder).context("a folder for the cluster")?;
    let mut godwit = Godwit::own(options.shards, Route::Stream)?;
    godwit.settings = options.settings.clone();
    godwit.settings.push("tracing.steps=true".to_owned());
    let cluster = godwit.start(folder.path(), HOSTS).await?;
    let subject = Subject {
        options,
        home: godwit.leader(&cluster).await?,
        godwit: &godwit,
        cluster: &cluster,
        folder: folder.path(),
    };
    let fill = subject
        .load(
            Kind::Put,
            Pace::Fill {
                clients: FILL_CLIENTS,
            },
        )
        .await?;
    run(&fill, || cluster.usage()).await?;
    let mut kinds = Vec::new();
    for kind in KINDS {
        let (operations, alone) = match options.shards {
            1 => subject.alone(kind).await?,
            _ => Default::default(),
        };
        let busy = subject.busy(kind).await?;
        kinds.push(KindProfile {
            kind,
            operations,
            alone,
            busy,
        });
    }
    Ok(Profile {
        version: godwit.version()?,
        shards: options.shards,
        kinds,
    })
}

/// A cluster under observation.
struct Subject<'a> {
    options: &'a ProfileOptions,
    godwit: &'a Godwit,
    cluster: &'a Cluster,
    folder: &'a Path,
    /// The place of the first shard's home among the hosts.
    home: usize,
}

impl Subject<'_> {
    async fn load(&self, kind: Kind, pace: Pace) -> anyhow::Result<Load> {
        let mut accesses = self.godwit.accesses(self.cluster, 1).await?;
        Ok(Load {
            access: accesses.pop().context("a way to the cluster")?,
            workload: Workload {
                kind,
                keys: Keys::Uniform,
                key_count: KEY_COUNT,
                value_bytes: 256,
            },
            pace,
            warm_up_s: WARM_UP_S,
            seconds: self.options.seconds,
            slice_s: 0.0,
            seed: self.options.seed,
            steps: Some(self.client_folder()),
        })
    }

    fn client_folder(&self) -> PathBuf {
        self.folder.join("client")
    }

    /// What was written down since a moment.
    async fn timelines(&self, since_ns: u64) -> anyhow::Result<Timelines> {
        // Hosts flush when later steps follow, and heartbeats always do.
        tokio::time::sleep(FLUSHED_AFTER).await;
        let host = |number: usize| self.folder.join(format!("h{}", number + 1)).join("data");
        let others = (0..HOSTS).filter(|number| *number != self.home);
        Timelines::read(
            &self.client_folder(),
            &host(self.home),
            others.map(host),
            since_ns,
        )
    }

    async fn alone(&self, kind: Kind) -> anyhow::Result<(usize, Vec<Passed>)> {
        let since_ns = now_ns();
        let load = self.load(kind, Pace::Closed { clients: 1 }).await?;
        run(&load, || self.cluster.usage()).await?;
        let timelines = self.timelines(since_ns).await?;
        let (operations, passed) = path::passed(path::of(kind), &timelines);
        anyhow::ensure!(operations > 0, "no {kind:?} passed all the steps of its path");
        Ok((operations, passed))
    }

    async fn busy(&self, kind: Kind) -> anyhow::Result<Shared> {
        let since_ns = now_ns();
        let clients = BUSY_CLIENTS;
        let load = self.load(kind, Pace::Closed { clients }).await?;
        let (measured, used) = run(&load, || self.cluster.usage()).await?;
        let timelines = self.timelines(since_ns).await?;
        Ok(Shared::of(&timelines, &measured, &used))
    }
}

fn now_ns() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_nanos()).unwrap_or(u64::MAX)
}
