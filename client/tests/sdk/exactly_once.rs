//! A mutation takes effect once, however often it is sent; and an error says truly whether it may have.

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use client::{
    Client, Clock, Expect, MutationError, Previous,
    proto::{Code, Mutation, Put, Request, UnaryRequest, kv_client::KvClient, mutation, reply, request},
};
use prost::Message;

use crate::fake::{FakeCluster, FakeHost, Fault, ManualClock};

async fn one_shard() -> (Arc<FakeCluster>, Vec<FakeHost>, Client) {
    let (cluster, hosts) = FakeCluster::start(1, &[]).await;
    let client = cluster.client().await;
    (cluster, hosts, client)
}

/// Sends a put as some other client would, which chooses its identity freely; the code of the refusal, if any.
async fn raw_put(host: &FakeHost, session: u64, sequence: u64, low_water: u64) -> Option<Code> {
    let op = Some(mutation::Op::Put(Put {
        key: "k".into(),
        value: "raw".into(),
        return_previous: false,
        lease: 0,
    }));
    let mutation = Mutation {
        session,
        sequence,
        low_water,
        r#gen: 1,
        op,
        trace: Bytes::new(),
    }
    .encode_to_vec()
    .into();
    let op = Some(request::Op::Mutation(mutation));
    let request = Request {
        shard_id: 1,
        r#gen: 1,
        op,
        ..Request::default()
    };
    let mut raw = KvClient::connect(format!("http://{}", host.address))
        .await
        .unwrap();
    let reply = raw
        .call(UnaryRequest {
            hello: None,
            request: Some(request),
        })
        .await
        .unwrap()
        .into_inner();
    match reply.result {
        Some(reply::Result::Error(error)) => Some(error.code()),
        _ => None,
    }
}

/// With the same session ids, the second put would be taken for a repetition of the first.
#[tokio::test]
async fn two_clients_that_name_no_seed_are_told_apart() {
    let (cluster, _hosts) = FakeCluster::start(1, &[]).await;
    for value in ["first", "second"] {
        let mut config = cluster.config();
        config.seed = None;
        let client = Client::connect(config).await.unwrap();
        client.put("k", value).await.unwrap();
        assert_eq!(client.get("k").await.unwrap().pair.unwrap().value, value);
    }
}

#[tokio::test]
async fn operations_do_what_they_say() {
    let (_cluster, _hosts, client) = one_shard().await;
    assert_eq!(client.get("k").await.unwrap().pair, None);
    let first = client.put("k", "1").await.unwrap();
    assert!(!first.existed);
    let second = client.put_with("k", "2", Previous::Value).await.unwrap();
    assert!(second.existed && second.revision > first.revision);
    assert_eq!(second.previous.unwrap().value, "1");
    let found = client.get("k").await.unwrap().pair.unwrap();
    assert_eq!(
        (found.value, found.version, found.mod_revision),
        ("2".into(), 2, second.revision)
    );

    let absent = client.compare_and_set("k", Expect::Absent, "3").await.unwrap();
    assert!(!absent.applied && absent.current.unwrap().value == "2");
    let value = client
        .compare_and_set("k", Expect::Value("2".into()), "3")
        .await
        .unwrap();
    assert!(value.applied && value.current.is_none());
    let stale = client
        .compare_and_set("k", Expect::Revision(second.revision), "4")
        .await
        .unwrap();
    assert!(!stale.applied);
    assert!(
        client
            .compare_and_set("k", Expect::Revision(value.revision), "4")
            .await
            .unwrap()
            .applied
    );

    let removed = client.delete_with("k", Previous::Value).await.unwrap();
    assert_eq!(removed.previous.unwrap().value, "4");
    assert!(!client.delete("k").await.unwrap().existed);
    assert!(
        client
            .compare_and_set("k", Expect::Absent, "5")
            .await
            .unwrap()
            .applied
    );
}

