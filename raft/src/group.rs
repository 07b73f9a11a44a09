//! One group's replica on this host: proposing, leadership, and what is known about the group.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::FutureExt;
use openraft::async_runtime::watch::WatchReceiver;
use openraft::errors::{ClientWriteError, Fatal, ForwardToLeader, InitializeError, RaftError};
use openraft::raft::ClientWriteResult;
use openraft::raft::responder::ProgressResponder;
use placement::{HostId, ReplicaId, ShardId};

use crate::convert;
use crate::env::Env;
use crate::host::{RaftHost, Registered};
use crate::machine::{MachineFault, Response};
use crate::state_machine::Urgency;
use crate::transfers::SnapshotProgress;
use crate::types::{Command, ConfStamp, LeaderId, LogId, Membership, Position, TypeConfig};

/// A transfer is only asked for towards a voter at most this many entries behind: openraft never cancels one, so a
/// transfer that cannot succeed costs an election.
const TRANSFER_LAG_MAX: u64 = 64;

/// How long after a snapshot or a purge was asked for it is asked for again.
const ASK_AGAIN: Duration = Duration::from_millis(50);

/// How long the first members of a group may take to become durable.
const FLUSH_TIMEOUT: Duration = Duration::from_secs(5);

/// Why a command was not applied, as far as is known.
#[derive(Debug, thiserror::Error)]
pub enum ProposeError {
    /// It was not proposed: another replica leads.
    #[error("not the leader (it is {leader:?})")]
    NotLeader {
        /// The leader's replica and host, as far as they are known.
        leader: Option<(ReplicaId, HostId)>,
    },
    /// It was proposed, and may or may not take effect.
    #[error("unknown outcome: {0}")]
    Unknown(String),
    /// It was not proposed: the replica has stopped.
    #[error("the replica has stopped: {0}")]
    Stopped(String),
}

/// Why leadership was not handed over.
#[derive(Debug, thiserror::Error)]
pub enum TransferError {
    /// Only the leader can hand over.
    #[error("not the leader (it is {leader:?})")]
    NotLeader {
        /// The leader, as far as it is known.
        leader: Option<ReplicaId>,
    },
    /// The target has no vote.
    #[error("replica {0} is not a voter")]
    NotVoter(ReplicaId),
    /// The target did not answer lately or is too far behind.
    #[error("replica {replica} is not ready: {reason}")]
    NotReady {
        /// The target.
        replica: ReplicaId,
        /// What is missing.
        reason: String,
    },
    /// It was asked for and did not happen in time; another election may follow.
    #[error("the target did not take over in {0:?}")]
    TimedOut(Duration),
}

/// How far one replica has come, as its leader sees it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ReplicaProgress {
    /// The last entry that is durable there; `None` before the first.
    pub matched: Option<u64>,
    /// When it last acknowledged the leader; `None` if not in this term.
    pub acknowledged_ago: Option<Duration>,
    /// How far the snapshot has come that is on its way there.
    pub snapshot: Option<SnapshotProgress>,
}

/// What this replica knows about its group.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GroupStatus {
    /// This replica.
    pub replica: ReplicaId,
    /// The leader, as far as it is known.
    pub leader: Option<ReplicaId>,
    /// The current term.
    pub term: u64,
    /// The voters of each configuration in force, as committed and applied here: one, or two during a joint change.
    pub voters: Vec<BTreeSet<ReplicaId>>,
    /// The members without a vote.
    pub learners: BTreeSet<ReplicaId>,
    /// Every member's host.
    pub hosts: BTreeMap<ReplicaId, HostId>,
    /// The index of the entry that set this membership.
    pub membership_index: Option<u64>,
    /// The decision behind the last applied membership.
    pub stamp: ConfStamp,
    /// The last entry in this replica's log.
    pub last_index: Option<u64>,
    /// The last entry that was purged from this replica's log; a member that lacks it needs a snapshot.
    pub purged_index: Option<u64>,
    /// The last entry applied here.
    pub applied: Option<Position>,
    /// On the leader: how far each replica has come.
    pub progress: BTreeMap<ReplicaId, ReplicaProgress>,
    /// Why the replica stopped, if it did.
    pub stopped: Option<String>,
}

/// A handle to a group's replica on this host.
#[derive(Clone)]
pub struct Group {
    id: ShardId,
    host: RaftHost,
    registered: Arc<Registered>,
}

impl Group {
    pub(crate) fn new(id: ShardId, host: RaftHost, registered: Arc<Registered>) -> Self {
        Self { id, host, registered }
    }

    /// The shard that this group replicates.
    pub fn id(&self) -> ShardId {
        self.id
    }

    /// This host's replica.
    pub fn replica(&self) -> ReplicaId {
        ReplicaId(self.registered.replica)
    }

