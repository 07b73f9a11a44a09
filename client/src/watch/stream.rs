//! One watch stream to one host, for all watches of a client.
//!
//! A task reads what the host tells and hands it to the watches. It never waits for one of them: a watch whose queue is
//! full is stopped on the host and told that it missed something.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, MutexGuard},
};

use futures_util::{Stream, stream};
use tokio::sync::mpsc;
use tonic::{Code as StatusCode, transport::Channel};

use super::attempt::{Listener, Told};
use crate::{
    proto::{
        StartWatch, StopWatch, WatchCall, WatchFrame, WatchReply, watch_call::Call,
        watch_client::WatchClient, watch_reply::Reply,
    },
    seam::within,
    setback::{Refusal, Setback},
    shared::Shared,
    transport::describe,
};

/// Calls in one frame, at most.
const FRAME_CALLS_MAX: usize = 1024;

/// The watch streams of one client, by the host's address; opened when they are first needed.
#[derive(Default)]
pub(crate) struct WatchStreams(Mutex<BTreeMap<Arc<str>, Arc<WatchStream>>>);

impl WatchStreams {
    /// The stream to a host, over a channel to it.
    pub(super) fn to(
        &self,
        address: &Arc<str>,
        shared: &Arc<Shared>,
        channel: impl FnOnce() -> Result<Channel, Setback>,
    ) -> Result<Arc<WatchStream>, Setback> {
        let mut streams = self.0.lock().expect("no holder of this lock panics");
        if let Some(stream) = streams.get(address).filter(|stream| !stream.is_closed()) {
            return Ok(Arc::clone(stream));
        }
        let stream = WatchStream::open(shared, channel()?);
        streams.insert(Arc::clone(address), Arc::clone(&stream));
        Ok(stream)
    }
}

/// A stream to a host, from the decision to connect until it breaks. Ends when nobody holds it.
pub(super) struct WatchStream {
    calls: mpsc::UnboundedSender<WatchCall>,
    listeners: Arc<Listeners>,
}

#[derive(Default)]
struct Listeners(Mutex<State>);

#[derive(Default)]
struct State {
    next_id: u64,
    by_id: BTreeMap<u64, Listener>,
    closed: Option<Setback>,
}

impl WatchStream {
    fn open(shared: &Arc<Shared>, channel: Channel) -> Arc<Self> {
        let (calls, queue) = mpsc::unbounded_channel();
        let listeners = Arc::new(Listeners::default());
        // The task holds no sender: when the last one is gone the host's side ends, and with it the task.
        tokio::spawn(run(
            Arc::clone(shared),
            channel,
            queue,
            Arc::clone(&listeners),
            calls.downgrade(),
        ));
        Arc::new(Self { calls, listeners })
    }

    fn is_closed(&self) -> bool {
        self.listeners.state().closed.is_some()
    }

    /// Starts a watch; what becomes of it is told to `listener`. Answers with its number on this stream.
    pub(super) fn start(&self, call: StartWatch, listener: Listener) -> Result<u64, Setback> {
        let mut state = self.listeners.state();
        if let Some(closed) = &state.closed {
            return Err(closed.clone());
        }
        state.next_id += 1;
        let id = state.next_id;
        state.by_id.insert(id, listener);
        // A stream whose end is not known yet says so to its listeners when it is.
        let _ = self.calls.send(WatchCall {
            id,
            call: Some(Call::Start(call)),
        });
        Ok(id)
    }

    /// Ends a watch.
    pub(super) fn stop(&self, id: u64) {
        if self.listeners.state().by_id.remove(&id).is_some() {
            let _ = self.calls.send(stop_call(id));
        }
    }
}

fn stop_call(id: u64) -> WatchCall {
    WatchCall {
        id,
        call: Some(Call::Stop(StopWatch {})),
    }
}

impl Listeners {
    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().expect("no holder of a stream's state panics")
    }

    /// Hands on what the host tells; the numbers of the watches that had no room for it.
    fn hear(&self, replies: Vec<WatchReply>) -> Vec<u64> {
        let mut state = self.state();
        let mut stopped = Vec::new();
        for WatchReply { id, reply } in replies {
            let is_over = !matches!(reply, Some(Reply::Started(_) | Reply::Events(_)));
            let told = reply.map_or_else(
                || {
                    Told::Lost(Setback::refused(
                        Refusal::Incompatible,
                        "a reply this client does not know",
                    ))
                },
                Told::from,
            );
            let Some(listener) = state.by_id.get(&id) else {
                continue;
            };
            if !listener.tell(told) {
                stopped.push(id);
            } else if !is_over {
                continue;
            }
            state.by_id.remove(&id);
        }
        stopped
    }

    fn close(&self, setback: Setback) {
        let listeners = {
            let mut state = self.state();
            state.closed = Some(setback.clone());
            std::mem::take(&mut state.by_id)
        };
        for listener in listeners.into_values() {
            listener.tell(Told::Lost(setback.clone()));
        }
    }
}

async fn run(
    shared: Arc<Shared>,
    channel: Channel,
    calls: mpsc::UnboundedReceiver<WatchCall>,
    listeners: Arc<Listeners>,
    stops: mpsc::WeakUnboundedSender<WatchCall>,
) {
    let setback = exchange(&shared, channel, calls, &listeners, &stops).await;
    tracing::debug!(cause = %setback.cause, "watch stream closed");
    listeners.close(setback);
}

async fn exchange(
    shared: &Arc<Shared>,
    channel: Channel,
    calls: mpsc::UnboundedReceiver<WatchCall>,
    listeners: &Listeners,
    stops: &mpsc::WeakUnboundedSender<WatchCall>,
) -> Setback {
    let config = &shared.config;
    let mut client = WatchClient::new(channel)
        .max_decoding_message_size(config.limits.reply_bytes_max)
        .max_encoding_message_size(usize::MAX);
    let opening = client.watch(frames(shared, calls));
    let mut inbound = match within(&config.clock, config.transport.connect_timeout, opening).await {
        Ok(Ok(response)) => response.into_inner(),
        Ok(Err(status)) => return setback_of(&status),
        Err(_) => return Setback::host_failed("no connection within the time limit"),
    };
    loop {
        match inbound.message().await {
            Ok(Some(frame)) => {
                for id in listeners.hear(frame.replies) {
                    // Without a sender the stream is ending anyway.
                    let _ = stops.upgrade().map(|calls| calls.send(stop_call(id)));
                }
            }
            Ok(None) => return Setback::host_failed("the host ended the stream"),
            Err(status) => return setback_of(&status),
        }
    }
}

fn setback_of(status: &tonic::Status) -> Setback {
    let cause = describe(status);
    match status.code() {
        StatusCode::Unimplemented => Setback::refused(Refusal::Incompatible, cause),
        // One of another cluster at a host's address (`PermissionDenied`) is no reason to give up: the host may be
        // elsewhere, or come back.
        _ => Setback::host_failed(cause),
    }
}

/// The greeting, then as many calls in each frame as there are.
fn frames(
    shared: &Shared,
    calls: mpsc::UnboundedReceiver<WatchCall>,
) -> impl Stream<Item = WatchFrame> + Send + 'static {
    let hello = WatchFrame {
        hello: Some(shared.hello()),
        calls: Vec::new(),
    };
    let further = stream::unfold(calls, |mut queue| async move {
        let mut calls = Vec::new();
        let received = queue.recv_many(&mut calls, FRAME_CALLS_MAX).await;
        (received > 0).then_some((WatchFrame { hello: None, calls }, queue))
    });
    futures_util::StreamExt::chain(stream::iter([hello]), further)
}
