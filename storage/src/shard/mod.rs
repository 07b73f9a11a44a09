//! The key-value machine and the durable state of one shard replica.
//!
//! The Raft log is the write-ahead log: applying an entry changes memory only, and a checkpoint
//! writes what changed since the last one, together with the applied position, in one durable
//! transaction. After a crash the replica stands at its newest checkpoint and the log is replayed
//! from there.
//!
//! - [`command`]: what an entry of a shard's log carries, as bytes.
//! - [`machine`]: `apply`, pure: mutations, revisions, range checks. Sessions make a retried
//!   mutation apply once.
//! - [`store`]: [`ShardStore`], the machine over a file: open, apply, read.
//! - [`checkpoint`]: writing the state down while entries are still applied.
//! - [`changes`]: changes by revision, as watchers are told of them.
//! - [`export`], [`import`]: a checkpoint as a stream of checksummed frames, and back.
//! - [`scrub`]: everything that a replica holds in one number, to be compared with that of its peers.
//! - `merge`: a shard takes over the range of the next one.
//! - `split`: the upper part of the range becomes another shard's.
//! - [`rewrite`]: a file that is mostly empty gives its space back.
//! - [`survivor`]: what is left of a shard that lost its majority, as a fresh replica's state.
//!
//! It does not know who proposes, what a host is, or what the caller's mark means.

mod bounds;
pub mod changes;
pub mod checkpoint;
pub mod command;
mod dying;
mod estate;
pub mod export;
mod extent;
mod file;
mod fingerprint;
mod frame;
mod fresh;
pub mod import;
mod index;
mod key;
mod lease;
mod limits;
pub mod machine;
mod merge;
mod read;
mod record;
mod retention;
pub mod rewrite;
mod row_cache;
pub mod scrub;
mod session;
mod split;
mod stage;
pub mod store;
pub mod survivor;
mod transaction;

pub use changes::{ChangePage, ChangeQuery};
pub use checkpoint::{Capture, CaptureError, CheckpointError, CheckpointReport};
pub use command::{
    Batch, DecodeError, EndedLease, NewGroup, decode_batch, encode_batch, encode_ended_leases,
    encode_merge_step, encode_new_group, encode_scrub, encode_split, encoded_mutations,
};
pub use export::{Export, ExportError};
pub use file::OpenShardError;
pub use frame::FrameError;
pub use import::{Import, ImportError, ImportedFile, InstallError};
pub use lease::LeaseState;
pub use limits::Limits;
pub use machine::{KeyValue, Outcome, OutcomeKind, Position, Refusal, ShardRange};
pub use merge::{Absorb, AbsorbError, Freeze, MergeStep, Thaw};
pub use read::{Found, History, ReadError, ScanPage, ShardStats};
pub use record::UnsealError;
pub use rewrite::{FileSize, RewriteError, RewriteLimits, RewriteReport};
pub use row_cache::{RowCache, RowCacheStats};
pub use scrub::{ScrubError, ScrubPoint, Scrubbed};
pub use split::{Heir, SPLIT_BASE, Split, Successor};
pub use stage::StageError;
pub use store::{ApplyError, CreateShardError, ShardIdentity, ShardOptions, ShardStore};
pub use survivor::SurvivorError;
pub use transaction::Acted;
