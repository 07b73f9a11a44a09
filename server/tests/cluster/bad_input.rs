//! Bad input gets a clear error and loses nothing.

use super::harness::{Cluster, contents, free_address, godwit};

fn serve(folder: &std::path::Path, more: &[&str]) -> (Option<i32>, String, String) {
    let data = format!("--data-dir={}", folder.display());
    let mut arguments = vec!["serve", &data];
    arguments.extend(more);
    godwit(&arguments)
}

#[test]
fn an_unknown_flag_is_refused() {
    let (code, _, error) = godwit(&["serve", "--no-such-flag"]);
    assert_eq!(code, Some(2));
    assert!(error.contains("--no-such-flag"), "{error}");
}

#[test]
fn an_occupied_port_is_named() {
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    let folder = tempfile::tempdir().unwrap();
    let (code, _, error) = serve(folder.path(), &[&format!("--listen={address}")]);
    assert_eq!(code, Some(1));
    assert!(
        error.contains(&address) && error.contains("cannot listen"),
        "{error}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_folder_in_use_or_of_a_newer_format_is_left_alone() {
    let mut cluster = Cluster::start(1, 1).await;
    let folder = cluster.hosts[0].folder.join("data");
    let listen = format!("--listen={}", free_address());
    let (code, _, error) = serve(&folder, &[&listen]);
    assert_eq!(code, Some(1));
    assert!(error.contains("in use by another"), "{error}");

    cluster.hosts[0].kill();
    let identity = folder.join("identity");
    let newer = std::fs::read_to_string(&identity)
        .unwrap()
        .replace("\"format\":1", "\"format\":9");
    let body = newer.split('\n').next().unwrap();
    let checksum = crc32c::crc32c(body.as_bytes());
    std::fs::write(&identity, format!("{body}\ncrc32c {checksum:08x}\n")).unwrap();
    let before = contents(&folder);
    let (code, _, error) = serve(&folder, &[&listen]);
    assert_eq!(code, Some(1));
    assert!(error.contains("format 9"), "{error}");
    assert_eq!(contents(&folder), before);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_of_another_cluster_and_oversize_pairs_are_refused() {
    let cluster = Cluster::start(1, 1).await;
    let endpoints = [cluster.hosts[0].address.clone()];
    let foreign = client::ClientConfig {
        cluster_id: Some("another".into()),
        deadline: std::time::Duration::from_secs(3),
        ..client::ClientConfig::new(endpoints)
    };
    let refused = client::Client::connect(foreign).await.expect_err("refused");
    assert!(refused.to_string().contains("cluster"), "{refused}");

    let client = cluster.client().await;
    let oversize = client.put("k".repeat((4 << 10) + 1), "v").await.unwrap_err();
    assert!(
        matches!(oversize, client::MutationError::TooLarge { .. }),
        "{oversize}"
    );
    let oversize = client.put("k", vec![0_u8; (1 << 20) + 1]).await.unwrap_err();
    assert!(
        matches!(oversize, client::MutationError::TooLarge { .. }),
        "{oversize}"
    );
    client
        .put("k".repeat(4 << 10), vec![0_u8; 1 << 20])
        .await
        .unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_second_init_is_refused() {
    let cluster = Cluster::start(1, 1).await;
    let (code, _, error) = godwit(&["--connect", &cluster.hosts[0].address, "init", "--shards", "2"]);
    assert_eq!(code, Some(1));
    assert!(error.contains("already"), "{error}");
}

#[test]
fn a_corrupt_trace_line_is_named_by_its_number() {
    let folder = tempfile::tempdir().unwrap();
    let trace = folder.path().join("trace.csv");
    let zones = folder.path().join("zones.csv");
    std::fs::write(&zones, "origin,zone,region,lat,lon\na,za,r,0,0\n").unwrap();
    std::fs::write(
        &trace,
        "timestamp_ms,user_id,data_id,origin,op,size\n1000,u,k/1,a,get,10\nnot-a-number,u,k/2,a,get,10\n",
    )
    .unwrap();
    let trace = format!("--trace={}", trace.display());
    let zones = format!("--zones={}", zones.display());
    let (code, _, error) = godwit(&["demo", &trace, &zones]);
    assert_eq!(code, Some(1));
    assert!(error.contains("line 3"), "{error}");
}

#[test]
fn a_missing_model_is_named_before_anything_is_made() {
    let folder = tempfile::tempdir().unwrap();
    let data = folder.path().join("data");
    let none_is_trained = "--set=balancer.retrain_interval_ms=0";
    let (code, _, error) = serve(&data, &["--set=balancer.policy=burn-model", none_is_trained]);
    assert_eq!(code, Some(1));
    assert!(error.contains("balancer.model_file"), "{error}");
    let missing = folder.path().join("no-such-model");
    let named = format!("--set=balancer.model_file={}", missing.display());
    let (code, _, error) = serve(&data, &["--set=balancer.policy=burn-model", &named]);
    assert_eq!(code, Some(1));
    assert!(error.contains("no-such-model"), "{error}");
    assert!(!data.exists(), "nothing is made for a host that cannot run");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_folder_of_another_cluster_is_not_taken_into_this_one() {
    let here = Cluster::start(1, 1).await;
    let mut there = Cluster::start(1, 1).await;
    there.hosts[0].kill();
    let folder = there.hosts[0].folder.join("data");
    let before = contents(&folder);
    let listen = format!("--listen={}", free_address());
    let join = format!("--join={}", here.hosts[0].address);
    let (code, _, error) = serve(&folder, &[&listen, &join]);
    assert_eq!(code, Some(1));
    assert!(error.contains("belongs to cluster"), "{error}");
    let changed: Vec<_> = contents(&folder)
        .into_iter()
        .filter(|(path, content)| before.get(path) != Some(content))
        .map(|(path, _)| path)
        .filter(|path| !path.to_string_lossy().contains("log"))
        .collect();
    assert!(changed.is_empty(), "{changed:?}");
}
