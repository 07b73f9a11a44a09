//! What a simulated host is handed instead of the real world: sockets, blocking work and the wall clock.

use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll};
use std::time::Duration;

use client::{BoxFuture, ByteStream};
use raft::LogEnded;
use server::net::Listener;
use storage::clock::Clock;
use storage::log::{LogWriter, Step};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use turmoil::net::{TcpListener, TcpStream};

use crate::generate::Chance;
use crate::record::RunClock;

/// The port that every host listens on.
pub(super) const PORT: u16 = 7420;

/// Connections over the simulated network.
#[derive(Clone, Copy, Debug)]
pub(super) struct SimConnector;

impl client::Connector for SimConnector {
    fn connect(&self, address: &str) -> BoxFuture<io::Result<Box<dyn ByteStream>>> {
        let address = address.to_owned();
        Box::pin(async move {
            let stream = TcpStream::connect(address).await?;
            Ok(Box::new(stream) as Box<dyn ByteStream>)
        })
    }
}

/// Accepts on the simulated network.
pub(super) struct SimListener(TcpListener);

impl SimListener {
    pub(super) async fn bind() -> io::Result<Self> {
        Ok(Self(TcpListener::bind(("0.0.0.0", PORT)).await?))
    }
}

/// An accepted connection.
pub(super) struct SimStream(TcpStream);

impl Listener for SimListener {
    type Stream = SimStream;

    async fn accept(&mut self) -> io::Result<(SimStream, SocketAddr)> {
        let (stream, peer) = self.0.accept().await?;
        Ok((SimStream(stream), peer))
    }
}

impl AsyncRead for SimStream {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_read(cx, buffer)
    }
}

impl AsyncWrite for SimStream {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.0).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_shutdown(cx)
    }
}

/// Blocking work that takes simulated time: a job runs at one instant, after a delay.
pub(super) struct SimExecutor {
    chance: Mutex<Chance>,
    sync_max: Duration,
}

impl SimExecutor {
    pub(super) fn new(seed: u64, sync_max: Duration) -> Self {
        Self {
            chance: Mutex::new(Chance::new(seed)),
            sync_max,
        }
    }
}

fn delay(chance: &mut Chance, longest: Duration) -> Duration {
    // One in a hundred is slow, as disks are.
    let longest = if chance.permille(10) {
        longest * 20
    } else {
        longest
    };
    Duration::from_micros(200 + chance.below(longest.as_micros() as u64))
}

impl raft::Executor for SimExecutor {
    fn execute(&self, job: Box<dyn FnOnce() + Send>) {
        let delay = delay(
            &mut self.chance.lock().expect("no panic while drawing"),
            self.sync_max,
        );
        drop(tokio::spawn(async move {
            tokio::time::sleep(delay).await;
            job();
        }));
    }

    fn write_log(&self, mut writer: LogWriter, ended: LogEnded) {
        let mut chance = Chance::new(self.chance.lock().expect("no panic while drawing").draw());
        let sync_max = self.sync_max;
        drop(tokio::spawn(async move {
            // What arrives during the delay is written with one sync at its end, and nothing is durable before.
            loop {
                tokio::time::sleep(delay(&mut chance, sync_max)).await;
                if writer.step() == Step::Stopped {
                    break;
                }
            }
            ended(writer.outcome());
        }));
    }
}

/// Time since the simulation began, the same for everyone: of the node that runs, or of the last step.
#[derive(Clone, Debug, Default)]
pub(super) struct SimTime(Arc<AtomicU64>);

impl SimTime {
    /// Set by whoever drives the simulation, between two steps.
    pub(super) fn set(&self, elapsed: Duration) {
        self.0.store(
            u64::try_from(elapsed.as_nanos()).unwrap_or(u64::MAX),
            Ordering::Relaxed,
        );
    }
}

impl RunClock for SimTime {
    fn now_ns(&self) -> u64 {
        match turmoil::sim_elapsed() {
            Some(elapsed) => u64::try_from(elapsed.as_nanos()).unwrap_or(u64::MAX),
            None => self.0.load(Ordering::Relaxed),
        }
    }
}

/// A host's wall clock: as fast and as far ahead as its skew says.
#[derive(Debug)]
pub(super) struct SimWallClock {
    pub(super) time: SimTime,
    pub(super) rate_ppm: u64,
    pub(super) ahead_ms: u64,
}

/// What every wall clock shows when the simulation begins: long past, so that time taken from the machine shows.
const EPOCH_MS: u64 = 1_600_000_000_000;

impl Clock for SimWallClock {
    fn now_ms(&self) -> u64 {
        let elapsed_us = self.time.now_ns() / 1_000;
        EPOCH_MS + self.ahead_ms + elapsed_us * self.rate_ppm / 1_000_000 / 1_000
    }
}
