//! What a client is told at the start: whom to connect to, as whom, within which limits, and its seams.

use std::{fmt, sync::Arc, time::Duration};

use crate::seam::{Clock, Connector, TcpConnector, TokioClock, TraceSource};

/// The settings of a [`Client`](crate::Client). Fields may be changed freely between [`ClientConfig::new`] and
/// [`Client::connect`](crate::Client::connect).
#[derive(Clone)]
pub struct ClientConfig {
    /// Addresses (`host:port`) of some of the cluster's hosts; one that answers is enough to find the others.
    pub endpoints: Vec<String>,
    /// The cluster that must answer. `None`: whichever does; the client then stays with that one.
    pub cluster_id: Option<String>,
    /// The application's user, for access statistics. Grants nothing. See also `Client::with_user`.
    pub user_id: String,
    /// The zone (or host) nearest to this client, for access statistics. Empty: the zone of the host that answers.
    pub origin: String,
    /// Source of every random choice: session ids and jitter. `None`: the operating system. Only a simulation names
    /// one: two clients with one seed have the same session ids, and a shard would take the mutations of one for
    /// repetitions of the other's.
    pub seed: Option<u64>,
    /// How long an operation may take, retries included, unless the request says otherwise.
    pub deadline: Duration,
    /// When and how often to try again.
    pub retry: RetryPolicy,
    /// How much may be under way.
    pub limits: Limits,
    /// Connection and HTTP/2 settings.
    pub transport: Transport,
    /// How to open a byte stream to a host.
    pub connector: Arc<dyn Connector>,
    /// Where time comes from.
    pub clock: Arc<dyn Clock>,
    /// Which trace mutations belong to. `None`: they are not traced.
    pub trace: Option<Arc<dyn TraceSource>>,
}

impl ClientConfig {
    /// The defaults, over TCP and the tokio runtime's clock.
    pub fn new(endpoints: impl IntoIterator<Item = impl Into<String>>) -> Self {
        Self {
            endpoints: endpoints.into_iter().map(Into::into).collect(),
            cluster_id: None,
            user_id: String::new(),
            origin: String::new(),
            seed: None,
            deadline: Duration::from_secs(10),
            retry: RetryPolicy::default(),
            limits: Limits::default(),
            transport: Transport::default(),
            connector: Arc::new(TcpConnector),
            clock: Arc::new(TokioClock::start()),
            trace: None,
        }
    }
}

impl fmt::Debug for ClientConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ClientConfig")
            .field("endpoints", &self.endpoints)
            .field("cluster_id", &self.cluster_id)
            .field("user_id", &self.user_id)
            .field("origin", &self.origin)
            .field("deadline", &self.deadline)
            .field("retry", &self.retry)
            .field("limits", &self.limits)
            .field("transport", &self.transport)
            .finish_non_exhaustive()
    }
}

/// When and how often an operation is tried again within its deadline.
#[derive(Debug, Clone)]
pub struct RetryPolicy {
    /// An attempt without an answer for this long is given up, and the next host is tried.
    pub attempt_timeout: Duration,
    /// The first pause between attempts. Each further pause is twice as long, plus up to as much again at random.
    pub backoff_min: Duration,
    /// Where the pauses stop growing (before the random part).
    pub backoff_max: Duration,
    /// Attempts after which an operation fails even though its deadline has not passed.
    pub attempts_max: u32,
    /// Redirects followed one after another without a pause. Two hosts that point at each other cost this many
    /// requests, then a pause.
    pub redirects_max: u32,
    /// A refresh of the shard map waits a random part of this, so that the clients of a shard that has just moved do
    /// not all ask at once.
    pub refresh_jitter: Duration,
}

impl Default for RetryPolicy {
    fn default() -> Self {
        Self {
            attempt_timeout: Duration::from_secs(2),
            backoff_min: Duration::from_millis(10),
            backoff_max: Duration::from_millis(250),
            attempts_max: 200,
            redirects_max: 4,
            refresh_jitter: Duration::from_millis(5),
        }
    }
}

