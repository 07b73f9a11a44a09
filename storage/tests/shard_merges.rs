//! Merges against a model: whatever the two shards were through, the one that stays holds what both held, and remembers
//! what either remembered.

// In a test's own functions, too, an unwrap is an assertion.
#![allow(clippy::unwrap_used)]

mod shard_support;

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;
use proptest::prelude::*;
use shard_support::*;
use storage::failpoint::{Action, Failpoints, Firing, HostFailpoints};
use storage::shard::command::{GrantLease, KeepLease, KeyRun, Mutation, Operation, Put, RevokeLease};
use storage::shard::{
    Absorb, AbsorbError, ApplyError, CaptureError, ChangeQuery, EndedLease, Freeze, MergeStep, Outcome,
    OutcomeKind, ReadError, Refusal, ShardIdentity, ShardOptions, ShardStore, Split, Successor, Thaw,
    encode_ended_leases, encode_merge_step, encode_split,
};
use storage::sim_disk::SimDisk;

const LEFT: &str = "/left";
const RIGHT: &str = "/right";
const RIGHT_SHARD: u64 = 8;
const KEYS: [&str; 6] = ["a", "b", "m", "mm", "n", "w"];
/// The versions of both ranges after the split that every test begins with.
const GEN: u64 = 4;

/// A shard, and the one that was split off it at "m". The left one's file has rows that went to the right.
struct Pair {
    disk: Arc<SimDisk>,
    left: ShardStore,
    right: ShardStore,
}

fn right_identity() -> ShardIdentity {
    ShardIdentity {
        shard_id: RIGHT_SHARD,
        replica_id: 21,
        ..identity(1)
    }
}

fn open_right(disk: &Arc<SimDisk>) -> ShardStore {
    ShardStore::open(disk.clone(), Path::new(RIGHT), &right_identity(), options()).unwrap()
}

fn pair() -> Pair {
    let disk = Arc::new(SimDisk::new(1));
    let left = create(disk.clone(), Path::new(LEFT));
    let rows = [put(9, 1, "n", b"old"), put(9, 2, "w", b"gone"), delete(9, 3, "w")];
    apply(&left, 1, &[&[open_session(9)][..], &rows].concat());
    checkpoint(&left);
    let split = Split {
        r#gen: 3,
        key: Bytes::from_static(b"m"),
        shard: RIGHT_SHARD,
        successors: vec![Successor { of: 1, replica: 21 }],
        mark: Bytes::from_static(b"mark 0"),
    };
    enter(&left, encode_split(1, split));
    let [heir] = left.heirs().try_into().unwrap();
    let points = HostFailpoints::disarmed();
    heir.write(&*disk, Path::new(RIGHT), &right_identity(), 1 << 20, &points)
        .unwrap();
    let right = open_right(&disk);
    Pair { disk, left, right }
}

/// Applies an entry at the next index.
fn enter(store: &ShardStore, payload: Bytes) -> Outcome {
    let index = store.applied().map_or(0, |applied| applied.index) + 1;
    let outcomes = store.apply(at(index), Some(&payload)).unwrap();
    outcomes.into_iter().next().unwrap()
}

fn step(store: &ShardStore, step: MergeStep) -> OutcomeKind {
    enter(store, encode_merge_step(1, step)).kind
}

