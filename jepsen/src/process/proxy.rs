//! A network in this process: one listener a host, through which everybody else reaches it.
//!
//! A connection has two pumps, one a direction, and each is treated as its ordered pair of ends is at that moment.
//! What is blocked stays in the pump and arrives when the block is lifted, as TCP would send it again; so does the end
//! of the stream, since a machine that is cut off tells nobody that it died. The kernel accepts connections before
//! the proxy can think, so a blocked connect succeeds and then hears nothing; a refused one is reset instead.
//!
//! Loss has no meaning inside a stream: a lost piece arrives after [`RETRANSMISSION`], and all behind it with it.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::condition::{Conditions, End, Treatment, Way};
use super::connections::Residents;
use crate::generate::Chance;

/// How late a lost piece arrives.
const RETRANSMISSION: Duration = Duration::from_millis(200);
/// Read at a time.
const PIECE_BYTES: usize = 16 << 10;
/// Pieces under way in one direction of one connection; beyond, the sender is held up.
const PIECES_MAX: usize = 64;

/// The listeners of all hosts, and what is wrong between them.
#[derive(Debug)]
pub struct Proxy {
    conditions: watch::Sender<Conditions>,
    residents: Arc<Residents>,
    chance: Arc<Mutex<Chance>>,
    stop: CancellationToken,
    targets: Mutex<BTreeMap<usize, String>>,
}

/// What every connection of the proxy shares.
#[derive(Clone)]
struct Crossing {
    conditions: watch::Receiver<Conditions>,
    chance: Arc<Mutex<Chance>>,
}

impl Proxy {
    /// A proxy without listeners; `seed` is for jitter and loss.
    pub fn new(seed: u64) -> Self {
        Self {
            conditions: watch::Sender::default(),
            residents: Arc::default(),
            chance: Arc::new(Mutex::new(Chance::new(seed))),
            stop: CancellationToken::new(),
            targets: Mutex::default(),
        }
    }

    /// Listens for host `number`, which itself listens on `target`: the address that others are to use.
    ///
    /// # Errors
    /// When no port is free.
    pub async fn open(&self, number: usize, target: String) -> std::io::Result<String> {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let address = listener.local_addr()?;
        self.targets
            .lock()
            .expect("no panic with the lock held")
            .insert(number, target.clone());
        let crossing = Crossing {
            conditions: self.conditions.subscribe(),
            chance: self.chance.clone(),
        };
        let (residents, stop) = (self.residents.clone(), self.stop.clone());
        tokio::spawn(async move {
            tokio::select! {
                () = accept(&listener, number, &target, &residents, &crossing) => {}
                () = stop.cancelled() => {}
            }
        });
        Ok(address.to_string())
    }

    /// From now on `pid` is host `number`.
    pub(super) fn moved_in(&self, pid: u32, number: usize) {
        self.residents.moved_in(pid, number);
    }

    /// From now on these conditions hold, and no others.
    pub(super) fn apply(&self, conditions: Conditions) {
        self.conditions.send_replace(conditions);
    }

    /// Closes all listeners and connections.
    pub(super) fn close(&self) {
        self.stop.cancel();
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.close();
    }
}

/// Accepts until it is dropped, and drops the connections with itself.
async fn accept(
    listener: &TcpListener,
    number: usize,
    target: &str,
    residents: &Arc<Residents>,
    crossing: &Crossing,
) {
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            accepted = listener.accept() => match accepted {
                Ok((stream, peer)) => {
                    let (residents, crossing) = (residents.clone(), crossing.clone());
                    let target = target.to_owned();
                    connections.spawn(async move { connect(stream, peer, number, &target, &residents, crossing).await });
                }
                // Out of descriptors: the connection waits in the kernel's queue.
                Err(_) => tokio::time::sleep(Duration::from_millis(20)).await,
            },
            Some(_) = connections.join_next() => {}
        }
    }
}

