//! Between openraft's types and the bytes on the wire and on disk.
//!
//! A log record is `[format version, kind]` followed by a [`proto::Entry`]; the log adds its own checksum. A vote,
//! a committed position and a mark are their messages alone. Anything unknown is an error: it is never guessed at.

use std::collections::{BTreeMap, BTreeSet};

use bytes::{Buf, BufMut, Bytes, BytesMut};
use openraft::vote::RaftVote;
use placement::{HostId, ReplicaId};
use prost::Message;

use crate::proto;
use crate::types::{
    Command, ConfStamp, Entry, LeaderId, LogId, Member, Membership, Payload, StoredMembership, Vote,
};

const RECORD_FORMAT: u8 = 1;
const RECORD_ENTRY: u8 = 1;

/// Members as openraft knows them.
pub(crate) fn nodes(members: &BTreeMap<ReplicaId, HostId>) -> BTreeMap<u64, Member> {
    let node = |(replica, host): (&ReplicaId, &HostId)| (replica.0, Member { host: host.0 });
    members.iter().map(node).collect()
}

/// Bytes that are not what they should be.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Malformed {
    #[error("log record of format {0}, this build reads {RECORD_FORMAT}")]
    Format(u8),
    #[error("log record of unknown kind {0}")]
    Kind(u8),
    #[error("missing {0}")]
    Missing(&'static str),
    #[error("invalid membership: {0}")]
    Membership(String),
    #[error(transparent)]
    Decode(#[from] prost::DecodeError),
}

impl From<Malformed> for std::io::Error {
    fn from(malformed: Malformed) -> Self {
        Self::new(std::io::ErrorKind::InvalidData, malformed)
    }
}

pub(crate) fn encode_record(entry: &Entry) -> Bytes {
    let message = entry_to_proto(entry);
    let mut record = BytesMut::with_capacity(2 + message.encoded_len());
    record.put_u8(RECORD_FORMAT);
    record.put_u8(RECORD_ENTRY);
    message.encode(&mut record).expect("the buffer grows");
    record.freeze()
}

pub(crate) fn decode_record(mut record: Bytes) -> Result<Entry, Malformed> {
    if record.len() < 2 {
        return Err(Malformed::Missing("record header"));
    }
    match (record.get_u8(), record.get_u8()) {
        (RECORD_FORMAT, RECORD_ENTRY) => entry_from_proto(proto::Entry::decode(record)?),
        (RECORD_FORMAT, kind) => Err(Malformed::Kind(kind)),
        (format, _) => Err(Malformed::Format(format)),
    }
}

pub(crate) fn entry_to_proto(entry: &Entry) -> proto::Entry {
    proto::Entry {
        id: Some(log_id_to_proto(&entry.log_id)),
        command: entry.payload.command.as_ref().map(|command| command.0.clone()),
        membership: entry.payload.membership.as_ref().map(membership_to_proto),
        stamp: entry.payload.stamp.map(stamp_to_proto),
    }
}

pub(crate) fn entry_from_proto(entry: proto::Entry) -> Result<Entry, Malformed> {
    let id = entry.id.ok_or(Malformed::Missing("log id of an entry"))?;
    let payload = Payload {
        command: entry.command.map(Command),
        membership: entry.membership.map(membership_from_proto).transpose()?,
        stamp: entry.stamp.map(stamp_from_proto),
    };
    Ok(Entry {
        log_id: log_id_from_proto(&id),
        payload,
    })
}

pub(crate) fn log_id_to_proto(id: &LogId) -> proto::LogId {
    let leader = id.committed_leader_id();
    proto::LogId {
        term: leader.term,
        leader: leader.node_id,
        index: id.index(),
    }
}

pub(crate) fn log_id_from_proto(id: &proto::LogId) -> LogId {
    LogId::new(
        LeaderId {
            term: id.term,
            node_id: id.leader,
        },
        id.index,
    )
}

pub(crate) fn vote_to_proto(vote: &Vote) -> proto::Vote {
    let leader = vote.leader_id();
    proto::Vote {
        term: leader.term,
        replica: leader.node_id,
        committed: vote.is_committed(),
    }
}

pub(crate) fn vote_from_proto(vote: &proto::Vote) -> Vote {
    Vote::from_leader_id(
        LeaderId {
            term: vote.term,
            node_id: vote.replica,
        },
        vote.committed,
    )
}

pub(crate) fn required_vote(vote: Option<proto::Vote>) -> Result<Vote, Malformed> {
    vote.as_ref()
        .map(vote_from_proto)
        .ok_or(Malformed::Missing("vote"))
}

pub(crate) fn membership_to_proto(membership: &Membership) -> proto::Membership {
    let configs = membership.get_joint_config().iter();
    proto::Membership {
        configs: configs
            .map(|voters| proto::Voters {
                replicas: voters.iter().copied().collect(),
            })
            .collect(),
        members: membership
            .nodes()
            .map(|(id, member)| proto::Member {
                replica: *id,
                host: member.host,
            })
            .collect(),
    }
}

pub(crate) fn membership_from_proto(membership: proto::Membership) -> Result<Membership, Malformed> {
    let configs: Vec<BTreeSet<u64>> = membership
        .configs
        .into_iter()
        .map(|voters| voters.replicas.into_iter().collect())
        .collect();
    let members: BTreeMap<u64, Member> = membership
        .members
        .into_iter()
        .map(|member| (member.replica, Member { host: member.host }))
        .collect();
    Membership::new(configs, members).map_err(|e| Malformed::Membership(e.to_string()))
}

pub(crate) fn stamp_to_proto(stamp: ConfStamp) -> proto::ConfStamp {
    proto::ConfStamp {
        conf_ver: stamp.conf_ver,
        migration: stamp.migration,
        controller_term: stamp.controller_term,
    }
}

pub(crate) fn stamp_from_proto(stamp: proto::ConfStamp) -> ConfStamp {
    ConfStamp {
        conf_ver: stamp.conf_ver,
        migration: stamp.migration,
        controller_term: stamp.controller_term,
    }
}

/// What a machine's state covers: the last entry applied and the membership in force there.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Mark {
    pub(crate) applied: Option<LogId>,
    pub(crate) membership: StoredMembership,
    pub(crate) stamp: ConfStamp,
}