    /// Makes the first members of a group that has none; a group that has some is left as it is. They are durable here
    /// when this returns: openraft answers before, and a host that lost them would never be asked again.
    pub async fn initialize(&self, members: &BTreeMap<ReplicaId, HostId>) -> Result<(), ProposeError> {
        let members = convert::nodes(members);
        match self.scoped(self.registered.raft.initialize(members)).await {
            Ok(()) | Err(RaftError::APIError(InitializeError::NotAllowed(_))) => self.first_flush().await,
            Err(RaftError::APIError(e)) => Err(ProposeError::Stopped(e.to_string())),
            Err(RaftError::Fatal(e)) => Err(ProposeError::Stopped(e.to_string())),
        }
    }

    /// Waits until something of the log is durable.
    async fn first_flush(&self) -> Result<(), ProposeError> {
        let flushed = self.registered.cell.flushed_to(0);
        match tokio::time::timeout(FLUSH_TIMEOUT, flushed).await {
            Ok(Ok(())) => Ok(()),
            Ok(Err(e)) => Err(ProposeError::Stopped(e.to_string())),
            Err(_) => Err(ProposeError::Unknown(
                "the first members are not durable yet".into(),
            )),
        }
    }

    /// Commits and applies a command, and returns the machine's answer.
    pub async fn propose(&self, command: Bytes) -> Result<(Position, Response), ProposeError> {
        self.propose_fenced(command, None).await
    }

    /// The same, but only if this replica still leads in `term`: a deposed leader's command is never proposed.
    pub async fn propose_in_term(
        &self,
        command: Bytes,
        term: u64,
    ) -> Result<(Position, Response), ProposeError> {
        self.propose_fenced(command, Some(term)).await
    }

    async fn propose_fenced(
        &self,
        command: Bytes,
        term: Option<u64>,
    ) -> Result<(Position, Response), ProposeError> {
        let (responder, result) =
            ProgressResponder::<TypeConfig, ClientWriteResult<TypeConfig>>::complete_only();
        let mut request = self.registered.raft.write(Command(command)).responder(responder);
        if let Some(term) = term {
            request = request.with_leader(LeaderId {
                term,
                node_id: self.registered.replica,
            });
        }
        request.await.map_err(|e| ProposeError::Stopped(e.to_string()))?;
        match result.await {
            Ok(Ok(written)) => {
                let at = Position {
                    term: written.log_id.committed_leader_id().term,
                    index: written.log_id.index(),
                };
                Ok((at, written.data))
            }
            Ok(Err(ClientWriteError::ForwardToLeader(to))) => Err(ProposeError::NotLeader {
                leader: self.other_leader(&to),
            }),
            Ok(Err(e)) => Err(ProposeError::Unknown(e.to_string())),
            Err(_) => Err(ProposeError::Unknown(
                "the replica stopped before it answered".into(),
            )),
        }
    }

    /// Who leads instead of this replica: during a transfer its target, which is about to.
    pub(crate) fn other_leader(&self, forward: &ForwardToLeader<TypeConfig>) -> Option<(ReplicaId, HostId)> {
        let named = forward.leader_id.zip(forward.leader_node.as_ref());
        let named = named.map(|(replica, member)| (ReplicaId(replica), HostId(member.host)));
        named
            .or_else(|| self.leader_with_host())
            .filter(|(replica, _)| *replica != self.replica())
    }

    /// Stands for election now instead of waiting for its time; without effect where another is known to lead.
    pub async fn campaign(&self) {
        if self.leader().is_none() {
            // A replica that has stopped does not campaign.
            drop(self.registered.raft.trigger().elect(true).await);
        }
    }

    /// Waits until some replica is known to lead; `None` if that takes longer than `timeout`.
    pub async fn wait_for_leader(&self, timeout: Duration) -> Option<ReplicaId> {
        let wait = self.registered.raft.wait(Some(timeout));
        let known = wait.metrics(|metrics| metrics.current_leader.is_some(), "any leader");
        let metrics = self.scoped(known).await.ok()?;
        metrics.current_leader.map(ReplicaId)
    }

    /// Hands leadership to `target` and waits until it leads.
    pub async fn transfer(&self, target: ReplicaId, timeout: Duration) -> Result<(), TransferError> {
        let status = self.status();
        if status.leader == Some(target) {
            return Ok(());
        }
        self.check_target(&status, target)?;
        let stopped = || TransferError::NotLeader { leader: None };
        self.registered
            .raft
            .trigger()
            .transfer_leader(target.0)
            .await
            .map_err(|_| stopped())?;
        let led_by_target =
            |metrics: &openraft::RaftMetrics<TypeConfig>| metrics.current_leader == Some(target.0);
        let wait = self.registered.raft.wait(Some(timeout));
        let waiting = wait.metrics(led_by_target, "leadership transfer");
        self.scoped(waiting)
            .await
            .map(|_| ())
            .map_err(|_| TransferError::TimedOut(timeout))
    }

