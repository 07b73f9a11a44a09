//! Rows that no checkpoint has written yet, by revision. They live in memory only: the Raft log
//! holds what made them.

use std::collections::BTreeMap;

use super::key::Key;
use super::record::Row;

/// What a row costs in memory beside its key and value, in bytes, roughly.
const ROW_OVERHEAD_BYTES: u64 = 96;

/// One row on its way to the file.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct FreshRow {
    pub(crate) key: Key,
    pub(crate) row: Row,
}

impl FreshRow {
    fn bytes(&self) -> u64 {
        (self.key.len() + self.row.value.len()) as u64 + ROW_OVERHEAD_BYTES
    }
}

/// Rows by revision.
#[derive(Debug, Clone, Default)]
pub(crate) struct FreshRows {
    rows: BTreeMap<u64, FreshRow>,
    bytes: u64,
}

impl FreshRows {
    pub(crate) fn insert(&mut self, revision: u64, row: FreshRow) {
        self.bytes += row.bytes();
        self.rows.insert(revision, row);
    }

    pub(crate) fn get(&self, revision: u64) -> Option<&Row> {
        self.rows.get(&revision).map(|fresh| &fresh.row)
    }

    /// Forgets a row; false if it was not here.
    pub(crate) fn remove(&mut self, revision: u64) -> bool {
        let Some(row) = self.rows.remove(&revision) else {
            return false;
        };
        self.bytes -= row.bytes();
        true
    }

    /// Takes back rows that were to be written.
    pub(crate) fn absorb(&mut self, rows: &FreshRows) {
        for (revision, row) in rows.iter() {
            self.insert(revision, row.clone());
        }
    }

    /// The rows in the order of their revisions.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (u64, &FreshRow)> {
        self.rows.iter().map(|(revision, row)| (*revision, row))
    }

    pub(crate) fn count(&self) -> u64 {
        self.rows.len() as u64
    }

    /// Memory held, in bytes, roughly.
    pub(crate) fn bytes(&self) -> u64 {
        self.bytes
    }
}
