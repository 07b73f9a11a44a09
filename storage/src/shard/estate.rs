//! What a replica holds at one moment, to be written into another replica's file.

use std::io;
use std::sync::Arc;

use bytes::Bytes;

use super::file::{OpenShardError, ROWS};
use super::fresh::{FreshRow, FreshRows};
use super::machine::State;
use super::record::{Kind, row_key, seal, split_row_key};
use super::rewrite::{RewriteError, write_pieces};
use super::store::CreateShardError;
use crate::engine::{Durability, Engine, TableView, WriteEngineError};
use crate::failpoint::HostFailpoints;

/// Rows that are removed in one transaction.
const REMOVED_AT_ONCE: usize = 1_024;

/// A state, and where its rows lie.
pub(super) struct Estate {
    pub(super) state: State,
    /// Rows that a checkpoint was writing.
    pub(super) frozen: Option<Arc<FreshRows>>,
    pub(super) rows: Arc<TableView>,
    /// Keeps the file open.
    pub(super) _engine: Arc<Engine>,
}

impl Estate {
    /// Copies the rows of every version in the index into another file.
    pub(super) fn write_rows(
        &self,
        engine: &Engine,
        failpoints: &HostFailpoints,
    ) -> Result<(), CreateShardError> {
        self.write_rows_after(0, engine, failpoints)
    }

    /// The same, of the revisions from `from` on.
    pub(super) fn write_rows_after(
        &self,
        from: u64,
        engine: &Engine,
        failpoints: &HostFailpoints,
    ) -> Result<(), CreateShardError> {
        let is_held = |revision: u64, key: &[u8]| self.state.keys.has(key, revision);
        let frozen = self.frozen.iter().flat_map(|rows| rows.iter());
        let in_memory = frozen.chain(self.state.fresh.iter());
        let in_memory =
            in_memory.filter(|(revision, FreshRow { key, .. })| *revision >= from && is_held(*revision, key));
        let in_memory = in_memory.map(|(revision, FreshRow { key, row })| {
            let row_key = row_key(revision, key);
            let record = seal(Kind::Row, &row_key, row);
            (row_key.into(), record)
        });
        copy_rows(&self.rows, from, is_held, in_memory, engine, failpoints)
    }
}

/// Copies the wanted rows of a file, from a revision on, and then some more into another file. Each is verified.
pub(super) fn copy_rows(
    rows: &TableView,
    from: u64,
    wanted: impl Fn(u64, &[u8]) -> bool,
    more: impl Iterator<Item = (Bytes, Bytes)>,
    engine: &Engine,
    failpoints: &HostFailpoints,
) -> Result<(), CreateShardError> {
    let first = row_key(from, &[]);
    let in_file = rows.range(first.as_slice()..).map_err(OpenShardError::from)?;
    let in_file = in_file.filter(|stored| match stored {
        Ok((row_key, _)) => split_row_key(row_key).is_some_and(|(revision, key)| wanted(revision, key)),
        Err(_) => true,
    });
    let written = write_pieces(in_file.chain(more.map(Ok)), engine, ROWS, Kind::Row, failpoints);
    written.map_err(|error| match error {
        RewriteError::Write(error) => error.into(),
        RewriteError::Read(error) => error.into(),
        other => OpenShardError::Io(io::Error::other(other)).into(),
    })
}

/// Removes rows from a file, in pieces.
pub(super) fn remove_rows(
    engine: &Engine,
    doomed: impl Fn(u64, &[u8]) -> bool,
) -> Result<(), CreateShardError> {
    let view = engine.read().map_err(OpenShardError::from)?;
    let rows = view.table(ROWS).map_err(OpenShardError::from)?;
    let remove = |piece: &mut Vec<Bytes>| -> Result<(), WriteEngineError> {
        let gone = std::mem::take(piece);
        engine.write(Durability::Unsynced, |tx| {
            gone.iter().try_for_each(|key| tx.delete(ROWS, key))
        })
    };
    let mut piece = Vec::new();
    for stored in rows.range(..).map_err(OpenShardError::from)? {
        let (row_key, _) = stored.map_err(OpenShardError::from)?;
        if split_row_key(&row_key).is_some_and(|(revision, key)| doomed(revision, key)) {
            piece.push(row_key);
        }
        if piece.len() == REMOVED_AT_ONCE {
            remove(&mut piece)?;
        }
    }
    Ok(remove(&mut piece)?)
}

impl std::fmt::Debug for Estate {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Estate")
            .field("range", &self.state.range)
            .field("revision", &self.state.revision)
            .finish_non_exhaustive()
    }
}
