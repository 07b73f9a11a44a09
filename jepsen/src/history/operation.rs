//! One operation of one client.
//!
//! Which replies belong to which operation is in the types; what spans two fields (times, commas) is checked by
//! [`Operation::new`], the only way to make one. Times are nanoseconds of one monotonic clock that all clients share.

use std::fmt;

use serde::{Deserialize, Serialize};
use thiserror::Error;

use super::line::Line;

/// What a client knows of an operation's end.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome<T> {
    /// It took effect between its call and its return, and this was the reply.
    Ok(T),
    /// It certainly did not take effect.
    Fail,
    /// Unknown: it may take effect at any time after its call, or never.
    Info,
}

/// The reply to a get.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Read {
    /// The value; `None`: the key is absent.
    pub value: Option<String>,
    /// The key's revision, where the store says it.
    pub version: Option<u64>,
}

/// The reply to a put or an append.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Wrote {
    /// The value before, where the store says it; `Some(None)`: the key was absent.
    pub prev: Option<Option<String>>,
    /// The revision that this write made, where the store says it.
    pub version: Option<u64>,
}

/// The reply to a compare-and-set.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Swapped {
    /// Whether the expectation held and the value was set.
    pub succeeded: bool,
    /// The value before, where the store says it.
    pub prev: Option<Option<String>>,
    /// The revision that this write made, where the store says it; of no meaning if it did not succeed.
    pub version: Option<u64>,
}

/// The reply to a delete.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Deleted {
    /// Whether there was something to delete, where the store says it.
    pub existed: Option<bool>,
    /// The value before, where the store says it.
    pub prev: Option<Option<String>>,
    /// The revision that this delete made, where the store says it.
    pub version: Option<u64>,
}

/// What was asked, with what came back.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Action {
    /// Read the key.
    Get(Outcome<Read>),
    /// Set the key.
    Put {
        /// The value written.
        value: String,
        /// What came back.
        outcome: Outcome<Wrote>,
    },
    /// Set the key if it has the expected value.
    Cas {
        /// The value expected; `None`: the key must be absent.
        expect: Option<String>,
        /// The value written if so.
        value: String,
        /// What came back.
        outcome: Outcome<Swapped>,
    },
    /// Remove the key.
    Delete(Outcome<Deleted>),
    /// Append an element to the list that the key holds: elements joined by commas.
    Append {
        /// The element, without a comma.
        element: String,
        /// What came back.
        outcome: Outcome<Wrote>,
    },
}

/// The kind of an operation.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum OperationKind {
    /// [`Action::Get`].
    Get,
    /// [`Action::Put`].
    Put,
    /// [`Action::Cas`].
    Cas,
    /// [`Action::Delete`].
    Delete,
    /// [`Action::Append`].
    Append,
}