#[tokio::test]
async fn every_way_to_lose_an_attempt_ends_in_one_execution() {
    for fault in [
        Fault::DropBefore,
        Fault::DropAfter,
        Fault::UnknownBefore,
        Fault::UnknownAfter,
        Fault::SilentBefore,
        Fault::SilentAfter,
        Fault::Refuse(Code::Unavailable),
        Fault::Refuse(Code::Deadline),
        Fault::Refuse(Code::Overloaded),
        Fault::Refuse(Code::Unspecified),
    ] {
        let (cluster, _hosts) = FakeCluster::start(2, &[]).await;
        let mut config = cluster.config();
        config.retry.attempt_timeout = Duration::from_millis(100);
        let client = Client::connect(config).await.unwrap();
        cluster.inject(fault.clone());
        cluster.inject(fault.clone());
        let written = client.put("k", "v").await.unwrap();
        assert_eq!(cluster.faults_left(), 0, "{fault:?} was not met");
        assert_eq!(cluster.version_of("k"), 1, "{fault:?}: the put took effect once");
        assert_eq!(
            client.get("k").await.unwrap().pair.unwrap().mod_revision,
            written.revision,
            "{fault:?}"
        );
        let identities: Vec<_> = cluster.mutations().iter().map(|seen| seen.identity()).collect();
        assert!(identities.len() >= 3, "{fault:?}: {identities:?}");
        assert!(
            identities.iter().all(|id| *id == identities[0]),
            "{fault:?}: {identities:?}"
        );
        assert!(client.stats().retries >= 2);
    }
}

/// What the test above rests on: the fake hosts do execute a repetition that comes under another sequence.
#[tokio::test]
async fn a_repetition_under_a_fresh_sequence_would_be_executed_again() {
    let (cluster, hosts, client) = one_shard().await;
    client.put("k", "v").await.unwrap();
    let (session, sequence) = cluster.mutations()[0].identity();
    assert_eq!(raw_put(&hosts[0], session, sequence, 1).await, None);
    assert_eq!(
        cluster.version_of("k"),
        1,
        "the same sequence is answered from memory"
    );
    assert_eq!(raw_put(&hosts[0], session, sequence + 1, 1).await, None);
    assert_eq!(cluster.version_of("k"), 2, "another sequence is another mutation");
}

#[tokio::test]
async fn a_compare_and_set_whose_answer_got_lost_still_reports_success() {
    let (cluster, _hosts, client) = one_shard().await;
    let first = client.put("k", "1").await.unwrap();
    cluster.inject(Fault::DropAfter);
    let swapped = client
        .compare_and_set("k", Expect::Revision(first.revision), "2")
        .await
        .unwrap();
    assert!(
        swapped.applied,
        "executed a second time, the comparison would have failed"
    );
    assert_eq!(cluster.version_of("k"), 2);
}

#[tokio::test]
async fn a_session_is_opened_once_on_each_shard_before_its_first_mutation() {
    let (cluster, _hosts) = FakeCluster::start(1, &["m"]).await;
    let client = cluster.client().await;
    let puts = (0..50).map(|n| {
        let (client, side) = (client.clone(), if n % 2 == 0 { "a" } else { "z" });
        async move { client.put(format!("{side}{n}"), "v").await.unwrap() }
    });
    futures_util::future::join_all(puts).await;
    let opened: Vec<_> = cluster
        .seen()
        .into_iter()
        .filter(|seen| seen.opens_session())
        .collect();
    assert_eq!(opened.len(), 2, "50 mutations at once open one session a shard");
    let ids: Vec<_> = opened.iter().map(|seen| seen.identity().0).collect();
    assert_ne!(ids[0], ids[1], "each shard has a session id of its own");
    for seen in cluster.mutations() {
        let on_shard = opened
            .iter()
            .find(|open| open.request.shard_id == seen.request.shard_id)
            .unwrap();
        assert_eq!(seen.identity().0, on_shard.identity().0);
    }
    assert_eq!(client.stats().sessions_opened, 2);
}

