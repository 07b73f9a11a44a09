//! The HTTP endpoint: `/metrics`, `/healthz`, `/readyz`.
//!
//! Whoever asks gets one answer a connection. Connections, the size of a request and how long it may take are limited, so
//! nobody can hold on to a host by it.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{Method, Request, Response, StatusCode, header};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::health::{Check, checks};
use super::metrics;
use crate::host::Host;

/// How long a request may take to be read.
const HEADER_TIMEOUT: Duration = Duration::from_secs(5);
/// How long a connection may last in all.
const CONNECTION_TIMEOUT: Duration = Duration::from_secs(30);
/// Most bytes of a request's head.
const HEAD_BYTES_MAX: usize = 16 << 10;
/// How long to wait after a connection could not be accepted: files may have run out.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

const TEXT: &str = "text/plain; charset=utf-8";
/// Prometheus' text format, in the version that all its readers know.
const METRICS_TEXT: &str = "text/plain; version=0.0.4; charset=utf-8";

type Answer = Response<Full<Bytes>>;

/// Answers until the host stops.
pub(crate) async fn serve(host: Host, listener: TcpListener) {
    let most = usize::try_from(host.config().monitoring.connections_max).unwrap_or(Semaphore::MAX_PERMITS);
    let room = Arc::new(Semaphore::new(most.min(Semaphore::MAX_PERMITS)));
    loop {
        let Ok(permit) = room.clone().acquire_owned().await else {
            return;
        };
        match listener.accept().await {
            Ok((stream, _)) => host.spawn(answer_one(host.clone(), stream, permit)),
            Err(error) => {
                tracing::debug!(%error, "a monitoring connection was not accepted");
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

async fn answer_one(host: Host, stream: TcpStream, _permit: OwnedSemaphorePermit) {
    let service = service_fn(move |request: Request<Incoming>| {
        let host = host.clone();
        async move { Ok::<_, Infallible>(answer(&host, &request).await) }
    });
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEADER_TIMEOUT)
        .max_buf_size(HEAD_BYTES_MAX)
        .keep_alive(false)
        .serve_connection(TokioIo::new(stream), service);
    // Whoever went away, or sent no HTTP, hears nothing.
    drop(tokio::time::timeout(CONNECTION_TIMEOUT, connection).await);
}

async fn answer<B>(host: &Host, request: &Request<B>) -> Answer {
    if request.method() != Method::GET && request.method() != Method::HEAD {
        return plain(StatusCode::METHOD_NOT_ALLOWED, "only GET and HEAD\n");
    }
    match request.uri().path() {
        "/metrics" => told_metrics(host).await,
        "/healthz" => plain(StatusCode::OK, "ok\n"),
        "/readyz" => readiness(&checks(host)),
        _ => plain(
            StatusCode::NOT_FOUND,
            "there are /metrics, /healthz and /readyz\n",
        ),
    }
}

async fn told_metrics(host: &Host) -> Answer {
    let reading = host.clone();
    match host.blocking(move || metrics::text(&reading)).await {
        Ok(text) => response(StatusCode::OK, METRICS_TEXT, text),
        Err(error) => plain(StatusCode::INTERNAL_SERVER_ERROR, format!("{error}\n")),
    }
}

/// A line a check, and whether all is well in the status.
fn readiness(checks: &[Check]) -> Answer {
    let line = |check: &Check| match &check.problem {
        None => format!("[+] {}: ok\n", check.name),
        Some(problem) => format!("[-] {}: {problem}\n", check.name),
    };
    let status = match checks.iter().all(|check| check.problem.is_none()) {
        true => StatusCode::OK,
        false => StatusCode::SERVICE_UNAVAILABLE,
    };
    plain(status, checks.iter().map(line).collect::<String>())
}

fn plain(status: StatusCode, text: impl Into<String>) -> Answer {
    response(status, TEXT, text.into())
}

fn response(status: StatusCode, form: &'static str, body: impl Into<Bytes>) -> Answer {
    let mut answer = Response::new(Full::new(body.into()));
    *answer.status_mut() = status;
    let form = header::HeaderValue::from_static(form);
    answer.headers_mut().insert(header::CONTENT_TYPE, form);
    answer
}
