//! Exactly once: random clients that retry, reorder and time out, against a model of a few lines.
//!
//! The store is checkpointed, abandons checkpoints, and is reopened at random, after which the log is
//! replayed from its applied position, as after a crash. Whatever happens, every outcome equals the
//! model's, the data is the model's at every readable revision, and the fingerprint equals that of a
//! store that applied the same log without any of it.

// In a test's own functions, too, an unwrap is an assertion.
#![allow(clippy::unwrap_used)]

mod shard_support;

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;
use proptest::collection::vec;
use proptest::prelude::*;
use shard_support::*;
use storage::shard::command::{
    Act, Action, Compare, Delete, DeleteRange, Expectation, Get, Mutation, Operand, Operation, Put, Relation,
    Scan, Transaction,
};
use storage::shard::{Acted, Capture, KeyValue, Outcome, OutcomeKind, Refusal, ShardStore};
use storage::sim_disk::SimDisk;

const PATH: &str = "/shard";

/// One thing that happens.
#[derive(Debug, Clone)]
enum Event {
    /// An entry with these mutations, this long after the one before.
    Entry { after_ms: u64, mutations: Vec<Mutation> },
    /// An entry that is none of the machine's.
    Blank,
    /// A checkpoint is captured and written.
    Checkpoint,
    /// A checkpoint is captured; it is written, or abandoned, after the next entry.
    Capture { write: bool },
    /// The process dies and starts again.
    Reopen,
}

fn operation() -> impl Strategy<Value = Operation> {
    let key = prop::sample::select(vec!["b", "c", "d", "z", "toolongkey"]);
    let key_too = key.clone();
    let value = prop::sample::select(vec!["1", "2", "3"]);
    let expect = prop_oneof![
        any::<bool>().prop_map(Expectation::Absent),
        prop::sample::select(vec!["1", "2"]).prop_map(|value| Expectation::Value(Bytes::from(value))),
        (0_u64..12).prop_map(Expectation::Revision),
    ];
    let swap = (key.clone(), value.clone(), expect)
        .prop_map(|(key, value, expect)| compare_and_set(0, 0, key, expect, value.as_bytes()));
    let plain = prop_oneof![
        2 => Just(open_session(0)),
        3 => (key.clone(), value).prop_map(|(key, value)| put(0, 0, key, value.as_bytes())),
        2 => key.prop_map(|key| delete(0, 0, key)),
        2 => swap,
        3 => transaction(),
        1 => (key_too, 0_u64..8).prop_map(|(key, revision)| compact(0, 0, key, revision)),
    ];
    plain.prop_map(|mutation| mutation.operation.unwrap())
}

fn transaction() -> impl Strategy<Value = Mutation> {
    let key = || {
        let likely = prop::sample::select(vec!["b", "c", "d", "e"]);
        prop_oneof![30 => likely, 1 => Just("z"), 1 => Just("toolongkey")].prop_map(Bytes::from)
    };
    let value = || prop::sample::select(vec!["1", "2", "3"]).prop_map(Bytes::from);
    let operand = prop_oneof![
        value().prop_map(Operand::Value),
        (0_u64..4).prop_map(Operand::Version),
        (0_u64..12).prop_map(Operand::CreateRevision),
        (0_u64..12).prop_map(Operand::ModRevision),
        any::<bool>().prop_map(Operand::Exists),
        (0_u64..2).prop_map(Operand::Lease),
    ];
    let compare = (key(), 0_i32..4, operand).prop_map(|(key, relation, operand)| Compare {
        key,
        relation,
        operand: Some(operand),
    });
    let put = (key(), value()).prop_map(|(key, value)| {
        Act::Put(Put {
            key,
            value,
            return_previous: true,
            lease: 0,
        })
    });
    let delete = key().prop_map(|key| {
        Act::Delete(Delete {
            key,
            return_previous: true,
        })
    });
    let get = key().prop_map(|key| Act::Get(Get { key, revision: 0 }));
    let ends = prop::sample::select(vec!["", "c", "e", "x"]);
    let scan = (prop::sample::select(vec!["a", "c"]), ends, 0_u32..4).prop_map(|(start, end, limit)| {
        Act::Scan(Scan {
            start: Bytes::from(start),
            end: Bytes::from(end),
            limit,
            revision: 0,
        })
    });
    let range_ends = prop::sample::select(vec!["", "a", "c", "d", "e", "x", "y"]);
    let range = (prop::sample::select(vec!["a", "c", "d"]), range_ends).prop_map(|(start, end)| {
        Act::DeleteRange(DeleteRange {
            start: Bytes::from(start),
            end: Bytes::from(end),
        })
    });
    let act = prop_oneof![3 => put, 2 => delete, 1 => get, 2 => scan, 1 => range];
    let action = act.prop_map(|act| Action { act: Some(act) }).boxed();
    let lists = (vec(action.clone(), 0..4), vec(action, 0..4));
    (vec(compare, 0..3), lists).prop_map(|(compares, (then, otherwise))| Mutation {
        operation: Some(Operation::Transaction(Transaction {
            compares,
            then,
            otherwise,
        })),
        ..open_session(0)
    })
}

