//! Backups: what every shard held at one of its revisions, in a folder.
//!
//! A folder has a [`Manifest`] and a file for each shard. A file is a list of runs (`format`), each with versions of keys in
//! key order; where two runs have the same key the later one holds, and a version 0 is a deletion. So a shard that was read
//! in pieces, the changes that came meanwhile and the incrementals that follow are one thing: runs, of which [`Merged`]
//! makes one, with a frame of each in memory. A [`Chain`] is a full backup with the incrementals upon it.
//!
//! [`create()`] and [`restore()`] make calls of the SDK only; [`verify()`] needs no cluster. Nothing here draws chance or
//! tells the time of day: the verbs hand that in.
//!
//! What must hold: the manifest is written last, and a folder without one is no backup. Files are read and written where
//! they are needed, without a thread of their own: the program has nothing else to do.

mod chain;
mod changes;
mod create;
mod format;
mod manifest;
mod merge;
mod restore;
mod verify;

pub use chain::{Backup, Chain, ChainError};
pub use create::{CreateError, Order, Source, create};
pub use format::FormatError;
pub use manifest::{Base, Manifest, ManifestError, Run, Shard};
pub use merge::{Merged, ReadRunError};
pub use restore::{RestoreError, RestoreOptions, Restored, restore};
pub use verify::{Faults, Verified, verify};

/// What is going on, for people.
pub type Progress<'a> = &'a (dyn Fn(String) + Sync);

/// Shards that are read or written at the same time.
const SHARDS_AT_ONCE: usize = 4;
