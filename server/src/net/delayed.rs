//! [`DelayedIo`]: a byte stream to a host that seems farther away than it is.
//!
//! Bytes written are handed to the wrapped stream one delay later, and bytes that arrive are handed
//! up one delay later, so the connecting side alone emulates a round trip of twice the delay. Any
//! number of bytes may be in flight up to [`BUFFERED_BYTES_MAX`] a direction: latency is added,
//! throughput is not divided by it.
//!
//! As on a real network, a write or flush is done when the bytes are under way, not when they
//! arrive. `shutdown` waits for the delivery of everything before it, so a program may exit after
//! it. A stream dropped without shutdown still delivers what is in flight, for a while.
//!
//! Limits: the timer counts milliseconds, so a delay under 0.9 ms is none, and on a real clock a round
//! trip is up to about a millisecond longer than asked.
//!
//! One task a connection owns the wrapped stream. It ends with the stream, or when the `DelayedIo` is
//! dropped and the bytes in flight are delivered.

use std::future::poll_fn;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, ReadBuf};
use tokio::time::{Instant, Sleep, sleep_until};
use tokio_util::sync::{CancellationToken, DropGuard};

use super::lane::{Arrival, Lane};

/// Most bytes in flight in one direction of a connection; a writer beyond it waits.
pub const BUFFERED_BYTES_MAX: usize = 4 * 1024 * 1024;

/// Bytes moved between the wrapped stream and a lane at a time.
const PIECE_BYTES_MAX: usize = 64 * 1024;
/// How long a peer that does not read can hold the bytes of a dropped stream.
const LINGER: Duration = Duration::from_secs(5);

/// A byte stream delayed by the same length in both directions.
#[derive(Debug)]
pub struct DelayedIo {
    delay: Duration,
    outbound: Arc<Lane>,
    inbound: Arc<Lane>,
    arrivals: Pin<Box<Sleep>>,
    is_ended: bool,
    is_read_out: bool,
    _hangup: DropGuard,
}

impl DelayedIo {
    /// Wraps `inner`, delaying each direction by `delay`. Spawns the task that owns `inner`, so it
    /// must be called within a tokio runtime.
    pub fn new<T>(inner: T, delay: Duration) -> Self
    where
        T: AsyncRead + AsyncWrite + Send + 'static,
    {
        let outbound = Arc::new(Lane::new(BUFFERED_BYTES_MAX));
        let inbound = Arc::new(Lane::new(BUFFERED_BYTES_MAX));
        let hangup = CancellationToken::new();
        tokio::spawn(carry(
            inner,
            delay,
            outbound.clone(),
            inbound.clone(),
            hangup.clone(),
        ));
        DelayedIo {
            delay,
            outbound,
            inbound,
            arrivals: timer(),
            is_ended: false,
            is_read_out: false,
            _hangup: hangup.drop_guard(),
        }
    }

    fn end(&mut self) {
        if !self.is_ended {
            self.is_ended = true;
            self.outbound.put_last(Instant::now() + self.delay, Arrival::End);
        }
    }
}

impl AsyncRead for DelayedIo {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = &mut *self;
        if this.is_read_out || buffer.remaining() == 0 {
            return Poll::Ready(Ok(()));
        }
        match ready!(this.inbound.poll_take(cx, &mut this.arrivals, buffer.remaining())) {
            Arrival::Bytes(bytes) => buffer.put_slice(&bytes),
            Arrival::End => this.is_read_out = true,
            Arrival::Fault(error) => {
                this.is_read_out = true;
                return Poll::Ready(Err(error));
            }
        }
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for DelayedIo {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        if self.is_ended {
            return Poll::Ready(Err(io::ErrorKind::BrokenPipe.into()));
        }
        self.outbound.poll_put(cx, Instant::now() + self.delay, bytes)
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.end();
        self.outbound.poll_finished(cx)
    }
}

impl Drop for DelayedIo {
    fn drop(&mut self) {
        self.end();
    }
}

async fn carry<T>(
    inner: T,
    delay: Duration,
    outbound: Arc<Lane>,
    inbound: Arc<Lane>,
    hangup: CancellationToken,
) where
    T: AsyncRead + AsyncWrite + Send + 'static,
{
    let (reader, writer) = tokio::io::split(inner);
    let receive = hangup.run_until_cancelled(receive(reader, delay, &inbound));
    let send = async {
        let outcome = tokio::select! {
            outcome = send(writer, &outbound) => outcome,
            () = lingered(&hangup, delay) => Err(io::ErrorKind::TimedOut.into()),
        };
        outbound.finish(outcome.map_err(|error: io::Error| error.kind()));
    };
    tokio::join!(receive, send);
}