    fn check_target(&self, status: &GroupStatus, target: ReplicaId) -> Result<(), TransferError> {
        if status.leader != Some(self.replica()) {
            return Err(TransferError::NotLeader {
                leader: status.leader,
            });
        }
        if !status.voters.iter().all(|voters| voters.contains(&target)) {
            return Err(TransferError::NotVoter(target));
        }
        let not_ready = |reason: String| {
            Err(TransferError::NotReady {
                replica: target,
                reason,
            })
        };
        let Some(progress) = status.progress.get(&target) else {
            return not_ready("no progress known".into());
        };
        let lag =
            status.last_index.map_or(0, |last| last + 1) - progress.matched.map_or(0, |matched| matched + 1);
        let fresh = self.host.options().heartbeat * 2;
        match progress.acknowledged_ago {
            Some(ago) if ago <= fresh && lag <= TRANSFER_LAG_MAX => Ok(()),
            Some(ago) if ago <= fresh => not_ready(format!("{lag} entries behind")),
            Some(ago) => not_ready(format!("silent for {} ms", ago.as_millis())),
            None => not_ready("it has not answered yet".into()),
        }
    }

    /// The leader, as far as it is known.
    pub fn leader(&self) -> Option<ReplicaId> {
        self.registered
            .raft
            .metrics()
            .borrow_watched()
            .current_leader
            .map(ReplicaId)
    }

    /// Whether this replica leads, as far as it knows.
    pub fn is_leader(&self) -> bool {
        self.leader() == Some(self.replica())
    }

    /// The term in which this replica leads, as far as it knows; `None` when it does not.
    pub fn leading_term(&self) -> Option<u64> {
        // These are published before the others, and tell of a change: see `RaftHost::leaderships`.
        let metrics = self.registered.raft.server_metrics();
        let metrics = metrics.borrow_watched();
        (metrics.current_leader == Some(self.registered.replica)).then_some(metrics.vote.leader_id().term)
    }

    /// The leader's host, as far as it is known.
    pub fn leader_host(&self) -> Option<HostId> {
        self.leader_with_host().map(|(_, host)| host)
    }

    pub(crate) fn leader_with_host(&self) -> Option<(ReplicaId, HostId)> {
        let metrics = self.registered.raft.metrics();
        let metrics = metrics.borrow_watched();
        let leader = metrics.current_leader?;
        let member = metrics.membership_config.membership().get_node(&leader)?;
        Some((ReplicaId(leader), HostId(member.host)))
    }

    /// Whether this replica has a vote in every configuration in force.
    pub fn is_voter(&self) -> bool {
        let metrics = self.registered.raft.metrics();
        let metrics = metrics.borrow_watched();
        let mut configs = metrics.membership_config.membership().get_joint_config().iter();
        configs.all(|voters| voters.contains(&self.registered.replica))
    }

    /// What this replica knows about its group.
    pub fn status(&self) -> GroupStatus {
        let metrics = self.registered.raft.metrics().borrow_watched().clone();
        // The applied membership and its stamp come from one moment; the metrics may be a little ahead.
        let mark = self.registered.cell.mark();
        let membership = mark.membership.membership();
        let hosts = hosts_of(membership);
        let configs = membership.get_joint_config().iter();
        GroupStatus {
            replica: self.replica(),
            leader: metrics.current_leader.map(ReplicaId),
            term: metrics.current_term,
            voters: configs
                .map(|voters| voters.iter().copied().map(ReplicaId).collect())
                .collect(),
            learners: membership.learner_ids().map(ReplicaId).collect(),
            progress: self.progress(&metrics),
            hosts,
            membership_index: mark.membership.log_id().map(|id| id.index()),
            stamp: mark.stamp,
            last_index: metrics.last_log_index,
            purged_index: metrics.purged.map(|id| id.index()),
            applied: mark.applied.map(|id| Position {
                term: id.committed_leader_id().term,
                index: id.index(),
            }),
            stopped: metrics.running_state.err().map(|e| e.to_string()),
        }
    }

    fn progress(&self, metrics: &openraft::RaftMetrics<TypeConfig>) -> BTreeMap<ReplicaId, ReplicaProgress> {
        let Some(replication) = &metrics.replication else {
            return BTreeMap::new();
        };
        let acknowledged = |replica: u64| {
            let at = metrics.heartbeat.as_ref()?.get(&replica).copied()??;
            Some(openraft_rt::Instant::elapsed(&*at))
        };
        let of = |(replica, matched): (&u64, &Option<LogId>)| {
            let progress = ReplicaProgress {
                matched: matched.map(|id| id.index()),
                acknowledged_ago: acknowledged(*replica),
                snapshot: self.host.transfers().progress(self.id.0, *replica),
            };
            (ReplicaId(*replica), progress)
        };
        replication.iter().map(of).collect()
    }