fn freeze() -> MergeStep {
    MergeStep::Freeze(Freeze { r#gen: GEN })
}

fn thaw() -> MergeStep {
    MergeStep::Thaw(Thaw { r#gen: GEN })
}

fn absorb() -> Absorb {
    Absorb {
        r#gen: GEN,
        shard: RIGHT_SHARD,
        shard_gen: GEN + 1,
    }
}

impl Pair {
    fn absorb(&self) -> OutcomeKind {
        checkpoint(&self.left);
        self.left.prepare_absorb(&absorb(), &self.right).unwrap();
        step(&self.left, MergeStep::Absorb(absorb()))
    }

    fn merge(&self) {
        assert_eq!(step(&self.right, freeze()), OutcomeKind::MergeStep);
        assert_eq!(self.absorb(), OutcomeKind::MergeStep);
    }
}

fn of_gen(generation: u64, mutation: Mutation) -> Mutation {
    Mutation {
        r#gen: generation,
        ..mutation
    }
}

/// Applies mutations as clients of after the split send them.
fn write(store: &ShardStore, stamped_ms: u64, mutations: &[Mutation]) -> Vec<Outcome> {
    let mutations: Vec<_> = mutations.iter().cloned().map(|it| of_gen(GEN, it)).collect();
    apply(store, stamped_ms, &mutations)
}

fn value(store: &ShardStore, key: &str) -> Option<Bytes> {
    store.get(key.as_bytes()).unwrap().map(|pair| pair.value)
}

fn changed_keys(store: &ShardStore, start: &'static str, after: u64) -> Vec<Bytes> {
    let query = ChangeQuery {
        after,
        start: start.as_bytes(),
        end: None,
        rows_max: 100,
        bytes_max: 1 << 20,
    };
    let page = store.changes(query).unwrap();
    page.changes.into_iter().map(|pair| pair.key).collect()
}

#[test]
fn the_whole_goes_on_where_the_halves_were() {
    let pair = pair();
    let Pair { left, right, .. } = &pair;
    write(left, 1, &[put(9, 4, "a", b"1")]);
    write(
        right,
        1,
        &[open_session(7), put(9, 5, "n", b"2"), put(7, 1, "w", b"3")],
    );
    write(right, 1, &[put(7, 2, "m", b"4"), put(7, 3, "m", b"5")]);
    let (left_at, right_at) = (left.revision(), right.revision());
    pair.merge();
    assert_eq!(left.revision(), left_at.max(right_at));
    assert_eq!((left.generation(), left.range().end), (GEN + 2, Some("x".into())));
    let expected = [("a", "1"), ("m", "5"), ("n", "2"), ("w", "3")];
    assert_eq!(
        pairs(left),
        expected.map(|(key, value)| (key.to_owned(), Bytes::from(value)))
    );
    // Each part has its past, and goes on from it.
    assert_eq!(left.get_at(b"n", 1).unwrap().unwrap().value, "old");
    assert_eq!(left.get_at(b"m", right_at - 1).unwrap().unwrap().value, "4");
    assert_eq!(changed_keys(left, "m", right_at - 2), ["m", "m"]);
    let next = apply(left, 2, &[of_gen(GEN + 2, put(7, 4, "m", b"6"))]);
    assert_eq!(next[0].revision, left_at.max(right_at) + 1);
    assert_eq!(changed_keys(left, "m", right_at), ["m"]);
    // What either has executed is not executed again; what is new is.
    for mutation in [
        put(9, 4, "a", b"again"),
        put(9, 5, "n", b"again"),
        put(7, 1, "w", b"again"),
    ] {
        let again = apply(left, 2, &[of_gen(GEN, mutation)]);
        assert!(again[0].replayed, "{again:?}");
    }
    let stale = apply(left, 2, &[of_gen(GEN, put(9, 6, "n", b"x"))]);
    assert_eq!(stale[0].kind, OutcomeKind::Refused(Refusal::StaleRange));
    // The file has it all.
    let hash = left.state_hash();
    checkpoint(left);
    pair.disk.crash();
    let again = reopen(pair.disk.clone(), Path::new(LEFT));
    assert_eq!((again.state_hash(), pairs(&again)), (hash, pairs(left)));
}

#[test]
fn a_frozen_shard_changes_no_more() {
    let pair = pair();
    let Pair { left, right, .. } = &pair;
    write(right, 1, &[put(9, 4, "n", b"2")]);
    assert_eq!(step(right, freeze()), OutcomeKind::MergeStep);
    assert!(right.is_frozen() && !right.serves(GEN) && !right.serves(GEN + 1));
    let hash = right.state_hash();
    for generation in [0, GEN, GEN + 1] {
        let refused = apply(
            right,
            9_000,
            &[of_gen(generation, put(9, 5, "n", b"3")), open_session(8)],
        );
        let kinds = refused.into_iter().map(|outcome| outcome.kind);
        assert!(kinds.eq([
            OutcomeKind::Refused(Refusal::StaleRange),
            OutcomeKind::Refused(Refusal::StaleRange)
        ]));
    }
    assert_eq!(step(right, freeze()), OutcomeKind::Refused(Refusal::StaleRange));
    let ended = encode_ended_leases(9_000, vec![EndedLease { id: 5, renewals: 1 }]);
    assert_eq!(
        enter(right, ended).kind,
        OutcomeKind::Refused(Refusal::StaleRange)
    );
    assert_eq!(right.state_hash(), hash, "no session expired either");
    // It stays so over a restart.
    checkpoint(right);
    pair.disk.crash();
    let again = open_right(&pair.disk);
    assert!(again.is_frozen() && again.state_hash() == hash);
    // Thawed, it goes on; and a freeze of before comes too late.
    assert_eq!(step(&again, thaw()), OutcomeKind::MergeStep);
    assert!(again.serves(GEN + 2));
    for late in [freeze(), thaw()] {
        assert_eq!(step(&again, late), OutcomeKind::Refused(Refusal::StaleRange));
    }
    let written = apply(&again, 1, &[of_gen(GEN + 2, put(9, 5, "n", b"3"))]);
    assert!(
        matches!(written[0].kind, OutcomeKind::Applied { .. }),
        "{written:?}"
    );
    // A thaw fences a freeze that has not come yet.
    assert_eq!(step(left, thaw()), OutcomeKind::MergeStep);
    assert_eq!(left.generation(), GEN + 2);
    assert_eq!(step(left, freeze()), OutcomeKind::Refused(Refusal::StaleRange));
}

#[test]
fn only_the_next_shard_is_absorbed_and_only_frozen() {
    let pair = pair();
    let Pair { left, right, .. } = &pair;
    checkpoint(left);
    let not_ready = |absorb: &Absorb, other: &ShardStore| {
        let prepared = left.prepare_absorb(absorb, other);
        assert!(matches!(prepared, Err(AbsorbError::NotReady(_))), "{prepared:?}");
    };
    not_ready(&absorb(), right);
    let unprepared = |index| {
        left.apply(
            at(index),
            Some(&encode_merge_step(1, MergeStep::Absorb(absorb()))),
        )
    };
    let next = left.applied().unwrap().index + 1;
    assert!(matches!(unprepared(next), Err(ApplyError::Unprepared)));
    step(right, freeze());
    not_ready(
        &Absorb {
            shard: 99,
            ..absorb()
        },
        right,
    );
    not_ready(
        &Absorb {
            shard_gen: GEN,
            ..absorb()
        },
        right,
    );
    left.prepare_absorb(&absorb(), right).unwrap();
    // Nothing else may write the file between the copy and the entry.
    assert!(matches!(left.capture(mark(left)), Err(CaptureError::InProgress)));
    assert_eq!(step(left, MergeStep::Absorb(absorb())), OutcomeKind::MergeStep);
    let again = encode_merge_step(1, MergeStep::Absorb(absorb()));
    assert_eq!(left.absorbs(&again), None, "it was absorbed");
    assert_eq!(enter(left, again).kind, OutcomeKind::Refused(Refusal::StaleRange));
    checkpoint(left);
}

fn granted(key: &'static str, on: Option<(&'static str, &'static str)>) -> Operation {
    Operation::GrantLease(GrantLease {
        key: Bytes::from(key),
        lease: 5,
        ttl_ms: 100,
        on: on.map(|(start, end)| KeyRun {
            start: Bytes::from(start),
            end: Bytes::from(end),
        }),
    })
}

fn leased(key: &'static str) -> Operation {
    Operation::Put(Put {
        key: Bytes::from(key),
        value: Bytes::from_static(b"v"),
        return_previous: false,
        lease: 5,
    })
}

fn kept(key: &'static str, until: Option<&'static str>) -> Operation {
    Operation::KeepLease(KeepLease {
        key: Bytes::from(key),
        lease: 5,
        until: until.map(Bytes::from),
    })
}

/// Asks a shard for one operation after another, after those of [`Pair::lease_both`].
fn asking(store: &ShardStore) -> impl FnMut(&Operation) -> OutcomeKind {
    let mut sequence = 7;
    move |operation| {
        sequence += 1;
        let asked = of_gen(0, mutation(9, sequence, operation.clone()));
        apply(store, 1, &[asked])[0].kind.clone()
    }
}

/// Lease 5 ends, if it was renewed so often.
fn lease_ends(renewals: u64) -> Bytes {
    encode_ended_leases(1, vec![EndedLease { id: 5, renewals }])
}

impl Pair {
    /// A lease on both sides, with a key on each.
    fn lease_both(&self) {
        write(
            &self.left,
            1,
            &[mutation(9, 4, granted("a", None)), mutation(9, 5, leased("a"))],
        );
        write(
            &self.right,
            1,
            &[mutation(9, 6, granted("n", None)), mutation(9, 7, leased("n"))],
        );
    }
}

#[test]
fn leases_of_both_sides_become_one_and_begin_anew() {
    let pair = pair();
    pair.lease_both();
    pair.merge();
    let left = &pair.left;
    let (state, keys) = left.lease(5, b"n", 9).0.unwrap();
    assert_eq!(
        (state.renewals, keys),
        (2, vec![Bytes::from("a"), Bytes::from("n")])
    );
    enter(left, lease_ends(1));
    assert_eq!(
        value(left, "n"),
        Some("v".into()),
        "the end was seen before the merge"
    );
    enter(left, lease_ends(2));
    assert_eq!((value(left, "a"), value(left, "n")), (None, None));
}

#[test]
fn a_lease_that_ended_on_one_side_does_not_come_back_there() {
    let pair = pair();
    pair.lease_both();
    // Nobody kept it there.
    enter(&pair.right, lease_ends(1));
    pair.merge();
    checkpoint(&pair.left);
    let Pair { disk, left, right } = pair;
    drop((left, right));
    let merged = ShardStore::open(disk, Path::new(LEFT), &identity(1), options()).unwrap();
    let mut ask = asking(&merged);
    let gone = OutcomeKind::Refused(Refusal::NoLease);
    let revoked = Operation::RevokeLease(RevokeLease {
        key: Bytes::from_static(b"n"),
        lease: 5,
    });
    let there = [
        kept("n", None),
        kept("a", Some("z")),
        kept("a", Some("")),
        leased("z"),
        revoked,
    ];
    for there in there {
        assert_eq!(ask(&there), gone, "{there:?}");
    }
    for here in [kept("a", None), kept("a", Some("m")), leased("b")] {
        assert_ne!(ask(&here), gone, "{here:?}");
    }
    assert_eq!(merged.lease(5, b"n", 9).0, None);
    assert_eq!(merged.lease(5, b"a", 9).0.unwrap().1, ["a", "b"]);
    // Granted there anew, it lives everywhere.
    for again in [granted("n", None), leased("n"), kept("a", Some(""))] {
        assert!(matches!(ask(&again), OutcomeKind::Applied { .. }), "{again:?}");
    }
    assert_eq!(merged.lease(5, b"n", 9).0.unwrap().1, ["a", "b", "n"]);
}

#[test]
fn a_grant_for_other_keys_does_not_bring_back_what_ended() {
    let pair = pair();
    pair.lease_both();
    enter(&pair.right, lease_ends(1));
    pair.merge();
    let mut ask = asking(&pair.left);
    let gone = OutcomeKind::Refused(Refusal::NoLease);
    let there = granted("w", Some(("t", "")));
    assert!(matches!(ask(&there), OutcomeKind::Applied { .. }));
    assert!(matches!(
        ask(&there),
        OutcomeKind::CasFailed { existed: true, .. }
    ));
    for alive in [
        leased("w"),
        kept("a", Some("m")),
        kept("t", Some("")),
        kept("u", None),
    ] {
        assert!(matches!(ask(&alive), OutcomeKind::Applied { .. }), "{alive:?}");
    }
    for ended in [
        leased("n"),
        kept("n", None),
        kept("m", Some("t")),
        kept("a", Some("")),
    ] {
        assert_eq!(ask(&ended), gone, "{ended:?}");
    }
    let senseless = OutcomeKind::Refused(Refusal::Invalid);
    for refused in [
        granted("s", Some(("t", ""))),
        granted("t", Some(("a", "t"))),
        kept("b", Some("b")),
        kept("b", Some("a")),
    ] {
        assert_eq!(ask(&refused), senseless, "{refused:?}");
    }
    // All of the rest, at once: one lease of the whole shard, as if it had never ended.
    assert!(matches!(
        ask(&granted("n", Some(("m", "t")))),
        OutcomeKind::Applied { .. }
    ));
    assert!(matches!(ask(&kept("a", Some(""))), OutcomeKind::Applied { .. }));
}

/// The two sides count their revisions apart, and one may have forgotten what would be long ago on the other.
#[test]
fn each_part_forgets_by_its_own_numbers() {
    let pair = pair();
    let Pair { left, right, .. } = &pair;
    for sequence in 4..30 {
        write(left, 1, &[put(9, sequence, "a", &[sequence as u8])]);
    }
    let revision = left.revision();
    write(left, 1, &[compact(9, 30, "a", revision - 1)]);
    write(right, 1, &[put(9, 31, "n", b"2")]);
    let right_at = right.revision();
    pair.merge();
    assert!(right_at < revision);
    assert_eq!(changed_keys(left, "m", right_at - 1), ["n"], "a watch goes on");
    assert_eq!(left.get_at(b"n", right_at - 1).unwrap().unwrap().value, "old");
    for forgotten in [left.get_at(b"a", right_at), left.get_at(b"b", right_at)] {
        assert!(
            matches!(forgotten, Err(ReadError::Compacted { .. })),
            "{forgotten:?}"
        );
    }
    let oldest = |start: &str, end| left.oldest_revision(start.as_bytes(), end);
    assert_eq!(
        (oldest("a", Some(&b"m"[..])), oldest("m", None)),
        (revision - 1, 0)
    );
    let hash = left.state_hash();
    checkpoint(left);
    let again = reopen(pair.disk.clone(), Path::new(LEFT));
    assert_eq!(
        (again.state_hash(), changed_keys(&again, "m", right_at - 1)),
        (hash, vec!["n".into()])
    );
    // Once the merge is as old as the retention, there is one floor again.
    for (sequence, stamped_ms) in [(32, 1), (33, 600), (34, 1_200)] {
        apply(left, stamped_ms, &[of_gen(GEN + 2, put(9, sequence, "a", b"x"))]);
    }
    assert_eq!(oldest("a", Some(b"m")), oldest("m", None));
    assert!(oldest("m", None) >= revision);
}

#[derive(Debug, Clone)]
enum Step {
    Put(usize, u8),
    Delete(usize),
    Compact(usize),
    Checkpoint,
    /// A crash: what no checkpoint holds is applied again, the merge too.
    Restart,
    /// The merge is given up, where it had begun.
    Thaw,
    Merge,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let key = 0..KEYS.len();
    let step = prop_oneof![
        8 => (key.clone(), any::<u8>()).prop_map(|(key, value)| Step::Put(key, value)),
        3 => key.clone().prop_map(Step::Delete),
        1 => key.prop_map(Step::Compact),
        2 => Just(Step::Checkpoint),
        2 => Just(Step::Restart),
        1 => Just(Step::Thaw),
        1 => Just(Step::Merge),
    ];
    prop::collection::vec(step, 1..60)
}

/// The logs of both shards, and one replica of each.
struct World {
    pair: Pair,
    logs: [Vec<Bytes>; 2],
    gens: [u64; 2],
    sequence: u64,
    merged: Option<Absorb>,
    model: BTreeMap<&'static str, u8>,
}

impl World {
    fn new() -> World {
        let pair = pair();
        checkpoint(&pair.left);
        write(&pair.right, 1, &[delete(9, 4, "n")]);
        checkpoint(&pair.right);
        World {
            pair,
            logs: [Vec::new(), Vec::new()],
            gens: [GEN, GEN],
            sequence: 10,
            merged: None,
            model: BTreeMap::new(),
        }
    }

    fn enter(&mut self, side: usize, payload: Bytes) {
        let store = [&self.pair.left, &self.pair.right][side];
        self.logs[side].push(payload.clone());
        let outcome = enter(store, payload);
        assert!(!matches!(outcome.kind, OutcomeKind::Refused(_)), "{outcome:?}");
    }

    fn write(&mut self, key: &'static str, mutation: Mutation) {
        let side = usize::from(self.merged.is_none() && key >= "m");
        let mutation = of_gen(self.gens[side], mutation);
        self.enter(side, batch(1, &[mutation]));
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
            Step::Compact(key) => {
                let side = usize::from(self.merged.is_none() && KEYS[key] >= "m");
                let revision = [&self.pair.left, &self.pair.right][side].revision();
                self.write(KEYS[key], compact(9, self.sequence, KEYS[key], revision));
            }
            Step::Checkpoint => self.stores().for_each(checkpoint),
            Step::Restart => self.restart(),
            Step::Thaw if self.merged.is_none() => self.give_up(),
            Step::Merge if self.merged.is_none() => self.merge(),
            Step::Thaw | Step::Merge => {}
        }
    }

    fn freeze(&mut self) -> Absorb {
        let step = MergeStep::Freeze(Freeze { r#gen: self.gens[1] });
        self.enter(1, encode_merge_step(1, step));
        Absorb {
            r#gen: self.gens[0],
            shard_gen: self.gens[1] + 1,
            ..absorb()
        }
    }

    /// A merge that comes as far as the copy, ends with a crash, and is then given up.
    fn give_up(&mut self) {
        let absorb = self.freeze();
        checkpoint(&self.pair.left);
        self.pair.left.prepare_absorb(&absorb, &self.pair.right).unwrap();
        self.restart();
        let step = MergeStep::Thaw(Thaw { r#gen: self.gens[1] });
        self.enter(1, encode_merge_step(1, step));
        self.gens[1] += 2;
    }

    fn merge(&mut self) {
        let absorb = self.freeze();
        checkpoint(&self.pair.left);
        self.pair.left.prepare_absorb(&absorb, &self.pair.right).unwrap();
        self.enter(0, encode_merge_step(1, MergeStep::Absorb(absorb)));
        self.gens[0] = absorb.gen_after();
        assert_eq!(self.pair.left.generation(), absorb.gen_after());
        self.merged = Some(absorb);
    }

    /// The shards that count.
    fn stores(&self) -> impl Iterator<Item = &ShardStore> {
        let right = self.merged.is_none().then_some(&self.pair.right);
        std::iter::once(&self.pair.left).chain(right)
    }

    fn restart(&mut self) {
        let hashes: Vec<u64> = self.stores().map(ShardStore::state_hash).collect();
        self.pair.disk.crash();
        self.pair.left = reopen(self.pair.disk.clone(), Path::new(LEFT));
        self.pair.right = open_right(&self.pair.disk);
        let from = [3, 2];
        replay_from(&self.pair.right, from[1], &self.logs[1], |_| {});
        let Pair { left, right, .. } = &self.pair;
        replay_from(left, from[0], &self.logs[0], |payload| {
            if let Some(absorb) = left.absorbs(payload) {
                checkpoint(left);
                left.prepare_absorb(&absorb, right).unwrap();
            }
        });
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
    }
}

/// Applies again what lies above the position; `log` begins at the index `from`.
fn replay_from(store: &ShardStore, from: u64, log: &[Bytes], before: impl Fn(&Bytes)) {
    for (index, payload) in (from..).zip(log) {
        if store.applied().is_none_or(|applied| applied.index < index) {
            before(payload);
            store.apply(at(index), Some(payload)).unwrap();
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(96))]
    #[test]
    fn whatever_the_two_were_through(steps in steps()) {
        let mut world = World::new();
        for step in &steps {
            world.step(step);
            world.check();
        }
        world.restart();
        world.check();
    }
}

/// A crash between the copy and the checkpoint leaves the rows of the right shard, which may have changed since.
#[test]
fn a_copy_that_fails_half_way_is_made_again() {
    let registry = Failpoints::new(1);
    for point in [
        "shard.absorb.before_copy",
        "shard.rewrite.piece",
        "shard.absorb.after_copy",
    ] {
        let pair = pair();
        write(&pair.right, 1, &[put(9, 4, "m", b"1"), put(9, 5, "n", b"2")]);
        step(&pair.right, freeze());
        checkpoint(&pair.left);
        let armed = ShardOptions {
            failpoints: registry.host(0),
            ..options()
        };
        let left = ShardStore::open(pair.disk.clone(), Path::new(LEFT), &identity(1), armed).unwrap();
        registry.arm(0, point, Action::ReturnError, Firing::Nth(1));
        assert!(left.prepare_absorb(&absorb(), &pair.right).is_err(), "{point}");
        checkpoint(&left);
        left.prepare_absorb(&absorb(), &pair.right).unwrap();
        step(&left, MergeStep::Absorb(absorb()));
        assert_eq!(
            (value(&left, "m"), value(&left, "w")),
            (Some("1".into()), None),
            "{point}"
        );
        let hash = left.state_hash();
        checkpoint(&left);
        drop(left);
        assert_eq!(
            reopen(pair.disk.clone(), Path::new(LEFT)).state_hash(),
            hash,
            "{point}"
        );
    }
}
