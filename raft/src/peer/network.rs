//! openraft's network: one sender for each (group, target replica), all on the target host's link.
//!
//! Appends are pipelined: up to [`IN_FLIGHT_MAX`] travel before the first reply. They are queued in order and the
//! peer feeds them to its replica in order. Heartbeats and votes overtake them.

use std::future::Future;
use std::time::Duration;

use futures_util::future::BoxFuture;
use futures_util::stream::BoxStream;
use futures_util::{FutureExt, Stream, StreamExt};
use openraft::errors::{NetworkError, RPCError, ReplicationClosed, StreamingError, Unreachable};
use openraft::network::{
    Backoff, NetBackoff, NetSnapshot, NetStreamAppend, NetTransferLeader, NetVote, RPCOption,
    RaftNetworkFactory,
};
use openraft::raft::{
    AppendEntriesRequest, SnapshotResponse, StreamAppendError, StreamAppendResult, TransferLeaderRequest,
    TransferLeaderResponse, VoteRequest, VoteResponse,
};
use storage::log::{LogGroup, LogHub};
use storage::seeded_bug;
use tokio::sync::oneshot;

use super::catch_up::{CatchUp, LOG_FILL_MAX, OwnHost};
use super::pipeline::{last_of, pipeline};
use super::{CallError, Link, Peers, snapshot};
use crate::convert;
use crate::proto;
use crate::proto::message::Body;
use crate::state_machine::{Cell, RaftSnapshot, SnapshotContent};
use crate::transfers::Transfers;
use crate::types::{Member, TypeConfig, Vote};
use std::sync::Arc;

/// Appends to one replica that travel at once.
const IN_FLIGHT_MAX: usize = 32;

type RpcError = RPCError<TypeConfig>;
/// A call that is queued, or why it is not.
type StartedCall = Result<oneshot::Receiver<Result<Body, CallError>>, CallError>;

/// Which of a replica's queues an append takes at the receiver.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Lane {
    /// In order behind earlier appends.
    Append,
    /// At once: it carries no entries.
    Heartbeat,
}

/// Makes senders for one group.
pub(crate) struct NetworkFactory {
    pub(crate) peers: Peers,
    pub(crate) group: u64,
    pub(crate) replica: u64,
    pub(crate) cell: Arc<Cell>,
    /// How long a reply may take before its stream is given up.
    pub(crate) reply_timeout: Duration,
    pub(crate) transfers: Transfers,
    pub(crate) log: LogHub,
    /// Entries that stay in the log behind a snapshot.
    pub(crate) keep_entries: u64,
}

impl NetworkFactory {
    fn sender(&self, target: u64, member: &Member, lane: Lane) -> Sender {
        Sender {
            peers: self.peers.clone(),
            link: self.peers.link(member.host),
            host: member.host,
            group: self.group,
            from: self.replica,
            to: target,
            lane,
            cell: self.cell.clone(),
            reply_timeout: self.reply_timeout,
            transfers: self.transfers.clone(),
            log: self.log.clone(),
            keep_entries: self.keep_entries,
        }
    }
}

impl RaftNetworkFactory<TypeConfig> for NetworkFactory {
    type Network = Sender;

    async fn new_client(&mut self, target: u64, member: &Member) -> Sender {
        self.sender(target, member, Lane::Append)
    }

    async fn new_heartbeat_client(&mut self, target: u64, member: &Member) -> Sender {
        self.sender(target, member, Lane::Heartbeat)
    }
}

/// Sends one group's messages to one replica.
pub(crate) struct Sender {
    peers: Peers,
    link: Link,
    host: u64,
    group: u64,
    from: u64,
    to: u64,
    lane: Lane,
    cell: Arc<Cell>,
    reply_timeout: Duration,
    transfers: Transfers,
    log: LogHub,
    keep_entries: u64,
}

