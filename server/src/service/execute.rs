//! Executing requests on a shard.
//!
//! A shard's requests are executed in turns, whoever sent them: the mutations of a turn as one log entry, its reads
//! behind one ReadIndex. Nothing is executed whose deadline has passed, and a mutation that was proposed without an
//! answer is reported as unknown, never as failed.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use client::proto::request::Op;
use client::proto::{Code, LeaseResult, LeaseStatus, ReadMode, Reply, Request};
use placement::{HostId, ReplicaId, ShardId};
use raft::{Position, ProposeError, ReadError, Response};
use storage::seeded_bug;
use storage::shard::{Outcome, encode_batch};

use super::exchange::Caller;
use super::fresh::Freshness;
use super::lane::{Lane, Turn};
use super::record::{record, record_mutation};
use super::reply;
use super::spread::Part;
use crate::host::{Host, LocalShard, adds_data};
use crate::profiler;

/// How long requests wait here for the end of an election before they are sent on.
const ELECTION_WAIT: Duration = Duration::from_millis(500);
/// Turns of a shard whose quorum is near: one, so that whatever comes while it is under way travels together.
const TURNS_NEAR: usize = 1;
/// Turns of a shard whose quorum is in other regions: nothing has to wait for an answer that takes long to come.
const TURNS_FAR: usize = 64;

/// What waits for one shard.
#[derive(Default)]
pub(crate) struct Lanes {
    mutations: Arc<Lane<Part>>,
    reads_by_index: Arc<Lane<Part>>,
    reads_by_lease: Arc<Lane<Part>>,
    reads_anywhere: Arc<Lane<Part>>,
    freshness: Freshness,
    turns: Mutex<Turns>,
}

/// How many turns each lane has, by a version of the map.
#[derive(Default)]
struct Turns {
    map_version: u64,
    most: usize,
}

impl Lanes {
    fn turns_max(&self, host: &Host, shard: ShardId) -> usize {
        let mut turns = self.turns.lock().expect("no holder of this lock panics");
        let map = host.map();
        if turns.most == 0 || turns.map_version != map.version {
            turns.map_version = map.version;
            turns.most = match map.has_quorum_near(shard, host.id()) {
                true => TURNS_NEAR,
                false => TURNS_FAR,
            };
        }
        turns.most
    }
}

/// Has a part executed; the answers go where the part says.
pub(crate) fn submit(host: &Host, mut part: Part) {
    let Some(local) = host.shard(part.shard) else {
        let home = home_in_map(host, part.shard);
        part.answer(|request| reply::not_home(request.id, home.clone()));
        return;
    };
    let (generation, is_frozen) = (local.store.generation(), local.store.is_frozen());
    let mut stale = Vec::new();
    let mut mutations = Vec::new();
    let [mut by_index, mut by_lease, mut anywhere] = [Vec::new(), Vec::new(), Vec::new()];
    let mut fresh_enough = Vec::new();
    let now = host.uptime();
    for request in std::mem::take(&mut part.requests) {
        let kind = match &request.op {
            _ if request.r#gen != generation || is_frozen => &mut stale,
            Some(Op::Mutation(_)) => &mut mutations,
            _ => match request.read_mode() {
                ReadMode::Index => &mut by_index,
                ReadMode::Lease => &mut by_lease,
                ReadMode::Follower => &mut anywhere,
                ReadMode::Stale if is_fresh_enough(&local, &request, now) => &mut fresh_enough,
                ReadMode::Stale => &mut anywhere,
            },
        };
        kind.push(request);
    }
    part.of(stale).answer(|request| stale_route(request.id));
    let caller = part.caller.clone();
    part.of(fresh_enough)
        .answer(|request| serve_read(host, &local, &caller, request));
    let turns_max = local.lanes.turns_max(host, part.shard);
    // A replica that does not lead refuses at once: there is nothing to wait for.
    let at_home = if local.group.is_leader() {
        turns_max
    } else {
        usize::MAX
    };
    if let Some(full) = host.short_of_space(part.shard) {
        let (adding, others) = mutations.into_iter().partition(adds);
        mutations = others;
        part.of(adding)
            .answer(|request| reply::no_space(request.id, full));
    }
    let lanes = local.lanes.clone();
    if !mutations.is_empty()
        && let Some(turn) = lanes.mutations.push(part.of(mutations), at_home)
    {
        host.spawn(mutate_in_turn(host.clone(), local.clone(), turn));
    }
    let reads = [
        (&lanes.reads_by_index, by_index, at_home),
        (&lanes.reads_by_lease, by_lease, at_home),
        (&lanes.reads_anywhere, anywhere, turns_max),
    ];
    for (lane, reads, turns_max) in reads {
        if !reads.is_empty()
            && let Some(turn) = lane.push(part.of(reads), turns_max)
        {
            host.spawn(read_in_turn(host.clone(), local.clone(), turn));
        }
    }
}

