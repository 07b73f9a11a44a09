//! What is served, as the profiler counts it.

use bytes::Bytes;
use client::proto::request::Op;
use client::proto::{ReadMode, Request};
use prost::Message;
use storage::shard::{Outcome, OutcomeKind};

use super::exchange::Caller;
use crate::host::{AccessOf, Host, LocalShard};
use crate::profiler;

/// Counts what a mutation touched.
pub(super) fn record_mutation(
    host: &Host,
    local: &LocalShard,
    caller: &Caller,
    request: &Request,
    outcome: &Outcome,
) {
    use client::proto::mutation::Op as Change;
    let Some(Op::Mutation(encoded)) = &request.op else {
        return;
    };
    let Ok(mutation) = client::proto::Mutation::decode(encoded.clone()) else {
        return;
    };
    let (op, key): (_, &Bytes) = match &mutation.op {
        Some(Change::Put(put)) => (profiler::Op::Put, &put.key),
        Some(Change::Delete(delete)) => (profiler::Op::Delete, &delete.key),
        Some(Change::CompareAndSet(cas)) => (profiler::Op::CompareAndSet, &cas.key),
        Some(Change::Transaction(transaction)) => {
            return record_transaction(host, local, caller, request, transaction, outcome);
        }
        // No accesses to keys.
        Some(
            Change::OpenSession(_)
            | Change::Compact(_)
            | Change::GrantLease(_)
            | Change::KeepLease(_)
            | Change::RevokeLease(_),
        )
        | None => return,
    };
    record(host, local, caller, request, op, key, encoded.len());
}

/// Each action of the list that was taken is an access.
fn record_transaction(
    host: &Host,
    local: &LocalShard,
    caller: &Caller,
    request: &Request,
    transaction: &client::proto::Transaction,
    outcome: &Outcome,
) {
    use client::proto::action::Act;
    let OutcomeKind::Transacted { succeeded, .. } = outcome.kind else {
        return;
    };
    let actions = match succeeded {
        true => &transaction.then,
        false => &transaction.otherwise,
    };
    for act in actions.iter().filter_map(|action| action.act.as_ref()) {
        let (op, key, bytes) = match act {
            Act::Put(put) => (profiler::Op::Put, &put.key, put.key.len() + put.value.len()),
            Act::Delete(delete) => (profiler::Op::Delete, &delete.key, delete.key.len()),
            Act::Get(get) => (profiler::Op::Get, &get.key, get.key.len()),
            Act::Scan(scan) => (profiler::Op::Scan, &scan.start, scan.start.len()),
            Act::DeleteRange(range) => (profiler::Op::Delete, &range.start, range.start.len()),
        };
        record(host, local, caller, request, op, key, bytes);
    }
}

/// Counts one access of a shard: by the user that the request names, or else the caller.
pub(super) fn record(
    host: &Host,
    local: &LocalShard,
    caller: &Caller,
    request: &Request,
    op: profiler::Op,
    key: &[u8],
    bytes: usize,
) {
    let user = if request.user_id.is_empty() {
        &caller.user
    } else {
        &request.user_id
    };
    let by_lease = !op.is_write() && request.read_mode() == ReadMode::Lease;
    let access = AccessOf {
        shard: local.group.id(),
        origin: &caller.origin,
        origin_id: caller.origin_id,
        op,
        by_lease,
        key,
        user,
        bytes: bytes as u64,
    };
    host.record_access(access, request.workload_ms);
}