impl Sender {
    fn message(&self, body: Body) -> proto::Message {
        proto::Message {
            call: 0,
            group: self.group,
            from_replica: self.from,
            to_replica: self.to,
            body: Some(body),
        }
    }

    async fn append_reply(&self, reply: StartedCall) -> Result<StreamAppendResult<TypeConfig>, RpcError> {
        let reply = reply.map_err(rpc_error)?;
        let waiting = self.link.wait(reply, self.reply_timeout);
        append_result(waiting.await.map_err(rpc_error)?)
    }

    async fn ballot(&self, body: Body, timeout: Duration) -> Result<VoteResponse<TypeConfig>, RpcError> {
        match self
            .link
            .call(self.message(body), timeout)
            .await
            .map_err(rpc_error)?
        {
            Body::BallotReply(reply) => Ok(VoteResponse {
                vote: convert::required_vote(reply.vote).map_err(NetworkError::from_string)?,
                vote_granted: reply.granted,
                last_log_id: reply.last.as_ref().map(convert::log_id_from_proto),
            }),
            other => Err(unexpected(other)),
        }
    }
}

fn rpc_error(error: CallError) -> RpcError {
    match error {
        CallError::Unreachable { .. } => Unreachable::new(&error).into(),
        CallError::Broken { .. } | CallError::Full { .. } => NetworkError::new(&error).into(),
    }
}

/// A reply of the wrong kind, or a refusal. The replica may not have been made yet, so this backs off and is retried.
fn unexpected(body: Body) -> RpcError {
    let reason = match body {
        Body::Refusal(refusal) => format!("refused: {}", refusal.detail),
        _ => "a reply of the wrong kind".to_owned(),
    };
    Unreachable::from_string(reason).into()
}

fn append_to_proto(request: &AppendEntriesRequest<TypeConfig>) -> proto::Append {
    proto::Append {
        vote: Some(convert::vote_to_proto(&request.vote)),
        prev: request.prev_log_id.as_ref().map(convert::log_id_to_proto),
        entries: request.entries.iter().map(convert::entry_to_proto).collect(),
        commit: request.leader_commit.as_ref().map(convert::log_id_to_proto),
    }
}

fn append_result(body: Body) -> Result<StreamAppendResult<TypeConfig>, RpcError> {
    use proto::append_reply::Result as Reply;
    let Body::AppendReply(reply) = body else {
        return Err(unexpected(body));
    };
    match reply.result {
        Some(Reply::Flushed(id)) => Ok(Ok(Some(convert::log_id_from_proto(&id)))),
        Some(Reply::FlushedNone(_)) => Ok(Ok(None)),
        Some(Reply::Conflict(id)) => Ok(Err(StreamAppendError::Conflict(convert::log_id_from_proto(&id)))),
        Some(Reply::Higher(vote)) => Ok(Err(StreamAppendError::HigherVote(convert::vote_from_proto(
            &vote,
        )))),
        None => Err(NetworkError::from_string("an append reply of an unknown kind").into()),
    }
}

impl NetStreamAppend<TypeConfig> for Sender {
    fn stream_append<'s, S>(
        &'s mut self,
        input: S,
        _option: RPCOption,
    ) -> BoxFuture<'s, Result<BoxStream<'s, Result<StreamAppendResult<TypeConfig>, RpcError>>, RpcError>>
    where
        S: Stream<Item = AppendEntriesRequest<TypeConfig>> + Send + Unpin + 'static,
    {
        let sender = &*self;
        let start = move |request: AppendEntriesRequest<TypeConfig>| {
            let last = last_of(&request);
            let append = append_to_proto(&request);
            let body = match sender.lane {
                Lane::Append => Body::Append(append),
                Lane::Heartbeat => Body::Heartbeat(append),
            };
            // Queued here, in the order of the input; only the waiting is concurrent.
            let reply = sender.link.start(sender.message(body));
            async move {
                let replied = sender.append_reply(reply).await;
                // Seeded bug B14: a replica that did not answer is counted among those that have the entries.
                if seeded_bug::is_on("B14") && replied.is_err() && sender.lane == Lane::Append {
                    return Ok(Ok(last));
                }
                replied
            }
        };
        let catch_up = CatchUp::new(self.transfers.clone(), self.group, self.to);
        let input = catch_up.held_back(input, &*self);
        let replies = pipeline(input, self.lane, IN_FLIGHT_MAX, start).boxed();
        async move { Ok(replies) }.boxed()
    }
}

