//! One operation from its first attempt to its answer, or to the error that tells what is known of it.
//!
//! Each attempt looks up the shard of the operation's key, picks a host, and sends the request on that host's stream.
//! A setback says whether the attempt may have been executed and what to try next ([`Kind`]); [`Call::recover`] does
//! it. A mutation keeps its (session, sequence) over all its attempts from the moment one of them may have been
//! executed; until then it may take another.
//!
//! Two things must hold. An error that says "without effect" is only given when no attempt's outcome is open. And
//! every wait ends by the operation's deadline.

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use prost::Message;

use crate::{
    cluster::Cluster,
    config::{ReadMode, RequestOptions},
    error::{End, Failure},
    link::Link,
    proto::{self, HostAddress, Mutation, OpenSession, Reply, Request, mutation, reply, request},
    retry::Backoff,
    routes::Shard,
    seam::{TraceContext, within},
    seeded_bug,
    session::{Sequence, ShardSession},
    setback::{Kind, Refusal, Setback},
};

/// What to do, independent of where.
#[derive(Debug, Clone)]
pub(crate) enum Operation {
    Get(proto::Get),
    /// The part of the range that lies in the shard of its start.
    Scan(proto::Scan),
    History(proto::History),
    LeaseStatus(proto::LeaseStatus),
    Mutation(mutation::Op),
}

/// What came of it.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) revision: u64,
    pub(crate) result: reply::Result,
    /// The shard that answered.
    pub(crate) shard: Arc<Shard>,
}

/// An operation under way.
pub(crate) struct Call<'a> {
    cluster: &'a Cluster,
    options: &'a RequestOptions,
    operation: Operation,
    /// On the client's clock.
    deadline: Duration,
    attempts: u32,
    /// Redirects since the last pause.
    redirects: u32,
    /// Setbacks other than redirects.
    stumbles: u32,
    /// The host that failed last.
    avoid: Option<Arc<str>>,
    backoff: Option<Backoff>,
    last_pause: bool,
    /// The map was fetched because a transaction seemed to lie in two shards.
    rerouted: bool,
    sequence: Option<Sequence>,
    /// The outcome of an earlier attempt is open.
    possibly_executed: bool,
}

/// Where an attempt goes.
struct Route {
    shard: Arc<Shard>,
    /// How many answers the shard map rests on.
    fetched: u64,
    address: Arc<str>,
}

impl<'a> Call<'a> {
    pub(crate) fn new(cluster: &'a Cluster, options: &'a RequestOptions, operation: Operation) -> Self {
        Self {
            cluster,
            options,
            operation,
            deadline: cluster.shared.config.clock.now() + options.deadline,
            attempts: 0,
            redirects: 0,
            stumbles: 0,
            avoid: None,
            backoff: None,
            last_pause: false,
            rerouted: false,
            sequence: None,
            possibly_executed: false,
        }
    }

    /// What is seldom needed is boxed: an operation that waits takes the memory of all that it might yet do.
    pub(crate) async fn run(mut self) -> Result<Answer, Failure> {
        self.check_size()?;
        loop {
            let route = self.route();
            if let Some(foreign) = self.operation.key_elsewhere(&route.shard) {
                Box::pin(self.reroute(&route, foreign)).await?;
                continue;
            }
            let outcome = self.attempt(&route).await;
            self.attempts += 1;
            match outcome {
                Ok((revision, result)) => {
                    return Ok(Answer {
                        revision,
                        result,
                        shard: route.shard,
                    });
                }
                Err(setback) => Box::pin(self.recover(&route, setback)).await?,
            }
        }
    }

    /// A transaction whose keys lie in two shards, by this client's map, which is fetched anew before that counts.
    async fn reroute(&mut self, route: &Route, foreign: Bytes) -> Result<(), Failure> {
        if std::mem::replace(&mut self.rerouted, true) {
            let key = self.operation.key();
            let cause = format!(
                "a transaction lies in one shard, and {:?} is in another than {:?}",
                String::from_utf8_lossy(&foreign),
                String::from_utf8_lossy(key)
            );
            return Err(self.failure(End::Refused(Refusal::Invalid), cause));
        }
        self.refresh(route).await;
        Ok(())
    }

