//! Godwit's unary calls, as a program in another language would make them: the shard map, a session, one call an
//! operation.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard};
use std::time::Duration;

use anyhow::{Context, bail};
use async_trait::async_trait;
use bytes::Bytes;
use client::proto::kv_client::KvClient;
use client::proto::{
    Action, Code, Compare, Get, GrantLease, Mutation, OpenSession, Put, ReadMode, Relation, Reply, Request,
    RevokeLease, Scan, ShardMapReply, ShardMapRequest, ShardRoute, Transaction, UnaryRequest, action,
    compare, mutation, reply, request,
};
use prost::Message;
use rand::Rng;
use tonic::transport::{Channel, Endpoint};

use super::Store;
use super::godwit::until;
use crate::workload::{LEASE_S, Operation};

const DEADLINE: Duration = Duration::from_secs(10);
/// A map without a home, or a home that moves meanwhile, is asked for again after this.
const REFRESH_PAUSE: Duration = Duration::from_millis(20);

/// One connection a host, each operation a call to its shard's home.
pub(super) struct Unary {
    seed: String,
    state: Mutex<State>,
}

struct State {
    map: ShardMapReply,
    channels: BTreeMap<String, Channel>,
    /// Sessions that no call uses, by shard.
    idle: BTreeMap<u64, Vec<Session>>,
}

/// A session that has one mutation under way at most, so all before the next are answered.
#[derive(Debug)]
struct Session {
    id: u64,
    sequence: u64,
}

impl Unary {
    /// Asks `endpoint`, one of those of the cluster, for the shard map.
    pub(super) async fn connect(endpoints: &[String], endpoint: &str) -> anyhow::Result<Self> {
        let mut channels = BTreeMap::new();
        for address in endpoints {
            let channel = Endpoint::from_shared(format!("http://{address}"))?.tcp_nodelay(true);
            channels.insert(address.clone(), channel.connect_lazy());
        }
        let unary = Self {
            seed: endpoint.to_owned(),
            state: Mutex::new(State {
                map: ShardMapReply::default(),
                channels,
                idle: BTreeMap::new(),
            }),
        };
        until("a host sends its map", || unary.refresh()).await?;
        Ok(unary)
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("no holder of this lock panics")
    }

    async fn refresh(&self) -> anyhow::Result<()> {
        let channel = self.state().channels.get(&self.seed).cloned();
        let mut client = KvClient::new(channel.context("an unknown endpoint")?);
        let map = client
            .shard_map(ShardMapRequest { known_version: 0 })
            .await?
            .into_inner();
        anyhow::ensure!(
            map.shards.iter().all(|shard| shard.home != 0),
            "a shard without a home"
        );
        self.state().map = map;
        Ok(())
    }

    fn route(&self, key: &[u8]) -> anyhow::Result<(ShardRoute, KvClient<Channel>)> {
        let state = self.state();
        let shards = &state.map.shards;
        let place = shards.partition_point(|shard| shard.start[..] <= *key);
        let shard = place.checked_sub(1).and_then(|place| shards.get(place));
        let shard = shard.context("a map without this key")?.clone();
        let home = state.map.hosts.iter().find(|host| host.host_id == shard.home);
        let channel = home.and_then(|home| state.channels.get(&home.address));
        let channel = channel.context("a home at an unknown address")?.clone();
        Ok((shard, KvClient::new(channel)))
    }

    /// Calls until a home accepts; the answer is the result.
    async fn call(
        &self,
        key: &[u8],
        op: impl Fn(&ShardRoute) -> request::Op,
        mode: ReadMode,
    ) -> anyhow::Result<Reply> {
        let ends = tokio::time::Instant::now() + DEADLINE;
        loop {
            let (shard, mut client) = self.route(key)?;
            let request = Request {
                id: 1,
                shard_id: shard.shard_id,
                r#gen: shard.r#gen,
                deadline_ms: u32::try_from(DEADLINE.as_millis())?,
                op: Some(op(&shard)),
                read_mode: mode.into(),
                ..Request::default()
            };
            let call = UnaryRequest {
                hello: None,
                request: Some(request),
            };
            let reply = client.call(call).await?.into_inner();
            match &reply.result {
                Some(reply::Result::Error(error))
                    if matches!(error.code(), Code::NotHome | Code::StaleRoute)
                        && tokio::time::Instant::now() < ends =>
                {
                    tokio::time::sleep(REFRESH_PAUSE).await;
                    // The next attempt says what is wrong, if anything is.
                    let _ = self.refresh().await;
                }
                Some(reply::Result::Error(error)) => bail!("{:?}: {}", error.code(), error.message),
                _ => return Ok(reply),
            }
        }
    }

    async fn put(&self, key: Bytes, value: Bytes) -> anyhow::Result<()> {
        let put = put_of(key.clone(), value);
        self.mutate(&key, mutation::Op::Put(put)).await.map(drop)
    }

