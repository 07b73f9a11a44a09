//! Transactions: all of it or nothing, whoever leads, once however often it is sent, within one shard.

use client::{
    Action, ActionResult, Client, Compare, KeyRange, MutationError, Transaction, WatchFrom, WatchOptions,
};

use super::harness::{Cluster, PATIENCE, godwit};

fn account(number: usize) -> String {
    format!("account/{number}")
}

async fn balance(client: &Client, number: usize) -> u64 {
    let pair = client.get(account(number)).await.unwrap().pair.unwrap();
    std::str::from_utf8(&pair.value).unwrap().parse().unwrap()
}

/// Moves one from an account to another; whether both were as they had been read.
async fn transfer(client: &Client, from: usize, to: usize) -> bool {
    let (of_from, of_to) = (balance(client, from).await, balance(client, to).await);
    if of_from == 0 {
        return false;
    }
    let transaction = Transaction::new()
        .when(Compare::value(account(from), of_from.to_string()))
        .when(Compare::value(account(to), of_to.to_string()))
        .then(Action::put(account(from), (of_from - 1).to_string()))
        .then(Action::put(account(to), (of_to + 1).to_string()));
    // An unknown outcome is as good: money is neither made nor lost.
    client
        .transact(transaction)
        .await
        .is_ok_and(|answer| answer.succeeded)
}

