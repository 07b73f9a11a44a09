//! Answers to clients, from what the store says.

use client::proto::{
    ActionResult, Code, DeleteRangeResult, Error, GetResult, HistoryResult, HostAddress, KeyValue,
    LeaseResult, MutationResult, Reply, ScanResult, TransactionResult, action_result, reply,
};
use placement::HostId;
use storage::shard::{Acted, History, Outcome, OutcomeKind, ReadError, Refusal, ScanPage};

pub(crate) fn error(id: u64, code: Code, message: impl Into<String>) -> Reply {
    failure(id, problem(code, message))
}

pub(crate) fn problem(code: Code, message: impl Into<String>) -> Error {
    Error {
        code: code.into(),
        message: message.into(),
        home: None,
    }
}

/// The request was not executed: ask the shard's home.
pub(crate) fn not_home(id: u64, home: Option<HostAddress>) -> Reply {
    failure(id, led_elsewhere(home))
}

/// A host with a voter of the shard has no space left.
pub(crate) fn no_space(id: u64, full: HostId) -> Reply {
    let message = format!(
        "{full} has no space left: delete something and compact, or raise its storage.quota_bytes or the free space of \
         its disk"
    );
    error(id, Code::NoSpace, message)
}

/// What says that a shard's home is another host.
pub(crate) fn led_elsewhere(home: Option<HostAddress>) -> Error {
    Error {
        code: Code::NotHome.into(),
        message: "this host does not lead the shard".into(),
        home,
    }
}

fn failure(id: u64, error: Error) -> Reply {
    Reply {
        id,
        revision: 0,
        result: Some(reply::Result::Error(error)),
    }
}

pub(crate) fn get(id: u64, revision: u64, pair: Option<storage::shard::KeyValue>) -> Reply {
    let result = GetResult {
        pair: pair.map(key_value),
    };
    Reply {
        id,
        revision,
        result: Some(reply::Result::Get(result)),
    }
}

pub(crate) fn scan(id: u64, page: ScanPage) -> Reply {
    let result = ScanResult {
        pairs: page.pairs.into_iter().map(key_value).collect(),
        next: page.next.unwrap_or_default(),
    };
    Reply {
        id,
        revision: page.revision,
        result: Some(reply::Result::Scan(result)),
    }
}

pub(crate) fn history(id: u64, found: History) -> Reply {
    let result = HistoryResult {
        versions: found.versions.into_iter().map(key_value).collect(),
        more: found.more,
        oldest: found.oldest,
    };
    Reply {
        id,
        revision: found.revision,
        result: Some(reply::Result::History(result)),
    }
}

pub(crate) fn lease(id: u64, revision: u64, result: LeaseResult) -> Reply {
    Reply {
        id,
        revision,
        result: Some(reply::Result::Lease(result)),
    }
}

pub(crate) fn read_failed(id: u64, error: &ReadError) -> Reply {
    failure(id, unreadable(error))
}

/// Why what was asked for cannot be read.
pub(crate) fn unreadable(error: &ReadError) -> Error {
    let code = match error {
        // The replica is of no use: another may be.
        ReadError::Io(_) | ReadError::Corrupt(_) => Code::Unavailable,
        ReadError::Compacted { .. } => Code::Compacted,
        ReadError::Future { .. } => Code::FutureRevision,
    };
    problem(code, error.to_string())
}

pub(crate) fn mutation(id: u64, outcome: Outcome) -> Reply {
    let (applied, existed, previous) = match outcome.kind {
        OutcomeKind::Applied { existed, previous } => (true, existed, previous),
        OutcomeKind::CasFailed { existed, current } => (false, existed, current),
        OutcomeKind::SessionOpened | OutcomeKind::Split | OutcomeKind::MergeStep => (true, false, None),
        OutcomeKind::Transacted { succeeded, acted } => {
            let result = TransactionResult {
                succeeded,
                replayed: outcome.replayed,
                results: acted.into_iter().flatten().map(acted_result).collect(),
            };
            return Reply {
                id,
                revision: outcome.revision,
                result: Some(reply::Result::Transaction(result)),
            };
        }
        OutcomeKind::Refused(refusal) => return refused(id, refusal),
    };
    let result = MutationResult {
        applied,
        previous: previous.map(key_value),
        existed,
    };
    Reply {
        id,
        revision: outcome.revision,
        result: Some(reply::Result::Mutation(result)),
    }
}

fn acted_result(acted: Acted) -> ActionResult {
    let result = match acted {
        Acted::Changed { existed, previous } => action_result::Result::Change(MutationResult {
            applied: true,
            previous: previous.map(key_value),
            existed,
        }),
        Acted::RangeDeleted { keys } => action_result::Result::DeleteRange(DeleteRangeResult { keys }),
        Acted::Read(pair) => action_result::Result::Get(GetResult {
            pair: pair.map(key_value),
        }),
        Acted::Scanned { pairs, next } => action_result::Result::Scan(ScanResult {
            pairs: pairs.into_iter().map(key_value).collect(),
            next: next.unwrap_or_default(),
        }),
    };
    ActionResult { result: Some(result) }
}

fn refused(id: u64, refusal: Refusal) -> Reply {
    let (code, message) = match refusal {
        Refusal::SessionExpired => (Code::SessionExpired, "no such session is open on this shard"),
        Refusal::TooManySessions => (Code::Overloaded, "too many sessions are open on this shard"),
        Refusal::StaleRange => (Code::StaleRoute, "the shard's range has another version"),
        Refusal::SequenceForgotten => (
            Code::SequenceForgotten,
            "the outcome of this sequence was forgotten",
        ),
        Refusal::TooLarge => (Code::TooLarge, "the key or the value is above the shard's limit"),
        Refusal::OutOfRange => (Code::StaleRoute, "the key lies outside the shard"),
        Refusal::FutureRevision => (Code::FutureRevision, "the revision lies ahead of the shard"),
        Refusal::NoLease => (Code::NoLease, "the shard has no such lease, or it has ended"),
        Refusal::TooManyLeases => (Code::Overloaded, "the shard has as many leases as it may"),
        Refusal::Invalid => (Code::Invalid, "the mutation makes no sense"),
    };
    error(id, code, message)
}

pub(crate) fn key_value(pair: storage::shard::KeyValue) -> KeyValue {
    KeyValue {
        key: pair.key,
        value: pair.value,
        create_revision: pair.create_revision,
        mod_revision: pair.mod_revision,
        version: pair.version,
        lease: pair.lease,
    }
}
