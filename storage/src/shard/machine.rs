//! The key-value machine: what a batch of mutations does to a shard's state. Pure.
//!
//! How a mutation is taken, in this order: does it make sense; is its session open; was it executed
//! before (then the remembered outcome answers); does the shard still have the range the client
//! believed in; is the key in the range; are key and value within the limits. Only then is it
//! executed. Every mutation that changes something gets the next revision of the shard, and no other
//! does, as in etcd.
//!
//! What must hold:
//! - nothing but the state, the position and the batch decides an outcome: time is the leader's
//!   stamp, made monotone; limits are part of the state and travel with it;
//! - nothing that a command brings panics: it is refused, equally on every replica.
//!
//! Values that lie in the file are not part of the state in memory. `values_needed` names those a
//! batch will look at, its caller reads them, and `apply_batch` gets them as `StoredValues`.

use std::collections::BTreeMap;

use bytes::Bytes;

use super::bounds;
use super::command::{
    Batch, Compact, CompareAndSet, Delete, EndedLease, Expectation, GrantLease, KeepLease, Mutation,
    NewGroup, Operation, Put, RevokeLease, Transaction,
};
use super::fingerprint::Fingerprint;
use super::fresh::{FreshRow, FreshRows};
use super::index::{Head, KeyIndex};
use super::key::Key;
use super::lease::Leases;
use super::limits::Limits;
use super::record::{LimitsBody, Row};
use super::retention::Retention;
use super::session::{Effect, Remembered, Sessions, Standing, TooManySessions};
use super::transaction::Acted;
use crate::seeded_bug;

/// A position in the shard's log.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Position {
    /// The term of the leader that proposed the entry.
    pub term: u64,
    /// The entry's index.
    pub index: u64,
}

/// The keys a shard holds, and the version of that range.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ShardRange {
    /// The first key.
    pub start: Bytes,
    /// The first key beyond; `None`: to the end of the key space.
    pub end: Option<Bytes>,
    /// The range's version: a mutation that names another is refused.
    pub r#gen: u64,
}

impl ShardRange {
    /// Whether the range holds a key.
    pub fn contains(&self, key: &[u8]) -> bool {
        bounds::contains(&self.start, self.end.as_deref(), key)
    }

    /// Whether the range holds all keys of `[start, end)`; an `end` of `None` means to the end of the key space.
    pub fn covers(&self, start: &[u8], end: Option<&[u8]>) -> bool {
        self.start <= start && bounds::ends_within(end, self.end.as_deref())
    }
}

/// A key that exists, and its newest version at the time of reading.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeyValue {
    /// The key.
    pub key: Bytes,
    /// The value.
    pub value: Bytes,
    /// The revision at which the key came into being.
    pub create_revision: u64,
    /// The revision of its last change.
    pub mod_revision: u64,
    /// 1 at creation, 1 more each change.
    pub version: u64,
    /// The lease that the key hangs on; 0: on none.
    pub lease: u64,
}

/// What became of a mutation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Outcome {
    /// The shard's revision when the mutation took effect, or was refused.
    pub revision: u64,
    /// What it did.
    pub kind: OutcomeKind,
    /// It was executed earlier, and this is what is remembered of it: pairs are not.
    pub replayed: bool,
}

/// What a mutation did.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum OutcomeKind {
    /// It was executed.
    Applied {
        /// The key existed before.
        existed: bool,
        /// What it held, if the mutation asked and this is no replay.
        previous: Option<KeyValue>,
    },
    /// The compare-and-set met something else than it expected, and changed nothing.
    CasFailed {
        /// The key existed.
        existed: bool,
        /// What it held, if this is no replay.
        current: Option<KeyValue>,
    },
    /// The transaction was executed.
    Transacted {
        /// All comparisons held.
        succeeded: bool,
        /// What the actions of the list that was taken did, if this is no replay.
        acted: Option<Vec<Acted>>,
    },
    /// The session is open.
    SessionOpened,
    /// The shard was split.
    Split,
    /// A step of a merge was made.
    MergeStep,
    /// It was not executed.
    Refused(Refusal),
}

