//! Splits against a model: whatever was written, however the replicas checkpoint and restart, the two shards together hold
//! what the one held, and each goes on by itself.

// In a test's own functions, too, an unwrap is an assertion.
#![allow(clippy::unwrap_used)]

mod shard_support;

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;
use proptest::prelude::*;
use shard_support::*;
use storage::disk::Disk;
use storage::failpoint::{Action, Failpoints, Firing, HostFailpoints};
use storage::shard::command::{GrantLease, Mutation, Operation, Put};
use storage::shard::{
    CaptureError, ChangeQuery, Outcome, OutcomeKind, Refusal, SPLIT_BASE, ShardIdentity, ShardStore, Split,
    StageError, Successor, encode_split,
};
use storage::sim_disk::SimDisk;

const PARENT: &str = "/parent";
const CHILD: &str = "/child";
const CHILD_SHARD: u64 = 8;
const CHILD_REPLICA: u64 = 21;
const KEYS: [&str; 6] = ["a", "b", "m", "mm", "n", "w"];

fn split_at(key: &str) -> Split {
    Split {
        r#gen: 3,
        key: Bytes::copy_from_slice(key.as_bytes()),
        shard: CHILD_SHARD,
        successors: vec![
            Successor {
                of: 1,
                replica: CHILD_REPLICA,
            },
            Successor { of: 2, replica: 22 },
        ],
        mark: Bytes::from_static(b"first mark"),
    }
}

fn apply_split(store: &ShardStore, split: Split) -> Outcome {
    let index = store.applied().map_or(0, |applied| applied.index) + 1;
    let outcomes = store.apply(at(index), Some(&encode_split(1, split))).unwrap();
    outcomes.into_iter().next().unwrap()
}

fn child_identity() -> ShardIdentity {
    ShardIdentity {
        shard_id: CHILD_SHARD,
        replica_id: CHILD_REPLICA,
        ..identity(1)
    }
}

/// Writes the file of the only heir and opens it.
fn be_born(disk: &Arc<SimDisk>, parent: &ShardStore) -> ShardStore {
    let [heir] = parent.heirs().try_into().unwrap();
    assert_eq!((heir.shard_id, heir.replica_id), (CHILD_SHARD, CHILD_REPLICA));
    let points = HostFailpoints::disarmed();
    heir.write(&**disk, Path::new(CHILD), &child_identity(), 1 << 20, &points)
        .unwrap();
    let hash_of_the_file = open_child(disk).state_hash();
    let child = ShardStore::open_heir(
        disk.clone(),
        Path::new(CHILD),
        &child_identity(),
        options(),
        &heir,
    )
    .unwrap();
    assert_eq!(child.state_hash(), hash_of_the_file, "memory and file are one");
    child
}

fn open_child(disk: &Arc<SimDisk>) -> ShardStore {
    ShardStore::open(disk.clone(), Path::new(CHILD), &child_identity(), options()).unwrap()
}

fn of_gen(generation: u64, mutation: Mutation) -> Mutation {
    Mutation {
        r#gen: generation,
        ..mutation
    }
}

fn value(store: &ShardStore, key: &str) -> Option<Bytes> {
    store.get(key.as_bytes()).unwrap().map(|pair| pair.value)
}

