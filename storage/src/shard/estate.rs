//! What a replica holds at one moment, to be written into another replica's file.

use std::io;
use std::sync::Arc;

use super::file::{OpenShardError, ROWS};
use super::fresh::{FreshRow, FreshRows};
use super::machine::State;
use super::record::{Kind, row_key, seal, split_row_key};
use super::rewrite::{RewriteError, write_pieces};
use super::store::CreateShardError;
use crate::engine::{Engine, TableView};
use crate::failpoint::HostFailpoints;

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
        let is_held = |(revision, key): (u64, &[u8])| self.state.keys.has(key, revision);
        let in_file = self.rows.range(..).map_err(OpenShardError::from)?;
        let in_file = in_file.filter(|stored| match stored {
            Ok((row_key, _)) => split_row_key(row_key).is_some_and(is_held),
            Err(_) => true,
        });
        let frozen = self.frozen.iter().flat_map(|rows| rows.iter());
        let in_memory = frozen.chain(self.state.fresh.iter());
        let in_memory = in_memory.filter(|(revision, FreshRow { key, .. })| is_held((*revision, key)));
        let in_memory = in_memory.map(|(revision, FreshRow { key, row })| {
            let row_key = row_key(revision, key);
            let record = seal(Kind::Row, &row_key, row);
            Ok((row_key.into(), record))
        });
        let written = write_pieces(in_file.chain(in_memory), engine, ROWS, Kind::Row, failpoints);
        written.map_err(|error| match error {
            RewriteError::Write(error) => error.into(),
            RewriteError::Read(error) => error.into(),
            other => OpenShardError::Io(io::Error::other(other)).into(),
        })
    }
}

impl std::fmt::Debug for Estate {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Estate")
            .field("range", &self.state.range)
            .field("revision", &self.state.revision)
            .finish_non_exhaustive()
    }
}