    /// Why this replica gave up, if it did: its log or its state could not be written or read, or its core broke down.
    pub fn failure(&self) -> Option<String> {
        let mut metrics = self.registered.raft.metrics();
        match &metrics.borrow_and_update().running_state {
            Ok(()) => {}
            Err(Fatal::Stopped) => return None,
            Err(fatal) => return Some(fatal.to_string()),
        }
        // A core that panics says nothing any more; one that is stopped says so first.
        match metrics.changed().now_or_never() {
            Some(Err(_)) => Some("its core has broken down".to_owned()),
            _ => None,
        }
    }

    /// Waits until anything in [`status`](Self::status) may have changed; `false` when the replica has stopped.
    pub fn changes(&self) -> impl Future<Output = bool> + Send + use<> {
        let mut metrics = self.registered.raft.server_metrics();
        let _ = metrics.borrow_and_update();
        async move { metrics.changed().await.is_ok() }
    }

    /// Makes the applied state durable, so that a restart replays little.
    ///
    /// # Errors
    /// When it is closed or its disk failed.
    pub async fn checkpoint(&self, urgency: Urgency) -> Result<(), MachineFault> {
        self.registered.cell.checkpoint(urgency).await.map(|_| ())
    }

    /// Takes a snapshot and purges the log behind it, to free the log space that an idle group holds.
    pub async fn release_log(&self) -> Result<(), ProposeError> {
        self.take_snapshot().await?;
        let metrics = self.registered.raft.metrics();
        let snapshot = metrics.borrow_watched().snapshot.map(|id| id.index());
        match snapshot {
            Some(index) => self.purge_log(index).await,
            None => Ok(()),
        }
    }

    /// Asks for a snapshot that is not put off.
    async fn take_snapshot(&self) -> Result<(), ProposeError> {
        self.registered.put_off.ask();
        let asked = self.registered.raft.trigger().snapshot().await;
        asked.map_err(|e| ProposeError::Stopped(e.to_string()))
    }

    async fn purge_log(&self, index: u64) -> Result<(), ProposeError> {
        let asked = self.registered.raft.trigger().purge_log(index).await;
        asked.map_err(|e| ProposeError::Stopped(e.to_string()))
    }

    /// Makes sure that a replica that begins with nothing is sent a snapshot of at least the present state, from here:
    /// the log up to it is purged. Waits until it is.
    pub async fn leave_log_behind(&self) -> Result<(), ProposeError> {
        let applied = self.registered.cell.position().0.map_or(0, |id| id.index());
        let metrics = self.registered.raft.metrics();
        loop {
            let (snapshot, purged) = {
                let seen = metrics.borrow_watched();
                let index = |id: &LogId| id.index();
                (seen.snapshot.as_ref().map(index), seen.purged.as_ref().map(index))
            };
            match (snapshot, purged) {
                (_, Some(purged)) if purged >= applied => return Ok(()),
                (Some(snapshot), _) if snapshot >= applied => self.purge_log(snapshot).await?,
                _ => self.take_snapshot().await?,
            }
            // Not for a change of the metrics: asking makes one, and what a follower still needs is not purged yet.
            tokio::time::sleep(ASK_AGAIN).await;
        }
    }

    /// Bytes applied since the last checkpoint.
    pub fn dirty_bytes(&self) -> u64 {
        self.registered.cell.machine().dirty_bytes()
    }

    /// Stops the replica, to the end even if whoever waits for it goes away: those that ask a core which has stopped wait for
    /// the first of them, and openraft panics where that was dropped.
    pub(crate) async fn stop(&self) {
        let registered = self.registered.clone();
        let stopping = self.host.env().spawn(async move {
            let stopped = registered.raft.shutdown().await;
            registered.cell.close().await;
            stopped
        });
        if let Err(e) = stopping.await.and_then(std::convert::identity) {
            tracing::warn!(group = %self.id, error = %e, "a replica did not stop cleanly");
        }
    }

    pub(crate) fn registered(&self) -> &Arc<Registered> {
        &self.registered
    }

    pub(crate) fn raft_host(&self) -> &RaftHost {
        &self.host
    }

    pub(crate) fn env(&self) -> &Env {
        self.host.env()
    }

    pub(crate) fn scoped<F: Future>(&self, call: F) -> impl Future<Output = F::Output> + use<F> {
        self.env().context.scope(call)
    }
}

fn hosts_of(membership: &Membership) -> BTreeMap<ReplicaId, HostId> {
    membership
        .nodes()
        .map(|(id, member)| (ReplicaId(*id), HostId(member.host)))
        .collect()
}

impl std::fmt::Debug for Group {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Group")
            .field("id", &self.id)
            .field("replica", &self.replica())
            .finish_non_exhaustive()
    }
}