#[test]
fn the_halves_go_on_where_the_whole_was() {
    let disk = Arc::new(SimDisk::new(1));
    let parent = create(disk.clone(), Path::new(PARENT));
    let grant = GrantLease {
        key: Bytes::from_static(b"a"),
        lease: 5,
        ttl_ms: 100,
        on: None,
    };
    let leased = Put {
        key: Bytes::from_static(b"n"),
        value: Bytes::from_static(b"leased"),
        return_previous: false,
        lease: 5,
    };
    apply(
        &parent,
        1,
        &[
            open_session(9),
            put(9, 1, "a", b"1"),
            put(9, 2, "m", b"2"),
            mutation(9, 3, Operation::GrantLease(grant)),
        ],
    );
    checkpoint(&parent);
    apply(
        &parent,
        2,
        &[mutation(9, 4, Operation::Put(leased)), put(9, 5, "m", b"3")],
    );
    let revision = parent.revision();
    assert_eq!(apply_split(&parent, split_at("m")).kind, OutcomeKind::Split);
    let child = be_born(&disk, &parent);

    assert_eq!((child.revision(), child.applied()), (revision, Some(SPLIT_BASE)));
    assert_eq!(child.mark(), Some(Bytes::from_static(b"first mark")));
    assert_eq!(
        (parent.range().end, child.range().start),
        (Some("m".into()), Bytes::from("m"))
    );
    assert_eq!((parent.generation(), child.generation()), (4, 4));
    assert_eq!(pairs(&parent), [("a".to_owned(), Bytes::from("1"))]);
    let leased = ("n".to_owned(), Bytes::from("leased"));
    assert_eq!(pairs(&child), [("m".to_owned(), Bytes::from("3")), leased]);
    // What was executed before is not executed again, by whichever of the two is asked.
    let again = apply(&child, 3, &[of_gen(3, put(9, 5, "m", b"again"))]);
    assert!(again[0].replayed, "{again:?}");
    let elsewhere = apply(&parent, 3, &[of_gen(0, put(9, 6, "n", b"x"))]);
    assert_eq!(elsewhere[0].kind, OutcomeKind::Refused(Refusal::OutOfRange));
    let stale = apply(&child, 3, &[of_gen(3, put(9, 6, "n", b"x"))]);
    assert_eq!(stale[0].kind, OutcomeKind::Refused(Refusal::StaleRange));
    // History, changes and leases are those of before.
    assert_eq!(child.get_at(b"m", 2).unwrap().unwrap().value, "2");
    let query = ChangeQuery {
        after: 2,
        start: b"",
        end: None,
        rows_max: 100,
        bytes_max: 1 << 20,
    };
    let changed = |store: &ShardStore| {
        let page = store.changes(query).unwrap();
        page.changes.into_iter().map(|pair| pair.key).collect::<Vec<_>>()
    };
    assert_eq!(changed(&child), ["n", "m"]);
    assert_eq!(changed(&parent), Vec::<Bytes>::new());
    assert_eq!(child.lease(5, b"n", 9).0.unwrap().1, ["n"]);
    assert_eq!(parent.lease(5, b"a", 9).0.unwrap().1, Vec::<Bytes>::new());
}

#[test]
fn a_split_is_refused_where_it_makes_no_sense() {
    let disk = Arc::new(SimDisk::new(1));
    let parent = create(disk, Path::new(PARENT));
    let refused = |split: Split| match apply_split(&parent, split).kind {
        OutcomeKind::Refused(refusal) => refusal,
        other => panic!("{other:?}"),
    };
    assert_eq!(
        refused(split_at("a")),
        Refusal::OutOfRange,
        "nothing would be left"
    );
    assert_eq!(
        refused(split_at("x")),
        Refusal::OutOfRange,
        "nothing would be given"
    );
    let old = Split {
        r#gen: 2,
        ..split_at("m")
    };
    assert_eq!(refused(old), Refusal::StaleRange);
    assert_eq!(apply_split(&parent, split_at("m")).kind, OutcomeKind::Split);
    assert_eq!(refused(split_at("m")), Refusal::StaleRange, "given twice");
    assert_eq!(parent.heirs().len(), 1);
}

/// A checkpoint after the split would lose the heir to a crash.
#[test]
fn the_parent_stays_before_the_split_until_the_heir_has_a_file() {
    let disk = Arc::new(SimDisk::new(1));
    let parent = create(disk.clone(), Path::new(PARENT));
    apply(&parent, 1, &[open_session(9), put(9, 1, "n", b"1")]);
    checkpoint(&parent);
    apply(&parent, 1, &[put(9, 2, "w", b"2")]);
    apply_split(&parent, split_at("m"));
    assert!(matches!(
        parent.capture(mark(&parent)),
        Err(CaptureError::HoldsHeirs)
    ));
    // The file fails once, at each of its steps; it can be made afterwards.
    let registry = Failpoints::new(1);
    let points = registry.host(0);
    let [heir] = parent.heirs().try_into().unwrap();
    for point in ["shard.split.before_write", "shard.split.before_rename"] {
        registry.arm(0, point, Action::ReturnError, Firing::Nth(1));
        let written = heir.write(&*disk, Path::new(CHILD), &child_identity(), 1 << 20, &points);
        assert!(
            written.is_err() && !disk.exists(Path::new(CHILD)).unwrap(),
            "{point}"
        );
        assert!(parent.holds_heirs());
    }
    let child = be_born(&disk, &parent);
    assert!(!parent.holds_heirs());
    checkpoint(&parent);
    assert_eq!(
        (value(&child, "n"), value(&child, "w")),
        (Some("1".into()), Some("2".into()))
    );
    drop((parent, child));
    disk.crash();
    let parent = reopen(disk.clone(), Path::new(PARENT));
    assert_eq!((parent.stats().keys, parent.generation()), (0, 4));
    assert_eq!(open_child(&disk).stats().keys, 2);
}