/// Few sessions and sequences, so that most mutations repeat one that went before.
fn mutation() -> impl Strategy<Value = Mutation> {
    let range_version = prop_oneof![8 => Just(3_u64), 1 => Just(0), 1 => Just(2)];
    let numbers = (0_u64..6, 0_u64..7, 0_u64..5, range_version);
    (numbers, operation()).prop_map(|((session, sequence, low_water, range_version), operation)| {
        let opens = matches!(operation, Operation::OpenSession(_));
        Mutation {
            session,
            sequence: if opens { sequence / 6 } else { sequence },
            low_water,
            r#gen: range_version,
            operation: Some(operation),
        }
    })
}

fn event() -> impl Strategy<Value = Event> {
    let entry = (0_u64..300, vec(mutation(), 1..5))
        .prop_map(|(after_ms, mutations)| Event::Entry { after_ms, mutations });
    prop_oneof![
        8 => entry,
        1 => Just(Event::Blank),
        1 => Just(Event::Checkpoint),
        1 => any::<bool>().prop_map(|write| Event::Capture { write }),
        1 => Just(Event::Reopen),
    ]
}

#[derive(Debug, Clone)]
struct ModelSession {
    last_active_ms: u64,
    low_water: u64,
    done: BTreeMap<u64, (OutcomeKind, u64)>,
}

/// The semantics, as plainly as they can be said.
#[derive(Default)]
struct Model {
    clock_ms: u64,
    sessions: BTreeMap<u64, ModelSession>,
    /// The data at each revision from 0.
    history: Vec<BTreeMap<String, KeyValue>>,
    /// The highest revision that was compacted.
    compacted: u64,
}

impl Model {
    fn new() -> Model {
        Model {
            history: vec![BTreeMap::new()],
            ..Model::default()
        }
    }

    fn revision(&self) -> u64 {
        self.history.len() as u64 - 1
    }

    fn apply(&mut self, stamped_ms: u64, mutations: &[Mutation]) -> Vec<Outcome> {
        self.clock_ms = self.clock_ms.max(stamped_ms);
        let clock_ms = self.clock_ms;
        self.sessions
            .retain(|_, session| session.last_active_ms + 1_000 >= clock_ms);
        mutations
            .iter()
            .map(|mutation| self.apply_one(mutation))
            .collect()
    }

    fn apply_one(&mut self, mutation: &Mutation) -> Outcome {
        let (kind, revision, replayed) = match self.try_apply(mutation) {
            Ok(executed) => executed,
            Err(kind) => (kind, self.revision(), false),
        };
        Outcome {
            revision,
            kind,
            replayed,
        }
    }