impl Mark {
    /// Takes note of an entry that was applied.
    pub(crate) fn follow(&mut self, entry: Entry) {
        self.applied = Some(entry.log_id);
        if let Some(membership) = entry.payload.membership {
            self.membership = StoredMembership::new(Some(entry.log_id), membership);
            // The first step of a joint change carries the decision too, but takes effect with the second.
            if let Some(stamp) = entry.payload.stamp {
                self.stamp = stamp;
            }
        }
    }

    /// Whether a replica votes in the group.
    pub(crate) fn is_voter(&self, replica: u64) -> bool {
        self.membership.voter_ids().any(|voter| voter == replica)
    }

    pub(crate) fn to_proto(&self) -> proto::Mark {
        let known = self.membership.log_id().is_some();
        proto::Mark {
            applied: self.applied.as_ref().map(log_id_to_proto),
            membership_id: self.membership.log_id().as_ref().map(log_id_to_proto),
            membership: known.then(|| membership_to_proto(self.membership.membership())),
            stamp: Some(stamp_to_proto(self.stamp)),
        }
    }

    pub(crate) fn from_proto(mark: proto::Mark) -> Result<Self, Malformed> {
        let membership = match mark.membership {
            Some(membership) => StoredMembership::new(
                mark.membership_id.as_ref().map(log_id_from_proto),
                membership_from_proto(membership)?,
            ),
            None => StoredMembership::default(),
        };
        Ok(Self {
            applied: mark.applied.as_ref().map(log_id_from_proto),
            membership,
            stamp: mark.stamp.map(stamp_from_proto).unwrap_or_default(),
        })
    }

    pub(crate) fn encode(&self) -> Bytes {
        self.to_proto().encode_to_vec().into()
    }

    pub(crate) fn decode(mark: Bytes) -> Result<Self, Malformed> {
        Self::from_proto(proto::Mark::decode(mark)?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry() -> Entry {
        let membership = Membership::new(
            vec![BTreeSet::from([1, 2]), BTreeSet::from([2, 3])],
            BTreeMap::from([
                (1, Member { host: 7 }),
                (2, Member { host: 8 }),
                (3, Member { host: 9 }),
            ]),
        );
        Entry {
            log_id: LogId::new(LeaderId { term: 3, node_id: 2 }, 17),
            payload: Payload {
                command: Some(Command(Bytes::from_static(b"put"))),
                membership: Some(membership.unwrap()),
                stamp: Some(ConfStamp {
                    conf_ver: 5,
                    migration: 6,
                    controller_term: 7,
                }),
            },
        }
    }

    #[test]
    fn a_record_reads_back() {
        assert_eq!(decode_record(encode_record(&entry())).unwrap(), entry());
    }

    #[test]
    fn an_unknown_format_or_kind_is_refused() {
        for (at, name) in [(0, "format"), (1, "kind")] {
            let mut record = encode_record(&entry()).to_vec();
            record[at] = 99;
            let refused = decode_record(record.into()).unwrap_err().to_string();
            assert!(refused.contains(name) && refused.contains("99"), "{refused}");
        }
    }

    #[test]
    fn a_mark_reads_back() {
        let mark = Mark {
            applied: Some(entry().log_id),
            membership: StoredMembership::new(Some(entry().log_id), entry().payload.membership.unwrap()),
            stamp: ConfStamp {
                conf_ver: 1,
                migration: 2,
                controller_term: 3,
            },
        };
        assert_eq!(Mark::decode(mark.encode()).unwrap(), mark);
        assert_eq!(Mark::decode(Mark::default().encode()).unwrap(), Mark::default());
    }
}
