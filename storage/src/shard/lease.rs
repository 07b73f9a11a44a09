//! Leases: keys that go when nobody renews what they hang on.
//!
//! A lease has a length, and a count of its renewals. Nothing here measures time: the shard's leader does, on its own
//! clock and from the moment at which it saw the count change, and proposes that a lease ends *at that count*. A renewal
//! that comes before the end in the log has raised the count, and the end has no effect. So a lease never ends early
//! because leaders' clocks differ, and after a change of leader it has its whole length again, as in etcd.
//!
//! What must hold on every replica alike: a key hangs on one lease at most, the one that its newest version names; which
//! keys hang on a lease is known from the rows, so only length, count and extent are written down with a checkpoint. When two
//! shards are merged, a lease of one of them lives on from there, on that one's keys only (`extent`).

use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, BTreeSet};

use super::bounds;
use super::command::{GrantLease, KeepLease};
use super::extent::{Extent, Span};
use super::fingerprint::Fingerprint;
use super::key::Key;
use super::limits::Limits;
use super::machine::{Refusal, ShardRange};
use super::record::LeaseBody;

/// The longest that a lease may last without being renewed: a year, in milliseconds.
const TTL_MS_MAX: u64 = 366 * 24 * 60 * 60 * 1_000;

/// A lease as its shard knows it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LeaseState {
    /// Its id, which its client chose.
    pub id: u64,
    /// How long it lasts without being renewed, in milliseconds.
    pub ttl_ms: u64,
    /// How often it was granted or renewed.
    pub renewals: u64,
    /// How many keys hang on it.
    pub keys: u64,
}

#[derive(Debug, Clone)]
struct Lease {
    ttl_ms: u64,
    renewals: u64,
    keys: BTreeSet<Key>,
    extent: Extent,
}

/// The leases of a shard.
#[derive(Debug, Clone, Default)]
pub(crate) struct Leases {
    by_id: BTreeMap<u64, Lease>,
    of_key: BTreeMap<Key, u64>,
}

impl Leases {
    /// Makes a lease in a shard of this range, or on a run of its keys; false: one of this id lives there. One that lives
    /// elsewhere in the shard begins anew, and lives there too.
    pub(crate) fn grant(&mut self, grant: &GrantLease, range: &ShardRange) -> bool {
        let id = grant.lease;
        let (lives, extent) = match &grant.on {
            None => (self.lives_at(id, &grant.key), Extent::Whole),
            Some(run) => {
                let run = Span::in_range(&run.start, &run.end, range);
                (self.lives_on(id, &run), Extent::Parts(vec![run]))
            }
        };
        if !lives {
            let lease = self.by_id.entry(id).or_insert_with(Lease::nowhere);
            lease.ttl_ms = lease.ttl_ms.max(grant.ttl_ms);
            lease.renewals += 1;
            lease.extent = std::mem::take(&mut lease.extent).with(extent).simplified(range);
        }
        !lives
    }

    /// Whether a grant makes sense, and has room.
    pub(crate) fn check_grant(&self, grant: &GrantLease, limits: &Limits) -> Result<(), Refusal> {
        if grant.lease == 0 || grant.ttl_ms == 0 || grant.ttl_ms > TTL_MS_MAX {
            return Err(Refusal::Invalid);
        }
        if let Some(run) = &grant.on
            && !bounds::contains(&run.start, bounds::end(&run.end), &grant.key)
        {
            return Err(Refusal::Invalid);
        }
        match self.by_id.contains_key(&grant.lease) || self.count() < limits.leases_max {
            true => Ok(()),
            false => Err(Refusal::TooManyLeases),
        }
    }

    /// Whether what is to be kept makes sense, and lives. A shard can tell of its own keys only.
    pub(crate) fn check_keep(&self, keep: &KeepLease, range: &ShardRange) -> Result<(), Refusal> {
        let lives = match &keep.until {
            None => self.lives_at(keep.lease, &keep.key),
            Some(until) if !until.is_empty() && *until <= keep.key => return Err(Refusal::Invalid),
            Some(until) => self.lives_on(keep.lease, &Span::in_range(&keep.key, until, range)),
        };
        if lives { Ok(()) } else { Err(Refusal::NoLease) }
    }

    /// Begins a lease's length anew; false: there is none of this id.
    pub(crate) fn renew(&mut self, id: u64) -> bool {
        let lease = self.by_id.get_mut(&id);
        lease.map(|lease| lease.renewals += 1).is_some()
    }

