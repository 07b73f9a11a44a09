//! Changing who is in a group.
//!
//! Every change names the membership it was decided on and carries the decision (`conf_ver`, migration, controller)
//! in the same entry, so a change that was overtaken by another is refused and a committed one can be recognised by
//! whoever resumes the migration. A leader refuses a configuration in which it has no vote: openraft would let it
//! lead on. The host asks for a transfer first.

use std::collections::{BTreeMap, BTreeSet};

use openraft::ChangeMembers;
use openraft::errors::{ClientWriteError, RaftError};
use openraft::raft::{ChangeMembershipRequest, Precondition};
use placement::{HostId, ReplicaId};

use crate::group::Group;
use crate::types::{ConfStamp, Member, Membership, Payload, TypeConfig};

/// A change of a group's members. Each is idempotent: asking again when it has happened already is no error.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum MemberChange {
    /// Adds a replica that receives the log and has no vote.
    AddLearner {
        /// The new replica.
        replica: ReplicaId,
        /// Its host.
        host: HostId,
    },
    /// Gives a learner a vote and takes a voter's, in one joint step; the voter stays as a learner.
    Switch {
        /// The learner that becomes a voter.
        promote: Option<ReplicaId>,
        /// The voter that becomes a learner.
        demote: Option<ReplicaId>,
    },
    /// Removes a learner.
    Remove {
        /// The learner.
        replica: ReplicaId,
    },
    /// Ends a joint configuration that an earlier leader left behind.
    FinishJoint,
}

/// Why a membership is not what was asked for.
#[derive(Debug, thiserror::Error)]
pub enum ChangeError {
    /// Ask the leader.
    #[error("not the leader (it is {leader:?})")]
    NotLeader {
        /// The leader, as far as it is known.
        leader: Option<ReplicaId>,
    },
    /// The order comes from a controller that has been replaced.
    #[error("controller term {given} is older than {seen}")]
    OldController {
        /// The term of the order.
        given: u64,
        /// The term this group has seen.
        seen: u64,
    },
    /// The leader itself would lose its vote.
    #[error("the leader would lose its vote; transfer leadership first")]
    WouldDemoteLeader,
    /// The change does not fit the present membership.
    #[error("the change does not fit: {0}")]
    Unfit(String),
    /// Another change is under way or came first; look again.
    #[error("the membership changed meanwhile: {0}")]
    Conflict(String),
    /// It is not known whether the change was or will be committed; look again.
    #[error("unknown outcome: {0}")]
    Unknown(String),
}

impl Group {
    /// Changes the group's members and waits until the change is committed. `decided_on` is the index of the membership
    /// that the change was decided on; it is refused once another is in force, so an order that comes late does nothing.
    pub async fn change_members(
        &self,
        change: MemberChange,
        stamp: ConfStamp,
        decided_on: u64,
    ) -> Result<(), ChangeError> {
        let seen = self.registered().cell.mark().stamp.controller_term;
        if stamp.controller_term < seen {
            return Err(ChangeError::OldController {
                given: stamp.controller_term,
                seen,
            });
        }
        let raft = &self.registered().raft;
        let metrics = {
            let watched = raft.metrics();
            openraft::async_runtime::watch::WatchReceiver::borrow_watched(&watched).clone()
        };
        if metrics.current_leader != Some(self.replica().0) {
            return Err(ChangeError::NotLeader {
                leader: metrics.current_leader.map(ReplicaId),
            });
        }
        let effective = &metrics.membership_config;
        let in_force = effective.log_id().map(|id| id.index());
        if in_force != Some(decided_on) {
            return Err(ChangeError::Conflict(format!(
                "membership {in_force:?} is in force, not {decided_on}"
            )));
        }
        let Some(request) = plan(self.replica().0, effective.membership(), change)? else {
            return Ok(());
        };
        let preconditions = [Precondition::LastMembershipLogId {
            last_membership_log_id: *effective.log_id(),
        }];
        let payload = Payload {
            stamp: Some(stamp),
            ..Payload::default()
        };
        let request = ChangeMembershipRequest::new(request, true)
            .with_preconditions(preconditions)
            .with_payload(payload.clone(), payload);
        let changing = raft.change_membership_with_payload(request);
        match self.env().context.scope(changing).await {
            Ok(_) => Ok(()),
            Err(e) => Err(change_error(e)),
        }
    }
}

/// What to ask of openraft; `None` when the membership is as wanted.
fn plan(
    leader: u64,
    membership: &Membership,
    change: MemberChange,
) -> Result<Option<ChangeMembers<u64, Member>>, ChangeError> {
    let configs = membership.get_joint_config();
    let last = configs.last().cloned().unwrap_or_default();
    let joint = configs.len() > 1;
    match change {
        MemberChange::FinishJoint => Ok(joint.then_some(ChangeMembers::ReplaceAllVoters(last))),
        _ if joint => Err(ChangeError::Conflict("a joint configuration is under way".into())),
        MemberChange::AddLearner { replica, host } => match membership.get_node(&replica.0) {
            Some(member) if member.host == host.0 => Ok(None),
            Some(member) => Err(ChangeError::Unfit(format!(
                "replica {replica} is on {member} already"
            ))),
            None => Ok(Some(ChangeMembers::AddNodes(BTreeMap::from([(
                replica.0,
                Member { host: host.0 },
            )])))),
        },
        MemberChange::Remove { replica } if membership.get_node(&replica.0).is_none() => Ok(None),
        MemberChange::Remove { replica } if last.contains(&replica.0) => {
            Err(ChangeError::Unfit(format!("replica {replica} has a vote")))
        }
        MemberChange::Remove { replica } => Ok(Some(ChangeMembers::RemoveNodes(BTreeSet::from([replica.0])))),
        MemberChange::Switch { promote, demote } => plan_switch(leader, membership, &last, promote, demote),
    }
}