    async fn transact(&self, key: Bytes, value: Bytes) -> anyhow::Result<()> {
        let exists = Compare {
            key: key.clone(),
            relation: Relation::Equal.into(),
            operand: Some(compare::Operand::Exists(true)),
        };
        let put = Action {
            act: Some(action::Act::Put(put_of(key.clone(), value))),
        };
        let transaction = Transaction {
            compares: vec![exists],
            then: vec![put],
            otherwise: Vec::new(),
        };
        match self
            .mutate(&key, mutation::Op::Transaction(transaction))
            .await?
            .result
        {
            Some(reply::Result::Transaction(done)) if done.succeeded => Ok(()),
            other => bail!("not the answer to a transaction on a key that exists: {other:?}"),
        }
    }

    async fn lease(&self, key: Bytes) -> anyhow::Result<()> {
        let lease = rand::rng().next_u64();
        let grant = GrantLease {
            key: key.clone(),
            lease,
            ttl_ms: u64::from(LEASE_S) * 1_000,
            on: None,
        };
        self.mutate(&key, mutation::Op::GrantLease(grant)).await?;
        let revoke = RevokeLease {
            key: key.clone(),
            lease,
        };
        self.mutate(&key, mutation::Op::RevokeLease(revoke)).await?;
        Ok(())
    }

    async fn mutate(&self, key: &Bytes, op: mutation::Op) -> anyhow::Result<Reply> {
        let shard = self.route(key)?.0.shard_id;
        let idle = self.state().idle.get_mut(&shard).and_then(Vec::pop);
        let mut session = match idle {
            Some(session) => session,
            None => self.open_session(key).await?,
        };
        session.sequence += 1;
        let encode = |shard: &ShardRoute| request::Op::Mutation(encoded(shard, &session, op.clone()));
        let reply = self.call(key, encode, ReadMode::Index).await?;
        self.state().idle.entry(shard).or_default().push(session);
        Ok(reply)
    }

    async fn open_session(&self, key: &[u8]) -> anyhow::Result<Session> {
        let session = Session {
            id: rand::rng().next_u64(),
            sequence: 0,
        };
        let open = |shard: &ShardRoute| {
            request::Op::Mutation(encoded(
                shard,
                &session,
                mutation::Op::OpenSession(OpenSession {}),
            ))
        };
        self.call(key, open, ReadMode::Index).await?;
        Ok(session)
    }

    async fn get(&self, key: Bytes, mode: ReadMode) -> anyhow::Result<()> {
        let get = |_: &ShardRoute| {
            request::Op::Get(Get {
                key: key.clone(),
                revision: 0,
            })
        };
        match self.call(&key, get, mode).await?.result {
            Some(reply::Result::Get(found)) => found.pair.map(drop).context("a key is missing"),
            other => bail!("not the answer to a get: {other:?}"),
        }
    }

    async fn scan(&self, mut start: Bytes, mut pairs: usize) -> anyhow::Result<()> {
        while pairs > 0 {
            let scan = |_: &ShardRoute| {
                request::Op::Scan(Scan {
                    revision: 0,
                    start: start.clone(),
                    end: Bytes::new(),
                    limit: u32::try_from(pairs).unwrap_or(u32::MAX),
                })
            };
            let shard = self.route(&start)?.0;
            let Some(reply::Result::Scan(page)) = self.call(&start, scan, ReadMode::Index).await?.result
            else {
                bail!("not the answer to a scan")
            };
            pairs -= page.pairs.len().min(pairs);
            start = match page.next.is_empty() {
                true if shard.end.is_empty() => return Ok(()),
                true => shard.end,
                false => page.next,
            };
        }
        Ok(())
    }
}

fn put_of(key: Bytes, value: Bytes) -> Put {
    Put {
        key,
        value,
        return_previous: false,
        lease: 0,
    }
}

fn encoded(shard: &ShardRoute, session: &Session, op: mutation::Op) -> Bytes {
    let mutation = Mutation {
        session: session.id,
        sequence: session.sequence,
        low_water: session.sequence,
        r#gen: shard.r#gen,
        op: Some(op),
        ..Mutation::default()
    };
    mutation.encode_to_vec().into()
}

#[async_trait]
impl Store for Unary {
    async fn perform(&self, operation: Operation) -> anyhow::Result<()> {
        match operation {
            Operation::Put(key, value) => self.put(key, value).await,
            Operation::Get(key) => self.get(key, ReadMode::Index).await,
            Operation::LeaseGet(key) => self.get(key, ReadMode::Lease).await,
            Operation::Scan(start, pairs) => self.scan(start, pairs).await,
            Operation::Txn(key, value) => self.transact(key, value).await,
            Operation::Watch(..) => bail!("a unary call cannot watch"),
            Operation::Lease(key) => self.lease(key).await,
        }
    }
}