/// Hands bytes to the wrapped stream as they fall due, then its end.
async fn send(mut writer: impl AsyncWrite + Unpin, lane: &Lane) -> io::Result<()> {
    let mut departures = timer();
    loop {
        match poll_fn(|cx| lane.poll_take(cx, &mut departures, PIECE_BYTES_MAX)).await {
            Arrival::Bytes(bytes) => writer.write_all(&bytes).await?,
            Arrival::End => return writer.shutdown().await,
            Arrival::Fault(error) => return Err(error),
        }
    }
}

/// Takes bytes from the wrapped stream as they come and lets them arrive one delay later.
async fn receive(mut reader: impl AsyncRead + Unpin, delay: Duration, lane: &Lane) {
    let mut buffer = vec![0; PIECE_BYTES_MAX];
    loop {
        let room = poll_fn(|cx| lane.poll_room(cx)).await.min(PIECE_BYTES_MAX);
        let read = reader.read(&mut buffer[..room]).await;
        let due = Instant::now() + delay;
        let count = match read {
            Ok(0) => return lane.put_last(due, Arrival::End),
            Ok(count) => count,
            Err(error) => return lane.put_last(due, Arrival::Fault(error)),
        };
        // The lane has room for `count` bytes: this task alone fills it.
        let put = poll_fn(|cx| lane.poll_put(cx, due, &buffer[..count])).await;
        debug_assert_eq!(put.ok(), Some(count));
    }
}

async fn lingered(hangup: &CancellationToken, delay: Duration) {
    hangup.cancelled().await;
    tokio::time::sleep(delay + LINGER).await;
}

