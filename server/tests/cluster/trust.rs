//! What moves saved is measured and outlives restarts; what is in shadow is written down, and a slow average moves homes
//! meanwhile; bets wait for maintenance windows.

use serde_json::Value;

use super::harness::{Cluster, admin, eventually, godwit, keys, write_all};

/// Three hosts with one shard, whose home follows what the last window saw.
async fn start() -> Cluster {
    let settings = [
        "profiler.window_ms=1000",
        "balancer.policy=last-window",
        "balancer.dwell_windows=0",
        "balancer.trust_windows=1",
    ];
    Cluster::start_with(3, 1, &settings).await
}

/// The places in the cluster of the shard's home, and of a host that is not.
async fn places(cluster: &Cluster) -> (usize, usize) {
    let hosts = cluster.admin().hosts().await.unwrap().hosts;
    let home = cluster.shards().await[0].home;
    let place = |host: u64| {
        let known = hosts.iter().find(|known| known.host_id == host).unwrap();
        cluster
            .hosts
            .iter()
            .position(|process| process.address == known.address)
            .unwrap()
    };
    let other = hosts.iter().find(|host| host.host_id != home).unwrap().host_id;
    (place(home), place(other))
}

fn events(cluster: &Cluster, what: &str) -> Vec<Value> {
    let history = admin(cluster, &["history", "--limit", "1000"]);
    let events = history["events"].as_array().unwrap().iter();
    events.filter(|event| event["what"] == what).cloned().collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_move_saved_is_measured_and_outlives_restarts() {
    let mut cluster = start().await;
    let (_, other) = places(&cluster).await;
    let client = cluster.client_from(&cluster.hosts[other].zone).await;
    let told = eventually("a move is judged", || async {
        write_all(&client, &keys(8), "v").await;
        let told = admin(&cluster, &["trust"]);
        let judged = told["verdicts"].as_array().unwrap().iter();
        let mut good = judged.filter(|one| one["measured_micros"].as_i64() > Some(0));
        good.next().map(|_| told.clone()).ok_or(told.to_string())
    })
    .await;
    let verdict = &told["verdicts"][0];
    assert_eq!(
        (&verdict["origin"], &verdict["policy"]),
        (&"model".into(), &"last-window".into())
    );
    assert!(verdict["predicted_micros"].as_i64() > Some(0), "{told}");
    assert!(!events(&cluster, "GainMeasured").is_empty());
    let shard = cluster.shards().await[0].shard_id.to_string();
    let explained = admin(&cluster, &["explain", &shard]);
    assert!(
        !explained["verdicts"].as_array().unwrap().is_empty(),
        "{explained}"
    );
    drop(client);
    for host in &mut cluster.hosts {
        host.kill();
    }
    for host in &mut cluster.hosts {
        host.start("");
    }
    cluster.wait_until_settled(1).await;
    // A host answers as far as it has applied the log.
    eventually("it is known again", || async {
        let again = admin(&cluster, &["trust"]);
        let moves = |told: &Value| told["records"][0]["moves"].as_u64();
        let known = moves(&again).is_some() && moves(&again) >= moves(&told);
        known.then_some(()).ok_or(again.to_string())
    })
    .await;
    let totals = admin(&cluster, &["history", "--totals"]);
    assert!(totals.to_string().contains("model migrations Done"), "{totals}");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_in_shadow_is_not_carried_out_and_a_slow_average_stands_in() {
    let cluster = start().await;
    let shadowed = admin(&cluster, &["shadow", "model", "--reason", "to see"]);
    assert_eq!(shadowed["shadow"], serde_json::json!(["model"]));
    let (_, other) = places(&cluster).await;
    let client = cluster.client_from(&cluster.hosts[other].zone).await;
    eventually("the slow average moves the home", || async {
        write_all(&client, &keys(8), "v").await;
        let moved = admin(&cluster, &["migrations", "--all"]);
        let moves = moved["migrations"].as_array().unwrap();
        let by_balance = moves
            .iter()
            .any(|one| one["origin"] == "balance" && one["state"] == "Done");
        by_balance.then_some(()).ok_or(moved.to_string())
    })
    .await;
    let moved = admin(&cluster, &["migrations", "--all"]);
    let moves = moved["migrations"].as_array().unwrap();
    assert!(moves.iter().all(|one| one["origin"] != "model"), "{moved}");
    let shadows = events(&cluster, "Shadowed");
    assert!(
        shadows[0]["detail"]
            .as_str()
            .unwrap()
            .contains("by Model, not carried out"),
        "{shadows:?}"
    );
    let frame = godwit(&[
        "--connect",
        &cluster.hosts[0].address,
        "top",
        "--once",
        "--interval",
        "500",
    ]);
    assert_eq!(frame.0, Some(0), "{}", frame.2);
    for host in &cluster.hosts {
        assert!(frame.1.contains(&host.zone), "{}", frame.1);
    }
    let out = admin(&cluster, &["unshadow", "model"]);
    assert_eq!(out["shadow"], serde_json::json!([]));
}

#[tokio::test(flavor = "multi_thread")]
async fn bets_wait_for_a_maintenance_window() {
    let cluster = start().await;
    // The Unix epoch was a Thursday; a day that is neither today, yesterday nor tomorrow.
    let now = std::time::SystemTime::now()
        .duration_since(std::time::UNIX_EPOCH)
        .unwrap();
    let days = ["thu", "fri", "sat", "sun", "mon", "tue", "wed"];
    let far = days[usize::try_from((now.as_secs() / 86_400 + 3) % 7).unwrap()];
    let added = admin(
        &cluster,
        &[
            "window",
            "add",
            "--days",
            far,
            "--start",
            "01:00",
            "--minutes",
            "60",
        ],
    );
    assert_eq!(added["open"], false, "{added}");
    let (home, other) = places(&cluster).await;
    let client = cluster.client_from(&cluster.hosts[other].zone).await;
    // Three windows in which the home would have followed.
    let started = std::time::Instant::now();
    while started.elapsed() < std::time::Duration::from_secs(4) {
        write_all(&client, &keys(8), "v").await;
    }
    assert_eq!(places(&cluster).await.0, home, "it waits");
    let window = added["windows"][0]["window_id"].as_u64().unwrap().to_string();
    assert_eq!(admin(&cluster, &["window", "remove", &window])["open"], true);
    eventually("the home follows", || async {
        write_all(&client, &keys(8), "v").await;
        let now = places(&cluster).await.0;
        (now == other).then_some(()).ok_or(format!("it is at {now}"))
    })
    .await;
}