impl OwnHost for &Sender {
    fn is_exempt(&self) -> bool {
        self.log.fill() > LOG_FILL_MAX || self.cell.mark().is_voter(self.to)
    }

    fn appended_bytes(&self) -> u64 {
        self.log.appended_bytes(LogGroup(self.from))
    }
}

impl NetVote<TypeConfig> for Sender {
    async fn vote(
        &mut self,
        rpc: VoteRequest<TypeConfig>,
        option: RPCOption,
    ) -> Result<VoteResponse<TypeConfig>, RpcError> {
        self.ballot(Body::Vote(ballot_to_proto(&rpc)), option.hard_ttl())
            .await
    }

    async fn pre_vote(
        &mut self,
        rpc: VoteRequest<TypeConfig>,
        option: RPCOption,
    ) -> Result<VoteResponse<TypeConfig>, RpcError> {
        self.ballot(Body::PreVote(ballot_to_proto(&rpc)), option.hard_ttl())
            .await
    }
}

fn ballot_to_proto(rpc: &VoteRequest<TypeConfig>) -> proto::Ballot {
    proto::Ballot {
        vote: Some(convert::vote_to_proto(&rpc.vote)),
        last: rpc.last_log_id.as_ref().map(convert::log_id_to_proto),
        leadership_transfer: rpc.leadership_transfer,
    }
}

impl NetTransferLeader<TypeConfig> for Sender {
    async fn transfer_leader(
        &mut self,
        req: TransferLeaderRequest<TypeConfig>,
        option: RPCOption,
    ) -> Result<TransferLeaderResponse<TypeConfig>, RpcError> {
        let body = Body::Transfer(proto::Transfer {
            from_leader: Some(convert::vote_to_proto(req.from_leader())),
            to_replica: *req.to_node_id(),
            last: req.last_log_id().map(convert::log_id_to_proto),
        });
        match self
            .link
            .call(self.message(body), option.hard_ttl())
            .await
            .map_err(rpc_error)?
        {
            Body::TransferReply(reply) if reply.accepted => Ok(Ok(())),
            Body::TransferReply(reply) => Err(NetworkError::from_string(reply.reason).into()),
            other => Err(unexpected(other)),
        }
    }
}

impl NetSnapshot<TypeConfig> for Sender {
    type SnapshotData = SnapshotContent;

    async fn full_snapshot(
        &mut self,
        vote: Vote,
        sent: RaftSnapshot,
        cancel: impl Future<Output = ReplicationClosed> + Send + 'static,
        _option: RPCOption,
    ) -> Result<SnapshotResponse<TypeConfig>, StreamingError<TypeConfig>> {
        // The view is opened now, so it may cover more than the metadata said: its own mark is sent along.
        let transfer = snapshot::Outgoing {
            peers: self.peers.clone(),
            host: self.host,
            group: self.group,
            from: self.from,
            to: self.to,
            vote,
            cell: self.cell.clone(),
            transfers: self.transfers.clone(),
            log: self.log.clone(),
            known: sent.meta.last_log_id,
            keep_entries: self.keep_entries,
        };
        tokio::select! {
            sent = transfer.send() => sent,
            closed = cancel => Err(closed.into()),
        }
    }
}

impl NetBackoff<TypeConfig> for Sender {
    fn backoff(&self) -> Option<Backoff> {
        Some(Backoff::new(std::iter::repeat(Duration::from_millis(100))))
    }
}
