//! What a checker says: it holds, it is broken and here is how, or it could not be told.

use std::fmt;

use crate::history::Operation;

/// Operations shown with one violation.
const SHOWN_MAX: usize = 12;

/// The answer of a checker.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Nothing in the history contradicts the promise.
    Ok,
    /// The promise is broken. Never empty; the clearest first.
    Violation(Vec<Violation>),
    /// Not judged, and why: a bound was exceeded, or the history does not have what the checker needs.
    Unknown(String),
}

impl Verdict {
    /// [`Verdict::Ok`] without violations.
    pub fn of(violations: Vec<Violation>) -> Self {
        if violations.is_empty() {
            Self::Ok
        } else {
            Self::Violation(violations)
        }
    }

    /// Whether it holds.
    pub fn is_ok(&self) -> bool {
        *self == Self::Ok
    }

    /// The violations, if it is broken.
    pub fn violations(&self) -> &[Violation] {
        match self {
            Self::Violation(violations) => violations,
            _ => &[],
        }
    }

    /// Both must hold. A violation outweighs what is unknown: more knowledge cannot heal it.
    #[must_use]
    pub fn and(self, other: Self) -> Self {
        match (self, other) {
            (Self::Violation(mut mine), Self::Violation(theirs)) => {
                mine.extend(theirs);
                Self::Violation(mine)
            }
            (violation @ Self::Violation(_), _) | (_, violation @ Self::Violation(_)) => violation,
            (unknown @ Self::Unknown(_), _) | (_, unknown @ Self::Unknown(_)) => unknown,
            (Self::Ok, Self::Ok) => Self::Ok,
        }
    }
}

/// What is broken.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Anomaly {
    /// No order of the key's operations explains what the clients saw.
    NotLinearizable,
    /// A value was read that nobody wrote.
    Phantom,
    /// Writes of two transactions interleave in opposite orders.
    G0,
    /// A write of a failed transaction was read.
    G1a,
    /// A transaction's intermediate write was read.
    G1b,
    /// Transactions saw each other's writes in a circle.
    G1c,
    /// A circle with one read that missed a write.
    GSingle,
    /// A circle with several reads that missed writes.
    G2,
    /// Two transactions read one version and both wrote on top of it.
    LostUpdate,
    /// Two reads of one list are not prefixes of one another.
    IncompatibleOrder,
    /// An element is in a list or set twice.
    DuplicateElement,
    /// What was acknowledged is missing from a later read.
    LostWrite,
    /// An element was seen and later not.
    Vanished,
    /// An element was seen, then not, then again.
    Resurrected,
    /// A change was delivered twice.
    WatchDuplicate,
    /// A change was delivered after a later one.
    WatchOutOfOrder,
    /// A committed change was not delivered.
    WatchGap,
    /// A committed change between the last one delivered and the point of a resume was skipped.
    WatchResumeGap,
    /// A change was delivered that was not committed, or not so.
    WatchPhantom,
    /// A key's version went back.
    VersionWentBack,
    /// Two writes of a key have one version.
    VersionTwice,
    /// One version of a key has two values.
    VersionAmbiguous,
    /// An acknowledged write is missing after a step of a migration.
    LostInMigration,
    /// I1 to I10 of placement.
    Placement(u8),
}

/// One way in which a promise is broken.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Violation {
    /// What kind of wrong it is.
    pub anomaly: Anomaly,
    /// The key concerned, or what else it is about (a watcher, a shard).
    pub about: String,
    /// What is wrong, in words.
    pub what: String,
    /// The fewest operations that show it.
    pub operations: Vec<Operation>,
}

impl Violation {
    /// A violation, to which operations can be added.
    pub fn new(anomaly: Anomaly, about: impl Into<String>, what: impl Into<String>) -> Self {
        Self {
            anomaly,
            about: about.into(),
            what: what.into(),
            operations: Vec::new(),
        }
    }

    /// With the operations that show it, in order of their calls, each once.
    #[must_use]
    pub fn shown_by<'a>(mut self, operations: impl IntoIterator<Item = &'a Operation>) -> Self {
        self.operations = operations.into_iter().cloned().collect();
        self.operations
            .sort_by_key(|operation| (operation.call_ns(), operation.process()));
        self.operations.dedup();
        self
    }

    /// When it could first be seen: the last return among its operations.
    pub fn at_ns(&self) -> Option<u64> {
        self.operations.iter().filter_map(Operation::return_ns).max()
    }
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?} of {}: {}", self.anomaly, self.about, self.what)?;
        for operation in self.operations.iter().take(SHOWN_MAX) {
            write!(f, "\n    {operation}")?;
        }
        if self.operations.len() > SHOWN_MAX {
            write!(f, "\n    and {} more", self.operations.len() - SHOWN_MAX)?;
        }
        Ok(())
    }
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Ok => f.write_str("ok"),
            Self::Unknown(why) => write!(f, "unknown: {why}"),
            Self::Violation(violations) => {
                write!(f, "{} violations", violations.len())?;
                violations
                    .iter()
                    .try_for_each(|violation| write!(f, "\n  {violation}"))
            }
        }
    }
}
