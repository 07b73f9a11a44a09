//! Backups: each shard as it was at one revision, whatever is written meanwhile, and the same pairs in another cluster.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use client::{Client, KeyRange, KeyValue};
use futures_util::{StreamExt, stream};
use server::backup::{Chain, Merged};
use tempfile::TempDir;
use tokio::task::JoinHandle;

use super::harness::{Cluster, godwit, keys};

/// Names of folders for backups.
struct Folders(TempDir);

impl Folders {
    fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    fn of(&self, name: &str) -> String {
        self.0.path().join(name).display().to_string()
    }
}

/// Runs a backup verb on a cluster.
fn backup(cluster: &Cluster, arguments: &[&str]) -> (Option<i32>, String, String) {
    let connect = ["--connect", &cluster.hosts[0].address, "backup"];
    godwit(&[&connect[..], arguments].concat())
}

/// The same, which must succeed, with its answer as JSON.
fn answer(cluster: &Cluster, arguments: &[&str]) -> serde_json::Value {
    let (code, out, err) = backup(cluster, &[arguments, &["--json"]].concat());
    assert_eq!(code, Some(0), "{arguments:?}: {err}");
    serde_json::from_str(&out).unwrap()
}

/// The same, which must fail, with what it says.
fn refusal(cluster: &Cluster, arguments: &[&str]) -> String {
    let (code, out, err) = backup(cluster, arguments);
    assert_eq!((code, out.as_str()), (Some(1), ""), "{arguments:?}: {err}");
    err
}

fn chain(folders: &[&str]) -> Chain {
    let folders: Vec<PathBuf> = folders.iter().map(PathBuf::from).collect();
    Chain::open(&folders).unwrap()
}

fn pairs_of(chain: &Chain, shard: usize) -> Vec<KeyValue> {
    Merged::open(chain, shard).unwrap().map(Result::unwrap).collect()
}

/// Holds each shard's pairs, with all their numbers, against what the shard says it held at the backup's revision.
async fn check_against_shards(client: &Client, chain: &Chain) -> usize {
    let mut count = 0;
    for (place, shard) in chain.shards().iter().enumerate() {
        let found = pairs_of(chain, place);
        count += found.len();
        let held = match shard.revision {
            0 => Vec::new(),
            revision => {
                let scan = client.scan_at(shard.range(), usize::MAX, revision).unwrap();
                scan.collect().await.unwrap()
            }
        };
        let differs = found.iter().zip(&held).find(|(found, held)| found != held);
        assert_eq!(differs, None, "shard {} at {}", shard.shard_id, shard.revision);
        assert_eq!(found.len(), held.len(), "shard {}", shard.shard_id);
    }
    count
}

async fn fill(client: &Client, keys: &[String]) {
    let puts = keys.iter().map(|key| client.put(key.clone(), "first"));
    let outcomes: Vec<_> = stream::iter(puts).buffer_unordered(64).collect().await;
    outcomes.into_iter().for_each(|put| drop(put.unwrap()));
}

/// Puts and deletes keys, over and over, until it is stopped.
fn write_on(client: &Client, keys: &[String]) -> (Arc<AtomicBool>, JoinHandle<()>) {
    let stop = Arc::new(AtomicBool::new(false));
    let (client, keys, stopped) = (client.clone(), keys.to_vec(), Arc::clone(&stop));
    let writer = tokio::spawn(async move {
        // 7 goes into no number of keys here, so every key has its turn.
        let order = (0..).map(|at: usize| (at, &keys[at * 7 % keys.len()]));
        let writes = order.take_while(|_| !stopped.load(Ordering::Relaxed));
        let write = |(at, key): (usize, &String)| {
            let (client, key) = (client.clone(), key.clone());
            async move {
                // Of every key, now one and now the other.
                match at % 11 {
                    0..3 => drop(client.delete(key).await.unwrap()),
                    _ => drop(client.put(key, format!("write {at}")).await.unwrap()),
                }
            }
        };
        stream::iter(writes).for_each_concurrent(16, write).await;
    });
    (stop, writer)
}

fn runs(chain: &Chain) -> usize {
    let shards = chain.shards().iter();
    shards.map(|shard| shard.runs.len()).max().unwrap_or(0)
}

