//! The nouns of the placement state: hosts, shards, replicas, epochs, affinities.
//!
//! These are plain records. What must hold between them (I1 to I8) is kept by `Placement`, which alone
//! changes them; everyone else reads. All maps are ordered, all numbers are integers: two replicas that applied the
//! same log hold byte-identical state.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::ids::{HostId, MigrationId, Region, ReplicaId, ShardId, WindowId, Zone};

/// Scores of one shard sum to this: parts per million.
pub const AFFINITY_TOTAL_PPM: u32 = 1_000_000;

/// Changes kept per shard; older ones are dropped, their number stays known.
pub const SHARD_CHANGES_MAX: usize = 32;

/// A contiguous range of keys: `start <= key < end`; no end means "to the last key".
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct KeyRange {
    /// The first key, included.
    #[serde(with = "hex")]
    pub start: Vec<u8>,
    /// The end, excluded; `None` is above every key.
    #[serde(with = "hex_option")]
    pub end: Option<Vec<u8>>,
}

impl KeyRange {
    /// All keys.
    pub fn full() -> Self {
        Self {
            start: Vec::new(),
            end: None,
        }
    }

    /// No key at all: the range of the placement group.
    pub fn empty() -> Self {
        Self {
            start: Vec::new(),
            end: Some(Vec::new()),
        }
    }

    /// Whether `key` lies in the range.
    pub fn contains(&self, key: &[u8]) -> bool {
        self.start.as_slice() <= key && self.end.as_ref().is_none_or(|end| key < end.as_slice())
    }

    /// Whether the range holds no key.
    pub fn is_empty(&self) -> bool {
        self.end.as_ref().is_some_and(|end| *end <= self.start)
    }
}

/// The version of a shard's descriptor. Routes carry it: a wrong `gen` is refused, a stale `conf_ver` only refreshes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Epoch {
    /// Version of the key range.
    #[serde(rename = "gen")]
    pub generation: u64,
    /// Version of the voter set; only grows, and is never ahead of the shard's own (I7).
    pub conf_ver: u64,
}

/// Whether a host answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum HostState {
    /// Answers.
    Up,
    /// Does not answer at present; expected back with its data.
    Down,
    /// Declared dead: its replicas are rebuilt elsewhere, its tombstones are delivered should it return.
    Dead,
    /// Decommissioned: taken out of the cluster for good; holds nothing and may not rejoin.
    Removed,
}

/// What a host takes on, as its operator wishes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Admission {
    /// Takes new replicas and homes.
    Open,
    /// Takes nothing new, keeps what it has.
    Cordoned,
    /// Takes nothing new and gives away what it has.
    Draining,
    /// Gives away what it has, and leaves the cluster for good once it holds nothing.
    Decommissioning,
}

impl Admission {
    /// Whether the host gives away what it has.
    pub fn leaves(self) -> bool {
        matches!(self, Admission::Draining | Admission::Decommissioning)
    }
}

/// A process with an id, an address and locality labels.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Host {
    /// Its id.
    pub id: HostId,
    /// Where its peers and clients reach it (`address:port`).
    pub address: String,
    /// Its fault domain.
    pub zone: Zone,
    /// The group of zones it lies in.
    pub region: Region,
    /// Bytes it offers to shards.
    pub capacity_bytes: u64,
    /// Drawn once by the host and kept in its data folder: a repeated join is told from a wiped disk by it.
    pub token: String,
    /// Whether it answers.
    pub state: HostState,
    /// What it takes on.
    pub admission: Admission,
    /// Log index of the last change.
    pub changed_index: u64,
    /// Mechanism time of the last change of `state`.
    pub changed_ms: u64,
}

impl Host {
    /// Whether new replicas and homes may be placed here.
    pub fn accepts(&self) -> bool {
        self.state == HostState::Up && self.admission == Admission::Open
    }

    /// Whether it counts no more: its replicas are taken as lost.
    pub fn is_lost(&self) -> bool {
        matches!(self.state, HostState::Dead | HostState::Removed)
    }

    /// Whether it is a member that is not about to leave, be it up or down.
    pub fn stays(&self) -> bool {
        !self.is_lost() && !self.admission.leaves()
    }
}

