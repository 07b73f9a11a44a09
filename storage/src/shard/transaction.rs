//! Transactions within a shard: comparisons, then one list of actions or the other.
//!
//! All changes of a transaction get one revision, so that nobody who reads at a revision sees a part of them; a
//! transaction that changes nothing gets none. Its actions see what those before them did. A key is changed at most once
//! in a list, or two versions of it would have one revision.
//!
//! A range is deleted as it was before the transaction: no other action of its list changes a key in it.
//!
//! What must hold: a transaction is refused as a whole, before any of it is done, and equally on every replica; what it
//! answers with is not remembered, only which list was taken. An answer is bounded: a transaction whose gets would give
//! more bytes is refused, and its scans end where the bytes left for them end. So is one whose ranges hold more keys than
//! a scan may give: they leave at one revision, which watchers are told whole.

use std::collections::BTreeSet;

use bytes::Bytes;

use super::bounds;
use super::command::{Act, Action, Compare, DeleteRange, Operand, Relation, Scan, Transaction};
use super::index::Head;
use super::key::Key;
use super::limits::Limits;
use super::machine::{KeyValue, OutcomeKind, Refusal, State, StoredValues};
use crate::seeded_bug;

/// What one action of a transaction did.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Acted {
    /// A key was set or removed.
    Changed {
        /// The key existed before.
        existed: bool,
        /// What it held, if the action asked.
        previous: Option<KeyValue>,
    },
    /// The keys of a range were removed.
    RangeDeleted {
        /// How many there were.
        keys: u64,
    },
    /// What a key held.
    Read(Option<KeyValue>),
    /// What keys held.
    Scanned {
        /// The pairs, in key order.
        pairs: Vec<KeyValue>,
        /// The next key of the range; `None`: it is exhausted.
        next: Option<Bytes>,
    },
}

impl Transaction {
    /// Comparisons and actions.
    fn size(&self) -> usize {
        self.compares.len() + self.then.len() + self.otherwise.len()
    }

    fn acts(&self) -> impl Iterator<Item = &Act> {
        let actions = self.then.iter().chain(&self.otherwise);
        actions.filter_map(|action| action.act.as_ref())
    }

    /// How many keys a transaction may remove at most.
    pub(crate) fn removals_max(&self, limits: &Limits) -> usize {
        let removes = |list: &[Action]| {
            let acts = || list.iter().filter_map(|action| action.act.as_ref());
            let single = acts().filter(|act| matches!(act, Act::Delete(_))).count();
            match ranges_deleted(list).next() {
                Some(_) => single.saturating_add(number(limits.transaction_pairs_max)),
                None => single,
            }
        };
        removes(&self.then).max(removes(&self.otherwise))
    }
}

/// The key whose present value an action on a single key answers with.
fn value_given(act: &Act) -> Option<&Bytes> {
    match act {
        Act::Put(put) => put.return_previous.then_some(&put.key),
        Act::Delete(delete) => delete.return_previous.then_some(&delete.key),
        Act::Get(get) => Some(&get.key),
        Act::Scan(_) | Act::DeleteRange(_) => None,
    }
}

/// The ranges that a list deletes.
fn ranges_deleted(list: &[Action]) -> impl Iterator<Item = &DeleteRange> {
    list.iter().filter_map(|action| match action.act.as_ref()? {
        Act::DeleteRange(range) => Some(range),
        _ => None,
    })
}

impl DeleteRange {
    fn end(&self) -> Option<&[u8]> {
        bounds::end(&self.end)
    }

    fn contains(&self, key: &[u8]) -> bool {
        bounds::contains(&self.start, self.end(), key)
    }

    fn overlaps(&self, other: &DeleteRange) -> bool {
        let begins_before_end =
            |a: &DeleteRange, b: &DeleteRange| b.end().is_none_or(|end| &a.start[..] < end);
        begins_before_end(self, other) && begins_before_end(other, self)
    }
}

fn number(of: u64) -> usize {
    usize::try_from(of).unwrap_or(usize::MAX)
}

/// A list changes a key at most once: no range that it deletes holds a key that it changes, or meets another.
fn check_ranges(list: &[Action], changed: &BTreeSet<&Bytes>) -> Result<(), Refusal> {
    let mut seen: Vec<&DeleteRange> = Vec::new();
    for range in ranges_deleted(list) {
        let holds_changed = changed.iter().any(|key| range.contains(key));
        if holds_changed || seen.iter().any(|other| other.overlaps(range)) {
            return Err(Refusal::Invalid);
        }
        seen.push(range);
    }
    Ok(())
}

