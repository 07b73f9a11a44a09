//! The alarm NOSPACE: what adds data is refused before the disk is full.
//!
//! A host looks at what it takes of its disk. Above its quota, or with less left free than it is to leave, it has no space:
//! it tells the hosts that share shards with it, again and again until it has, and each of them refuses what adds data to a
//! shard of which that host has a voter. A notice that is not repeated counts for nothing after a while, so a host that dies
//! without space, or is cut off, holds up nobody for long: its replica gets nothing then either.
//!
//! It is not part of any log. Whether there is space is a matter of one disk and of a moment, and a refusal comes before the
//! proposal, so replicas need not agree on it. What was proposed before the alarm is applied after it.
//!
//! Limits: what is written between two looks comes on top of the quota; the copying of a snapshot to a host without space is
//! not refused.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard};
use std::time::Duration;

use bytes::Bytes;
use client::proto::mutation::Op as Change;
use client::proto::{Action, action};
use placement::{HostId, ShardId};
use prost::Message;
use storage::shard::encode_batch;

use super::state::Host;
use crate::config::StorageConfig;
use crate::control::SpaceNotice;

/// How often the host looks at its disk, and tells of having no space.
const LOOK_PAUSE: Duration = Duration::from_secs(1);
/// How often a shard's time is moved on while what adds data to it is refused.
const TICK_PAUSE: Duration = Duration::from_secs(10);
/// How long that may take.
const TICK_TIMEOUT: Duration = Duration::from_secs(5);
/// How long a notice counts.
const NOTICE_LIFE: Duration = Duration::from_secs(5);
/// How long telling one host may take.
const NOTICE_TIMEOUT: Duration = Duration::from_secs(1);
/// The alarm ends once this share of the limit, in percent, is as it should be: it would come and go otherwise.
const MARGIN_PERCENT: u64 = 5;

/// What a host knows of its own space and of that of others.
#[derive(Debug, Default)]
pub(crate) struct Space {
    /// Whether any host is known to have none: asked for every mutation.
    any: AtomicBool,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    /// The newest look, and since when there is no space, by the wall clock.
    own: Look,
    short_since_ms: Option<u64>,
    /// Until when the notice of another host counts, on this host's own clock.
    others: BTreeMap<HostId, Duration>,
}

/// What a host saw of its disk.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Look {
    /// Bytes that the shards' files and the log take.
    pub(crate) used_bytes: u64,
    /// Bytes that the disk still takes.
    pub(crate) free_bytes: u64,
}

impl Look {
    /// Whether there is too little space, given whether there was.
    fn is_short(self, was_short: bool, config: &StorageConfig) -> bool {
        let StorageConfig {
            quota_bytes,
            free_bytes_min,
        } = *config;
        let share = |limit: u64| match was_short {
            true => u64::try_from(u128::from(limit) * u128::from(MARGIN_PERCENT) / 100).unwrap_or(limit),
            false => 0,
        };
        let above_quota = quota_bytes > 0 && self.used_bytes > quota_bytes - share(quota_bytes);
        let below_floor =
            free_bytes_min > 0 && self.free_bytes < free_bytes_min.saturating_add(share(free_bytes_min));
        above_quota || below_floor
    }
}

/// Whether the host's space has come or gone with a look.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Turn {
    Raised,
    Cleared,
    Same,
}

impl Space {
    /// What this host saw last, and since when it has no space.
    pub(crate) fn own(&self) -> (Look, Option<u64>) {
        let state = self.lock();
        (state.own, state.short_since_ms)
    }

    fn note_own(&self, look: Look, config: &StorageConfig, now_ms: u64) -> Turn {
        let mut state = self.lock();
        let was_short = state.short_since_ms.is_some();
        let is_short = look.is_short(was_short, config);
        state.own = look;
        match (was_short, is_short) {
            (false, true) => state.short_since_ms = Some(now_ms),
            (true, false) => state.short_since_ms = None,
            _ => return Turn::Same,
        }
        self.publish(&state);
        if is_short { Turn::Raised } else { Turn::Cleared }
    }

    /// Takes another host's notice, at `now` on this host's clock.
    pub(crate) fn note_other(&self, host: HostId, is_short: bool, now: Duration) {
        let mut state = self.lock();
        match is_short {
            true => drop(state.others.insert(host, now + NOTICE_LIFE)),
            false => drop(state.others.remove(&host)),
        }
        self.publish(&state);
    }

    fn forget_old(&self, now: Duration) {
        let mut state = self.lock();
        state.others.retain(|_, until| *until > now);
        self.publish(&state);
    }

