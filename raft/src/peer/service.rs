//! The incoming side: one stream from each peer, spread over the replicas of this host.
//!
//! Appends of one sender to one replica stay in order: each pair has a feed into openraft's pipelined receiver.
//! Everything else is answered by a task of its own, so a slow group holds up nobody. A stream is refused unless it
//! names this cluster, this host and this protocol: an address may have belonged to another host before.

use std::collections::{BTreeMap, VecDeque};
use std::pin::Pin;
use std::sync::{Arc, Mutex, OnceLock};

use futures_util::{Stream, StreamExt, stream};
use openraft::async_runtime::watch::WatchReceiver;
use openraft::raft::{
    AppendEntriesRequest, AppendEntriesResponse, StreamAppendError, StreamAppendResult, VoteRequest,
};
use storage::seeded_bug;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status, Streaming};

use super::{FRAME_BYTES_MAX, PROTOCOL, snapshot};
use crate::confirm;
use crate::convert::{self, Malformed};
use crate::host::{Lookup, RaftHost, Registered};
use crate::proto;
use crate::proto::message::Body;
use crate::proto::peer_server::{Peer, PeerServer};
use crate::proto::refusal::Kind;
use crate::read::answer_read_index;
use crate::types::TypeConfig;

/// Replies waiting to be sent on one stream.
const REPLIES_MAX: usize = 16 * 1024;
/// Appends of one sender waiting in front of one replica; a sender keeps fewer in flight.
const FEED_MAX: usize = 64;
const FRAME_REPLIES_MAX: usize = 1024;

/// Serves the peer protocol for one host.
#[derive(Clone)]
pub struct PeerService {
    host: Arc<OnceLock<RaftHost>>,
}

impl PeerService {
    /// A service to be added to a tonic server. Until the host belongs to a cluster, peers are told to come again.
    pub fn server(host: Arc<OnceLock<RaftHost>>) -> PeerServer<Self> {
        PeerServer::new(Self { host })
            .max_decoding_message_size(FRAME_BYTES_MAX)
            .max_encoding_message_size(FRAME_BYTES_MAX)
    }

    fn host(&self) -> Result<RaftHost, Status> {
        self.host
            .get()
            .cloned()
            .ok_or_else(|| Status::unavailable("this host belongs to no cluster yet"))
    }

    fn check(host: &RaftHost, hello: Option<proto::Hello>) -> Result<u64, Status> {
        let hello = hello.ok_or_else(|| Status::invalid_argument("the first frame must greet"))?;
        let identity = host.identity();
        if hello.protocol != PROTOCOL {
            return Err(Status::failed_precondition(format!(
                "peer protocol {} is not spoken here (this host speaks {PROTOCOL})",
                hello.protocol
            )));
        }
        if seeded_bug::is_on("B24") {
            // Seeded bug B24: whoever calls is served, whichever cluster and host were meant.
            return Ok(hello.from_host);
        }
        if hello.cluster_id != identity.cluster_id {
            return Err(Status::permission_denied("this host belongs to another cluster"));
        }
        if hello.to_host != identity.host {
            return Err(Status::permission_denied(format!(
                "this is host {}, not host {}",
                identity.host, hello.to_host
            )));
        }
        Ok(hello.from_host)
    }
}

type Replies = mpsc::Sender<proto::Message>;

#[tonic::async_trait]
impl Peer for PeerService {
    type ExchangeStream = Pin<Box<dyn Stream<Item = Result<proto::Frame, Status>> + Send>>;

    async fn exchange(
        &self,
        request: Request<Streaming<proto::Frame>>,
    ) -> Result<Response<Self::ExchangeStream>, Status> {
        let host = self.host()?;
        let mut frames = request.into_inner();
        let first = frames
            .message()
            .await?
            .ok_or_else(|| Status::invalid_argument("an empty stream"))?;
        let from_host = Self::check(&host, first.hello)?;
        let (replies, queue) = mpsc::channel(REPLIES_MAX);
        let incoming = Incoming {
            host: host.clone(),
            from_host,
            replies,
            feeds: BTreeMap::new(),
        };
        drop(host.env().spawn(incoming.run(frames)));
        let frames = stream::unfold(queue, |mut queue| async move {
            let mut messages = Vec::new();
            let received = queue.recv_many(&mut messages, FRAME_REPLIES_MAX).await;
            (received > 0).then(|| {
                tracing::trace!(target: "godwit::steps", count = received as u64, "peer replies sent");
                (
                    Ok(proto::Frame {
                        hello: None,
                        messages,
                    }),
                    queue,
                )
            })
        });
        Ok(Response::new(frames.boxed()))
    }