/// What was copied ahead is brought up to what the split parts with: later writes, deletions, versions that are forgotten.
#[test]
fn what_was_copied_ahead_is_brought_up_to_date() {
    let disk = Arc::new(SimDisk::new(1));
    let parent = create(disk.clone(), Path::new(PARENT));
    // Each says that the one before has been answered: a session remembers few replies.
    let answered = |mutation: &Mutation| Mutation {
        low_water: mutation.sequence,
        ..mutation.clone()
    };
    let enter = |mutations: &[Mutation]| {
        let mutations: Vec<Mutation> = mutations.iter().map(answered).collect();
        let refused = |outcome: &Outcome| matches!(outcome.kind, OutcomeKind::Refused(_));
        assert!(!apply(&parent, 1, &mutations).iter().any(refused));
    };
    apply(&parent, 1, &[open_session(9)]);
    (1..)
        .zip(["a", "m", "n", "w"])
        .for_each(|(sequence, key)| enter(&[put(9, sequence, key, b"old")]));
    checkpoint(&parent);
    parent.stage_split(3, &Bytes::from("m")).unwrap();
    parent.stage_split(3, &Bytes::from("m")).unwrap();
    assert!(disk.exists(Path::new("/parent.stage")).unwrap());
    enter(&[
        delete(9, 5, "n"),
        put(9, 6, "w", b"new"),
        put(9, 7, "u", b"first"),
    ]);
    checkpoint(&parent);
    let revision = parent.revision();
    enter(&[compact(9, 8, "m", revision)]);
    // Versions are let go by a checkpoint.
    checkpoint(&parent);
    enter(&[put(9, 9, "v", b"in memory")]);
    apply_split(&parent, split_at("m"));
    let child = be_born(&disk, &parent);
    let held = [("m", "old"), ("u", "first"), ("v", "in memory"), ("w", "new")];
    assert_eq!(
        pairs(&child),
        held.map(|(key, value)| (key.to_owned(), Bytes::from(value)))
    );
    assert_eq!(child.stats().versions, 4, "what was forgotten does not come back");
    assert!(!disk.exists(Path::new("/parent.stage")).unwrap());
    drop((parent, child));
    disk.crash();
    assert_eq!(open_child(&disk).stats().versions, 4);
}

/// A stage is of one split; without a fitting one, or after an error, everything is copied.
#[test]
fn a_stage_that_does_not_fit_is_not_used() {
    let disk = Arc::new(SimDisk::new(1));
    let parent = create(disk.clone(), Path::new(PARENT));
    apply(
        &parent,
        1,
        &[open_session(9), put(9, 1, "m", b"1"), put(9, 2, "n", b"2")],
    );
    checkpoint(&parent);
    for (generation, key) in [(2, "m"), (3, "")] {
        let refused = parent.stage_split(generation, &Bytes::from(key));
        assert!(matches!(refused, Err(StageError::Refused(_))), "{refused:?}");
    }
    parent.stage_split(3, &Bytes::from("n")).unwrap();
    apply_split(&parent, split_at("m"));
    let child = be_born(&disk, &parent);
    assert_eq!(pairs(&child).len(), 2);
    assert!(!disk.exists(Path::new("/parent.stage")).unwrap());
}

/// A crash leaves a stage's file behind, and the next start removes it.
#[test]
fn a_stage_does_not_outlive_its_store() {
    let disk = Arc::new(SimDisk::new(1));
    let parent = create(disk.clone(), Path::new(PARENT));
    apply(
        &parent,
        1,
        &[open_session(9), put(9, 1, "m", b"1"), put(9, 2, "n", b"2")],
    );
    checkpoint(&parent);
    parent.stage_split(3, &Bytes::from("m")).unwrap();
    disk.crash();
    std::mem::forget(parent);
    let parent = reopen(disk.clone(), Path::new(PARENT));
    assert!(!disk.exists(Path::new("/parent.stage")).unwrap());
    parent.stage_split(3, &Bytes::from("m")).unwrap();
    drop(parent);
    assert!(!disk.exists(Path::new("/parent.stage")).unwrap());
}

