//! Linearizable reads: how a replica makes sure that its state may be served.
//!
//! The leader asks a quorum whether it still leads, or relies on the quorum's answer of a moment ago. Another replica
//! asks its leader, which asks the quorum, how far it has to have applied.

use std::time::Duration;

use openraft::async_runtime::watch::WatchReceiver;
use openraft::errors::{LinearizableReadError, RaftError};
use openraft::raft::ReadPolicy;
use openraft::raft::linearizable_read::LinearizerOption;
use placement::{HostId, ReplicaId};
use storage::seeded_bug;

use crate::confirm::Claim;
use crate::group::Group;
use crate::host::{RaftHost, Registered};
use crate::proto;
use crate::proto::message::Body;

/// The part of the longest election timeout that a lease read relies on; the rest is for clocks that run apart.
const LEASE_SHARE: f64 = 0.8;

/// How long the leader may take to say how far a read has to see, and this replica to come that far.
const FOLLOWER_READ_TIMEOUT: Duration = Duration::from_secs(2);

/// Why a read cannot be served here now.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    /// Another replica leads.
    #[error("not the leader (it is {leader:?})")]
    NotLeader {
        /// The leader's replica and host, as far as they are known.
        leader: Option<(ReplicaId, HostId)>,
    },
    /// A quorum did not confirm leadership in time.
    #[error("no quorum: {0}")]
    NoQuorum(String),
    /// The replica has stopped.
    #[error("the replica has stopped: {0}")]
    Stopped(String),
}

impl Group {
    /// Waits until this replica may serve a linearizable read: it led at some moment after the call, and has applied
    /// all that was committed before. One call serves every read that was received before it.
    pub async fn read_index(&self) -> Result<(), ReadError> {
        // Seeded bug B1: a replica that believes it leads serves reads without asking anyone.
        if seeded_bug::is_on("B1") && self.is_leader() {
            return Ok(());
        }
        match index_by_voters(self.raft_host(), self.id().0, self.registered()).await {
            Some(_) => Ok(()),
            None => self.confirm(ReadPolicy::ReadIndex.into()).await,
        }
    }

    /// The same on the strength of the leader's lease: a quorum's answer at most `LEASE_SHARE` of the longest election
    /// timeout old, during which no voter grants a vote, restarted ones included. Linearizable as long as no two hosts'
    /// clocks run at rates more than 10 % apart. Falls back to asking the quorum.
    pub async fn read_lease(&self) -> Result<(), ReadError> {
        if seeded_bug::is_on("B3") && self.trusts_an_old_lease().await {
            return Ok(());
        }
        let age = self.raft_host().options().election_max.mul_f64(LEASE_SHARE);
        self.confirm(LinearizerOption::new(Some(age), true)).await
    }

    /// Seeded bug B3: the lease outlives the election timeout by far, so that another leader may stand beside it.
    async fn trusts_an_old_lease(&self) -> bool {
        let age = self.raft_host().options().election_max * 8;
        let raft = &self.registered().raft;
        let fresh = async {
            let metrics = raft.metrics();
            let acked = metrics.borrow_watched().last_quorum_acked;
            acked.is_some_and(|at| openraft_rt::Instant::elapsed(&*at) < age)
        };
        self.is_leader() && self.scoped(fresh).await
    }

    async fn confirm(&self, how: LinearizerOption) -> Result<(), ReadError> {
        let raft = &self.registered().raft;
        let confirmed = match seeded_bug::is_on("B12") {
            // Seeded bug B12: a leader serves before it has applied what was committed before it led.
            true => self.scoped(raft.get_read_log_id(how)).await.map(|_| ()),
            false => self.scoped(raft.ensure_linearizable(how)).await.map(|_| ()),
        };
        match confirmed {
            Ok(()) => Ok(()),
            Err(RaftError::APIError(LinearizableReadError::ForwardToLeader(to))) => {
                Err(ReadError::NotLeader {
                    leader: self.other_leader(&to),
                })
            }
            Err(RaftError::APIError(LinearizableReadError::QuorumNotEnough(e))) => {
                Err(ReadError::NoQuorum(e.to_string()))
            }
            Err(RaftError::Fatal(e)) => Err(ReadError::Stopped(e.to_string())),
        }
    }

    /// Waits until this replica, whether or not it leads, may serve a linearizable read: the leader has confirmed after
    /// the call that it leads, and this replica has applied what was committed there by then. Assumes nothing of
    /// clocks. One call serves every read that was received before it.
    pub async fn read_index_here(&self) -> Result<(), ReadError> {
        if self.is_leader() {
            return self.read_index().await;
        }
        let Some((leader, host)) = self.leader_with_host() else {
            return Err(ReadError::NotLeader { leader: None });
        };
        let question = proto::Message {
            group: self.id().0,
            from_replica: self.replica().0,
            to_replica: leader.0,
            body: Some(Body::ReadIndex(proto::ReadIndex {})),
            ..Default::default()
        };
        let link = self.raft_host().link(host);
        let answer = link.call(question, FOLLOWER_READ_TIMEOUT).await;
        let index = match answer {
            Ok(Body::ReadIndexReply(proto::ReadIndexReply { index: Some(index) })) => index,
            // Whoever asks goes to the leader itself, and learns there what is wrong.
            Ok(_) => {
                return Err(ReadError::NotLeader {
                    leader: Some((leader, host)),
                });
            }
            Err(e) => return Err(ReadError::NoQuorum(e.to_string())),
        };
        // Seeded bug B2: a follower does not wait until it has applied what the read has to see.
        if seeded_bug::is_on("B2") {
            return Ok(());
        }
        let wait = self.registered().raft.wait(Some(FOLLOWER_READ_TIMEOUT));
        let caught_up = wait.applied_index_at_least(Some(index), "what a read has to see");
        match self.scoped(caught_up).await {
            Ok(_) => Ok(()),
            Err(e) => Err(ReadError::NoQuorum(e.to_string())),
        }
    }
}

/// How far a read has to see that begins now, if this replica leads and a quorum of voters says so; it has applied as
/// much.
async fn index_by_voters(host: &RaftHost, group: u64, replica: &Registered) -> Option<u64> {
    let claim = Claim::of(group, replica)?;
    let applied = claim.applied;
    host.confirmations().confirm(claim).await.then_some(applied)
}

/// Answers another replica's question how far a read has to see: after a quorum has confirmed that this one leads.
pub(crate) async fn answer_read_index(
    host: &RaftHost,
    group: u64,
    replica: &Registered,
) -> proto::ReadIndexReply {
    if let index @ Some(_) = index_by_voters(host, group, replica).await {
        return proto::ReadIndexReply { index };
    }
    let confirmed = replica.raft.get_read_log_id(ReadPolicy::ReadIndex).await;
    proto::ReadIndexReply {
        index: confirmed.ok().map(|(read, _)| read.index()),
    }
}
