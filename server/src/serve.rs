//! `godwit serve`: one host as a process, from its configuration to SIGTERM.
//!
//! The composition root: the real disk, clock, network and operating-system entropy are chosen here and nowhere else.

use std::io;
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use client::{ByteStream, Connector, TcpConnector};
use placement::Zone;
use raft::{ClockSkew, Connecting, HostContext, TokioExecutor};
use rand::TryRng;
use storage::clock::Clock;
use storage::disk::{Disk, RealDisk};
use storage::failpoint::{Action, Failpoints, Firing, HostFailpoints};
use storage::seeded_bug;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;
use tracing_subscriber::Layer;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;

use crate::background::HostExecutor;
use crate::cli::ServeArgs;
use crate::config::{self, ConfigError, HostConfig, TracingFormat};
use crate::host::{self, HostEnv, RunError};
use crate::memory;
use crate::monitor;
use crate::net::{AddressZones, DelayedConnector, DistanceError, read_rtt_matrix};
use crate::process;
use crate::steps::StepLayer;
use crate::trace;

const ABORT_AT: &str = "GODWIT_ABORT_AT";
const NOT_CONFIGURATION: [&str; 3] = [ABORT_AT, "GODWIT_CONFIG", "GODWIT_CONNECT"];
/// Names a bug to turn on. A build that holds none refuses the variable, as it does any that it does not know.
const BUG: Option<&str> = if cfg!(feature = "seeded-bugs") {
    Some(seeded_bug::VARIABLE)
} else {
    None
};