/// The heir's rows lie in the parent's file until it is rewritten; they belong to nobody there.
#[test]
fn what_was_given_away_goes_with_the_next_rewrite() {
    let disk = Arc::new(SimDisk::new(1));
    let parent = create(disk.clone(), Path::new(PARENT));
    apply(&parent, 1, &[open_session(9), put(9, 1, "a", b"1")]);
    for sequence in 2..200 {
        let value = vec![sequence as u8; 2_000];
        apply(
            &parent,
            1,
            &[Mutation {
                low_water: sequence,
                ..put(9, sequence, "n", &value)
            }],
        );
    }
    checkpoint(&parent);
    let before = parent.state_hash();
    apply_split(&parent, split_at("m"));
    let child = be_born(&disk, &parent);
    assert_ne!(parent.state_hash(), before);
    checkpoint(&parent);
    let hash = parent.state_hash();
    // A snapshot has the parent's own rows alone.
    let receiver = ShardStore::create(disk.clone(), Path::new("/other"), identity(2), options()).unwrap();
    let mut import = receiver.begin_import().unwrap();
    parent
        .export()
        .unwrap()
        .for_each(|frame| import.push(frame.unwrap()).unwrap());
    receiver.install(import.finish().unwrap()).unwrap();
    assert_eq!(receiver.state_hash(), hash);
    let report = parent
        .rewrite_if_sparse()
        .unwrap()
        .expect("most of it is not the parent's");
    assert_eq!(report.rows, 1);
    assert_eq!(parent.state_hash(), hash);
    drop(parent);
    let parent = reopen(disk.clone(), Path::new(PARENT));
    assert_eq!(
        (parent.state_hash(), value(&parent, "a")),
        (hash, Some("1".into()))
    );
    assert_eq!(child.stats().versions, 198);
}

#[test]
fn the_middle_parts_bytes_not_keys() {
    let disk = Arc::new(SimDisk::new(1));
    let store = create(disk, Path::new(PARENT));
    assert_eq!(store.middle_key(), None);
    apply(&store, 1, &[open_session(9), put(9, 1, "a", b"1")]);
    assert_eq!(store.middle_key(), None, "a half needs a key");
    apply(
        &store,
        1,
        &[
            put(9, 2, "b", b"1"),
            put(9, 3, "c", b"1"),
            put(9, 4, "d", &[7; 100]),
        ],
    );
    assert_eq!(store.middle_key(), Some("d".into()));
    apply(&store, 1, &[put(9, 5, "a", &[7; 300])]);
    assert_eq!(store.middle_key(), Some("b".into()));
}