    /// Ends a lease, and names the keys that hung on it. With `renewals`, only if it was renewed so often and no more.
    pub(crate) fn end(&mut self, id: u64, renewals: Option<u64>) -> Option<BTreeSet<Key>> {
        let lease = self.by_id.get(&id)?;
        if renewals.is_some_and(|renewals| renewals != lease.renewals) {
            return None;
        }
        let lease = self.by_id.remove(&id)?;
        for key in &lease.keys {
            self.of_key.remove(key);
        }
        Some(lease.keys)
    }

    /// Hangs a key on a lease, or on none if that is 0, instead of what it hung on.
    pub(crate) fn attach(&mut self, key: &Key, id: u64) {
        if self.of_key.is_empty() && id == 0 {
            return;
        }
        if let Some(former) = self.of_key.remove(key)
            && let Some(lease) = self.by_id.get_mut(&former)
        {
            lease.keys.remove(key);
        }
        // A row of the past may name a lease that has ended.
        if let Some(lease) = self.by_id.get_mut(&id) {
            lease.keys.insert(key.clone());
            self.of_key.insert(key.clone(), id);
        }
    }

    /// Whether a key may hang on a lease; 0: on none.
    pub(crate) fn check(&self, id: u64, key: &[u8], limits: &Limits) -> Result<(), Refusal> {
        if id == 0 {
            return Ok(());
        }
        let lease = self.at(id, key).ok_or(Refusal::NoLease)?;
        let is_full = lease.keys.len() as u64 >= limits.lease_keys_max && !lease.keys.contains(key);
        if is_full { Err(Refusal::TooLarge) } else { Ok(()) }
    }

    /// Whether a lease lives at a key.
    pub(crate) fn lives_at(&self, id: u64, key: &[u8]) -> bool {
        self.at(id, key).is_some()
    }

    fn lives_on(&self, id: u64, run: &Span) -> bool {
        let lease = self.by_id.get(&id);
        lease.is_some_and(|lease| lease.extent.covers(run))
    }

    /// The lease that a key hangs on; 0: on none.
    pub(crate) fn of(&self, key: &[u8]) -> u64 {
        self.of_key.get(key).copied().unwrap_or(0)
    }

    pub(crate) fn count(&self) -> u64 {
        self.by_id.len() as u64
    }

    pub(crate) fn states(&self) -> impl Iterator<Item = LeaseState> {
        self.by_id.iter().map(|(id, lease)| lease.state(*id))
    }

    /// A lease that lives at a key, and the keys that hang on it.
    pub(crate) fn find(&self, id: u64, key: &[u8]) -> Option<(LeaseState, impl Iterator<Item = &Key>)> {
        let lease = self.at(id, key)?;
        Some((lease.state(id), lease.keys.iter()))
    }

    fn at(&self, id: u64, key: &[u8]) -> Option<&Lease> {
        self.by_id.get(&id).filter(|lease| lease.extent.contains(key))
    }

    pub(crate) fn restore(&mut self, body: &LeaseBody) {
        let lease = Lease {
            ttl_ms: body.ttl_ms,
            renewals: body.renewals,
            keys: BTreeSet::new(),
            extent: Extent::restore(&body.extent),
        };
        self.by_id.insert(body.id, lease);
    }

    /// Takes out the keys from `key` on. Each side has all leases that live there, with their lengths and counts, and its
    /// own keys on them.
    pub(crate) fn split_off(&mut self, key: &[u8]) -> Leases {
        let split = |(id, lease): (&u64, &mut Lease)| {
            let upper = Lease {
                ttl_ms: lease.ttl_ms,
                renewals: lease.renewals,
                extent: lease.extent.split_off(key)?,
                keys: lease.keys.split_off(key),
            };
            Some((*id, upper))
        };
        let by_id = self.by_id.iter_mut().filter_map(split).collect();
        self.by_id.retain(|_, lease| !lease.extent.is_empty());
        Leases {
            by_id,
            of_key: self.of_key.split_off(key),
        }
    }

    /// Takes in the leases of the next shard; the ranges are those before. A lease that is on both sides is one from here
    /// on, and its length begins anew: an end that a leader has seen coming on either side has no effect. One that is on
    /// one side lives on that side's keys only.
    pub(crate) fn absorb(&mut self, range: &ShardRange, other: Leases, other_range: &ShardRange) {
        let whole = ShardRange {
            end: other_range.end.clone(),
            ..range.clone()
        };
        for lease in self.by_id.values_mut() {
            lease.extent = std::mem::take(&mut lease.extent).within(range);
        }
        for (id, mut theirs) in other.by_id {
            theirs.extent = theirs.extent.within(other_range);
            match self.by_id.entry(id) {
                Entry::Vacant(free) => {
                    free.insert(theirs);
                }
                Entry::Occupied(mut ours) => {
                    let ours = ours.get_mut();
                    ours.ttl_ms = ours.ttl_ms.max(theirs.ttl_ms);
                    ours.renewals = ours.renewals.max(theirs.renewals) + 1;
                    ours.keys.extend(theirs.keys);
                    let joined = std::mem::take(&mut ours.extent).with(theirs.extent);
                    ours.extent = joined.simplified(&whole);
                }
            }
        }
        self.of_key.extend(other.of_key);
    }

