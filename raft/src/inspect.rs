//! What a replica holds, for those who check replicas against each other from outside: cheap enough to be asked for
//! at every step of a simulation.

use std::collections::BTreeSet;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::io;
use std::ops::Range;

use openraft::async_runtime::watch::WatchReceiver;
use placement::ReplicaId;
use storage::log::LogGroup;

use crate::convert;
use crate::group::Group;
use crate::types::{LogId, Position};

/// Where a replica stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Vitals {
    /// Its term.
    pub term: u64,
    /// Whether it takes itself for the leader of that term.
    pub role: Role,
    /// The last entry of its log, durable or not.
    pub last_index: Option<u64>,
    /// The last entry that is durable here, or purged.
    pub flushed_index: Option<u64>,
    /// The last entry that it knows to be committed.
    pub committed: Option<Position>,
    /// The last entry applied.
    pub applied: Option<Position>,
    /// The last entry applied that set a membership.
    pub membership_index: Option<u64>,
    /// The last entry purged.
    pub purged_index: Option<u64>,
}

/// What a replica takes itself for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// The leader of its term.
    Leader,
    /// Anything else.
    Other,
}

/// An entry's place and a hash of all its bytes: equal for equal entries.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct EntryPrint {
    /// Its place.
    pub at: Position,
    /// Its hash.
    pub print: u64,
}

impl Group {
    /// Where this replica stands. The parts may be of slightly different moments while the replica works.
    pub fn vitals(&self) -> Vitals {
        let metrics = self.registered().raft.metrics();
        let metrics = metrics.borrow_watched();
        let (applied, membership_index) = self.registered().cell.position();
        let position = |id: LogId| Position {
            term: id.committed_leader_id().term,
            index: id.index(),
        };
        Vitals {
            term: metrics.current_term,
            role: if metrics.current_leader == Some(metrics.id) {
                Role::Leader
            } else {
                Role::Other
            },
            last_index: metrics.last_log_index,
            flushed_index: self.log().flushed_index(),
            committed: metrics.local_committed.map(position),
            applied: applied.map(position),
            membership_index,
            purged_index: self.log().purged().map(|(index, _)| index),
        }
    }

    /// The voters of each configuration in this replica's newest membership, committed or not.
    pub fn newest_voters(&self) -> Vec<BTreeSet<ReplicaId>> {
        let metrics = self.registered().raft.metrics();
        let metrics = metrics.borrow_watched();
        let configs = metrics.membership_config.membership().get_joint_config().iter();
        configs
            .map(|voters| voters.iter().copied().map(ReplicaId).collect())
            .collect()
    }

    /// The prints of the entries in `range` that are in this replica's log, in order.
    ///
    /// # Errors
    /// When the log cannot be read.
    pub fn entry_prints(&self, range: Range<u64>) -> io::Result<Vec<EntryPrint>> {
        let records = self.log().read(range, usize::MAX).map_err(io::Error::other)?;
        let print = |payload: bytes::Bytes| {
            let mut hasher = DefaultHasher::new();
            payload.hash(&mut hasher);
            let id = convert::decode_record(payload)?.log_id;
            Ok(EntryPrint {
                at: Position {
                    term: id.committed_leader_id().term,
                    index: id.index(),
                },
                print: hasher.finish(),
            })
        };
        records.into_iter().map(|record| print(record.payload)).collect()
    }

    fn log(&self) -> storage::log::GroupLog {
        self.raft_host().log_of(LogGroup(self.replica().0))
    }
}
