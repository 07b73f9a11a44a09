//! The handle an application holds.

use std::{sync::Arc, time::Duration};

use bytes::Bytes;

use crate::{
    cluster::Cluster,
    config::{ClientConfig, ReadMode, RequestOptions},
    dispatch::{Answer, Call, Operation, nearer},
    error::{ConnectError, End, Failure, MutationError, ReadError},
    operation::{Expect, Fetched, KeyRange, Previous, Swapped, Versions, Written},
    proto::{Compact, CompareAndSet, Delete, Get, History, MutationResult, Put, mutation, reply},
    scan::Scan,
    setback::Refusal,
    shared::Shared,
    stats::Stats,
    transaction::{Transacted, Transaction},
    watch::{Watch, WatchError, WatchOptions},
};

/// A client of a godwit cluster.
///
/// Cloning is cheap, and all clones share connections, shard map, sessions and counts; they differ at most in their
/// [`RequestOptions`]. When the last one is dropped the connections close. Every operation is retried until its
/// deadline, within the limits of [`RetryPolicy`](crate::RetryPolicy). Reads are linearizable; a mutation takes effect
/// at most once, however often it is sent. The first mutation on a shard costs a round more than the others: it opens
/// the session.
///
/// An operation ends when its future is dropped; a mutation that was already sent may still take effect.
#[derive(Clone)]
pub struct Client {
    cluster: Arc<Cluster>,
    options: RequestOptions,
}

impl Client {
    /// Asks the endpoints for the shard map, in a random order, until one answers or `config.deadline` passes.
    pub async fn connect(config: ClientConfig) -> Result<Self, ConnectError> {
        let options = RequestOptions {
            deadline: config.deadline,
            user_id: None,
            workload_ms: None,
            read_mode: ReadMode::default(),
        };
        let cluster = Arc::new(Cluster::connect(config).await?);
        Ok(Self { cluster, options })
    }

    /// A handle whose operations may take `deadline`, retries included.
    #[must_use]
    pub fn with_deadline(&self, deadline: Duration) -> Self {
        self.with_options(RequestOptions {
            deadline,
            ..self.options.clone()
        })
    }

    /// A handle whose operations are made on behalf of `user_id`.
    #[must_use]
    pub fn with_user(&self, user_id: &str) -> Self {
        self.with_options(RequestOptions {
            user_id: Some(Arc::from(user_id)),
            ..self.options.clone()
        })
    }

    /// A handle whose reads are made linearizable in this way.
    #[must_use]
    pub fn with_read_mode(&self, read_mode: ReadMode) -> Self {
        self.with_options(RequestOptions {
            read_mode,
            ..self.options.clone()
        })
    }

    /// A handle with these options.
    #[must_use]
    pub fn with_options(&self, options: RequestOptions) -> Self {
        Self {
            cluster: Arc::clone(&self.cluster),
            options,
        }
    }

    /// Reads a key, linearizably.
    pub async fn get(&self, key: impl Into<Bytes>) -> Result<Fetched, ReadError> {
        self.fetch(key.into(), 0).await
    }

    /// Reads a key as it was at a revision of its shard.
    ///
    /// # Errors
    /// [`ReadError::Compacted`] where versions that old were forgotten, [`ReadError::FutureRevision`] where the shard has
    /// not come so far, and [`ReadError::Invalid`] for revision 0, at which no shard has any key.
    pub async fn get_at(&self, key: impl Into<Bytes>, revision: u64) -> Result<Fetched, ReadError> {
        self.fetch(key.into(), past(revision)?).await
    }

    async fn fetch(&self, key: Bytes, revision: u64) -> Result<Fetched, ReadError> {
        self.cluster.shared.counters.gets.add(1);
        let answer = self.run(Operation::Get(Get { key, revision })).await?;
        match answer.result {
            reply::Result::Get(found) => Ok(Fetched {
                revision: answer.revision,
                pair: found.pair,
            }),
            _ => Err(self.failed(misread()).into()),
        }
    }

    /// The versions of a key that can still be read, the newest first: at most `limit`, and only those of lower revisions
    /// than `before`, to go on where an earlier call ended.
    pub async fn history(
        &self,
        key: impl Into<Bytes>,
        limit: u32,
        before: Option<u64>,
    ) -> Result<Versions, ReadError> {
        self.cluster.shared.counters.gets.add(1);
        let history = History {
            key: key.into(),
            limit,
            before: before.unwrap_or(0),
        };
        let answer = self.run(Operation::History(history)).await?;
        match answer.result {
            reply::Result::History(found) => Ok(Versions {
                revision: answer.revision,
                versions: found.versions,
                more: found.more,
                oldest: found.oldest,
            }),
            _ => Err(self.failed(misread()).into()),
        }
    }

    /// Reads up to `limit` pairs of a range, in key order, a page at a time.
    pub fn scan(&self, range: KeyRange, limit: usize) -> Scan {
        Scan::new(self.clone(), range, limit, 0)
    }