    async fn install_snapshot(
        &self,
        request: Request<Streaming<proto::SnapshotFrame>>,
    ) -> Result<Response<proto::SnapshotReply>, Status> {
        let mut frames = request.into_inner();
        let first = frames
            .message()
            .await?
            .ok_or_else(|| Status::invalid_argument("an empty stream"))?;
        let mut head = first
            .head
            .ok_or_else(|| Status::invalid_argument("the first frame must have a head"))?;
        let host = self.host()?;
        Self::check(&host, head.hello.take())?;
        let reply = match host.lookup(head.group, head.to_replica) {
            Lookup::Here(replica) => match host.transfers().receive(head.group) {
                Some(receiving) => snapshot::receive(host.env(), &replica, receiving, head, frames).await?,
                None => proto::SnapshotReply {
                    vote: None,
                    refusal: Some(busy()),
                },
            },
            absent => proto::SnapshotReply {
                vote: None,
                refusal: Some(absence(&absent)),
            },
        };
        Ok(Response::new(reply))
    }
}

/// One peer's stream.
struct Incoming {
    host: RaftHost,
    from_host: u64,
    replies: Replies,
    feeds: BTreeMap<(u64, u64, u64), Feed>,
}

impl Incoming {
    async fn run(mut self, mut frames: Streaming<proto::Frame>) {
        while let Ok(Some(frame)) = frames.message().await {
            tracing::trace!(target: "godwit::steps", count = frame.messages.len() as u64, "peer frame received");
            for message in frame.messages {
                self.dispatch(message);
            }
        }
        self.host.peer_lost(self.from_host);
    }

    fn dispatch(&mut self, message: proto::Message) {
        let to = ReplyTo {
            call: message.call,
            replies: self.replies.clone(),
        };
        if let Some(Body::Claims(claims)) = &message.body {
            return to.send(Body::ClaimsReply(confirm::check(&self.host, claims)));
        }
        let replica = match self.host.lookup(message.group, message.to_replica) {
            Lookup::Here(replica) => replica,
            absent => return to.send(Body::Refusal(absence(&absent))),
        };
        let key = (message.group, message.from_replica, message.to_replica);
        match message.body {
            Some(Body::Append(append)) => self.append(key, replica, append, to),
            Some(body) => {
                let answering = answer(self.host.clone(), message.group, replica, body, to);
                drop(self.host.env().spawn(answering));
            }
            None => to.send(refusal(Kind::Malformed, "a message of an unknown kind")),
        }
    }

    fn append(&mut self, key: (u64, u64, u64), replica: Arc<Registered>, append: proto::Append, to: ReplyTo) {
        let request = match append_from_proto(append) {
            Ok(request) => request,
            Err(e) => return to.send(refusal(Kind::Malformed, &e.to_string())),
        };
        let request = as_of_present_leader(&replica, request);
        replica.heard();
        let feed = self
            .feeds
            .entry(key)
            .or_insert_with(|| Feed::open(&self.host, &replica));
        if !feed.serves(&replica) {
            *feed = Feed::open(&self.host, &replica);
        }
        if let Err(refused) = feed.push(request, to) {
            let (request, to) = *refused;
            // The feed ended with a conflict or a higher vote: what follows starts a new one.
            *feed = Feed::open(&self.host, &replica);
            if let Err(refused) = feed.push(request, to) {
                refused
                    .1
                    .send(refusal(Kind::Stopped, "the replica takes no appends now"));
            }
        }
    }
}

/// Where a reply goes.
struct ReplyTo {
    call: u64,
    replies: Replies,
}

impl ReplyTo {
    /// A reply that does not fit is dropped with a warning: its caller times out and retries.
    fn send(self, body: Body) {
        let message = proto::Message {
            call: self.call,
            body: Some(body),
            ..Default::default()
        };
        if let Err(mpsc::error::TrySendError::Full(_)) = self.replies.try_send(message) {
            tracing::warn!("too many replies queued for a peer; dropping one");
        }
    }
}

