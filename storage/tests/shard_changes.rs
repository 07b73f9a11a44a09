//! Changes in the order of their revisions, wherever their rows lie: none is missing, none comes twice.

// In a test's own functions, too, an unwrap is an assertion.
#![allow(clippy::unwrap_used)]

mod shard_support;

use std::sync::Arc;

use bytes::Bytes;
use proptest::prelude::*;
use shard_support::*;
use storage::shard::command::{Act, Action, Delete, DeleteRange, Mutation, Operation, Put, Transaction};
use storage::shard::{ChangePage, ChangeQuery, KeyValue, ReadError, ShardStore};
use storage::sim_disk::SimDisk;

const PATH: &str = "/shard";
const KEYS: [&str; 4] = ["a", "b", "c", "d"];

/// One step of a shard's life.
#[derive(Debug, Clone)]
enum Step {
    Put(usize),
    Delete(usize),
    /// Puts the first and deletes the second, at one revision.
    Both(usize, usize),
    Compact,
    /// So many milliseconds pass.
    Pass(u64),
    Checkpoint,
    Restart,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let key = 0..KEYS.len();
    let step = prop_oneof![
        6 => key.clone().prop_map(Step::Put),
        3 => key.clone().prop_map(Step::Delete),
        2 => (key.clone(), key).prop_map(|(put, delete)| Step::Both(put, delete)),
        1 => Just(Step::Compact),
        1 => (1_u64..300).prop_map(Step::Pass),
        2 => Just(Step::Checkpoint),
        1 => Just(Step::Restart),
    ];
    prop::collection::vec(step, 1..60)
}

/// A shard, and every change that it made.
struct World {
    disk: Arc<SimDisk>,
    store: ShardStore,
    sequence: u64,
    stamped_ms: u64,
    made: Vec<KeyValue>,
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
            stamped_ms: 1,
            made: Vec::new(),
        }
    }

    fn take(&mut self, step: &Step) {
        match step {
            Step::Put(key) => self.mutate(Operation::Put(put_of(*key)), &[*key]),
            Step::Delete(key) => self.mutate(Operation::Delete(delete_of(*key)), &[*key]),
            Step::Both(put, delete) if put == delete => self.mutate(Operation::Put(put_of(*put)), &[*put]),
            Step::Both(put, delete) => {
                let act = |act| Action { act: Some(act) };
                let transaction = Transaction {
                    then: vec![act(Act::Put(put_of(*put))), act(Act::Delete(delete_of(*delete)))],
                    ..Transaction::default()
                };
                self.mutate(Operation::Transaction(transaction), &[*put, *delete]);
            }
            Step::Compact => {
                let revision = self.store.revision();
                self.sequence += 1;
                let compact = compact(1, self.sequence, "a", revision);
                apply(&self.store, self.stamped_ms, &[compact]);
            }
            Step::Pass(ms) => self.stamped_ms += ms,
            Step::Checkpoint => checkpoint(&self.store),
            Step::Restart => {
                checkpoint(&self.store);
                self.store = reopen(self.disk.clone(), PATH.as_ref());
            }
        }
    }

    fn mutate(&mut self, operation: Operation, touched: &[usize]) {
        let before = self.store.revision();
        self.sequence += 1;
        let mutation = Mutation {
            low_water: self.sequence,
            ..mutation(1, self.sequence, operation)
        };
        apply(&self.store, self.stamped_ms, &[mutation]);
        let mut touched: Vec<_> = touched.iter().map(|key| KEYS[*key]).collect();
        touched.sort_unstable();
        for key in touched {
            if let Some(change) = self.newest(key, before) {
                self.made.push(change);
            }
        }
    }

    /// What a key's history says of the change after `before`, if there was one.
    fn newest(&self, key: &str, before: u64) -> Option<KeyValue> {
        let history = self.store.history(key.as_bytes(), None, 1, usize::MAX);
        let newest = history.unwrap().unwrap().versions.into_iter().next();
        newest.filter(|version| version.mod_revision > before)
    }

    fn check(&self) {
        let (floor, newest) = (self.store.oldest_revision(b"", None), self.store.revision());
        for after in floor..=newest {
            for rows_max in [1, 2, 100] {
                let told = self.told(after, None, rows_max);
                let made: Vec<_> = self
                    .made
                    .iter()
                    .filter(|made| made.mod_revision > after)
                    .collect();
                assert_eq!(
                    told.iter().collect::<Vec<_>>(),
                    made,
                    "after {after}, by {rows_max}"
                );
            }
            let told = self.told(after, Some((b"b", b"d")), 2);
            let made = self.made.iter().filter(|made| made.mod_revision > after);
            let made: Vec<_> = made.filter(|made| made.key == "b" || made.key == "c").collect();
            assert_eq!(told.iter().collect::<Vec<_>>(), made, "b and c after {after}");
        }
        let readable = self.made.iter().filter(|made| made.mod_revision > floor);
        for change in readable {
            let earlier =
                |made: &&KeyValue| made.key == change.key && made.mod_revision < change.mod_revision;
            let before = self.made.iter().rev().find(earlier);
            let before = before.filter(|before| before.version > 0);
            let told = self
                .store
                .version_before(&change.key, change.mod_revision)
                .unwrap();
            assert_eq!(told.as_ref(), before, "before {change:?}");
        }
    }

    /// All changes, page by page.
    fn told(&self, mut after: u64, range: Option<(&[u8], &[u8])>, rows_max: usize) -> Vec<KeyValue> {
        let mut all = Vec::new();
        loop {
            let query = ChangeQuery {
                after,
                start: range.map_or(b"", |(start, _)| start),
                end: range.map(|(_, end)| end),
                rows_max,
                bytes_max: usize::MAX,
            };
            let ChangePage {
                changes,
                through,
                newest,
                ..
            } = self.store.changes(query).unwrap();
            assert!(
                changes
                    .iter()
                    .all(|change| change.mod_revision > after && change.mod_revision <= through)
            );
            all.extend(changes);
            if through >= newest {
                return all;
            }
            assert!(through > after, "a page that is not the last goes on");
            after = through;
        }
    }
}