#[tokio::test]
async fn opening_a_session_survives_lost_attempts() {
    let (cluster, _hosts, client) = one_shard().await;
    for fault in [Fault::DropAfter, Fault::UnknownAfter, Fault::DropBefore] {
        cluster.inject_at_open(fault);
    }
    client.put("k", "v").await.unwrap();
    assert_eq!((cluster.version_of("k"), cluster.faults_left()), (1, 0));
}

#[tokio::test]
async fn a_forgotten_session_is_replaced_when_nothing_was_lost() {
    let (cluster, _hosts, client) = one_shard().await;
    client.put("k", "1").await.unwrap();
    cluster.inject(Fault::ForgetSessions);
    client.put("k", "2").await.unwrap();
    assert_eq!(cluster.version_of("k"), 2);
    let opened: Vec<_> = cluster
        .seen()
        .iter()
        .filter(|seen| seen.opens_session())
        .map(|s| s.identity().0)
        .collect();
    assert_eq!(opened.len(), 2);
    assert_ne!(opened[0], opened[1], "a session id is never opened again");
    assert_eq!(client.stats().sessions_expired, 1);
}

#[tokio::test]
async fn a_session_forgotten_with_the_outcome_open_is_an_error_of_its_own() {
    let (cluster, _hosts, client) = one_shard().await;
    cluster.inject(Fault::DropAfterAndForget);
    let error = client.put("k", "1").await.unwrap_err();
    assert!(matches!(error, MutationError::SessionExpired { .. }), "{error}");
    assert!(error.is_outcome_unknown());
    assert_eq!(
        cluster.version_of("k"),
        1,
        "it was not sent again under another session"
    );
    client.put("k", "2").await.unwrap();
    assert_eq!(cluster.version_of("k"), 2);
    assert_eq!(client.stats().unknown_outcomes, 1);
}

#[tokio::test]
async fn what_was_given_up_is_never_executed_later() {
    let (cluster, hosts) = FakeCluster::start(1, &[]).await;
    let clock = Arc::new(ManualClock::default());
    let mut config = cluster.config();
    config.clock = Arc::clone(&clock) as Arc<dyn Clock>;
    let client = Client::connect(config).await.unwrap();
    client.put("k", "1").await.unwrap();
    let seen = cluster.seen().len();
    cluster.inject(Fault::SilentBefore);
    let impatient = client.with_deadline(Duration::from_millis(50));
    let put = tokio::spawn(async move { impatient.put("k", "2").await });
    cluster.saw(seen + 1).await;
    clock.advance(Duration::from_millis(50));
    let error = put.await.unwrap().unwrap_err();
    assert!(matches!(error, MutationError::UnknownOutcome { .. }), "{error}");
    let (session, given_up) = cluster.mutations().last().unwrap().identity();
    client.put("k", "3").await.unwrap();
    let next = cluster.mutations().last().unwrap().mutation.clone().unwrap();
    assert!(
        next.low_water > given_up,
        "the mark {} has passed {given_up}",
        next.low_water
    );
    let late = raw_put(&hosts[0], session, given_up, 0).await;
    assert_eq!(late, Some(Code::SequenceForgotten), "its late arrival is refused");
    assert_eq!(cluster.version_of("k"), 2);
}

#[tokio::test]
async fn the_low_water_mark_waits_for_what_is_still_being_retried() {
    let (cluster, hosts, client) = one_shard().await;
    client.put("warm", "up").await.unwrap();
    let seen = cluster.seen().len();
    hosts[0].hold_until(3);
    let (first, second) = (client.clone(), client.clone());
    let first = tokio::spawn(async move { first.put("a", "1").await });
    cluster.saw(seen + 1).await;
    let second = tokio::spawn(async move { second.put("b", "1").await });
    cluster.saw(seen + 2).await;
    client.put("c", "1").await.unwrap();
    first.await.unwrap().unwrap();
    second.await.unwrap().unwrap();
    let held: Vec<_> = cluster.mutations()[1..]
        .iter()
        .map(|seen| seen.mutation.clone().unwrap())
        .collect();
    let marks: Vec<_> = held.iter().map(|mutation| mutation.low_water).collect();
    assert_eq!(
        marks,
        vec![held[0].sequence; 3],
        "three unanswered mutations: the mark stays at the first"
    );
    hosts[0].hold_until(0);
    client.put("d", "1").await.unwrap();
    let last = cluster.mutations().last().unwrap().mutation.clone().unwrap();
    assert_eq!(
        last.low_water, last.sequence,
        "all are answered: the mark is at the newest"
    );
}