#[tokio::test(flavor = "multi_thread")]
async fn money_is_neither_made_nor_lost_while_homes_die() {
    const ACCOUNTS: usize = 4;
    let mut cluster = Cluster::start(3, 1).await;
    let client = cluster.client().await;
    for number in 0..ACCOUNTS {
        client.put(account(number), "25").await.unwrap();
    }
    let movers: Vec<_> = (0..ACCOUNTS)
        .map(|from| {
            let client = client.clone();
            tokio::spawn(async move {
                let mut moved = 0;
                for turn in 0..60 {
                    let to = (from + 1 + turn % (ACCOUNTS - 1)) % ACCOUNTS;
                    moved += u32::from(transfer(&client, from, to).await);
                }
                moved
            })
        })
        .collect();
    for _ in 0..2 {
        tokio::time::sleep(std::time::Duration::from_millis(300)).await;
        let home = cluster.shards().await[0].home;
        let home = cluster.index_of(home).await;
        cluster.hosts[home].kill();
        cluster.hosts[home].start("");
    }
    let mut moved = 0;
    for mover in movers {
        moved += mover.await.unwrap();
    }
    assert!(moved > 0, "nothing was moved");
    let all = Transaction::new().then(Action::scan(KeyRange::prefix("account/"), 0));
    let answer = client.transact(all).await.unwrap();
    let Some([ActionResult::Scanned { pairs, next: None }]) = answer.results.as_deref() else {
        panic!("{answer:?}");
    };
    let value = |pair: &client::KeyValue| std::str::from_utf8(&pair.value).unwrap().parse::<u64>().unwrap();
    assert_eq!(pairs.iter().map(value).sum::<u64>(), 25 * ACCOUNTS as u64);
    // Nor at any moment of the past: all changes of a transaction have one revision.
    let oldest = client.history(account(0), 1, None).await.unwrap().oldest;
    for revision in oldest.max(ACCOUNTS as u64)..=answer.revision {
        let scan = client
            .scan_at(KeyRange::prefix("account/"), 10, revision)
            .unwrap();
        let then = scan.collect().await.unwrap();
        assert_eq!(
            then.iter().map(value).sum::<u64>(),
            25 * ACCOUNTS as u64,
            "at {revision}"
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_transaction_over_two_shards_and_one_without_sense_are_refused() {
    let cluster = Cluster::start(1, 2).await;
    let client = cluster.client().await;
    let beyond = vec![0xf0_u8];
    let across = Transaction::new()
        .then(Action::put("k", "v"))
        .then(Action::put(beyond.clone(), "v"));
    let refused = client.transact(across).await.unwrap_err();
    assert!(
        matches!(&refused, MutationError::Invalid { message } if message.contains("one shard")),
        "{refused}"
    );
    let across = Transaction::new().then(Action::scan(KeyRange::all(), 1));
    let refused = client.transact(across).await.unwrap_err();
    assert!(matches!(refused, MutationError::Invalid { .. }), "{refused}");
    let twice = Transaction::new()
        .then(Action::put("k", "v"))
        .then(Action::delete("k"));
    let refused = client.transact(twice).await.unwrap_err();
    assert!(matches!(refused, MutationError::Invalid { .. }), "{refused}");
    let empty = client.transact(Transaction::new()).await.unwrap_err();
    assert!(matches!(empty, MutationError::Invalid { .. }), "{empty}");
    let long = (0..200).fold(Transaction::new(), |long, number| {
        long.then(Action::get(format!("k{number}")))
    });
    let refused = client.transact(long).await.unwrap_err();
    assert!(matches!(refused, MutationError::TooLarge { .. }), "{refused}");
    assert_eq!(client.get("k").await.unwrap().pair, None);
    assert_eq!(client.get(beyond).await.unwrap().pair, None);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_verb_takes_a_document() {
    let cluster = Cluster::start(1, 1).await;
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("txn.json");
    let txn = |document: &str| {
        std::fs::write(&file, document).unwrap();
        let address = &cluster.hosts[0].address;
        godwit(&["--connect", address, "kv", "txn", file.to_str().unwrap()])
    };
    let document = r#"{"if": [{"key": "a", "exists": false}], "then": [{"put": "a", "value": "1"}], "else": [{"get": "a"}]}"#;
    let (code, out, error) = txn(document);
    assert_eq!(
        (code, out.as_str()),
        (
            Some(0),
            "the comparisons held, at revision 1\nchanged, was absent\n"
        ),
        "{error}"
    );
    let (code, out, _) = txn(document);
    assert_eq!(
        (code, out.as_str()),
        (Some(2), "the comparisons did not hold, at revision 1\na\t1\n")
    );
    let range =
        r#"{"if": [{"key": "a", "lease": 0}], "then": [{"delete_range": "a", "end": "b"}, {"get": "a"}]}"#;
    let (code, out, error) = txn(range);
    assert_eq!(
        (code, out.as_str()),
        (
            Some(0),
            "the comparisons held, at revision 2\n1 deleted\nabsent\n"
        ),
        "{error}"
    );
    let (code, _, error) = txn(r#"{"then": [{"put": "a"}]}"#);
    assert_eq!(code, Some(1));
    assert!(error.contains("txn.json"), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_range_that_hangs_on_a_lease_is_deleted_and_told_key_by_key() {
    let cluster = Cluster::start(1, 1).await;
    let client = cluster.client().await;
    let lease = client.lease(std::time::Duration::from_secs(600));
    for number in 0..3 {
        lease.put(account(number), "1").await.unwrap();
    }
    let options = WatchOptions {
        from: WatchFrom::Now,
        previous: true,
    };
    let mut watch = client.watch(KeyRange::prefix("account/"), options).await.unwrap();
    let clear = |lease: u64| {
        Transaction::new()
            .when(Compare::lease(account(0), lease))
            .then(Action::delete_range(KeyRange::prefix("account/")))
    };
    let missed = client.transact(clear(lease.id() + 1)).await.unwrap();
    assert!(!missed.succeeded);
    let cleared = client.transact(clear(lease.id())).await.unwrap();
    let results = cleared.results.as_deref();
    assert_eq!(results, Some(&[ActionResult::RangeDeleted { keys: 3 }][..]));
    let mut told = Vec::new();
    while told.len() < 3 {
        let update = tokio::time::timeout(PATIENCE, watch.next()).await;
        told.extend(update.expect("it is told").unwrap().events);
    }
    for (number, event) in told.iter().enumerate() {
        assert!(event.is_deletion(), "{event:?}");
        assert_eq!(event.pair.key, account(number));
        assert_eq!(event.pair.mod_revision, cleared.revision);
        assert_eq!(event.previous.as_ref().unwrap().value, "1");
    }
    // Not more than a transaction's scan may give, and across two shards none.
    for number in 0..1_001 {
        client.put(account(number), "1").await.unwrap();
    }
    let all = Transaction::new().then(Action::delete_range(KeyRange::prefix("account/")));
    let refused = client.transact(all).await.unwrap_err();
    assert!(matches!(refused, MutationError::TooLarge { .. }), "{refused}");
}