/// Appends of one sender on their way into one replica.
struct Feed {
    replica: Arc<Registered>,
    requests: mpsc::Sender<AppendEntriesRequest<TypeConfig>>,
    waiting: Arc<Waiting>,
}

/// Replies owed for appends in flight, in order; `None` once the feed has ended.
struct Waiting(Mutex<Option<VecDeque<ReplyTo>>>);

impl Waiting {
    fn pop(&self) -> Option<ReplyTo> {
        self.0
            .lock()
            .expect("no panic under this lock")
            .as_mut()?
            .pop_front()
    }

    fn end(&self) -> VecDeque<ReplyTo> {
        self.0
            .lock()
            .expect("no panic under this lock")
            .take()
            .unwrap_or_default()
    }
}

impl Feed {
    fn open(host: &RaftHost, replica: &Arc<Registered>) -> Self {
        let (requests, queue) = mpsc::channel(FEED_MAX);
        let waiting = Arc::new(Waiting(Mutex::new(Some(VecDeque::new()))));
        let results = replica.raft.stream_append(ReceiverStream::new(queue));
        let answers = waiting.clone();
        drop(host.env().spawn(async move {
            let mut results = std::pin::pin!(results);
            while let Some(Ok(result)) = results.next().await {
                if let Some(to) = answers.pop() {
                    to.send(append_reply(result));
                }
            }
            for to in answers.end() {
                to.send(refusal(Kind::Stopped, "void: an earlier append failed"));
            }
        }));
        Self {
            replica: replica.clone(),
            requests,
            waiting,
        }
    }

    fn serves(&self, replica: &Arc<Registered>) -> bool {
        Arc::ptr_eq(&self.replica, replica)
    }

    fn push(
        &self,
        request: AppendEntriesRequest<TypeConfig>,
        to: ReplyTo,
    ) -> Result<(), Box<(AppendEntriesRequest<TypeConfig>, ReplyTo)>> {
        // The reply is queued under the same lock as its request is sent, so both queues have one order.
        let mut waiting = self.waiting.0.lock().expect("no panic under this lock");
        let Some(waiting) = waiting.as_mut() else {
            return Err(Box::new((request, to)));
        };
        match self.requests.try_send(request) {
            Ok(()) => {
                waiting.push_back(to);
                Ok(())
            }
            Err(mpsc::error::TrySendError::Full(request) | mpsc::error::TrySendError::Closed(request)) => {
                Err(Box::new((request, to)))
            }
        }
    }
}

async fn answer(host: RaftHost, group: u64, replica: Arc<Registered>, body: Body, to: ReplyTo) {
    let reply = match body {
        Body::Heartbeat(append) => heartbeat(&replica, append).await,
        Body::Vote(ballot) => vote(&replica, ballot, false).await,
        Body::PreVote(ballot) => vote(&replica, ballot, true).await,
        Body::Transfer(transfer) => accept_transfer(&replica, transfer).await,
        Body::ReadIndex(proto::ReadIndex {}) => Ok(Body::ReadIndexReply(
            answer_read_index(&host, group, &replica).await,
        )),
        _ => Ok(refusal(Kind::Malformed, "a reply where a request was expected")),
    };
    to.send(reply.unwrap_or_else(|e| refusal(Kind::Stopped, &e)));
}

async fn heartbeat(replica: &Registered, append: proto::Append) -> Result<Body, String> {
    let request = append_from_proto(append).map_err(|e| e.to_string())?;
    let request = as_of_present_leader(replica, request);
    replica.heard();
    let last = request.prev_log_id;
    let response = replica
        .raft
        .append_entries(request)
        .await
        .map_err(|e| e.to_string())?;
    Ok(append_reply(match response {
        AppendEntriesResponse::Success => Ok(last),
        AppendEntriesResponse::PartialSuccess(id) => Ok(id),
        AppendEntriesResponse::Conflict => match last {
            Some(id) => Err(StreamAppendError::Conflict(id)),
            None => Ok(None),
        },
        AppendEntriesResponse::HigherVote(vote) => Err(StreamAppendError::HigherVote(vote)),
    }))
}