    /// The first host among these, or this one, that has no space.
    fn first_short(&self, here: HostId, hosts: &[u64], now: Duration) -> Option<HostId> {
        let state = self.lock();
        if state.short_since_ms.is_some() {
            return Some(here);
        }
        let others = state.others.iter().filter(|(_, until)| **until > now);
        let mut others = others.map(|(host, _)| *host);
        others.find(|host| hosts.contains(&host.0))
    }

    fn publish(&self, state: &State) {
        let any = state.short_since_ms.is_some() || !state.others.is_empty();
        self.any.store(any, Ordering::Relaxed);
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("no panic under this lock")
    }
}

/// Whether a mutation adds data. What cannot be decoded is refused elsewhere.
pub(crate) fn adds_data(encoded: &Bytes) -> bool {
    let puts = |actions: &[Action]| {
        let mut acts = actions.iter().map(|action| &action.act);
        acts.any(|act| matches!(act, Some(action::Act::Put(_))))
    };
    let Ok(mutation) = client::proto::Mutation::decode(encoded.clone()) else {
        return false;
    };
    match mutation.op {
        Some(Change::Put(_) | Change::CompareAndSet(_) | Change::GrantLease(_)) => true,
        Some(Change::Transaction(transaction)) => puts(&transaction.then) || puts(&transaction.otherwise),
        Some(
            Change::Delete(_)
            | Change::OpenSession(_)
            | Change::Compact(_)
            | Change::KeepLease(_)
            | Change::RevokeLease(_),
        )
        | None => false,
    }
}

impl Host {
    /// A host on which a shard, which has a replica here, has no space left.
    pub(crate) fn short_of_space(&self, shard: ShardId) -> Option<HostId> {
        let space = &self.shared.space;
        if !space.any.load(Ordering::Relaxed) {
            return None;
        }
        let map = self.map();
        let voters = map.route(shard).map_or(&[][..], |route| &route.hosts);
        space.first_short(self.id(), voters, self.uptime())
    }

    /// What this host takes of its disk.
    fn look_at_disk(&self) -> io::Result<Look> {
        let folder = &self.shared.folder;
        Ok(Look {
            used_bytes: folder.taken_bytes()?,
            free_bytes: folder.free_bytes()?,
        })
    }

    /// Looks at the disk, and tells others when there is no space.
    pub(crate) async fn watch_space(self) {
        let mut ticked = self.uptime();
        loop {
            let looking = self.clone();
            let looked = self.blocking(move || looking.look_at_disk()).await;
            match looked {
                Ok(look) => self.take_look(look).await,
                Err(error) => tracing::warn!(%error, "the disk does not say how much space is left"),
            }
            let now = self.uptime();
            self.shared.space.forget_old(now);
            if now.saturating_sub(ticked) >= TICK_PAUSE {
                ticked = now;
                self.move_time_on();
            }
            tokio::time::sleep(LOOK_PAUSE).await;
        }
    }

    /// Old versions are forgotten by the time in a shard's log, which stands still where nothing is written: what was deleted
    /// would take its space until somebody compacts.
    fn move_time_on(&self) {
        let led = self.shards().into_iter();
        let led = led.filter(|local| self.short_of_space(local.group.id()).is_some());
        for local in led {
            let Some(term) = local.group.leading_term() else {
                continue;
            };
            let entry = encode_batch(self.now_ms(), []);
            self.spawn(async move {
                let proposing = local.group.propose_in_term(entry, term);
                if let Ok(Err(error)) = tokio::time::timeout(TICK_TIMEOUT, proposing).await {
                    tracing::debug!(shard = %local.group.id(), %error, "its time was not moved on");
                }
            });
        }
    }

    async fn take_look(&self, look: Look) {
        let config = &self.config().storage;
        let turn = self.shared.space.note_own(look, config, self.now_ms());
        let is_short = self.shared.space.own().1.is_some();
        match turn {
            Turn::Raised => tracing::error!(?look, ?config, "no space left: what adds data is refused"),
            Turn::Cleared => tracing::info!(?look, ?config, "there is space again"),
            Turn::Same => {}
        }
        if is_short || turn == Turn::Cleared {
            self.tell_neighbours(is_short).await;
        }
    }

    /// Tells every host that has a voter of some shard that has one here.
    async fn tell_neighbours(&self, is_short: bool) {
        let (map, here) = (self.map(), self.id());
        let shared = map.shards.iter().filter(|route| route.hosts.contains(&here.0));
        let neighbours: BTreeSet<u64> = shared.flat_map(|route| route.hosts.iter().copied()).collect();
        let telling = neighbours.into_iter().filter(|host| *host != here.0);
        let telling = telling.filter_map(|host| {
            let known = map.hosts.get(&HostId(host))?;
            Some(self.tell(HostId(host), known.address.clone(), is_short))
        });
        futures_util::future::join_all(telling).await;
    }