/// Why a mutation was not executed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Refusal {
    /// No such session is open on this shard.
    SessionExpired,
    /// The session was not opened: as many are open as may be, and all of them were active within
    /// the longest deadline. Open it again later.
    TooManySessions,
    /// The shard's range has another version than the client believes.
    StaleRange,
    /// The sequence lies below the session's low-water mark, and its outcome was forgotten. The one
    /// refusal that does not mean that the mutation never was executed.
    SequenceForgotten,
    /// The key or the value is longer than the limit.
    TooLarge,
    /// The key lies outside the shard's range.
    OutOfRange,
    /// The revision lies ahead of the shard's.
    FutureRevision,
    /// There is no such lease, or it has ended.
    NoLease,
    /// There are as many leases as there may be.
    TooManyLeases,
    /// The mutation makes no sense: undecodable, no operation known here, no key, no expectation,
    /// session 0, lease 0 or one without a length, or a sequence that contradicts the operation or the low-water mark.
    Invalid,
}

/// Values read from the file for one batch, by key and revision.
pub(crate) type StoredValues = BTreeMap<(Bytes, u64), Bytes>;

/// A shard's state, but for the values that lie in its file.
#[derive(Debug, Clone)]
pub(crate) struct State {
    pub(crate) range: ShardRange,
    pub(crate) limits: Limits,
    pub(crate) keys: KeyIndex,
    pub(crate) sessions: Sessions,
    pub(crate) leases: Leases,
    pub(crate) retention: Retention,
    /// Rows since the last checkpoint was captured.
    pub(crate) fresh: FreshRows,
    pub(crate) revision: u64,
    /// The greatest stamp so far.
    pub(crate) clock_ms: u64,
    pub(crate) applied: Option<Position>,
    /// Nothing changes any more: another shard is to absorb this one.
    pub(crate) is_frozen: bool,
}

/// What to do with a mutation that is to be neither refused nor opened.
enum Admission<'m> {
    Open,
    Replay(Remembered),
    Execute(Change<'m>),
}