#[tokio::test(flavor = "multi_thread")]
async fn each_shard_is_as_it_was_at_its_revision_while_it_is_written() {
    let cluster = Cluster::start(3, 4).await;
    let client = cluster.client().await;
    let folders = Folders::new();
    let (whole, pieces, next) = (folders.of("whole"), folders.of("pieces"), folders.of("next"));
    let (idle, late) = (folders.of("idle"), folders.of("late"));
    // Two of the four shards have keys.
    let keys = keys(1_500);
    fill(&client, &keys).await;

    let (stop, writer) = write_on(&client, &keys);
    answer(&cluster, &["create", &whole]);
    let answered = answer(&cluster, &["create", &pieces, "--piece-ms", "0"]);
    assert_eq!(answered["shards"].as_array().unwrap().len(), 4);
    let more = answer(&cluster, &["create", &next, "--incremental-from", &pieces]);
    assert!(more["versions"].as_u64() > Some(0), "{more}");
    stop.store(true, Ordering::Relaxed);
    writer.await.unwrap();

    assert_eq!(runs(&chain(&[&whole])), 1, "one piece");
    assert!(runs(&chain(&[&pieces])) > 2, "pieces, and changes between them");
    assert!(check_against_shards(&client, &chain(&[&whole])).await > 500);
    check_against_shards(&client, &chain(&[&pieces])).await;
    let both = chain(&[&pieces, &next]);
    let count = check_against_shards(&client, &both).await;
    let verified = answer(&cluster, &["verify", &pieces, &next]);
    assert_eq!(verified["keys"].as_u64(), Some(count as u64));

    // Nothing is under way: the next one has what was written since, and the one after that nothing.
    client.delete(keys[0].clone()).await.unwrap();
    client.put("!new", "new").await.unwrap();
    let last = folders.of("last");
    answer(&cluster, &["create", &last, "--incremental-from", &next]);
    let answered = answer(&cluster, &["create", &idle, "--incremental-from", &last]);
    assert_eq!(answered["versions"], 0);
    let all = chain(&[&pieces, &next, &last, &idle]);
    check_against_shards(&client, &all).await;
    let first = pairs_of(&all, 0);
    assert!(first.iter().any(|pair| &pair.key[..] == b"!new"));
    assert!(first.iter().all(|pair| pair.key != keys[0].as_bytes()));

    // What a shard has forgotten cannot be gone on from.
    let newest = client.put("!new", "newer").await.unwrap().revision;
    client.compact("!new", newest).await.unwrap();
    let refused = refusal(&cluster, &["create", &late, "--incremental-from", &idle]);
    assert!(refused.contains("Make a full backup"), "{refused}");
    let refused = refusal(&cluster, &["verify", &late]);
    assert!(refused.contains("is no backup"), "interrupted: {refused}");
    let refused = refusal(&cluster, &["create", &late]);
    assert!(refused.contains("is not empty"), "{refused}");
}

fn flip(path: &Path, at: usize) {
    let mut bytes = std::fs::read(path).unwrap();
    bytes[at] ^= 4;
    std::fs::write(path, bytes).unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_backup_is_restored_into_a_cluster_of_another_size() {
    let source = Cluster::start(3, 3).await;
    let target = Cluster::start(1, 5).await;
    let client = source.client().await;
    let folders = Folders::new();
    let (full, next) = (folders.of("full"), folders.of("next"));
    let keys = keys(400);
    fill(&client, &keys).await;
    client.put(&b"\xff\x00"[..], &b"\x00\xfe"[..]).await.unwrap();
    let lease = client.lease(Duration::from_secs(600));
    lease.put("~leased", "held").await.unwrap();
    answer(&source, &["create", &full]);
    for key in &keys[..100] {
        client.delete(key.clone()).await.unwrap();
    }
    for key in &keys[100..200] {
        client.put(key.clone(), "second").await.unwrap();
    }
    answer(&source, &["create", &next, "--incremental-from", &full]);

    // A flipped byte is found before anything is written, and named by its file.
    let files = chain(&[&full]);
    let file = Path::new(&full).join(&files.shards()[0].file);
    let middle = std::fs::metadata(&file).unwrap().len() as usize / 2;
    for path in [file, Path::new(&full).join("manifest.json")] {
        flip(&path, middle.min(200));
        let named = path.file_name().unwrap().to_str().unwrap().to_owned();
        for verb in ["verify", "restore"] {
            let refused = refusal(&target, &[verb, &full, &next]);
            assert!(refused.contains(&named), "{verb}: {refused}");
        }
        flip(&path, middle.min(200));
    }
    let refused = refusal(&target, &["restore", &next]);
    assert!(refused.contains("name that folder before it"), "{refused}");

    let held = |pairs: Vec<KeyValue>| -> BTreeMap<_, _> {
        let pairs = pairs.into_iter().map(|pair| (pair.key, (pair.value, pair.lease)));
        pairs.collect()
    };
    let all = |client: &Client| client.scan(KeyRange::all(), usize::MAX).collect();
    let restored = answer(&target, &["restore", &full, &next]);
    assert_eq!(restored["keys"], 302);
    let client_of_target = target.client().await;
    let found = held(all(&client_of_target).await.unwrap());
    let mut expected = held(all(&client).await.unwrap());
    // It stays for good.
    expected.get_mut(&b"~leased"[..]).unwrap().1 = 0;
    assert_eq!(found, expected);

    let refused = refusal(&target, &["restore", &full, &next]);
    assert!(refused.contains("--into-non-empty"), "{refused}");
    client_of_target.put("other", "stays").await.unwrap();
    client_of_target.put(keys[300].clone(), "wrong").await.unwrap();
    client_of_target.delete("~leased").await.unwrap();
    let again = answer(
        &target,
        &["restore", &full, &next, "--into-non-empty", "--skip-leased"],
    );
    assert_eq!(
        (&again["keys"], &again["skipped"], &again["others"]),
        (&301.into(), &1.into(), &1.into())
    );
    let found = held(all(&client_of_target).await.unwrap());
    expected.remove(&b"~leased"[..]);
    expected.insert("other".into(), ("stays".into(), 0));
    assert_eq!(found, expected);
    let foreign = folders.of("foreign");
    let refused = refusal(&target, &["create", &foreign, "--incremental-from", &next]);
    assert!(refused.contains("of cluster"), "{refused}");
}
