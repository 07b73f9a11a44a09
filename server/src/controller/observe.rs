//! What the controller sees of the hosts.
//!
//! Every host is asked at a steady pace, and each order's reply is one more look at its group. What is seen is kept as
//! it was said, with its time; [`Observer::observation`] puts a shard's picture together when it is needed.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use futures_util::future::join_all;
use placement::{
    Fenced, HostId, HostState, HostView, LagSample, LeaderView, LogEnd, Membership, MigrationId, Observation,
    Origin, ReplicaId, ReplicaProgress, ShardId,
};
use tokio::sync::watch;
use tokio::time::Instant;

use super::Controller;
use super::clock::LogClock;
use crate::control::{FencedReplica, GroupView, ObserveReply, ObserveRequest, SnapshotOnItsWay};
use crate::host::Host;

/// Pause between two looks at all hosts.
const LOOK_PAUSE: Duration = Duration::from_millis(200);
const LOOK_TIMEOUT: Duration = Duration::from_secs(1);
/// Samples of a replica's lag that are kept: a few seconds' worth.
const SAMPLES_MAX: usize = 16;

/// The latest looks at all hosts. A cheap handle.
#[derive(Clone)]
pub(crate) struct Observer {
    host: Host,
    clock: LogClock,
    seen: Arc<Mutex<Seen>>,
    looks: Arc<watch::Sender<u64>>,
}

#[derive(Default)]
struct Seen {
    hosts: BTreeMap<HostId, HostSeen>,
    progress: BTreeMap<(ShardId, ReplicaId), Progress>,
}

#[derive(Default)]
struct HostSeen {
    groups: BTreeMap<ShardId, (u64, GroupView)>,
    tombstones: BTreeSet<ReplicaId>,
    fenced: Vec<FencedReplica>,
    answered: Option<Instant>,
    asked_since: Option<Instant>,
    looked: bool,
}

#[derive(Default)]
struct Progress {
    /// Whose word this is: the leader's term and replica.
    leader: (u64, u64),
    matched: u64,
    advanced_ms: u64,
    samples: VecDeque<LagSample>,
    snapshot_in_flight: bool,
    /// What was said last of the snapshot on its way there.
    snapshot: Option<SnapshotOnItsWay>,
}

impl Observer {
    pub(super) fn new(host: Host, clock: LogClock) -> Self {
        Self {
            host,
            clock,
            seen: Arc::default(),
            looks: Arc::new(watch::Sender::new(0)),
        }
    }

    /// Follows new looks.
    pub(crate) fn looks(&self) -> watch::Receiver<u64> {
        self.looks.subscribe()
    }

    /// How long a host has not answered; `None` if it was never asked. Measured here: a wall clock may jump.
    pub(crate) fn silence(&self, host: HostId) -> Option<Duration> {
        let seen = self.lock();
        let known = seen.hosts.get(&host)?;
        Some(known.answered.or(known.asked_since)?.elapsed())
    }

    /// How long ago a host last answered; `None` if it never did in this term of control.
    pub(crate) fn answered_ago(&self, host: HostId) -> Option<Duration> {
        Some(self.lock().hosts.get(&host)?.answered?.elapsed())
    }

    /// Bytes of live data in each shard, as its leader says.
    pub(crate) fn shard_bytes(&self) -> BTreeMap<ShardId, u64> {
        let seen = self.lock();
        let mut bytes = BTreeMap::new();
        for (_, view) in seen.hosts.values().flat_map(|host| host.groups.values()) {
            let known: &mut u64 = bytes.entry(ShardId(view.shard_id)).or_default();
            *known = (*known).max(view.bytes);
        }
        bytes
    }

    /// Takes one group's view from an order's reply.
    pub(crate) fn absorb(&self, host: HostId, view: GroupView) {
        let now_ms = self.clock.now_ms();
        let mut seen = self.lock();
        seen.note_progress(&view, now_ms);
        seen.hosts
            .entry(host)
            .or_default()
            .groups
            .insert(ShardId(view.shard_id), (now_ms, view));
        drop(seen);
        self.looks.send_modify(|look| *look += 1);
    }

    /// A replica was seen destroyed.
    pub(crate) fn absorb_tombstone(&self, host: HostId, shard: ShardId, replica: ReplicaId) {
        let mut seen = self.lock();
        let known = seen.hosts.entry(host).or_default();
        known.tombstones.insert(replica);
        known.fenced.retain(|fenced| fenced.replica_id != replica.0);
        // The host may have another replica of the shard by now.
        if known
            .groups
            .get(&shard)
            .is_some_and(|(_, view)| view.replica_id == replica.0)
        {
            known.groups.remove(&shard);
        }
    }