impl State {
    /// Why a transaction is refused, if it is.
    pub(super) fn check_transaction(&self, transaction: &Transaction) -> Result<(), Refusal> {
        if transaction.size() as u64 > self.limits.transaction_actions_max {
            return Err(Refusal::TooLarge);
        }
        for compare in &transaction.compares {
            if Relation::try_from(compare.relation).is_err() || compare.operand.is_none() {
                return Err(Refusal::Invalid);
            }
            self.check_pair(&compare.key, None)?;
        }
        for list in [&transaction.then, &transaction.otherwise] {
            let mut changed = BTreeSet::new();
            for action in list {
                let act = action.act.as_ref().ok_or(Refusal::Invalid)?;
                let changes = self.check_act(act)?;
                if changes.is_some_and(|key| !changed.insert(key)) {
                    return Err(Refusal::Invalid);
                }
            }
            check_ranges(list, &changed)?;
        }
        Ok(())
    }

    /// The key that an action changes.
    fn check_act<'a>(&self, act: &'a Act) -> Result<Option<&'a Bytes>, Refusal> {
        match act {
            Act::Put(put) => {
                self.check_pair(&put.key, Some(&put.value))?;
                self.leases.check(put.lease, &put.key, &self.limits)?;
                Ok(Some(&put.key))
            }
            Act::Delete(delete) => {
                self.check_pair(&delete.key, None)?;
                Ok(Some(&delete.key))
            }
            Act::Get(get) if get.revision > 0 => Err(Refusal::Invalid),
            Act::Get(get) => self.check_pair(&get.key, None).map(|()| None),
            Act::Scan(scan) if scan.revision > 0 => Err(Refusal::Invalid),
            Act::Scan(scan) => match self.holds_range(&scan.start, &scan.end) {
                true => Ok(None),
                false => Err(Refusal::OutOfRange),
            },
            Act::DeleteRange(range) if range.end().is_some_and(|end| end <= &range.start[..]) => {
                Err(Refusal::Invalid)
            }
            Act::DeleteRange(range) => match self.holds_range(&range.start, &range.end) {
                true => Ok(None),
                false => Err(Refusal::OutOfRange),
            },
        }
    }

    fn holds_range(&self, start: &Bytes, end: &Bytes) -> bool {
        let ends_here = match &self.range.end {
            // An empty end means the shard's.
            Some(last) => end <= last,
            None => true,
        };
        self.range.start <= *start && ends_here
    }

    /// Does what a transaction says that was checked.
    pub(super) fn transact(&mut self, transaction: &Transaction, stored: &StoredValues) -> OutcomeKind {
        let mut compares = transaction.compares.iter();
        // Seeded bug B28: comparisons are taken to hold.
        let succeeded = compares.all(|compare| self.compare(compare, stored) || seeded_bug::is_on("B28"));
        let actions = match succeeded {
            true => &transaction.then,
            false => &transaction.otherwise,
        };
        if self.range_keys(actions) > number(self.limits.transaction_pairs_max) {
            return OutcomeKind::Refused(Refusal::TooLarge);
        }
        let bytes_max = self.limits.transaction_bytes_max;
        let Some(mut scan_bytes) = bytes_max.checked_sub(self.bytes_given(actions)) else {
            return OutcomeKind::Refused(Refusal::TooLarge);
        };
        // Of all its changes: none of them knows whether it is the first.
        let revision = self.revision + 1;
        let acts = actions.iter().filter_map(|action| action.act.as_ref());
        let acted = acts.map(|act| self.act(act, revision, stored, &mut scan_bytes));
        let acted = Some(acted.collect());
        OutcomeKind::Transacted { succeeded, acted }
    }

    /// Bytes of present values that a list's actions on single keys give.
    fn bytes_given(&self, actions: &[Action]) -> u64 {
        let keys = actions
            .iter()
            .filter_map(|action| value_given(action.act.as_ref()?));
        let heads = keys.filter_map(|key| self.keys.live(key));
        heads.map(|head| u64::from(head.value_len)).sum()
    }

    /// The keys in the ranges that a list deletes: no more than one above what it may delete is counted of each.
    fn range_keys(&self, actions: &[Action]) -> usize {
        let enough = number(self.limits.transaction_pairs_max).saturating_add(1);
        let keys = ranges_deleted(actions).map(|range| {
            self.keys
                .live_range(&range.start, range.end())
                .take(enough)
                .count()
        });
        keys.fold(0, usize::saturating_add)
    }

    fn delete_range(&mut self, range: &DeleteRange, revision: u64) -> Acted {
        let keys = self.keys.live_range(&range.start, range.end());
        let keys: Vec<Key> = keys.map(|(key, _)| key.clone()).collect();
        for key in &keys {
            self.remove_at(revision, key);
        }
        Acted::RangeDeleted {
            keys: keys.len() as u64,
        }
    }

    fn act(&mut self, act: &Act, revision: u64, stored: &StoredValues, scan_bytes: &mut u64) -> Acted {
        match act {
            Act::Put(put) => {
                let previous = self.pair_if(put.return_previous, &put.key, stored);
                let existed = self.set_at(revision, &put.key, put.value.clone(), put.lease);
                Acted::Changed { existed, previous }
            }
            Act::Delete(delete) => {
                let previous = self.pair_if(delete.return_previous, &delete.key, stored);
                let existed = self.remove_at(revision, &delete.key);
                Acted::Changed { existed, previous }
            }
            Act::Get(get) => Acted::Read(self.pair(&get.key, stored)),
            Act::Scan(scan) => self.scan_pairs(scan, stored, scan_bytes),
            Act::DeleteRange(range) => self.delete_range(range, revision),
        }
    }

    fn scan_pairs(&self, scan: &Scan, stored: &StoredValues, bytes: &mut u64) -> Acted {
        let limit = self.scan_limit(scan);
        let end = bounds::end(&scan.end);
        let mut pairs = Vec::new();
        for (key, head) in self.keys.live_range(&scan.start, end) {
            let left = bytes.checked_sub(key.len() as u64 + u64::from(head.value_len));
            let (true, Some(left)) = (pairs.len() < limit, left) else {
                let next = Some(Bytes::copy_from_slice(key));
                return Acted::Scanned { pairs, next };
            };
            *bytes = left;
            pairs.extend(self.pair(&Bytes::copy_from_slice(key), stored));
        }
        Acted::Scanned { pairs, next: None }
    }

    fn scan_limit(&self, scan: &Scan) -> usize {
        let most = self.limits.transaction_pairs_max;
        let limit = match u64::from(scan.limit) {
            0 => most,
            limit => limit.min(most),
        };
        number(limit)
    }

    fn compare(&self, compare: &Compare, stored: &StoredValues) -> bool {
        let head = self.keys.live(&compare.key);
        let number = |of: fn(&Head) -> u64| head.map_or(0, of);
        let ordering = match &compare.operand {
            Some(Operand::Version(version)) => number(|head| head.version).cmp(version),
            Some(Operand::CreateRevision(revision)) => number(|head| head.create_revision).cmp(revision),
            Some(Operand::ModRevision(revision)) => number(|head| head.mod_revision).cmp(revision),
            Some(Operand::Exists(exists)) => head.is_some().cmp(exists),
            Some(Operand::Lease(lease)) => head.map_or(0, |_| self.leases.of(&compare.key)).cmp(lease),
            Some(Operand::Value(value)) => match self.pair(&compare.key, stored) {
                Some(pair) => pair.value.cmp(value),
                // What does not exist is neither equal to a value nor different from it.
                None => return false,
            },
            // Refused before.
            None => return false,
        };
        match compare.relation() {
            Relation::Equal => ordering.is_eq(),
            Relation::NotEqual => ordering.is_ne(),
            Relation::Greater => ordering.is_gt(),
            Relation::Less => ordering.is_lt(),
        }
    }

    /// The versions whose values a transaction will look at, as far as they exist now. Before it is applied the batch may
    /// have removed `removals` keys, so that a scan looks at others behind them.
    pub(super) fn values_of_transaction(
        &self,
        transaction: &Transaction,
        removals: usize,
    ) -> Vec<(Key, Head)> {
        let compared = transaction.compares.iter().filter_map(|compare| {
            let by_value = matches!(compare.operand, Some(Operand::Value(_)));
            by_value.then_some(&compare.key)
        });
        let read = transaction.acts().filter_map(value_given);
        let live = |key: &Bytes| self.keys.live(key).map(|head| (Key::from(&key[..]), *head));
        let mut values: Vec<_> = compared.chain(read).filter_map(live).collect();
        for act in transaction.acts() {
            let Act::Scan(scan) = act else { continue };
            let end = bounds::end(&scan.end);
            let keys = self.keys.live_range(&scan.start, end);
            let keys = keys.take(self.scan_limit(scan).saturating_add(removals));
            values.extend(keys.map(|(key, head)| (key.clone(), *head)));
        }
        values
    }
}
