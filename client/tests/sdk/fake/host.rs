//! One fake host: a gRPC server on a free loopback port.

use std::{
    pin::Pin,
    sync::{Arc, Mutex},
};

use client::proto::{
    ClientFrame, Code, Error, Hello, Reply, ServerFrame, ShardMapReply, ShardMapRequest, UnaryRequest,
    kv_server::{Kv, KvServer},
    reply,
};
use tokio::{
    net::TcpListener,
    sync::{mpsc, watch},
    task::JoinHandle,
};
use tokio_stream::{
    Stream,
    wrappers::{ReceiverStream, TcpListenerStream},
};
use tonic::{Request, Response, Status, Streaming, transport::Server};

use super::cluster::{CLUSTER_ID, FakeCluster, Reaction, reached};

pub(crate) struct FakeHost {
    pub(crate) address: String,
    stop: watch::Sender<bool>,
    held: Arc<Mutex<Held>>,
    hellos: Arc<Mutex<Vec<Hello>>>,
    streams: watch::Sender<usize>,
    server: JoinHandle<()>,
}

/// Replies that are kept back until there are `until` of them, and then sent last first.
#[derive(Default)]
struct Held {
    until: usize,
    replies: Vec<Reply>,
    /// The most that were kept back at once.
    most: usize,
}

#[derive(Clone)]
struct Service {
    id: u64,
    cluster: Arc<FakeCluster>,
    stop: watch::Receiver<bool>,
    held: Arc<Mutex<Held>>,
    hellos: Arc<Mutex<Vec<Hello>>>,
    /// How many streams are open.
    streams: watch::Sender<usize>,
}

type Replies = mpsc::Sender<Result<ServerFrame, Status>>;

impl FakeHost {
    pub(crate) async fn start(id: u64, cluster: Arc<FakeCluster>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let stop = watch::Sender::new(false);
        let (held, hellos, streams) = (Arc::default(), Arc::default(), watch::Sender::new(0));
        let service = Service {
            id,
            cluster,
            stop: stop.subscribe(),
            held: Arc::clone(&held),
            hellos: Arc::clone(&hellos),
            streams: streams.clone(),
        };
        let mut stopped = stop.subscribe();
        let server = tokio::spawn(async move {
            let stopped = async move { drop(stopped.wait_for(|stop| *stop).await) };
            let incoming = TcpListenerStream::new(listener);
            let kv = KvServer::new(service).max_decoding_message_size(usize::MAX);
            Server::builder()
                .add_service(kv)
                .serve_with_incoming_shutdown(incoming, stopped)
                .await
                .unwrap();
        });
        Self {
            address,
            stop,
            held,
            hellos,
            streams,
            server,
        }
    }

    /// Ends all streams without answering, and closes the port.
    pub(crate) async fn kill(self) {
        self.stop.send_replace(true);
        self.server.await.unwrap();
    }

    /// From now on replies are sent `count` at a time, the last first.
    pub(crate) fn hold_until(&self, count: usize) {
        self.held.lock().unwrap().until = count;
    }

    pub(crate) fn most_held(&self) -> usize {
        self.held.lock().unwrap().most
    }

    /// Waits until there are `count` open streams.
    pub(crate) async fn has_streams(&self, count: usize) {
        reached(&self.streams, |open| *open == count).await;
    }

    pub(crate) fn hellos(&self) -> Vec<Hello> {
        self.hellos.lock().unwrap().clone()
    }
}

impl Service {
    /// Processes frames until the client, a fault or the host's end ends the stream.
    async fn serve(self, mut frames: Streaming<ClientFrame>, replies: Replies) {
        let mut stop = self.stop.clone();
        let mut refuses = false;
        loop {
            let frame = tokio::select! {
                frame = frames.message() => frame,
                _ = stop.wait_for(|stop| *stop) => return,
            };
            let Ok(Some(frame)) = frame else { return };
            if let Some(hello) = frame.hello {
                refuses = !hello.cluster_id.is_empty() && hello.cluster_id != CLUSTER_ID;
                self.hellos.lock().unwrap().push(hello);
            }
            if !frame.requests.is_empty() {
                self.cluster.note_frame(frame.requests.len());
            }
            for request in frame.requests {
                let reaction = match refuses {
                    true => Reaction::Reply(wrong_cluster(request.id)),
                    false => self.cluster.process(self.id, request),
                };
                match reaction {
                    Reaction::Reply(reply) => self.send(reply, &replies).await,
                    Reaction::Silence => {}
                    Reaction::EndStream => return,
                }
            }
        }
    }

    async fn send(&self, reply: Reply, replies: &Replies) {
        let ready = {
            let mut held = self.held.lock().unwrap();
            held.replies.push(reply);
            held.most = held.most.max(held.replies.len());
            if held.replies.len() < held.until {
                return;
            }
            std::mem::take(&mut held.replies)
        };
        for reply in ready.into_iter().rev() {
            // The client may have closed the stream.
            let _ = replies.send(Ok(ServerFrame { replies: vec![reply] })).await;
        }
    }
}

fn wrong_cluster(id: u64) -> Reply {
    let error = Error {
        code: Code::WrongCluster.into(),
        ..Error::default()
    };
    Reply {
        id,
        revision: 0,
        result: Some(reply::Result::Error(error)),
    }
}

#[tonic::async_trait]
impl Kv for Service {
    type ExchangeStream = Pin<Box<dyn Stream<Item = Result<ServerFrame, Status>> + Send>>;

    async fn exchange(
        &self,
        frames: Request<Streaming<ClientFrame>>,
    ) -> Result<Response<Self::ExchangeStream>, Status> {
        let (replies, outbound) = mpsc::channel(1024);
        let service = self.clone();
        tokio::spawn(async move {
            let streams = service.streams.clone();
            streams.send_modify(|open| *open += 1);
            service.serve(frames.into_inner(), replies).await;
            streams.send_modify(|open| *open -= 1);
        });
        Ok(Response::new(Box::pin(ReceiverStream::new(outbound))))
    }

    async fn call(&self, request: Request<UnaryRequest>) -> Result<Response<Reply>, Status> {
        let request = request.into_inner().request.unwrap_or_default();
        match self.cluster.process(self.id, request) {
            Reaction::Reply(reply) => Ok(Response::new(reply)),
            Reaction::Silence => std::future::pending().await,
            Reaction::EndStream => Err(Status::unavailable("the script says so")),
        }
    }

    async fn shard_map(&self, _: Request<ShardMapRequest>) -> Result<Response<ShardMapReply>, Status> {
        Ok(Response::new(self.cluster.map()))
    }
}
