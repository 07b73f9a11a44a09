//! What the client takes from outside: the clock and the way to open a byte stream to a host.
//!
//! Both are handed in by whoever composes the program, so that a whole cluster with its clients runs in one
//! process on simulated time and a simulated network. The third thing handed in is chance: a seed, in
//! [`ClientConfig`](crate::ClientConfig).

use std::{future::Future, io, pin::Pin, sync::Arc, time::Duration};

use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::TcpStream,
    time::Instant,
};

/// A boxed future, as the seams return it.
pub type BoxFuture<T> = Pin<Box<dyn Future<Output = T> + Send>>;

/// Mechanism time: deadlines, pauses between attempts, connection time-outs.
pub trait Clock: Send + Sync + 'static {
    /// Time since an origin of the clock's choice. Never goes back.
    fn now(&self) -> Duration;

    /// Completes once `length` has passed on this clock.
    fn sleep(&self, length: Duration) -> BoxFuture<()>;
}

/// The clock of the tokio runtime: real time in a program, virtual time in a runtime that is paused or simulated.
#[derive(Debug, Clone)]
pub struct TokioClock {
    origin: Instant,
}

impl TokioClock {
    /// A clock whose origin is the moment of this call.
    #[must_use]
    pub fn start() -> Self {
        Self {
            origin: Instant::now(),
        }
    }
}

impl Clock for TokioClock {
    fn now(&self) -> Duration {
        self.origin.elapsed()
    }

    fn sleep(&self, length: Duration) -> BoxFuture<()> {
        Box::pin(tokio::time::sleep(length))
    }
}

/// The trace that a call belongs to, as W3C and OpenTelemetry number them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TraceContext {
    /// Of the whole trace.
    pub trace_id: [u8; 16],
    /// Of the span that the call is made in.
    pub span_id: [u8; 8],
}

impl TraceContext {
    /// As it travels with a mutation: the trace's id, then the span's.
    #[must_use]
    pub fn to_bytes(self) -> bytes::Bytes {
        [self.trace_id.as_slice(), self.span_id.as_slice()]
            .concat()
            .into()
    }

    /// Reads it back; `None` for anything else.
    #[must_use]
    pub fn from_bytes(bytes: &[u8]) -> Option<Self> {
        let (trace_id, span_id) = bytes.split_at_checked(16)?;
        Some(Self {
            trace_id: trace_id.try_into().ok()?,
            span_id: span_id.try_into().ok()?,
        })
    }
}

/// Knows the trace that a mutation belongs to. It is asked at each attempt; what it names travels with the mutation through
/// the hosts and into the shard's log.
pub trait TraceSource: Send + Sync + 'static {
    /// The trace and the span of now; `None`: the call is not traced.
    fn current(&self) -> Option<TraceContext>;
}

/// A connection's two directions.
pub trait ByteStream: AsyncRead + AsyncWrite + Send + Unpin {}

impl<T: AsyncRead + AsyncWrite + Send + Unpin> ByteStream for T {}

/// Opens byte streams to hosts.
pub trait Connector: Send + Sync + 'static {
    /// Connects to `address` (`host:port`). The caller bounds the time this may take, by dropping the future.
    fn connect(&self, address: &str) -> BoxFuture<io::Result<Box<dyn ByteStream>>>;
}

/// Plain TCP, without Nagle's delay: a frame holds all there is to send, so there is nothing to wait for.
#[derive(Debug, Clone, Copy, Default)]
pub struct TcpConnector;

impl Connector for TcpConnector {
    fn connect(&self, address: &str) -> BoxFuture<io::Result<Box<dyn ByteStream>>> {
        let address = address.to_owned();
        Box::pin(async move {
            let stream = TcpStream::connect(address).await?;
            stream.set_nodelay(true)?;
            Ok(Box::new(stream) as Box<dyn ByteStream>)
        })
    }
}

/// Time has run out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Elapsed;

/// Runs `future` for at most `limit`; what it did until then is kept or undone by its own drop.
pub(crate) async fn within<F: Future>(
    clock: &Arc<dyn Clock>,
    limit: Duration,
    future: F,
) -> Result<F::Output, Elapsed> {
    tokio::select! {
        biased;
        output = future => Ok(output),
        () = clock.sleep(limit) => Err(Elapsed),
    }
}
