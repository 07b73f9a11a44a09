//! Executing requests on a shard.
//!
//! The requests of one frame for one shard are executed together: its mutations as one log entry, its reads behind one
//! ReadIndex. Nothing is executed whose deadline has passed, and a mutation that was proposed without an answer is
//! reported as unknown, never as failed.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use client::proto::request::Op;
use client::proto::{Code, ReadMode, Reply, Request};
use placement::{HostId, ReplicaId, ShardId};
use prost::Message;
use raft::{Position, ProposeError, ReadError, Response};
use storage::seeded_bug;
use storage::shard::{Outcome, encode_batch};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};

use super::exchange::Caller;
use super::reply;
use crate::host::{AccessOf, Host, LocalShard};
use crate::profiler;

/// Requests without a deadline are given this one.
const DEADLINE_DEFAULT: Duration = Duration::from_secs(10);
/// How long requests wait here for the end of an election before they are sent on.
const ELECTION_WAIT: Duration = Duration::from_millis(500);
/// A permit stands for this many bytes.
const PERMIT_BYTES: u64 = 256;

/// Bytes of requests that were accepted and not yet answered.
#[derive(Clone)]
pub(crate) struct InFlight(Arc<Semaphore>);

impl InFlight {
    pub(crate) fn new(bytes_max: u64) -> Self {
        let permits = usize::try_from(bytes_max / PERMIT_BYTES).unwrap_or(Semaphore::MAX_PERMITS);
        Self(Arc::new(Semaphore::new(permits.clamp(1, Semaphore::MAX_PERMITS))))
    }

    fn admit(&self, bytes: usize) -> Option<OwnedSemaphorePermit> {
        let permits = (bytes as u64).div_ceil(PERMIT_BYTES).max(1);
        self.0
            .clone()
            .try_acquire_many_owned(u32::try_from(permits).ok()?)
            .ok()
    }
}

/// What a frame comes to: requests by shard, and those refused at once.
pub(crate) struct Parts {
    pub(crate) parts: Vec<Part>,
    pub(crate) refused: Vec<Reply>,
}

/// The requests of one frame for one shard.
pub(crate) struct Part {
    shard: ShardId,
    requests: Vec<Request>,
    received: tokio::time::Instant,
    _permits: Vec<OwnedSemaphorePermit>,
}

/// Spreads a frame's requests over their shards.
pub(crate) fn parts(host: &Host, in_flight: &InFlight, requests: Vec<Request>) -> Parts {
    let received = tokio::time::Instant::now();
    let mut by_shard: BTreeMap<u64, Part> = BTreeMap::new();
    let mut refused = Vec::new();
    for request in requests {
        if let Some(refusal) = refusal(host, &request) {
            refused.push(refusal);
            continue;
        }
        let Some(permit) = in_flight.admit(request.encoded_len()) else {
            refused.push(reply::error(
                request.id,
                Code::Overloaded,
                "too much in flight on this host",
            ));
            continue;
        };
        let part = by_shard.entry(request.shard_id).or_insert_with(|| Part {
            shard: ShardId(request.shard_id),
            requests: Vec::new(),
            received,
            _permits: Vec::new(),
        });
        part.requests.push(request);
        part._permits.push(permit);
    }
    Parts {
        parts: by_shard.into_values().collect(),
        refused,
    }
}

/// The answer to what no shard would accept.
fn refusal(host: &Host, request: &Request) -> Option<Reply> {
    let limits = &host.config().limits;
    let (code, message) = match &request.op {
        None => (
            Code::Unimplemented,
            "an operation this host does not know".to_owned(),
        ),
        Some(Op::Get(get)) if get.key.is_empty() => (Code::Invalid, "an empty key".to_owned()),
        Some(Op::Get(get)) if get.key.len() as u64 > limits.key_bytes_max => (
            Code::TooLarge,
            format!("keys may have {} bytes", limits.key_bytes_max),
        ),
        Some(Op::Mutation(mutation)) if mutation.len() as u64 > limits.batch_bytes_max => (
            Code::TooLarge,
            format!("a request may have {} bytes", limits.batch_bytes_max),
        ),
        Some(_) => return None,
    };
    Some(reply::error(request.id, code, message))
}

impl Part {
    /// Executes the part and sends an answer for each of its requests.
    pub(crate) async fn execute(self, host: &Host, caller: &Caller, replies: &mpsc::Sender<Reply>) {
        let Some(local) = host.shard(self.shard) else {
            let home = home_in_map(host, self.shard);
            for request in self.requests {
                drop(replies.send(reply::not_home(request.id, home.clone())).await);
            }
            return;
        };
        let generation = local.store.range().r#gen;
        let mut mutations = Vec::new();
        let mut reads = Vec::new();
        for request in self.requests {
            if request.r#gen != generation {
                let stale = reply::error(
                    request.id,
                    Code::StaleRoute,
                    "the shard's range has another version",
                );
                drop(replies.send(stale).await);
            } else if matches!(request.op, Some(Op::Mutation(_))) {
                mutations.push(request);
            } else {
                reads.push(request);
            }
        }
        let deadline = self.received;
        let mutate = mutate(host, &local, caller, mutations, deadline, replies);
        let read = read(host, &local, caller, reads, deadline, replies);
        tokio::join!(mutate, read);
    }
}