async fn vote(replica: &Registered, ballot: proto::Ballot, pre_vote: bool) -> Result<Body, String> {
    if !replica.may_vote() {
        return Ok(refusal(
            Kind::Stopped,
            "restarted a moment ago: it does not vote yet",
        ));
    }
    let mut request = VoteRequest::new(
        convert::required_vote(ballot.vote).map_err(|e| e.to_string())?,
        ballot.last.as_ref().map(convert::log_id_from_proto),
    );
    request.leadership_transfer = ballot.leadership_transfer;
    let response = match pre_vote {
        true => replica.raft.pre_vote(request).await,
        false => replica.raft.vote(request).await,
    };
    let response = response.map_err(|e| e.to_string())?;
    Ok(Body::BallotReply(proto::BallotReply {
        vote: Some(convert::vote_to_proto(&response.vote)),
        granted: response.vote_granted,
        last: response.last_log_id.as_ref().map(convert::log_id_to_proto),
    }))
}

async fn accept_transfer(replica: &Registered, transfer: proto::Transfer) -> Result<Body, String> {
    let request = openraft::raft::TransferLeaderRequest::new(
        convert::required_vote(transfer.from_leader).map_err(|e| e.to_string())?,
        transfer.to_replica,
        transfer.last.as_ref().map(convert::log_id_from_proto),
    );
    if !replica.may_vote() {
        let reason = "restarted a moment ago: it does not campaign yet".to_owned();
        return Ok(Body::TransferReply(proto::TransferReply {
            accepted: false,
            reason,
        }));
    }
    let response = replica
        .raft
        .handle_transfer_leader(request)
        .await
        .map_err(|e| e.to_string())?;
    let (accepted, reason) = match response {
        Ok(()) => (true, String::new()),
        Err(e) => (false, e.to_string()),
    };
    Ok(Body::TransferReply(proto::TransferReply { accepted, reason }))
}

fn append_from_proto(append: proto::Append) -> Result<AppendEntriesRequest<TypeConfig>, Malformed> {
    let entries: Result<Vec<_>, Malformed> = append
        .entries
        .into_iter()
        .map(convert::entry_from_proto)
        .collect();
    Ok(AppendEntriesRequest {
        vote: convert::required_vote(append.vote)?,
        prev_log_id: append.prev.as_ref().map(convert::log_id_from_proto),
        entries: entries?,
        leader_commit: append.commit.as_ref().map(convert::log_id_from_proto),
    })
}

/// Seeded bug B16: an append is taken whoever sent it, as if the present leader had: a stale leader's too.
fn as_of_present_leader(
    replica: &Registered,
    request: AppendEntriesRequest<TypeConfig>,
) -> AppendEntriesRequest<TypeConfig> {
    if !seeded_bug::is_on("B16") {
        return request;
    }
    let present = replica.raft.metrics().borrow_watched().vote;
    let outdated = request.vote < present && present.is_committed();
    let follows = present.leader_id().node_id != replica.replica;
    match outdated && follows {
        true => AppendEntriesRequest {
            vote: present,
            ..request
        },
        false => request,
    }
}

fn append_reply(result: StreamAppendResult<TypeConfig>) -> Body {
    use proto::append_reply::Result as Reply;
    let result = match result {
        Ok(Some(id)) => Reply::Flushed(convert::log_id_to_proto(&id)),
        Ok(None) => Reply::FlushedNone(true),
        Err(StreamAppendError::Conflict(id)) => Reply::Conflict(convert::log_id_to_proto(&id)),
        Err(StreamAppendError::HigherVote(vote)) => Reply::Higher(convert::vote_to_proto(&vote)),
    };
    Body::AppendReply(proto::AppendReply { result: Some(result) })
}

fn refusal(kind: Kind, detail: &str) -> Body {
    Body::Refusal(proto::Refusal {
        kind: kind.into(),
        detail: detail.to_owned(),
    })
}

fn busy() -> proto::Refusal {
    proto::Refusal {
        kind: Kind::Busy.into(),
        detail: "this host receives as many snapshots as it may".to_owned(),
    }
}

fn absence(lookup: &Lookup) -> proto::Refusal {
    let (kind, detail) = match lookup {
        Lookup::Here(_) => unreachable!("only called for an absent replica"),
        Lookup::Unknown => (Kind::UnknownReplica, "no such replica on this host"),
        Lookup::Destroyed => (Kind::Tombstone, "this replica was destroyed"),
    };
    proto::Refusal {
        kind: kind.into(),
        detail: detail.to_owned(),
    }
}