#[tokio::test]
async fn a_mutation_that_met_a_split_is_repeated_to_the_child_under_its_old_identity() {
    let (cluster, _hosts, client) = one_shard().await;
    client.put("a", "1").await.unwrap();
    cluster.inject(Fault::DropAfterAndSplit("m".into()));
    client.put("x", "1").await.unwrap();
    assert_eq!(cluster.version_of("x"), 1);
    let tries = cluster.mutations().split_off(1);
    let (first, last) = (tries.first().unwrap(), tries.last().unwrap());
    assert_eq!((first.request.shard_id, last.request.shard_id), (1, 2));
    assert_eq!(first.identity(), last.identity());
    assert!(
        first.executed && !last.executed,
        "the child answered from the memory that it took over"
    );
}

#[tokio::test]
async fn a_new_mutation_on_a_child_is_not_taken_for_an_old_one_on_its_parent() {
    let (cluster, _hosts, client) = one_shard().await;
    // Answers of the parent stay in memory as long as an earlier sequence is in use: hold one open.
    cluster.inject(Fault::SilentAfter);
    let pending = tokio::spawn({
        let client = client.clone();
        async move { client.put("a", "1").await }
    });
    cluster.saw(2).await;
    client.put("b", "1").await.unwrap();
    cluster.split(1, "m");
    for key in ["x", "y", "z"] {
        client.put(key, "1").await.unwrap();
        assert_eq!(
            cluster.version_of(key),
            1,
            "{key} was confirmed, so it must be there"
        );
    }
    pending.abort();
}

#[tokio::test]
async fn hopeless_mutations_fail_at_once_and_say_why() {
    let (cluster, _hosts, client) = one_shard().await;
    client.put("k", "1").await.unwrap();
    let put_after = async |fault| {
        let before = cluster.seen().len();
        cluster.inject(fault);
        let error = client.put("k", "2").await.unwrap_err();
        assert_eq!(cluster.seen().len(), before + 1, "one attempt");
        error
    };
    let error = put_after(Fault::Refuse(Code::TooLarge)).await;
    assert!(matches!(error, MutationError::TooLarge { .. }), "{error}");
    let error = put_after(Fault::Refuse(Code::Invalid)).await;
    assert!(matches!(error, MutationError::Invalid { .. }), "{error}");
    let error = put_after(Fault::Refuse(Code::Unimplemented)).await;
    assert!(matches!(error, MutationError::Incompatible { .. }), "{error}");
    let error = put_after(Fault::Refuse(Code::WrongCluster)).await;
    assert!(matches!(error, MutationError::WrongCluster { .. }), "{error}");
    let before = cluster.seen().len();
    let huge = Bytes::from(vec![0; 9 << 20]);
    let error = client.put("k", huge).await.unwrap_err();
    assert!(matches!(error, MutationError::TooLarge { .. }), "{error}");
    assert_eq!(cluster.seen().len(), before, "what cannot fit is not sent");
}

#[tokio::test]
async fn a_refusal_after_a_lost_attempt_does_not_claim_that_nothing_happened() {
    let (cluster, _hosts, client) = one_shard().await;
    cluster.inject(Fault::DropAfter);
    cluster.inject(Fault::Refuse(Code::Invalid));
    let error = client.put("k", "1").await.unwrap_err();
    assert!(matches!(error, MutationError::UnknownOutcome { .. }), "{error}");
    assert_eq!(cluster.version_of("k"), 1);
}
