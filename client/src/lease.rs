//! Leases: keys that go when nobody keeps what they hang on.
//!
//! A lease is a shard's own. [`Lease`] is one id on as many shards as it is used on: it is granted on each before its first
//! key there, and kept on all of them. Its parts end one by one, each when its own shard has not heard of it for its length.
//! A shard that is split has the lease on both sides from then on, and each side counts for itself: so a lease is kept on
//! every shard that now holds a part of a range on which it was granted, and on all of that part: two that were merged tell
//! whether it had ended on one of them before.

use std::{
    collections::HashSet,
    sync::{Mutex, MutexGuard},
    time::Duration,
};

use bytes::Bytes;
use futures_util::{FutureExt, StreamExt, stream::FuturesUnordered};

use crate::{
    client::{Client, misread},
    dispatch::Operation,
    error::{MutationError, ReadError},
    operation::{Expect, KeyRange, Swapped, Written},
    proto::{self, CompareAndSet, GrantLease, KeepLease, KeyRun, Put, RevokeLease, mutation, reply},
    watch::common,
};

/// What a shard knows of a lease.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LeaseStatus {
    /// How long it lasts without being kept.
    pub ttl: Duration,
    /// How much of that is left at least, as far as the shard's home has measured.
    pub left: Duration,
    /// How many keys hang on it.
    pub keys_total: u64,
    /// Those, as many as the host tells.
    pub keys: Vec<Bytes>,
}

impl Client {
    /// A lease of `ttl` on every shard where it will be used. Nothing is asked of a host yet.
    #[must_use]
    pub fn lease(&self, ttl: Duration) -> Lease {
        Lease {
            id: self.shared().random(),
            client: self.clone(),
            ttl,
            granted: Mutex::default(),
            granting: tokio::sync::Mutex::default(),
        }
    }

    /// Makes a lease on the shard that holds `key`; false: there is one of this id.
    ///
    /// # Errors
    /// [`MutationError::Invalid`] for id 0, and for a length of less than a millisecond or more than a year.
    pub async fn grant_lease(
        &self,
        key: impl Into<Bytes>,
        lease: u64,
        ttl: Duration,
    ) -> Result<bool, MutationError> {
        self.grant_on(key.into(), None, lease, ttl).await
    }

    /// The same; with `on`, on those of the shard's keys alone.
    async fn grant_on(
        &self,
        key: Bytes,
        on: Option<KeyRun>,
        lease: u64,
        ttl: Duration,
    ) -> Result<bool, MutationError> {
        let ttl_ms = u64::try_from(ttl.as_millis()).unwrap_or(u64::MAX);
        let grant = GrantLease {
            key,
            lease,
            ttl_ms,
            on,
        };
        let (_, outcome) = self.mutate(mutation::Op::GrantLease(grant)).await?;
        Ok(outcome.applied)
    }

    /// Begins a lease's length anew, on the shard that holds `key`.
    ///
    /// # Errors
    /// [`MutationError::NoLease`] where it has ended.
    pub async fn keep_lease(&self, key: impl Into<Bytes>, lease: u64) -> Result<(), MutationError> {
        self.keep_part(key.into(), None, lease).await
    }

    /// The same; with `until`, [`MutationError::NoLease`] also where it has ended on a part of the shard's keys up to there.
    async fn keep_part(&self, key: Bytes, until: Option<Bytes>, lease: u64) -> Result<(), MutationError> {
        let keep = KeepLease { key, lease, until };
        self.mutate(mutation::Op::KeepLease(keep)).await.map(drop)
    }

    /// Ends a lease, on the shard that holds `key`, and deletes the keys that hang on it.
    ///
    /// # Errors
    /// [`MutationError::NoLease`] where it has ended.
    pub async fn revoke_lease(&self, key: impl Into<Bytes>, lease: u64) -> Result<Written, MutationError> {
        let key = key.into();
        self.write(mutation::Op::RevokeLease(RevokeLease { key, lease }))
            .await
    }