pub(super) fn deadline_of(request: &Request) -> Duration {
    match request.deadline_ms {
        0 => DEADLINE_DEFAULT,
        millis => Duration::from_millis(u64::from(millis)),
    }
}

/// Splits off what is too late, and says how long the rest may take at most.
fn in_time(requests: Vec<Request>, received: tokio::time::Instant) -> (Vec<Request>, Vec<Reply>, Duration) {
    let passed = received.elapsed();
    let (live, late): (Vec<Request>, Vec<Request>) = requests
        .into_iter()
        .partition(|request| deadline_of(request) > passed);
    let late = late
        .iter()
        .map(|request| reply::error(request.id, Code::Deadline, "too late to begin"))
        .collect();
    let longest = live.iter().map(deadline_of).max().unwrap_or_default();
    (live, late, longest.saturating_sub(passed))
}

async fn mutate(
    host: &Host,
    local: &LocalShard,
    caller: &Caller,
    requests: Vec<Request>,
    received: tokio::time::Instant,
    replies: &mpsc::Sender<Reply>,
) {
    let (requests, late, timeout) = in_time(requests, received);
    for reply in late {
        drop(replies.send(reply).await);
    }
    if requests.is_empty() {
        return;
    }
    let encoded = requests.iter().filter_map(|request| match &request.op {
        Some(Op::Mutation(mutation)) => Some(mutation.clone()),
        _ => None,
    });
    let batch = encode_batch(host.now_ms(), encoded);
    let proposed = tokio::time::timeout(timeout, propose(local, batch)).await;
    let outcomes = match proposed {
        Ok(Ok((_, answer))) => answer.take::<Vec<Outcome>>(),
        Ok(Err(e)) => return refuse_all(host, local, &requests, &e, replies).await,
        Err(_) => None,
    };
    let Some(outcomes) = outcomes else {
        for request in requests {
            let unknown = reply::error(
                request.id,
                Code::UnknownOutcome,
                "proposed, and not answered in time",
            );
            drop(replies.send(unknown).await);
        }
        return;
    };
    for (request, outcome) in requests.into_iter().zip(outcomes) {
        record_mutation(host, local, caller, &request);
        drop(replies.send(reply::mutation(request.id, outcome)).await);
    }
}

/// Proposes a batch; without a leader once more after the election, which this replica may have won: a client that was
/// sent here during a transfer comes before the target leads.
async fn propose(local: &LocalShard, batch: Bytes) -> Result<(Position, Response), ProposeError> {
    match local.group.propose(batch.clone()).await {
        Err(ProposeError::NotLeader { leader: None }) => {
            local.group.wait_for_leader(ELECTION_WAIT).await;
            local.group.propose(batch).await
        }
        proposed => proposed,
    }
}

async fn confirm(local: &LocalShard, mode: ReadMode) -> Result<(), ReadError> {
    match mode {
        ReadMode::Lease => local.group.read_lease().await,
        ReadMode::Index => local.group.read_index().await,
    }
}

/// As for [`propose`]: once more after an election.
async fn confirm_leading(host: &Host, local: &LocalShard, mode: ReadMode) -> Result<(), ReadError> {
    // Seeded bug B10: the map's word that this is the home stands for the group's, also when the home has moved on.
    if seeded_bug::is_on("B10") && is_home_in_map(host, local.group.id()) {
        return Ok(());
    }
    match confirm(local, mode).await {
        Err(ReadError::NotLeader { leader: None }) => {
            local.group.wait_for_leader(ELECTION_WAIT).await;
            confirm(local, mode).await
        }
        confirmed => confirmed,
    }
}

async fn refuse_all(
    host: &Host,
    local: &LocalShard,
    requests: &[Request],
    error: &ProposeError,
    replies: &mpsc::Sender<Reply>,
) {
    for request in requests {
        let refusal = match error {
            ProposeError::NotLeader { leader } => reply::not_home(request.id, home(host, local, *leader)),
            ProposeError::Unknown(reason) => reply::error(request.id, Code::UnknownOutcome, reason.clone()),
            ProposeError::Stopped(reason) => reply::error(request.id, Code::Unavailable, reason.clone()),
        };
        drop(replies.send(refusal).await);
    }
}

