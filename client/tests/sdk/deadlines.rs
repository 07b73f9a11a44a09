//! Every operation ends by its deadline, on the clock that the client was given, with an error that tells the truth.

use std::{
    io,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::SeqCst},
    },
    time::Duration,
};

use client::{
    BoxFuture, ByteStream, Client, Clock, Connector, MutationError, ReadError, TcpConnector, proto::Code,
};

use crate::fake::{FakeCluster, FakeHost, Fault, ManualClock};

const STEP: Duration = Duration::from_millis(10);
const DEADLINE: Duration = Duration::from_secs(3);

/// TCP that can be cut off: from then on no connection comes about.
#[derive(Default)]
struct CutConnector {
    cut: AtomicBool,
}

impl Connector for CutConnector {
    fn connect(&self, address: &str) -> BoxFuture<io::Result<Box<dyn ByteStream>>> {
        match self.cut.load(SeqCst) {
            true => Box::pin(std::future::ready(Err(io::ErrorKind::ConnectionRefused.into()))),
            false => TcpConnector.connect(address),
        }
    }
}

struct Setup {
    cluster: Arc<FakeCluster>,
    hosts: Vec<FakeHost>,
    clock: Arc<ManualClock>,
    connector: Arc<CutConnector>,
    client: Client,
}

/// A client on a clock of its own, with its session open.
async fn setup() -> Setup {
    let (cluster, hosts) = FakeCluster::start(1, &[]).await;
    let (clock, connector) = (
        Arc::new(ManualClock::default()),
        Arc::new(CutConnector::default()),
    );
    let mut config = cluster.config();
    config.clock = Arc::clone(&clock) as Arc<dyn Clock>;
    config.connector = Arc::clone(&connector) as Arc<dyn Connector>;
    config.retry.attempt_timeout = Duration::from_secs(1);
    config.deadline = DEADLINE;
    let client = Client::connect(config).await.unwrap();
    client.put("k", "0").await.unwrap();
    Setup {
        cluster,
        hosts,
        clock,
        connector,
        client,
    }
}

impl Setup {
    /// Lets time pass until the operation ends; checks that this is when its deadline passes.
    async fn ends_at_the_deadline<T>(&self, operation: impl Future<Output = T>) -> T {
        let start = self.clock.now();
        let output = self.clock.drive(STEP, operation).await;
        let took = self.clock.now() - start;
        assert!(took >= DEADLINE && took <= DEADLINE + 2 * STEP, "took {took:?}");
        output
    }

    fn silence(&self, fault: &Fault) {
        for _ in 0..1000 {
            self.cluster.inject(fault.clone());
        }
    }
}

#[tokio::test]
async fn a_get_from_a_silent_host_ends_at_its_deadline() {
    let setup = setup().await;
    setup.silence(&Fault::SilentBefore);
    let error = setup
        .ends_at_the_deadline(setup.client.get("k"))
        .await
        .unwrap_err();
    assert!(matches!(error, ReadError::Deadline { .. }), "{error}");
}

#[tokio::test]
async fn a_put_to_a_silent_host_ends_with_its_outcome_unknown() {
    for fault in [Fault::SilentBefore, Fault::SilentAfter] {
        let setup = setup().await;
        setup.silence(&fault);
        // Wait for the host to have the request before time passes: what was never sent has a known outcome.
        let seen = setup.cluster.seen().len();
        let put = setup.client.put("k", "1");
        let mut put = std::pin::pin!(put);
        tokio::select! {
            outcome = &mut put => panic!("answered by a silent host: {outcome:?}"),
            () = setup.cluster.saw(seen + 1) => {}
        }
        let error = setup.ends_at_the_deadline(put).await.unwrap_err();
        assert!(
            matches!(error, MutationError::UnknownOutcome { .. }),
            "{fault:?}: {error}"
        );
    }
}

#[tokio::test]
async fn a_put_that_could_not_be_sent_certainly_had_no_effect() {
    let Setup {
        cluster,
        hosts,
        clock,
        connector,
        client,
    } = setup().await;
    connector.cut.store(true, SeqCst);
    for host in hosts {
        host.kill().await;
    }
    let start = clock.now();
    let error = clock.drive(STEP, client.put("k", "1")).await.unwrap_err();
    assert!(matches!(error, MutationError::Deadline { .. }), "{error}");
    assert!(
        clock.now() - start <= DEADLINE + 2 * STEP,
        "took {:?}",
        clock.now() - start
    );
    assert_eq!(cluster.version_of("k"), 1);
}

#[tokio::test]
async fn attempts_have_a_limit_and_refused_ones_leave_no_doubt() {
    for code in [Code::Unavailable, Code::Overloaded, Code::Deadline] {
        let (cluster, _hosts) = FakeCluster::start(1, &[]).await;
        let mut config = cluster.config();
        config.retry.attempts_max = 4;
        let client = Client::connect(config).await.unwrap();
        for _ in 0..8 {
            cluster.inject(Fault::Refuse(code));
        }
        let error = client.get("k").await.unwrap_err();
        assert!(
            matches!(error, ReadError::Unavailable { attempts: 4, .. }),
            "{error}"
        );
        let error = client.put("k", "1").await.unwrap_err();
        assert!(
            matches!(error, MutationError::Unavailable { attempts: 4, .. }),
            "{error}"
        );
        assert!(!error.is_outcome_unknown());
        assert_eq!((cluster.version_of("k"), cluster.faults_left()), (0, 0));
    }
}

#[tokio::test]
async fn a_session_that_cannot_be_opened_leaves_no_doubt_about_the_mutation() {
    let (cluster, _hosts) = FakeCluster::start(1, &[]).await;
    let clock = Arc::new(ManualClock::default());
    let mut config = cluster.config();
    config.clock = Arc::clone(&clock) as Arc<dyn Clock>;
    config.deadline = DEADLINE;
    let client = Client::connect(config).await.unwrap();
    for _ in 0..1000 {
        cluster.inject_at_open(Fault::SilentAfter);
    }
    let puts = (0..10).map(|n| client.put(format!("k{n}"), "v"));
    for outcome in clock.drive(STEP, futures_util::future::join_all(puts)).await {
        let error = outcome.unwrap_err();
        assert!(matches!(error, MutationError::Deadline { .. }), "{error}");
    }
    assert!(clock.now() <= DEADLINE + 10 * STEP, "took {:?}", clock.now());
    assert!(cluster.mutations().is_empty());
}

#[tokio::test]
async fn hosts_are_told_how_much_time_is_left() {
    let setup = setup().await;
    setup
        .client
        .with_deadline(Duration::from_millis(700))
        .get("k")
        .await
        .unwrap();
    setup.client.get("k").await.unwrap();
    let told: Vec<_> = setup
        .cluster
        .seen()
        .iter()
        .rev()
        .take(2)
        .map(|seen| seen.request.deadline_ms)
        .collect();
    assert_eq!(
        told,
        [1000, 700],
        "what is left of the deadline, but no more than one attempt may take"
    );
}
