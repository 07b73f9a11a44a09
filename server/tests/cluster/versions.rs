//! Old versions: what was, which changes led there, and what is forgotten by name; whoever leads.

use client::{Client, KeyRange, MutationError, ReadError};

use super::harness::{Cluster, godwit};

async fn value_at(client: &Client, key: &str, revision: u64) -> Option<String> {
    let pair = client.get_at(key.to_owned(), revision).await.unwrap().pair?;
    Some(String::from_utf8(pair.value.to_vec()).unwrap())
}

/// Revisions of a key's versions, the newest first; 0 for a deletion's version.
async fn versions(client: &Client, key: &str) -> Vec<(u64, u64)> {
    let found = client.history(key.to_owned(), 100, None).await.unwrap();
    let versions = found.versions.iter();
    versions
        .map(|version| (version.mod_revision, version.version))
        .collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn the_past_can_be_read_and_forgotten_whoever_leads() {
    let mut cluster = Cluster::start(3, 2).await;
    let client = cluster.client().await;
    let first = client.put("k", "one").await.unwrap().revision;
    let second = client.put("k", "two").await.unwrap().revision;
    client.put("l", "other").await.unwrap();
    let gone = client.delete("k").await.unwrap().revision;
    let last = client.put("k", "three").await.unwrap().revision;

    for led_by in ["the first home", "another"] {
        assert_eq!(
            value_at(&client, "k", first).await.as_deref(),
            Some("one"),
            "{led_by}"
        );
        assert_eq!(
            value_at(&client, "k", gone - 1).await.as_deref(),
            Some("two"),
            "{led_by}"
        );
        assert_eq!(value_at(&client, "k", gone).await, None, "{led_by}");
        let expected = [(last, 1), (gone, 0), (second, 2), (first, 1)];
        assert_eq!(versions(&client, "k").await, expected, "{led_by}");
        let scan = client.scan_at(KeyRange::of("a".."z"), 10, second).unwrap();
        let then = scan.collect().await.unwrap();
        assert_eq!(then.len(), 1, "{led_by}: {then:?}");
        if led_by == "another" {
            break;
        }
        let home = cluster.shards().await[0].home;
        let home = cluster.index_of(home).await;
        cluster.hosts[home].kill();
        cluster.hosts[home].start("");
    }
    let page = client.history("k", 2, Some(last)).await.unwrap();
    let shown: Vec<u64> = page.versions.iter().map(|version| version.mod_revision).collect();
    assert_eq!((shown, page.more), (vec![gone, second], true));

    let future = client.get_at("k", last + 1_000).await.unwrap_err();
    assert!(matches!(future, ReadError::FutureRevision { .. }), "{future}");
    let future = client.compact("k", last + 1_000).await.unwrap_err();
    assert!(matches!(future, MutationError::FutureRevision { .. }), "{future}");
    client.compact("k", gone).await.unwrap();
    let compacted = client.get_at("k", second).await.unwrap_err();
    assert!(matches!(compacted, ReadError::Compacted { .. }), "{compacted}");
    let compacted = client.scan_at(KeyRange::of("a".."z"), 10, first).unwrap();
    let compacted = compacted.collect().await.unwrap_err();
    assert!(matches!(compacted, ReadError::Compacted { .. }), "{compacted}");
    assert_eq!(versions(&client, "k").await, [(last, 1)]);
    assert_eq!(value_at(&client, "k", gone).await, None);

    let across = client.scan_at(KeyRange::all(), 10, last).unwrap().collect().await;
    let across = across.unwrap_err();
    assert!(
        matches!(across, ReadError::Invalid { .. }),
        "revisions are a shard's own: {across}"
    );
    let nothing = client.get_at("k", 0).await.unwrap_err();
    assert!(matches!(nothing, ReadError::Invalid { .. }), "{nothing}");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_verbs_show_the_past() {
    let cluster = Cluster::start(1, 1).await;
    let kv = |arguments: &[&str]| {
        let connect = ["--connect", &cluster.hosts[0].address, "kv"];
        godwit(&[&connect[..], arguments].concat())
    };
    let client = cluster.client().await;
    let first = client.put("k", "one").await.unwrap().revision;
    let last = client.put("k", "two").await.unwrap().revision;
    let (code, out, _) = kv(&["get", "k", "--revision", &first.to_string()]);
    assert_eq!((code, out.as_str()), (Some(0), "one\n"));
    let (code, out, _) = kv(&["history", "k"]);
    assert_eq!(
        (code, out),
        (Some(0), format!("{last}\t2\ttwo\n{first}\t1\tone\n"))
    );
    let (code, out, _) = kv(&["scan", "--prefix", "k", "--revision", &first.to_string()]);
    assert_eq!((code, out.as_str()), (Some(0), "k\tone\n"));
    let (code, _, error) = kv(&["compact", "k", &last.to_string()]);
    assert_eq!(code, Some(0), "{error}");
    let (code, _, error) = kv(&["get", "k", "--revision", &first.to_string()]);
    assert_eq!(code, Some(1));
    assert!(
        error.contains("compacted") && error.contains(&last.to_string()),
        "{error}"
    );
    let (code, _, _) = kv(&["history", "absent"]);
    assert_eq!(code, Some(2));
}