/// What a replica counts for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Role {
    /// Votes.
    Voter,
    /// Receives the log without a vote.
    Learner,
}

/// A shard's copy on a host.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Replica {
    /// Where it lies.
    pub host: HostId,
    /// Whether it votes.
    pub role: Role,
}

/// The leader that the placement group was last told of: a routing hint, fenced by the shard's Raft term and, within a
/// term, by the replica: openraft lets the replica with the greater id win a term that another leads.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ObservedHome {
    /// The leading replica.
    pub replica: ReplicaId,
    /// The Raft term it leads.
    pub raft_term: u64,
}

impl ObservedHome {
    /// Of two leaders, the one with the greater rank was elected later.
    pub fn rank(self) -> (u64, ReplicaId) {
        (self.raft_term, self.replica)
    }
}

/// A contiguous key range with its Raft group.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Shard {
    /// Its id; [`ShardId::PLACEMENT`] is the placement group.
    pub id: ShardId,
    /// Its keys.
    pub range: KeyRange,
    /// Version of the range and of the voters.
    pub epoch: Epoch,
    /// Its copies, as the placement log knows them.
    pub replicas: BTreeMap<ReplicaId, Replica>,
    /// The replica meant to lead: set at creation and by home moves.
    pub home: Option<ReplicaId>,
    /// The replica that leads as far as known.
    pub observed: Option<ObservedHome>,
    /// Whether its Raft group is known to be initialised.
    pub ready: bool,
    /// The map version of the last change of its route.
    pub route_version: u64,
    /// Its one active migration (I1).
    pub active: Option<MigrationId>,
    /// Index in the shard's own log of the last membership entry seen in evidence.
    pub membership_index: u64,
    /// Catch-ups in a row that ran into their deadline. Each doubles the next one's, so that a shard of any size can
    /// be moved in the end.
    pub slow_catch_ups: u32,
    /// The window of the last replica move, for dwell.
    pub moved_window: Option<WindowId>,
    /// The window of the last home move, for dwell.
    pub home_window: Option<WindowId>,
    /// The last [`SHARD_CHANGES_MAX`] changes, oldest first.
    pub changes: Vec<ShardChange>,
    /// Changes ever made.
    pub changes_total: u64,
    /// The range that its log began with, where it has another by now.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub first: Option<FirstRange>,
}

/// The range that a shard's log began with: a replica that is sent the log from its beginning must begin with it, too, or
/// it would refuse what was written outside the present range.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FirstRange {
    /// The keys.
    pub range: KeyRange,
    /// Their version.
    pub generation: u64,
}

impl Shard {
    /// The range with which a new, empty replica begins.
    pub fn first_range(&self) -> FirstRange {
        self.first.clone().unwrap_or_else(|| FirstRange {
            range: self.range.clone(),
            generation: self.epoch.generation,
        })
    }

    /// The voters, in order of id.
    pub fn voters(&self) -> impl Iterator<Item = (ReplicaId, HostId)> + '_ {
        self.replicas
            .iter()
            .filter(|(_, r)| r.role == Role::Voter)
            .map(|(id, r)| (*id, r.host))
    }

    /// The first voters that can begin the group, the intended home first: all but those on lost hosts. None
    /// if they are no majority of all: the others may have begun without them.
    pub fn founders(&self, is_lost: impl Fn(HostId) -> bool) -> Option<Vec<(ReplicaId, HostId)>> {
        let mut founders: Vec<_> = self.voters().filter(|(_, host)| !is_lost(*host)).collect();
        founders.sort_by_key(|(replica, _)| Some(*replica) != self.home);
        (founders.len() * 2 > self.voter_count()).then_some(founders)
    }

    /// How many voters it has.
    pub fn voter_count(&self) -> usize {
        self.voters().count()
    }

    /// Whether `replica` votes.
    pub fn is_voter(&self, replica: ReplicaId) -> bool {
        self.replicas.get(&replica).is_some_and(|r| r.role == Role::Voter)
    }

    /// The replica on `host`, whatever its role.
    pub fn replica_on(&self, host: HostId) -> Option<ReplicaId> {
        self.replicas
            .iter()
            .find(|(_, r)| r.host == host)
            .map(|(id, _)| *id)
    }

    /// Where requests should go: the observed leader, else the intended one.
    pub fn route_home(&self) -> Option<ReplicaId> {
        let observed = self
            .observed
            .map(|seen| seen.replica)
            .filter(|id| self.is_voter(*id));
        observed.or(self.home)
    }

    /// The host of [`Shard::route_home`].
    pub fn home_host(&self) -> Option<HostId> {
        self.route_home()
            .and_then(|id| self.replicas.get(&id))
            .map(|replica| replica.host)
    }
}

