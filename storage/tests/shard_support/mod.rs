//! What the shard's tests share: mutations as a client encodes them, and a log to replay.

// Each test binary compiles this file and uses its own part of it.
#![allow(dead_code)]

use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;
use prost::Message;
use storage::disk::Disk;
use storage::failpoint::HostFailpoints;
use storage::shard::command::{
    Compact, CompareAndSet, Delete, Expectation, Mutation, OpenSession, Operation, Put,
};
use storage::shard::{
    Acted, Limits, Outcome, OutcomeKind, Position, Refusal, RewriteLimits, RowCache, ShardIdentity,
    ShardOptions, ShardStore, encode_batch,
};

pub(crate) fn identity(replica_id: u64) -> ShardIdentity {
    ShardIdentity {
        cluster_id: "test".into(),
        shard_id: 7,
        replica_id,
        start: Bytes::from_static(b"a"),
        end: Some(Bytes::from_static(b"x")),
        r#gen: 3,
    }
}

/// Small limits, so that tests reach them.
pub(crate) fn options() -> ShardOptions {
    ShardOptions {
        failpoints: HostFailpoints::disarmed(),
        cache_bytes: 1 << 20,
        // Reads go to the file, so that damage to it is noticed.
        row_cache: RowCache::default(),
        rewrite: RewriteLimits {
            file_bytes_min: 64 << 10,
            live_percent_min: 50,
        },
        limits: Limits {
            key_bytes_max: 8,
            value_bytes_max: 1 << 20,
            session_idle_ms: 1_000,
            sessions_max: 4,
            evictable_idle_ms: 400,
            outcomes_max: 8,
            retention_ms: 500,
            transaction_actions_max: 8,
            transaction_pairs_max: 3,
            transaction_bytes_max: 24,
            leases_max: 3,
            lease_keys_max: 3,
        },
    }
}

pub(crate) fn create(disk: Arc<dyn Disk>, path: &Path) -> ShardStore {
    ShardStore::create(disk, path, identity(1), options()).unwrap()
}

pub(crate) fn reopen(disk: Arc<dyn Disk>, path: &Path) -> ShardStore {
    ShardStore::open(disk, path, &identity(1), options()).unwrap()
}

pub(crate) fn at(index: u64) -> Position {
    Position { term: 1, index }
}

pub(crate) fn mutation(session: u64, sequence: u64, operation: Operation) -> Mutation {
    Mutation {
        session,
        sequence,
        low_water: 0,
        r#gen: 3,
        operation: Some(operation),
    }
}

pub(crate) fn open_session(session: u64) -> Mutation {
    mutation(session, 0, Operation::OpenSession(OpenSession {}))
}

pub(crate) fn put(session: u64, sequence: u64, key: &str, value: &[u8]) -> Mutation {
    let put = Put {
        key: Bytes::copy_from_slice(key.as_bytes()),
        value: Bytes::copy_from_slice(value),
        return_previous: true,
        lease: 0,
    };
    mutation(session, sequence, Operation::Put(put))
}

pub(crate) fn delete(session: u64, sequence: u64, key: &str) -> Mutation {
    let delete = Delete {
        key: Bytes::copy_from_slice(key.as_bytes()),
        return_previous: true,
    };
    mutation(session, sequence, Operation::Delete(delete))
}

pub(crate) fn compact(session: u64, sequence: u64, key: &str, revision: u64) -> Mutation {
    let compact = Compact {
        key: Bytes::copy_from_slice(key.as_bytes()),
        revision,
    };
    mutation(session, sequence, Operation::Compact(compact))
}

pub(crate) fn compare_and_set(
    session: u64,
    sequence: u64,
    key: &str,
    expect: Expectation,
    value: &[u8],
) -> Mutation {
    let swap = CompareAndSet {
        key: Bytes::copy_from_slice(key.as_bytes()),
        expect: Some(expect),
        new_value: Bytes::copy_from_slice(value),
        lease: 0,
    };
    mutation(session, sequence, Operation::CompareAndSet(swap))
}

pub(crate) fn batch(stamped_ms: u64, mutations: &[Mutation]) -> Bytes {
    let encode = |mutation: &Mutation| Bytes::from(mutation.encode_to_vec());
    encode_batch(stamped_ms, mutations.iter().map(encode))
}