    fn check_size(&self) -> Result<(), Failure> {
        let (bytes, limit) = (
            self.operation.bytes(),
            self.cluster.shared.config.limits.request_bytes_max,
        );
        if bytes <= limit {
            return Ok(());
        }
        let cause = format!("key and value have {bytes} bytes, the client's limit is {limit}");
        Err(self.failure(End::Refused(Refusal::TooLarge), cause))
    }

    fn left(&self) -> Duration {
        self.deadline
            .saturating_sub(self.cluster.shared.config.clock.now())
    }

    /// The shard's home, unless that failed last; otherwise its other hosts in turn.
    fn route(&self) -> Route {
        let (shard, fetched) = self.cluster.routes.shard_of(self.operation.key());
        let usable = |address: &&Arc<str>| Some(*address) != self.avoid.as_ref();
        let first = match self.reads_anywhere() {
            true => self.nearest_replica(&shard),
            false => shard.home.as_ref(),
        };
        let address = match first.filter(usable) {
            Some(address) => Arc::clone(address),
            None => self.another_host(&shard),
        };
        Route {
            shard,
            fetched,
            address,
        }
    }

    /// Whether any replica serves this, and none has sent it on to the home yet.
    fn reads_anywhere(&self) -> bool {
        let anywhere = matches!(self.options.read_mode, ReadMode::Follower | ReadMode::Stale(_));
        anywhere && !self.operation.is_mutation() && self.redirects == 0
    }