    /// The outcome, its revision, and whether it was remembered.
    fn try_apply(&mut self, mutation: &Mutation) -> Result<(OutcomeKind, u64, bool), OutcomeKind> {
        let refuse = |refusal| Err(OutcomeKind::Refused(refusal));
        let Some(operation) = &mutation.operation else {
            return refuse(Refusal::Invalid);
        };
        let range_fits = mutation.r#gen == 0 || mutation.r#gen == 3;
        if mutation.session == 0 {
            return refuse(Refusal::Invalid);
        }
        if let Operation::OpenSession(_) = operation {
            return match (range_fits, mutation.sequence) {
                (false, _) => refuse(Refusal::StaleRange),
                (true, 0) => Err(self.open(mutation.session)),
                (true, _) => refuse(Refusal::Invalid),
            };
        }
        if mutation.sequence == 0 || mutation.low_water > mutation.sequence {
            return refuse(Refusal::Invalid);
        }
        let Some(session) = self.sessions.get_mut(&mutation.session) else {
            return refuse(Refusal::SessionExpired);
        };
        session.last_active_ms = self.clock_ms;
        session.low_water = session.low_water.max(mutation.low_water);
        if mutation.sequence < session.low_water {
            return refuse(Refusal::SequenceForgotten);
        }
        if let Some((kind, revision)) = session.done.get(&mutation.sequence) {
            return Ok((kind.clone(), *revision, true));
        }
        if !range_fits {
            return refuse(Refusal::StaleRange);
        }
        self.check(operation)?;
        if let Operation::Transaction(transaction) = operation
            && self.range_keys(transaction) > 3
        {
            return refuse(Refusal::TooLarge);
        }
        let kind = self.execute(operation);
        let revision = self.revision();
        let session = self.sessions.get_mut(&mutation.session).unwrap();
        session
            .done
            .insert(mutation.sequence, (without_pairs(&kind), revision));
        Ok((kind, revision, false))
    }

    fn open(&mut self, id: u64) -> OutcomeKind {
        let last_active_ms = self.clock_ms;
        if self.sessions.len() == 4 && !self.sessions.contains_key(&id) {
            let by_idleness = self.sessions.iter();
            let (idle_since_ms, idlest) = by_idleness
                .map(|(other, session)| (session.last_active_ms, *other))
                .min()
                .unwrap();
            if last_active_ms - idle_since_ms < 400 {
                return OutcomeKind::Refused(Refusal::TooManySessions);
            }
            self.sessions.remove(&idlest);
        }
        let session = self.sessions.entry(id).or_insert(ModelSession {
            last_active_ms,
            low_water: 0,
            done: BTreeMap::new(),
        });
        session.last_active_ms = last_active_ms;
        OutcomeKind::SessionOpened
    }

    fn check(&self, operation: &Operation) -> Result<(), OutcomeKind> {
        let refuse = |refusal| Err(OutcomeKind::Refused(refusal));
        match operation {
            Operation::CompareAndSet(swap) if swap.expect == Some(Expectation::Absent(false)) => {
                refuse(Refusal::Invalid)
            }
            Operation::Transaction(transaction) => self.check_transaction(transaction),
            _ => {
                check_key(&key_of(operation))?;
                match operation {
                    Operation::Compact(compact) if compact.revision > self.revision() => {
                        refuse(Refusal::FutureRevision)
                    }
                    _ => Ok(()),
                }
            }
        }
    }

