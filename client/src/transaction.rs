//! Transactions: comparisons of keys of one shard, then one list of actions or the other, at one revision.

use bytes::Bytes;

use crate::operation::{KeyRange, Previous};
use crate::proto::{self, KeyValue, action, action_result, compare};

/// A transaction to be made. Its keys must lie in one shard: [`Client::locate`](crate::Client::locate) tells which do.
///
/// ```
/// # use client::{Action, Compare, Transaction};
/// let transfer = Transaction::new()
///     .when(Compare::value("account/1", "30"))
///     .when(Compare::exists("account/2"))
///     .then(Action::put("account/1", "20"))
///     .then(Action::put("account/2", "10"))
///     .otherwise(Action::get("account/1"));
/// ```
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Transaction(proto::Transaction);

impl Transaction {
    /// One that compares nothing and does nothing.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a comparison: all of them must hold.
    #[must_use]
    pub fn when(mut self, compare: Compare) -> Self {
        self.0.compares.push(compare.0);
        self
    }

    /// Adds an action for the case that all comparisons hold. A list changes a key at most once.
    #[must_use]
    pub fn then(mut self, action: Action) -> Self {
        self.0.then.push(action.0);
        self
    }

    /// Adds an action for the case that one does not.
    #[must_use]
    pub fn otherwise(mut self, action: Action) -> Self {
        self.0.otherwise.push(action.0);
        self
    }

    pub(crate) fn into_proto(self) -> proto::Transaction {
        self.0
    }
}

/// How a key's property relates to an operand.
pub use proto::Relation;

/// A comparison with the newest version of a key. Of a key that does not exist all numbers are 0, and no value compares.
#[derive(Debug, Clone, PartialEq)]
pub struct Compare(proto::Compare);

/// What of a key is compared, and with what.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Property {
    /// Its value, byte by byte.
    Value(Bytes),
    /// Its version: 1 at creation, one more each change.
    Version(u64),
    /// The revision at which it came into being.
    CreateRevision(u64),
    /// The revision of its last change.
    ModRevision(u64),
    /// Whether it exists.
    Exists(bool),
    /// The lease of the shard that it hangs on; 0: on none.
    Lease(u64),
}

impl Compare {
    /// The property must relate to its operand like this.
    #[must_use]
    pub fn new(key: impl Into<Bytes>, relation: Relation, property: Property) -> Self {
        let operand = match property {
            Property::Value(value) => compare::Operand::Value(value),
            Property::Version(version) => compare::Operand::Version(version),
            Property::CreateRevision(revision) => compare::Operand::CreateRevision(revision),
            Property::ModRevision(revision) => compare::Operand::ModRevision(revision),
            Property::Exists(exists) => compare::Operand::Exists(exists),
            Property::Lease(lease) => compare::Operand::Lease(lease),
        };
        Self(proto::Compare {
            key: key.into(),
            relation: relation.into(),
            operand: Some(operand),
        })
    }

    /// The key must exist.
    #[must_use]
    pub fn exists(key: impl Into<Bytes>) -> Self {
        Self::new(key, Relation::Equal, Property::Exists(true))
    }

    /// The key must not exist.
    #[must_use]
    pub fn absent(key: impl Into<Bytes>) -> Self {
        Self::new(key, Relation::Equal, Property::Exists(false))
    }

    /// The key must hold exactly this.
    #[must_use]
    pub fn value(key: impl Into<Bytes>, value: impl Into<Bytes>) -> Self {
        Self::new(key, Relation::Equal, Property::Value(value.into()))
    }

    /// The key must hang on this lease of its shard; 0: on none.
    #[must_use]
    pub fn lease(key: impl Into<Bytes>, lease: u64) -> Self {
        Self::new(key, Relation::Equal, Property::Lease(lease))
    }

    /// The key's last change must have this revision.
    #[must_use]
    pub fn mod_revision(key: impl Into<Bytes>, revision: u64) -> Self {
        Self::new(key, Relation::Equal, Property::ModRevision(revision))
    }
}

/// One action of a transaction; it sees what those before it did.
#[derive(Debug, Clone, PartialEq)]
pub struct Action(proto::Action);

impl Action {
    fn new(act: action::Act) -> Self {
        Self(proto::Action { act: Some(act) })
    }

    /// Sets a key.
    #[must_use]
    pub fn put(key: impl Into<Bytes>, value: impl Into<Bytes>) -> Self {
        Self::put_with(key, value, Previous::Existence)
    }

    /// Sets a key, and says what it was.
    #[must_use]
    pub fn put_with(key: impl Into<Bytes>, value: impl Into<Bytes>, previous: Previous) -> Self {
        Self::new(action::Act::Put(proto::Put {
            key: key.into(),
            value: value.into(),
            return_previous: previous == Previous::Value,
            lease: 0,
        }))
    }

