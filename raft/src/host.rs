//! All groups of one host.
//!
//! The registry knows which replica of which group is here, and which replicas were destroyed for good: a message
//! for one of those is refused with a tombstone, so a replica that missed its own removal learns of it.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, RwLock};
use std::time::Duration;

use openraft::Raft;
use openraft::async_runtime::watch::WatchReceiver;
use openraft::errors::Fatal;
use openraft_rt::Instant;
use placement::{HostId, ReplicaId, ShardId};
use storage::log::{LogGroup, LogHub};
use storage::seeded_bug;
use tokio::sync::{oneshot, watch};

use crate::config::{RaftOptions, RaftOptionsError};
use crate::confirm::Confirmations;
use crate::env::Env;
use crate::failover;
use crate::group::Group;
use crate::log_store::{LogStore, Told};
use crate::machine::Machine;
use crate::pacing::SnapshotRates;
use crate::peer::{Link, NetworkFactory, Peers};
use crate::put_off::PutOff;
use crate::runtime::HostInstant;
use crate::state_machine::{Cell, FlushGate, StateMachine};
use crate::transfers::{SnapshotCounts, Transfers};
use crate::types::TypeConfig;

pub(crate) type GodwitRaft = Raft<TypeConfig, StateMachine>;

/// How long an append may stay unanswered before its stream is started afresh.
const APPEND_REPLY_TIMEOUT: Duration = Duration::from_secs(2);

/// Who this host is; peers refuse a host of another cluster or under another id.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HostIdentity {
    /// The cluster's unique id.
    pub cluster_id: String,
    /// This host.
    pub host: u64,
}

/// A group to be run on this host.
pub struct StartGroup {
    /// The shard; `ShardId(0)` for the placement group.
    pub group: ShardId,
    /// This host's replica of it.
    pub replica: ReplicaId,
    /// Its state.
    pub machine: Arc<dyn Machine>,
}

/// Why a group cannot be run.
#[derive(Debug, thiserror::Error)]
pub enum OpenGroupError {
    /// Another replica of the group is here already, or this one is.
    #[error("group {group} already has replica {present} on this host")]
    AlreadyOpen {
        /// The group.
        group: u64,
        /// The replica that is here.
        present: u64,
    },
    /// This replica was destroyed on this host.
    #[error("replica {0} was destroyed on this host")]
    Destroyed(u64),
    /// The options make no sense.
    #[error(transparent)]
    Options(#[from] RaftOptionsError),
    /// The log or the state cannot be used.
    #[error("cannot start replica {replica} of group {group}: {reason}")]
    Storage {
        /// The group.
        group: u64,
        /// The replica.
        replica: u64,
        /// Why.
        reason: String,
    },
}

/// Why a replica could not be destroyed.
#[derive(Debug, thiserror::Error)]
#[error("cannot delete the log of replica {replica}: {reason}")]
pub struct DestroyError {
    replica: u64,
    reason: String,
}

/// A replica that runs here.
pub(crate) struct Registered {
    pub(crate) replica: u64,
    pub(crate) raft: GodwitRaft,
    pub(crate) cell: Arc<Cell>,
    pub(crate) put_off: Arc<PutOff>,
    /// What its log was told last.
    pub(crate) told: Arc<Told>,
    heard: Mutex<Option<HostInstant>>,
    /// Until then this replica neither votes nor campaigns.
    votes_from: Option<HostInstant>,
}

impl Registered {
    /// Notes that the leader spoke just now.
    pub(crate) fn heard(&self) {
        *self.heard.lock().expect("no panic under this lock") = Some(HostInstant::now());
    }

    /// Whether this replica may vote. One that was restarted has forgotten when it last heard from a leader, and that
    /// leader may serve lease reads for a while on the strength of its answer.
    pub(crate) fn may_vote(&self) -> bool {
        self.votes_from.is_none_or(|from| HostInstant::now() >= from)
    }