/// A mutation of data, checked.
enum Change<'m> {
    Put(&'m Put),
    Delete(&'m Delete),
    CompareAndSet(&'m CompareAndSet, &'m Expectation),
    Compact(&'m Compact),
    Transaction(&'m Transaction),
    GrantLease(&'m GrantLease),
    KeepLease(&'m KeepLease),
    RevokeLease(&'m RevokeLease),
}

/// Applies one entry: a batch, at its position in the log. The outcomes are the mutations', in order, or one for the leases
/// that it ends, or one for a split or a step of a merge. What an accepted split parts, or what is absorbed, is its
/// caller's affair, who knows where the rows lie.
pub(crate) fn apply_batch(
    state: &mut State,
    at: Position,
    batch: &Batch,
    stored: &StoredValues,
) -> Vec<Outcome> {
    if state.is_frozen && !state.is_thawed_by(batch) {
        return state.stay_frozen(at, batch);
    }
    state.clock_ms = state.clock_ms.max(batch.stamped_ms);
    if seeded_bug::is_on("B26") {
        // Seeded bug B26: each replica takes the time from its own clock, not from the entry.
        let local = std::time::UNIX_EPOCH.elapsed().unwrap_or_default().as_micros();
        state.clock_ms = state
            .clock_ms
            .max(u64::try_from(local).unwrap_or(u64::MAX) / 1_000);
    }
    state
        .sessions
        .expire(state.clock_ms, state.limits.session_idle_ms);
    let apply = |mutation: &Option<Mutation>| match mutation {
        Some(mutation) => state.apply_mutation(mutation, stored),
        None => state.refused(Refusal::Invalid),
    };
    let mut outcomes: Vec<Outcome> = batch.mutations.iter().map(apply).collect();
    if !batch.ended_leases.is_empty() {
        outcomes.push(state.end_leases(&batch.ended_leases));
    }
    if let Some(split) = &batch.split {
        outcomes.push(match state.check_split(split) {
            Ok(()) => state.executed(OutcomeKind::Split),
            Err(refusal) => state.refused(refusal),
        });
    }
    if let Some(step) = &batch.merge {
        outcomes.push(state.merge_step(step));
    }
    if let Some(new_group) = &batch.new_group {
        outcomes.push(state.begin_group(new_group));
    }
    state.retention.observe(state.clock_ms, state.revision);
    state.applied = Some(at);
    outcomes
}

/// The versions whose values `batch` will look at, as far as they exist before it.
pub(crate) fn values_needed(state: &State, batch: &Batch) -> Vec<(Key, Head)> {
    let operations = || {
        batch
            .mutations
            .iter()
            .flatten()
            .filter_map(|mutation| mutation.operation.as_ref())
    };
    let live = |key: &Bytes| state.keys.live(key).map(|head| (Key::from(&key[..]), *head));
    let removals = operations()
        .map(|operation| removals_max(operation, &state.limits))
        .sum();
    let values = operations().flat_map(|operation| match operation {
        Operation::Transaction(transaction) => state.values_of_transaction(transaction, removals),
        other => looks_at(other).and_then(live).into_iter().collect(),
    });
    values.collect()
}

/// How many keys an operation may remove at most.
fn removals_max(operation: &Operation, limits: &Limits) -> usize {
    match operation {
        Operation::Delete(_) => 1,
        Operation::Transaction(transaction) => transaction.removals_max(limits),
        _ => 0,
    }
}

/// The key whose value an operation on one key compares or answers with.
fn looks_at(operation: &Operation) -> Option<&Bytes> {
    match operation {
        Operation::Put(put) => put.return_previous.then_some(&put.key),
        Operation::Delete(delete) => delete.return_previous.then_some(&delete.key),
        Operation::CompareAndSet(swap) => Some(&swap.key),
        Operation::OpenSession(_)
        | Operation::Compact(_)
        | Operation::Transaction(_)
        | Operation::GrantLease(_)
        | Operation::KeepLease(_)
        | Operation::RevokeLease(_) => None,
    }
}

impl State {
    pub(crate) fn new(range: ShardRange, limits: Limits) -> State {
        State {
            range,
            limits,
            keys: KeyIndex::default(),
            sessions: Sessions::default(),
            leases: Leases::default(),
            retention: Retention::new(limits.retention_ms),
            fresh: FreshRows::default(),
            revision: 0,
            clock_ms: 0,
            applied: None,
            is_frozen: false,
        }
    }

    /// A fingerprint of all that decides future outcomes; equal on replicas that applied the same
    /// entries, whenever their checkpoints were.
    pub(crate) fn fingerprint(&self) -> u64 {
        let print = Fingerprint::new()
            .bytes(&self.range.start)
            .bytes(self.range.end.as_deref().unwrap_or_default())
            .number(self.range.r#gen)
            .number(self.revision)
            .number(self.clock_ms)
            .number(u64::from(self.is_frozen));
        let print = self.retention.fingerprint(print);
        let limits = LimitsBody::from(self.limits);
        let print = print.bytes(&prost::Message::encode_to_vec(&limits));
        let print = self.sessions.fingerprint(self.keys.fingerprint(print));
        self.leases.fingerprint(print).finish()
    }

    fn apply_mutation(&mut self, mutation: &Mutation, stored: &StoredValues) -> Outcome {
        match self.admit(mutation) {
            Err(refusal) => self.refused(refusal),
            Ok(Admission::Replay(remembered)) => replay(remembered),
            Ok(Admission::Open) => self.open_session(mutation.session),
            Ok(Admission::Execute(change)) => {
                let kind = self.execute(&change, stored);
                self.remember(mutation, &kind);
                self.executed(kind)
            }
        }
    }

    fn admit<'m>(&mut self, mutation: &'m Mutation) -> Result<Admission<'m>, Refusal> {
        let operation = mutation.operation.as_ref().ok_or(Refusal::Invalid)?;
        if mutation.session == 0 {
            return Err(Refusal::Invalid);
        }
        if let Operation::OpenSession(_) = operation {
            self.check_range_version(mutation)?;
            return match mutation.sequence {
                0 => Ok(Admission::Open),
                _ => Err(Refusal::Invalid),
            };
        }
        if mutation.sequence == 0 || mutation.low_water > mutation.sequence {
            return Err(Refusal::Invalid);
        }
        self.sessions
            .hear(mutation.session, mutation.low_water, self.clock_ms);
        match self.sessions.standing(mutation.session, mutation.sequence) {
            Standing::Closed => Err(Refusal::SessionExpired),
            Standing::Forgotten => Err(Refusal::SequenceForgotten),
            // Seeded bug B8: a mutation that was executed before is executed again.
            Standing::Executed(remembered) if !seeded_bug::is_on("B8") => Ok(Admission::Replay(remembered)),
            Standing::New | Standing::Executed(_) => {
                self.check_range_version(mutation)?;
                self.check_change(operation).map(Admission::Execute)
            }
        }
    }

    fn check_range_version(&self, mutation: &Mutation) -> Result<(), Refusal> {
        match mutation.r#gen {
            0 => Ok(()),
            believed if believed == self.range.r#gen => Ok(()),
            _ => Err(Refusal::StaleRange),
        }
    }

    fn check_change<'m>(&self, operation: &'m Operation) -> Result<Change<'m>, Refusal> {
        let (key, value, change) = match operation {
            Operation::Put(put) => {
                self.leases.check(put.lease, &put.key, &self.limits)?;
                (&put.key, Some(&put.value), Change::Put(put))
            }
            Operation::Delete(delete) => (&delete.key, None, Change::Delete(delete)),
            Operation::CompareAndSet(swap) => {
                let expect = swap.expect.as_ref().ok_or(Refusal::Invalid)?;
                if *expect == Expectation::Absent(false) {
                    return Err(Refusal::Invalid);
                }
                self.leases.check(swap.lease, &swap.key, &self.limits)?;
                (
                    &swap.key,
                    Some(&swap.new_value),
                    Change::CompareAndSet(swap, expect),
                )
            }
            Operation::Compact(compact) => (&compact.key, None, Change::Compact(compact)),
            Operation::GrantLease(grant) => {
                self.leases.check_grant(grant, &self.limits)?;
                (&grant.key, None, Change::GrantLease(grant))
            }
            Operation::KeepLease(keep) => (&keep.key, None, Change::KeepLease(keep)),
            Operation::RevokeLease(revoke) => (&revoke.key, None, Change::RevokeLease(revoke)),
            Operation::Transaction(transaction) => {
                self.check_transaction(transaction)?;
                return Ok(Change::Transaction(transaction));
            }
            Operation::OpenSession(_) => return Err(Refusal::Invalid),
        };
        self.check_pair(key, value)?;
        match change {
            Change::Compact(compact) if compact.revision > self.revision => Err(Refusal::FutureRevision),
            Change::KeepLease(keep) => self.leases.check_keep(keep, &self.range).map(|()| change),
            Change::RevokeLease(revoke) if !self.leases.lives_at(revoke.lease, &revoke.key) => {
                Err(Refusal::NoLease)
            }
            change => Ok(change),
        }
    }

    pub(super) fn check_pair(&self, key: &Bytes, value: Option<&Bytes>) -> Result<(), Refusal> {
        let value_bytes = value.map_or(0, |value| value.len() as u64);
        if key.is_empty() {
            return Err(Refusal::Invalid);
        }
        if key.len() as u64 > self.limits.key_bytes_max || value_bytes > self.limits.value_bytes_max {
            return Err(Refusal::TooLarge);
        }
        match self.range.contains(key) {
            true => Ok(()),
            false => Err(Refusal::OutOfRange),
        }
    }

    fn execute(&mut self, change: &Change<'_>, stored: &StoredValues) -> OutcomeKind {
        match change {
            Change::Put(put) => {
                let previous = self.pair_if(put.return_previous, &put.key, stored);
                let existed = self.set(&put.key, put.value.clone(), put.lease);
                OutcomeKind::Applied { existed, previous }
            }
            Change::Delete(delete) => {
                let previous = self.pair_if(delete.return_previous, &delete.key, stored);
                let existed = self.remove(&delete.key);
                OutcomeKind::Applied { existed, previous }
            }
            Change::Transaction(transaction) => self.transact(transaction, stored),
            Change::GrantLease(grant) => match self.leases.grant(grant, &self.range) {
                true => done(false),
                false => OutcomeKind::CasFailed {
                    existed: true,
                    current: None,
                },
            },
            Change::KeepLease(keep) => done(self.leases.renew(keep.lease)),
            Change::RevokeLease(revoke) => done(self.end_lease(revoke.lease, None)),
            Change::Compact(compact) => {
                self.retention.forget(compact.revision);
                done(false)
            }
            Change::CompareAndSet(swap, expect) => {
                let current = self.pair(&swap.key, stored);
                if !holds(expect, current.as_ref()) {
                    let existed = current.is_some();
                    return OutcomeKind::CasFailed { existed, current };
                }
                let existed = self.set(&swap.key, swap.new_value.clone(), swap.lease);
                OutcomeKind::Applied {
                    existed,
                    previous: None,
                }
            }
        }
    }

    /// Sets a key's value at the next revision; true if the key existed.
    fn set(&mut self, key: &[u8], value: Bytes, lease: u64) -> bool {
        self.set_at(self.revision + 1, key, value, lease)
    }

    /// Sets a key's value at this revision, which the key has not yet; true if the key existed.
    pub(super) fn set_at(&mut self, revision: u64, key: &[u8], value: Bytes, lease: u64) -> bool {
        self.revision = revision;
        let before = self.keys.live(key).copied();
        let row = Row {
            create_revision: before.map_or(self.revision, |head| head.create_revision),
            version: before.map_or(1, |head| head.version + 1),
            value,
            lease,
        };
        self.record(key, row);
        before.is_some()
    }

    /// Removes a key at the next revision; false, and no revision, if there was none.
    fn remove(&mut self, key: &[u8]) -> bool {
        self.remove_at(self.revision + 1, key)
    }

    /// Removes a key at this revision, which the key has not yet; false, and no revision, if there was none.
    pub(super) fn remove_at(&mut self, revision: u64, key: &[u8]) -> bool {
        if self.keys.live(key).is_none() {
            return false;
        }
        self.revision = revision;
        self.record(key, Row::default());
        true
    }

    fn record(&mut self, key: &[u8], row: Row) {
        let key = self.keys.record(key, Head::new(self.revision, &row));
        self.leases.attach(&key, row.lease);
        self.fresh.insert(self.revision, FreshRow { key, row });
    }

    pub(super) fn pair_if(&self, wanted: bool, key: &Bytes, stored: &StoredValues) -> Option<KeyValue> {
        if wanted { self.pair(key, stored) } else { None }
    }

    pub(super) fn pair(&self, key: &Bytes, stored: &StoredValues) -> Option<KeyValue> {
        let head = self.keys.live(key)?;
        let fresh = self.fresh.get(head.mod_revision, key).map(|row| &row.value);
        // Broken only by a caller that skipped `values_needed`; going on would part the replicas.
        let value = fresh
            .or_else(|| stored.get(&(key.clone(), head.mod_revision)))
            .expect("the batch's values were read before it is applied");
        Some(KeyValue {
            key: key.clone(),
            value: value.clone(),
            create_revision: head.create_revision,
            mod_revision: head.mod_revision,
            version: head.version,
            lease: self.leases.of(key),
        })
    }

    /// Ends the leases that have not been renewed since their leader saw them end.
    fn end_leases(&mut self, ended: &[EndedLease]) -> Outcome {
        let mut any = false;
        for EndedLease { id, renewals } in ended {
            any |= self.end_lease(*id, Some(*renewals));
        }
        self.executed(done(any))
    }

    /// A group is begun anew. Unless the range has the new version already, which is refused.
    fn begin_group(&mut self, new_group: &NewGroup) -> Outcome {
        if new_group.r#gen <= self.range.r#gen {
            return self.refused(Refusal::StaleRange);
        }
        self.range.r#gen = new_group.r#gen;
        self.revision = self.revision.saturating_add(new_group.revisions_skipped);
        self.retention.forget(self.revision);
        self.executed(done(true))
    }

    /// Ends a lease: all keys that hang on it go at one revision. False if it goes on.
    fn end_lease(&mut self, id: u64, renewals: Option<u64>) -> bool {
        let Some(keys) = self.leases.end(id, renewals) else {
            return false;
        };
        let revision = self.revision + 1;
        for key in keys {
            self.remove_at(revision, &key);
        }
        true
    }

    fn open_session(&mut self, session: u64) -> Outcome {
        match self.sessions.open(session, self.clock_ms, &self.limits) {
            Ok(()) => self.executed(OutcomeKind::SessionOpened),
            Err(TooManySessions) => self.refused(Refusal::TooManySessions),
        }
    }

    fn remember(&mut self, mutation: &Mutation, outcome: &OutcomeKind) {
        let effect = match outcome {
            OutcomeKind::Applied { existed, .. } => Effect::Applied { existed: *existed },
            OutcomeKind::CasFailed { existed, .. } => Effect::CasFailed { existed: *existed },
            OutcomeKind::Transacted { succeeded, .. } => Effect::Transacted {
                succeeded: *succeeded,
            },
            OutcomeKind::SessionOpened
            | OutcomeKind::Split
            | OutcomeKind::MergeStep
            | OutcomeKind::Refused(_) => return,
        };
        let remembered = Remembered {
            effect,
            revision: self.revision,
        };
        let outcomes_max = self.limits.outcomes_max;
        self.sessions
            .remember(mutation.session, mutation.sequence, remembered, outcomes_max);
    }

    pub(super) fn refused(&self, refusal: Refusal) -> Outcome {
        self.executed(OutcomeKind::Refused(refusal))
    }

    pub(super) fn executed(&self, kind: OutcomeKind) -> Outcome {
        Outcome {
            revision: self.revision,
            kind,
            replayed: false,
        }
    }
}

fn done(existed: bool) -> OutcomeKind {
    OutcomeKind::Applied {
        existed,
        previous: None,
    }
}

fn holds(expect: &Expectation, current: Option<&KeyValue>) -> bool {
    match expect {
        Expectation::Absent(_) => current.is_none(),
        Expectation::Value(value) => current.is_some_and(|pair| pair.value == value),
        Expectation::Revision(revision) => current.is_some_and(|pair| pair.mod_revision == *revision),
    }
}

fn replay(remembered: Remembered) -> Outcome {
    let kind = match remembered.effect {
        Effect::Applied { existed } => OutcomeKind::Applied {
            existed,
            previous: None,
        },
        Effect::CasFailed { existed } => OutcomeKind::CasFailed {
            existed,
            current: None,
        },
        Effect::Transacted { succeeded } => OutcomeKind::Transacted {
            succeeded,
            acted: None,
        },
    };
    Outcome {
        revision: remembered.revision,
        kind,
        replayed: true,
    }
}