    /// The picture of one shard.
    pub(crate) fn observation(&self, shard: ShardId) -> Observation {
        let seen = self.lock();
        let leader = seen.leader(shard);
        let hosts = seen.hosts.iter().filter(|(_, host)| host.looked);
        let view_of = |host: &HostSeen| {
            let fenced = host.fenced_of(shard);
            let running = host
                .groups
                .get(&shard)
                .map(|(_, view)| ReplicaId(view.replica_id));
            let versions = host
                .groups
                .get(&shard)
                .map(|(_, view)| (ReplicaId(view.replica_id), view.r#gen));
            HostView {
                generations: versions.into_iter().collect(),
                replicas: running.into_iter().chain(fenced.keys().copied()).collect(),
                tombstones: host.tombstones.clone(),
                fenced,
            }
        };
        Observation {
            shard,
            sampled_ms: self.clock.now_ms(),
            leader: leader.map(|(host, view)| seen.leader_view(host, view)),
            other_leader: None,
            hosts: hosts.map(|(host, known)| (*host, view_of(known))).collect(),
        }
    }

    /// The host on which a shard is led, as far as was seen.
    pub(crate) fn leader_host(&self, shard: ShardId) -> Option<HostId> {
        self.lock().leader(shard).map(|(host, _)| host)
    }

    /// Forgets every host but these: what was seen of one that has left for good would be taken for debris.
    fn keep(&self, present: &[(HostId, String)]) {
        let is_present = |host: &HostId| present.iter().any(|(known, _)| known == host);
        self.lock().hosts.retain(|host, _| is_present(host));
    }

    pub(super) async fn look(&self, host: HostId, address: String) {
        self.lock()
            .hosts
            .entry(host)
            .or_default()
            .asked_since
            .get_or_insert_with(Instant::now);
        let Ok(mut control) = self.host.channels().control(&address) else {
            return;
        };
        let cluster_id = self.host.cluster_id().unwrap_or_default();
        let pace = self.host.look_at_placement(|state| {
            let repairs = state
                .active_migrations()
                .filter(|migration| migration.origin == Origin::Repair);
            let replicas = repairs.filter_map(|migration| Some(migration.dst.as_ref()?.replica.0));
            ObserveRequest {
                snapshot_bytes_per_s: state.limits().snapshot_bytes_per_s,
                move_bytes_per_s: state.limits().move_bytes_per_s,
                repairs: replicas.collect(),
                ..ObserveRequest::default()
            }
        });
        let request = ObserveRequest {
            cluster_id,
            to_host: host.0,
            ..pace.unwrap_or_default()
        };
        match tokio::time::timeout(LOOK_TIMEOUT, control.observe(request)).await {
            Ok(Ok(reply)) => self.take(host, reply.into_inner()),
            Ok(Err(status)) => tracing::debug!(%host, error = status.message(), "a host did not answer"),
            Err(_) => tracing::debug!(%host, "a host did not answer in time"),
        }
    }

    fn take(&self, host: HostId, reply: ObserveReply) {
        let now_ms = self.clock.now_ms();
        let mut seen = self.lock();
        reply
            .groups
            .iter()
            .for_each(|view| seen.note_progress(view, now_ms));
        let known = seen.hosts.entry(host).or_default();
        known.groups = reply
            .groups
            .into_iter()
            .map(|view| (ShardId(view.shard_id), (now_ms, view)))
            .collect();
        known.tombstones = reply.tombstones.into_iter().map(ReplicaId).collect();
        known.fenced = reply.fenced;
        (known.answered, known.looked) = (Some(Instant::now()), true);
        drop(seen);
        self.looks.send_modify(|look| *look += 1);
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Seen> {
        self.seen.lock().expect("no panic under this lock")
    }
}

impl HostSeen {
    fn fenced_of(&self, shard: ShardId) -> BTreeMap<ReplicaId, Fenced> {
        let of_shard = self.fenced.iter().filter(|fenced| fenced.shard_id == shard.0);
        let as_seen = |fenced: &FencedReplica| Fenced {
            migration: MigrationId(fenced.migration),
            end: LogEnd {
                raft_term: fenced.last_term,
                leader: ReplicaId(fenced.last_leader),
                index: fenced.last_index,
            },
        };
        of_shard
            .map(|fenced| (ReplicaId(fenced.replica_id), as_seen(fenced)))
            .collect()
    }
}

impl Seen {
    /// Who leads: of those who believe it, the one elected last.
    fn leader(&self, shard: ShardId) -> Option<(HostId, &GroupView)> {
        let views = self
            .hosts
            .iter()
            .filter_map(|(host, known)| Some((*host, &known.groups.get(&shard)?.1)));
        let leaders = views.filter(|(_, view)| view.leader == view.replica_id);
        leaders.max_by_key(|(_, view)| (view.raft_term, view.replica_id))
    }

    fn leader_view(&self, host: HostId, view: &GroupView) -> LeaderView {
        let shard = ShardId(view.shard_id);
        let to_ids = |ids: &[u64]| ids.iter().copied().map(ReplicaId).collect::<BTreeSet<_>>();
        let progress = view.progress.iter().filter_map(|member| {
            let replica = ReplicaId(member.replica_id);
            let known = self.progress.get(&(shard, replica))?;
            Some((replica, known.as_seen()))
        });
        LeaderView {
            replica: ReplicaId(view.replica_id),
            host,
            raft_term: view.raft_term,
            membership: Membership {
                log_index: view.membership_index,
                voters: view
                    .voters
                    .iter()
                    .map(|voters| to_ids(&voters.replicas))
                    .collect(),
                learners: to_ids(&view.learners),
                conf_ver: view.conf_ver,
                migration: (view.migration != 0).then_some(MigrationId(view.migration)),
            },
            generation: view.r#gen,
            progress: progress.collect(),
        }
    }

    /// Follows how far each member is, from its leader's own words.
    fn note_progress(&mut self, view: &GroupView, now_ms: u64) {
        if view.leader != view.replica_id {
            return;
        }
        for member in &view.progress {
            let key = (ShardId(view.shard_id), ReplicaId(member.replica_id));
            let known = self.progress.entry(key).or_default();
            if known.leader != (view.raft_term, view.replica_id) {
                *known = Progress {
                    leader: (view.raft_term, view.replica_id),
                    advanced_ms: now_ms,
                    ..Progress::default()
                };
            }
            if member.matched > known.matched || moves(known.snapshot, member.snapshot) {
                known.advanced_ms = now_ms;
            }
            known.snapshot = member.snapshot;
            known.matched = member.matched;
            known.snapshot_in_flight = member.matched < view.purged;
            known.samples.push_back(LagSample {
                at_ms: now_ms,
                raft_term: view.raft_term,
                lag_entries: view.last_index.saturating_sub(member.matched),
            });
            while known.samples.len() > SAMPLES_MAX {
                known.samples.pop_front();
            }
        }
    }
}

/// Whether a snapshot has come further, or rightly has not: its rate is limited, and so is how many there are at once. One
/// that takes a long time would be given up, and begun again from nothing, for ever.
fn moves(before: Option<SnapshotOnItsWay>, now: Option<SnapshotOnItsWay>) -> bool {
    now.is_some_and(|now| now.waits || before.is_none_or(|before| before.sent_bytes < now.sent_bytes))
}

impl Progress {
    fn as_seen(&self) -> ReplicaProgress {
        ReplicaProgress {
            samples: self.samples.iter().copied().collect(),
            snapshot_in_flight: Some(self.snapshot_in_flight),
            advanced_ms: self.advanced_ms,
        }
    }
}

impl Controller {
    /// Looks at every host, for as long as this controller is in control.
    pub(super) async fn observe_hosts(self) {
        loop {
            let hosts: Vec<(HostId, String)> = {
                let state = self.local.machine.state();
                let present = state
                    .hosts()
                    .values()
                    .filter(|host| host.state != HostState::Removed);
                present.map(|host| (host.id, host.address.clone())).collect()
            };
            self.observer.keep(&hosts);
            join_all(
                hosts
                    .into_iter()
                    .map(|(host, address)| self.observer.look(host, address)),
            )
            .await;
            tokio::time::sleep(LOOK_PAUSE).await;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_snapshot_that_waits_or_grows_is_progress_and_one_that_stands_still_is_not() {
        let sending = |sent_bytes| {
            Some(SnapshotOnItsWay {
                waits: false,
                sent_bytes,
            })
        };
        let waiting = Some(SnapshotOnItsWay {
            waits: true,
            sent_bytes: 0,
        });
        assert!(moves(None, waiting) && moves(waiting, waiting));
        assert!(moves(None, sending(0)) && moves(sending(0), sending(1)));
        assert!(!moves(sending(1), sending(1)));
        assert!(!moves(sending(1), None));
        assert!(!moves(sending(5), sending(2)), "begun again");
    }

    /// As a leader tells of a learner that has nothing yet.
    fn view(snapshot: Option<SnapshotOnItsWay>) -> GroupView {
        GroupView {
            shard_id: 3,
            replica_id: 1,
            leader: 1,
            progress: vec![crate::control::Progress {
                replica_id: 2,
                matched: 0,
                acknowledged_ms_ago: None,
                snapshot,
            }],
            ..GroupView::default()
        }
    }

    #[test]
    fn a_slow_snapshot_counts_as_an_advance_of_its_learner() {
        let mut seen = Seen::default();
        let sending = |sent_bytes| {
            Some(SnapshotOnItsWay {
                waits: false,
                sent_bytes,
            })
        };
        let advanced = |seen: &Seen| seen.progress[&(ShardId(3), ReplicaId(2))].advanced_ms;
        seen.note_progress(&view(sending(1)), 1_000);
        seen.note_progress(&view(sending(2)), 61_000);
        assert_eq!(advanced(&seen), 61_000);
        seen.note_progress(&view(sending(2)), 100_000);
        assert_eq!(advanced(&seen), 61_000);
    }
}
