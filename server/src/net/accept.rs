//! Accepting connections: capped, without Nagle's delay, and never ended by an error.
//!
//! A connection holds a permit while it lives; at the cap the next one waits in the kernel's backlog,
//! so overload slows new clients instead of exhausting descriptors. An accept that fails for want of
//! descriptors or memory is retried after a growing pause; one whose client went away, at once. Were
//! the stream to end on an error, as tonic's own does for some, one burst of clients would stop the
//! host from ever accepting again.

use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use futures_util::stream::{self, Stream};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tonic::transport::server::Connected;

const PAUSE_MIN: Duration = Duration::from_millis(5);
const PAUSE_MAX: Duration = Duration::from_secs(1);

/// How connections are accepted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct AcceptOptions {
    /// Most connections open at once.
    pub connections_max: usize,
}

/// Where connections come from: a TCP listener, or a simulated one.
pub trait Listener: Send + 'static {
    /// An accepted byte stream.
    type Stream: AsyncRead + AsyncWrite + Send + Unpin + 'static;

    /// Waits for the next connection.
    fn accept(&mut self) -> impl Future<Output = io::Result<(Self::Stream, SocketAddr)>> + Send;
}

impl Listener for TcpListener {
    type Stream = TcpStream;

    async fn accept(&mut self) -> io::Result<(TcpStream, SocketAddr)> {
        let (stream, peer) = TcpListener::accept(self).await?;
        stream.set_nodelay(true)?;
        Ok((stream, peer))
    }
}

/// The listener's connections, for `serve_with_incoming`. Never ends and never yields an error.
pub fn incoming<L: Listener>(
    listener: L,
    options: AcceptOptions,
) -> impl Stream<Item = io::Result<AcceptedIo<L::Stream>>> + Send {
    let permits = Arc::new(Semaphore::new(options.connections_max));
    stream::unfold((listener, permits), |(mut listener, permits)| async move {
        let permit = permits.clone().acquire_owned().await.ok()?;
        let (stream, peer) = accept_one(&mut listener).await;
        Some((
            Ok(AcceptedIo {
                stream,
                peer,
                _permit: permit,
            }),
            (listener, permits),
        ))
    })
}

async fn accept_one<L: Listener>(listener: &mut L) -> (L::Stream, SocketAddr) {
    let mut pause = PAUSE_MIN;
    loop {
        match listener.accept().await {
            Ok(accepted) => return accepted,
            Err(error) if is_of_one_connection(&error) => {}
            Err(error) => {
                tracing::warn!(%error, pause_ms = pause.as_millis() as u64, "cannot accept connections");
                tokio::time::sleep(pause).await;
                pause = (2 * pause).min(PAUSE_MAX);
            }
        }
    }
}

/// Whether the failure concerns the connection that was being accepted, not the listener.
fn is_of_one_connection(error: &io::Error) -> bool {
    use io::ErrorKind::{ConnectionAborted, ConnectionRefused, ConnectionReset, Interrupted, NotConnected};
    matches!(
        error.kind(),
        ConnectionAborted | ConnectionRefused | ConnectionReset | Interrupted | NotConnected
    )
}

/// An accepted connection; gives its permit back when dropped.
#[derive(Debug)]
pub struct AcceptedIo<S> {
    stream: S,
    peer: SocketAddr,
    _permit: OwnedSemaphorePermit,
}

impl<S> Connected for AcceptedIo<S> {
    type ConnectInfo = SocketAddr;

    fn connect_info(&self) -> SocketAddr {
        self.peer
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for AcceptedIo<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(cx, buffer)
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for AcceptedIo<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        parts: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(cx, parts)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }
}

#[cfg(test)]
mod tests {
    use std::collections::VecDeque;
    use std::pin::pin;

    use futures_util::{FutureExt, StreamExt};
    use tokio::io::{DuplexStream, duplex};
    use tokio::time::Instant;

    use super::*;

    const EMFILE: i32 = 24;

    /// Fails as scripted, then accepts for ever.
    struct Scripted(VecDeque<io::Error>);

    impl Listener for Scripted {
        type Stream = DuplexStream;

        async fn accept(&mut self) -> io::Result<(DuplexStream, SocketAddr)> {
            match self.0.pop_front() {
                Some(error) => Err(error),
                None => Ok((duplex(1).0, SocketAddr::from(([127, 0, 0, 1], 1)))),
            }
        }
    }

    #[tokio::test(start_paused = true)]
    async fn accepting_outlives_errors_and_backs_off() {
        let out_of_files = || io::Error::from_raw_os_error(EMFILE);
        let errors = VecDeque::from([
            io::ErrorKind::ConnectionAborted.into(),
            out_of_files(),
            out_of_files(),
            io::ErrorKind::ConnectionReset.into(),
            out_of_files(),
        ]);
        let mut connections = pin!(incoming(Scripted(errors), AcceptOptions { connections_max: 2 }));
        let started = Instant::now();
        connections.next().await.unwrap().unwrap();
        assert_eq!(started.elapsed(), PAUSE_MIN + 2 * PAUSE_MIN + 4 * PAUSE_MIN);
    }

    #[tokio::test(start_paused = true)]
    async fn the_pause_is_bounded() {
        let errors = (0..20).map(|_| io::Error::from_raw_os_error(EMFILE)).collect();
        let mut connections = pin!(incoming(Scripted(errors), AcceptOptions { connections_max: 1 }));
        let started = Instant::now();
        connections.next().await.unwrap().unwrap();
        assert!(started.elapsed() < 20 * PAUSE_MAX, "{:?}", started.elapsed());
    }

    #[tokio::test]
    async fn connections_beyond_the_cap_wait_for_one_to_close() {
        let options = AcceptOptions { connections_max: 2 };
        let mut connections = pin!(incoming(Scripted(VecDeque::new()), options));
        let first = connections.next().await.unwrap().unwrap();
        let _second = connections.next().await.unwrap().unwrap();
        assert!(
            connections.next().now_or_never().is_none(),
            "a third was accepted"
        );
        drop(first);
        connections.next().await.unwrap().unwrap();
    }

    #[tokio::test]
    async fn accepted_sockets_do_not_wait_for_more_bytes() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let mut connections = pin!(incoming(listener, AcceptOptions { connections_max: 1 }));
        let client = TcpStream::connect(address).await.unwrap();
        let accepted = connections.next().await.unwrap().unwrap();
        assert!(accepted.stream.nodelay().unwrap());
        assert_eq!(accepted.connect_info(), client.local_addr().unwrap());
    }
}
