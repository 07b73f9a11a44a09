//! The watch service: one client's stream of watches.

use std::collections::BTreeMap;
use std::pin::Pin;

use client::proto::watch_call::Call;
use client::proto::watch_server::{Watch, WatchServer};
use client::proto::{Code, WatchCall, WatchFrame, WatchReplies};
use futures_util::{Stream, StreamExt};
use tonic::{Request, Response, Status, Streaming};

use super::kv::check_cluster;
use super::reply::problem;
use crate::host::Host;
use crate::watch::{NotStarted, Outbox, Started, replies, start};

/// Tells clients what changes.
#[derive(Clone)]
pub(crate) struct WatchService {
    host: Host,
}

impl WatchService {
    pub(crate) fn server(host: Host) -> WatchServer<Self> {
        WatchServer::new(Self { host }).max_encoding_message_size(usize::MAX)
    }
}

#[tonic::async_trait]
impl Watch for WatchService {
    type WatchStream = Pin<Box<dyn Stream<Item = Result<WatchReplies, Status>> + Send>>;

    async fn watch(
        &self,
        request: Request<Streaming<WatchFrame>>,
    ) -> Result<Response<Self::WatchStream>, Status> {
        let mut frames = request.into_inner();
        let first = frames.message().await?;
        let first = first.ok_or_else(|| Status::invalid_argument("an empty stream"))?;
        let hello = first
            .hello
            .ok_or_else(|| Status::invalid_argument("the first frame must say hello"))?;
        check_cluster(&self.host, &hello)?;
        let (outbox, outgoing) = Outbox::new(self.host.config().watch.queue_bytes_max);
        let watches = Watches {
            host: self.host.clone(),
            outbox,
            running: BTreeMap::new(),
            look_at: LOOK_AT_MIN,
        };
        self.host.spawn(watches.run(first.calls, frames));
        let stop = self.host.stop().clone().cancelled_owned();
        Ok(Response::new(replies(outgoing).take_until(stop).boxed()))
    }
}

/// So many watches are looked at for those that have ended, and then twice as many as were left.
const LOOK_AT_MIN: usize = 64;

/// The watches of one stream.
struct Watches {
    host: Host,
    outbox: Outbox,
    /// By the client's numbers; some may have ended.
    running: BTreeMap<u64, Started>,
    look_at: usize,
}

impl Watches {
    async fn run(mut self, first: Vec<WatchCall>, mut frames: Streaming<WatchFrame>) {
        self.answer(first);
        loop {
            let frame = tokio::select! {
                frame = frames.message() => frame,
                () = self.outbox.gone() => return,
            };
            let Ok(Some(frame)) = frame else {
                return;
            };
            self.answer(frame.calls);
        }
    }

    fn answer(&mut self, calls: Vec<WatchCall>) {
        for WatchCall { id, call } in calls {
            match call {
                Some(Call::Start(call)) => {
                    if let Err(NotStarted { error, oldest }) = self.start(id, call) {
                        self.outbox.ended(id, error, oldest);
                    }
                }
                Some(Call::Stop(_)) => self.stop(id),
                None => self
                    .outbox
                    .ended(id, problem(Code::Unimplemented, "an unknown call"), 0),
            }
        }
    }

    fn start(&mut self, id: u64, call: client::proto::StartWatch) -> Result<(), NotStarted> {
        if self.running.len() >= self.look_at {
            self.running.retain(|_, started| started.is_running());
            self.look_at = LOOK_AT_MIN.max(self.running.len() * 2);
        }
        let most = self.host.config().watch.watches_max;
        if self.running.len() as u64 >= most {
            let message = format!("this stream has as many watches as it may have, {most}");
            return Err(NotStarted::new(problem(Code::Overloaded, message)));
        }
        if self.running.get(&id).is_some_and(Started::is_running) {
            let message = format!("watch {id} runs already");
            return Err(NotStarted::new(problem(Code::Invalid, message)));
        }
        let started = start(&self.host, &self.outbox, id, call)?;
        self.running.insert(id, started);
        Ok(())
    }

    fn stop(&mut self, id: u64) {
        if let Some(started) = self.running.remove(&id) {
            started.stop();
        }
    }
}

impl Drop for Watches {
    fn drop(&mut self) {
        for started in self.running.values() {
            started.stop();
        }
    }
}