    /// Sets a key that is to hang on a lease of the shard.
    #[must_use]
    pub fn put_leased(key: impl Into<Bytes>, value: impl Into<Bytes>, lease: u64) -> Self {
        Self::new(action::Act::Put(proto::Put {
            key: key.into(),
            value: value.into(),
            return_previous: false,
            lease,
        }))
    }

    /// Removes a key.
    #[must_use]
    pub fn delete(key: impl Into<Bytes>) -> Self {
        Self::delete_with(key, Previous::Existence)
    }

    /// Removes a key, and says what it was.
    #[must_use]
    pub fn delete_with(key: impl Into<Bytes>, previous: Previous) -> Self {
        Self::new(action::Act::Delete(proto::Delete {
            key: key.into(),
            return_previous: previous == Previous::Value,
        }))
    }

    /// Removes the keys of a range, as they were before the transaction. No other action of the list changes a key in it,
    /// and there are no more than the shard lets a transaction's scan read.
    #[must_use]
    pub fn delete_range(range: KeyRange) -> Self {
        Self::new(action::Act::DeleteRange(proto::DeleteRange {
            start: range.start,
            end: range.end,
        }))
    }

    /// Reads a key.
    #[must_use]
    pub fn get(key: impl Into<Bytes>) -> Self {
        Self::new(action::Act::Get(proto::Get {
            key: key.into(),
            revision: 0,
        }))
    }

    /// Reads a range, in key order: at most `limit` pairs, and no more than the shard lets a transaction read.
    #[must_use]
    pub fn scan(range: KeyRange, limit: u32) -> Self {
        Self::new(action::Act::Scan(proto::Scan {
            start: range.start,
            end: range.end,
            limit,
            revision: 0,
        }))
    }
}

/// The answer to a transaction.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Transacted {
    /// The revision of its changes; of the shard, where it changed nothing.
    pub revision: u64,
    /// Whether all comparisons held.
    pub succeeded: bool,
    /// What the actions of the list that was taken did, in their order. A shard remembers outcomes, not values: when the
    /// answer got lost and the repetition was answered from memory, this is `None`.
    pub results: Option<Vec<ActionResult>>,
}

/// What one action did.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ActionResult {
    /// It set or removed a key.
    Changed {
        /// Whether the key existed before.
        existed: bool,
        /// What it held, where that was asked for.
        previous: Option<KeyValue>,
    },
    /// It removed the keys of a range.
    RangeDeleted {
        /// How many there were.
        keys: u64,
    },
    /// It read a key; `None`: there is no such key.
    Read(Option<KeyValue>),
    /// It read a range.
    Scanned {
        /// The pairs, in key order.
        pairs: Vec<KeyValue>,
        /// The next key of the range; `None`: it is exhausted.
        next: Option<Bytes>,
    },
}

impl Transacted {
    /// `None`: a result of an unknown kind.
    pub(crate) fn of(revision: u64, result: proto::TransactionResult) -> Option<Self> {
        let results: Option<Vec<_>> = result.results.into_iter().map(ActionResult::of).collect();
        Some(Self {
            revision,
            succeeded: result.succeeded,
            results: Some(results?).filter(|_| !result.replayed),
        })
    }
}

impl ActionResult {
    fn of(result: proto::ActionResult) -> Option<Self> {
        Some(match result.result? {
            action_result::Result::Change(change) => Self::Changed {
                existed: change.existed,
                previous: change.previous,
            },
            action_result::Result::DeleteRange(deleted) => Self::RangeDeleted { keys: deleted.keys },
            action_result::Result::Get(found) => Self::Read(found.pair),
            action_result::Result::Scan(found) => Self::Scanned {
                pairs: found.pairs,
                next: Some(found.next).filter(|next| !next.is_empty()),
            },
        })
    }
}

impl proto::Transaction {
    /// Every key that it names, and the first of every range.
    pub fn keys(&self) -> impl Iterator<Item = &Bytes> {
        let compared = self.compares.iter().map(|compare| &compare.key);
        let acts = self.then.iter().chain(&self.otherwise);
        let acted = acts.filter_map(|action| match action.act.as_ref()? {
            action::Act::Put(put) => Some(&put.key),
            action::Act::Delete(delete) => Some(&delete.key),
            action::Act::Get(get) => Some(&get.key),
            action::Act::Scan(scan) => Some(&scan.start),
            action::Act::DeleteRange(range) => Some(&range.start),
        });
        compared.chain(acted)
    }

    /// The end of every range; empty: the end of the key space.
    pub(crate) fn range_ends(&self) -> impl Iterator<Item = &Bytes> {
        let actions = self.then.iter().chain(&self.otherwise);
        actions.filter_map(|action| match action.act.as_ref()? {
            action::Act::Scan(scan) => Some(&scan.end),
            action::Act::DeleteRange(range) => Some(&range.end),
            _ => None,
        })
    }
}