    fn check_transaction(&self, transaction: &Transaction) -> Result<(), OutcomeKind> {
        let Transaction {
            compares,
            then,
            otherwise,
        } = transaction;
        if compares.len() + then.len() + otherwise.len() > 8 {
            return Err(OutcomeKind::Refused(Refusal::TooLarge));
        }
        for compare in compares {
            check_key(&text(&compare.key))?;
        }
        for list in [then, otherwise] {
            let mut changed = BTreeSet::new();
            let mut ranges: Vec<&DeleteRange> = Vec::new();
            for action in list {
                let (key, changes) = match action.act.as_ref().unwrap() {
                    Act::DeleteRange(range) if !range.end.is_empty() && range.end <= range.start => {
                        return Err(OutcomeKind::Refused(Refusal::Invalid));
                    }
                    Act::DeleteRange(range) if range.end > "x" => {
                        return Err(OutcomeKind::Refused(Refusal::OutOfRange));
                    }
                    Act::DeleteRange(range) => {
                        ranges.push(range);
                        continue;
                    }
                    Act::Put(put) => (&put.key, true),
                    Act::Delete(delete) => (&delete.key, true),
                    Act::Get(get) => (&get.key, false),
                    Act::Scan(_) => continue,
                };
                check_key(&text(key))?;
                if changes && !changed.insert(key) {
                    return Err(OutcomeKind::Refused(Refusal::Invalid));
                }
            }
            // Every key that is drawn, and one behind them all for a range that has none of them.
            let probes = ["a", "b", "c", "d", "e", "w"];
            let twice = probes.iter().any(|key| {
                let held = ranges
                    .iter()
                    .filter(|range| in_range(range, key.as_bytes()))
                    .count();
                held + usize::from(changed.iter().any(|other| &other[..] == key.as_bytes())) > 1 && held > 0
            });
            if twice {
                return Err(OutcomeKind::Refused(Refusal::Invalid));
            }
        }
        Ok(())
    }

    /// The keys in the ranges that the list which is taken deletes.
    fn range_keys(&self, transaction: &Transaction) -> usize {
        let succeeded = transaction.compares.iter().all(|compare| self.holds(compare));
        let list = match succeeded {
            true => &transaction.then,
            false => &transaction.otherwise,
        };
        let deleted = |key: &String| {
            list.iter().any(|action| match action.act.as_ref().unwrap() {
                Act::DeleteRange(range) => in_range(range, key.as_bytes()),
                _ => false,
            })
        };
        self.now().keys().filter(|key| deleted(key)).count()
    }

    fn now(&self) -> &BTreeMap<String, KeyValue> {
        self.history.last().unwrap()
    }

    fn execute(&mut self, operation: &Operation) -> OutcomeKind {
        let applied = |existed, previous| OutcomeKind::Applied { existed, previous };
        if let Operation::Transaction(transaction) = operation {
            return self.transact(transaction);
        }
        let key = key_of(operation);
        let before = self.now().get(&key).cloned();
        let existed = before.is_some();
        match operation {
            Operation::Put(put) => self.change(&[(&key, Some(put.value.clone()))]),
            Operation::Delete(_) => self.change(&[(&key, None)]),
            Operation::CompareAndSet(swap) => {
                let holds = match (swap.expect.as_ref().unwrap(), &before) {
                    (Expectation::Absent(_), None) => true,
                    (Expectation::Value(value), Some(pair)) => pair.value == value,
                    (Expectation::Revision(revision), Some(pair)) => pair.mod_revision == *revision,
                    _ => false,
                };
                if !holds {
                    return OutcomeKind::CasFailed {
                        existed,
                        current: before,
                    };
                }
                self.change(&[(&key, Some(swap.new_value.clone()))]);
                return applied(existed, None);
            }
            Operation::Compact(compact) => {
                self.compacted = self.compacted.max(compact.revision);
                return applied(false, None);
            }
            _ => unreachable!("done elsewhere, or not drawn"),
        }
        applied(existed, before)
    }