    async fn tell(&self, host: HostId, address: String, is_short: bool) {
        let Ok(mut control) = self.channels().control(&address) else {
            return;
        };
        let notice = SpaceNotice {
            cluster_id: self.cluster_id().unwrap_or_default(),
            to_host: host.0,
            from_host: self.id().0,
            is_short,
        };
        // Told again at the next look: who was not reached refuses nothing until then.
        match tokio::time::timeout(NOTICE_TIMEOUT, control.tell_space(notice)).await {
            Ok(Ok(_)) => {}
            Ok(Err(status)) => tracing::debug!(%host, error = status.message(), "a host was not told"),
            Err(_) => tracing::debug!(%host, "a host was not told in time"),
        }
    }
}

#[cfg(test)]
mod tests {
    use client::proto::{Delete, GrantLease, Mutation, Put, RevokeLease, Transaction};

    use super::*;

    const HERE: HostId = HostId(1);
    const LIMITS: StorageConfig = StorageConfig {
        quota_bytes: 1_000,
        free_bytes_min: 100,
    };

    fn look(used_bytes: u64, free_bytes: u64) -> Look {
        Look {
            used_bytes,
            free_bytes,
        }
    }

    #[test]
    fn the_alarm_ends_a_little_below_where_it_began() {
        let space = Space::default();
        let note = |used, free| space.note_own(look(used, free), &LIMITS, 7);
        assert_eq!(note(1_000, 100), Turn::Same);
        assert_eq!(note(1_001, 100), Turn::Raised);
        assert_eq!(note(951, 200), Turn::Same);
        assert_eq!(note(950, 200), Turn::Cleared);
        assert_eq!(note(950, 99), Turn::Raised);
        assert_eq!(note(0, 104), Turn::Same);
        assert_eq!(note(0, 105), Turn::Cleared);
    }

    #[test]
    fn without_limits_there_is_always_space() {
        let none = StorageConfig {
            quota_bytes: 0,
            free_bytes_min: 0,
        };
        assert!(!look(u64::MAX, 0).is_short(false, &none));
        assert!(!look(u64::MAX, 0).is_short(true, &none));
    }

    #[test]
    fn another_host_counts_where_it_has_a_voter_and_while_it_repeats_itself() {
        let space = Space::default();
        let at = Duration::from_secs;
        space.note_other(HostId(2), true, at(10));
        assert!(space.any.load(Ordering::Relaxed));
        assert_eq!(space.first_short(HERE, &[1, 2, 3], at(14)), Some(HostId(2)));
        assert_eq!(space.first_short(HERE, &[1, 3], at(14)), None);
        assert_eq!(space.first_short(HERE, &[1, 2, 3], at(15)), None, "not repeated");
        space.forget_old(at(15));
        assert!(!space.any.load(Ordering::Relaxed));
        space.note_other(HostId(2), true, at(20));
        space.note_other(HostId(2), false, at(21));
        assert_eq!(space.first_short(HERE, &[1, 2, 3], at(21)), None);
        space.note_own(look(2_000, 500), &LIMITS, 7);
        assert_eq!(space.first_short(HERE, &[1, 2, 3], at(22)), Some(HERE));
    }

    #[test]
    fn what_removes_or_ends_is_let_through() {
        let adds = |op: Change| {
            let mutation = Mutation {
                op: Some(op),
                ..Mutation::default()
            };
            adds_data(&mutation.encode_to_vec().into())
        };
        let action = |act| Action { act: Some(act) };
        let transaction = |then, otherwise| {
            Change::Transaction(Transaction {
                compares: Vec::new(),
                then,
                otherwise,
            })
        };
        let put = || action(action::Act::Put(Put::default()));
        let delete = || action(action::Act::Delete(Delete::default()));
        assert!(adds(Change::Put(Put::default())));
        assert!(adds(Change::GrantLease(GrantLease::default())));
        assert!(adds(transaction(vec![delete(), put()], Vec::new())));
        assert!(adds(transaction(Vec::new(), vec![put()])));
        assert!(!adds(transaction(vec![delete()], vec![delete()])));
        assert!(!adds(Change::Delete(Delete::default())));
        assert!(!adds(Change::RevokeLease(RevokeLease::default())));
        assert!(!adds_data(&Bytes::from_static(b"\xff\xff")));
    }
}
