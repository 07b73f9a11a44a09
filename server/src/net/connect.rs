//! Opening connections across the emulated network.
//!
//! [`DelayedConnector`] wraps another connector and makes every connection as slow as the distance
//! between its own zone and the address's. Opening costs one round trip, as a TCP handshake does,
//! also when the address refuses. An address whose zone nobody knows is refused: no distance would
//! be assumed and the measured latencies would be wrong without a trace.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use client::{BoxFuture, ByteStream, Connector};
use placement::Zone;
use placement::planner::RttMatrix;

use super::{AddressZones, DelayedIo};

/// Connects from one zone, delaying each direction by half the round trip to the address's zone.
#[derive(Clone)]
pub struct DelayedConnector {
    inner: Arc<dyn Connector>,
    zone: Zone,
    rtt: Arc<RttMatrix>,
    addresses: Arc<AddressZones>,
}

impl DelayedConnector {
    /// Connects through `inner` as if from `zone`.
    pub fn new(
        inner: Arc<dyn Connector>,
        zone: Zone,
        rtt: Arc<RttMatrix>,
        addresses: Arc<AddressZones>,
    ) -> Self {
        DelayedConnector {
            inner,
            zone,
            rtt,
            addresses,
        }
    }

    /// The emulated round trip to `address`, if its zone is known.
    pub fn round_trip(&self, address: &str) -> Option<Duration> {
        let zone = self.addresses.zone_of(address)?;
        Some(Duration::from_micros(u64::from(
            self.rtt.micros(&self.zone, &zone),
        )))
    }
}

impl Connector for DelayedConnector {
    fn connect(&self, address: &str) -> BoxFuture<io::Result<Box<dyn ByteStream>>> {
        let Some(round_trip) = self.round_trip(address) else {
            let error = io::Error::new(
                io::ErrorKind::InvalidInput,
                format!("the emulated network knows no zone for {address}"),
            );
            return Box::pin(async { Err(error) });
        };
        let connecting = self.inner.connect(address);
        Box::pin(async move {
            let (stream, ()) = tokio::join!(connecting, tokio::time::sleep(round_trip));
            Ok(Box::new(DelayedIo::new(stream?, round_trip / 2)) as Box<dyn ByteStream>)
        })
    }
}

#[cfg(test)]
mod tests {
    use client::TcpConnector;
    use http::{Request, Response};
    use hyper_util::rt::TokioIo;
    use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream, duplex};
    use tokio::net::TcpListener;
    use tokio::sync::mpsc;
    use tokio::time::Instant;
    use tokio_util::sync::CancellationToken;
    use tonic::body::Body;
    use tonic::transport::{Endpoint, Server};
    use tower::ServiceExt;

    use super::*;
    use crate::net::{AcceptOptions, incoming};

    /// Connects to in-memory streams whose far ends it hands out.
    struct Loopback(mpsc::UnboundedSender<DuplexStream>);

    impl Connector for Loopback {
        fn connect(&self, _: &str) -> BoxFuture<io::Result<Box<dyn ByteStream>>> {
            let (near, far) = duplex(1024);
            let sent = self
                .0
                .send(far)
                .map_err(|_| io::ErrorKind::ConnectionRefused.into());
            Box::pin(async { sent.map(|()| Box::new(near) as Box<dyn ByteStream>) })
        }
    }

    fn from_zone_a(inner: Arc<dyn Connector>, address: &str) -> DelayedConnector {
        let mut rtt = RttMatrix::default();
        rtt.insert_both(Zone::from("a"), Zone::from("b"), 30_000);
        let addresses = Arc::new(AddressZones::default());
        addresses.insert(address, Zone::from("b"));
        DelayedConnector::new(inner, Zone::from("a"), Arc::new(rtt), addresses)
    }

    #[tokio::test(start_paused = true)]
    async fn opening_and_asking_cost_a_round_trip_each() {
        let (accepted, mut accepting) = mpsc::unbounded_channel();
        let connector = from_zone_a(Arc::new(Loopback(accepted)), "far:1");
        tokio::spawn(async move {
            let mut far = accepting.recv().await.unwrap();
            let (mut reader, mut writer) = tokio::io::split(&mut far);
            tokio::io::copy(&mut reader, &mut writer).await.unwrap();
        });
        let started = Instant::now();
        let mut stream = connector.connect("far:1").await.unwrap();
        assert_eq!(started.elapsed(), Duration::from_millis(30));
        stream.write_all(b"?").await.unwrap();
        stream.read_exact(&mut [0]).await.unwrap();
        assert_eq!(started.elapsed(), Duration::from_millis(60));
    }

    #[tokio::test(start_paused = true)]
    async fn refusals_take_their_time_and_unknown_addresses_are_refused() {
        let (accepted, accepting) = mpsc::unbounded_channel();
        drop(accepting);
        let connector = from_zone_a(Arc::new(Loopback(accepted)), "far:1");
        let started = Instant::now();
        let refused = connector.connect("far:1").await.err().unwrap();
        assert_eq!(refused.kind(), io::ErrorKind::ConnectionRefused);
        assert_eq!(started.elapsed(), Duration::from_millis(30));
        let unknown = connector.connect("elsewhere:1").await.err().unwrap();
        assert_eq!(unknown.kind(), io::ErrorKind::InvalidInput);
        assert!(unknown.to_string().contains("elsewhere:1"), "{unknown}");
    }

    #[tokio::test]
    async fn tonic_runs_over_the_emulated_network() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let stop = CancellationToken::new();
        let unimplemented = tower::service_fn(|_: Request<Body>| async {
            Response::builder()
                .header("grpc-status", "12")
                .body(Body::empty())
        });
        let server = Server::builder().serve_with_incoming_shutdown(
            unimplemented,
            incoming(listener, AcceptOptions { connections_max: 8 }),
            stop.clone().cancelled_owned(),
        );
        let server = tokio::spawn(server);

        let connector = from_zone_a(Arc::new(TcpConnector), &address);
        let endpoint = Endpoint::from_shared(format!("http://{address}")).unwrap();
        let channel = endpoint
            .connect_with_connector(tower::service_fn(move |uri: http::Uri| {
                let connecting = connector.connect(uri.authority().unwrap().as_str());
                async move { connecting.await.map(TokioIo::new) }
            }))
            .await
            .unwrap();
        let asked = Instant::now();
        let request = Request::builder()
            .method("POST")
            .uri("http://x/no.Such/Call")
            .body(Body::empty())
            .unwrap();
        let answer = channel.oneshot(request).await.unwrap();
        assert_eq!(answer.headers()["grpc-status"], "12", "the service's answer");
        assert!(
            asked.elapsed() >= Duration::from_millis(29),
            "{:?}",
            asked.elapsed()
        );
        stop.cancel();
        server.await.unwrap().unwrap();
    }
}
