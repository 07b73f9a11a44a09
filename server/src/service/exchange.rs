//! One client's stream.
//!
//! A frame is spread over its shards; each shard's part is executed by a task of its own, and answers are sent as they
//! come, as many in one frame as are ready. A client that does not read its answers stops being read.

use std::pin::Pin;
use std::sync::Arc;

use client::proto::{ClientFrame, Reply, Request, ServerFrame};
use futures_util::{Stream, StreamExt, stream};
use tokio::sync::mpsc;
use tonic::{Status, Streaming};

use super::execute::{self, InFlight};
use crate::host::Host;

/// Answers waiting to be sent to one client. When full, the tasks that make answers wait.
const REPLIES_MAX: usize = 8 * 1024;
const FRAME_REPLIES_MAX: usize = 2 * 1024;

/// Who sends a request, as far as statistics are concerned.
#[derive(Debug, Clone)]
pub(crate) struct Caller {
    /// The zone nearest to the client.
    pub(crate) origin: String,
    /// The application's user.
    pub(crate) user: String,
}

type Replies = Pin<Box<dyn Stream<Item = Result<ServerFrame, Status>> + Send>>;

/// Serves a stream whose greeting was read already.
pub(crate) fn start(
    host: Host,
    in_flight: InFlight,
    caller: Caller,
    first: Vec<Request>,
    frames: Streaming<ClientFrame>,
) -> Replies {
    let (sender, queue) = mpsc::channel(REPLIES_MAX);
    let stop = host.stop().clone().cancelled_owned();
    let incoming = Incoming {
        host: host.clone(),
        in_flight,
        caller: Arc::new(caller),
        replies: sender,
    };
    host.spawn(incoming.run(first, frames));
    let frames = stream::unfold(queue, |mut queue| async move {
        let mut replies = Vec::new();
        let received = queue.recv_many(&mut replies, FRAME_REPLIES_MAX).await;
        (received > 0).then(|| (Ok(ServerFrame { replies }), queue))
    });
    frames.take_until(stop).boxed()
}

struct Incoming {
    host: Host,
    in_flight: InFlight,
    caller: Arc<Caller>,
    replies: mpsc::Sender<Reply>,
}

impl Incoming {
    async fn run(self, first: Vec<Request>, mut frames: Streaming<ClientFrame>) {
        self.dispatch(first).await;
        while let Ok(Some(frame)) = frames.message().await {
            self.dispatch(frame.requests).await;
        }
    }

    async fn dispatch(&self, requests: Vec<Request>) {
        if requests.is_empty() {
            return;
        }
        let parts = execute::parts(&self.host, &self.in_flight, requests);
        for reply in parts.refused {
            drop(self.replies.send(reply).await);
        }
        for part in parts.parts {
            let (host, caller, replies) = (self.host.clone(), self.caller.clone(), self.replies.clone());
            self.host
                .spawn(async move { part.execute(&host, &caller, &replies).await });
        }
    }
}