    pub(crate) fn last_heard(&self) -> Option<HostInstant> {
        *self.heard.lock().expect("no panic under this lock")
    }
}

/// What the registry says about a replica.
pub(crate) enum Lookup {
    Here(Arc<Registered>),
    Unknown,
    Destroyed,
}

struct Shared {
    identity: HostIdentity,
    options: RaftOptions,
    env: Env,
    log: LogHub,
    peers: Peers,
    transfers: Transfers,
    confirmations: Arc<Confirmations>,
    groups: RwLock<BTreeMap<u64, Group>>,
    destroyed: RwLock<BTreeSet<u64>>,
    leaderships: Arc<watch::Sender<u64>>,
}

/// Runs the groups of one host. A cheap handle.
#[derive(Clone)]
pub struct RaftHost {
    shared: Arc<Shared>,
}

impl RaftHost {
    /// A host without groups.
    pub fn new(identity: HostIdentity, options: RaftOptions, env: Env, log: LogHub) -> Self {
        let transfers = Transfers::new(options.snapshots, env.context.clone());
        let peers = Peers::new(identity.clone(), env.clone());
        let shared = Shared {
            confirmations: Confirmations::new(peers.clone(), options.election_min),
            peers,
            identity,
            options,
            env,
            log,
            transfers,
            groups: RwLock::default(),
            destroyed: RwLock::default(),
            leaderships: Arc::default(),
        };
        Self {
            shared: Arc::new(shared),
        }
    }

    /// Who this host is.
    pub fn identity(&self) -> &HostIdentity {
        &self.shared.identity
    }

    /// What this host was handed by its composition root.
    pub fn env(&self) -> &Env {
        &self.shared.env
    }

    /// Tells where a peer can be reached.
    pub fn set_address(&self, host: HostId, address: String) {
        self.shared.peers.set_address(host.0, address);
    }

    /// Forgets a peer that is no member of the cluster any more, and ends the stream to it.
    pub fn forget_address(&self, host: HostId) {
        self.shared.peers.forget_address(host.0);
    }

    /// Starts a replica. Its group must have been initialised by one of its first members, or add it later.
    pub async fn open_group(&self, start: StartGroup) -> Result<Group, OpenGroupError> {
        let (group, replica) = (start.group.0, start.replica.0);
        self.check_absent(group, replica)?;
        let failed = |reason: String| OpenGroupError::Storage {
            group,
            replica,
            reason,
        };
        let log =
            LogStore::new(self.shared.log.group(LogGroup(replica))).map_err(|e| failed(e.to_string()))?;
        let told = log.told();
        let gate = FlushGate::Closed(log.flushed());
        let voted_before = log.has_voted();
        let cell =
            Cell::open(start.machine, gate, self.shared.env.clone()).map_err(|e| failed(e.to_string()))?;
        #[cfg(feature = "seeded-bugs")]
        let log = log.applying_to(cell.clone());
        let config = self.shared.options.to_openraft(group)?;
        let network = NetworkFactory {
            peers: self.shared.peers.clone(),
            group,
            replica,
            cell: cell.clone(),
            reply_timeout: APPEND_REPLY_TIMEOUT,
            transfers: self.shared.transfers.clone(),
            log: self.shared.log.clone(),
            keep_entries: self.shared.options.keep_entries,
        };
        let put_off = PutOff::new(group, self.shared.transfers.clone(), self.shared.log.clone());
        let put_off = Arc::new(put_off);
        let machine = StateMachine {
            cell: cell.clone(),
            put_off: Some(put_off.clone()),
        };
        let opening = Raft::new(replica, config, network, log, machine);
        let raft = self
            .shared
            .env
            .context
            .scope(opening)
            .await
            .map_err(|e| failed(e.to_string()))?;
        self.follow_leadership(&raft);
        let votes_from = match voted_before {
            true => self.first_vote(&raft).await.map_err(|e| failed(e.to_string()))?,
            false => None,
        };
        let registered = Arc::new(Registered {
            replica,
            raft,
            cell,
            put_off,
            told,
            heard: Mutex::default(),
            votes_from,
        });
        let handle = Group::new(start.group, self.clone(), registered);
        self.write_groups().insert(group, handle.clone());
        Ok(handle)
    }

    /// Rises whenever some group has another leader, another term or other members, as far as its replica here knows.
    pub fn leaderships(&self) -> watch::Receiver<u64> {
        self.shared.leaderships.subscribe()
    }

