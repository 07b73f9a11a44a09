//! A new leader soon after a host is lost.
//!
//! Left alone, a follower waits for the leader's lease and then for an election timeout on top. When the stream
//! from a leader's host ends (its process died, or the connection was reset) the groups it led start a pre-vote
//! as soon as the lease has passed, spread over a short random time. A false alarm costs nothing: a replica that
//! heard from its leader meanwhile stays quiet, and voters refuse a pre-vote while the lease holds.

use std::time::Duration;

use openraft_rt::Instant;

use crate::group::Group;
use crate::host::RaftHost;
use crate::runtime::HostInstant;

/// Elections of the groups of one lost host are spread over this time.
const SPREAD_MS: u64 = 200;

pub(crate) fn peer_lost(host: &RaftHost, lost: u64) {
    for group in host.groups() {
        if group.leader_host().is_some_and(|leader| leader.0 == lost) {
            drop(host.env().spawn(campaign_after_lease(host.clone(), group)));
        }
    }
}

async fn campaign_after_lease(host: RaftHost, group: Group) {
    let lost_leader = group.leader();
    let Some(heard) = group.registered().last_heard() else {
        return;
    };
    let spread = Duration::from_millis(host.env().context.random_below(SPREAD_MS));
    let lease_over = heard + host.options().election_max;
    let wait = lease_over.saturating_duration_since(HostInstant::now()) + spread;
    tokio::time::sleep(wait).await;
    let silent = group.registered().last_heard() == Some(heard);
    if silent && group.registered().may_vote() && group.leader() == lost_leader && group.is_voter() {
        tracing::info!(group = %group.id(), "the leader's host is gone: asking for an election");
        drop(group.registered().raft.trigger().elect(true).await);
    }
}