/// Why a host did not start, or ended with an error.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    /// The configuration.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// The listen address.
    #[error("cannot listen on {address}: {source}")]
    Listen {
        /// The address.
        address: String,
        /// Why.
        source: io::Error,
    },
    /// The emulated distances.
    #[error(transparent)]
    Distance(#[from] DistanceError),
    /// The trained model.
    #[error(transparent)]
    Model(#[from] ml::ModelFileError),
    /// The operating system.
    #[error("{what}: {source}")]
    System {
        /// What was asked of it.
        what: &'static str,
        /// Why it refused.
        source: io::Error,
    },
    /// The host.
    #[error(transparent)]
    Run(#[from] RunError),
}

/// Runs a host until SIGTERM or SIGINT.
pub async fn serve(args: ServeArgs) -> Result<(), ServeError> {
    let config = load(&args)?;
    if args.print_config {
        print!("{}", toml::to_string(&config).unwrap_or_default());
        return Ok(());
    }
    start_tracing(&config)?;
    if !config.huge_pages
        // What replicas reserve and do not use would be in memory with each huge page that it lies in.
        && let Err(error) = process::do_without_huge_pages()
    {
        tracing::warn!(%error, "memory comes in huge pages");
    }
    if let Some(bug) = seeded_bug::chosen() {
        tracing::warn!(
            bug,
            "a seeded bug is turned on: this host will lose data or serve wrong answers"
        );
    }
    if let Some(path) = &config.balancer.model_file {
        ml::TrainedModel::load(path)?;
    }
    let listener = listen(&config.listen).await?;
    let monitored = match &config.monitoring.listen {
        Some(address) => Some(listen(address).await?),
        None => None,
    };
    let bound = listener.local_addr().map_err(|source| ServeError::System {
        what: "listen address",
        source,
    })?;
    let address = config.advertise.clone().unwrap_or_else(|| bound.to_string());
    trace::start("godwit", &address).map_err(|reason| ServeError::System {
        what: "exporter of spans",
        source: io::Error::other(reason),
    })?;
    let env = real_env(&config)?;
    let shutdown = CancellationToken::new();
    stop_on_signals(shutdown.clone())?;
    let ran = host::run(config, address.clone(), listener, env, shutdown, |host| {
        println!("godwit serves at {address}");
        if let Some(listener) = monitored {
            host.spawn(monitor::serve(host.clone(), listener));
        }
    })
    .await;
    trace::stop().await;
    Ok(ran?)
}

async fn listen(address: &str) -> Result<TcpListener, ServeError> {
    let bound = TcpListener::bind(address).await;
    bound.map_err(|source| ServeError::Listen {
        address: address.to_owned(),
        source,
    })
}

fn load(args: &ServeArgs) -> Result<HostConfig, ServeError> {
    // Variables that are not configuration: clap reads the file's name, tests name fail points.
    let configuration = |(name, _): &(String, String)| {
        !NOT_CONFIGURATION.contains(&name.as_str()) && BUG != Some(name.as_str())
    };
    let environment = std::env::vars().filter(configuration);
    let mut defaults = HostConfig::default();
    defaults.checkpoint.row_cache_bytes = memory::cache_bytes();
    Ok(config::load(
        defaults,
        args.config.as_deref(),
        environment,
        &args.settings(),
    )?)
}

/// Sends events to standard error, in the configured form, and steps to their file if they are asked for.
fn start_tracing(config: &HostConfig) -> Result<(), ServeError> {
    let filter = || tracing_subscriber::EnvFilter::new(&config.tracing.filter);
    let lines = tracing_subscriber::fmt::layer()
        .with_writer(io::stderr)
        .with_ansi(false);
    let lines = match config.tracing.format {
        TracingFormat::Text => lines.with_filter(filter()).boxed(),
        TracingFormat::Json => lines.json().with_filter(filter()).boxed(),
    };
    let steps = config.tracing.steps.then(|| StepLayer::create(&config.data_dir));
    let steps = steps.transpose().map_err(|source| ServeError::System {
        what: "the file of steps",
        source,
    })?;
    // Tests that start a host in their own process have a subscriber already.
    drop(tracing_subscriber::registry().with(lines).with(steps).try_init());
    Ok(())
}

fn real_env(config: &HostConfig) -> Result<HostEnv, ServeError> {
    let connector = real_connector(config)?;
    let seed = rand::rngs::SysRng
        .try_next_u64()
        .map_err(|e| ServeError::System {
            what: "random seed",
            source: io::Error::other(e.to_string()),
        })?;
    let executor = HostExecutor::new(config.background_nice).map_err(|source| ServeError::System {
        what: "background threads",
        source,
    })?;
    let env = env_over(connector, Arc::new(RealDisk), seed);
    Ok(HostEnv {
        failpoints: failpoints_from_environment(seed),
        raft: raft::Env {
            executor: Arc::new(executor),
            ..env.raft
        },
        ..env
    })
}

/// A host's environment with this machine's clock and threads, over a network and a disk; no fail point is armed. To be
/// called inside a tokio runtime.
pub fn env_over(connector: Arc<dyn Connector>, disk: Arc<dyn Disk>, seed: u64) -> HostEnv {
    HostEnv {
        raft: raft::Env {
            context: HostContext::new(seed, ClockSkew::default()),
            executor: Arc::new(TokioExecutor),
            connector: Arc::new(PeerConnector(connector.clone())),
        },
        connector,
        disk,
        clock: Arc::new(SystemClock),
        failpoints: HostFailpoints::disarmed(),
    }
}

/// TCP, behind the emulated distances when the configuration names some.
fn real_connector(config: &HostConfig) -> Result<Arc<dyn Connector>, ServeError> {
    let tcp: Arc<dyn Connector> = Arc::new(TcpConnector);
    let (Some(matrix), Some(addresses)) = (&config.emulation.rtt_matrix, &config.emulation.addresses) else {
        return Ok(tcp);
    };
    let (rtt, zones) = (read_rtt_matrix(matrix)?, AddressZones::read(addresses)?);
    let zone = Zone(config.zone.clone());
    Ok(Arc::new(DelayedConnector::new(
        tcp,
        zone,
        Arc::new(rtt),
        Arc::new(zones),
    )))
}

/// Peers are reached like everything else.
pub struct PeerConnector(pub Arc<dyn Connector>);

impl raft::Connector for PeerConnector {
    fn connect(&self, address: String) -> Connecting {
        let connecting = self.0.connect(&address);
        Box::pin(async move {
            let stream: Box<dyn ByteStream> = connecting.await?;
            Ok(Box::new(stream) as Box<dyn raft::IoStream>)
        })
    }
}

/// The wall clock: mechanism time of a real host. It stamps entries; nothing is decided by comparing two hosts' clocks.
#[derive(Debug, Clone, Copy, Default)]
pub struct SystemClock;

impl Clock for SystemClock {
    fn now_ms(&self) -> u64 {
        let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
    }
}

/// Builds with debug assertions end the process at the points named in `GODWIT_ABORT_AT` (comma-separated).
fn failpoints_from_environment(seed: u64) -> HostFailpoints {
    let registry = Failpoints::new(seed);
    if cfg!(debug_assertions)
        && let Ok(points) = std::env::var(ABORT_AT)
    {
        for point in points.split(',') {
            let point: &'static str = Box::leak(point.to_owned().into_boxed_str());
            registry.arm(0, point, Action::AbortProcess, Firing::Nth(1));
        }
    }
    registry.host(0)
}

fn stop_on_signals(shutdown: CancellationToken) -> Result<(), ServeError> {
    let system = |source| ServeError::System {
        what: "signal handler",
        source,
    };
    let told = process::told_to_end().map_err(system)?;
    tokio::spawn(async move {
        told.await;
        shutdown.cancel();
    });
    Ok(())
}