    fn transact(&mut self, transaction: &Transaction) -> OutcomeKind {
        let succeeded = transaction.compares.iter().all(|compare| self.holds(compare));
        let list = match succeeded {
            true => &transaction.then,
            false => &transaction.otherwise,
        };
        // The state within the transaction: what it has changed so far lies over the rest.
        let begun = self.history.len();
        let mut changes: Vec<(String, Option<Bytes>)> = Vec::new();
        let mut acted = Vec::new();
        for action in list {
            let current = self.now();
            acted.push(match action.act.as_ref().unwrap() {
                Act::Get(get) => Acted::Read(current.get(&text(&get.key)).cloned()),
                Act::Scan(scan) => {
                    let limit = match scan.limit {
                        0 => 3,
                        limit => limit.min(3) as usize,
                    };
                    let in_range = |key: &&String| {
                        key.as_bytes() >= &scan.start[..]
                            && (scan.end.is_empty() || key.as_bytes() < &scan.end[..])
                    };
                    let keys: Vec<_> = current.keys().filter(in_range).collect();
                    let pairs = keys.iter().take(limit).map(|key| current[*key].clone()).collect();
                    let next = keys.get(limit).map(|key| Bytes::copy_from_slice(key.as_bytes()));
                    Acted::Scanned { pairs, next }
                }
                Act::DeleteRange(range) => {
                    let doomed: Vec<String> = current
                        .keys()
                        .filter(|key| in_range(range, key.as_bytes()))
                        .cloned()
                        .collect();
                    let keys = doomed.len() as u64;
                    changes.extend(doomed.into_iter().map(|key| (key, None)));
                    self.history.truncate(begun);
                    let so_far: Vec<_> = changes
                        .iter()
                        .map(|(key, value)| (key.as_str(), value.clone()))
                        .collect();
                    self.change(&so_far);
                    Acted::RangeDeleted { keys }
                }
                change => {
                    let (key, value) = match change {
                        Act::Put(put) => (text(&put.key), Some(put.value.clone())),
                        Act::Delete(delete) => (text(&delete.key), None),
                        _ => unreachable!("matched above"),
                    };
                    let previous = current.get(&key).cloned();
                    changes.push((key, value));
                    self.history.truncate(begun);
                    let so_far: Vec<_> = changes
                        .iter()
                        .map(|(key, value)| (key.as_str(), value.clone()))
                        .collect();
                    self.change(&so_far);
                    Acted::Changed {
                        existed: previous.is_some(),
                        previous,
                    }
                }
            });
        }
        OutcomeKind::Transacted {
            succeeded,
            acted: Some(acted),
        }
    }

    fn holds(&self, compare: &Compare) -> bool {
        let pair = self.now().get(&text(&compare.key));
        let ordering = match compare.operand.as_ref().unwrap() {
            Operand::Exists(exists) => pair.is_some().cmp(exists),
            // No lease is ever granted here.
            Operand::Lease(lease) => 0.cmp(lease),
            Operand::Version(version) => pair.map_or(0, |pair| pair.version).cmp(version),
            Operand::CreateRevision(revision) => pair.map_or(0, |pair| pair.create_revision).cmp(revision),
            Operand::ModRevision(revision) => pair.map_or(0, |pair| pair.mod_revision).cmp(revision),
            Operand::Value(value) => match pair {
                Some(pair) => pair.value.cmp(value),
                None => return false,
            },
        };
        match compare.relation() {
            Relation::Equal => ordering.is_eq(),
            Relation::NotEqual => ordering.is_ne(),
            Relation::Greater => ordering.is_gt(),
            Relation::Less => ordering.is_lt(),
        }
    }

    /// The versions of a key that are seen from `floor` on, the newest first; `None`: a deletion.
    fn versions(&self, key: &str, floor: u64) -> Vec<(u64, Option<KeyValue>)> {
        let at = |revision: u64| self.history[revision as usize].get(key).cloned();
        let changes = (floor + 1..=self.revision()).rev();
        let changes = changes.filter(|revision| at(*revision) != at(revision - 1));
        let before = at(floor).map(|pair| (pair.mod_revision, Some(pair)));
        changes
            .map(|revision| (revision, at(revision)))
            .chain(before)
            .collect()
    }

    /// Changes keys at one revision, if there is anything to change.
    fn change<K: AsRef<str>>(&mut self, changes: &[(K, Option<Bytes>)]) {
        let mut next = self.now().clone();
        let mod_revision = self.history.len() as u64;
        let mut changed = false;
        for (key, value) in changes {
            let before = next.remove(key.as_ref());
            changed |= before.is_some() || value.is_some();
            if let Some(value) = value {
                let pair = KeyValue {
                    key: Bytes::copy_from_slice(key.as_ref().as_bytes()),
                    value: value.clone(),
                    create_revision: before.as_ref().map_or(mod_revision, |pair| pair.create_revision),
                    mod_revision,
                    version: before.map_or(1, |pair| pair.version + 1),
                    lease: 0,
                };
                next.insert(key.as_ref().to_owned(), pair);
            }
        }
        if changed {
            self.history.push(next);
        }
    }
}

