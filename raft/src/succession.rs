//! A group of one from what a replica left behind: how a shard goes on that lost its majority for good.
//!
//! openraft knows no such thing, and needs not to: the new replica looks as if it had just installed a snapshot. The old
//! one's whole log is applied, also what was never known to be committed; then one more entry, which nobody proposed,
//! makes the new replica the only voter and hands the machine the caller's command. That entry is never in a log: the
//! new log begins behind it, with a vote of its term.
//!
//! What must hold: the old replica does not run, and never will again; the caller makes the machine durable with the mark
//! that [`RaftHost::succeed`] returns, and opens the new replica only then. It may all be done again after a crash, from
//! a machine as it was before.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::sync::Arc;

use bytes::Bytes;
use openraft::vote::RaftVote;
use placement::ReplicaId;
use prost::Message;
use storage::log::{GroupLog, LogGroup};

use crate::convert::{self, Mark};
use crate::host::RaftHost;
use crate::log_store::{decode_log_id, durable};
use crate::machine::{Machine, MachineFault};
use crate::types::{Command, ConfStamp, Entry, LeaderId, LogId, Member, Membership, Payload, Position, Vote};

/// Bytes of log read at once.
const READ_BYTES_MAX: usize = 4 << 20;
/// Indexes that the new group leaves out, so that a late order which names one of the old group's memberships by its
/// index is never taken for one of the new group's.
const ENTRIES_SKIPPED: u64 = 1_000_000;

/// The last entry of a replica's log.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct LogEnd {
    /// The term of the leader that proposed it.
    pub term: u64,
    /// That leader.
    pub leader: u64,
    /// Its index.
    pub index: u64,
}

/// A group of one that is to be begun.
pub struct Succession {
    /// The replica whose log it goes on with.
    pub from: ReplicaId,
    /// Its only voter.
    pub to: ReplicaId,
    /// The term of its first entry; above every term in the log.
    pub term: u64,
    /// The decision behind it.
    pub stamp: ConfStamp,
    /// The old replica's machine, which becomes the new one's.
    pub machine: Arc<dyn Machine>,
    /// What its first entry carries.
    pub command: Bytes,
}

/// Why a group of one was not begun.
#[derive(Debug, thiserror::Error)]
pub enum SuccessionError {
    /// The log cannot be read or written.
    #[error("the log of replica {replica}: {source}")]
    Log {
        /// The replica.
        replica: u64,
        /// Why.
        source: io::Error,
    },
    /// The log begins behind the machine's checkpoint.
    #[error("the log of replica {replica} begins at {first}, its state ends before {next}")]
    Hole {
        /// The replica.
        replica: u64,
        /// The first entry there is.
        first: u64,
        /// The first entry that the state needs.
        next: u64,
    },
    /// The term is not above the log's.
    #[error("term {given} is not above term {found} of the log")]
    OldTerm {
        /// The term given.
        given: u64,
        /// The term found.
        found: u64,
    },
    /// The machine cannot apply an entry, or be checkpointed.
    #[error(transparent)]
    Machine(#[from] MachineFault),
}

impl RaftHost {
    /// The last entry of a replica that does not run here, as far as its log is known; `None`: it has none.
    ///
    /// # Errors
    /// When the log cannot be read.
    pub fn log_end(&self, replica: ReplicaId) -> io::Result<Option<LogEnd>> {
        let last = last_of(&self.log_of(LogGroup(replica.0)))?;
        Ok(last.map(|id| LogEnd {
            term: id.committed_leader_id().term,
            leader: id.committed_leader_id().node_id,
            index: id.index(),
        }))
    }

    /// Waits until all of a replica's log that can be read is durable. Once the replica does not run, nothing follows.
    ///
    /// # Errors
    /// When the log cannot be written.
    pub async fn flush_log(&self, replica: ReplicaId) -> io::Result<()> {
        let log = self.log_of(LogGroup(replica.0));
        durable(|done| log.append(Vec::new(), done)).await
    }

