//! `storage`: bytes on one host. The shared Raft log and the durable state of shards.
//!
//! Everything is synchronous and takes time, chance, files and threads from outside ([`clock`],
//! [`seed`], [`disk`]; the log's writer is a body the composition root gives a thread to), so that a
//! whole cluster can run in one simulated process. The crate knows nothing of consensus: a log
//! record's payload is opaque here.
//!
//! - [`disk`], [`sim_disk`]: the seam all files go through, and the disk that fails on purpose.
//! - [`engine`]: byte-keyed tables with atomic commits; the one file that names redb.
//! - [`log`]: one log a host for all its replicas, with group commit.
//! - [`shard`]: the key-value machine and its multi-version state, one file a shard replica.
//! - [`mod@failpoint`]: places where a test can make a step fail.
//! - [`seeded_bug`]: mistakes that a test can turn on.

pub mod clock;
pub mod disk;
pub mod engine;
pub mod failpoint;
pub mod log;
pub mod seed;
pub mod seeded_bug;
pub mod shard;
pub mod sim_disk;
