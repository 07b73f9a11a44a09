//! The outgoing stream to one peer.
//!
//! Callers queue messages; tonic pulls the next frame when the connection can take more, and that frame carries
//! everything queued meanwhile: batches form under load and nothing waits without it. A broken stream fails every
//! call in flight and is reopened with a growing pause; calls made during the pause fail at once.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use futures_util::{Stream, stream};
use hyper_util::rt::TokioIo;
use tokio::sync::{Mutex as AsyncMutex, OwnedMutexGuard, mpsc, oneshot};
use tonic::transport::{Channel, Endpoint, Uri};

use super::{FRAME_BYTES_MAX, Peers};
use crate::proto;
use crate::proto::message::Body;
use crate::proto::peer_client::PeerClient;

/// Calls waiting to be sent to one peer.
const QUEUE_MAX: usize = 16 * 1024;
/// Calls in one frame.
const FRAME_CALLS_MAX: usize = 1024;
const CONNECT_TIMEOUT: Duration = Duration::from_secs(2);
const RECONNECT_PAUSE_MIN: Duration = Duration::from_millis(50);
const RECONNECT_PAUSE_MAX: Duration = Duration::from_secs(1);
/// HTTP/2 windows: enough for a few large appends in flight.
const STREAM_WINDOW_BYTES: u32 = 4 << 20;
const CONNECTION_WINDOW_BYTES: u32 = 16 << 20;

/// Why a call has no reply.
#[derive(Debug, Clone, thiserror::Error)]
pub(crate) enum CallError {
    #[error("cannot reach host {host}: {reason}")]
    Unreachable { host: u64, reason: String },
    #[error("the stream to host {host} broke: {reason}")]
    Broken { host: u64, reason: String },
    #[error("too many calls queued for host {host}")]
    Full { host: u64 },
}

type Answer = oneshot::Sender<Result<Body, CallError>>;

struct Call {
    message: proto::Message,
    answer: Answer,
}

/// A handle to the stream to one peer.
#[derive(Clone)]
pub(crate) struct Link {
    host: u64,
    calls: mpsc::Sender<Call>,
}

impl Link {
    pub(super) fn open(peers: Peers, host: u64) -> Self {
        let (calls, queue) = mpsc::channel(QUEUE_MAX);
        let actor = LinkActor {
            host,
            peers: peers.clone(),
            queue: Arc::new(AsyncMutex::new(queue)),
            pending: Arc::default(),
        };
        drop(peers.env().spawn(actor.run()));
        Self { host, calls }
    }

    /// Queues a message; the reply arrives on the receiver. Calls are sent in the order of their queueing.
    pub(crate) fn start(
        &self,
        message: proto::Message,
    ) -> Result<oneshot::Receiver<Result<Body, CallError>>, CallError> {
        let (answer, reply) = oneshot::channel();
        match self.calls.try_send(Call { message, answer }) {
            Ok(()) => Ok(reply),
            Err(_) => Err(CallError::Full { host: self.host }),
        }
    }

    /// Sends a message and waits for its reply or for `timeout`.
    pub(crate) async fn call(&self, message: proto::Message, timeout: Duration) -> Result<Body, CallError> {
        let reply = self.start(message)?;
        self.wait(reply, timeout).await
    }

    /// Waits for a reply.
    pub(crate) async fn wait(
        &self,
        reply: oneshot::Receiver<Result<Body, CallError>>,
        timeout: Duration,
    ) -> Result<Body, CallError> {
        let broken = |reason: &str| CallError::Broken {
            host: self.host,
            reason: reason.into(),
        };
        match tokio::time::timeout(timeout, reply).await {
            Ok(Ok(answer)) => answer,
            Ok(Err(_)) => Err(broken("the link is closed")),
            Err(_) => Err(broken("no reply in time")),
        }
    }
}

#[derive(Default)]
struct Pending {
    next_call: u64,
    answers: BTreeMap<u64, Answer>,
}

impl Pending {
    fn register(&mut self, call: Call) -> proto::Message {
        self.next_call += 1;
        self.answers.insert(self.next_call, call.answer);
        proto::Message {
            call: self.next_call,
            ..call.message
        }
    }
}

struct LinkActor {
    host: u64,
    peers: Peers,
    queue: Arc<AsyncMutex<mpsc::Receiver<Call>>>,
    pending: Arc<Mutex<Pending>>,
}

impl LinkActor {
    async fn run(self) {
        let mut pause = RECONNECT_PAUSE_MIN;
        loop {
            let reason = match self.connect().await {
                Ok(channel) => {
                    pause = RECONNECT_PAUSE_MIN;
                    self.converse(channel).await
                }
                Err(reason) => reason,
            };
            tracing::debug!(peer = self.host, reason, "peer stream down");
            self.fail_pending(&reason);
            if !self.refuse_calls_for(pause, &reason).await {
                return;
            }
            pause = (pause * 2).min(RECONNECT_PAUSE_MAX);
        }
    }

