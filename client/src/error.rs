//! The errors an application sees: one enum for each family of operations.
//!
//! For mutations the variants are told apart by what is known of the outcome. [`MutationError::UnknownOutcome`] and
//! [`MutationError::SessionExpired`] leave it open; every other variant says that the mutation did not take effect
//! and never will.

use thiserror::Error;

use crate::setback::Refusal;

/// Why a client could not be connected.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum ConnectError {
    /// The configuration makes no sense.
    #[error("configuration: {message}")]
    Invalid {
        /// What is wrong with it.
        message: String,
    },
    /// No endpoint answered with a shard map before the deadline.
    #[error("no endpoint has answered with a shard map after {attempts} attempts; the last: {cause}")]
    Unreachable {
        /// Rounds over all endpoints.
        attempts: u32,
        /// What the last attempt came to.
        cause: String,
    },
    /// The endpoint belongs to another cluster than the configuration names.
    #[error("another cluster: {message}")]
    WrongCluster {
        /// Both clusters' ids.
        message: String,
    },
    /// The endpoint speaks another protocol, or another version of it.
    #[error("incompatible host: {message}")]
    Incompatible {
        /// What was not understood.
        message: String,
    },
}

/// Why a get or a page of a scan failed.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum ReadError {
    /// The deadline passed.
    #[error("the deadline passed after {attempts} attempts; the last: {cause}")]
    Deadline {
        /// Attempts made.
        attempts: u32,
        /// What the last attempt came to.
        cause: String,
    },
    /// The limit of attempts was reached before the deadline.
    #[error("given up after {attempts} attempts; the last: {cause}")]
    Unavailable {
        /// Attempts made.
        attempts: u32,
        /// What the last attempt came to.
        cause: String,
    },
    /// The key is larger than the host's limit.
    #[error("too large: {message}")]
    TooLarge {
        /// The limit.
        message: String,
    },
    /// The request makes no sense.
    #[error("invalid request: {message}")]
    Invalid {
        /// What is wrong with it.
        message: String,
    },
    /// Versions that old were forgotten: the revision lies below the oldest that can be read.
    #[error("compacted: {message}")]
    Compacted {
        /// Which revision, and the oldest that can be read.
        message: String,
    },
    /// The shard has not come to this revision.
    #[error("future revision: {message}")]
    FutureRevision {
        /// Which revision, and where the shard is.
        message: String,
    },
    /// The host belongs to another cluster.
    #[error("another cluster: {message}")]
    WrongCluster {
        /// Which.
        message: String,
    },
    /// The host does not know this operation, or answered what this client does not understand.
    #[error("incompatible host: {message}")]
    Incompatible {
        /// What was not understood.
        message: String,
    },
}

/// Why a put, delete or compare-and-set failed.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum MutationError {
    /// The deadline passed. The mutation certainly did not take effect.
    #[error("the deadline passed after {attempts} attempts, without effect; the last: {cause}")]
    Deadline {
        /// Attempts made.
        attempts: u32,
        /// What the last attempt came to.
        cause: String,
    },
    /// The limit of attempts was reached before the deadline. The mutation certainly did not take effect.
    #[error("given up after {attempts} attempts, without effect; the last: {cause}")]
    Unavailable {
        /// Attempts made.
        attempts: u32,
        /// What the last attempt came to.
        cause: String,
    },
    /// The mutation was sent, and whether it took effect is not known. It may still do so after this error, once at
    /// most; this client will not send it again.
    #[error("unknown outcome after {attempts} attempts; the last: {cause}")]
    UnknownOutcome {
        /// Attempts made.
        attempts: u32,
        /// What the last attempt came to.
        cause: String,
    },
    /// The mutation was sent without an answer, and by the time of the retry the shard had forgotten the session, and
    /// with it whether the mutation took effect. Happens to a client that hangs for longer than a session's life.
    #[error("the session expired with the outcome unknown after {attempts} attempts; the last: {cause}")]
    SessionExpired {
        /// Attempts made.
        attempts: u32,
        /// What the last attempt came to.
        cause: String,
    },
    /// Key or value is larger than the limit. The mutation did not take effect.
    #[error("too large: {message}")]
    TooLarge {
        /// The limit.
        message: String,
    },
    /// The request makes no sense. The mutation did not take effect.
    #[error("invalid request: {message}")]
    Invalid {
        /// What is wrong with it.
        message: String,
    },
    /// The shard has no such lease, or it has ended. The mutation did not take effect.
    #[error("no lease: {message}")]
    NoLease {
        /// Which.
        message: String,
    },
    /// A host with a voter of the shard has no space left (alarm NOSPACE): what adds data is refused, and trying again
    /// is no use until somebody has made room. The mutation did not take effect. Reads, deletions and revocations are
    /// served all the same.
    #[error("no space: {message}")]
    NoSpace {
        /// Which host.
        message: String,
    },
    /// The shard has not come to this revision. Nothing was forgotten.
    #[error("future revision: {message}")]
    FutureRevision {
        /// Which revision.
        message: String,
    },
    /// The host belongs to another cluster. The mutation did not take effect.
    #[error("another cluster: {message}")]
    WrongCluster {
        /// Which.
        message: String,
    },
    /// The host does not know this operation. The mutation did not take effect.
    #[error("incompatible host: {message}")]
    Incompatible {
        /// What was not understood.
        message: String,
    },
}

