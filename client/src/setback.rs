//! What one attempt came to, other than an answer.
//!
//! Each kind says two things: whether the operation may have taken effect, and what to try next. Only
//! [`Kind::Unknown`] leaves the first open; every other kind is a host's word, or this client's own knowledge, that
//! this attempt was not executed.

use crate::proto::{self, Code, HostAddress};

/// An attempt without an answer.
#[derive(Debug, Clone)]
pub(crate) struct Setback {
    pub(crate) kind: Kind,
    pub(crate) cause: String,
}

/// What to make of it.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Kind {
    /// The host does not lead the shard; where it is led, if the host knows.
    NotHome(Option<HostAddress>),
    /// The shard's range has another version.
    StaleRoute,
    /// The shard does not know the session.
    SessionExpired,
    /// The sequence is below the session's low-water mark.
    SequenceForgotten,
    /// The host, or this client's connection to it, has too much in flight.
    Busy,
    /// The request did not reach the host, or the host could not take it.
    HostFailed,
    /// The request was sent, and it is not known what became of it.
    Unknown,
    /// No attempt will fare better.
    Refused(Refusal),
}

/// Why an operation is refused for good.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Refusal {
    TooLarge,
    Invalid,
    WrongCluster,
    Incompatible,
    Compacted,
    FutureRevision,
    NoLease,
    NoSpace,
}

impl Setback {
    pub(crate) fn new(kind: Kind, cause: impl Into<String>) -> Self {
        Self {
            kind,
            cause: cause.into(),
        }
    }

    pub(crate) fn host_failed(cause: impl Into<String>) -> Self {
        Self::new(Kind::HostFailed, cause)
    }

    pub(crate) fn refused(refusal: Refusal, cause: impl Into<String>) -> Self {
        Self::new(Kind::Refused(refusal), cause)
    }
}

impl From<proto::Error> for Setback {
    fn from(error: proto::Error) -> Self {
        let (kind, name) = match Code::try_from(error.code) {
            Ok(code) => (kind_of(code, error.home), code.as_str_name()),
            Err(_) => (
                Kind::Refused(Refusal::Incompatible),
                "a code this client does not know",
            ),
        };
        let cause = match error.message.as_str() {
            "" => name.to_owned(),
            message => format!("{name}: {message}"),
        };
        Self { kind, cause }
    }
}

fn kind_of(code: Code, home: Option<HostAddress>) -> Kind {
    match code {
        Code::NotHome => Kind::NotHome(home.filter(|home| !home.address.is_empty())),
        Code::StaleRoute => Kind::StaleRoute,
        Code::SessionExpired => Kind::SessionExpired,
        Code::SequenceForgotten => Kind::SequenceForgotten,
        Code::Overloaded => Kind::Busy,
        Code::Unavailable | Code::Deadline => Kind::HostFailed,
        // A host that names no code has said nothing about the outcome.
        Code::UnknownOutcome | Code::Unspecified => Kind::Unknown,
        Code::TooLarge => Kind::Refused(Refusal::TooLarge),
        Code::Invalid => Kind::Refused(Refusal::Invalid),
        Code::WrongCluster => Kind::Refused(Refusal::WrongCluster),
        Code::Compacted => Kind::Refused(Refusal::Compacted),
        Code::FutureRevision => Kind::Refused(Refusal::FutureRevision),
        Code::NoLease => Kind::Refused(Refusal::NoLease),
        Code::NoSpace => Kind::Refused(Refusal::NoSpace),
        Code::Unimplemented => Kind::Refused(Refusal::Incompatible),
    }
}
