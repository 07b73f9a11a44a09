//! What a host answers: clients ([`kv`], [`watch`]), operators ([`admin`]), the controller ([`control`]), its peers (`raft`).

mod admin;
mod control;
mod exchange;
mod execute;
mod explain;
mod fresh;
mod hosts;
mod kv;
mod lane;
mod limits;
mod load;
mod models;
mod record;
mod replica_states;
mod replies;
mod reply;
mod reshape;
mod spread;
mod trust;
mod unary;
mod usage;
mod watch;
mod windows;

pub(crate) use execute::{Lanes, home, home_in_map};
use raft::PeerService;
pub(crate) use reply::{key_value, led_elsewhere, problem, unreadable};
use tonic::Status;
use tonic::transport::Server;
use tonic::transport::server::Router;

use crate::host::Host;

/// HTTP/2 windows of a connection: enough for large batches to flow without waiting.
const STREAM_WINDOW_BYTES: u32 = 4 << 20;
const CONNECTION_WINDOW_BYTES: u32 = 16 << 20;
/// Streams of one connection: one a client, one a peer, and unary calls.
const CONCURRENT_STREAMS_MAX: u32 = 1024;
/// Request headers carry nothing of ours.
const HEADER_BYTES_MAX: u32 = 16 << 10;

/// Does what was asked to its end, even if whoever asked goes away. `Err`: the host's runtime ended first, or the job panicked.
async fn carry_out<T: Send + 'static>(
    host: &Host,
    job: impl Future<Output = T> + Send + 'static,
) -> Result<T, Status> {
    let done = host.shared.env.raft.spawn(job).await;
    done.map_err(|e| Status::internal(e.to_string()))
}

/// All services of a host.
pub(crate) fn router(server: Server, host: &Host) -> Router {
    server
        .initial_stream_window_size(STREAM_WINDOW_BYTES)
        .initial_connection_window_size(CONNECTION_WINDOW_BYTES)
        .max_concurrent_streams(CONCURRENT_STREAMS_MAX)
        .http2_max_header_list_size(HEADER_BYTES_MAX)
        .http2_keepalive_interval(Some(std::time::Duration::from_secs(10)))
        .add_service(PeerService::server(host.shared.raft.clone()))
        .add_service(control::ControlService::server(host.clone()))
        .add_service(kv::KvService::server(host.clone()))
        .add_service(watch::WatchService::server(host.clone()))
        .add_service(admin::AdminService::server(host.clone()))
}