/// Applies one batch at the next index.
pub(crate) fn apply(store: &ShardStore, stamped_ms: u64, mutations: &[Mutation]) -> Vec<Outcome> {
    let index = store.applied().map_or(0, |applied| applied.index) + 1;
    let payload = batch(stamped_ms, mutations);
    store.apply(at(index), Some(&payload)).unwrap()
}

/// Writes a checkpoint marked with the applied index.
pub(crate) fn checkpoint(store: &ShardStore) {
    store.capture(mark(store)).unwrap().write().unwrap();
}

/// The mark that [`checkpoint`] writes.
pub(crate) fn mark(store: &ShardStore) -> Bytes {
    let index = store.applied().map_or(0, |applied| applied.index);
    Bytes::from(format!("mark {index}"))
}

/// All pairs, by pages of a few.
pub(crate) fn pairs(store: &ShardStore) -> Vec<(String, Bytes)> {
    let (mut all, mut start) = (Vec::new(), Bytes::new());
    loop {
        let page = store.scan(&start, None, 3, usize::MAX).unwrap();
        let text = |key: &[u8]| String::from_utf8_lossy(key).into_owned();
        all.extend(
            page.pairs
                .iter()
                .map(|pair| (text(&pair.key), pair.value.clone())),
        );
        match page.next {
            Some(next) => start = next,
            None => return all,
        }
    }
}

/// An outcome as a line of a story.
pub(crate) fn describe(outcome: &Outcome) -> String {
    let pair = |pair: &Option<storage::shard::KeyValue>| match pair {
        None => "-".to_owned(),
        Some(pair) => format!(
            "{}={} (created {}, changed {}, version {})",
            String::from_utf8_lossy(&pair.key),
            String::from_utf8_lossy(&pair.value),
            pair.create_revision,
            pair.mod_revision,
            pair.version
        ),
    };
    let kind = match &outcome.kind {
        OutcomeKind::Applied { existed, previous } => {
            format!("applied, existed {existed}, previous {}", pair(previous))
        }
        OutcomeKind::CasFailed { current, .. } => format!("not as expected, current {}", pair(current)),
        OutcomeKind::Transacted { succeeded, acted } => {
            let acted = acted.iter().flatten().map(|acted| match acted {
                Acted::Changed { existed, previous } => {
                    format!("\n  changed, existed {existed}, previous {}", pair(previous))
                }
                Acted::RangeDeleted { keys } => format!("\n  range deleted, {keys} keys"),
                Acted::Read(found) => format!("\n  read {}", pair(found)),
                Acted::Scanned { pairs, next } => {
                    let pairs = pairs.iter().map(|found| pair(&Some(found.clone())));
                    let pairs: Vec<_> = pairs.collect();
                    {
                        let next = next.as_ref().map(|next| String::from_utf8_lossy(next));
                        format!("\n  scanned [{}], next {next:?}", pairs.join("; "))
                    }
                }
            });
            format!("comparisons held: {succeeded}{}", acted.collect::<String>())
        }
        OutcomeKind::SessionOpened => "session open".to_owned(),
        OutcomeKind::MergeStep => "merge step".to_owned(),
        OutcomeKind::Split => "split".to_owned(),
        OutcomeKind::Refused(refusal) => format!("refused: {}", describe_refusal(*refusal)),
    };
    let replayed = if outcome.replayed { " (remembered)" } else { "" };
    format!("revision {}: {kind}{replayed}", outcome.revision)
}

fn describe_refusal(refusal: Refusal) -> &'static str {
    match refusal {
        Refusal::SessionExpired => "no such session",
        Refusal::TooManySessions => "too many sessions",
        Refusal::StaleRange => "the range has another version",
        Refusal::SequenceForgotten => "the sequence is forgotten",
        Refusal::TooLarge => "too large",
        Refusal::OutOfRange => "out of range",
        Refusal::FutureRevision => "the revision is yet to come",
        Refusal::NoLease => "no such lease",
        Refusal::TooManyLeases => "too many leases",
        Refusal::Invalid => "makes no sense",
    }
}
