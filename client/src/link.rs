//! One stream to one host: the SDK's data path.
//!
//! Operations put their request in the queue and wait for the reply with its id. HTTP/2 asks for the next frame when
//! it is done with the one before, and gets everything that was queued meanwhile: under load batches form by
//! themselves, and a lone request is never held back. A task reads the replies, in whatever order they come.
//!
//! What must hold: every request in the queue or unanswered has exactly one waiter, and when the stream ends each of
//! them learns whether its request had been handed to the connection (its outcome is then unknown) or not (it was
//! certainly not executed). A link never comes back to life; the [`Pool`](crate::pool::Pool) replaces it.
//!
//! Back-pressure: at most `in_flight_max` requests are queued or unanswered; the next operation waits for a place.

use std::{
    collections::{BTreeMap, VecDeque},
    pin::Pin,
    sync::{Arc, Mutex, MutexGuard},
    task::{Context, Poll, Waker},
    time::Duration,
};

use futures_util::Stream;
use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore, oneshot};
use tonic::{Code as StatusCode, Status, Streaming, transport::Channel};

use crate::{
    config::Limits,
    proto::{ClientFrame, Hello, Reply, Request, ServerFrame, kv_client::KvClient},
    seam::within,
    setback::{Kind, Refusal, Setback},
    shared::Shared,
    transport::channel,
};

/// A stream to a host, from the decision to connect until it breaks.
pub(crate) struct Link {
    shared: Arc<Shared>,
    channel: Channel,
    room: Arc<Semaphore>,
    stop: Notify,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    next_id: u64,
    queue: VecDeque<Queued>,
    /// By request id, so that they are told of the stream's end in the order of their requests.
    waiters: BTreeMap<u64, Waiter>,
    /// The side that HTTP/2 waits on while the queue is empty.
    outbound: Option<Waker>,
    closed: Option<Closed>,
}

struct Queued {
    request: Request,
    bytes: usize,
    /// On the client's clock.
    deadline: Duration,
}

struct Waiter {
    reply: oneshot::Sender<Result<Reply, Setback>>,
    /// The request has been handed to the connection.
    written: bool,
}

/// Why a stream ended.
#[derive(Debug, Clone)]
struct Closed {
    /// What it means for a request that had been sent.
    sent: Kind,
    cause: String,
}

impl Link {
    /// Starts connecting to `address`; requests may be queued at once.
    pub(crate) fn open(shared: &Arc<Shared>, address: &str) -> Result<Arc<Self>, Setback> {
        let link = Arc::new(Self {
            channel: channel(address, shared)?,
            room: Arc::new(Semaphore::new(shared.config.limits.in_flight_max)),
            stop: Notify::new(),
            state: Mutex::default(),
            shared: Arc::clone(shared),
        });
        shared.counters.connections.add(1);
        tokio::spawn(Arc::clone(&link).run());
        Ok(link)
    }

    /// The connection, for unary calls beside the stream.
    pub(crate) fn channel(&self) -> Channel {
        self.channel.clone()
    }

    pub(crate) fn is_closed(&self) -> bool {
        self.state().closed.is_some()
    }

    /// Ends the stream; what is unanswered learns of it.
    pub(crate) fn stop(&self) {
        self.stop.notify_one();
    }

    /// Waits for a place among the requests in flight.
    pub(crate) async fn place(&self) -> Result<OwnedSemaphorePermit, Setback> {
        match Arc::clone(&self.room).acquire_owned().await {
            Ok(permit) => Ok(permit),
            Err(_) => Err(self.refusal()),
        }
    }

    /// A place, if one is free now.
    pub(crate) fn free_place(&self) -> Option<OwnedSemaphorePermit> {
        Arc::clone(&self.room).try_acquire_owned().ok()
    }