    /// A replica in this client's zone, or else each in turn.
    fn nearest_replica<'s>(&self, shard: &'s Shard) -> Option<&'s Arc<str>> {
        shard.near.as_ref().or_else(|| {
            let count = shard.replicas.len().max(1);
            shard.replicas.get(self.cluster.shared.random_below(count))
        })
    }

    fn another_host(&self, shard: &Shard) -> Arc<str> {
        let table = self.cluster.routes.table();
        let hosts = if shard.replicas.is_empty() {
            &table.hosts
        } else {
            &shard.replicas
        };
        let usable: Vec<_> = hosts
            .iter()
            .filter(|address| Some(*address) != self.avoid.as_ref())
            .collect();
        let turn = self.attempts as usize;
        match (usable.as_slice(), &self.avoid) {
            ([], Some(only)) => Arc::clone(only),
            ([], None) => Arc::from(self.cluster.shared.config.endpoints[0].as_str()),
            (usable, _) => Arc::clone(usable[turn % usable.len()]),
        }
    }

    async fn attempt(&mut self, route: &Route) -> Result<(u64, reply::Result), Setback> {
        // An address that makes no sense came from another host's map or hint; a better one may come from the next.
        let link = self
            .cluster
            .pool
            .link(&route.address)
            .map_err(|setback| Setback::host_failed(setback.cause))?;
        self.identify(route, &link).await?;
        let source = self.cluster.shared.config.trace.as_ref();
        let trace = source.and_then(|source| source.current());
        let op = self.operation.encode(&route.shard, self.sequence.as_ref(), trace);
        self.exchange(route, &link, op).await
    }

    /// Gives a mutation its sequence on the shard. Once an attempt may have been executed it keeps the one it has:
    /// under another, the shard would execute it again.
    async fn identify(&mut self, route: &Route, link: &Arc<Link>) -> Result<(), Setback> {
        if self.possibly_executed || !self.operation.is_mutation() {
            return Ok(());
        }
        let session = self.cluster.sessions.on_shard(route.shard.id);
        if self
            .sequence
            .as_ref()
            .is_some_and(|sequence| sequence.is_of(&session))
        {
            return Ok(());
        }
        self.sequence = match session.begin() {
            Some(sequence) => Some(sequence),
            None => Some(Box::pin(self.open_session(&session, route, link)).await?),
        };
        Ok(())
    }

    /// Opens the session, or waits for the operation that is opening it.
    async fn open_session(
        &self,
        session: &Arc<ShardSession>,
        route: &Route,
        link: &Arc<Link>,
    ) -> Result<Sequence, Setback> {
        let waiting = within(
            &self.cluster.shared.config.clock,
            self.left(),
            session.opening.lock(),
        );
        let mut opening = waiting
            .await
            .map_err(|_| Setback::host_failed("the session is not open yet"))?;
        if let Some(sequence) = session.begin() {
            return Ok(sequence);
        }
        let id = *opening.get_or_insert_with(|| self.cluster.shared.random());
        let op = open_session(id, route.shard.generation);
        self.exchange(route, link, op).await.map_err(without_effect)?;
        *opening = None;
        session.opened(id);
        self.cluster.shared.counters.sessions_opened.add(1);
        session
            .begin()
            .ok_or_else(|| Setback::host_failed("the session expired as it was opened"))
    }

    /// Sends one request and waits for its reply, for as long as one attempt may take.
    async fn exchange(
        &self,
        route: &Route,
        link: &Arc<Link>,
        op: request::Op,
    ) -> Result<(u64, reply::Result), Setback> {
        let config = &self.cluster.shared.config;
        let limit = self.left().min(config.retry.attempt_timeout);
        let deadline = config.clock.now() + limit;
        let place = match link.free_place() {
            Some(place) => place,
            None => within(&config.clock, limit, link.place())
                .await
                .map_err(|_| Setback::new(Kind::Busy, "no place among the requests in flight"))??,
        };
        let bytes = self.operation.bytes() + REQUEST_OVERHEAD_BYTES;
        let mut ticket = link.enqueue(place, self.request(route, op), bytes, deadline)?;
        let limit = deadline.saturating_sub(config.clock.now());
        let Ok(delivery) = within(&config.clock, limit, ticket.reply()).await else {
            return Err(ticket.give_up());
        };
        result_of(delivery?)
    }

    /// The request but for its id and the time left, which are set when it is queued and when it is sent.
    fn request(&self, route: &Route, op: request::Op) -> Request {
        Request {
            id: 0,
            shard_id: route.shard.id,
            r#gen: route.shard.generation,
            deadline_ms: 0,
            op: Some(op),
            user_id: self.options.user_id.as_deref().unwrap_or_default().to_owned(),
            workload_ms: self.options.workload_ms.unwrap_or(0),
            read_mode: proto::ReadMode::from(self.options.read_mode).into(),
            staleness_ms: self.options.read_mode.staleness_ms(),
        }
    }

    /// Prepares the next attempt, or ends the operation.
    async fn recover(&mut self, route: &Route, setback: Setback) -> Result<(), Failure> {
        let Setback { kind, cause } = setback;
        tracing::debug!(host = %route.address, shard = route.shard.id, ?kind, cause, "setback");
        self.possibly_executed |= kind == Kind::Unknown && self.operation.is_mutation();
        match kind {
            Kind::Refused(refusal) => return Err(self.failure(End::Refused(refusal), cause)),
            _ if self.attempts >= self.cluster.shared.config.retry.attempts_max => {
                return Err(self.failure(End::Attempts, cause));
            }
            Kind::NotHome(hint) => self.redirect(route, hint).await,
            Kind::StaleRoute => self.stumble(route, Pace::Refresh).await,
            Kind::SessionExpired | Kind::SequenceForgotten => {
                self.renew_session(&kind, &cause)?;
                self.stumble(route, Pace::Stay).await;
            }
            Kind::Busy => self.pause().await,
            Kind::HostFailed | Kind::Unknown => {
                self.avoid = Some(Arc::clone(&route.address));
                self.stumble(route, Pace::FailOver).await;
            }
        }
        if self.left().is_zero() {
            return Err(self.failure(End::Deadline, cause));
        }
        self.cluster.shared.counters.retries.add(1);
        Ok(())
    }

    /// Follows a hint at once, if it leads anywhere new; otherwise asks for the map and pauses, as during an
    /// election.
    async fn redirect(&mut self, route: &Route, hint: Option<HostAddress>) {
        let new = hint.filter(|home| *home.address != *route.address);
        match new.filter(|home| Some(&*home.address) != self.avoid.as_deref()) {
            Some(home) if self.redirects < self.cluster.shared.config.retry.redirects_max => {
                self.redirects += 1;
                self.cluster.shared.counters.redirects.add(1);
                self.cluster
                    .routes
                    .correct_home(route.shard.id, route.shard.generation, &home.address);
            }
            _ => {
                // The host that failed may be back, or it would not be pointed at.
                self.avoid = None;
                self.refresh(route).await;
                self.pause().await;
            }
        }
    }

    /// The first setback of an operation costs no pause: it is most often a home that has moved or a stream that
    /// broke, and another host knows.
    async fn stumble(&mut self, route: &Route, pace: Pace) {
        self.stumbles += 1;
        let first = self.stumbles == 1;
        if pace == Pace::Refresh || pace == Pace::FailOver && !first {
            self.refresh(route).await;
        }
        if !first {
            self.pause().await;
        }
    }

    /// A mutation that has certainly not been executed may go on under a new session.
    fn renew_session(&mut self, kind: &Kind, cause: &str) -> Result<(), Failure> {
        let sequence = self.sequence.take();
        if *kind == Kind::SessionExpired && sequence.is_some_and(|sequence| sequence.expired()) {
            self.cluster.shared.counters.sessions_expired.add(1);
        }
        match self.possibly_executed {
            true => Err(self.failure(End::SessionExpired, cause.to_owned())),
            false => Ok(()),
        }
    }

    async fn refresh(&self, route: &Route) {
        let refreshing = self.cluster.refresh(route.fetched);
        // Without a new map the next attempt fares no worse than this one.
        if let Ok(Err(setback)) = within(&self.cluster.shared.config.clock, self.left(), refreshing).await {
            tracing::debug!(cause = setback.cause, "the shard map could not be refreshed");
        }
    }

    /// Waits before the next attempt. A pause that would pass the deadline is cut short, once: for a last attempt.
    async fn pause(&mut self) {
        self.redirects = 0;
        let left = self.left();
        let mut pause = self
            .backoff
            .get_or_insert_with(|| Backoff::new(&self.cluster.shared))
            .next();
        if pause >= left {
            pause = if self.last_pause { left } else { left / 2 };
            self.last_pause = true;
        }
        self.cluster.shared.config.clock.sleep(pause).await;
    }

    /// The end of the operation, in view of the attempts whose outcome is open.
    fn failure(&self, end: End, cause: String) -> Failure {
        let end = match end {
            End::SessionExpired => end,
            // Seeded bug B23: an outcome that is open is reported as a failure without effect.
            _ if self.possibly_executed && !seeded_bug::is_on("B23") => End::UnknownOutcome,
            _ => end,
        };
        Failure {
            end,
            attempts: self.attempts,
            cause,
        }
    }
}

