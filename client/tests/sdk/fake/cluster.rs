//! What all fake hosts share: the shards, who leads them, the script of faults and the record of what was asked.

use std::{
    collections::{BTreeMap, VecDeque},
    sync::{Arc, Mutex, MutexGuard},
};

use bytes::Bytes;
use client::{
    Client, ClientConfig,
    proto::{
        Code, Error, HostAddress, Mutation, Reply, Request, ShardMapReply, ShardRoute, mutation, reply,
        request,
    },
};
use prost::Message;
use rand::{RngExt, rngs::SmallRng};
use tokio::sync::watch;

use super::{
    FakeHost,
    machine::{Machine, Outcome, error},
};

/// What goes wrong with a request.
#[derive(Clone, Debug)]
pub(crate) enum Fault {
    /// The stream ends; nothing is executed.
    DropBefore,
    /// The operation is executed, then the stream ends.
    DropAfter,
    /// Not executed, and the host says that it does not know.
    UnknownBefore,
    /// Executed, and the host says that it does not know.
    UnknownAfter,
    /// Not executed, and never answered.
    SilentBefore,
    /// Executed, and never answered.
    SilentAfter,
    /// Refused with this code.
    Refuse(Code),
    /// Refused with a pointer to this host.
    PointAt(u64),
    /// The shard forgets all sessions, then the operation is processed.
    ForgetSessions,
    /// Executed; then the shard forgets all sessions and the stream ends.
    DropAfterAndForget,
    /// Executed; then the shard is split at this key and the stream ends.
    DropAfterAndSplit(Bytes),
}

/// A request as a host saw it.
#[derive(Clone, Debug)]
pub(crate) struct Seen {
    pub(crate) host: u64,
    pub(crate) request: Request,
    /// Of a mutation.
    pub(crate) mutation: Option<Mutation>,
    /// The mutation was executed, not answered from memory or refused.
    pub(crate) executed: bool,
}

impl Seen {
    pub(crate) fn identity(&self) -> (u64, u64) {
        let mutation = self.mutation.as_ref().expect("a mutation");
        (mutation.session, mutation.sequence)
    }

    pub(crate) fn opens_session(&self) -> bool {
        self.mutation
            .as_ref()
            .is_some_and(|m| matches!(m.op, Some(mutation::Op::OpenSession(_))))
    }
}

pub(crate) struct FakeCluster {
    state: Mutex<State>,
    /// The number of requests seen: what tests wait on.
    seen: watch::Sender<usize>,
}

#[derive(Default)]
struct State {
    version: u64,
    shards: BTreeMap<u64, Machine>,
    homes: BTreeMap<u64, u64>,
    /// What the map says instead of the truth.
    published_homes: BTreeMap<u64, u64>,
    hides_homes: bool,
    addresses: BTreeMap<u64, String>,
    faults: VecDeque<Fault>,
    open_faults: VecDeque<Fault>,
    seen: Vec<Seen>,
    frames: Vec<usize>,
    maps_served: usize,
    /// So many hosts that are asked have no map yet.
    mapless: usize,
}

/// What a host does after processing a request.
pub(crate) enum Reaction {
    Reply(Reply),
    Silence,
    EndStream,
}

pub(crate) const CLUSTER_ID: &str = "fake";

