//! Leases against a model: whatever is renewed, ended, written down and read back, just the keys go that hang on them.

// In a test's own functions, too, an unwrap is an assertion.
#![allow(clippy::unwrap_used)]

mod shard_support;

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;
use proptest::prelude::*;
use shard_support::*;
use storage::shard::command::{
    Act, Action, Delete, GrantLease, KeepLease, Operation, Put, RevokeLease, Transaction,
};
use storage::shard::{EndedLease, Outcome, OutcomeKind, Refusal, ShardStore, encode_ended_leases};
use storage::sim_disk::SimDisk;

const PATH: &str = "/shard";
const KEYS: [&str; 5] = ["a", "b", "c", "d", "e"];

/// One step of a shard's life; leases are 1 to 4, and a shard takes three at a time.
#[derive(Debug, Clone)]
enum Step {
    Grant(u64),
    Keep(u64),
    Revoke(u64),
    /// A leader saw the lease end this many renewals ago.
    End(u64, u64),
    Put(usize, u64),
    Delete(usize),
    /// Puts the first under the lease and deletes the second, in one transaction.
    Both(usize, usize, u64),
    Checkpoint,
    Restart,
    Snapshot,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let key = 0..KEYS.len();
    let lease = 1..=4_u64;
    let on = 0..=4_u64;
    let step = prop_oneof![
        4 => lease.clone().prop_map(Step::Grant),
        2 => lease.clone().prop_map(Step::Keep),
        1 => lease.clone().prop_map(Step::Revoke),
        3 => (lease, 0..2_u64).prop_map(|(lease, ago)| Step::End(lease, ago)),
        8 => (key.clone(), on.clone()).prop_map(|(key, on)| Step::Put(key, on)),
        2 => key.clone().prop_map(Step::Delete),
        2 => (key.clone(), key, on).prop_map(|(put, delete, on)| Step::Both(put, delete, on)),
        1 => Just(Step::Checkpoint),
        1 => Just(Step::Restart),
        1 => Just(Step::Snapshot),
    ];
    prop::collection::vec(step, 1..60)
}

struct World {
    disk: Arc<SimDisk>,
    store: ShardStore,
    sequence: u64,
    /// Renewals of each lease.
    leases: BTreeMap<u64, u64>,
    /// The lease of each key that exists; 0: none.
    keys: BTreeMap<&'static str, u64>,
}

impl World {
    fn new() -> World {
        let disk = Arc::new(SimDisk::new(1));
        let store = create(disk.clone(), PATH.as_ref());
        apply(&store, 1, &[open_session(1)]);
        World {
            disk,
            store,
            sequence: 0,
            leases: BTreeMap::new(),
            keys: BTreeMap::new(),
        }
    }

    fn take(&mut self, step: &Step) {
        let before = self.store.revision();
        match *step {
            Step::Grant(id) => {
                let outcome = self.mutate(grant(id, 100));
                match (self.leases.contains_key(&id), self.leases.len() >= 3) {
                    (true, _) => assert!(matches!(outcome, OutcomeKind::CasFailed { existed: true, .. })),
                    (false, true) => assert_eq!(outcome, OutcomeKind::Refused(Refusal::TooManyLeases)),
                    (false, false) => {
                        assert!(matches!(outcome, OutcomeKind::Applied { .. }));
                        self.leases.insert(id, 1);
                    }
                }
            }
            Step::Keep(id) => {
                let outcome = self.mutate(keep(id));
                match self.leases.get_mut(&id) {
                    None => assert_eq!(outcome, OutcomeKind::Refused(Refusal::NoLease)),
                    Some(renewals) => *renewals += 1,
                }
            }
            Step::Revoke(id) => {
                let outcome = self.mutate(revoke(id));
                match self.leases.contains_key(&id) {
                    false => assert_eq!(outcome, OutcomeKind::Refused(Refusal::NoLease)),
                    true => self.end(id, before),
                }
            }
            Step::End(id, ago) => {
                let renewals = self
                    .leases
                    .get(&id)
                    .map_or(1, |renewals| renewals.saturating_sub(ago));
                let outcomes = self.end_in_log(id, renewals);
                assert_eq!(outcomes.len(), 1);
                if self.leases.get(&id) == Some(&renewals) {
                    self.end(id, before);
                }
            }
            Step::Put(key, on) => {
                let refused = self.refusal(KEYS[key], on);
                let outcome = self.mutate(Operation::Put(put_on(KEYS[key], on)));
                match refused {
                    Some(refused) => assert_eq!(outcome, OutcomeKind::Refused(refused)),
                    None => drop(self.keys.insert(KEYS[key], on)),
                }
            }
            Step::Delete(key) => {
                let delete = Delete {
                    key: Bytes::from(KEYS[key]),
                    return_previous: false,
                };
                self.mutate(Operation::Delete(delete));
                self.keys.remove(KEYS[key]);
            }
            Step::Both(put, delete, on) => self.both(KEYS[put], KEYS[delete], on),
            Step::Checkpoint => checkpoint(&self.store),
            Step::Restart => {
                checkpoint(&self.store);
                self.store = reopen(self.disk.clone(), PATH.as_ref());
            }
            Step::Snapshot => self.check_snapshot(),
        }
    }