    /// What the shard that holds `key` knows of a lease; `None`: there is none of this id.
    pub async fn lease_status(
        &self,
        key: impl Into<Bytes>,
        lease: u64,
    ) -> Result<Option<LeaseStatus>, ReadError> {
        let key = key.into();
        let asked = Operation::LeaseStatus(proto::LeaseStatus { key, lease });
        match self.run(asked).await?.result {
            reply::Result::Lease(found) => Ok(found.exists.then(|| LeaseStatus {
                ttl: Duration::from_millis(found.ttl_ms),
                left: Duration::from_millis(found.left_ms),
                keys_total: found.keys_total,
                keys: found.keys,
            })),
            _ => Err(self.failed(misread()).into()),
        }
    }

    /// Sets a key that is to hang on a lease of its shard.
    ///
    /// # Errors
    /// [`MutationError::NoLease`] where that has ended.
    pub async fn put_leased(
        &self,
        key: impl Into<Bytes>,
        value: impl Into<Bytes>,
        lease: u64,
    ) -> Result<Written, MutationError> {
        let put = Put {
            key: key.into(),
            value: value.into(),
            return_previous: false,
            lease,
        };
        self.set(put).await
    }

    /// Sets a key that is to hang on a lease of its shard, if it is as expected: how a lock is taken.
    ///
    /// # Errors
    /// [`MutationError::NoLease`] where the lease has ended.
    pub async fn compare_and_set_leased(
        &self,
        key: impl Into<Bytes>,
        expect: Expect,
        new_value: impl Into<Bytes>,
        lease: u64,
    ) -> Result<Swapped, MutationError> {
        let swap = CompareAndSet {
            key: key.into(),
            expect: Some(expect.into()),
            new_value: new_value.into(),
            lease,
        };
        self.swap(swap).await
    }
}

/// A lease over as many shards as it is used on.
///
/// It does nothing by itself: [`keep_alive`](Self::keep_alive) is to be polled, in a task of its own as a rule, for as long
/// as the keys are to stay. When it is dropped its keys go after its length; [`revoke`](Self::revoke) has them go at once.
#[derive(Debug)]
pub struct Lease {
    client: Client,
    id: u64,
    ttl: Duration,
    /// The ranges of the shards on which it was granted, as they were then.
    granted: Mutex<Vec<KeyRange>>,
    /// Held while it is granted on a shard.
    granting: tokio::sync::Mutex<()>,
}

impl Lease {
    /// Its id, the same on all shards.
    #[must_use]
    pub fn id(&self) -> u64 {
        self.id
    }

    /// Sets a key that is to hang on it.
    ///
    /// # Errors
    /// [`MutationError::NoLease`] where it has ended on the key's shard.
    pub async fn put(
        &self,
        key: impl Into<Bytes>,
        value: impl Into<Bytes>,
    ) -> Result<Written, MutationError> {
        let key = key.into();
        self.grant(&key).await?;
        self.client.put_leased(key, value, self.id).await
    }

    /// Sets a key that is to hang on it, if the key is as expected.
    ///
    /// # Errors
    /// [`MutationError::NoLease`] where it has ended on the key's shard.
    pub async fn compare_and_set(
        &self,
        key: impl Into<Bytes>,
        expect: Expect,
        new_value: impl Into<Bytes>,
    ) -> Result<Swapped, MutationError> {
        let key = key.into();
        self.grant(&key).await?;
        self.client
            .compare_and_set_leased(key, expect, new_value, self.id)
            .await
    }

    /// Begins its length anew on every shard where it is used.
    ///
    /// # Errors
    /// [`MutationError::NoLease`] where it has ended on one of them; it was begun anew on the others that could be asked.
    pub async fn keep(&self) -> Result<(), MutationError> {
        let mut kept = HashSet::new();
        let mut outcome = Ok(());
        loop {
            // What was kept may have shown that a shard was split meanwhile.
            let mut parts = self.parts();
            parts.retain(|part| kept.insert(part.clone()));
            if parts.is_empty() {
                return outcome;
            }
            let keeping = parts.into_iter().map(|part| self.keep_on(part));
            let all = futures_util::future::join_all(keeping).await;
            outcome = all.into_iter().fold(outcome, Result::and);
        }
    }