impl ReadMode {
    fn staleness_ms(self) -> u32 {
        match self {
            Self::Stale(most) => u32::try_from(most.as_millis()).unwrap_or(u32::MAX),
            Self::Index | Self::Lease | Self::Follower => 0,
        }
    }
}

impl From<ReadMode> for proto::ReadMode {
    fn from(mode: ReadMode) -> Self {
        match mode {
            ReadMode::Index => Self::Index,
            ReadMode::Lease => Self::Lease,
            ReadMode::Follower => Self::Follower,
            ReadMode::Stale(_) => Self::Stale,
        }
    }
}

/// What to do besides trying again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Pace {
    Stay,
    Refresh,
    FailOver,
}

/// The fields of a request beside key and value, roughly.
const REQUEST_OVERHEAD_BYTES: usize = 64;

impl Operation {
    /// The key that decides on the shard.
    fn key(&self) -> &[u8] {
        match self {
            Self::Get(get) => &get.key,
            Self::Scan(scan) => &scan.start,
            Self::History(history) => &history.key,
            Self::LeaseStatus(status) => &status.key,
            Self::Mutation(mutation::Op::Put(put)) => &put.key,
            Self::Mutation(mutation::Op::Delete(delete)) => &delete.key,
            Self::Mutation(mutation::Op::CompareAndSet(cas)) => &cas.key,
            Self::Mutation(mutation::Op::Compact(compact)) => &compact.key,
            Self::Mutation(mutation::Op::GrantLease(grant)) => &grant.key,
            Self::Mutation(mutation::Op::KeepLease(keep)) => &keep.key,
            Self::Mutation(mutation::Op::RevokeLease(revoke)) => &revoke.key,
            Self::Mutation(mutation::Op::Transaction(transaction)) => {
                transaction.keys().next().map_or(&[], |key| key)
            }
            Self::Mutation(mutation::Op::OpenSession(_)) => &[],
        }
    }