impl MutationError {
    /// Whether the mutation may have taken effect, or may yet.
    #[must_use]
    pub fn is_outcome_unknown(&self) -> bool {
        matches!(self, Self::UnknownOutcome { .. } | Self::SessionExpired { .. })
    }
}

/// Why an operator's call failed.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum AdminError {
    /// The configuration makes no sense.
    #[error("configuration: {message}")]
    Invalid {
        /// What is wrong with it.
        message: String,
    },
    /// No endpoint could be reached, or none could serve the call. It had no effect.
    #[error("no endpoint could serve the call; the last: {cause}")]
    Unreachable {
        /// What the last endpoint came to.
        cause: String,
    },
    /// A change was sent, and whether it took effect is not known: look before asking again.
    #[error("unknown outcome: {cause}")]
    UnknownOutcome {
        /// What happened.
        cause: String,
    },
    /// The cluster understood the call and refuses it. It had no effect.
    #[error("refused: {message}")]
    Refused {
        /// Why.
        message: String,
    },
    /// The host does not know the call.
    #[error("incompatible host: {message}")]
    Incompatible {
        /// What was not understood.
        message: String,
    },
}

/// How an operation ended without an answer; becomes the public error of its family.
#[derive(Debug)]
pub(crate) struct Failure {
    pub(crate) end: End,
    pub(crate) attempts: u32,
    pub(crate) cause: String,
}

/// The reason to stop trying.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum End {
    Deadline,
    Attempts,
    UnknownOutcome,
    SessionExpired,
    Refused(Refusal),
}

impl From<Failure> for ReadError {
    fn from(failure: Failure) -> Self {
        let Failure { end, attempts, cause } = failure;
        match end {
            // A read that was lost on the way is as good as one never sent.
            End::Deadline | End::UnknownOutcome | End::SessionExpired => Self::Deadline { attempts, cause },
            End::Attempts => Self::Unavailable { attempts, cause },
            End::Refused(Refusal::TooLarge) => Self::TooLarge { message: cause },
            End::Refused(Refusal::Invalid) => Self::Invalid { message: cause },
            End::Refused(Refusal::WrongCluster) => Self::WrongCluster { message: cause },
            End::Refused(Refusal::Incompatible) => Self::Incompatible { message: cause },
            End::Refused(Refusal::Compacted) => Self::Compacted { message: cause },
            End::Refused(Refusal::FutureRevision) => Self::FutureRevision { message: cause },
            // No read hangs on a lease.
            End::Refused(Refusal::NoLease) => Self::Invalid { message: cause },
            // No read adds anything.
            End::Refused(Refusal::NoSpace) => Self::Unavailable { attempts, cause },
        }
    }
}

impl From<Failure> for MutationError {
    fn from(failure: Failure) -> Self {
        let Failure { end, attempts, cause } = failure;
        match end {
            End::Deadline => Self::Deadline { attempts, cause },
            End::Attempts => Self::Unavailable { attempts, cause },
            End::UnknownOutcome => Self::UnknownOutcome { attempts, cause },
            End::SessionExpired => Self::SessionExpired { attempts, cause },
            End::Refused(Refusal::TooLarge) => Self::TooLarge { message: cause },
            End::Refused(Refusal::Invalid) => Self::Invalid { message: cause },
            End::Refused(Refusal::WrongCluster) => Self::WrongCluster { message: cause },
            End::Refused(Refusal::Incompatible) => Self::Incompatible { message: cause },
            // No mutation reads the past.
            End::Refused(Refusal::Compacted) => Self::Invalid { message: cause },
            End::Refused(Refusal::NoLease) => Self::NoLease { message: cause },
            End::Refused(Refusal::NoSpace) => Self::NoSpace { message: cause },
            End::Refused(Refusal::FutureRevision) => Self::FutureRevision { message: cause },
        }
    }
}
