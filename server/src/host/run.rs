//! The life of a host, from its configuration to its end.
//!
//! Order matters at both ends. At the start the folder is locked before anything is read, the log is open before any
//! group, and replicas run before the host announces itself. At the stop homes are handed over while the groups still
//! run, then the groups stop, then the log, whose writer ends by syncing what is queued.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, OnceLock, RwLock};

use storage::log::{LogFault, LogHub, LogOptions, OpenLogError};
use storage::seeded_bug;
use storage::shard::RowCache;
use tokio::sync::{oneshot, watch};
use tokio_util::sync::CancellationToken;
use tonic::transport::Server;

use super::channels::Channels;
use super::folder::{DataFolder, FORMAT, FolderError, Identity};
use super::join::{InitError, OtherCluster};
use super::map::ShardMap;
use super::merges::Neighbours;
use super::replicas::ReplicaError;
use super::scrub::Scrubs;
use super::space::Space;
use super::state::{Host, HostEnv, HostFailure, Shared};
use crate::config::HostConfig;
use crate::monitor::{MeasuredDisk, Metrics};
use crate::net::{AcceptOptions, Listener, incoming};
use crate::{controller, service};

/// Why a host does not run, or no longer.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// The data folder.
    #[error(transparent)]
    Folder(#[from] FolderError),
    /// The Raft log.
    #[error("the log: {0}")]
    Log(#[from] OpenLogError),
    /// The log failed while the host ran: what is acknowledged is safe, and nothing more can be.
    #[error(transparent)]
    LogFailed(#[from] LogFault),
    /// A replica.
    #[error(transparent)]
    Replica(#[from] ReplicaError),
    /// The host stopped by itself: what is acknowledged is safe in the logs of a quorum.
    #[error(transparent)]
    Failed(#[from] HostFailure),
    /// The folder of one cluster, told to join another.
    #[error(transparent)]
    OtherCluster(#[from] OtherCluster),
    /// The interrupted creation of a cluster.
    #[error(transparent)]
    Init(#[from] InitError),
    /// The listener.
    #[error("serving: {0}")]
    Serve(#[from] tonic::transport::Error),
}

/// Runs a host until `shutdown` is cancelled. `address` is what others are told; `ready` is called once it serves.
pub async fn run<L: Listener>(
    config: HostConfig,
    address: String,
    listener: L,
    env: HostEnv,
    shutdown: CancellationToken,
    ready: impl FnOnce(&Host),
) -> Result<(), RunError> {
    let context = env.raft.context.clone();
    context
        .scope(run_in_context(config, address, listener, env, shutdown, ready))
        .await
}

async fn run_in_context<L: Listener>(
    config: HostConfig,
    address: String,
    listener: L,
    env: HostEnv,
    shutdown: CancellationToken,
    ready: impl FnOnce(&Host),
) -> Result<(), RunError> {
    let (host, log_outcome) = open(config, address, env)?;
    // Asked before anyone is served: `init` makes a member, too, and starts what it needs by itself.
    let past = match host.cluster_id() {
        Some(_) => Past::Member,
        None => Past::New,
    };
    let serving = serve(&host, listener);
    ready(&host);
    let outcome = tokio::select! {
        started = live(&host, past) => started,
        Ok(Err(fault)) = log_outcome => Err(fault.into()),
        () = shutdown.cancelled() => Ok(()),
        () = host.stop().clone().cancelled_owned() => match host.shared.failure.get() {
            Some(failure) => Err(failure.clone().into()),
            None => Ok(()),
        },
    };
    if outcome.is_ok() {
        host.hand_over().await;
    }
    host.stop().cancel();
    if let Some(raft) = host.raft() {
        raft.shutdown().await;
    }
    host.shared.log.close();
    drop(serving.await);
    outcome
}

/// Opens the data folder and the log. The receiver tells how the log's writer ended.
fn open(
    config: HostConfig,
    address: String,
    mut env: HostEnv,
) -> Result<(Host, oneshot::Receiver<Result<(), LogFault>>), RunError> {
    let metrics = Metrics::new();
    let log = DataFolder::log_in(&config.data_dir);
    let measured = MeasuredDisk::new(env.disk, log, env.raft.context.clone(), &metrics);
    env.disk = Arc::new(measured);
    let folder = DataFolder::open(env.disk.clone(), &config.data_dir)?;
    let identity = match folder.identity()? {
        Some(identity) => identity,
        None => new_identity(&folder, &address, &env)?,
    };
    let map = folder
        .peers()?
        .and_then(|encoded| ShardMap::decode(&encoded))
        .unwrap_or_default();
    let options = LogOptions {
        segment_bytes: config.log.segment_bytes,
        live_bytes_max: config.log.live_bytes_max,
        tail_bytes: memory(config.log.tail_bytes),
        failpoints: env.failpoints.clone(),
        ..LogOptions::new(env.clock.clone())
    };
    let row_cache = RowCache::new(config.checkpoint.row_cache_bytes);
    let (log, writer) = LogHub::open(env.disk.clone(), &folder.log(), options)?;
    let (log_ended, log_outcome) = oneshot::channel();
    let ended = Box::new(move |outcome| drop(log_ended.send(outcome)));
    env.raft.executor.write_log(writer, ended);
    let shared = Shared {
        address,
        channels: Channels::new(env.connector.clone()),
        orders: Mutex::new(folder.orders()?),
        folder,
        identity: watch::Sender::new(identity),
        log,
        row_cache,
        space: Space::default(),
        scrubs: Scrubs::default(),
        raft: Arc::new(OnceLock::new()),
        placement: RwLock::default(),
        shards: RwLock::new(BTreeMap::new()),
        successions: Arc::default(),
        neighbours: Neighbours::default(),
        changing: tokio::sync::Mutex::default(),
        map: watch::Sender::new(Arc::new(map)),
        profiler: OnceLock::new(),
        access_samples: OnceLock::new(),
        controller: RwLock::default(),
        metrics,
        is_member: AtomicBool::new(false),
        stop: CancellationToken::new(),
        failure: OnceLock::new(),
        env,
        config,
    };
    let host = Host {
        shared: Arc::new(shared),
    };
    Ok((host, log_outcome))
}

fn memory(bytes: u64) -> usize {
    usize::try_from(bytes).unwrap_or(usize::MAX)
}

fn new_identity(folder: &DataFolder, address: &str, env: &HostEnv) -> Result<Identity, FolderError> {
    let context = &env.raft.context;
    let token = match seeded_bug::is_on("B20") {
        // Seeded bug B20: a host whose folder was lost passes for the one that was at this address.
        true => format!("at {address}"),
        false => format!("{:016x}{:016x}", context.next_u64(), context.next_u64()),
    };
    let identity = Identity {
        format: FORMAT,
        token,
        cluster_id: None,
        host_id: 0,
        bootstrap: None,
    };
    folder.write_identity(&identity)?;
    Ok(identity)
}

fn serve<L: Listener>(
    host: &Host,
    listener: L,
) -> tokio::task::JoinHandle<Result<(), tonic::transport::Error>> {
    let options = AcceptOptions {
        connections_max: usize::try_from(host.config().limits.connections_max).unwrap_or(usize::MAX),
    };
    let router = service::router(Server::builder(), host);
    let stop = host.stop().clone().cancelled_owned();
    // Streams of clients never end by themselves: the server is stopped with the host, not drained.
    host.shared.env.raft.spawn(async move {
        tokio::select! {
            served = router.serve_with_incoming(incoming(listener, options)) => served,
            () = stop => Ok(()),
        }
    })
}

/// What a host's folder says of it at the start.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Past {
    /// It belongs to a cluster.
    Member,
    /// It belongs to none yet.
    New,
}

/// Becomes and stays a member of a cluster.
async fn live(host: &Host, past: Past) -> Result<(), RunError> {
    if past == Past::Member {
        // The borrow must end before the identity is replaced.
        let identity = host.shared.identity.borrow().clone();
        host.check_seeds().await?;
        host.adopt(identity);
        host.set_map((*host.map()).clone());
        host.open_replicas().await?;
        host.finish_init().await?;
    } else if !host.config().join.is_empty() {
        host.join().await?;
        #[cfg(feature = "seeded-bugs")]
        host.recreate_lost_replicas().await;
    } else {
        tracing::info!("waiting for `godwit init` or a restart with --join");
        let mut identity = host.shared.identity.subscribe();
        let made = |identity: &Identity| identity.cluster_id.is_some() && identity.bootstrap.is_none();
        drop(identity.wait_for(made).await);
    }
    host.shared.is_member.store(true, Ordering::Release);
    tracing::info!(host = %host.id(), cluster = host.cluster_id(), "member of a cluster");
    host.spawn(host.clone().follow_map());
    host.spawn(host.clone().make_successors());
    host.spawn(host.clone().keep_frozen());
    host.spawn(host.clone().keep_checkpoints());
    host.spawn(host.clone().keep_files_dense());
    host.spawn(host.clone().keep_log_short());
    host.spawn(host.clone().watch_space());
    host.spawn(host.clone().run_scrubs());
    host.spawn(host.clone().scrub_by_the_clock());
    host.spawn(host.clone().announce_homes());
    host.spawn(host.clone().end_leases());
    host.start_access_log();
    host.spawn(controller::run(host.clone()));
    host.announce().await;
    std::future::pending().await
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use client::proto::admin_client::AdminClient;
    use storage::sim_disk::SimDisk;

    use super::*;
    use crate::host::testing::{ONE_SHARD, PATIENCE, Served};

    /// The placement group would be opened twice, on one log.
    #[tokio::test(flavor = "multi_thread", worker_threads = 4)]
    async fn a_host_may_be_made_the_first_before_it_has_looked_around() {
        let (made, init) = oneshot::channel();
        let ready = move |host: &Host, endpoint: &str| {
            let endpoint = endpoint.to_owned();
            tokio::spawn(async move {
                let mut admin = AdminClient::connect(endpoint).await.unwrap();
                drop(made.send(admin.init(ONE_SHARD).await.map(drop)));
            });
            // `init` is under way on another thread before this host does anything else.
            let begun = std::time::Instant::now();
            tokio::task::block_in_place(|| {
                while host.cluster_id().is_none() && begun.elapsed() < PATIENCE {
                    std::thread::sleep(Duration::from_millis(1));
                }
            });
        };
        let served = Served::start(&Arc::new(SimDisk::new(1)), ready).await;
        let made = tokio::time::timeout(PATIENCE, init).await;
        assert!(matches!(made, Ok(Ok(Ok(())))), "{made:?}");
        served.stop().await;
    }
}