fn timer() -> Pin<Box<Sleep>> {
    Box::pin(sleep_until(Instant::now()))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use tokio::io::{DuplexStream, duplex};

    use super::*;

    const DELAY: Duration = Duration::from_millis(20);

    /// A delayed stream and the far end of its wire.
    fn wire(delay: Duration) -> (DelayedIo, DuplexStream) {
        let (near, far) = duplex(16 * 1024);
        (DelayedIo::new(near, delay), far)
    }

    async fn echo(mut far: DuplexStream) {
        let mut buffer = vec![0; 4096];
        loop {
            match far.read(&mut buffer).await.unwrap() {
                0 => break,
                count => far.write_all(&buffer[..count]).await.unwrap(),
            }
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_round_trip_takes_twice_the_delay() {
        for millis in [0, 1, 7, 20, 80] {
            let delay = Duration::from_millis(millis);
            let (mut near, far) = wire(delay);
            tokio::spawn(echo(far));
            for _ in 0..3 {
                let asked = Instant::now();
                near.write_all(b"ping").await.unwrap();
                near.flush().await.unwrap();
                assert_eq!(
                    asked.elapsed(),
                    Duration::ZERO,
                    "a write waits for room, not for the network"
                );
                near.read_exact(&mut [0; 4]).await.unwrap();
                assert_eq!(asked.elapsed(), 2 * delay);
            }
        }
    }

    #[tokio::test(start_paused = true)]
    async fn messages_under_way_overlap() {
        let (mut near, far) = wire(DELAY);
        tokio::spawn(echo(far));
        let asked = Instant::now();
        for _ in 0..100 {
            near.write_all(b"ping").await.unwrap();
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        near.read_exact(&mut [0; 400]).await.unwrap();
        // The last was written after 99 ms; one after the other they would take 4 s.
        assert_eq!(asked.elapsed(), Duration::from_millis(99) + 2 * DELAY);
    }

    #[tokio::test(start_paused = true)]
    async fn a_bulk_transfer_pays_the_delay_once_a_buffer() {
        let (mut near, mut far) = wire(DELAY);
        let asked = Instant::now();
        let sent = 3 * BUFFERED_BYTES_MAX;
        let send = async move {
            near.write_all(&vec![7; sent]).await.unwrap();
            near.shutdown().await.unwrap();
        };
        let mut received = Vec::new();
        let (_, result) = tokio::join!(send, far.read_to_end(&mut received));
        assert_eq!((result.unwrap(), received.len()), (sent, sent));
        assert!(asked.elapsed() <= 4 * DELAY, "{:?}", asked.elapsed());
    }

    #[tokio::test(start_paused = true)]
    async fn a_full_buffer_holds_the_writer_back() {
        let (mut near, mut far) = wire(DELAY);
        let stuck = tokio::time::timeout(10 * DELAY, near.write_all(&vec![1; 2 * BUFFERED_BYTES_MAX])).await;
        assert!(stuck.is_err(), "nobody reads, so the writer must wait");
        far.read_exact(&mut vec![0; BUFFERED_BYTES_MAX]).await.unwrap();
        tokio::time::timeout(DELAY, near.write_all(b"more"))
            .await
            .unwrap()
            .unwrap();
    }

    #[tokio::test(start_paused = true)]
    async fn shutdown_waits_for_delivery_and_leaves_reading_open() {
        let (mut near, mut far) = wire(DELAY);
        near.write_all(b"last words").await.unwrap();
        let asked = Instant::now();
        near.shutdown().await.unwrap();
        assert_eq!(asked.elapsed(), DELAY);
        let mut received = Vec::new();
        far.read_to_end(&mut received).await.unwrap();
        assert_eq!(received, b"last words");

        far.write_all(b"answer").await.unwrap();
        drop(far);
        let mut answer = Vec::new();
        near.read_to_end(&mut answer).await.unwrap();
        assert_eq!(answer, b"answer");
        assert_eq!(
            near.write(b"x").await.unwrap_err().kind(),
            io::ErrorKind::BrokenPipe
        );
    }

    #[tokio::test(start_paused = true)]
    async fn a_dropped_stream_delivers_what_is_under_way() {
        let (mut near, mut far) = wire(DELAY);
        near.write_all(b"parting").await.unwrap();
        drop(near);
        let mut received = Vec::new();
        let dropped = Instant::now();
        far.read_to_end(&mut received).await.unwrap();
        assert_eq!((received.as_slice(), dropped.elapsed()), (&b"parting"[..], DELAY));
    }

    #[tokio::test(start_paused = true)]
    async fn a_peer_that_never_reads_cannot_hold_a_dropped_stream_for_ever() {
        let (near, mut far) = duplex(8);
        let mut near = DelayedIo::new(near, DELAY);
        near.write_all(&[1; 100]).await.unwrap();
        drop(near);
        tokio::time::sleep(DELAY + LINGER + Duration::from_millis(1)).await;
        let mut received = Vec::new();
        far.read_to_end(&mut received).await.unwrap();
        assert_eq!(received.len(), 8);
    }

    #[tokio::test(start_paused = true)]
    async fn a_vanished_peer_fails_reads_and_writes() {
        let (mut near, far) = wire(DELAY);
        drop(far);
        assert_eq!(near.read(&mut [0; 1]).await.unwrap(), 0);
        near.write_all(b"x").await.unwrap();
        tokio::time::sleep(2 * DELAY).await;
        assert_eq!(
            near.write(b"y").await.unwrap_err().kind(),
            io::ErrorKind::BrokenPipe
        );
        assert!(near.shutdown().await.is_err());
    }

    /// Writes `parts` with pauses between them, reads in pieces of `piece`, and compares the bytes.
    async fn carries_in_order(parts: Vec<(usize, u64)>, delay: Duration, piece: usize) {
        let (near, far) = wire(delay);
        let (mut reader, mut writer) = tokio::io::split(near);
        tokio::spawn(echo(far));
        let sent: Vec<u8> = (0..parts.iter().map(|(len, _)| len).sum())
            .map(|i: usize| (i % 251) as u8)
            .collect();
        let expected = sent.clone();
        let write = async move {
            let mut rest = &sent[..];
            for (len, pause_ms) in parts {
                let (part, after) = rest.split_at(len);
                writer.write_all(part).await.unwrap();
                tokio::time::sleep(Duration::from_millis(pause_ms)).await;
                rest = after;
            }
            writer.shutdown().await.unwrap();
        };
        let read = async move {
            let mut received = Vec::new();
            let mut buffer = vec![0; piece];
            while received.len() < expected.len() {
                let count = reader.read(&mut buffer).await.unwrap();
                assert_ne!(count, 0, "ended after {} of {}", received.len(), expected.len());
                received.extend_from_slice(&buffer[..count]);
            }
            assert!(received == expected, "bytes changed or out of order");
            assert_eq!(reader.read(&mut buffer).await.unwrap(), 0);
        };
        tokio::join!(write, read);
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]
        #[test]
        fn no_byte_is_lost_or_reordered(
            parts in proptest::collection::vec((0_usize..30_000, 0_u64..15), 1..20),
            delay_us in 0_u64..40_000,
            piece in 1_usize..9_000,
        ) {
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .start_paused(true)
                .build()
                .unwrap();
            runtime.block_on(carries_in_order(parts, Duration::from_micros(delay_us), piece));
        }
    }
}