    /// Bytes of keys and values.
    fn bytes(&self) -> usize {
        match self {
            Self::Get(get) => get.key.len(),
            Self::Scan(scan) => scan.start.len() + scan.end.len(),
            Self::History(history) => history.key.len(),
            Self::LeaseStatus(status) => status.key.len(),
            Self::Mutation(op) => op.encoded_len(),
        }
    }

    /// A key of a transaction, or the end of a range, that lies outside the shard.
    fn key_elsewhere(&self, shard: &Shard) -> Option<Bytes> {
        let Self::Mutation(mutation::Op::Transaction(transaction)) = self else {
            return None;
        };
        let before_end = |key: &Bytes| shard.end.is_empty() || *key < shard.end;
        let holds = |key: &&Bytes| **key >= shard.start && before_end(key);
        let reaches = |end: &&Bytes| match end.is_empty() {
            true => shard.end.is_empty(),
            false => before_end(end) || **end == shard.end,
        };
        let key = transaction.keys().find(|key| !holds(key));
        let end = || transaction.range_ends().find(|end| !reaches(end));
        key.or_else(end).cloned()
    }

    fn is_mutation(&self) -> bool {
        matches!(self, Self::Mutation(_))
    }

    fn encode(&self, shard: &Shard, sequence: Option<&Sequence>, trace: Option<TraceContext>) -> request::Op {
        match self {
            Self::Get(get) => request::Op::Get(get.clone()),
            Self::History(history) => request::Op::History(history.clone()),
            Self::LeaseStatus(status) => request::Op::LeaseStatus(status.clone()),
            Self::Scan(scan) => request::Op::Scan(proto::Scan {
                end: nearer(&scan.end, &shard.end),
                ..scan.clone()
            }),
            Self::Mutation(op) => {
                let sequence = sequence.expect("a mutation is identified before it is sent");
                encode_mutation(Mutation {
                    session: sequence.session,
                    sequence: sequence.number,
                    low_water: sequence.low_water(),
                    r#gen: shard.generation,
                    op: Some(op.clone()),
                    trace: trace.map(TraceContext::to_bytes).unwrap_or_default(),
                })
            }
        }
    }
}

/// The nearer of two ends of a range, of which an empty one is infinitely far.
pub(crate) fn nearer(a: &Bytes, b: &Bytes) -> Bytes {
    match (a.is_empty(), b.is_empty()) {
        (true, _) => b.clone(),
        (_, true) => a.clone(),
        _ => a.min(b).clone(),
    }
}

fn open_session(session: u64, range_version: u64) -> request::Op {
    let op = Some(mutation::Op::OpenSession(OpenSession {}));
    encode_mutation(Mutation {
        session,
        sequence: 0,
        low_water: 0,
        r#gen: range_version,
        op,
        trace: Bytes::new(),
    })
}

fn encode_mutation(mutation: Mutation) -> request::Op {
    request::Op::Mutation(mutation.encode_to_vec().into())
}

/// Opening a session changes no data: if its outcome is open, the mutation's is not.
fn without_effect(setback: Setback) -> Setback {
    match setback.kind {
        Kind::Unknown | Kind::SessionExpired | Kind::SequenceForgotten => Setback::host_failed(setback.cause),
        _ => setback,
    }
}

fn result_of(reply: Reply) -> Result<(u64, reply::Result), Setback> {
    match reply.result {
        Some(reply::Result::Error(error)) => Err(error.into()),
        Some(result) => Ok((reply.revision, result)),
        None => Err(Setback::new(Kind::Unknown, "a reply without a result")),
    }
}
