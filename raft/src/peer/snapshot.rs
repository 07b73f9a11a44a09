//! Sending and receiving a whole state.
//!
//! A transfer has a connection of its own. The sender reads its last checkpoint frame by frame on the blocking
//! executor and never holds the whole in memory; the receiver writes the frames beside its present state, and only
//! a complete, verified import is handed to the group. How many there are at once, and at what rates, is `transfers`' affair.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::{Stream, StreamExt, stream};
use openraft::StorageError;
use openraft::errors::{NetworkError, StreamingError, Unreachable};
use openraft::raft::SnapshotResponse;
use openraft::storage::Snapshot;
use storage::log::{LogGroup, LogHub};
use storage::seeded_bug;
use tonic::{Status, Streaming};

use super::growth::Growth;
use super::{FRAME_BYTES_MAX, Peers, link};
use crate::convert::{self, Mark};
use crate::env::Env;
use crate::host::Registered;
use crate::machine::{Imported, Machine, MachineFault, SnapshotSource};
use crate::proto;
use crate::proto::peer_client::PeerClient;
use crate::proto::refusal::Kind;
use crate::state_machine::{Cell, SnapshotContent, meta_of};
use crate::transfers::{Receiving, Sending, Transfers};
use crate::types::{LogId, TypeConfig, Vote};

/// How long to leave a receiver alone that has its hands full.
const BUSY_PAUSE: Duration = Duration::from_secs(1);

pub(super) struct Outgoing {
    pub(super) peers: Peers,
    pub(super) host: u64,
    pub(super) group: u64,
    pub(super) from: u64,
    pub(super) to: u64,
    pub(super) vote: Vote,
    pub(super) cell: Arc<Cell>,
    pub(super) transfers: Transfers,
    pub(super) log: LogHub,
    /// The last entry of the snapshot as openraft knows it: it goes on with the log behind that.
    pub(super) known: Option<LogId>,
    /// Entries that stay in the log behind a snapshot.
    pub(super) keep_entries: u64,
}

impl Outgoing {
    pub(super) async fn send(self) -> Result<SnapshotResponse<TypeConfig>, StreamingError<TypeConfig>> {
        let is_voter = self.cell.mark().is_voter(self.to);
        let transfer = Arc::new(self.transfers.announce(self.group, self.to, is_voter));
        let were_put_off = self.transfers.is_bringing(self.group);
        let sending = transfer.begin().await;
        // From here on no snapshot is taken for its policy; behind one that is being taken, the log will be gone.
        self.cell.settled().await;
        if !were_put_off && self.is_in_vain() {
            transfer.comes_again();
            return Err(NetworkError::from_string("a later snapshot was taken meanwhile").into());
        }
        let reply = self.send_in_turn(sending).await?;
        match (reply.vote, reply.refusal) {
            (Some(vote), None) => {
                transfer.arrives();
                Ok(SnapshotResponse::new(convert::vote_from_proto(&vote)))
            }
            (_, Some(refusal)) => {
                // Its turn is over by now, and another may have it: this one waits.
                if refusal.kind() == Kind::Busy {
                    transfer.waits();
                    tokio::time::sleep(BUSY_PAUSE).await;
                }
                Err(Unreachable::from_string(refusal.detail).into())
            }
            (None, None) => Err(NetworkError::from_string("an empty snapshot reply").into()),
        }
    }

    /// Whether the log behind the snapshot that openraft knows is purged already, or about to be: all would be sent again.
    fn is_in_vain(&self) -> bool {
        let index = |id: Option<LogId>| id.map_or(0, |id| id.index());
        let durable = self.cell.durable().and_then(|mark| mark.applied);
        index(durable) > index(self.known) + self.keep_entries
    }

    async fn send_in_turn(
        &self,
        sending: Sending,
    ) -> Result<proto::SnapshotReply, StreamingError<TypeConfig>> {
        let address = self.peers.address(self.host);
        let address = address.ok_or_else(|| Unreachable::from_string("its address is not known"))?;
        let channel = link::connect(&self.peers, address)
            .await
            .map_err(Unreachable::from_string)?;
        let machine = self.cell.machine().clone();
        let opened = self.peers.env().background(move || machine.export()).await;
        let source = opened.map_err(|e| StorageError::read_snapshot(None, storage_source(&e)))?;
        tracing::info!(
            group = self.group,
            to = self.to,
            host = self.host,
            "sending a snapshot"
        );
        let mut client = PeerClient::new(channel).max_encoding_message_size(FRAME_BYTES_MAX);
        let reply = client.install_snapshot(self.frames(source, sending)?).await;
        let reply = reply.map_err(|status| NetworkError::from_string(status.message()))?;
        Ok(reply.into_inner())
    }

