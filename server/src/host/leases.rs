//! The end of leases: measured by the home of a shard, decided by the shard's log.
//!
//! A lease's age counts from the moment at which this host, leading, first saw it at its present count of renewals: never
//! from before the renewal took effect, so a lease is never taken for older than it is. What is remembered is forgotten with
//! the term, so after a change of leader each lease has its whole length again. A lease is proposed to end when it is older
//! than its length and an eighth of that, for clocks whose rates differ; the entry names the count, and has no effect on a
//! lease that was renewed since.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard};
use std::time::Duration;

use storage::seeded_bug;
use storage::shard::{EndedLease, LeaseState, encode_ended_leases};

use super::replicas::LocalShard;
use super::state::Host;

/// How often leases are looked at.
const LOOK_PAUSE: Duration = Duration::from_millis(200);
/// Leases that one entry ends, at most.
const ENDED_MAX: usize = 256;

/// How old a shard's leases are, on the host that leads it.
#[derive(Debug, Default)]
pub(crate) struct LeaseClock(Mutex<Ages>);

#[derive(Debug, Default)]
struct Ages {
    /// The term in which all of it was seen.
    term: Option<u64>,
    seen: BTreeMap<u64, Seen>,
    /// An end is on its way into the log.
    is_proposing: bool,
}

/// When a lease was first seen at a count of renewals, on the host's own clock.
#[derive(Debug, Clone, Copy)]
struct Seen {
    renewals: u64,
    at: Duration,
}

impl LeaseClock {
    /// How much of a lease's length is left at least; all of it, where that was not measured.
    pub(crate) fn left_ms(&self, host: &Host, lease: &LeaseState) -> u64 {
        let now = host.uptime();
        let seen = self.ages().seen.get(&lease.id).copied();
        let age = seen
            .filter(|seen| seen.renewals == lease.renewals)
            .map(|seen| now.saturating_sub(seen.at));
        let age_ms = u64::try_from(age.unwrap_or_default().as_millis()).unwrap_or(u64::MAX);
        lease.ttl_ms.saturating_sub(age_ms)
    }

    fn ages(&self) -> MutexGuard<'_, Ages> {
        self.0.lock().expect("no panic under this lock")
    }
}

impl Ages {
    /// Looks at the leases as they stand in a term; those that have come to their end.
    fn look(&mut self, term: u64, now: Duration, leases: &[LeaseState]) -> Vec<EndedLease> {
        if self.term != Some(term) {
            self.term = Some(term);
            self.seen.clear();
            self.is_proposing = false;
        }
        let mut seen = BTreeMap::new();
        let mut ended = Vec::new();
        for lease in leases {
            // Seeded bug B29: a renewal does not count.
            let is_same = |before: &&Seen| before.renewals == lease.renewals || seeded_bug::is_on("B29");
            let before = self.seen.get(&lease.id).filter(is_same);
            let since = before.map_or(now, |before| before.at);
            seen.insert(
                lease.id,
                Seen {
                    renewals: lease.renewals,
                    at: since,
                },
            );
            if now.saturating_sub(since) > lasts(lease.ttl_ms) && ended.len() < ENDED_MAX {
                ended.push(EndedLease {
                    id: lease.id,
                    renewals: lease.renewals,
                });
            }
        }
        self.seen = seen;
        ended
    }
}

/// How long a lease is left alone without being renewed.
fn lasts(ttl_ms: u64) -> Duration {
    Duration::from_millis(ttl_ms.saturating_add(ttl_ms / 8))
}

impl Host {
    /// Has the leases of the shards that are led here end.
    pub(crate) async fn end_leases(self) {
        loop {
            tokio::time::sleep(LOOK_PAUSE).await;
            for local in self.shards() {
                if local.store.has_leases()
                    && let Some(term) = local.group.leading_term()
                {
                    self.end_leases_of(&local, term);
                }
            }
        }
    }

    fn end_leases_of(&self, local: &LocalShard, term: u64) {
        let leases = local.store.leases();
        let ended = {
            let mut ages = local.lease_clock.ages();
            let ended = ages.look(term, self.uptime(), &leases);
            if ended.is_empty() || ages.is_proposing {
                return;
            }
            ages.is_proposing = true;
            ended
        };
        let (local, entry) = (local.clone(), encode_ended_leases(self.now_ms(), ended));
        self.spawn(async move {
            if let Err(error) = local.group.propose_in_term(entry, term).await {
                tracing::debug!(shard = %local.group.id(), %error, "leases were not ended");
            }
            let mut ages = local.lease_clock.ages();
            if ages.term == Some(term) {
                ages.is_proposing = false;
            }
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lease(id: u64, renewals: u64) -> LeaseState {
        LeaseState {
            id,
            ttl_ms: 800,
            renewals,
            keys: 0,
        }
    }

    fn ids(ended: Vec<EndedLease>) -> Vec<(u64, u64)> {
        ended
            .into_iter()
            .map(|ended| (ended.id, ended.renewals))
            .collect()
    }

    fn at(ms: u64) -> Duration {
        Duration::from_millis(ms)
    }

    #[test]
    fn a_lease_ends_after_its_length_since_it_was_seen_renewed() {
        let mut ages = Ages::default();
        assert_eq!(ids(ages.look(1, at(0), &[lease(1, 1), lease(2, 1)])), []);
        assert_eq!(ids(ages.look(1, at(500), &[lease(1, 2), lease(2, 1)])), []);
        assert_eq!(
            ids(ages.look(1, at(900), &[lease(1, 2), lease(2, 1)])),
            [],
            "clocks may differ"
        );
        assert_eq!(ids(ages.look(1, at(901), &[lease(1, 2), lease(2, 1)])), [(2, 1)]);
        assert_eq!(ids(ages.look(1, at(1_401), &[lease(1, 2)])), [(1, 2)]);
        // Not ended by the log yet: it is named again.
        assert_eq!(ids(ages.look(1, at(1_402), &[lease(1, 2)])), [(1, 2)]);
        assert_eq!(ids(ages.look(1, at(1_403), &[lease(1, 3)])), []);
    }

    #[test]
    fn another_term_gives_every_lease_its_whole_length() {
        let mut ages = Ages::default();
        ages.look(1, at(0), &[lease(1, 1)]);
        assert_eq!(ids(ages.look(2, at(5_000), &[lease(1, 1)])), []);
        assert_eq!(ids(ages.look(2, at(5_900), &[lease(1, 1)])), []);
        assert_eq!(ids(ages.look(2, at(5_901), &[lease(1, 1)])), [(1, 1)]);
    }
}
