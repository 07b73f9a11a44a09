//! The log: one for all replicas of a host, with one sync for everything that is queued.
//!
//! All groups' operations (append, vote, committed, truncate, purge, destroy) get one rising
//! sequence when they are queued and are written in that order to one file, so a commit is one write
//! behind the last, whatever the number of groups, and one sync makes it durable.
//!
//! - [`LogHub`] and [`GroupLog`] are cheap handles. They change the state in memory at once and queue
//!   the record; they never wait for the disk. An entry can be read before it is durable.
//! - [`LogWriter`] is the body of the one thread that writes: it takes all that is queued, commits it
//!   and fires the callbacks in queue order.
//! - Records live in segments, a file each. A segment is removed whole, oldest first, once nothing
//!   in it is live. Votes, committed and purged marks are copied into each new segment; entries of
//!   idle groups are rewritten forward when they alone hold space.
//! - The guard, a small file of its own, remembers how far the log was flushed and each group's last
//!   vote. A log behind its guard was rolled back and is refused.
//!
//! What must hold: a callback fires Ok only after the sync that covers its record and all records
//! before it; the guard is written after the log's sync, so on an honest disk it is never ahead; a
//! commit that failed has an unknown outcome, is never retried and stops the whole log.
//!
//! Left out: what payloads mean, when to purge, and the lock on the data folder.

mod error;
mod files;
mod group;
mod guard;
mod hub;
mod index;
mod open;
mod rebuild;
mod record;
mod rewrite;
mod segment_file;
mod segments;
mod state;
mod writer;

pub use error::{LogFault, OpenLogError, ReadLogError};
pub use group::{Done, GroupLog, LogRecord};
pub use hub::{LogHub, LogOptions, LogStats};
pub use index::LogGroup;
pub use writer::{LogWriter, Step};
