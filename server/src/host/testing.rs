//! One host in this process, for tests.

use std::sync::Arc;
use std::time::Duration;

use client::TcpConnector;
use client::proto::InitRequest;
use client::proto::admin_client::AdminClient;
use storage::failpoint::HostFailpoints;
use storage::sim_disk::SimDisk;
use tokio::sync::oneshot;
use tokio_util::sync::CancellationToken;

use super::{Host, HostEnv, RunError, run};
use crate::config::HostConfig;
use crate::serve::env_over;

/// What takes longer in a test will never come.
pub(crate) const PATIENCE: Duration = Duration::from_secs(30);

/// A cluster of one host and one shard.
pub(crate) const ONE_SHARD: InitRequest = InitRequest {
    shards: 1,
    split_at: Vec::new(),
    replication_factor: 1,
    hosts: 1,
};

/// A host that serves on loopback.
pub(crate) struct Served {
    pub(crate) host: Host,
    pub(crate) endpoint: String,
    stop: CancellationToken,
    running: tokio::task::JoinHandle<Result<(), RunError>>,
}

impl Served {
    /// Starts a host on `disk`; `ready` is called before it looks around.
    pub(crate) async fn start(disk: &Arc<SimDisk>, ready: impl FnOnce(&Host, &str) + Send + 'static) -> Self {
        Self::start_with(disk, HostFailpoints::disarmed(), ready).await
    }

    /// The same, with fail points.
    pub(crate) async fn start_with(
        disk: &Arc<SimDisk>,
        failpoints: HostFailpoints,
        ready: impl FnOnce(&Host, &str) + Send + 'static,
    ) -> Self {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let config = HostConfig {
            data_dir: "/host".into(),
            listen: address.clone(),
            ..HostConfig::default()
        };
        let env = HostEnv {
            failpoints,
            ..env_over(Arc::new(TcpConnector), disk.clone(), 1)
        };
        let (stop, endpoint) = (CancellationToken::new(), format!("http://{address}"));
        let (told, host) = oneshot::channel();
        let at = endpoint.clone();
        let ready = move |host: &Host| {
            ready(host, &at);
            drop(told.send(host.clone()));
        };
        let running = tokio::spawn(run(config, address, listener, env, stop.clone(), ready));
        let Ok(host) = host.await else {
            panic!("the host ended at once: {:?}", running.await)
        };
        Self {
            host,
            endpoint,
            stop,
            running,
        }
    }

    /// Makes the cluster of one shard, and waits until its replica is here.
    pub(crate) async fn init(&self) {
        let mut admin = AdminClient::connect(self.endpoint.clone()).await.unwrap();
        admin.init(ONE_SHARD).await.unwrap();
        eventually(|| self.host.groups().len() == 2).await;
    }

    /// Stops the host, which must still run. Its tasks end with their runtime: see [`on_a_runtime`].
    pub(crate) async fn stop(self) {
        self.stop.cancel();
        self.running.await.unwrap().unwrap();
    }
}

/// Waits until it holds.
pub(crate) async fn eventually(holds: impl Fn() -> bool) {
    let waited = tokio::time::timeout(PATIENCE, async {
        while !holds() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    });
    waited.await.expect("it comes to hold");
}

/// Runs a test's part on a runtime of its own and ends that with all its tasks: once the disk has crashed, too, its hosts
/// can be started again.
pub(crate) fn on_a_runtime<T>(part: impl Future<Output = T>) -> T {
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let done = runtime.block_on(part);
    runtime.shutdown_timeout(PATIENCE);
    done
}
