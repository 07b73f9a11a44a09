//! Asking voters whether a leader still leads, for all groups of a host at once.
//!
//! A read by ReadIndex needs the word of a quorum that nobody else led when the read came. openraft gets it by a
//! heartbeat of the group, which passes through the cores of the leader and of each voter. All that it rests on is
//! that a voter which grants a vote to another leader says so in its log first. So the voters' hosts are asked here
//! what their logs were told last, whatever the number of groups with one message to each host, and answer on the spot.
//!
//! Why it is safe. A leader with a higher vote was granted it by a quorum, and each of these told its log before it
//! answered. Two quorums share a voter. If a quorum that was asked after the read came has still granted the highest
//! vote to this leader, no other leader has committed anything before the read came. What this leader itself
//! committed was applied here before anybody was told; what earlier leaders committed was applied here before the first
//! entry of this leader's term was ([`Claim`] demands that one). So the state here is what the read has to see.
//!
//! The quorum is that of the membership that openraft published last. It publishes after it has acted, so it may have
//! appended a newer membership by then, and two newer ones may make a leader that has no voter in common with the
//! published one. A claim is therefore made only while the log was told of no newer membership than the published one.
//!
//! Where a claim cannot be made or is not confirmed, openraft is asked, which knows what to do about it.
//!
//! Rounds of questions of one host follow each other: what comes during one travels with the next. One that takes long
//! is waited for [`ALONE`] at most, so that far voters hold nothing up.

use std::collections::{BTreeMap, BTreeSet};
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use openraft::async_runtime::watch::WatchReceiver;
use storage::seeded_bug;
use tokio::sync::oneshot;

use crate::host::{Lookup, RaftHost, Registered};
use crate::peer::Peers;
use crate::proto;
use crate::proto::message::Body;
use crate::types::{LeaderId, Membership, StoredMembership};

/// How long the next round waits for the end of the one before it.
const ALONE: Duration = Duration::from_millis(1);

/// What a leader says of itself: it led when this was made, as far as it knew, and has applied an entry of its own.
pub(crate) struct Claim {
    group: u64,
    leader: LeaderId,
    membership: Arc<StoredMembership>,
    /// The last entry applied here.
    pub(crate) applied: u64,
}

impl Claim {
    /// `None` where this replica does not lead, or not for long enough.
    pub(crate) fn of(group: u64, replica: &Registered) -> Option<Self> {
        let (leader, membership) = {
            let metrics = replica.raft.metrics();
            let metrics = metrics.borrow_watched();
            metrics
                .state
                .is_leader()
                .then(|| (*metrics.vote.leader_id(), metrics.membership_config.clone()))?
        };
        let told = &replica.told;
        let published = membership.log_id().map(|id| id.index());
        if !told.follows(leader) || told.membership() > published {
            return None;
        }
        let applied = replica.cell.position().0?;
        // Seeded bug B12: a leader serves before it has applied what was committed before it led.
        let of_its_own = *applied.committed_leader_id() == leader || seeded_bug::is_on("B12");
        of_its_own.then_some(Self {
            group,
            leader,
            membership,
            applied: applied.index(),
        })
    }

    #[cfg(test)]
    pub(crate) fn by(group: u64, leader: LeaderId, membership: Arc<StoredMembership>) -> Self {
        Self {
            group,
            leader,
            membership,
            applied: 0,
        }
    }

    fn voters(&self) -> BTreeSet<u64> {
        self.membership.membership().voter_ids().collect()
    }

    fn is_confirmed_by(&self, confirmed: &BTreeSet<u64>) -> bool {
        is_quorum(self.membership.membership(), |replica| {
            *replica == self.leader.node_id || confirmed.contains(replica)
        })
    }
}

/// Whether those for whom `holds` are a majority of each configuration in force.
fn is_quorum(membership: &Membership, holds: impl Fn(&u64) -> bool) -> bool {
    let mut configs = membership.get_joint_config().iter();
    configs.all(|voters| voters.iter().filter(|voter| holds(voter)).count() > voters.len() / 2)
}

/// The questions of one host.
pub(crate) struct Confirmations {
    peers: Peers,
    timeout: Duration,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    waiting: Vec<Question>,
    /// A round is under way that the next one waits for.
    asking: bool,
}

struct Question {
    claim: Claim,
    confirmed: BTreeSet<u64>,
    answer: oneshot::Sender<bool>,
}

impl Confirmations {
    /// Voters have `timeout` to answer.
    pub(crate) fn new(peers: Peers, timeout: Duration) -> Arc<Self> {
        Arc::new(Self {
            peers,
            timeout,
            state: Mutex::default(),
        })
    }

    /// Whether a quorum says, after this call, that it follows the leader of the claim.
    pub(crate) async fn confirm(self: &Arc<Self>, claim: Claim) -> bool {
        let (answer, answered) = oneshot::channel();
        let question = Question {
            claim,
            confirmed: BTreeSet::new(),
            answer,
        };
        let round = {
            let mut state = self.lock();
            state.waiting.push(question);
            match std::mem::replace(&mut state.asking, true) {
                true => None,
                false => Some(std::mem::take(&mut state.waiting)),
            }
        };
        if let Some(questions) = round {
            self.ask(questions);
        }
        answered.await.unwrap_or(false)
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("no panic under this lock")
    }

    fn ask(self: &Arc<Self>, questions: Vec<Question>) {
        let round = Round::start(&self.peers, questions, self.timeout);
        drop(self.peers.env().spawn(self.clone().follow(round)));
    }

