//! The types that openraft is instantiated with.

use std::fmt;

use bytes::Bytes;
use openraft::entry::RaftPayload;

use crate::machine::Response;

pub(crate) type NodeId = u64;
pub(crate) type LeaderId = openraft::impls::leader_id_adv::LeaderId<u64, NodeId>;
pub(crate) type LogId = openraft::LogId<LeaderId>;
pub(crate) type Vote = openraft::impls::Vote<LeaderId>;
pub(crate) type Membership = openraft::Membership<NodeId, Member>;
pub(crate) type StoredMembership = openraft::StoredMembership<LeaderId, NodeId, Member>;
pub(crate) type Entry = openraft::Entry<LeaderId, Payload>;

openraft::declare_raft_types!(
    /// Many groups share one configuration of openraft.
    pub(crate) TypeConfig:
        D = Command,
        R = Response,
        NodeId = u64,
        Node = Member,
        Term = u64,
        LeaderId = LeaderId,
        Vote = Vote,
        Payload = Payload,
        Entry = Entry,
        AsyncRuntime = crate::runtime::HostRuntime,
);

/// Where an entry stands in its group's log.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Position {
    /// The term of the leader that proposed it.
    pub term: u64,
    /// Its index; the first entry has index 0.
    pub index: u64,
}

/// The decision behind a membership, committed in the same entry.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ConfStamp {
    /// The replica-set version that holds once this membership is committed.
    pub conf_ver: u64,
    /// The migration that asked for it; 0 for the first membership of a group.
    pub migration: u64,
    /// The controller that asked; an older one is refused afterwards.
    pub controller_term: u64,
}

impl Default for ConfStamp {
    /// The stamp of a group's first membership, which no migration made: version 1.
    fn default() -> Self {
        Self {
            conf_ver: 1,
            migration: 0,
            controller_term: 0,
        }
    }
}

/// A member of a group is known by its host; the host's address is looked up when it is needed, since it may change.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Member {
    pub(crate) host: u64,
}

impl fmt::Display for Member {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "host {}", self.host)
    }
}

/// An encoded command of the group's machine.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct Command(pub(crate) Bytes);

impl fmt::Debug for Command {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Command({} bytes)", self.0.len())
    }
}

impl fmt::Display for Command {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} bytes", self.0.len())
    }
}

/// What an entry carries. Unlike openraft's own payload it may hold a membership and the decision behind it.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub(crate) struct Payload {
    pub(crate) command: Option<Command>,
    pub(crate) membership: Option<Membership>,
    pub(crate) stamp: Option<ConfStamp>,
}

impl fmt::Display for Payload {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (&self.command, &self.membership) {
            (Some(command), _) => write!(f, "command:{command}"),
            (None, Some(membership)) => write!(f, "membership:{membership}"),
            (None, None) => f.write_str("blank"),
        }
    }
}

impl RaftPayload for Payload {
    type D = Command;
    type NodeId = NodeId;
    type Node = Member;

    fn blank() -> Self {
        Self::default()
    }

    fn with_normal(self, data: Command) -> Self {
        Self {
            command: Some(data),
            ..self
        }
    }

    fn with_membership(self, membership: Membership) -> Self {
        Self {
            membership: Some(membership),
            ..self
        }
    }

    fn get_membership(&self) -> Option<Membership> {
        self.membership.clone()
    }
}
