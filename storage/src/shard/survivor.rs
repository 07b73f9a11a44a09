//! What a survivor had, as another replica's state.
//!
//! For a shard that lost its majority: the newest checkpoint of a survivor, which is closed for good, is copied into a
//! file beside the name of a replica with a fresh id ([`ShardStore::copy_survivor`]). There the survivor goes on from its
//! log as it would have in its own file, also with what that asks of it itself, such as a split. Once it is checkpointed,
//! the file is made over to the fresh replica and given its name ([`ShardStore::make_over`]). A crash at any moment
//! leaves the whole replica or none; the survivor's own file is only read, so if this comes to nothing, all that it had
//! is still there.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::file::{OpenShardError, ROWS, SESSIONS, check_owner, read_checkpoint, read_identity, write_meta};
use super::record::Kind;
use super::rewrite::{RewriteError, copy_table};
use super::store::{
    ShardIdentity, ShardOptions, ShardStore, beside, create_engine, move_into_place, open_engine, owner,
    remove_leftover,
};
use crate::disk::Disk;
use crate::engine::{Durability, ReadEngineError, WriteEngineError};

/// Why a survivor's state did not become another replica's. There is nothing of it under that one's name.
#[derive(Debug, thiserror::Error)]
pub enum SurvivorError {
    /// The survivor's file, or the copy, cannot be used.
    #[error(transparent)]
    Open(#[from] OpenShardError),
    /// The copy could not be made.
    #[error(transparent)]
    Copy(#[from] RewriteError),
    /// The copy did not get its name.
    #[error("the copy cannot be moved into place: {0}")]
    Place(#[source] io::Error),
}

impl From<ReadEngineError> for SurvivorError {
    fn from(error: ReadEngineError) -> SurvivorError {
        SurvivorError::Open(error.into())
    }
}

impl From<WriteEngineError> for SurvivorError {
    fn from(error: WriteEngineError) -> SurvivorError {
        SurvivorError::Copy(error.into())
    }
}

impl ShardStore {
    /// Copies the newest checkpoint in `from`, the file of `survivor`, beside `to`, and opens the copy as the survivor's.
    /// Nobody may have `from` open. What an earlier attempt left behind is overwritten.
    ///
    /// # Errors
    /// When the survivor's file is damaged or another's, or the copy cannot be made or does not read back.
    pub fn copy_survivor(
        disk: Arc<dyn Disk>,
        survivor: &ShardIdentity,
        from: &Path,
        to: &Path,
        options: ShardOptions,
    ) -> Result<ShardStore, SurvivorError> {
        let unnamed = unnamed(to);
        copy(&*disk, survivor, from, &unnamed, &options)?;
        Ok(ShardStore::open(disk, &unnamed, survivor, options)?)
    }

    /// Makes the copy beside `to`, which has been checkpointed and closed, the file of `replica`, durably and at once.
    ///
    /// # Errors
    /// When it cannot be read or written. Whether it has its name is not known after [`SurvivorError::Place`].
    pub fn make_over(
        disk: &dyn Disk,
        survivor: &ShardIdentity,
        replica: &ShardIdentity,
        to: &Path,
        options: &ShardOptions,
    ) -> Result<(), SurvivorError> {
        let unnamed = unnamed(to);
        let engine = open_engine(disk, &unnamed, options.cache_bytes)?;
        let view = engine.read()?;
        check_owner(&read_identity(&view)?, &owner(survivor))?;
        let checkpoint = read_checkpoint(&view)?;
        drop(view);
        engine.write(Durability::Synced, |tx| {
            write_meta(tx, &owner(replica), &checkpoint)
        })?;
        drop(engine);
        move_into_place(disk, &unnamed, to).map_err(SurvivorError::Place)
    }
}

fn unnamed(path: &Path) -> PathBuf {
    beside(path, "survivor")
}

fn copy(
    disk: &dyn Disk,
    survivor: &ShardIdentity,
    from: &Path,
    to: &Path,
    options: &ShardOptions,
) -> Result<(), SurvivorError> {
    let source = open_engine(disk, from, options.cache_bytes)?;
    let source = source.read()?;
    check_owner(&read_identity(&source)?, &owner(survivor))?;
    let checkpoint = read_checkpoint(&source)?;
    remove_leftover(disk, to).map_err(OpenShardError::Io)?;
    let target = create_engine(disk, to, options.cache_bytes)?;
    let points = &options.failpoints;
    copy_table(
        &source,
        &target,
        ROWS,
        Kind::Row,
        |key| checkpoint.owns_row(key),
        points,
    )?;
    copy_table(&source, &target, SESSIONS, Kind::Session, |_| true, points)?;
    target.write(Durability::Synced, |tx| {
        write_meta(tx, &owner(survivor), &checkpoint)
    })?;
    Ok(())
}