/// How much a client keeps under way. What is above a limit waits (within its deadline); nothing is dropped.
#[derive(Debug, Clone)]
pub struct Limits {
    /// Connections to one host, each with one stream. One batches best; more help where one connection's
    /// flow control or one core is the limit.
    pub connections_per_host: usize,
    /// Requests queued or unanswered on one connection. When it is reached, further operations wait for a place in
    /// order of arrival: the caller is slowed down to what the host serves.
    pub in_flight_max: usize,
    /// Requests in one frame.
    pub frame_requests_max: usize,
    /// Bytes of requests after which a frame is closed; a single larger request travels alone.
    pub frame_bytes_max: usize,
    /// Bytes of key and value of one request, above which it is refused here instead of by the host. Keep it above
    /// the hosts' own limits, and below their message limit.
    pub request_bytes_max: usize,
    /// Bytes of one frame of replies.
    pub reply_bytes_max: usize,
    /// Pairs asked for in one page of a scan.
    pub scan_page_pairs: u32,
    /// Updates that wait for one watch to hand them out. What is above stays in the shards.
    pub watch_updates_max: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            connections_per_host: 1,
            in_flight_max: 4096,
            frame_requests_max: 1024,
            frame_bytes_max: 1 << 20,
            request_bytes_max: 8 << 20,
            reply_bytes_max: 64 << 20,
            scan_page_pairs: 1000,
            watch_updates_max: 64,
        }
    }
}

/// Connection and HTTP/2 settings.
#[derive(Debug, Clone)]
pub struct Transport {
    /// How long opening a connection and its stream may take.
    pub connect_timeout: Duration,
    /// Bytes a host may send ahead on the stream. HTTP/2's own default, 64 KiB, is less than one frame of replies.
    pub stream_window_bytes: u32,
    /// Bytes a host may send ahead on the connection.
    pub connection_window_bytes: u32,
    /// A connection is asked for a sign of life this often...
    pub keep_alive_interval: Duration,
    /// ... and is broken off when none comes for this long.
    pub keep_alive_timeout: Duration,
}

impl Default for Transport {
    fn default() -> Self {
        Self {
            connect_timeout: Duration::from_secs(2),
            stream_window_bytes: 4 << 20,
            connection_window_bytes: 16 << 20,
            keep_alive_interval: Duration::from_secs(5),
            keep_alive_timeout: Duration::from_secs(5),
        }
    }
}

/// What may differ from request to request.
#[derive(Debug, Clone)]
pub struct RequestOptions {
    /// How long the operation may take, retries included.
    pub deadline: Duration,
    /// The user on whose behalf it is made. `None`: the client's own.
    pub user_id: Option<Arc<str>>,
    /// When the access happens on the workload's clock, for the hosts' statistics. `None`: when it is served.
    pub workload_ms: Option<u64>,
    /// How reads are made linearizable.
    pub read_mode: ReadMode,
}

/// Who serves a read, and how it makes sure that it misses nothing. All but the last are linearizable.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum ReadMode {
    /// The shard's home, which asks a quorum whether it still leads (ReadIndex). Assumes nothing of clocks.
    #[default]
    Index,
    /// The shard's home, which trusts a quorum's answer of a moment ago. Linearizable as long as no two hosts' clocks
    /// run at rates more than 10 % apart, and a round trip between hosts cheaper.
    Lease,
    /// A replica in the client's own zone ([`ClientConfig::origin`]) if there is one, or else each in turn: it asks the
    /// home how far it has to have applied, and the home asks a quorum. Assumes nothing of clocks. The value does not
    /// travel between zones, and the home has less to do.
    Follower,
    /// NOT linearizable: a replica, chosen as for [`Follower`](Self::Follower), serves what the shard held at some moment
    /// at most this long ago. It asks the home only where it has not done so for that long; so most reads cost no message
    /// between hosts, and while nobody leads the shard they go on for that long. Assumes that no clock runs slow by more
    /// than 10 %. Two such reads, one after the other, may go back in time.
    Stale(Duration),
}