    /// Tells of a replica's changes for as long as it runs.
    fn follow_leadership(&self, raft: &GodwitRaft) {
        let mut changes = raft.server_metrics();
        let leaderships = self.shared.leaderships.clone();
        drop(self.shared.env.spawn(async move {
            while changes.changed().await.is_ok() {
                leaderships.send_modify(|count| *count += 1);
            }
        }));
    }

    /// When a replica may vote that was opened again just now; `None`: at once. Until then it does not campaign.
    async fn first_vote(&self, raft: &GodwitRaft) -> Result<Option<HostInstant>, Fatal<TypeConfig>> {
        // Asked of the state itself: metrics are published a moment after the start.
        let counting = raft.with_raft_state(|state| state.membership_state.effective().voter_ids().count());
        let voters = self.shared.env.context.scope(counting).await?;
        // A group of one has no other leader whose lease could be broken.
        if voters <= 1 {
            return Ok(None);
        }
        let wait = self.shared.options.election_max;
        raft.runtime_config().elect(false);
        let raft = raft.clone();
        drop(self.shared.env.spawn(async move {
            tokio::time::sleep(wait).await;
            raft.runtime_config().elect(true);
        }));
        Ok(Some(HostInstant::now() + wait))
    }

    fn check_absent(&self, group: u64, replica: u64) -> Result<(), OpenGroupError> {
        if self.is_destroyed(replica) {
            return Err(OpenGroupError::Destroyed(replica));
        }
        match self.group(ShardId(group)) {
            Some(open) => Err(OpenGroupError::AlreadyOpen {
                group,
                present: open.replica().0,
            }),
            None => Ok(()),
        }
    }

    /// The group's replica on this host.
    pub fn group(&self, group: ShardId) -> Option<Group> {
        self.shared
            .groups
            .read()
            .expect("no panic under this lock")
            .get(&group.0)
            .cloned()
    }

    /// Every group with a replica on this host.
    pub fn groups(&self) -> Vec<Group> {
        self.shared
            .groups
            .read()
            .expect("no panic under this lock")
            .values()
            .cloned()
            .collect()
    }

    /// Remembers that a replica was destroyed here: it is never started again, and its peers are told.
    /// The caller makes that durable first.
    pub fn bury(&self, replica: ReplicaId) {
        self.shared
            .destroyed
            .write()
            .expect("no panic under this lock")
            .insert(replica.0);
    }

    /// Stops a replica, whether or not it will be started again.
    pub async fn close_group(&self, group: ShardId) {
        let removed = self.write_groups().remove(&group.0);
        if let Some(open) = removed {
            open.stop().await;
        }
    }

    /// Stops a replica and deletes its log. Its state is deleted by the caller, who also made its tombstone durable.
    pub async fn destroy_replica(&self, group: ShardId, replica: ReplicaId) -> Result<(), DestroyError> {
        self.bury(replica);
        if self.group(group).is_some_and(|open| open.replica() == replica) {
            self.close_group(group).await;
        }
        let (done, result) = oneshot::channel();
        self.shared
            .log
            .group(LogGroup(replica.0))
            .destroy(Box::new(move |outcome| drop(done.send(outcome))));
        let failed = |reason: String| DestroyError {
            replica: replica.0,
            reason,
        };
        match result.await {
            Ok(outcome) => outcome.map_err(|e| failed(e.to_string())),
            Err(_) => Err(failed("the log's writer stopped".into())),
        }
    }

    /// Stops every replica and every link.
    pub async fn shutdown(&self) {
        let groups = std::mem::take(&mut *self.write_groups());
        for group in groups.into_values() {
            group.stop().await;
        }
        self.shared.peers.close();
    }

    pub(crate) fn log_of(&self, group: LogGroup) -> storage::log::GroupLog {
        self.shared.log.group(group)
    }

    /// The stream to another host.
    pub(crate) fn link(&self, host: HostId) -> Link {
        self.shared.peers.link(host.0)
    }

    /// What the snapshots of this host have come to.
    pub fn snapshot_counts(&self) -> SnapshotCounts {
        self.shared.transfers.counts()
    }

    /// Changes the rates of the snapshots that leave this host, and says which replicas are to replace lost ones: theirs are
    /// not held to the rate of moves.
    pub fn pace_snapshots(&self, rates: SnapshotRates, repairs: impl IntoIterator<Item = ReplicaId>) {
        let repairs = repairs.into_iter().map(|replica| replica.0).collect();
        self.shared.transfers.set_pace(rates, repairs);
    }

