//! Models are kept by the cluster, trained on what it has seen, and replaced and rolled back by name.

use std::time::Duration;

use serde_json::Value;

use super::harness::{Cluster, eventually, godwit};

fn model(cluster: &Cluster, verb: &[&str]) -> Result<Value, String> {
    let addresses: Vec<&str> = cluster.hosts.iter().map(|host| host.address.as_str()).collect();
    let (code, out, err) =
        godwit(&[&["--connect", &addresses.join(","), "model"], verb, &["--json"]].concat());
    match code {
        Some(0) => Ok(serde_json::from_str(&out).unwrap()),
        _ => Err(err),
    }
}

fn versions(listed: &Value, state: &str) -> Vec<String> {
    let listed = listed.as_array().unwrap().iter();
    let wanted = listed.filter(|model| model["state"] == state);
    wanted
        .map(|model| model["version"].as_str().unwrap().to_owned())
        .collect()
}

/// Two shards, each read from a zone of its own, until `done` is content with the cluster's models.
async fn serve_until(cluster: &Cluster, done: impl Fn(&Value) -> bool) -> Value {
    let clients = [
        (cluster.client_from("z1").await, "a"),
        (cluster.client_from("z2").await, "\u{fff}"),
    ];
    eventually("the models are as they should be", || async {
        for _ in 0..20 {
            for (client, key) in &clients {
                client.get(*key).await.unwrap();
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        let listed = model(cluster, &["list"])?;
        done(&listed).then_some(listed.clone()).ok_or(listed.to_string())
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cluster_trains_a_model_by_itself_and_goes_back_to_the_one_before() {
    let settings = [
        "balancer.policy=burn-model",
        "balancer.retrain_interval_ms=1000",
        "balancer.retrain_windows_min=40",
        "profiler.window_ms=200",
    ];
    let mut cluster = Cluster::start_with(3, 2, &settings).await;
    let listed = serve_until(&cluster, |listed| !versions(listed, "rollback").is_empty()).await;
    let kept = &listed[0];
    assert_eq!(
        (kept["origin"].as_str(), kept["window_ms"].as_u64()),
        (Some("model"), Some(200))
    );
    assert!(
        kept["reason"].as_str().unwrap().contains("trained anew"),
        "{kept}"
    );
    // By hand: what is not kept cannot be active.
    let refused = model(&cluster, &["activate", "burn-unknown"]).unwrap_err();
    assert!(refused.contains("no model burn-unknown is kept"), "{refused}");
    let before = versions(&model(&cluster, &["list"]).unwrap(), "active");
    let back = model(&cluster, &["rollback", "--reason", "test"]).unwrap();
    assert_ne!(versions(&back, "active"), before);
    let (_, out, _) = godwit(&["--connect", &cluster.hosts[0].address, "admin", "history"]);
    assert!(out.contains("forecasts again, instead of"), "{out}");
    // All hosts die: models are in the log.
    for host in &mut cluster.hosts {
        host.kill();
    }
    for host in &mut cluster.hosts {
        host.start("");
    }
    // Until a leader is there, a host tells what its last checkpoint holds.
    let survived = eventually("a model is active again", || async {
        let listed = model(&cluster, &["list"])?;
        match versions(&listed, "active").is_empty() {
            false => Ok(listed),
            true => Err(listed.to_string()),
        }
    })
    .await;
    assert_eq!(versions(&survived, "active").len(), 1);
}
