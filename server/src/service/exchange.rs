//! One client's stream.
//!
//! A frame is spread over its shards, and each shard's part is executed in that shard's turns; answers are sent as they
//! come, as many in one frame as are ready. A client that does not read its answers stops being read.

use std::pin::Pin;
use std::sync::Arc;

use client::proto::{ClientFrame, Request, ServerFrame};
use futures_util::{Stream, StreamExt};
use tonic::{Status, Streaming};

use super::execute::submit;
use super::replies::{self, Replies, Unread};
use super::spread::{InFlight, spread};
use crate::host::Host;
use crate::profiler::OriginId;

/// Who sends a request, as far as statistics are concerned.
#[derive(Debug, Clone)]
pub(crate) struct Caller {
    /// The zone nearest to the client.
    pub(crate) origin: String,
    /// Its number, if this host counts already.
    pub(crate) origin_id: Option<OriginId>,
    /// The application's user.
    pub(crate) user: String,
}

type Frames = Pin<Box<dyn Stream<Item = Result<ServerFrame, Status>> + Send>>;

/// Serves a stream whose greeting was read already.
pub(crate) fn start(
    host: Host,
    in_flight: InFlight,
    caller: Caller,
    first: Vec<Request>,
    frames: Streaming<ClientFrame>,
) -> Frames {
    let (replies, queue) = Replies::channel();
    let unread = Unread::default();
    let stop = host.stop().clone().cancelled_owned();
    let incoming = Incoming {
        host: host.clone(),
        in_flight,
        caller: Arc::new(caller),
        replies,
        unread: unread.clone(),
    };
    host.spawn(incoming.run(first, frames));
    replies::frames(queue, unread).take_until(stop).boxed()
}

struct Incoming {
    host: Host,
    in_flight: InFlight,
    caller: Arc<Caller>,
    replies: Replies,
    unread: Unread,
}

impl Incoming {
    async fn run(self, first: Vec<Request>, mut frames: Streaming<ClientFrame>) {
        self.dispatch(first);
        while let Ok(Some(frame)) = frames.message().await {
            self.unread.room().await;
            self.dispatch(frame.requests);
        }
    }

    fn dispatch(&self, requests: Vec<Request>) {
        self.unread.add(requests.len());
        tracing::trace!(target: "godwit::steps", count = requests.len() as u64, "frame received");
        for part in spread(&self.host, &self.in_flight, &self.caller, &self.replies, requests) {
            submit(&self.host, part);
        }
    }
}