    pub(crate) fn transfers(&self) -> &Transfers {
        &self.shared.transfers
    }

    pub(crate) fn confirmations(&self) -> &Arc<Confirmations> {
        &self.shared.confirmations
    }

    pub(crate) fn options(&self) -> &RaftOptions {
        &self.shared.options
    }

    pub(crate) fn lookup(&self, group: u64, replica: u64) -> Lookup {
        match self.group(ShardId(group)) {
            Some(open) if open.replica().0 == replica => Lookup::Here(open.registered().clone()),
            // Seeded bug B24: what was sent to another replica of the group is taken by the one that is here.
            Some(open) if seeded_bug::is_on("B24") => Lookup::Here(open.registered().clone()),
            _ if self.is_destroyed(replica) => Lookup::Destroyed,
            _ => Lookup::Unknown,
        }
    }

    /// Called when a peer's stream ended: groups that it leads may need another leader.
    pub(crate) fn peer_lost(&self, host: u64) {
        failover::peer_lost(self, host);
    }

    fn is_destroyed(&self, replica: u64) -> bool {
        self.shared
            .destroyed
            .read()
            .expect("no panic under this lock")
            .contains(&replica)
    }

    fn write_groups(&self) -> std::sync::RwLockWriteGuard<'_, BTreeMap<u64, Group>> {
        self.shared.groups.write().expect("no panic under this lock")
    }
}

impl std::fmt::Debug for RaftHost {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("RaftHost")
            .field("identity", &self.shared.identity)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt;
    use openraft::async_runtime::watch::WatchReceiver;
    use openraft::raft::{ReadPolicy, VoteRequest};

    use super::*;
    use crate::confirm::{self, Claim};
    use crate::conformance::{ShardMachine, Stores, test_env};
    use crate::proto;
    use crate::types::{LeaderId, LogId, Vote};

    const GROUP: ShardId = ShardId(1);

    async fn open(host: &RaftHost, machine: &Arc<ShardMachine>) -> Group {
        let start = StartGroup {
            group: GROUP,
            replica: ReplicaId(1),
            machine: machine.clone(),
        };
        host.open_group(start).await.expect("it opens")
    }

    fn identity() -> HostIdentity {
        HostIdentity {
            cluster_id: "c".into(),
            host: 1,
        }
    }

    /// After a power cut nobody would know that the group has members, and nobody would start it.
    #[tokio::test(flavor = "multi_thread")]
    async fn first_members_are_durable_before_they_are_acknowledged() {
        let (stores, writer) = Stores::idle();
        let host = RaftHost::new(identity(), RaftOptions::default(), test_env(), stores.hub());
        let group = open(&host, &stores.shard()).await;
        let making = tokio::spawn({
            let group = group.clone();
            async move {
                group
                    .initialize(&BTreeMap::from([(ReplicaId(1), HostId(1))]))
                    .await
            }
        });
        tokio::time::sleep(Duration::from_millis(300)).await;
        assert!(!making.is_finished(), "nothing is on the disk");
        std::thread::spawn(move || writer.run());
        making.await.expect("no panic").expect("a new group");
        host.shutdown().await;
    }

    /// Opens a replica of a group of these members, has it vote for replica 2, and opens it again.
    async fn restarted(members: u64) -> (Stores, RaftHost, Group) {
        let stores = Stores::new();
        let options = RaftOptions {
            election_min: Duration::from_millis(1500),
            election_max: Duration::from_millis(2000),
            ..RaftOptions::default()
        };
        let host = RaftHost::new(identity(), options, test_env(), stores.hub());
        let group = open(&host, &stores.shard()).await;
        assert!(
            group.registered().may_vote(),
            "a new replica has nothing to wait for"
        );
        let members = (1..=members).map(|id| (ReplicaId(id), HostId(id))).collect();
        group.initialize(&members).await.expect("a new group");
        let mut ballot = VoteRequest::new(
            Vote::new(9, 2),
            Some(LogId::new(LeaderId { term: 8, node_id: 2 }, 100)),
        );
        // As after a transfer: no lease stands in the way.
        ballot.leadership_transfer = true;
        let answer = group.registered().raft.vote(ballot).await.expect("an answer");
        assert!(answer.vote_granted, "{answer:?}");
        host.close_group(GROUP).await;
        // Nothing was checkpointed: a restart finds an empty state beside the log.
        let group = open(&host, &stores.shard()).await;
        (stores, host, group)
    }