    /// Brings a new replica's machine and log to where its group of one begins: the log durably. Returns the mark of the
    /// machine's next checkpoint.
    ///
    /// # Errors
    /// When the old log or the machine cannot be used, or the disk refuses. The old replica's log is as it was.
    pub async fn succeed(&self, succession: Succession) -> Result<Bytes, SuccessionError> {
        let (old, new) = (succession.from.0, succession.to.0);
        let old_log = self.log_of(LogGroup(old));
        let host = self.identity().host;
        let (first, covered) = self
            .env()
            .blocking(move || replay(&old_log, host, succession))
            .await?;
        let log = self.log_of(LogGroup(new));
        let failed = |source| SuccessionError::Log { replica: new, source };
        let vote = Vote::from_leader_id(*first.committed_leader_id(), true);
        let vote: Bytes = convert::vote_to_proto(&vote).encode_to_vec().into();
        durable(|done| log.save_vote(vote, done)).await.map_err(failed)?;
        let mark: Bytes = convert::log_id_to_proto(&first).encode_to_vec().into();
        durable(|done| log.purge(first.index(), mark, done))
            .await
            .map_err(failed)?;
        Ok(covered)
    }
}

/// Applies the rest of the old log and the new group's first entry. Answers with that entry's id and the machine's mark.
fn replay(log: &GroupLog, host: u64, succession: Succession) -> Result<(LogId, Bytes), SuccessionError> {
    let Succession {
        from,
        to,
        term,
        stamp,
        machine,
        command,
    } = succession;
    let failed = |source: io::Error| SuccessionError::Log {
        replica: from.0,
        source,
    };
    let mark = machine.mark().map(Mark::decode).transpose();
    let mut mark = mark.map_err(|e| failed(e.into()))?.unwrap_or_default();
    let last = last_of(log).map_err(failed)?.max(mark.applied);
    let found = last.map_or(0, |id| id.committed_leader_id().term);
    if term <= found {
        return Err(SuccessionError::OldTerm { given: term, found });
    }
    apply_rest(log, from.0, &*machine, &mut mark)?;
    let leader = LeaderId { term, node_id: to.0 };
    let index = last
        .map_or(0, |id| id.index() + 1)
        .saturating_add(ENTRIES_SKIPPED);
    let members = BTreeMap::from([(to.0, Member { host })]);
    let membership = Membership::new(vec![BTreeSet::from([to.0])], members)
        .map_err(|e| failed(io::Error::other(e.to_string())))?;
    let first = Entry {
        log_id: LogId::new(leader, index),
        payload: Payload {
            command: Some(Command(command)),
            membership: Some(membership),
            stamp: Some(stamp),
        },
    };
    apply(&*machine, &mut mark, first)?;
    Ok((LogId::new(leader, index), mark.encode()))
}

fn apply_rest(
    log: &GroupLog,
    replica: u64,
    machine: &dyn Machine,
    mark: &mut Mark,
) -> Result<(), SuccessionError> {
    let failed = |source: io::Error| SuccessionError::Log { replica, source };
    let end = log.last_index().map_or(0, |last| last + 1);
    let first = log.purged().map_or(0, |(index, _)| index + 1);
    let mut next = mark.applied.map_or(0, |id| id.index() + 1);
    if next < first {
        return Err(SuccessionError::Hole { replica, first, next });
    }
    while next < end {
        let records = log.read(next..end, READ_BYTES_MAX);
        let records = records.map_err(|e| failed(io::Error::other(e)))?;
        for record in records {
            if record.index != next {
                return Err(SuccessionError::Hole {
                    replica,
                    first: record.index,
                    next,
                });
            }
            let entry = convert::decode_record(record.payload).map_err(|e| failed(e.into()))?;
            apply(machine, mark, entry)?;
            next += 1;
        }
    }
    Ok(())
}

fn apply(machine: &dyn Machine, mark: &mut Mark, entry: Entry) -> Result<(), MachineFault> {
    let at = Position {
        term: entry.log_id.committed_leader_id().term,
        index: entry.log_id.index(),
    };
    machine.apply(at, entry.payload.command.as_ref().map(|command| &command.0))?;
    mark.follow(entry);
    Ok(())
}

/// The last entry, or the last one that was purged.
fn last_of(log: &GroupLog) -> io::Result<Option<LogId>> {
    match log.last().map_err(io::Error::other)? {
        Some(record) => Ok(Some(convert::decode_record(record.payload)?.log_id)),
        None => log.purged().map(|(_, mark)| decode_log_id(mark)).transpose(),
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use bytes::Bytes;
    use placement::ShardId;
    use storage::shard::{NewGroup, encode_batch, encode_new_group};

    use super::*;
    use crate::config::RaftOptions;
    use crate::conformance::{ShardMachine, Stores, test_env};
    use crate::host::{HostIdentity, StartGroup};
    use placement::HostId;

    const GROUP: ShardId = ShardId(1);
    const OLD: ReplicaId = ReplicaId(1);
    const NEW: ReplicaId = ReplicaId(9);

    fn host(stores: &Stores) -> RaftHost {
        let identity = HostIdentity {
            cluster_id: "c".into(),
            host: 4,
        };
        RaftHost::new(identity, RaftOptions::default(), test_env(), stores.hub())
    }

    async fn open(host: &RaftHost, replica: ReplicaId, machine: &Arc<ShardMachine>) -> crate::Group {
        let start = StartGroup {
            group: GROUP,
            replica,
            machine: machine.clone(),
        };
        host.open_group(start).await.expect("it opens")
    }

    /// A group of one with some entries, which is then closed.
    async fn left_behind(host: &RaftHost, machine: &Arc<ShardMachine>) -> LogEnd {
        let group = open(host, OLD, machine).await;
        let members = BTreeMap::from([(OLD, HostId(4))]);
        group.initialize(&members).await.expect("a new group");
        group
            .wait_for_leader(Duration::from_secs(10))
            .await
            .expect("it leads");
        for _ in 0..3 {
            let nothing: [Bytes; 0] = [];
            group.propose(encode_batch(7, nothing)).await.expect("it commits");
        }
        host.close_group(GROUP).await;
        host.flush_log(OLD).await.expect("the log writes");
        host.log_end(OLD).expect("the log reads").expect("entries")
    }

    fn succession(machine: Arc<dyn Machine>, term: u64) -> Succession {
        Succession {
            from: OLD,
            to: NEW,
            term,
            stamp: ConfStamp {
                conf_ver: 5,
                migration: 6,
                controller_term: 7,
            },
            machine,
            command: encode_new_group(NewGroup {
                stamped_ms: 8,
                r#gen: 2,
                revisions_skipped: 100,
            }),
        }
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn a_group_of_one_goes_on_from_a_log_without_its_majority() {
        let stores = Stores::new();
        let host = host(&stores);
        let end = left_behind(&host, &stores.shard()).await;
        // The machine has none of it: all of the log is applied.
        let machine = stores.shard();
        let mark = host
            .succeed(succession(machine.clone(), end.term + 1_000))
            .await
            .expect("it succeeds");
        machine
            .capture(mark)
            .expect("idle")
            .write()
            .expect("the disk writes");
        let group = open(&host, NEW, &machine).await;
        let leader = group.wait_for_leader(Duration::from_secs(10)).await;
        assert_eq!(leader, Some(NEW));
        let status = group.status();
        assert_eq!(status.voters, [BTreeSet::from([NEW])]);
        assert_eq!((status.stamp.conf_ver, status.stamp.migration), (5, 6));
        assert!(status.term > end.term + 1_000, "{status:?}");
        assert!(status.membership_index > Some(end.index), "{status:?}");
        let nothing: [Bytes; 0] = [];
        let (at, _) = group.propose(encode_batch(9, nothing)).await.expect("it commits");
        assert!(at.index > end.index);
        // After a restart the log begins behind what nobody proposed.
        host.close_group(GROUP).await;
        let group = open(&host, NEW, &machine).await;
        assert_eq!(group.wait_for_leader(Duration::from_secs(10)).await, Some(NEW));
        host.shutdown().await;
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn a_term_of_the_old_log_is_refused() {
        let stores = Stores::new();
        let host = host(&stores);
        let end = left_behind(&host, &stores.shard()).await;
        let refused = host.succeed(succession(stores.shard(), end.term)).await;
        assert!(
            matches!(refused, Err(SuccessionError::OldTerm { .. })),
            "{refused:?}"
        );
        assert_eq!(host.log_end(OLD).expect("the log reads"), Some(end));
        host.shutdown().await;
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn a_log_that_begins_behind_the_state_is_refused() {
        let stores = Stores::new();
        let host = host(&stores);
        let machine = stores.shard();
        let end = left_behind(&host, &machine).await;
        let log = host.log_of(LogGroup(OLD.0));
        let id = last_of(&log).expect("the log reads").expect("entries");
        let mark: Bytes = convert::log_id_to_proto(&id).encode_to_vec().into();
        durable(|done| log.purge(end.index, mark, done))
            .await
            .expect("the log writes");
        let refused = host.succeed(succession(stores.shard(), end.term + 1)).await;
        assert!(
            matches!(refused, Err(SuccessionError::Hole { .. })),
            "{refused:?}"
        );
        host.shutdown().await;
    }
}