/// Whether a request adds data to its shard.
fn adds(request: &Request) -> bool {
    matches!(&request.op, Some(Op::Mutation(mutation)) if adds_data(mutation))
}

/// Answers and drops what is too late, and says how long the rest may take at most.
fn in_time(mut parts: Vec<Part>) -> (Vec<Part>, Duration) {
    let longest = parts.iter_mut().map(Part::drop_late).max().unwrap_or_default();
    parts.retain(|part| !part.requests.is_empty());
    (parts, longest)
}

async fn mutate_in_turn(host: Host, local: LocalShard, mut turn: Turn<Part>) {
    let bytes_max = host.config().limits.batch_bytes_max;
    while let Some(parts) = turn.take(bytes_max, Part::bytes) {
        mutate(&host, &local, parts).await;
    }
}

/// The mutations of some parts as one log entry.
async fn mutate(host: &Host, local: &LocalShard, parts: Vec<Part>) {
    let (parts, timeout) = in_time(parts);
    if parts.is_empty() {
        return;
    }
    let encoded = parts.iter().flat_map(|part| &part.requests);
    let encoded = encoded.filter_map(|request| match &request.op {
        Some(Op::Mutation(mutation)) => Some(mutation.clone()),
        _ => None,
    });
    let batch = encode_batch(host.now_ms(), encoded);
    let count: usize = parts.iter().map(|part| part.requests.len()).sum();
    tracing::trace!(target: "godwit::steps", count = count as u64, "proposed");
    let proposed = tokio::time::timeout(timeout, propose(local, batch)).await;
    let outcomes = match proposed {
        Ok(Ok((_, answer))) => answer.take::<Vec<Outcome>>(),
        Ok(Err(e)) => {
            let refusal = |request: &Request| refused(host, local, request, &e);
            return parts.iter().for_each(|part| part.answer(refusal));
        }
        Err(_) => None,
    };
    let Some(outcomes) = outcomes else {
        let message = "proposed, and not answered in time";
        let unknown = |request: &Request| reply::error(request.id, Code::UnknownOutcome, message);
        return parts.iter().for_each(|part| part.answer(unknown));
    };
    let mut outcomes = outcomes.into_iter();
    for part in parts {
        part.answer(|request| match outcomes.next() {
            Some(outcome) => {
                record_mutation(host, local, &part.caller, request, &outcome);
                reply::mutation(request.id, outcome)
            }
            None => reply::error(
                request.id,
                Code::UnknownOutcome,
                "proposed, and without an outcome",
            ),
        });
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
        ReadMode::Follower | ReadMode::Stale => local.group.read_index_here().await,
    }
}

