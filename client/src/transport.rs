//! Connections: an HTTP/2 channel over whatever byte stream the connector opens.

use std::{error::Error, future::Future, io, sync::Arc};

use hyper_util::rt::TokioIo;
use tonic::{
    Status,
    transport::{Channel, Endpoint, Uri},
};

use crate::{
    seam::{ByteStream, within},
    setback::{Refusal, Setback},
    shared::Shared,
};

/// A channel to `address` (`host:port`) that connects when it is first used.
pub(crate) fn channel(address: &str, shared: &Arc<Shared>) -> Result<Channel, Setback> {
    let endpoint = endpoint(address, shared)?;
    Ok(endpoint.connect_with_connector_lazy(tower::service_fn(dial(address, shared))))
}

/// A channel to `address` that is connected. `Err` is certain: nothing was sent.
pub(crate) async fn connected(address: &str, shared: &Arc<Shared>) -> Result<Channel, Setback> {
    let endpoint = endpoint(address, shared)?;
    let connecting = endpoint.connect_with_connector(tower::service_fn(dial(address, shared)));
    connecting
        .await
        .map_err(|error| Setback::host_failed(format!("{address}: {}", chain(&error))))
}

fn endpoint(address: &str, shared: &Shared) -> Result<Endpoint, Setback> {
    let transport = &shared.config.transport;
    let invalid = |_| {
        Setback::refused(
            Refusal::Invalid,
            format!("not an address (host:port): {address:?}"),
        )
    };
    Ok(Endpoint::from_shared(format!("http://{address}"))
        .map_err(invalid)?
        .initial_stream_window_size(transport.stream_window_bytes)
        .initial_connection_window_size(transport.connection_window_bytes)
        .http2_keep_alive_interval(transport.keep_alive_interval)
        .keep_alive_timeout(transport.keep_alive_timeout)
        .keep_alive_while_idle(true))
}

type Dialed = Result<TokioIo<Box<dyn ByteStream>>, io::Error>;

/// Opens the byte stream through the connector, within the time limit on the client's clock.
fn dial(
    address: &str,
    shared: &Arc<Shared>,
) -> impl FnMut(Uri) -> std::pin::Pin<Box<dyn Future<Output = Dialed> + Send>> + Send + 'static {
    let (address, shared) = (address.to_owned(), Arc::clone(shared));
    move |_| {
        let connecting = shared.config.connector.connect(&address);
        let shared = Arc::clone(&shared);
        Box::pin(async move {
            let config = &shared.config;
            match within(&config.clock, config.transport.connect_timeout, connecting).await {
                Ok(stream) => stream.map(TokioIo::new),
                Err(_) => Err(io::ErrorKind::TimedOut.into()),
            }
        })
    }
}

/// A status with what caused it: tonic's own text says no more than "transport error".
pub(crate) fn describe(status: &Status) -> String {
    match status.source() {
        Some(source) => format!("{}: {}", status.message(), chain(source)),
        None => format!("{:?}: {}", status.code(), status.message()),
    }
}

fn chain(error: &(dyn Error + 'static)) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(cause) = next {
        text = format!("{text}: {cause}");
        next = cause.source();
    }
    text
}
