//! How a verb ends: what the process exits with, or what went wrong and what an operator can do about it.

use std::{io, path::PathBuf};

use client::{AdminError, ConnectError, MutationError, ReadError, WatchError};

use super::init::SplitFileError;
use crate::backup::{CreateError, Faults, ManifestError, RestoreError};

/// How a verb that was answered ends the process.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Exit {
    /// Exit code 0.
    Ok,
    /// Exit code 2: the key is absent, or a compare-and-set did not find what it expected.
    NotFound,
}

/// Why a verb has no answer.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum VerbError {
    /// No host of the cluster answered. Nothing has changed.
    #[error(
        "no answer from {addresses}: {cause}. Name running hosts of the cluster with --connect; \
         a new cluster begins with `godwit init`"
    )]
    Unreachable {
        /// Whom the verb asked.
        addresses: String,
        /// What the last attempt came to.
        cause: String,
    },
    /// The host to make the first of a cluster did not answer. Nothing has changed.
    #[error(
        "no answer from {address}: {cause}. Start that host with `godwit serve`, or name another with --connect"
    )]
    NotServing {
        /// The host.
        address: String,
        /// What the attempt came to.
        cause: String,
    },
    /// What answered cannot be used.
    #[error("cannot use the cluster at {addresses}: {source}")]
    Connect {
        /// Whom the verb asked.
        addresses: String,
        /// What is wrong.
        source: ConnectError,
    },
    /// A get or a scan failed.
    #[error("cannot read {what}: {source}")]
    Read {
        /// The key or the range.
        what: String,
        /// What is wrong.
        source: ReadError,
    },
    /// A scan took longer than it may.
    #[error("the scan has not ended after {deadline_ms} ms; narrow it, or give it longer with --deadline-ms")]
    ScanDeadline {
        /// How long it was given.
        deadline_ms: u64,
    },
    /// A watch was not made, or is over.
    #[error("cannot watch {what}: {source}")]
    Watch {
        /// The range.
        what: String,
        /// What is wrong.
        source: WatchError,
    },
    /// A write failed, and certainly had no effect.
    #[error("cannot write {key}: {source}")]
    Write {
        /// The key.
        key: String,
        /// What is wrong.
        source: MutationError,
    },
    /// A write may have taken effect, or may yet.
    #[error("it is not known whether {key} was written: {source}. Read it before writing it again")]
    UnknownOutcome {
        /// The key.
        key: String,
        /// What happened.
        source: MutationError,
    },
    /// An operator's call was refused, or not understood. It had no effect.
    #[error("{addresses}: {source}")]
    Admin {
        /// Whom the verb asked.
        addresses: String,
        /// What is wrong.
        source: AdminError,
    },
    /// An operator's call may have taken effect.
    #[error("it is not known whether the call took effect: {cause}. Look with `{look}` before asking again")]
    Unconfirmed {
        /// What happened.
        cause: String,
        /// The verb that shows the effect.
        look: &'static str,
    },
    /// The placement group does not take the migration or the change of a host. Nothing has changed.
    #[error("refused: {message}")]
    Refused {
        /// Why.
        message: String,
    },
    /// The cluster has no such shard.
    #[error("there is no shard {0}; `godwit admin shards` lists them")]
    NoShard(u64),
    /// The cluster has no such host.
    #[error("there is no host {0}; `godwit admin hosts` lists them")]
    NoHost(u64),
    /// A host that was waited for still holds something, or nobody could say.
    #[error(
        "host {host} has not left after {seconds} s: {held}. It goes on by itself; look with `godwit admin hosts` and \
         `godwit admin migrations`, or take it back with `godwit admin uncordon {host}`"
    )]
    NotEmptied {
        /// The host.
        host: u64,
        /// How long was waited.
        seconds: u64,
        /// What it holds, and what each part waits for.
        held: String,
    },
    /// Another operator changed what the host takes on.
    #[error("host {host} is {admission} now: another operator changed it meanwhile")]
    Overtaken {
        /// The host.
        host: u64,
        /// What it takes on now.
        admission: String,
    },
    /// A live view needs a terminal.
    #[error("standard output is no terminal: `--once` prints one frame")]
    NoTerminal,
    /// An id that the protocol reads as "all".
    #[error("{what} 0 cannot be asked for: ids count from 1. Leave it out to see all")]
    ZeroId {
        /// Whose id it was to be.
        what: &'static str,
    },
    /// The value to write could not be read.
    #[error("cannot read the value from {}: {source}", path.display())]
    ValueFile {
        /// The file; `-` is standard input.
        path: PathBuf,
        /// What is wrong.
        source: io::Error,
    },
    /// The document makes no sense.
    #[error("{}: {reason}", path.display())]
    Document {
        /// The file; `-` is standard input.
        path: PathBuf,
        /// What is wrong.
        reason: String,
    },
    /// The key space cannot be cut by this file.
    #[error("{}: {source}", path.display())]
    SplitFile {
        /// The file.
        path: PathBuf,
        /// What is wrong, and on which line.
        source: SplitFileError,
    },
    /// A backup was not made.
    #[error("no backup was made: {0}")]
    BackupCreate(#[from] CreateError),
    /// A backup to go on from cannot be used.
    #[error("cannot go on from that backup: {0}")]
    BackupBase(#[from] ManifestError),
    /// A backup is not whole, or is no chain.
    #[error(transparent)]
    BackupFaults(#[from] Faults),
    /// A backup was not restored, or not all of it.
    #[error(transparent)]
    BackupRestore(#[from] RestoreError),
    /// The call was answered, and the answer could not be printed.
    #[error("the call was answered, but the answer cannot be printed: {0}")]
    Print(#[from] io::Error),
}