impl FakeCluster {
    /// Starts `hosts` hosts with ids from 1, and one shard between each two of `splits`, all led by host 1. Shards
    /// have ids from 1, in key order.
    pub(crate) async fn start(hosts: u64, splits: &[&'static str]) -> (Arc<Self>, Vec<FakeHost>) {
        let cluster = Arc::new(Self {
            state: Mutex::default(),
            seen: watch::Sender::new(0),
        });
        let mut starts = vec![""];
        starts.extend(splits);
        {
            let mut state = cluster.state();
            state.version = 1;
            for (index, start) in starts.iter().enumerate() {
                let (id, end) = (
                    index as u64 + 1,
                    starts.get(index + 1).copied().unwrap_or_default(),
                );
                let (start, end) = (
                    Bytes::from_static(start.as_bytes()),
                    Bytes::from_static(end.as_bytes()),
                );
                let machine = Machine {
                    id,
                    start,
                    end,
                    generation: 1,
                    page_max: 1000,
                    ..Machine::default()
                };
                state.shards.insert(id, machine);
                state.homes.insert(id, 1);
            }
        }
        let mut servers = Vec::new();
        for id in 1..=hosts {
            let host = FakeHost::start(id, Arc::clone(&cluster)).await;
            cluster.state().addresses.insert(id, host.address.clone());
            servers.push(host);
        }
        (cluster, servers)
    }

    /// A configuration for this cluster, with short pauses, and with time limits that only a dead machine reaches: a
    /// test must not fail because its machine is busy.
    pub(crate) fn config(&self) -> ClientConfig {
        let seed = seed();
        let mut config = ClientConfig::new(self.state().addresses.values().cloned().collect::<Vec<_>>());
        config.seed = Some(seed);
        let ample = std::time::Duration::from_secs(120);
        (
            config.deadline,
            config.retry.attempt_timeout,
            config.transport.connect_timeout,
        ) = (ample, ample, ample);
        (
            config.transport.keep_alive_interval,
            config.transport.keep_alive_timeout,
        ) = (ample, ample);
        config.retry.backoff_min = std::time::Duration::from_millis(1);
        config.retry.backoff_max = std::time::Duration::from_millis(20);
        config.retry.refresh_jitter = std::time::Duration::from_millis(1);
        config
    }

    pub(crate) async fn client(&self) -> Client {
        Client::connect(self.config()).await.unwrap()
    }

    /// The next data operation meets this fault; several are met in order.
    pub(crate) fn inject(&self, fault: Fault) {
        self.state().faults.push_back(fault);
    }

    /// As [`Self::inject`], for the next opening of a session.
    pub(crate) fn inject_at_open(&self, fault: Fault) {
        self.state().open_faults.push_back(fault);
    }

    pub(crate) fn faults_left(&self) -> usize {
        let state = self.state();
        state.faults.len() + state.open_faults.len()
    }

    /// Moves the lead of a shard; the map goes on naming the old home.
    pub(crate) fn move_home_silently(&self, shard: u64, host: u64) {
        let mut state = self.state();
        let old = state.homes.insert(shard, host).expect("the shard exists");
        state.published_homes.entry(shard).or_insert(old);
    }

    /// Moves the lead of a shard, and the map says so.
    pub(crate) fn move_home(&self, shard: u64, host: u64) {
        let mut state = self.state();
        state.homes.insert(shard, host);
        state.published_homes.remove(&shard);
    }

    /// Hosts answer that they are not the home without saying who is; the map is right.
    pub(crate) fn hide_homes(&self) {
        self.state().hides_homes = true;
    }

    pub(crate) fn split(&self, shard: u64, at: impl Into<Bytes>) -> u64 {
        self.state().split(shard, &at.into())
    }

    /// Splits a shard between two random letters, where the first of them lies in it.
    pub(crate) fn split_at_random(&self, shard: u64, random: &mut SmallRng) {
        let at = Bytes::from(vec![
            random.random_range(b'a'..=b'z'),
            b'-',
            b'0',
            random.random_range(b'0'..=b'9'),
        ]);
        let mut state = self.state();
        let machine = &state.shards[&shard];
        if machine.covers(&at) && machine.start != at {
            state.split(shard, &at);
        }
    }

    /// Merges a shard with its neighbour to the right, if it has one.
    pub(crate) fn merge_right(&self, shard: u64) -> bool {
        self.state().merge_right(shard)
    }

    pub(crate) fn shard_ids(&self) -> Vec<u64> {
        self.state().shards.keys().copied().collect()
    }

    pub(crate) fn limit_pages(&self, pairs: usize) {
        self.state()
            .shards
            .values_mut()
            .for_each(|shard| shard.page_max = pairs);
    }

    /// How often the key was set since it was created; 0: it does not exist.
    pub(crate) fn version_of(&self, key: &str) -> u64 {
        let state = self.state();
        let shard = state
            .shards
            .values()
            .find(|shard| shard.covers(key.as_bytes()))
            .expect("shards cover all keys");
        shard.data.get(key.as_bytes()).map_or(0, |pair| pair.version)
    }

    pub(crate) fn seen(&self) -> Vec<Seen> {
        self.state().seen.clone()
    }

    /// The mutations of data that were seen, in order.
    pub(crate) fn mutations(&self) -> Vec<Seen> {
        self.seen()
            .into_iter()
            .filter(|seen| seen.mutation.is_some() && !seen.opens_session())
            .collect()
    }

    pub(crate) fn frames(&self) -> Vec<usize> {
        self.state().frames.clone()
    }

    pub(crate) fn maps_served(&self) -> usize {
        self.state().maps_served
    }

    /// Waits until hosts have seen `count` requests in all.
    pub(crate) async fn saw(&self, count: usize) {
        reached(&self.seen, |seen| *seen >= count).await;
    }

    pub(crate) fn map(&self) -> ShardMapReply {
        let mut state = self.state();
        state.maps_served += 1;
        if state.mapless > 0 {
            state.mapless -= 1;
            return ShardMapReply::default();
        }
        let hosts = state.addresses.iter();
        let hosts = hosts
            .map(|(id, _)| state.host_address(*id).expect("a host of the map"))
            .collect();
        let mut shards: Vec<_> = state.shards.values().map(|shard| state.route(shard)).collect();
        shards.sort_by(|a, b| a.start.cmp(&b.start));
        ShardMapReply {
            cluster_id: CLUSTER_ID.into(),
            version: state.version,
            shards,
            hosts,
        }
    }

    /// The next `times` maps are those of hosts that have just joined: empty.
    pub(crate) fn serve_no_map(&self, times: usize) {
        self.state().mapless = times;
    }

    pub(crate) fn note_frame(&self, requests: usize) {
        self.state().frames.push(requests);
    }

    /// Processes a request at `host`, with the next fault of the script.
    pub(crate) fn process(&self, host: u64, request: Request) -> Reaction {
        let id = request.id;
        let reaction = self.state().process(host, request);
        self.seen.send_modify(|seen| *seen += 1);
        match reaction {
            Ok(Some(Ok((revision, result)))) => Reaction::Reply(Reply {
                id,
                revision,
                result: Some(result),
            }),
            Ok(Some(Err(error))) => Reaction::Reply(Reply {
                id,
                revision: 0,
                result: Some(reply::Result::Error(error)),
            }),
            Ok(None) => Reaction::Silence,
            Err(EndStream) => Reaction::EndStream,
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap()
    }
}

struct EndStream;

impl State {
    fn process(&mut self, host: u64, request: Request) -> Result<Option<Outcome>, EndStream> {
        let mutation = match &request.op {
            Some(request::Op::Mutation(bytes)) => Some(Mutation::decode(bytes.clone()).expect("a mutation")),
            _ => None,
        };
        let seen = Seen {
            host,
            request: request.clone(),
            mutation,
            executed: false,
        };
        let fault = self.script(&seen).pop_front();
        self.seen.push(seen.clone());
        let shard = request.shard_id;
        match fault {
            None => Ok(Some(self.execute(&seen))),
            Some(Fault::DropBefore) => Err(EndStream),
            Some(Fault::SilentBefore) => Ok(None),
            Some(Fault::UnknownBefore) => Ok(Some(Err(error(Code::UnknownOutcome)))),
            Some(Fault::Refuse(code)) => Ok(Some(Err(error(code)))),
            Some(Fault::PointAt(other)) => Ok(Some(Err(self.not_home(Some(other))))),
            Some(Fault::ForgetSessions) => {
                self.forget_sessions(shard);
                Ok(Some(self.execute(&seen)))
            }
            Some(after) => {
                let outcome = self.execute(&seen);
                if outcome.is_err() {
                    // A fault that is to come after the execution waits until there is one.
                    self.script(&seen).push_front(after);
                    return Ok(Some(outcome));
                }
                match after {
                    Fault::UnknownAfter => return Ok(Some(Err(error(Code::UnknownOutcome)))),
                    Fault::SilentAfter => return Ok(None),
                    Fault::DropAfterAndForget => self.forget_sessions(shard),
                    Fault::DropAfterAndSplit(at) => drop(self.split(shard, &at)),
                    _ => {}
                }
                Err(EndStream)
            }
        }
    }

    fn script(&mut self, seen: &Seen) -> &mut VecDeque<Fault> {
        if seen.opens_session() {
            &mut self.open_faults
        } else {
            &mut self.faults
        }
    }

    fn execute(&mut self, seen: &Seen) -> Outcome {
        let Seen {
            host,
            request,
            mutation,
            ..
        } = seen;
        let Some(home) = self.homes.get(&request.shard_id).copied() else {
            return Err(error(Code::StaleRoute));
        };
        if home != *host {
            return Err(self.not_home((!self.hides_homes).then_some(home)));
        }
        let shard = self
            .shards
            .get_mut(&request.shard_id)
            .expect("a shard with a home");
        if request.r#gen != shard.generation {
            return Err(error(Code::StaleRoute));
        }
        match (&request.op, mutation) {
            (Some(request::Op::Get(get)), _) => shard.get(get),
            (Some(request::Op::Scan(scan)), _) => shard.scan(scan),
            (_, Some(mutation)) => {
                let new = !shard.remembers(mutation);
                let outcome = shard.apply(mutation);
                self.seen.last_mut().expect("pushed before").executed |= new && outcome.is_ok();
                outcome
            }
            _ => Err(error(Code::Unimplemented)),
        }
    }

    fn not_home(&self, hint: Option<u64>) -> Error {
        let home = hint.and_then(|id| self.host_address(id));
        Error {
            home,
            ..error(Code::NotHome)
        }
    }

    fn host_address(&self, id: u64) -> Option<HostAddress> {
        let address = self.addresses.get(&id)?.clone();
        Some(HostAddress {
            host_id: id,
            address,
            ..HostAddress::default()
        })
    }

    fn route(&self, shard: &Machine) -> ShardRoute {
        let home = self
            .published_homes
            .get(&shard.id)
            .unwrap_or(&self.homes[&shard.id]);
        ShardRoute {
            shard_id: shard.id,
            start: shard.start.clone(),
            end: shard.end.clone(),
            r#gen: shard.generation,
            conf_ver: 1,
            home: *home,
            hosts: self.addresses.keys().copied().collect(),
        }
    }

    /// A session ends on all shards that have a copy of it, as it does when it expires for idleness. Were a copy to
    /// survive on the child of a split, a merge would bring the session back without its latest outcomes.
    fn forget_sessions(&mut self, shard: u64) {
        let Some(shard) = self.shards.get_mut(&shard) else {
            return;
        };
        let ended = std::mem::take(&mut shard.sessions);
        for other in self.shards.values_mut() {
            other.sessions.retain(|id, _| !ended.contains_key(id));
        }
    }

    fn split(&mut self, shard: u64, at: &Bytes) -> u64 {
        let child_id = self.shards.keys().last().expect("a shard") + 1;
        let child = self
            .shards
            .get_mut(&shard)
            .expect("the shard exists")
            .split(at, child_id);
        self.homes.insert(child_id, self.homes[&shard]);
        self.shards.insert(child_id, child);
        self.version += 1;
        child_id
    }

    fn merge_right(&mut self, shard: u64) -> bool {
        let end = self.shards[&shard].end.clone();
        let right = self
            .shards
            .values()
            .find(|right| !end.is_empty() && right.start == end)
            .map(|right| right.id);
        let Some(right) = right else { return false };
        let absorbed = self.shards.remove(&right).expect("found above");
        self.homes.remove(&right);
        self.published_homes.remove(&right);
        self.shards
            .get_mut(&shard)
            .expect("the shard exists")
            .merge(absorbed);
        self.version += 1;
        true
    }
}

/// Waits for a signal; a test that would wait for ever fails instead.
pub(crate) async fn reached(signal: &watch::Sender<usize>, condition: impl FnMut(&usize) -> bool) {
    let mut signal = signal.subscribe();
    let waiting = tokio::time::timeout(std::time::Duration::from_secs(60), signal.wait_for(condition));
    waiting
        .await
        .expect("the signal comes within a minute")
        .expect("its sender lives");
}

/// The seed of this test's random choices: `GODWIT_TEST_SEED`, or a fixed one. Printed, for the log of a failure.
pub(crate) fn seed() -> u64 {
    let seed = std::env::var("GODWIT_TEST_SEED")
        .ok()
        .and_then(|text| text.parse().ok())
        .unwrap_or(42);
    println!("seed {seed} (set GODWIT_TEST_SEED to change it)");
    seed
}