    /// Queues a request of about `bytes` bytes that is worth answering until `deadline`.
    pub(crate) fn enqueue(
        self: &Arc<Self>,
        place: OwnedSemaphorePermit,
        mut request: Request,
        bytes: usize,
        deadline: Duration,
    ) -> Result<Ticket, Setback> {
        let (sender, reply) = oneshot::channel();
        let (id, wake) = {
            let mut state = self.state();
            if let Some(closed) = &state.closed {
                return Err(closed.setback(false));
            }
            state.next_id += 1;
            let id = state.next_id;
            request.id = id;
            state.queue.push_back(Queued {
                request,
                bytes,
                deadline,
            });
            state.waiters.insert(
                id,
                Waiter {
                    reply: sender,
                    written: false,
                },
            );
            (id, state.outbound.take())
        };
        tracing::trace!(target: "godwit::steps", count = 1_u64, "request queued");
        if let Some(waker) = wake {
            waker.wake();
        }
        Ok(Ticket {
            link: Arc::clone(self),
            id,
            reply,
            settled: false,
            _place: place,
        })
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("no holder of a link's state panics")
    }

    fn refusal(&self) -> Setback {
        match &self.state().closed {
            Some(closed) => closed.setback(false),
            None => Setback::host_failed("the stream is closing"),
        }
    }

    async fn run(self: Arc<Self>) {
        let closed = tokio::select! {
            biased;
            closed = self.exchange() => closed,
            () = self.stop.notified() => Closed::lost("this client closed the stream"),
        };
        self.close(closed);
    }

    async fn exchange(self: &Arc<Self>) -> Closed {
        let config = &self.shared.config;
        let mut client = KvClient::new(self.channel())
            .max_decoding_message_size(config.limits.reply_bytes_max)
            .max_encoding_message_size(usize::MAX);
        let outbound = Outbound {
            link: Arc::clone(self),
            hello: Some(self.shared.hello()),
        };
        let opening = client.exchange(outbound);
        match within(&config.clock, config.transport.connect_timeout, opening).await {
            Ok(Ok(response)) => self.read(response.into_inner()).await,
            Ok(Err(status)) => Closed::from(status),
            Err(_) => Closed::lost("no connection within the time limit"),
        }
    }

    async fn read(&self, mut inbound: Streaming<ServerFrame>) -> Closed {
        loop {
            match inbound.message().await {
                Ok(Some(frame)) => self.settle(frame.replies),
                Ok(None) => return Closed::lost("the host ended the stream"),
                Err(status) => return Closed::from(status),
            }
        }
    }

    /// Hands each reply to its waiter. A reply nobody waits for any more is dropped.
    fn settle(&self, replies: Vec<Reply>) {
        tracing::trace!(target: "godwit::steps", count = replies.len() as u64, "replies received");
        let mut state = self.state();
        for reply in replies {
            if let Some(waiter) = state.waiters.remove(&reply.id) {
                // A receiver that is gone gave its operation up in this moment.
                let _ = waiter.reply.send(Ok(reply));
            }
        }
    }

    /// Takes no more requests; those already handed to the connection may still be answered.
    fn seal(&self) {
        let closed = Closed::lost("the connection takes no more requests");
        let unsent = {
            let mut state = self.state();
            state.closed.get_or_insert_with(|| closed.clone());
            state.take_unsent()
        };
        self.room.close();
        for waiter in unsent {
            let _ = waiter.reply.send(Err(closed.setback(false)));
        }
    }

    /// Tells everyone who still waits that the stream has ended.
    fn close(&self, closed: Closed) {
        tracing::debug!(cause = %closed.cause, "stream closed");
        let (waiters, outbound) = {
            let mut state = self.state();
            state.closed = Some(closed.clone());
            state.queue.clear();
            (std::mem::take(&mut state.waiters), state.outbound.take())
        };
        self.room.close();
        for waiter in waiters.into_values() {
            let _ = waiter.reply.send(Err(closed.setback(waiter.written)));
        }
        if let Some(waker) = outbound {
            waker.wake();
        }
    }

    /// Stops waiting for request `id`. True: it had been handed to the connection.
    fn forget(&self, id: u64) -> bool {
        self.state()
            .waiters
            .remove(&id)
            .is_some_and(|waiter| waiter.written)
    }

    fn poll_requests(&self, cx: &mut Context<'_>) -> Poll<Option<Vec<Request>>> {
        let mut state = self.state();
        if state.closed.is_some() {
            return Poll::Ready(None);
        }
        let requests = state.take_frame(&self.shared.config.limits, self.shared.config.clock.now());
        if requests.is_empty() {
            state.outbound = Some(cx.waker().clone());
            return Poll::Pending;
        }
        tracing::trace!(target: "godwit::steps", count = requests.len() as u64, "frame sent");
        self.shared.counters.frames.add(1);
        self.shared.counters.requests.add(requests.len() as u64);
        Poll::Ready(Some(requests))
    }
}