    /// The same as the range was at a revision. Revisions are a shard's own, so a range that goes on into another shard
    /// fails there.
    ///
    /// # Errors
    /// [`ReadError::Invalid`] for revision 0; pages fail as [`get_at`](Self::get_at) does.
    pub fn scan_at(&self, range: KeyRange, limit: usize, revision: u64) -> Result<Scan, ReadError> {
        Ok(Scan::new(self.clone(), range, limit, past(revision)?))
    }

    /// Sets a key.
    pub async fn put(
        &self,
        key: impl Into<Bytes>,
        value: impl Into<Bytes>,
    ) -> Result<Written, MutationError> {
        self.put_with(key, value, Previous::Existence).await
    }

    /// Sets a key, and says what it was.
    pub async fn put_with(
        &self,
        key: impl Into<Bytes>,
        value: impl Into<Bytes>,
        previous: Previous,
    ) -> Result<Written, MutationError> {
        let return_previous = previous == Previous::Value;
        let put = Put {
            key: key.into(),
            value: value.into(),
            return_previous,
            lease: 0,
        };
        self.set(put).await
    }

    pub(crate) async fn set(&self, put: Put) -> Result<Written, MutationError> {
        self.cluster.shared.counters.puts.add(1);
        self.write(mutation::Op::Put(put)).await
    }

    /// Removes a key. Removing one that does not exist is no error.
    pub async fn delete(&self, key: impl Into<Bytes>) -> Result<Written, MutationError> {
        self.delete_with(key, Previous::Existence).await
    }

    /// Removes a key, and says what it was.
    pub async fn delete_with(
        &self,
        key: impl Into<Bytes>,
        previous: Previous,
    ) -> Result<Written, MutationError> {
        self.cluster.shared.counters.deletes.add(1);
        let return_previous = previous == Previous::Value;
        self.write(mutation::Op::Delete(Delete {
            key: key.into(),
            return_previous,
        }))
        .await
    }

    /// Sets a key to `new_value` if it is as expected.
    pub async fn compare_and_set(
        &self,
        key: impl Into<Bytes>,
        expect: Expect,
        new_value: impl Into<Bytes>,
    ) -> Result<Swapped, MutationError> {
        let swap = CompareAndSet {
            key: key.into(),
            expect: Some(expect.into()),
            new_value: new_value.into(),
            lease: 0,
        };
        self.swap(swap).await
    }

    pub(crate) async fn swap(&self, swap: CompareAndSet) -> Result<Swapped, MutationError> {
        self.cluster.shared.counters.compare_and_sets.add(1);
        let (revision, outcome) = self.mutate(mutation::Op::CompareAndSet(swap)).await?;
        let MutationResult {
            applied,
            previous,
            existed,
        } = outcome;
        Ok(Swapped {
            applied,
            revision,
            current: previous.filter(|_| !applied),
            existed,
        })
    }

    /// Sets a key if it does not exist.
    pub async fn put_if_absent(
        &self,
        key: impl Into<Bytes>,
        value: impl Into<Bytes>,
    ) -> Result<Swapped, MutationError> {
        self.compare_and_set(key, Expect::Absent, value).await
    }

    /// Makes a transaction: if all its comparisons hold the actions of one list, otherwise those of the other. Its keys
    /// must lie in one shard.
    ///
    /// # Errors
    /// [`MutationError::Invalid`] where the keys lie in two shards, where a list changes a key twice, or where there is no
    /// key; [`MutationError::TooLarge`] where it has too many parts, or its gets would give too much.
    pub async fn transact(&self, transaction: Transaction) -> Result<Transacted, MutationError> {
        self.cluster.shared.counters.transactions.add(1);
        let transaction = transaction.into_proto();
        if transaction.keys().next().is_none() {
            let message = "a transaction without a key".to_owned();
            return Err(MutationError::Invalid { message });
        }
        let op = mutation::Op::Transaction(transaction);
        let answer = self.run(Operation::Mutation(op)).await?;
        let transacted = match answer.result {
            reply::Result::Transaction(result) => Transacted::of(answer.revision, result),
            _ => None,
        };
        transacted.ok_or_else(|| self.misanswered("a transaction").into())
    }

    /// Forgets, in the whole shard that holds `key`, what was superseded at or before a revision: it is the oldest that can
    /// be read afterwards. What a shard's retention has forgotten already stays forgotten.
    ///
    /// # Errors
    /// [`MutationError::FutureRevision`] where the shard has not come so far.
    pub async fn compact(&self, key: impl Into<Bytes>, revision: u64) -> Result<Written, MutationError> {
        let compact = Compact {
            key: key.into(),
            revision,
        };
        self.write(mutation::Op::Compact(compact)).await
    }