    async fn connect(&self) -> Result<Channel, String> {
        let address = self.peers.address(self.host).ok_or("its address is not known")?;
        connect(&self.peers, address).await
    }

    /// Runs one stream until it breaks, and says why.
    async fn converse(&self, channel: Channel) -> String {
        let frames = self.frames(self.queue.clone().lock_owned().await);
        let mut client = PeerClient::new(channel)
            .max_decoding_message_size(FRAME_BYTES_MAX)
            .max_encoding_message_size(FRAME_BYTES_MAX);
        let mut replies = match client.exchange(frames).await {
            Ok(response) => response.into_inner(),
            Err(status) => return status.message().to_owned(),
        };
        loop {
            match replies.message().await {
                Ok(Some(frame)) => self.answer(frame),
                Ok(None) => return "closed by the peer".into(),
                Err(status) => return status.message().to_owned(),
            }
        }
    }

    /// The frames to send: a greeting, then whatever is queued whenever the connection asks for more.
    fn frames(
        &self,
        queue: OwnedMutexGuard<mpsc::Receiver<Call>>,
    ) -> impl Stream<Item = proto::Frame> + Send + use<> {
        let greeting = proto::Frame {
            hello: Some(self.peers.hello(self.host)),
            messages: Vec::new(),
        };
        let pending = self.pending.clone();
        let rest = stream::unfold(queue, move |mut queue| {
            let pending = pending.clone();
            async move {
                let mut calls = Vec::new();
                if queue.recv_many(&mut calls, FRAME_CALLS_MAX).await == 0 {
                    return None;
                }
                tracing::trace!(target: "godwit::steps", count = calls.len() as u64, "peer frame sent");
                let mut pending = pending.lock().expect("no panic under this lock");
                let messages = calls.into_iter().map(|call| pending.register(call)).collect();
                Some((
                    proto::Frame {
                        hello: None,
                        messages,
                    },
                    queue,
                ))
            }
        });
        futures_util::StreamExt::chain(stream::iter([greeting]), rest)
    }

    fn answer(&self, frame: proto::Frame) {
        tracing::trace!(target: "godwit::steps", count = frame.messages.len() as u64, "peer replies received");
        let mut pending = self.pending.lock().expect("no panic under this lock");
        for message in frame.messages {
            if let (Some(answer), Some(body)) = (pending.answers.remove(&message.call), message.body) {
                drop(answer.send(Ok(body)));
            }
        }
    }

    fn fail_pending(&self, reason: &str) {
        let answers = std::mem::take(&mut self.pending.lock().expect("no panic under this lock").answers);
        for answer in answers.into_values() {
            drop(answer.send(Err(CallError::Broken {
                host: self.host,
                reason: reason.into(),
            })));
        }
    }

    /// Fails calls until the pause is over; `false` when the link was closed.
    async fn refuse_calls_for(&self, pause: Duration, reason: &str) -> bool {
        let mut queue = self.queue.lock().await;
        let over = tokio::time::sleep(pause);
        tokio::pin!(over);
        loop {
            tokio::select! {
                biased;
                () = &mut over => return true,
                call = queue.recv() => match call {
                    Some(call) => {
                        let unreachable = CallError::Unreachable { host: self.host, reason: reason.into() };
                        drop(call.answer.send(Err(unreachable)));
                    }
                    None => return false,
                },
            }
        }
    }
}

/// Opens a connection of its own to an address.
pub(super) async fn connect(peers: &Peers, address: String) -> Result<Channel, String> {
    let endpoint = Endpoint::try_from(format!("http://{address}"))
        .map_err(|e| format!("address {address}: {e}"))?
        .connect_timeout(CONNECT_TIMEOUT)
        .tcp_nodelay(true)
        .initial_stream_window_size(STREAM_WINDOW_BYTES)
        .initial_connection_window_size(CONNECTION_WINDOW_BYTES)
        .http2_keep_alive_interval(Duration::from_secs(1))
        .keep_alive_timeout(Duration::from_secs(2));
    let connector = peers.env().connector.clone();
    let connect = tower::service_fn(move |uri: Uri| {
        let connector = connector.clone();
        async move {
            let address = uri.authority().map(ToString::to_string).unwrap_or_default();
            connector.connect(address).await.map(TokioIo::new)
        }
    });
    let connecting = endpoint.connect_with_connector(connect);
    match tokio::time::timeout(CONNECT_TIMEOUT, connecting).await {
        Ok(Ok(channel)) => Ok(channel),
        Ok(Err(e)) => Err(std::error::Error::source(&e).map_or_else(|| e.to_string(), ToString::to_string)),
        Err(_) => Err("timed out while connecting".into()),
    }
}