fn plan_switch(
    leader: u64,
    membership: &Membership,
    voters: &BTreeSet<u64>,
    promote: Option<ReplicaId>,
    demote: Option<ReplicaId>,
) -> Result<Option<ChangeMembers<u64, Member>>, ChangeError> {
    let mut target = voters.clone();
    if let Some(promote) = promote {
        if membership.get_node(&promote.0).is_none() {
            return Err(ChangeError::Unfit(format!(
                "replica {promote} is not a learner here"
            )));
        }
        target.insert(promote.0);
    }
    if let Some(demote) = demote {
        target.remove(&demote.0);
    }
    if target == *voters {
        return Ok(None);
    }
    if !target.contains(&leader) {
        return Err(ChangeError::WouldDemoteLeader);
    }
    Ok(Some(ChangeMembers::ReplaceAllVoters(target)))
}

fn change_error(error: RaftError<TypeConfig, ClientWriteError<TypeConfig>>) -> ChangeError {
    match error {
        RaftError::APIError(ClientWriteError::ForwardToLeader(forward)) => ChangeError::NotLeader {
            leader: forward.leader_id.map(ReplicaId),
        },
        RaftError::APIError(ClientWriteError::PreconditionFailed(e)) => ChangeError::Conflict(e.to_string()),
        RaftError::APIError(ClientWriteError::ChangeMembershipError(e)) => {
            ChangeError::Conflict(e.to_string())
        }
        RaftError::APIError(ClientWriteError::LogEntryDiscarded(e)) => ChangeError::Unknown(e.to_string()),
        RaftError::Fatal(e) => ChangeError::Unknown(e.to_string()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn membership(configs: &[&[u64]], members: &[u64]) -> Membership {
        let configs = configs
            .iter()
            .map(|voters| voters.iter().copied().collect())
            .collect();
        let members: BTreeMap<u64, Member> =
            members.iter().map(|id| (*id, Member { host: id * 10 })).collect();
        Membership::new(configs, members).unwrap()
    }

    fn switch(promote: u64, demote: u64) -> MemberChange {
        MemberChange::Switch {
            promote: Some(ReplicaId(promote)),
            demote: Some(ReplicaId(demote)),
        }
    }

    #[test]
    fn a_switch_replaces_one_voter_by_a_learner() {
        let change = plan(1, &membership(&[&[1, 2, 3]], &[1, 2, 3, 4]), switch(4, 3)).unwrap();
        assert_eq!(
            change,
            Some(ChangeMembers::ReplaceAllVoters(BTreeSet::from([1, 2, 4])))
        );
    }

    #[test]
    fn a_leader_refuses_to_lose_its_vote() {
        let refused = plan(3, &membership(&[&[1, 2, 3]], &[1, 2, 3, 4]), switch(4, 3)).unwrap_err();
        assert!(matches!(refused, ChangeError::WouldDemoteLeader));
    }

    #[test]
    fn what_has_happened_already_is_no_error() {
        let now = membership(&[&[1, 2, 4]], &[1, 2, 3, 4]);
        assert_eq!(plan(1, &now, switch(4, 3)).unwrap(), None);
        let add = MemberChange::AddLearner {
            replica: ReplicaId(3),
            host: HostId(30),
        };
        assert_eq!(plan(1, &now, add).unwrap(), None);
        assert_eq!(
            plan(
                1,
                &now,
                MemberChange::Remove {
                    replica: ReplicaId(9)
                }
            )
            .unwrap(),
            None
        );
        assert_eq!(plan(1, &now, MemberChange::FinishJoint).unwrap(), None);
    }

    #[test]
    fn a_voter_is_not_removed_nor_an_unknown_replica_promoted() {
        let now = membership(&[&[1, 2, 3]], &[1, 2, 3]);
        assert!(matches!(
            plan(
                1,
                &now,
                MemberChange::Remove {
                    replica: ReplicaId(3)
                }
            ),
            Err(ChangeError::Unfit(_))
        ));
        assert!(matches!(plan(1, &now, switch(4, 3)), Err(ChangeError::Unfit(_))));
    }

    #[test]
    fn a_joint_configuration_is_only_finished() {
        let joint = membership(&[&[1, 2, 3], &[1, 2, 4]], &[1, 2, 3, 4]);
        assert!(matches!(
            plan(1, &joint, switch(4, 3)),
            Err(ChangeError::Conflict(_))
        ));
        let finish = plan(1, &joint, MemberChange::FinishJoint).unwrap();
        assert_eq!(
            finish,
            Some(ChangeMembers::ReplaceAllVoters(BTreeSet::from([1, 2, 4])))
        );
    }
}
