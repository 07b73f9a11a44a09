//! A frame's requests, spread over their shards.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use client::proto::request::Op;
use client::proto::{Code, Get, History, Reply, Request};
use placement::ShardId;
use prost::Message;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::exchange::Caller;
use super::replies::Replies;
use super::reply;
use crate::host::Host;
use crate::monitor::RequestMetrics;

/// Requests without a deadline are given this one.
const DEADLINE_DEFAULT: Duration = Duration::from_secs(10);
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

    fn admit(&self, bytes: u64) -> Option<OwnedSemaphorePermit> {
        let permits = bytes.div_ceil(PERMIT_BYTES).max(1);
        self.0
            .clone()
            .try_acquire_many_owned(u32::try_from(permits).ok()?)
            .ok()
    }
}

/// Requests of one frame for one shard, and who waits for the answers.
pub(crate) struct Part {
    pub(super) shard: ShardId,
    pub(super) requests: Vec<Request>,
    pub(super) received: tokio::time::Instant,
    pub(super) caller: Arc<Caller>,
    pub(super) replies: Replies,
    /// Where its answers are counted.
    measured: Arc<RequestMetrics>,
    /// What the host has room for until they are answered; shared by the parts of this part.
    room: Arc<OwnedSemaphorePermit>,
}

impl Part {
    /// The same with other requests.
    pub(super) fn of(&self, requests: Vec<Request>) -> Self {
        Self {
            requests,
            caller: self.caller.clone(),
            replies: self.replies.clone(),
            measured: self.measured.clone(),
            room: self.room.clone(),
            ..*self
        }
    }

    /// Bytes of mutations.
    pub(super) fn bytes(&self) -> u64 {
        let mutations = self.requests.iter().filter_map(|request| match &request.op {
            Some(Op::Mutation(mutation)) => Some(mutation.len() as u64),
            _ => None,
        });
        mutations.sum()
    }

    /// Answers and drops what is too late, and says how long the rest may take at most.
    pub(super) fn drop_late(&mut self) -> Duration {
        let passed = self.received.elapsed();
        let is_late = |request: &Request| deadline_of(request) <= passed;
        let late = self.requests.iter().filter(|request| is_late(request));
        let late = late.map(|request| {
            let answer = reply::error(request.id, Code::Deadline, "too late to begin");
            self.measured.note(request, &answer, passed);
            answer
        });
        self.replies.send(late.collect());
        self.requests.retain(|request| !is_late(request));
        let longest = self.requests.iter().map(deadline_of).max().unwrap_or_default();
        longest.saturating_sub(passed)
    }

    /// Answers every request.
    pub(super) fn answer(&self, answer: impl FnMut(&Request) -> Reply) {
        let replies: Vec<Reply> = self.requests.iter().map(answer).collect();
        let took = self.received.elapsed();
        for (request, reply) in self.requests.iter().zip(&replies) {
            self.measured.note(request, reply, took);
            crate::trace::served(request, took);
        }
        self.replies.send(replies);
    }
}

pub(super) fn deadline_of(request: &Request) -> Duration {
    match request.deadline_ms {
        0 => DEADLINE_DEFAULT,
        millis => Duration::from_millis(u64::from(millis)),
    }
}

/// Spreads a frame's requests over their shards, and answers those that no shard would accept.
pub(crate) fn spread(
    host: &Host,
    in_flight: &InFlight,
    caller: &Arc<Caller>,
    replies: &Replies,
    requests: Vec<Request>,
) -> Vec<Part> {
    let received = tokio::time::Instant::now();
    let measured = &host.metrics().requests;
    let mut by_shard: BTreeMap<u64, (u64, Vec<Request>)> = BTreeMap::new();
    let mut refused = Vec::new();
    for request in requests {
        if let Some(refusal) = refusal(host, &request) {
            measured.note(&request, &refusal, received.elapsed());
            refused.push(refusal);
            continue;
        }
        let (bytes, requests) = by_shard.entry(request.shard_id).or_default();
        *bytes += request.encoded_len() as u64;
        requests.push(request);
    }
    let mut parts = Vec::with_capacity(by_shard.len());
    for (shard, (bytes, requests)) in by_shard {
        let Some(room) = in_flight.admit(bytes) else {
            for request in &requests {
                let refusal = overloaded(request);
                measured.note(request, &refusal, received.elapsed());
                refused.push(refusal);
            }
            continue;
        };
        parts.push(Part {
            shard: ShardId(shard),
            requests,
            received,
            caller: caller.clone(),
            replies: replies.clone(),
            measured: measured.clone(),
            room: Arc::new(room),
        });
    }
    replies.send(refused);
    parts
}

fn overloaded(request: &Request) -> Reply {
    reply::error(request.id, Code::Overloaded, "too much in flight on this host")
}

/// The answer to what no shard would accept.
fn refusal(host: &Host, request: &Request) -> Option<Reply> {
    let limits = &host.config().limits;
    let (code, message) = match &request.op {
        None => (
            Code::Unimplemented,
            "an operation this host does not know".to_owned(),
        ),
        Some(Op::Get(Get { key, .. }) | Op::History(History { key, .. })) if key.is_empty() => {
            (Code::Invalid, "an empty key".to_owned())
        }
        Some(Op::Get(Get { key, .. }) | Op::History(History { key, .. }))
            if key.len() as u64 > limits.key_bytes_max =>
        {
            (
                Code::TooLarge,
                format!("keys may have {} bytes", limits.key_bytes_max),
            )
        }
        Some(Op::Mutation(mutation)) if mutation.len() as u64 > limits.batch_bytes_max => (
            Code::TooLarge,
            format!("a request may have {} bytes", limits.batch_bytes_max),
        ),
        Some(_) => return None,
    };
    Some(reply::error(request.id, code, message))
}