    /// Watches a range, which may span shards: what changes is told as it is made, by each shard in the order of its
    /// revisions. Ends when every shard is watched, within the deadline of this handle's operations.
    pub async fn watch(&self, range: KeyRange, options: WatchOptions) -> Result<Watch, WatchError> {
        Watch::begin(&self.cluster, range, options, self.options.deadline).await
    }

    /// Where a key lives, as far as this client knows: for those who place work near data. May be out of date.
    #[must_use]
    pub fn locate(&self, key: &[u8]) -> Location {
        let (shard, _) = self.cluster.routes.shard_of(key);
        Location {
            shard_id: shard.id,
            range: KeyRange {
                start: shard.start.clone(),
                end: shard.end.clone(),
            },
            home: shard.home.as_deref().map(str::to_owned),
        }
    }

    /// A range cut where a shard ends, as far as this client knows.
    pub(crate) fn parts_of(&self, range: &KeyRange) -> Vec<KeyRange> {
        let table = self.cluster.routes.table();
        let (mut parts, mut next) = (Vec::new(), range.start.clone());
        loop {
            let end = nearer(&table.shard_of(&next).end, &range.end);
            // There is no empty key.
            let start = match next.is_empty() {
                true => Bytes::from_static(&[0]),
                false => next,
            };
            let is_last = end == range.end;
            next = end.clone();
            parts.push(KeyRange { start, end });
            if is_last {
                return parts;
            }
        }
    }

    /// Asks for the shard map now, instead of when a host sends a request on: after moves that the application knows of,
    /// or now and then, so that the first request after a move costs no redirect.
    pub async fn refresh_map(&self) -> Result<(), ReadError> {
        let refreshed = crate::seam::within(
            &self.config().clock,
            self.options.deadline,
            self.cluster.refresh(u64::MAX),
        )
        .await;
        let (end, cause) = match refreshed {
            Ok(Ok(())) => return Ok(()),
            Ok(Err(setback)) => (End::Attempts, setback.cause),
            Err(_) => (End::Deadline, "no host sent the map in time".to_owned()),
        };
        let failure = Failure {
            end,
            attempts: 1,
            cause,
        };
        Err(self.failed(failure).into())
    }

    /// What this client did so far.
    #[must_use]
    pub fn stats(&self) -> Stats {
        self.cluster.shared.counters.read()
    }

    pub(crate) fn shared(&self) -> &Shared {
        &self.cluster.shared
    }

    pub(crate) fn config(&self) -> &ClientConfig {
        &self.cluster.shared.config
    }

    /// One page of a scan.
    pub(crate) async fn page(&self, scan: crate::proto::Scan) -> Result<Answer, Failure> {
        self.cluster.shared.counters.scan_pages.add(1);
        self.run(Operation::Scan(scan)).await
    }

    pub(crate) async fn write(&self, op: mutation::Op) -> Result<Written, MutationError> {
        let (revision, outcome) = self.mutate(op).await?;
        Ok(Written {
            revision,
            existed: outcome.existed,
            previous: outcome.previous,
        })
    }

    pub(crate) async fn mutate(&self, op: mutation::Op) -> Result<(u64, MutationResult), MutationError> {
        let answer = self.run(Operation::Mutation(op)).await?;
        match answer.result {
            reply::Result::Mutation(outcome) => Ok((answer.revision, outcome)),
            _ => Err(self.misanswered("a mutation").into()),
        }
    }

    fn misanswered(&self, what: &str) -> Failure {
        self.failed(Failure {
            end: End::UnknownOutcome,
            attempts: 1,
            cause: format!("{what} was answered with the result of something else"),
        })
    }

    pub(crate) async fn run(&self, operation: Operation) -> Result<Answer, Failure> {
        let call = Call::new(&self.cluster, &self.options, operation);
        call.run().await.map_err(|failure| self.failed(failure))
    }

    pub(crate) fn failed(&self, failure: Failure) -> Failure {
        let counters = &self.cluster.shared.counters;
        counters.failures.add(1);
        if matches!(failure.end, End::UnknownOutcome | End::SessionExpired) {
            counters.unknown_outcomes.add(1);
        }
        failure
    }
}

impl std::fmt::Debug for Client {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Client")
            .field("endpoints", &self.config().endpoints)
            .field("options", &self.options)
            .finish_non_exhaustive()
    }
}

/// Where a key lives.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Location {
    /// The shard.
    pub shard_id: u64,
    /// The shard's keys.
    pub range: KeyRange,
    /// The address of the host that leads it, if known.
    pub home: Option<String>,
}

/// On the wire revision 0 stands for the newest.
fn past(revision: u64) -> Result<u64, ReadError> {
    let message = || "revision 0 is before the first change".to_owned();
    match revision {
        0 => Err(ReadError::Invalid { message: message() }),
        revision => Ok(revision),
    }
}

/// A host answered a read with the result of something else.
pub(crate) fn misread() -> Failure {
    let cause = "a read was answered with another operation's result".to_owned();
    Failure {
        end: End::Refused(Refusal::Incompatible),
        attempts: 1,
        cause,
    }
}
