//! Real hosts in real processes: started, hurt, healed, and all gone at the end. On both networks, where the machine
//! has what the second one takes.
#![allow(clippy::unwrap_used, reason = "a test fails where it stands")]

use std::ffi::OsString;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use jepsen::process::{
    Cluster, ClusterOptions, Condition, Effect, End, Entry, NetworkKind, both_ways, enter_client_namespace,
};

const LIMIT: Duration = Duration::from_secs(60);

/// A folder that is removed when the test was good, and kept to be looked at when it was not.
struct Folder(PathBuf);

impl Folder {
    fn new(name: &str) -> Self {
        let path = std::env::temp_dir().join(format!("jepsen-{name}-{}", std::process::id()));
        std::fs::remove_dir_all(&path).ok();
        Self(path)
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("left as it is: {}", self.0.display());
        } else {
            std::fs::remove_dir_all(&self.0).ok();
        }
    }
}

fn options(folder: &Folder, hosts: usize, network: Option<NetworkKind>) -> ClusterOptions {
    let program = vec![env!("CARGO_BIN_EXE_jepsen").to_owned(), "godwit".to_owned()];
    ClusterOptions {
        hosts,
        shards: 2,
        seed: 7,
        network,
        ..ClusterOptions::new(program, folder.0.clone())
    }
}

/// Kills a host, cuts another off, has a fourth one join, moves a replica onto it, and heals it all.
async fn hurt_and_heal(options: ClusterOptions) {
    let cluster = Cluster::start(options).await.unwrap();
    // What runs beside this test may take the processor for longer than a client of a run waits.
    let client = cluster.connect().await.unwrap().with_deadline(LIMIT);
    client.put("kept", "before").await.unwrap();

    assert!(cluster.kill(1).unwrap());
    assert!(!cluster.kill(1).unwrap(), "killed twice");
    client.put("kept", "without host 1").await.unwrap();
    cluster.start_host(1).unwrap();
    cluster.recover(LIMIT, LIMIT).await.unwrap();

    let cut = Condition {
        effect: Effect::Block,
        ways: both_ways(&[End::Host(2)], &[End::Host(1), End::Host(3), End::Clients]),
    };
    cluster.network().impose("cut", cut).unwrap();
    client.put("kept", "host 2 cut off").await.unwrap();
    let alone = cluster.admin_of_host(2).unwrap();
    alone.status().await.unwrap_err();
    cluster.heal().await.unwrap();
    alone.status().await.unwrap();

    let joined = cluster.add_host().await.unwrap();
    let moved = move_a_replica(&cluster, joined).await;
    cluster.recover(LIMIT, LIMIT).await.unwrap();
    let layout = cluster.layout().await.unwrap();
    let id = layout.id_of(joined).unwrap();
    let shard = layout
        .shards
        .iter()
        .find(|shard| shard.shard_id == moved)
        .unwrap();
    assert!(
        shard.replicas.iter().any(|replica| replica.host_id == id),
        "{shard:?}"
    );

    let read = client.get("kept").await.unwrap();
    assert_eq!(read.pair.unwrap().value, "host 2 cut off");
    let complaints = cluster.complaints();
    assert!(complaints.is_empty(), "{complaints:?}");
    let left = cluster.stop().await;
    assert!(left.is_empty(), "left behind: {left:?}");
}

/// Moves a replica of some shard onto the host; which shard.
async fn move_a_replica(cluster: &Cluster, number: usize) -> u64 {
    for _ in 0..200 {
        let layout = cluster.layout().await.unwrap();
        let shard = &layout.shards[0];
        if let Some(to_host) = layout.id_of(number) {
            let request = client::proto::MoveReplicaRequest {
                shard_id: shard.shard_id,
                from_host: shard.replicas[0].host_id,
                to_host,
                reason: "test".into(),
            };
            let reply = cluster.admin().unwrap().move_replica(request).await;
            if reply.is_ok_and(|reply| reply.refused.is_empty()) {
                return shard.shard_id;
            }
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    panic!("no replica moves onto host {number}");
}

#[tokio::test(flavor = "multi_thread")]
async fn hosts_are_hurt_and_healed_behind_the_proxy() {
    let folder = Folder::new("proxy");
    hurt_and_heal(options(&folder, 3, Some(NetworkKind::Proxy))).await;
}

#[test]
fn hosts_are_hurt_and_healed_in_namespaces() {
    let name = "hosts_are_hurt_and_healed_in_namespaces";
    if inside(&[name, "--exact", "--nocapture"]) {
        let folder = Folder::new("namespaces");
        let runtime = tokio::runtime::Runtime::new().unwrap();
        runtime.block_on(hurt_and_heal(options(&folder, 3, Some(NetworkKind::Namespaces))));
    }
}

/// Whether this process is in a client namespace. If not, a copy of it has run there with `arguments`, or the machine
/// has no namespaces.
fn inside(arguments: &[&str]) -> bool {
    match enter_client_namespace(arguments.iter().map(OsString::from)).unwrap() {
        Entry::Inside => true,
        Entry::Refused(reason) => {
            eprintln!("not run: {reason}");
            false
        }
        // Codes have no other comparison.
        Entry::Ended(code) => {
            assert_eq!(format!("{code:?}"), format!("{:?}", ExitCode::SUCCESS));
            false
        }
    }
}
