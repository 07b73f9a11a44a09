//! Requests that come alone: a host that is not the shard's home passes them on, once.

use std::sync::Arc;

use bytes::Bytes;
use client::proto::request::Op;
use client::proto::{Code, Reply, Request, UnaryRequest};
use prost::Message;

use super::exchange::Caller;
use super::execute::submit;
use super::replies::Replies;
use super::reply;
use super::spread::{InFlight, deadline_of, spread};
use crate::host::Host;

/// Executes one request that came alone. Without a `gen` this host finds the shard and, if need be, asks its home.
pub(crate) async fn call(
    host: &Host,
    in_flight: &InFlight,
    caller: &Arc<Caller>,
    mut request: Request,
) -> Reply {
    if request.r#gen == 0 {
        let map = host.map();
        let key = match routed_key(&request) {
            Some(key) => key,
            None => return reply::error(request.id, Code::Invalid, "no key to route by"),
        };
        let Some(route) = map.shard_of(&key) else {
            return reply::error(request.id, Code::Unavailable, "the cluster has no shards yet");
        };
        if let Some(foreign) = key_elsewhere(&request, route) {
            let message =
                format!("a transaction lies in one shard, and {foreign:?} is in another than {key:?}");
            return reply::error(request.id, Code::Invalid, message);
        }
        (request.shard_id, request.r#gen) = (route.shard_id, route.r#gen);
        if let Op::Mutation(mutation) = request.op.as_mut().expect("a routed request has an operation") {
            *mutation = with_generation(mutation, route.r#gen);
        }
        let here = execute_one(host, in_flight, caller, request.clone()).await;
        return match forward_to(&here) {
            Some(address) => forward(host, caller, request, &address).await.unwrap_or(here),
            None => here,
        };
    }
    execute_one(host, in_flight, caller, request).await
}

async fn execute_one(host: &Host, in_flight: &InFlight, caller: &Arc<Caller>, request: Request) -> Reply {
    let id = request.id;
    let (replies, mut answers) = Replies::channel();
    for part in spread(host, in_flight, caller, &replies, vec![request]) {
        submit(host, part);
    }
    drop(replies);
    let answer = answers.recv().await.and_then(|mut answers| answers.pop());
    answer.unwrap_or_else(|| reply::error(id, Code::Unavailable, "the host is stopping"))
}

fn forward_to(reply: &Reply) -> Option<String> {
    match &reply.result {
        Some(client::proto::reply::Result::Error(error)) if error.code() == Code::NotHome => {
            error.home.as_ref().map(|home| home.address.clone())
        }
        _ => None,
    }
}

/// Asks the shard's home, once: the request now names its shard, so it is not passed on again.
async fn forward(host: &Host, caller: &Caller, request: Request, address: &str) -> Option<Reply> {
    let hello = client::proto::Hello {
        cluster_id: host.cluster_id().unwrap_or_default(),
        user_id: caller.user.clone(),
        origin: caller.origin.clone(),
    };
    let timeout = deadline_of(&request);
    let is_read = !matches!(request.op, Some(Op::Mutation(_)));
    let id = request.id;
    let channel = host.channels().channel(address).ok()?;
    let mut kv = client::proto::kv_client::KvClient::new(channel);
    let call = kv.call(UnaryRequest {
        hello: Some(hello),
        request: Some(request),
    });
    match tokio::time::timeout(timeout, call).await {
        Ok(Ok(reply)) => Some(reply.into_inner()),
        _ if is_read => Some(reply::error(
            id,
            Code::Unavailable,
            "the shard's home did not answer",
        )),
        _ => Some(reply::error(
            id,
            Code::UnknownOutcome,
            "the shard's home did not answer",
        )),
    }
}

fn routed_key(request: &Request) -> Option<Bytes> {
    use client::proto::mutation::Op as Change;
    match request.op.as_ref()? {
        Op::Get(get) => Some(get.key.clone()),
        Op::Scan(scan) => Some(scan.start.clone()),
        Op::History(history) => Some(history.key.clone()),
        Op::LeaseStatus(status) => Some(status.key.clone()),
        Op::Mutation(mutation) => match client::proto::Mutation::decode(mutation.clone()).ok()?.op? {
            Change::Put(put) => Some(put.key),
            Change::Delete(delete) => Some(delete.key),
            Change::CompareAndSet(cas) => Some(cas.key),
            Change::Compact(compact) => Some(compact.key),
            Change::GrantLease(grant) => Some(grant.key),
            Change::KeepLease(keep) => Some(keep.key),
            Change::RevokeLease(revoke) => Some(revoke.key),
            Change::Transaction(transaction) => transaction.keys().next().cloned(),
            Change::OpenSession(_) => None,
        },
    }
}

/// A key of a transaction that lies outside the route of its first.
fn key_elsewhere(request: &Request, route: &client::proto::ShardRoute) -> Option<Bytes> {
    let Some(Op::Mutation(encoded)) = &request.op else {
        return None;
    };
    let mutation = client::proto::Mutation::decode(encoded.clone()).ok()?;
    let Some(client::proto::mutation::Op::Transaction(transaction)) = mutation.op else {
        return None;
    };
    let inside = |key: &Bytes| *key >= route.start && (route.end.is_empty() || *key < route.end);
    transaction.keys().find(|key| !inside(key)).cloned()
}

fn with_generation(encoded: &Bytes, generation: u64) -> Bytes {
    match client::proto::Mutation::decode(encoded.clone()) {
        Ok(mutation) => client::proto::Mutation {
            r#gen: generation,
            ..mutation
        }
        .encode_to_vec()
        .into(),
        Err(_) => encoded.clone(),
    }
}