/// Whether a read that may be stale can be served as things stand.
fn is_fresh_enough(local: &LocalShard, request: &Request, now: Duration) -> bool {
    let most = Duration::from_millis(u64::from(request.staleness_ms));
    local.lanes.freshness.is_within(most, now)
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

fn refused(host: &Host, local: &LocalShard, request: &Request, error: &ProposeError) -> Reply {
    match error {
        ProposeError::NotLeader { leader } => reply::not_home(request.id, home(host, local, *leader)),
        ProposeError::Unknown(reason) => reply::error(request.id, Code::UnknownOutcome, reason.clone()),
        ProposeError::Stopped(reason) => reply::error(request.id, Code::Unavailable, reason.clone()),
    }
}

async fn read_in_turn(host: Host, local: LocalShard, mut turn: Turn<Part>) {
    while let Some(parts) = turn.take(u64::MAX, |_| 0) {
        read(&host, &local, parts).await;
    }
}

/// Serves reads of one mode behind one confirmation that this replica misses nothing.
async fn read(host: &Host, local: &LocalShard, parts: Vec<Part>) {
    let (parts, timeout) = in_time(parts);
    let Some(first) = parts.first().and_then(|part| part.requests.first()) else {
        return;
    };
    let count: usize = parts.iter().map(|part| part.requests.len()).sum();
    tracing::trace!(target: "godwit::steps", count = count as u64, "leadership asked");
    let (mode, began) = (first.read_mode(), host.uptime());
    let confirmed = tokio::time::timeout(timeout, confirm_leading(host, local, mode)).await;
    if let Ok(Ok(())) = confirmed {
        local.lanes.freshness.note(mode, began);
    }
    tracing::trace!(target: "godwit::steps", count = count as u64, "leadership confirmed");
    for part in parts {
        part.answer(|request| match &confirmed {
            Ok(Ok(())) => serve_read(host, local, &part.caller, request),
            Ok(Err(ReadError::NotLeader { leader })) => {
                reply::not_home(request.id, home(host, local, *leader))
            }
            Ok(Err(e)) => reply::error(request.id, Code::Unavailable, e.to_string()),
            Err(_) => reply::error(request.id, Code::Deadline, "leadership was not confirmed in time"),
        });
    }
}

/// A read of a shard that is split or merged while it is served may have seen less than its client believes to have asked for.
fn serve_read(host: &Host, local: &LocalShard, caller: &Caller, request: &Request) -> Reply {
    let reply = answer_read(host, local, caller, request);
    match local.store.serves(request.r#gen) {
        true => reply,
        false => stale_route(request.id),
    }
}

fn stale_route(id: u64) -> Reply {
    reply::error(id, Code::StaleRoute, "the shard's range has another version")
}

fn answer_read(host: &Host, local: &LocalShard, caller: &Caller, request: &Request) -> Reply {
    match &request.op {
        Some(Op::Get(get)) => match local.store.get_in_range(&get.key, at(get.revision)) {
            Ok(Some(found)) => {
                let bytes = found.pair.as_ref().map_or(0, |pair| pair.value.len()) + get.key.len();
                record(host, local, caller, request, profiler::Op::Get, &get.key, bytes);
                reply::get(request.id, found.revision, found.pair)
            }
            Ok(None) => reply::error(request.id, Code::StaleRoute, "the key lies outside the shard"),
            Err(e) => reply::read_failed(request.id, &e),
        },
        Some(Op::Scan(scan)) => serve_scan(host, local, caller, request, scan),
        Some(Op::History(history)) => serve_history(host, local, caller, request, history),
        Some(Op::LeaseStatus(asked)) => serve_lease(host, local, request, asked),
        _ => reply::error(request.id, Code::Unimplemented, "not a read"),
    }
}

/// The revision to read at; `None`: the newest.
fn at(revision: u64) -> Option<u64> {
    (revision > 0).then_some(revision)
}

/// As many as were asked for, and no more than the host's limit.
fn pairs_max(host: &Host, asked: u32) -> usize {
    let most = host.config().limits.scan_pairs_max;
    let pairs = match u64::from(asked) {
        0 => most,
        asked => asked.min(most),
    };
    usize::try_from(pairs).unwrap_or(usize::MAX)
}

fn bytes_max(host: &Host) -> usize {
    usize::try_from(host.config().limits.scan_bytes_max).unwrap_or(usize::MAX)
}

fn serve_history(
    host: &Host,
    local: &LocalShard,
    caller: &Caller,
    request: &Request,
    history: &client::proto::History,
) -> Reply {
    let versions_max = pairs_max(host, history.limit);
    let before = at(history.before);
    match local
        .store
        .history(&history.key, before, versions_max, bytes_max(host))
    {
        Ok(Some(found)) => {
            let bytes = found.versions.iter().map(|version| version.value.len()).sum();
            record(
                host,
                local,
                caller,
                request,
                profiler::Op::Get,
                &history.key,
                bytes,
            );
            reply::history(request.id, found)
        }
        Ok(None) => reply::error(request.id, Code::StaleRoute, "the key lies outside the shard"),
        Err(e) => reply::read_failed(request.id, &e),
    }
}

fn serve_lease(host: &Host, local: &LocalShard, request: &Request, asked: &LeaseStatus) -> Reply {
    let (found, revision) = local.store.lease(asked.lease, &asked.key, pairs_max(host, 0));
    let result = found.map_or_else(LeaseResult::default, |(state, keys)| LeaseResult {
        exists: true,
        ttl_ms: state.ttl_ms,
        left_ms: local.lease_clock.left_ms(host, &state),
        keys_total: state.keys,
        keys,
    });
    reply::lease(request.id, revision, result)
}

fn serve_scan(
    host: &Host,
    local: &LocalShard,
    caller: &Caller,
    request: &Request,
    scan: &client::proto::Scan,
) -> Reply {
    let (pairs_max, bytes_max) = (pairs_max(host, scan.limit), bytes_max(host));
    let end = (!scan.end.is_empty()).then_some(&scan.end[..]);
    let page = match at(scan.revision) {
        Some(at) => local.store.scan_at(&scan.start, end, pairs_max, bytes_max, at),
        None => local.store.scan(&scan.start, end, pairs_max, bytes_max),
    };
    match page {
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

/// Where a shard is led: its group knows best, the map may know.
pub(crate) fn home(
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

pub(crate) fn home_in_map(host: &Host, shard: ShardId) -> Option<client::proto::HostAddress> {
    let map = host.map();
    let home = HostId(map.route(shard)?.home);
    (home != host.id()).then(|| map.address(home)).flatten()
}
