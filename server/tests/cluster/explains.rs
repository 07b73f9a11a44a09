//! What the planner would do is told with its figures, from any host, and telling it changes nothing.

use serde_json::Value;

use super::harness::{Cluster, eventually, godwit, keys, write_all};

/// The JSON document that an admin verb answers with, asked of one host.
fn admin(cluster: &Cluster, host: usize, verb: &[&str]) -> Value {
    let address = &cluster.hosts[host].address;
    let (code, out, err) = godwit(&[&["--connect", address, "admin", "--json"], verb].concat());
    assert_eq!(code, Some(0), "{verb:?}: {err}");
    serde_json::from_str(&out).unwrap()
}

/// Three hosts whose balancer has short windows, and may propose nothing.
async fn start() -> Cluster {
    Cluster::start_with(3, 2, &["profiler.window_ms=1000"]).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_shard_is_explained_with_what_forbids_each_place() {
    let cluster = start().await;
    admin(&cluster, 0, &["pause", "all"]);
    let client = cluster.client().await;
    let shard = cluster.shards().await.remove(0);
    let id = shard.shard_id.to_string();
    let told = eventually("accesses are expected", || async {
        write_all(&client, &keys(4), "v").await;
        let told = admin(&cluster, 1, &["explain", &id]);
        (told["accesses_milli"].as_u64() > Some(0))
            .then_some(told.clone())
            .ok_or(told.to_string())
    })
    .await;
    assert_eq!(told["policy"], "ewma-hysteresis");
    assert!(told["model"].as_str().unwrap().starts_with("ewma"), "{told}");
    assert!(told["paused"].to_string().contains("model"), "{told}");
    let homes = told["homes"].as_array().unwrap();
    assert_eq!(homes.len(), 2, "the other voters: {told}");
    let scores = told["affinities"].as_array().unwrap().iter();
    let whole: u64 = scores.map(|score| score["score_ppm"].as_u64().unwrap()).sum();
    assert_eq!(whole, 1_000_000);

    // Each host tells the same of a place that may take nothing.
    let other = homes[0]["host_id"].as_u64().unwrap();
    admin(&cluster, 0, &["cordon", &other.to_string()]);
    for host in 0..3 {
        let told = admin(&cluster, host, &["explain", &id]);
        let homes = told["homes"].as_array().unwrap();
        let cordoned = homes.iter().find(|place| place["host_id"] == other).unwrap();
        assert!(
            cordoned["constraint"].as_str().unwrap().contains("cordoned"),
            "{told}"
        );
    }

    let before = cluster.migrations().await.len();
    let plan = admin(&cluster, 2, &["plan", "--dry-run", "--replicas"]);
    assert_eq!(plan["policy"], "ewma-hysteresis");
    assert!(
        plan["cost_before_micros"].as_u64() >= plan["cost_after_micros"].as_u64(),
        "{plan}"
    );
    assert_eq!(cluster.migrations().await.len(), before, "nothing is proposed");
    assert!(cluster.shards().await[0].home == shard.home);

    let address = &cluster.hosts[0].address;
    let (code, _, err) = godwit(&["--connect", address, "admin", "explain", "999"]);
    assert_ne!(code, Some(0));
    assert!(err.contains("no shard 999"), "{err}");
    let (code, out, _) = godwit(&["--connect", address, "admin", "explain", &id]);
    assert_eq!(code, Some(0));
    assert!(
        out.contains("saves a window") && out.contains("would be proposed"),
        "{out}"
    );
}