/// One connection, from its first byte to its end.
async fn connect(
    near: TcpStream,
    peer: SocketAddr,
    number: usize,
    target: &str,
    residents: &Arc<Residents>,
    crossing: Crossing,
) {
    let Ok(ours) = near.local_addr() else { return };
    let residents = residents.clone();
    let opener = tokio::task::spawn_blocking(move || residents.opened_by(peer, ours)).await;
    let (from, to) = (opener.unwrap_or(End::Clients), End::Host(number));
    let Ok(far) = TcpStream::connect(target).await else {
        near.set_zero_linger().ok();
        return;
    };
    for stream in [&near, &far] {
        stream.set_nodelay(true).ok();
        // Whatever ends the pumps, a stream that did not end in order is reset.
        stream.set_zero_linger().ok();
    }
    let (near_read, near_write) = near.into_split();
    let (far_read, far_write) = far.into_split();
    let mut reset = crossing.conditions.clone();
    let broken = reset.wait_for(move |now| now.on((from, to)).reset || now.on((to, from)).reset);
    let pumps = async {
        tokio::try_join!(
            pump((from, to), near_read, far_write, &crossing),
            pump((to, from), far_read, near_write, &crossing),
        )
    };
    tokio::select! {
        _ = pumps => {}
        _ = broken => {}
    }
}

/// A piece of a stream and when it may arrive.
struct Piece {
    due: Instant,
    bytes: Vec<u8>,
}

/// One direction of a connection, to its orderly end. An error is a receiver that is gone: both directions are over.
async fn pump(way: Way, from: OwnedReadHalf, to: OwnedWriteHalf, crossing: &Crossing) -> std::io::Result<()> {
    let (sender, receiver) = mpsc::channel(PIECES_MAX);
    // When reading ends, what was read is still to be delivered.
    let writing = deliver(way, receiver, to, crossing.conditions.clone());
    let reading = async {
        take(way, from, sender, crossing).await;
        std::future::pending::<()>().await
    };
    tokio::select! {
        delivered = writing => delivered,
        () = reading => Ok(()),
    }
}

/// Reads pieces and says when each is due; closes the channel at the end of the stream.
async fn take(way: Way, mut from: OwnedReadHalf, sender: mpsc::Sender<Piece>, crossing: &Crossing) {
    let mut due = Instant::now();
    loop {
        let mut bytes = vec![0; PIECE_BYTES];
        let Ok(count @ 1..) = from.read(&mut bytes).await else {
            return;
        };
        bytes.truncate(count);
        let treatment = crossing.conditions.borrow().on(way);
        // Never before the piece ahead of it: a stream keeps its order.
        due = due.max(Instant::now() + crossing.lateness(treatment));
        if sender.send(Piece { due, bytes }).await.is_err() {
            return;
        }
    }
}

/// Writes pieces when they are due and nothing blocks them, then ends the stream.
async fn deliver(
    way: Way,
    mut pieces: mpsc::Receiver<Piece>,
    mut to: OwnedWriteHalf,
    mut conditions: watch::Receiver<Conditions>,
) -> std::io::Result<()> {
    while let Some(piece) = pieces.recv().await {
        tokio::time::sleep_until(piece.due).await;
        let Ok(limit) = conditions
            .wait_for(|now| !now.on(way).blocked)
            .await
            .map(|now| now.on(way).bytes_per_second)
        else {
            return Ok(());
        };
        to.write_all(&piece.bytes).await?;
        if let Some(bytes_per_second) = limit {
            let seconds = piece.bytes.len() as f64 / bytes_per_second as f64;
            tokio::time::sleep(Duration::from_secs_f64(seconds)).await;
        }
    }
    drop(conditions.wait_for(|now| !now.on(way).blocked).await);
    to.shutdown().await
}

impl Crossing {
    fn lateness(&self, treatment: Treatment) -> Duration {
        if treatment.jitter.is_zero() && treatment.lost_permille == 0 {
            return treatment.delay;
        }
        let mut chance = self.chance.lock().expect("no panic with the lock held");
        let jitter_us = u64::try_from(treatment.jitter.as_micros()).unwrap_or(u64::MAX);
        let mut late = treatment.delay + Duration::from_micros(chance.below(jitter_us));
        if chance.permille(u64::from(treatment.lost_permille)) {
            late += RETRANSMISSION;
        }
        late
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::super::condition::{Condition, Effect};
    use super::*;

    const SOON: Duration = Duration::from_millis(300);

    /// A proxy before a server that sends back what it gets, and a connection through it.
    async fn echo() -> (Proxy, TcpStream, String) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let target = listener.local_addr().unwrap().to_string();
        tokio::spawn(async move {
            while let Ok((mut stream, _)) = listener.accept().await {
                tokio::spawn(async move {
                    let (mut read, mut write) = stream.split();
                    tokio::io::copy(&mut read, &mut write).await.ok();
                });
            }
        });
        let proxy = Proxy::new(1);
        let address = proxy.open(1, target).await.unwrap();
        let stream = TcpStream::connect(&address).await.unwrap();
        (proxy, stream, address)
    }