fn in_range(range: &DeleteRange, key: &[u8]) -> bool {
    key >= &range.start[..] && (range.end.is_empty() || key < &range.end[..])
}

fn check_key(key: &str) -> Result<(), OutcomeKind> {
    match key {
        "toolongkey" => Err(OutcomeKind::Refused(Refusal::TooLarge)),
        "z" => Err(OutcomeKind::Refused(Refusal::OutOfRange)),
        _ => Ok(()),
    }
}

fn text(key: &Bytes) -> String {
    String::from_utf8(key.to_vec()).unwrap()
}

/// What is remembered of an outcome.
fn without_pairs(kind: &OutcomeKind) -> OutcomeKind {
    match kind.clone() {
        OutcomeKind::Applied { existed, .. } => OutcomeKind::Applied {
            existed,
            previous: None,
        },
        OutcomeKind::CasFailed { existed, .. } => OutcomeKind::CasFailed {
            existed,
            current: None,
        },
        OutcomeKind::Transacted { succeeded, .. } => OutcomeKind::Transacted {
            succeeded,
            acted: None,
        },
        other => other,
    }
}

fn key_of(operation: &Operation) -> String {
    text(match operation {
        Operation::Put(put) => &put.key,
        Operation::Delete(delete) => &delete.key,
        Operation::CompareAndSet(swap) => &swap.key,
        Operation::Compact(compact) => &compact.key,
        _ => unreachable!("it has no one key"),
    })
}

/// The store under test, its log, and a capture that may be in flight.
struct Run {
    disk: Arc<SimDisk>,
    store: Option<ShardStore>,
    capture: Option<(Capture, bool)>,
    log: Vec<Option<Bytes>>,
    clock_ms: u64,
    model: Model,
}

impl Run {
    fn step(&mut self, event: &Event) {
        match event {
            Event::Entry { after_ms, mutations } => {
                self.clock_ms += after_ms;
                let outcomes = self.append(Some(batch(self.clock_ms, mutations)));
                let expected = self.model.apply(self.clock_ms, mutations);
                assert_eq!(outcomes, expected, "{mutations:?}");
                self.end_capture();
            }
            Event::Blank => {
                self.append(None);
            }
            Event::Checkpoint => {
                self.end_capture();
                checkpoint(self.store());
            }
            Event::Capture { write } => {
                self.end_capture();
                self.capture = Some((self.store().capture(mark(self.store())).unwrap(), *write));
            }
            Event::Reopen => self.reopen(),
        }
        self.check();
    }

    fn store(&self) -> &ShardStore {
        self.store.as_ref().unwrap()
    }

    fn append(&mut self, payload: Option<Bytes>) -> Vec<Outcome> {
        self.log.push(payload);
        self.store()
            .apply(at(self.log.len() as u64), self.log.last().unwrap().as_ref())
            .unwrap()
    }

    fn end_capture(&mut self) {
        if let Some((capture, true)) = self.capture.take() {
            capture.write().unwrap();
        }
    }

    fn reopen(&mut self) {
        self.capture = None;
        let durable = self.store().durable_applied();
        self.store = None;
        let store = reopen(self.disk.clone(), Path::new(PATH));
        assert_eq!(store.applied(), durable);
        let expected_mark = durable.map(|at| format!("mark {}", at.index));
        assert_eq!(
            store.mark().filter(|_| durable.is_some()),
            expected_mark.map(Bytes::from)
        );
        let replayed_from = durable.map_or(0, |at| at.index as usize);
        for (entry, payload) in self.log.iter().enumerate().skip(replayed_from) {
            store.apply(at(entry as u64 + 1), payload.as_ref()).unwrap();
        }
        self.store = Some(store);
    }