    pub(crate) fn bodies(&self) -> Vec<LeaseBody> {
        let body = |(id, lease): (&u64, &Lease)| LeaseBody {
            id: *id,
            ttl_ms: lease.ttl_ms,
            renewals: lease.renewals,
            extent: lease.extent.parts().to_vec(),
        };
        self.by_id.iter().map(body).collect()
    }

    pub(crate) fn fingerprint(&self, print: Fingerprint) -> Fingerprint {
        self.by_id
            .iter()
            .fold(print.number(self.count()), |print, (id, lease)| {
                let print = print.number(*id).number(lease.ttl_ms).number(lease.renewals);
                let print = lease.extent.fingerprint(print);
                let keys = lease.keys.iter();
                keys.fold(print.number(lease.keys.len() as u64), |print, key| {
                    print.bytes(key)
                })
            })
    }
}

impl Lease {
    fn nowhere() -> Lease {
        Lease {
            ttl_ms: 0,
            renewals: 0,
            keys: BTreeSet::new(),
            extent: Extent::Parts(Vec::new()),
        }
    }

    fn state(&self, id: u64) -> LeaseState {
        LeaseState {
            id,
            ttl_ms: self.ttl_ms,
            renewals: self.renewals,
            keys: self.keys.len() as u64,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use bytes::Bytes;

    fn key(name: &str) -> Key {
        Key::from(name.as_bytes())
    }

    fn grant(leases: &mut Leases, lease: u64, ttl_ms: u64) -> bool {
        let key = Bytes::from_static(b"a");
        let grant = GrantLease {
            key,
            lease,
            ttl_ms,
            on: None,
        };
        leases.grant(&grant, &range())
    }

    fn range() -> ShardRange {
        ShardRange {
            start: Bytes::new(),
            end: None,
            r#gen: 1,
        }
    }

    fn names(keys: Option<BTreeSet<Key>>) -> Option<Vec<String>> {
        let name = |key: Key| String::from_utf8_lossy(&key).into_owned();
        keys.map(|keys| keys.into_iter().map(name).collect())
    }

    #[test]
    fn a_lease_ends_with_the_keys_that_hang_on_it() {
        let mut leases = Leases::default();
        assert!(grant(&mut leases, 1, 10) && grant(&mut leases, 2, 10));
        assert!(!grant(&mut leases, 1, 99));
        for (name, id) in [
            ("a", 1),
            ("b", 1),
            ("c", 2),
            ("d", 1),
            ("b", 2),
            ("d", 0),
            ("e", 9),
        ] {
            leases.attach(&key(name), id);
        }
        assert_eq!(names(leases.end(1, None)).unwrap(), ["a"]);
        assert_eq!(names(leases.end(1, None)), None);
        assert_eq!(names(leases.end(2, None)).unwrap(), ["b", "c"]);
        assert!(leases.of_key.is_empty());
    }

    #[test]
    fn a_renewal_undoes_an_end_that_did_not_know_of_it() {
        let mut leases = Leases::default();
        grant(&mut leases, 1, 10);
        assert!(leases.renew(1) && !leases.renew(2));
        assert_eq!(leases.end(1, Some(1)), None);
        assert_eq!(leases.states().next().unwrap().renewals, 2);
        assert_eq!(names(leases.end(1, Some(2))).unwrap().len(), 0);
    }

    #[test]
    fn a_full_lease_takes_its_own_keys_only() {
        let limits = Limits {
            lease_keys_max: 1,
            ..Limits::default()
        };
        let mut leases = Leases::default();
        assert_eq!(leases.check(1, b"a", &limits), Err(Refusal::NoLease));
        grant(&mut leases, 1, 10);
        leases.attach(&key("a"), 1);
        assert_eq!(leases.check(1, b"a", &limits), Ok(()));
        assert_eq!(leases.check(1, b"b", &limits), Err(Refusal::TooLarge));
        assert_eq!(leases.check(0, b"b", &limits), Ok(()));
    }
}