    /// Keeps it, three times in its length, until it has ended somewhere, and says so. What fails otherwise is tried again.
    /// Each shard is asked by itself: one that nobody leads for a while does not keep the others waiting.
    pub async fn keep_alive(&self) -> MutationError {
        let mut asked = FuturesUnordered::new();
        let mut waiting = HashSet::new();
        let clock = &self.client.config().clock;
        let mut turn = clock.sleep(self.ttl / 3);
        loop {
            tokio::select! {
                biased;
                Some((part, kept)) = asked.next() => {
                    waiting.remove(&part);
                    match kept {
                        Err(ended @ MutationError::NoLease { .. }) => return ended,
                        Err(error) => tracing::debug!(%error, ?part, lease = self.id, "a lease was not kept"),
                        Ok(()) => {}
                    }
                }
                () = &mut turn => {
                    turn = clock.sleep(self.ttl / 3);
                    for part in self.parts() {
                        if waiting.insert(part.clone()) {
                            let keeping = self.keep_on(part.clone());
                            asked.push(keeping.map(move |kept| (part, kept)));
                        }
                    }
                }
            }
        }
    }

    /// Ends it everywhere, and deletes its keys. That it has ended already is no error.
    pub async fn revoke(self) -> Result<(), MutationError> {
        let mut revoked = HashSet::new();
        loop {
            let mut parts = self.parts();
            parts.retain(|part| revoked.insert(part.clone()));
            if parts.is_empty() {
                return Ok(());
            }
            for part in parts {
                match self.client.revoke_lease(part.start, self.id).await {
                    Ok(_) | Err(MutationError::NoLease { .. }) => {}
                    Err(error) => return Err(error),
                }
            }
        }
    }

    /// Makes sure that it was granted on the shard of a key.
    async fn grant(&self, key: &Bytes) -> Result<(), MutationError> {
        let _one_at_a_time = self.granting.lock().await;
        let Some(gap) = gap_at(key, &self.granted()) else {
            return Ok(());
        };
        // Where it was granted before it may have ended since, and is not to come back.
        let on = Some(KeyRun {
            start: gap.start.clone(),
            end: gap.end.clone(),
        });
        let before = self.client.locate(key).range;
        // That there is one already is an earlier attempt's doing: nobody else has this id.
        self.client.grant_on(key.clone(), on, self.id, self.ttl).await?;
        let after = self.client.locate(key).range;
        // The map may have been old: the shard that granted it holds at least what both say.
        let shard = common(&before, &after);
        self.granted()
            .extend(shard.and_then(|shard| common(&shard, &gap)));
        Ok(())
    }

    async fn keep_on(&self, part: KeyRange) -> Result<(), MutationError> {
        self.client.keep_part(part.start, Some(part.end), self.id).await
    }

    /// Where it was granted, each range cut where a shard ends, as far as this client knows.
    fn parts(&self) -> Vec<KeyRange> {
        let ranges = self.granted().clone();
        ranges
            .iter()
            .flat_map(|range| self.client.parts_of(range))
            .collect()
    }

    fn granted(&self) -> MutexGuard<'_, Vec<KeyRange>> {
        self.granted.lock().expect("no holder of this lock panics")
    }
}

/// The keys around `key` that lie in none of these ranges; `None`: it lies in one.
fn gap_at(key: &[u8], ranges: &[KeyRange]) -> Option<KeyRange> {
    if ranges.iter().any(|range| range.contains(key)) {
        return None;
    }
    let before = ranges.iter().filter(|range| *range.start <= *key);
    let after = ranges.iter().filter(|range| *range.start > *key);
    Some(KeyRange {
        start: before.map(|range| range.end.clone()).max().unwrap_or_default(),
        end: after.map(|range| range.start.clone()).min().unwrap_or_default(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn range(start: &'static str, end: &'static str) -> KeyRange {
        KeyRange {
            start: start.into(),
            end: end.into(),
        }
    }

    #[test]
    fn a_gap_reaches_to_the_next_ranges() {
        let granted = [range("t", ""), range("b", "d"), range("f", "h")];
        for (key, gap) in [
            ("a", Some(range("", "b"))),
            ("b", None),
            ("d", Some(range("d", "f"))),
            ("e", Some(range("d", "f"))),
            ("m", Some(range("h", "t"))),
            ("z", None),
        ] {
            assert_eq!(gap_at(key.as_bytes(), &granted), gap, "at {key}");
        }
        assert_eq!(gap_at(b"a", &[]), Some(KeyRange::all()));
    }
}
