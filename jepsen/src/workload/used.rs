//! What the clients touched.

use std::collections::{BTreeMap, BTreeSet};

use client::KeyRange;
use serde::{Deserialize, Serialize};

use super::name::WorkloadName;
use crate::history::{Action, OperationKind, Outcome};

/// How operations ended.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Outcomes {
    /// Took effect.
    pub ok: u64,
    /// Certainly did not.
    pub fail: u64,
    /// Unknown.
    pub info: u64,
}

impl Outcomes {
    /// Counts one more.
    pub fn add(&mut self, action: &Action) {
        match action.outcome() {
            Outcome::Ok(()) => self.ok += 1,
            Outcome::Fail => self.fail += 1,
            Outcome::Info => self.info += 1,
        }
    }

    /// All of them.
    pub fn total(self) -> u64 {
        self.ok + self.fail + self.info
    }
}

impl std::ops::AddAssign for Outcomes {
    fn add_assign(&mut self, other: Self) {
        self.ok += other.ok;
        self.fail += other.fail;
        self.info += other.info;
    }
}

/// A range of keys that is read by scans.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UsedRange {
    /// The workload it belongs to.
    pub workload: WorkloadName,
    /// What a scan is asked for.
    pub range: KeyRange,
    /// The keys in it that were, or may have been, written.
    pub keys: Vec<String>,
    /// Whether it was still in use when the clients stopped.
    pub live: bool,
}

/// What a run of the clients touched.
#[derive(Clone, Debug, Default)]
pub struct Used {
    /// The keys that are read one by one.
    pub keys: BTreeMap<WorkloadName, BTreeSet<String>>,
    /// The banks, by their names.
    pub banks: BTreeSet<String>,
    /// The ranges that are read by scans.
    pub ranges: Vec<UsedRange>,
    /// How operations ended, by kind. Every key of a scan counts as a get.
    pub outcomes: BTreeMap<OperationKind, Outcomes>,
    /// Scans that gave a key twice or out of order, in words.
    pub disorder: Vec<String>,
    /// Old versions that were not what had been written, in words.
    pub changed_past: Vec<String>,
    /// Banks whose accounts did not add up, in words.
    pub unbalanced: Vec<String>,
}