    async fn follow(self: Arc<Self>, mut round: Round) {
        let decided = tokio::time::timeout(ALONE, round.decide()).await.is_ok();
        self.next();
        if !decided {
            round.decide().await;
        }
    }

    /// Begins the round behind one that ended or takes long.
    fn next(self: &Arc<Self>) {
        let questions = {
            let mut state = self.lock();
            state.asking = !state.waiting.is_empty();
            std::mem::take(&mut state.waiting)
        };
        if !questions.is_empty() {
            self.ask(questions);
        }
    }
}

/// What was asked of one voter: which question it belongs to, and who it is.
type Asked = (usize, u64);
type Answers = (Vec<Asked>, Vec<bool>);

/// Questions that travel together.
struct Round {
    /// `None`: answered.
    questions: Vec<Option<Question>>,
    calls: FuturesUnordered<Pin<Box<dyn Future<Output = Answers> + Send>>>,
}

impl Round {
    fn start(peers: &Peers, questions: Vec<Question>, timeout: Duration) -> Self {
        let mut by_host: BTreeMap<u64, (Vec<Asked>, Vec<proto::Claim>)> = BTreeMap::new();
        for (number, question) in questions.iter().enumerate() {
            let Claim {
                group,
                leader,
                membership,
                ..
            } = &question.claim;
            for voter in question.claim.voters() {
                let Some(member) = membership.membership().get_node(&voter) else {
                    continue;
                };
                if voter == leader.node_id {
                    continue;
                }
                let (asked, claims) = by_host.entry(member.host).or_default();
                asked.push((number, voter));
                claims.push(proto::Claim {
                    group: *group,
                    voter,
                    term: leader.term,
                    leader: leader.node_id,
                });
            }
        }
        let calls = FuturesUnordered::new();
        for (host, (asked, claims)) in by_host {
            let message = proto::Message {
                body: Some(Body::Claims(proto::Claims { claims })),
                ..Default::default()
            };
            let link = peers.link(host);
            // Queued before this returns: a link sends in the order of its calls.
            let started = link.start(message);
            calls.push(Box::pin(async move {
                let answer = match started {
                    Ok(reply) => link.wait(reply, timeout).await,
                    Err(e) => Err(e),
                };
                match answer {
                    Ok(Body::ClaimsReply(reply)) => (asked, reply.confirmed),
                    // A host of an older build, or one that cannot be reached: it confirms nothing.
                    Ok(_) | Err(_) => (asked, Vec::new()),
                }
            }) as Pin<Box<dyn Future<Output = Answers> + Send>>);
        }
        let mut round = Self {
            questions: questions.into_iter().map(Some).collect(),
            calls,
        };
        // A voter that is alone needs nobody's word.
        (0..round.questions.len()).for_each(|number| round.settle(number));
        round
    }

    /// Waits until every question is answered. May be broken off and called again.
    async fn decide(&mut self) {
        while self.questions.iter().any(Option::is_some) {
            let Some((asked, confirmed)) = self.calls.next().await else {
                break;
            };
            for ((number, voter), confirmed) in asked.into_iter().zip(confirmed) {
                if let Some(question) = self.questions[number].as_mut().filter(|_| confirmed) {
                    question.confirmed.insert(voter);
                    self.settle(number);
                }
            }
        }
        for question in self.questions.drain(..).flatten() {
            // Whoever asked may have gone away.
            question.answer.send(false).ok();
        }
    }

    /// Answers a question that a quorum has confirmed.
    fn settle(&mut self, number: usize) {
        let confirmed = |question: &mut Question| question.claim.is_confirmed_by(&question.confirmed);
        if let Some(question) = self.questions[number].take_if(confirmed) {
            question.answer.send(true).ok();
        }
    }
}

/// Which of the claims this host's replicas confirm: those whose leader they granted their highest vote to.
pub(crate) fn check(host: &RaftHost, claims: &proto::Claims) -> proto::ClaimsReply {
    let confirms = |claim: &proto::Claim| {
        let Lookup::Here(replica) = host.lookup(claim.group, claim.voter) else {
            return false;
        };
        let leader = LeaderId {
            term: claim.term,
            node_id: claim.leader,
        };
        // Seeded bug B27: a voter confirms whoever asks.
        replica.told.follows(leader) || seeded_bug::is_on("B27")
    };
    proto::ClaimsReply {
        confirmed: claims.claims.iter().map(confirms).collect(),
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::types::Member;

    fn membership(configs: &[&[u64]]) -> Membership {
        let configs: Vec<BTreeSet<u64>> = configs
            .iter()
            .map(|voters| voters.iter().copied().collect())
            .collect();
        let members: BTreeMap<u64, Member> = configs
            .iter()
            .flatten()
            .map(|id| (*id, Member { host: *id }))
            .collect();
        Membership::new(configs, members).expect("a membership")
    }

    #[test]
    fn a_quorum_is_a_majority_of_each_configuration() {
        let of = |configs: &[&[u64]], holds: &[u64]| is_quorum(&membership(configs), |id| holds.contains(id));
        assert!(of(&[&[1]], &[1]));
        assert!(!of(&[&[1, 2]], &[1]));
        assert!(of(&[&[1, 2, 3]], &[1, 3]));
        assert!(!of(&[&[1, 2, 3]], &[1, 4, 5]));
        let joint: &[&[u64]] = &[&[1, 2, 3], &[1, 4, 5]];
        assert!(!of(joint, &[1, 2]), "the new configuration has its say");
        assert!(!of(joint, &[1, 4]), "and so has the old one");
        assert!(of(joint, &[1, 2, 4]));
    }
}