impl State {
    /// The waiters of what is still queued, in order.
    fn take_unsent(&mut self) -> Vec<Waiter> {
        let queue = std::mem::take(&mut self.queue);
        queue
            .iter()
            .filter_map(|queued| self.waiters.remove(&queued.request.id))
            .collect()
    }

    /// Everything queued, up to the limits of one frame.
    fn take_frame(&mut self, limits: &Limits, now: Duration) -> Vec<Request> {
        let mut requests = Vec::with_capacity(self.queue.len().min(limits.frame_requests_max));
        let mut bytes = 0;
        while requests.len() < limits.frame_requests_max {
            let Some(queued) = self.queue.pop_front() else {
                break;
            };
            if bytes > 0 && bytes + queued.bytes > limits.frame_bytes_max {
                self.queue.push_front(queued);
                break;
            }
            // Without a waiter, the operation was given up while it was queued, and counts as never sent.
            let Some(waiter) = self.waiters.get_mut(&queued.request.id) else {
                continue;
            };
            waiter.written = true;
            bytes += queued.bytes;
            requests.push(queued.stamped(now));
        }
        requests
    }
}

impl Queued {
    /// The request with the time that is left to it now that it is sent.
    fn stamped(self, now: Duration) -> Request {
        let left = self.deadline.saturating_sub(now).as_millis();
        let deadline_ms = u32::try_from(left).unwrap_or(u32::MAX).max(1);
        Request {
            deadline_ms,
            ..self.request
        }
    }
}

impl Closed {
    fn lost(cause: impl Into<String>) -> Self {
        Self {
            sent: Kind::Unknown,
            cause: cause.into(),
        }
    }

    fn setback(&self, written: bool) -> Setback {
        match self.sent {
            Kind::Unknown if !written => Setback::host_failed(&self.cause),
            _ => Setback::new(self.sent.clone(), &self.cause),
        }
    }
}

impl From<Status> for Closed {
    fn from(status: Status) -> Self {
        let sent = match status.code() {
            // The host has no such stream, so it has executed nothing.
            StatusCode::Unimplemented => Kind::Refused(Refusal::Incompatible),
            _ => Kind::Unknown,
        };
        Self {
            sent,
            cause: crate::transport::describe(&status),
        }
    }
}

/// The claim to one reply. Dropping it gives the request up.
pub(crate) struct Ticket {
    link: Arc<Link>,
    id: u64,
    reply: oneshot::Receiver<Result<Reply, Setback>>,
    settled: bool,
    _place: OwnedSemaphorePermit,
}

impl Ticket {
    /// Waits for the reply, or for the stream's end.
    pub(crate) async fn reply(&mut self) -> Result<Reply, Setback> {
        let delivery = (&mut self.reply).await;
        self.settled = true;
        delivery.unwrap_or_else(|_| Err(Setback::new(Kind::Unknown, "the stream was dropped")))
    }

    /// Stops waiting; says what that makes of the request.
    pub(crate) fn give_up(mut self) -> Setback {
        self.settled = true;
        match self.link.forget(self.id) {
            true => Setback::new(Kind::Unknown, "no answer within the time limit"),
            false => Setback::host_failed("not sent within the time limit"),
        }
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        if !self.settled {
            self.link.forget(self.id);
        }
    }
}

/// The sending direction, pulled by HTTP/2.
struct Outbound {
    link: Arc<Link>,
    /// Goes with the first frame.
    hello: Option<Hello>,
}

impl Stream for Outbound {
    type Item = ClientFrame;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<ClientFrame>> {
        let requests = self.link.poll_requests(cx);
        match (self.hello.take(), requests) {
            (None, requests) => requests.map(|requests| {
                Some(ClientFrame {
                    hello: None,
                    requests: requests?,
                })
            }),
            (hello, Poll::Ready(Some(requests))) => Poll::Ready(Some(ClientFrame { hello, requests })),
            (hello, Poll::Pending) => Poll::Ready(Some(ClientFrame {
                hello,
                requests: Vec::new(),
            })),
            (_, Poll::Ready(None)) => Poll::Ready(None),
        }
    }
}

impl Drop for Outbound {
    fn drop(&mut self) {
        self.link.seal();
    }
}
