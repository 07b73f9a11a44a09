//! The errors of the log: one enum for opening it, one for its operations, one for reads.

use std::io;
use std::sync::Arc;

use super::index::LogGroup;

/// Why a log could not be opened. The files are left as they were.
#[derive(Debug, thiserror::Error)]
pub enum OpenLogError {
    /// The disk failed.
    #[error("the log's files cannot be read or written: {0}")]
    Io(#[from] io::Error),
    /// A newer program wrote the files.
    #[error("the log has format {found}, this program knows formats up to {known}")]
    NewerFormat {
        /// The format in the file.
        found: u16,
        /// The newest format this program reads.
        known: u16,
    },
    /// A file with a segment's name does not begin as one, or is another segment.
    #[error("a file is not the segment of this log that its name says")]
    NotALog,
    /// The log is one database, as logs were before the first release.
    #[error("the log is of a form that no release had; start with an empty folder")]
    FormerFormat,
    /// The guard file is gone or neither of its copies verifies, while there is a log.
    #[error(
        "the log's guard file is missing or corrupt, so a rolled-back log could not be told from a sound one"
    )]
    GuardLost,
    /// The log misses records that the guard knows were flushed: restored, rolled back, or the disk
    /// lied about a sync. A replica that voted or acknowledged with it must not come back.
    #[error("the log was rolled back: flushed up to sequence {flushed}, found only {found}")]
    RolledBack {
        /// The sequence that was durable according to the guard.
        flushed: u64,
        /// The newest sequence in the log; zero for an empty or missing log.
        found: u64,
    },
    /// A group's vote is older than the one the guard knows was flushed.
    #[error("the vote of log group {} was rolled back", group.0)]
    VoteRolledBack {
        /// The group whose vote is behind.
        group: LogGroup,
    },
    /// A record is damaged such that its group is unknown, or records are missing in the middle.
    #[error("the log is corrupt near sequence {sequence}: {why}")]
    Corrupt {
        /// The sequence of the record.
        sequence: u64,
        /// What does not verify.
        why: String,
    },
    /// A record of a kind this program does not know; skipping it could lose what it says.
    #[error("the log record at sequence {sequence} has the unknown kind {kind}")]
    UnknownKind {
        /// The sequence of the record.
        sequence: u64,
        /// The kind found.
        kind: u8,
    },
}

/// Why an operation on the log failed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum LogFault {
    /// Writing failed. What was queued may or may not be on disk; the log takes no further
    /// operation and the host must stop.
    #[error("the log failed and takes no further operation: {0}")]
    Failed(Arc<str>),
    /// The log was closed before the operation.
    #[error("the log is closed")]
    Closed,
    /// An append does not follow the group's last entry; nothing was appended.
    #[error("log group {} expects index {expected}, not {found}", group.0)]
    NotContiguous {
        /// The group.
        group: LogGroup,
        /// The index that would follow.
        expected: u64,
        /// The index that was given.
        found: u64,
    },
    /// The group was destroyed, or never made with [`super::LogHub::group`].
    #[error("log group {} was destroyed", group.0)]
    Destroyed {
        /// The group.
        group: LogGroup,
    },
    /// A record of the group is damaged: its replica is to be destroyed and rebuilt from its peers
    /// under a fresh replica id. Only destroy is accepted.
    #[error("log group {} has a damaged record and is quarantined", group.0)]
    Quarantined {
        /// The group.
        group: LogGroup,
    },
}

/// Why entries could not be read.
#[derive(Debug, thiserror::Error)]
pub enum ReadLogError {
    /// The log or the group takes no operations.
    #[error(transparent)]
    Fault(#[from] LogFault),
    /// The disk failed.
    #[error("the log cannot be read: {0}")]
    Io(#[from] io::Error),
    /// A record is missing or does not verify; it is not served, and its group is quarantined.
    #[error("entry {index} of log group {} does not verify", group.0)]
    Corrupt {
        /// The group.
        group: LogGroup,
        /// The entry's index.
        index: u64,
    },
}
