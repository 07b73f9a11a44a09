//! What a controller sees of one shard, at one moment.
//!
//! Everything here is about *committed* state: a configuration that may still be replaced shows nothing. What is not
//! known is absent, never guessed.

use std::collections::{BTreeMap, BTreeSet};

use crate::ids::{HostId, MigrationId, ReplicaId, ShardId};
use crate::migration::{LagSample, Migration, Placed};
use crate::model::{ObservedHome, Shard};
use crate::recovery::LogEnd;

/// One look at a shard.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Observation {
    /// The shard.
    pub shard: ShardId,
    /// When it was looked at, mechanism time.
    pub sampled_ms: u64,
    /// What its leader says; `None` if none answered.
    pub leader: Option<LeaderView>,
    /// What the leader of the shard that is absorbed says; `None` but for a merge.
    pub other_leader: Option<LeaderView>,
    /// What the hosts of its replicas (and of replicas to be destroyed) say; a host that did not answer is absent.
    pub hosts: BTreeMap<HostId, HostView>,
}

/// What the leader of a shard says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LeaderView {
    /// The leading replica.
    pub replica: ReplicaId,
    /// Its host.
    pub host: HostId,
    /// Its Raft term.
    pub raft_term: u64,
    /// The committed membership.
    pub membership: Membership,
    /// The version of the shard's range, as applied there.
    pub generation: u64,
    /// How far each follower and learner is; one that the leader knows nothing of is absent.
    pub progress: BTreeMap<ReplicaId, ReplicaProgress>,
}

/// A committed membership entry of a shard's log.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Membership {
    /// Index of the entry in the shard's log.
    pub log_index: u64,
    /// The voters: one set when uniform, two while joint.
    pub voters: Vec<BTreeSet<ReplicaId>>,
    /// The learners.
    pub learners: BTreeSet<ReplicaId>,
    /// The `conf_ver` carried by the last switch.
    pub conf_ver: u64,
    /// The migration named by the last switch.
    pub migration: Option<MigrationId>,
}

/// How far a replica is behind its leader.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ReplicaProgress {
    /// The latest samples, oldest first; the observer keeps enough of them to span the gap that catch-up needs.
    pub samples: Vec<LagSample>,
    /// Whether a snapshot is on its way to it; `None` if that is not known.
    pub snapshot_in_flight: Option<bool>,
    /// When its acknowledged index last rose.
    pub advanced_ms: u64,
}

/// What a host says of the shard's replicas on it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct HostView {
    /// Replicas that exist there.
    pub replicas: BTreeSet<ReplicaId>,
    /// The version of the range, as each replica that runs there has applied it.
    pub generations: BTreeMap<ReplicaId, u64>,
    /// Replicas that are durably marked as destroyed, and whose files are gone.
    pub tombstones: BTreeSet<ReplicaId>,
    /// Replicas that a recovery has durably taken out of their group; they exist.
    pub fenced: BTreeMap<ReplicaId, Fenced>,
}

/// A replica that never votes again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fenced {
    /// The recovery it was fenced for.
    pub migration: MigrationId,
    /// Its last entry.
    pub end: LogEnd,
}

impl Membership {
    /// Whether one configuration is in force.
    pub fn is_uniform(&self) -> bool {
        self.voters.len() == 1
    }

    /// Whether `replica` is a voter or a learner of any configuration in force.
    pub fn has(&self, replica: ReplicaId) -> bool {
        self.learners.contains(&replica) || self.votes(replica)
    }

    /// Whether `replica` votes in any configuration in force.
    pub fn votes(&self, replica: ReplicaId) -> bool {
        self.voters.iter().any(|voters| voters.contains(&replica))
    }

    /// Whether the switch of `migration` to `conf_ver` is committed as the one configuration in force.
    pub fn is_switched(&self, migration: MigrationId, conf_ver: u64) -> bool {
        self.is_uniform() && self.conf_ver == conf_ver && self.migration == Some(migration)
    }

    /// Every member.
    pub fn members(&self) -> BTreeSet<ReplicaId> {
        self.voters
            .iter()
            .flatten()
            .chain(&self.learners)
            .copied()
            .collect()
    }
}

impl Observation {
    /// The membership that orders drawn from this observation are meant for: the index of its entry in the shard's
    /// log. `None` while no leader is known.
    pub fn membership_index(&self) -> Option<u64> {
        self.leader.as_ref().map(|leader| leader.membership.log_index)
    }

    /// Adds what is seen of the other shard of a split or a merge. Replicas' ids are unique.
    pub fn add_other(&mut self, other: Observation) {
        self.other_leader = other.leader;
        for (host, view) in other.hosts {
            let known = self.hosts.entry(host).or_default();
            known.replicas.extend(view.replicas);
            known.tombstones.extend(view.tombstones);
        }
    }

    /// The leader's view, unless it is behind what the log already knows: an old leader that was cut off still
    /// believes what it last saw.
    pub(super) fn current_leader(&self, shard: &Shard) -> Option<&LeaderView> {
        current(self.leader.as_ref(), shard)
    }

    /// The same, of the shard that is absorbed.
    pub(super) fn other_current_leader(&self, other: &Shard) -> Option<&LeaderView> {
        current(self.other_leader.as_ref(), other)
    }

    /// Whether `placed` is known to be destroyed for good.
    pub(super) fn is_destroyed(&self, placed: Placed) -> bool {
        self.hosts
            .get(&placed.host)
            .is_some_and(|host| host.tombstones.contains(&placed.replica))
    }

    /// Whether a replica has applied a range of this version or a later one.
    pub(super) fn has_come_to(&self, placed: Placed, generation: u64) -> bool {
        let host = self.hosts.get(&placed.host);
        let applied = host.and_then(|host| host.generations.get(&placed.replica));
        applied.is_some_and(|applied| *applied >= generation)
    }

    /// Whether `placed` exists on its host.
    pub(super) fn exists(&self, placed: Placed) -> bool {
        self.hosts
            .get(&placed.host)
            .is_some_and(|host| host.replicas.contains(&placed.replica))
    }
}

/// A leader's view, unless it is behind what the log already knows of the shard.
fn current<'a>(leader: Option<&'a LeaderView>, shard: &Shard) -> Option<&'a LeaderView> {
    let known = shard.observed.map(ObservedHome::rank);
    leader
        .filter(|leader| Some((leader.raft_term, leader.replica)) >= known)
        // A part of a group that was recovered without it may still have a leader.
        .filter(|leader| shard.replicas.contains_key(&leader.replica))
        .filter(|leader| leader.membership.log_index >= shard.membership_index)
}

impl LeaderView {
    /// Whether the leader is the replica that goes.
    pub(super) fn is_source_of(&self, migration: &Migration) -> bool {
        migration.src.is_some_and(|src| src.replica == self.replica)
    }
}