/// Why something is no operation that a client could have recorded.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum Invalid {
    /// Only an unknown outcome may lack the time of its return.
    #[error("an operation that is not `info` needs return_ns")]
    NoReturn,
    /// Time went back.
    #[error("return_ns is before call_ns")]
    ReturnBeforeCall,
    /// Lists are joined by commas.
    #[error("an appended element must not have a comma")]
    CommaInElement,
    /// The operation needs this field.
    #[error("the field `{0}` is missing")]
    Missing(&'static str),
    /// The operation, or its outcome, has no such field.
    #[error("the field `{0}` does not belong to this operation with this outcome")]
    Misplaced(&'static str),
}

/// One operation of one client.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "Line", into = "Line")]
pub struct Operation {
    process: u64,
    txn: Option<u64>,
    key: String,
    call_ns: u64,
    return_ns: Option<u64>,
    action: Action,
}

impl Operation {
    /// An operation of `process` on `key`, called at `call_ns`. `return_ns` is when the client was answered or gave
    /// up; only an unknown outcome may be without.
    ///
    /// # Errors
    /// What no client can have recorded.
    pub fn new(
        process: u64,
        key: impl Into<String>,
        call_ns: u64,
        return_ns: Option<u64>,
        action: Action,
    ) -> Result<Self, Invalid> {
        if return_ns.is_none() && !action.is_info() {
            return Err(Invalid::NoReturn);
        }
        if return_ns.is_some_and(|at| at < call_ns) {
            return Err(Invalid::ReturnBeforeCall);
        }
        if matches!(&action, Action::Append { element, .. } if element.contains(',')) {
            return Err(Invalid::CommaInElement);
        }
        Ok(Self {
            process,
            txn: None,
            key: key.into(),
            call_ns,
            return_ns,
            action,
        })
    }

    /// The same operation as a part of transaction `txn`.
    #[must_use]
    pub fn in_txn(self, txn: Option<u64>) -> Self {
        Self { txn, ..self }
    }

    /// The client; one that had an unknown outcome goes on under another number.
    pub fn process(&self) -> u64 {
        self.process
    }

    /// The transaction it is a part of; an operation without is a transaction by itself.
    pub fn txn(&self) -> Option<u64> {
        self.txn
    }

    /// The key.
    pub fn key(&self) -> &str {
        &self.key
    }

    /// When it was called.
    pub fn call_ns(&self) -> u64 {
        self.call_ns
    }

    /// When the client was answered, or gave up.
    pub fn return_ns(&self) -> Option<u64> {
        self.return_ns
    }

    /// When its effect is certainly over: never, for an unknown outcome.
    pub fn ended_ns(&self) -> Option<u64> {
        self.return_ns.filter(|_| !self.action.is_info())
    }

    /// What was asked and what came back.
    pub fn action(&self) -> &Action {
        &self.action
    }

    /// The same operation with another action, for histories that are to be wrong.
    ///
    /// # Errors
    /// As [`Operation::new`].
    pub fn with_action(&self, action: Action) -> Result<Self, Invalid> {
        let changed = Self::new(
            self.process,
            self.key.clone(),
            self.call_ns,
            self.return_ns,
            action,
        )?;
        Ok(changed.in_txn(self.txn))
    }
}

impl Action {
    /// The kind.
    pub fn kind(&self) -> OperationKind {
        match self {
            Self::Get(_) => OperationKind::Get,
            Self::Put { .. } => OperationKind::Put,
            Self::Cas { .. } => OperationKind::Cas,
            Self::Delete(_) => OperationKind::Delete,
            Self::Append { .. } => OperationKind::Append,
        }
    }

    /// The outcome without the reply.
    pub fn outcome(&self) -> Outcome<()> {
        match self {
            Self::Get(outcome) => outcome.bare(),
            Self::Put { outcome, .. } | Self::Append { outcome, .. } => outcome.bare(),
            Self::Cas { outcome, .. } => outcome.bare(),
            Self::Delete(outcome) => outcome.bare(),
        }
    }

    /// Whether it certainly took effect.
    pub fn is_ok(&self) -> bool {
        matches!(self.outcome(), Outcome::Ok(()))
    }

    /// Whether its outcome is unknown.
    pub fn is_info(&self) -> bool {
        matches!(self.outcome(), Outcome::Info)
    }

    /// Whether it certainly changed the key, or confirmed its absence by a delete that does not say what it found.
    pub fn is_effective_write(&self) -> bool {
        match self {
            Self::Get(_) => false,
            Self::Put { outcome, .. } | Self::Append { outcome, .. } => matches!(outcome, Outcome::Ok(_)),
            Self::Cas { outcome, .. } => matches!(outcome, Outcome::Ok(reply) if reply.succeeded),
            Self::Delete(outcome) => matches!(outcome, Outcome::Ok(reply) if reply.existed != Some(false)),
        }
    }
}

impl<T> Outcome<T> {
    fn bare(&self) -> Outcome<()> {
        match self {
            Self::Ok(_) => Outcome::Ok(()),
            Self::Fail => Outcome::Fail,
            Self::Info => Outcome::Info,
        }
    }
}

impl OperationKind {
    /// Every kind.
    pub const ALL: [Self; 5] = [Self::Get, Self::Put, Self::Cas, Self::Delete, Self::Append];

    /// As in a history.
    pub fn name(self) -> &'static str {
        match self {
            Self::Get => "get",
            Self::Put => "put",
            Self::Cas => "cas",
            Self::Delete => "delete",
            Self::Append => "append",
        }
    }
}

/// As its line of the history: what a person greps for.
impl fmt::Display for Operation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&serde_json::to_string(self).map_err(|_| fmt::Error)?)
    }
}