    fn on(effect: Effect, ways: &[Way]) -> Conditions {
        let ways: BTreeSet<Way> = ways.iter().copied().collect();
        Conditions(BTreeMap::from([("test".to_owned(), Condition { effect, ways })]))
    }

    async fn round_trip(stream: &mut TcpStream) -> std::io::Result<Duration> {
        let started = Instant::now();
        stream.write_all(b"ping").await?;
        let mut back = [0; 4];
        stream.read_exact(&mut back).await?;
        assert_eq!(&back, b"ping");
        Ok(started.elapsed())
    }

    const THERE: Way = (End::Clients, End::Host(1));
    const BACK: Way = (End::Host(1), End::Clients);

    #[tokio::test]
    async fn what_is_blocked_arrives_when_the_block_is_lifted() {
        for way in [THERE, BACK] {
            let (proxy, mut stream, _) = echo().await;
            round_trip(&mut stream).await.unwrap();
            proxy.apply(on(Effect::Block, &[way]));
            stream.write_all(b"late").await.unwrap();
            let mut back = [0; 4];
            let silent = tokio::time::timeout(SOON, stream.read_exact(&mut back)).await;
            assert!(silent.is_err(), "{way:?} lets bytes through");
            proxy.apply(Conditions::default());
            stream.read_exact(&mut back).await.unwrap();
            assert_eq!(&back, b"late");
            round_trip(&mut stream).await.unwrap();
        }
    }

    #[tokio::test]
    async fn an_end_does_not_cross_a_block() {
        let (proxy, mut stream, _) = echo().await;
        proxy.apply(on(Effect::Block, &[THERE]));
        stream.shutdown().await.unwrap();
        let mut back = [0; 1];
        assert!(tokio::time::timeout(SOON, stream.read(&mut back)).await.is_err());
        proxy.apply(Conditions::default());
        assert_eq!(stream.read(&mut back).await.unwrap(), 0);
    }

    #[tokio::test]
    async fn a_delay_holds_in_both_directions() {
        let (proxy, mut stream, _) = echo().await;
        let delay = Duration::from_millis(80);
        let jitter = Duration::from_millis(20);
        proxy.apply(on(Effect::Delay { delay, jitter }, &[THERE, BACK]));
        assert!(round_trip(&mut stream).await.unwrap() >= 2 * delay);
        proxy.apply(Conditions::default());
        assert!(round_trip(&mut stream).await.unwrap() < 2 * delay);
    }

    #[tokio::test]
    async fn a_reset_ends_connections_and_refuses_new_ones() {
        let (proxy, mut stream, address) = echo().await;
        round_trip(&mut stream).await.unwrap();
        proxy.apply(on(Effect::Reset, &[THERE]));
        let mut byte = [0; 1];
        stream.read_exact(&mut byte).await.unwrap_err();
        let mut next = TcpStream::connect(&address).await.unwrap();
        round_trip(&mut next).await.unwrap_err();
        proxy.apply(Conditions::default());
        let mut last = TcpStream::connect(&address).await.unwrap();
        round_trip(&mut last).await.unwrap();
    }

    #[tokio::test]
    async fn a_narrow_way_takes_its_time() {
        let (proxy, mut stream, _) = echo().await;
        let bytes_per_second = 100;
        proxy.apply(on(Effect::Limit { bytes_per_second }, &[THERE]));
        round_trip(&mut stream).await.unwrap();
        round_trip(&mut stream).await.unwrap();
        let started = Instant::now();
        round_trip(&mut stream).await.unwrap();
        assert!(started.elapsed() >= Duration::from_millis(30));
    }

    #[tokio::test]
    async fn a_dead_host_refuses() {
        let proxy = Proxy::new(1);
        let address = proxy.open(1, "127.0.0.1:1".to_owned()).await.unwrap();
        let mut stream = TcpStream::connect(&address).await.unwrap();
        round_trip(&mut stream).await.unwrap_err();
    }
}