/// One change of a shard's descriptor.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ShardChange {
    /// Placement log index of the entry that made it.
    pub index: u64,
    /// Mechanism time stamped in that entry.
    pub at_ms: u64,
    /// The epoch after it.
    pub epoch: Epoch,
    /// What changed, in words.
    pub what: String,
}

/// Predicted share of a shard's next-window accesses by origin host, in ppm; sums to [`AFFINITY_TOTAL_PPM`].
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct HostAffinityScores(pub BTreeMap<HostId, u32>);

impl HostAffinityScores {
    /// Whether the scores are shares of one whole.
    pub fn is_whole(&self) -> bool {
        self.0.values().map(|ppm| u64::from(*ppm)).sum::<u64>() == u64::from(AFFINITY_TOTAL_PPM)
    }
}

/// A shard's scores with where they come from.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Affinity {
    /// The window they forecast.
    pub window: WindowId,
    /// The model's version.
    pub model: String,
    /// The scores.
    pub scores: HostAffinityScores,
}

pub(crate) mod hex {
    //! Keys as lower-case hex: readable in a dump, and a third of the size of a list of numbers.
    use serde::{Deserialize, Deserializer, Serializer, de::Error};

    pub(super) fn encode(bytes: &[u8]) -> String {
        bytes.iter().map(|byte| format!("{byte:02x}")).collect()
    }

    pub(super) fn decode(text: &str) -> Option<Vec<u8>> {
        let digits = text
            .chars()
            .map(|c| c.to_digit(16))
            .collect::<Option<Vec<u32>>>()?;
        let pairs = digits.chunks(2).map(|pair| match pair {
            [high, low] => u8::try_from(high * 16 + low).ok(),
            _ => None,
        });
        pairs.collect()
    }

    pub(crate) fn serialize<S: Serializer>(bytes: &[u8], out: S) -> Result<S::Ok, S::Error> {
        out.serialize_str(&encode(bytes))
    }

    pub(crate) fn deserialize<'de, D: Deserializer<'de>>(input: D) -> Result<Vec<u8>, D::Error> {
        let text = String::deserialize(input)?;
        decode(&text).ok_or_else(|| D::Error::custom("a key must be an even number of hex digits"))
    }
}

mod hex_option {
    //! An optional key as hex.
    use serde::{Deserialize, Deserializer, Serialize, Serializer, de::Error};

    pub(super) fn serialize<S: Serializer>(bytes: &Option<Vec<u8>>, out: S) -> Result<S::Ok, S::Error> {
        bytes.as_deref().map(super::hex::encode).serialize(out)
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(input: D) -> Result<Option<Vec<u8>>, D::Error> {
        let text = Option::<String>::deserialize(input)?;
        let wrong = || D::Error::custom("a key must be an even number of hex digits");
        text.map(|text| super::hex::decode(&text).ok_or_else(wrong))
            .transpose()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_group_is_begun_by_a_majority_of_its_first_hosts() {
        let replicas = (1..=3).map(|number| {
            let replica = Replica {
                host: HostId(10 + number),
                role: Role::Voter,
            };
            (ReplicaId(number), replica)
        });
        let shard = Shard::new(
            ShardId(1),
            KeyRange {
                start: Vec::new(),
                end: None,
            },
            replicas.collect(),
            ReplicaId(2),
        );
        let hosts = |lost: &[u64]| {
            let founders = shard.founders(|host| lost.contains(&host.0))?;
            Some(founders.iter().map(|(_, host)| host.0).collect::<Vec<_>>())
        };
        assert_eq!(hosts(&[]), Some(vec![12, 11, 13]));
        assert_eq!(hosts(&[12]), Some(vec![11, 13]));
        assert_eq!(hosts(&[11, 12]), None);
    }
}