async fn read(
    host: &Host,
    local: &LocalShard,
    caller: &Caller,
    requests: Vec<Request>,
    received: tokio::time::Instant,
    replies: &mpsc::Sender<Reply>,
) {
    let (requests, late, timeout) = in_time(requests, received);
    for reply in late {
        drop(replies.send(reply).await);
    }
    let (by_lease, by_index): (Vec<_>, Vec<_>) = requests.into_iter().partition(is_by_lease);
    let by_lease = serve_reads(host, local, caller, by_lease, timeout, replies);
    let by_index = serve_reads(host, local, caller, by_index, timeout, replies);
    tokio::join!(by_lease, by_index);
}

fn is_by_lease(request: &Request) -> bool {
    request.read_mode() == ReadMode::Lease
}

/// Serves reads of one mode behind one confirmation that this replica leads.
async fn serve_reads(
    host: &Host,
    local: &LocalShard,
    caller: &Caller,
    requests: Vec<Request>,
    timeout: Duration,
    replies: &mpsc::Sender<Reply>,
) {
    let Some(first) = requests.first() else { return };
    let confirmed = tokio::time::timeout(timeout, confirm_leading(host, local, first.read_mode())).await;
    for request in requests {
        let reply = match &confirmed {
            Ok(Ok(())) => serve_read(host, local, caller, &request),
            Ok(Err(ReadError::NotLeader { leader })) => {
                reply::not_home(request.id, home(host, local, *leader))
            }
            Ok(Err(e)) => reply::error(request.id, Code::Unavailable, e.to_string()),
            Err(_) => reply::error(request.id, Code::Deadline, "leadership was not confirmed in time"),
        };
        drop(replies.send(reply).await);
    }
}

fn serve_read(host: &Host, local: &LocalShard, caller: &Caller, request: &Request) -> Reply {
    match &request.op {
        Some(Op::Get(get)) if !local.store.range().contains(&get.key) => {
            reply::error(request.id, Code::StaleRoute, "the key lies outside the shard")
        }
        Some(Op::Get(get)) => match local.store.get(&get.key) {
            Ok(pair) => {
                let bytes = pair.as_ref().map_or(0, |pair| pair.value.len()) + get.key.len();
                record(host, local, caller, request, profiler::Op::Get, &get.key, bytes);
                reply::get(request.id, local.store.revision(), pair)
            }
            Err(e) => reply::read_failed(request.id, &e),
        },
        Some(Op::Scan(scan)) => serve_scan(host, local, caller, request, scan),
        _ => reply::error(request.id, Code::Unimplemented, "not a read"),
    }
}

fn serve_scan(
    host: &Host,
    local: &LocalShard,
    caller: &Caller,
    request: &Request,
    scan: &client::proto::Scan,
) -> Reply {
    let limits = &host.config().limits;
    let pairs_max = match u64::from(scan.limit) {
        0 => limits.scan_pairs_max,
        asked => asked.min(limits.scan_pairs_max),
    };
    let end = (!scan.end.is_empty()).then_some(&scan.end[..]);
    let to_usize = |limit: u64| usize::try_from(limit).unwrap_or(usize::MAX);
    match local.store.scan(
        &scan.start,
        end,
        to_usize(pairs_max),
        to_usize(limits.scan_bytes_max),
    ) {
        Ok(page) => {
            let bytes = page
                .pairs
                .iter()
                .map(|pair| pair.key.len() + pair.value.len())
                .sum();
            record(
                host,
                local,
                caller,
                request,
                profiler::Op::Scan,
                &scan.start,
                bytes,
            );
            reply::scan(request.id, page)
        }
        Err(e) => reply::read_failed(request.id, &e),
    }
}

fn record_mutation(host: &Host, local: &LocalShard, caller: &Caller, request: &Request) {
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
        Some(Change::OpenSession(_)) | None => return,
    };
    record(host, local, caller, request, op, key, encoded.len());
}

fn record(
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
    let by_lease = !op.is_write() && is_by_lease(request);
    let access = AccessOf {
        shard: local.group.id(),
        origin: &caller.origin,
        op,
        by_lease,
        key,
        user,
        bytes: bytes as u64,
    };
    host.record_access(access, request.workload_ms);
}

/// Where a shard is led: its group knows best, the map may know.
fn home(
    host: &Host,
    local: &LocalShard,
    leader: Option<(ReplicaId, HostId)>,
) -> Option<client::proto::HostAddress> {
    match leader {
        Some((_, leader)) => host.map().address(leader),
        None => home_in_map(host, local.group.id()),
    }
}

/// For seeded bug B10.
fn is_home_in_map(host: &Host, shard: ShardId) -> bool {
    let map = host.map();
    map.route(shard).is_some_and(|route| route.home == host.id().0)
}

fn home_in_map(host: &Host, shard: ShardId) -> Option<client::proto::HostAddress> {
    let map = host.map();
    let home = HostId(map.route(shard)?.home);
    (home != host.id()).then(|| map.address(home)).flatten()
}