/// One step of a shard's life.
#[derive(Debug, Clone)]
enum Step {
    Put(usize, u8),
    Delete(usize),
    Compact,
    Checkpoint,
    /// A crash: what no checkpoint holds is applied again.
    Restart,
    /// What lies from this key on is copied ahead.
    Stage(&'static str),
    Split(&'static str),
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let key = 0..KEYS.len();
    let cut = || prop::sample::select(vec!["b", "m", "mn"]);
    let step = prop_oneof![
        8 => (key.clone(), any::<u8>()).prop_map(|(key, value)| Step::Put(key, value)),
        3 => key.prop_map(Step::Delete),
        1 => Just(Step::Compact),
        2 => Just(Step::Checkpoint),
        2 => Just(Step::Restart),
        2 => cut().prop_map(Step::Stage),
        1 => cut().prop_map(Step::Split),
    ];
    prop::collection::vec(step, 1..60)
}

/// A log, and the replica that applies it.
struct World {
    disk: Arc<SimDisk>,
    log: Vec<Bytes>,
    sequence: u64,
    parent: ShardStore,
    /// Once the shard is split: the new shard, what it must hold, and its own log.
    child: Option<(ShardStore, Vec<Bytes>)>,
    model: BTreeMap<&'static str, u8>,
    split: Option<&'static str>,
}

impl World {
    fn new() -> World {
        let disk = Arc::new(SimDisk::new(1));
        let parent = create(disk.clone(), Path::new(PARENT));
        let mut world = World {
            disk,
            log: Vec::new(),
            sequence: 0,
            parent,
            child: None,
            model: BTreeMap::new(),
            split: None,
        };
        world.enter(batch(1, &[open_session(9)]), false);
        world
    }

    /// An entry of the log of the shard that holds a key, or of the parent's.
    fn enter(&mut self, payload: Bytes, in_child: bool) {
        let (store, log) = match &mut self.child {
            Some((store, log)) if in_child => (&*store, log),
            _ => (&self.parent, &mut self.log),
        };
        log.push(payload.clone());
        let outcomes = store.apply(at(log.len() as u64), Some(&payload)).unwrap();
        let refused = outcomes
            .iter()
            .any(|outcome| matches!(outcome.kind, OutcomeKind::Refused(_)));
        assert!(!refused, "{outcomes:?}");
    }

    fn write(&mut self, key: &'static str, mutation: Mutation) {
        let in_child = self.split.is_some_and(|split| split <= key);
        let mutation = of_gen(if self.split.is_some() { 4 } else { 3 }, mutation);
        self.enter(batch(1, &[mutation]), in_child);
    }

    fn step(&mut self, step: &Step) {
        self.sequence += 1;
        match *step {
            Step::Put(key, value) => {
                self.model.insert(KEYS[key], value);
                self.write(KEYS[key], put(9, self.sequence, KEYS[key], &[value]));
            }
            Step::Delete(key) => {
                self.model.remove(KEYS[key]);
                self.write(KEYS[key], delete(9, self.sequence, KEYS[key]));
            }
            Step::Compact => {
                let revision = self.parent.revision();
                self.write("a", compact(9, self.sequence, "a", revision));
            }
            Step::Checkpoint => self.stores().for_each(checkpoint),
            Step::Restart => self.restart(),
            Step::Split(key) if self.split.is_none() => {
                self.split = Some(key);
                self.enter(encode_split(1, split_at(key)), false);
                let child = be_born(&self.disk, &self.parent);
                assert_eq!(child.state_hash(), self.hash_of_an_unstaged_child());
                self.child = Some((child, Vec::new()));
            }
            Step::Stage(key) if self.split.is_none() => {
                self.parent
                    .stage_split(3, &Bytes::from_static(key.as_bytes()))
                    .unwrap();
            }
            Step::Stage(_) | Step::Split(_) => {}
        }
    }

    /// Another replica applies the same log, and copies all when it is split.
    fn hash_of_an_unstaged_child(&self) -> u64 {
        let disk = Arc::new(SimDisk::new(2));
        let parent = create(disk.clone(), Path::new(PARENT));
        replay(&parent, &self.log);
        be_born(&disk, &parent).state_hash()
    }

    fn stores(&self) -> impl Iterator<Item = &ShardStore> {
        std::iter::once(&self.parent).chain(self.child.iter().map(|(child, _)| child))
    }

    fn restart(&mut self) {
        let hashes: Vec<u64> = self.stores().map(ShardStore::state_hash).collect();
        self.disk.crash();
        self.parent = reopen(self.disk.clone(), Path::new(PARENT));
        replay(&self.parent, &self.log);
        // Applied again, the split finds the new replica in place.
        self.parent.heirs().iter().for_each(|heir| heir.renounce());
        if let Some((child, log)) = &mut self.child {
            *child = open_child(&self.disk);
            replay(child, log);
        }
        assert_eq!(
            hashes,
            self.stores().map(ShardStore::state_hash).collect::<Vec<_>>()
        );
    }

    fn check(&self) {
        let found: BTreeMap<String, Bytes> = self.stores().flat_map(pairs).collect();
        let expected = self.model.iter();
        let expected = expected.map(|(key, value)| ((*key).to_owned(), Bytes::from(vec![*value])));
        assert_eq!(found, expected.collect());
        if let (Some(split), Some((child, _))) = (self.split, &self.child) {
            assert!(pairs(&self.parent).iter().all(|(key, _)| key.as_str() < split));
            assert!(pairs(child).iter().all(|(key, _)| key.as_str() >= split));
        }
    }
}

fn replay(store: &ShardStore, log: &[Bytes]) {
    let applied = store.applied().map_or(0, |applied| applied.index);
    for (before, payload) in log.iter().enumerate().skip(usize::try_from(applied).unwrap()) {
        store.apply(at(before as u64 + 1), Some(payload)).unwrap();
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(96))]

    #[test]
    fn two_shards_hold_what_one_held(steps in steps()) {
        let mut world = World::new();
        for step in &steps {
            world.step(step);
            world.check();
        }
        world.restart();
        world.check();
    }
}
