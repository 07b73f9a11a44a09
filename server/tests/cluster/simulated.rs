//! Hosts in this process over simulated disks.

use std::sync::{Arc, OnceLock};
use std::time::Duration;

use client::{Client, ClientConfig, TcpConnector};
use server::config::{HostConfig, StorageConfig};
use server::host::{self, Host, RunError};
use server::serve::env_over;
use storage::sim_disk::SimDisk;
use tokio_util::sync::CancellationToken;

use super::harness::eventually;

/// A host in a runtime of its own, so that it can be stopped dead.
pub(crate) struct Powered {
    pub(crate) runtime: tokio::runtime::Runtime,
    /// How the host ended by itself.
    pub(crate) ended: tokio::task::JoinHandle<Result<(), RunError>>,
    /// The host, once it serves.
    pub(crate) host: Arc<OnceLock<Host>>,
}

/// Starts host `number` of those at `addresses`; the first one makes the cluster.
pub(crate) fn power_on(disk: &Arc<SimDisk>, number: usize, addresses: &[String], seed: u64) -> Powered {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .enable_all()
        .build()
        .unwrap();
    let address = addresses[number].clone();
    let config = HostConfig {
        data_dir: format!("/host{number}").into(),
        listen: address.clone(),
        zone: format!("z{number}"),
        join: if number == 0 {
            Vec::new()
        } else {
            vec![addresses[0].clone()]
        },
        // Tests fill the disk to see what comes of it.
        storage: StorageConfig {
            free_bytes_min: 0,
            ..StorageConfig::default()
        },
        ..HostConfig::default()
    };
    let (disk, host) = (disk.clone(), Arc::new(OnceLock::new()));
    let told = host.clone();
    let ended = runtime.spawn(async move {
        let listener = eventually("the address is free again", || async {
            tokio::net::TcpListener::bind(&address)
                .await
                .map_err(|e| e.to_string())
        })
        .await;
        let env = env_over(Arc::new(TcpConnector), disk, seed);
        host::run(config, address, listener, env, CancellationToken::new(), |host| {
            let _ = told.set(host.clone());
        })
        .await
    });
    Powered { runtime, ended, host }
}

pub(crate) async fn connect(addresses: &[String]) -> Client {
    let config = ClientConfig {
        deadline: Duration::from_secs(20),
        ..ClientConfig::new(addresses.iter().cloned())
    };
    eventually("a client connects", || async {
        Client::connect(config.clone()).await.map_err(|e| e.to_string())
    })
    .await
}