    fn check(&self) {
        let store = self.store();
        assert_eq!(store.revision(), self.model.revision());
        for revision in store.oldest_revision(b"", None)..=store.revision() {
            let data = &self.model.history[revision as usize];
            for key in ["b", "c", "d", "e"] {
                assert_eq!(
                    store.get_at(key.as_bytes(), revision).unwrap().as_ref(),
                    data.get(key)
                );
            }
            let then: Vec<_> = data.values().cloned().collect();
            let page = store
                .scan_at(b"", None, usize::MAX, usize::MAX, revision)
                .unwrap();
            assert_eq!(page.pairs, then, "at {revision}");
        }
        let oldest = store.oldest_revision(b"", None);
        assert!(oldest >= self.model.compacted);
        for key in ["b", "c", "d", "e"] {
            let found = store
                .history(key.as_bytes(), None, usize::MAX, usize::MAX)
                .unwrap();
            let versions = found.unwrap().versions.into_iter();
            let versions: Vec<_> = versions
                .map(|version| (version.mod_revision, (version.version > 0).then_some(version)))
                .collect();
            assert_eq!(versions, self.model.versions(key, oldest), "{key}");
        }
        let data: Vec<_> = self.model.history.last().unwrap().values().cloned().collect();
        assert_eq!(store.scan(b"", None, usize::MAX, usize::MAX).unwrap().pairs, data);
        let bytes: usize = data.iter().map(|pair| pair.key.len() + pair.value.len()).sum();
        let stats = store.stats();
        assert_eq!((stats.keys, stats.bytes), (data.len() as u64, bytes as u64));
        assert_eq!(stats.sessions, self.model.sessions.len() as u64);
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 256, ..ProptestConfig::default() })]

    #[test]
    fn every_mutation_takes_effect_once(events in vec(event(), 1..60)) {
        let disk = Arc::new(SimDisk::new(0));
        let mut run = Run {
            store: Some(create(disk.clone(), Path::new(PATH))),
            disk: disk.clone(),
            capture: None,
            log: Vec::new(),
            clock_ms: 1_000,
            model: Model::new(),
        };
        for event in &events {
            run.step(event);
        }
        let undisturbed = create(disk, Path::new("/undisturbed"));
        for (entry, payload) in run.log.iter().enumerate() {
            undisturbed.apply(at(entry as u64 + 1), payload.as_ref()).unwrap();
        }
        prop_assert_eq!(run.store().state_hash(), undisturbed.state_hash());
    }
}

/// The generator must reach what the test is about, or its success says little.
#[test]
fn the_random_clients_meet_every_outcome() {
    use proptest::strategy::ValueTree;
    use proptest::test_runner::TestRunner;
    let mut runner = TestRunner::deterministic();
    let mut met = BTreeSet::new();
    for _ in 0..200 {
        let events = vec(event(), 1..60).new_tree(&mut runner).unwrap().current();
        let (mut model, mut clock_ms) = (Model::new(), 1_000);
        for event in events {
            if let Event::Entry { after_ms, mutations } = event {
                clock_ms += after_ms;
                for outcome in model.apply(clock_ms, &mutations) {
                    met.insert(kind_name(&outcome));
                }
            }
        }
    }
    assert_eq!(met.len(), 21, "{met:?}");
}

fn kind_name(outcome: &Outcome) -> String {
    match &outcome.kind {
        OutcomeKind::Applied { existed, .. } => {
            format!("applied, existed {existed}, replayed {}", outcome.replayed)
        }
        OutcomeKind::CasFailed { existed, .. } => {
            format!("cas failed, existed {existed}, replayed {}", outcome.replayed)
        }
        OutcomeKind::Transacted { succeeded, .. } => {
            format!("transacted, succeeded {succeeded}, replayed {}", outcome.replayed)
        }
        OutcomeKind::SessionOpened => "session opened".to_owned(),
        OutcomeKind::Split => "split".to_owned(),
        OutcomeKind::MergeStep => "merge step".to_owned(),
        OutcomeKind::Refused(refusal) => format!("{refusal:?}"),
    }
}