    fn both(&mut self, put: &'static str, delete: &'static str, on: u64) {
        let act = |act| Action { act: Some(act) };
        let transaction = Transaction {
            then: vec![
                act(Act::Put(put_on(put, on))),
                act(Act::Delete(Delete {
                    key: Bytes::from(delete),
                    return_previous: false,
                })),
            ],
            ..Transaction::default()
        };
        let refused = match put == delete {
            // A list changes a key once.
            true => self.refusal(put, on).or(Some(Refusal::Invalid)),
            false => self.refusal(put, on),
        };
        let outcome = self.mutate(Operation::Transaction(transaction));
        match refused {
            Some(refused) => assert_eq!(outcome, OutcomeKind::Refused(refused)),
            None => {
                self.keys.insert(put, on);
                self.keys.remove(delete);
            }
        }
    }

    /// Why a key cannot hang on a lease.
    fn refusal(&self, key: &str, on: u64) -> Option<Refusal> {
        let hanging = self
            .keys
            .iter()
            .filter(|(other, lease)| **lease == on && **other != key)
            .count();
        match on {
            0 => None,
            on if !self.leases.contains_key(&on) => Some(Refusal::NoLease),
            _ if hanging >= 3 && self.keys.get(key) != Some(&on) => Some(Refusal::TooLarge),
            _ => None,
        }
    }

    fn mutate(&mut self, operation: Operation) -> OutcomeKind {
        self.sequence += 1;
        let mut mutation = mutation(1, self.sequence, operation);
        mutation.low_water = self.sequence;
        apply(&self.store, 1, &[mutation]).remove(0).kind
    }

    fn end_in_log(&self, id: u64, renewals: u64) -> Vec<Outcome> {
        let index = self.store.applied().map_or(0, |applied| applied.index) + 1;
        let payload = encode_ended_leases(1, vec![EndedLease { id, renewals }]);
        self.store.apply(at(index), Some(&payload)).unwrap()
    }

    /// All keys of a lease went at one revision, and nothing else did.
    fn end(&mut self, id: u64, before: u64) {
        self.leases.remove(&id);
        let gone = self.keys.extract_if(.., |_, lease| *lease == id).count();
        assert_eq!(self.store.revision(), before + u64::from(gone > 0), "{gone} keys");
    }

    fn check(&self) {
        let found = self
            .store
            .leases()
            .into_iter()
            .map(|lease| (lease.id, lease.renewals));
        assert_eq!(found.collect::<BTreeMap<_, _>>(), self.leases);
        for lease in self.store.leases() {
            let hanging: Vec<Bytes> = self.hanging(lease.id);
            let (found, _) = self.store.lease(lease.id, b"a", usize::MAX);
            let (state, keys) = found.unwrap();
            assert_eq!((state, keys), (lease, hanging));
        }
        let page = self.store.scan(b"", None, usize::MAX, usize::MAX).unwrap();
        let found = page.pairs.iter().map(|pair| (pair.key.clone(), pair.lease));
        let held = self.keys.iter().map(|(key, lease)| (Bytes::from(*key), *lease));
        assert_eq!(found.collect::<Vec<_>>(), held.collect::<Vec<_>>());
    }

    fn hanging(&self, id: u64) -> Vec<Bytes> {
        let hanging = self.keys.iter().filter(|(_, lease)| **lease == id);
        hanging.map(|(key, _)| Bytes::from(*key)).collect()
    }

    /// Another replica that receives the state has the same.
    fn check_snapshot(&self) {
        checkpoint(&self.store);
        let path = Path::new("/other");
        let other = ShardStore::create(self.disk.clone(), path, identity(2), options()).unwrap();
        let mut import = other.begin_import().unwrap();
        for frame in self.store.export().unwrap() {
            import.push(frame.unwrap()).unwrap();
        }
        other.install(import.finish().unwrap()).unwrap();
        assert_eq!(other.state_hash(), self.store.state_hash());
        assert_eq!(other.leases(), self.store.leases());
        drop(other);
        ShardStore::destroy(&*self.disk, path, &options().failpoints).unwrap();
    }
}

fn grant(lease: u64, ttl_ms: u64) -> Operation {
    let key = Bytes::from_static(b"a");
    Operation::GrantLease(GrantLease {
        key,
        lease,
        ttl_ms,
        on: None,
    })
}

fn keep(lease: u64) -> Operation {
    let key = Bytes::from_static(b"a");
    Operation::KeepLease(KeepLease {
        key,
        lease,
        until: None,
    })
}

fn revoke(lease: u64) -> Operation {
    let key = Bytes::from_static(b"a");
    Operation::RevokeLease(RevokeLease { key, lease })
}

fn put_on(key: &'static str, lease: u64) -> Put {
    Put {
        key: Bytes::from(key),
        value: Bytes::from_static(b"v"),
        return_previous: false,
        lease,
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(192))]

    #[test]
    fn just_the_keys_go_that_hang_on_what_ends(steps in steps()) {
        let mut world = World::new();
        for step in &steps {
            world.take(step);
            world.check();
        }
    }
}

#[test]
fn a_lease_without_id_or_length_makes_no_sense() {
    let mut world = World::new();
    for (id, ttl_ms) in [(0, 5), (1, 0), (1, u64::MAX)] {
        assert_eq!(
            world.mutate(grant(id, ttl_ms)),
            OutcomeKind::Refused(Refusal::Invalid)
        );
    }
    assert_eq!(world.mutate(keep(0)), OutcomeKind::Refused(Refusal::NoLease));
}