    /// The leader that it acknowledged before may serve lease reads on the strength of that.
    #[tokio::test(flavor = "multi_thread")]
    async fn a_restarted_replica_does_not_vote_at_once() {
        let (_stores, host, group) = restarted(3).await;
        assert!(!group.registered().may_vote());
        while !group.registered().may_vote() {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        host.shutdown().await;
    }

    /// What asks a core that has stopped waits for whoever was the first to, and panics if that has gone away.
    #[tokio::test(flavor = "multi_thread")]
    async fn a_replica_stops_although_nobody_waits_for_it() {
        let stores = Stores::new();
        let host = RaftHost::new(identity(), RaftOptions::default(), test_env(), stores.hub());
        let group = open(&host, &stores.shard()).await;
        assert!(
            host.close_group(GROUP).now_or_never().is_none(),
            "a core takes a while to stop"
        );
        let asked = group
            .registered()
            .raft
            .ensure_linearizable(ReadPolicy::ReadIndex)
            .await;
        assert!(asked.is_err(), "it has stopped");
        host.shutdown().await;
    }

    fn confirms(host: &RaftHost, group: u64, voter: u64, leader: (u64, u64)) -> bool {
        let claim = proto::Claim {
            group,
            voter,
            term: leader.0,
            leader: leader.1,
        };
        confirm::check(host, &proto::Claims { claims: vec![claim] }).confirmed == [true]
    }

    /// It may have been promised in another life.
    #[tokio::test(flavor = "multi_thread")]
    async fn a_voter_confirms_the_leader_of_its_highest_vote_and_no_other() {
        let (_stores, host, _group) = restarted(3).await;
        assert!(confirms(&host, 1, 1, (9, 2)));
        for leader in [(8, 2), (9, 1), (9, 3), (10, 2)] {
            assert!(!confirms(&host, 1, 1, leader), "{leader:?}");
        }
        assert!(!confirms(&host, 1, 2, (9, 2)), "another replica");
        assert!(!confirms(&host, 2, 1, (9, 2)), "another group");
        host.shutdown().await;
    }

    /// Openraft publishes a membership after it acts on it.
    #[tokio::test(flavor = "multi_thread")]
    async fn a_leader_claims_nothing_by_a_membership_that_may_be_outdated() {
        let stores = Stores::new();
        let host = RaftHost::new(identity(), RaftOptions::default(), test_env(), stores.hub());
        let group = open(&host, &stores.shard()).await;
        let claim = || Claim::of(GROUP.0, group.registered());
        assert!(claim().is_none(), "it does not lead");
        let members = BTreeMap::from([(ReplicaId(1), HostId(1))]);
        group.initialize(&members).await.expect("a new group");
        group.wait_for_leader(Duration::from_secs(10)).await;
        group.read_index().await.expect("it leads, and is alone");
        while claim().is_none() {
            // What is published lags a little.
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        let sound = claim().expect("as before");
        assert!(host.confirmations().confirm(sound).await, "it is its own quorum");
        group.registered().told.set_membership(u64::MAX);
        assert!(claim().is_none());
        group.read_index().await.expect("openraft is asked instead");
        host.shutdown().await;
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn a_leader_that_hears_from_no_quorum_is_not_confirmed() {
        let (_stores, host, group) = restarted(3).await;
        let membership = group
            .registered()
            .raft
            .metrics()
            .borrow_watched()
            .membership_config
            .clone();
        let claim = Claim::by(GROUP.0, LeaderId { term: 9, node_id: 1 }, membership);
        assert!(!host.confirmations().confirm(claim).await);
        host.shutdown().await;
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn a_restarted_replica_that_is_alone_in_its_group_does_not_wait() {
        let (_stores, host, group) = restarted(1).await;
        assert!(group.registered().may_vote());
        host.shutdown().await;
    }
}