    fn head(&self, source: &dyn SnapshotSource) -> Result<proto::SnapshotFrame, NetworkError<TypeConfig>> {
        let mut mark = Mark::decode(source.mark()).map_err(|e| NetworkError::new(&e))?;
        if seeded_bug::is_on("B11") {
            // Seeded bug B11: the copy is said to hold what was applied after it was made.
            mark = self.cell.mark();
        }
        let head = proto::SnapshotHead {
            hello: Some(self.peers.hello(self.host)),
            group: self.group,
            from_replica: self.from,
            to_replica: self.to,
            vote: Some(convert::vote_to_proto(&self.vote)),
            mark: Some(mark.to_proto()),
        };
        Ok(proto::SnapshotFrame {
            head: Some(head),
            frame: Bytes::new(),
        })
    }

    /// A failure to read ends the stream early; the receiver notices that the last frame is missing.
    fn frames(
        &self,
        source: Box<dyn SnapshotSource>,
        sending: Sending,
    ) -> Result<impl Stream<Item = proto::SnapshotFrame> + Send + use<>, NetworkError<TypeConfig>> {
        let head = self.head(source.as_ref())?;
        let env = self.peers.env().clone();
        let (log, of_group) = (self.log.clone(), LogGroup(self.from));
        let growth = Growth::begin(self.transfers.uptime(), log.appended_bytes(of_group));
        let rest = stream::unfold(Some((source, sending)), move |turn| {
            let (env, log) = (env.clone(), log.clone());
            async move {
                let (mut source, sending) = turn?;
                let (source, read) = env
                    .background(move || {
                        let read = source.next_frame();
                        (source, read)
                    })
                    .await;
                let frame = read
                    .inspect_err(|e| tracing::error!(error = %e, "cannot read a snapshot"))
                    .ok()??;
                let least = growth.outpaced(sending.uptime(), log.appended_bytes(of_group));
                sending.pace(frame.len(), least).await;
                Some((
                    proto::SnapshotFrame { head: None, frame },
                    Some((source, sending)),
                ))
            }
        });
        Ok(stream::iter([head]).chain(rest))
    }
}

fn storage_source(fault: &MachineFault) -> openraft::impls::BoxedErrorSource {
    <openraft::impls::BoxedErrorSource as openraft::errors::ErrorSource>::from_string(fault)
}

/// Receives one snapshot for a registered replica.
pub(super) async fn receive(
    env: &Env,
    replica: &Registered,
    receiving: Receiving,
    head: proto::SnapshotHead,
    frames: Streaming<proto::SnapshotFrame>,
) -> Result<proto::SnapshotReply, Status> {
    let malformed = |e: convert::Malformed| Status::invalid_argument(e.to_string());
    let vote = convert::required_vote(head.vote).map_err(malformed)?;
    let mark = head
        .mark
        .ok_or_else(|| Status::invalid_argument("a snapshot without its mark"))?;
    let mark = Mark::from_proto(mark).map_err(malformed)?;
    let imported = import(env, replica.cell.machine().clone(), &receiving, frames).await?;
    let content = SnapshotContent::Received {
        imported,
        stamp: mark.stamp,
    };
    let snapshot = Snapshot {
        meta: meta_of(&mark),
        snapshot: content,
    };
    let installed = replica.raft.install_full_snapshot(vote, snapshot).await;
    let response = installed.map_err(|e| Status::aborted(e.to_string()))?;
    Ok(proto::SnapshotReply {
        vote: Some(convert::vote_to_proto(&response.vote)),
        refusal: None,
    })
}

async fn import(
    env: &Env,
    machine: Arc<dyn Machine>,
    receiving: &Receiving,
    mut frames: Streaming<proto::SnapshotFrame>,
) -> Result<Imported, Status> {
    let failed = |e: MachineFault| Status::data_loss(e.to_string());
    let mut sink = env
        .background(move || machine.begin_import())
        .await
        .map_err(failed)?;
    while let Some(message) = frames.message().await? {
        receiving.note(message.frame.len());
        let (back, pushed) = env
            .background(move || {
                let pushed = sink.push(message.frame);
                (sink, pushed)
            })
            .await;
        pushed.map_err(failed)?;
        sink = back;
    }
    env.background(move || sink.finish()).await.map_err(failed)
}