fn put_of(key: usize) -> Put {
    Put {
        key: Bytes::from(KEYS[key]),
        value: Bytes::from_static(b"value"),
        return_previous: false,
        lease: 0,
    }
}

fn delete_of(key: usize) -> Delete {
    Delete {
        key: Bytes::from(KEYS[key]),
        return_previous: false,
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(128))]

    #[test]
    fn no_change_is_missing_or_comes_twice(steps in steps()) {
        let mut world = World::new();
        for step in &steps {
            world.take(step);
            world.check();
        }
    }
}

fn after(after: u64) -> ChangeQuery<'static> {
    ChangeQuery {
        after,
        start: b"",
        end: None,
        rows_max: 10,
        bytes_max: usize::MAX,
    }
}

#[test]
fn what_was_forgotten_is_an_error_and_what_is_to_come_is_nothing() {
    let mut world = World::new();
    (0..4).for_each(|key| world.take(&Step::Put(key)));
    world.take(&Step::Compact);
    let kept_up = world.store.changes(after(3)).unwrap();
    assert_eq!(
        (kept_up.changes.len(), kept_up.through),
        (1, 4),
        "not taken out yet"
    );
    checkpoint(&world.store);
    let told = world.store.changes(after(3));
    assert!(
        matches!(
            told,
            Err(ReadError::Compacted {
                revision: 3,
                oldest: 4
            })
        ),
        "{told:?}"
    );
    assert!(matches!(
        world.store.version_before(b"a", 3),
        Err(ReadError::Compacted { .. })
    ));
    let none = world.store.changes(after(4)).unwrap();
    assert_eq!((none.changes.len(), none.through, none.newest), (0, 4, 4));
    let future = world.store.changes(after(9)).unwrap();
    assert_eq!((future.changes.len(), future.through, future.newest), (0, 9, 4));
}

/// A checkpoint that is being written has rows that are in neither place else.
#[test]
fn rows_on_their_way_to_the_file_are_told() {
    let mut world = World::new();
    (0..2).for_each(|key| world.take(&Step::Put(key)));
    checkpoint(&world.store);
    world.take(&Step::Put(2));
    let capture = world.store.capture(mark(&world.store)).unwrap();
    world.take(&Step::Put(3));
    world.check();
    // Given up: its rows go back.
    drop(capture);
    world.check();
    let capture = world.store.capture(mark(&world.store)).unwrap();
    world.take(&Step::Delete(0));
    capture.write().unwrap();
    world.check();
}

#[test]
fn bytes_end_a_page_after_a_whole_revision() {
    let mut world = World::new();
    world.take(&Step::Put(3));
    world.take(&Step::Both(0, 3));
    world.take(&Step::Put(1));
    for _ in 0..2 {
        let query = ChangeQuery {
            bytes_max: 1,
            ..after(1)
        };
        let page = world.store.changes(query).unwrap();
        assert_eq!((page.changes.len(), page.through, page.newest), (2, 2, 3));
        checkpoint(&world.store);
    }
}

#[test]
fn every_key_of_a_deleted_range_is_told() {
    let mut world = World::new();
    (0..3).for_each(|key| world.take(&Step::Put(key)));
    let before = world.store.revision();
    let range = DeleteRange {
        start: Bytes::from(KEYS[0]),
        end: Bytes::new(),
    };
    let transaction = Transaction {
        then: vec![Action {
            act: Some(Act::DeleteRange(range)),
        }],
        ..Transaction::default()
    };
    world.mutate(Operation::Transaction(transaction), &[0, 1, 2]);
    let told = world.told(before, None, 100);
    let keys: Vec<_> = told.iter().map(|change| change.key.clone()).collect();
    assert_eq!(keys, KEYS[..3]);
    let deleted = |change: &KeyValue| change.version == 0 && change.mod_revision == before + 1;
    assert!(told.iter().all(deleted), "{told:?}");
    world.check();
}
