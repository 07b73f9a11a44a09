//! A running host says over HTTP how it fares, and the dashboard and the alerts in `server/monitoring` ask for nothing that
//! it does not say.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{Read, Write};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use client::proto::MoveHomeRequest;
use serde_json::Value;

use super::harness::{Cluster, PATIENCE, check_all, eventually, free_address, keys, write_all};

const SHARDS: u32 = 4;

/// An answer: its status, its head and its body.
fn ask(address: &str, method: &str, path: &str) -> std::io::Result<(u16, String, String)> {
    let mut stream = TcpStream::connect(address)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    write!(stream, "{method} {path} HTTP/1.0\r\nHost: {address}\r\n\r\n")?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    let (head, body) = answer.split_once("\r\n\r\n").unwrap_or((&answer, ""));
    let status = head.split(' ').nth(1).and_then(|status| status.parse().ok());
    Ok((status.unwrap_or(0), head.to_lowercase(), body.to_owned()))
}

fn get(address: &str, path: &str) -> (u16, String) {
    let (status, _, body) = ask(address, "GET", path).unwrap();
    (status, body)
}

/// The samples of a host: values by name and labels, as they stand in the text.
fn samples(address: &str) -> BTreeMap<String, f64> {
    let (status, text) = get(address, "/metrics");
    assert_eq!(status, 200, "{text}");
    let lines = text.lines().filter(|line| !line.starts_with('#'));
    let samples = lines.map(|line| {
        let (series, value) = line.rsplit_once(' ').expect("a series and its value");
        (series.to_owned(), value.parse().expect("a number"))
    });
    samples.collect()
}

/// The sum of a series over hosts.
fn sum(monitors: &[String], series: &str) -> f64 {
    let values = monitors
        .iter()
        .filter_map(|address| samples(address).get(series).copied());
    values.sum()
}

fn names_of(samples: &BTreeMap<String, f64>) -> BTreeSet<String> {
    let name = |series: &String| series.split('{').next().unwrap_or(series).to_owned();
    samples.keys().map(name).collect()
}

fn monitoring(file: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("monitoring")
        .join(file)
}

/// Every metric of ours that a file names.
fn names_in(file: &str) -> BTreeSet<String> {
    let text = std::fs::read_to_string(monitoring(file)).unwrap();
    let words = text.split(|c: char| !c.is_ascii_alphanumeric() && c != '_');
    let ours = words.filter(|word| word.starts_with("godwit_"));
    ours.map(str::to_owned).collect()
}

/// Every query of the dashboard, as Grafana would send it.
fn queries() -> Vec<String> {
    let dashboard: Value =
        serde_json::from_slice(&std::fs::read(monitoring("dashboard.json")).unwrap()).unwrap();
    let panels = dashboard["panels"].as_array().unwrap().iter();
    let targets = panels.flat_map(|panel| panel["targets"].as_array().into_iter().flatten());
    let queries = targets.map(|target| target["expr"].as_str().unwrap());
    queries
        .map(|query| query.replace("$job", ".+").replace("$__rate_interval", "1m"))
        .collect()
}

/// Three hosts that are monitored, and where; short windows, so that there are forecasts.
fn hosts() -> (Cluster, Vec<String>) {
    let mut cluster = Cluster::processes(3);
    let monitors: Vec<String> = cluster.hosts.iter().map(|_| free_address()).collect();
    for (host, monitor) in cluster.hosts.iter_mut().zip(&monitors) {
        host.settings = vec![
            format!("monitoring.listen={monitor}"),
            "monitoring.shards_max=2".to_owned(),
            "profiler.window_ms=1000".to_owned(),
        ];
        host.start("");
    }
    (cluster, monitors)
}

async fn wait_for_answers(monitors: &[String]) {
    for monitor in monitors {
        eventually("the endpoint answers", || async {
            ask(monitor, "GET", "/healthz")
                .map(drop)
                .map_err(|e| e.to_string())
        })
        .await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_host_says_how_it_fares() {
    let (mut cluster, monitors) = hosts();
    wait_for_answers(&monitors).await;
    let first = &monitors[0];
    // It lives, and is of no use yet.
    assert_eq!(get(first, "/healthz"), (200, "ok\n".to_owned()));
    let (status, reason) = get(first, "/readyz");
    assert_eq!(status, 503);
    assert!(
        reason.contains("[-] joined: the host belongs to no cluster yet"),
        "{reason}"
    );
    assert_eq!(samples(first)["godwit_ready"], 0.0);
    assert_eq!(get(first, "/nothing").0, 404);
    assert_eq!(ask(first, "POST", "/metrics").unwrap().0, 405);
    let (status, head, body) = ask(first, "HEAD", "/metrics").unwrap();
    assert_eq!((status, body.as_str()), (200, ""));
    assert!(head.contains("text/plain; version=0.0.4"), "{head}");

    cluster.init(SHARDS).await;
    cluster.wait_until_settled(SHARDS as usize).await;
    for monitor in &monitors {
        eventually("the host is ready", || async {
            match get(monitor, "/readyz") {
                (200, _) => Ok(()),
                (_, reasons) => Err(reasons),
            }
        })
        .await;
    }
    requests_are_counted(&cluster, &monitors).await;
    homes_are_counted(&cluster, &monitors).await;

    // A host that is gone, and one that is back.
    cluster.hosts[2].kill();
    assert!(ask(&monitors[2], "GET", "/healthz").is_err());
    eventually("a host is missed", || async {
        let lacking = samples(first)["godwit_shards_under_replicated"];
        (lacking == f64::from(SHARDS))
            .then_some(())
            .ok_or(lacking.to_string())
    })
    .await;
    cluster.hosts[2].start("");
    wait_for_answers(&monitors).await;
    eventually("it is back", || async {
        let (status, reasons) = get(&monitors[2], "/readyz");
        (status == 200).then_some(()).ok_or(reasons)
    })
    .await;
}

/// A checkpoint takes rows out of a shard's own memory; its home's readers need no file for them all the same.
#[tokio::test(flavor = "multi_thread")]
async fn what_was_written_is_read_from_memory() {
    let (cluster, monitors) = hosts();
    cluster.init(SHARDS).await;
    cluster.wait_until_settled(SHARDS as usize).await;
    let client = cluster.client().await;
    let written = write_all(&client, &keys(40), "v").await;
    let hits = || sum(&monitors, "godwit_row_cache_hits_total");
    eventually("a checkpoint has passed", || async {
        check_all(&client, &written).await;
        (hits() > 0.0)
            .then_some(())
            .ok_or("no reader asked the cache".to_owned())
    })
    .await;
    // Were it filled by readers alone, each row would have been missed before.
    let missed = sum(&monitors, "godwit_row_cache_misses_total");
    assert!(missed < hits(), "missed {missed}, found {}", hits());
}

async fn requests_are_counted(cluster: &Cluster, monitors: &[String]) {
    let client = cluster.client().await;
    let written = write_all(&client, &keys(40), "v").await;
    check_all(&client, &written).await;
    let put = sum(monitors, r#"godwit_requests_total{kind="put",outcome="ok"}"#);
    let took = sum(monitors, r#"godwit_request_duration_seconds_count{kind="put"}"#);
    assert_eq!(put, 40.0, "each once");
    assert!(
        took >= put,
        "those that were sent elsewhere are measured as well: {took}"
    );
    let read = sum(monitors, r#"godwit_requests_total{kind="get",outcome="ok"}"#);
    assert_eq!(read, 40.0);
    // Three replicas apply each entry.
    assert!(sum(monitors, "godwit_raft_applied_entries_total") >= 3.0);
    assert!(sum(monitors, r#"godwit_disk_sync_duration_seconds_count{file="log"}"#) > 0.0);
    let keys_held = sum(monitors, "godwit_storage_keys");
    assert!((40.0..=120.0).contains(&keys_held), "{keys_held}");
    for monitor in monitors {
        let samples = samples(monitor);
        assert_eq!(samples["godwit_shards_without_series"], f64::from(SHARDS - 2));
        let of_shards = samples
            .keys()
            .filter(|series| series.starts_with("godwit_shard_keys{"));
        assert_eq!(of_shards.count(), 2);
        // What clients store is nobody's business.
        assert!(!get(monitor, "/metrics").1.contains("key1"));
    }
}

async fn homes_are_counted(cluster: &Cluster, monitors: &[String]) {
    let leaders = || sum(monitors, r#"godwit_raft_groups{role="leader"}"#);
    eventually("each shard has one home", || async {
        (leaders() == f64::from(SHARDS))
            .then_some(())
            .ok_or(leaders().to_string())
    })
    .await;
    assert_eq!(sum(monitors, "godwit_controller"), 1.0);
    let before = sum(monitors, "godwit_raft_leaderships_total");
    let shard = cluster.shards().await.remove(0);
    let other = shard
        .replicas
        .iter()
        .find(|replica| replica.host_id != shard.home);
    let request = MoveHomeRequest {
        shard_id: shard.shard_id,
        to_host: other.expect("three replicas").host_id,
        reason: "test".into(),
    };
    let moved = cluster.admin().move_home(request).await.unwrap();
    assert_eq!(moved.refused, "");
    cluster.wait_for(moved.migration_id).await;
    eventually("the new home is counted", || async {
        let since = sum(monitors, "godwit_raft_leaderships_total") - before;
        let ended = r#"godwit_migrations_ended_total{kind="home",outcome="done"}"#;
        let homes = monitors
            .iter()
            .filter_map(|monitor| samples(monitor).get(ended).copied());
        let homes = homes.fold(0.0, f64::max);
        match since >= 1.0 && homes >= 1.0 {
            true => Ok(()),
            false => Err(format!("{since} leaderships, {homes} homes")),
        }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn whatever_the_dashboard_and_the_alerts_ask_for_is_told() {
    let (cluster, monitors) = hosts();
    cluster.init(SHARDS).await;
    cluster.wait_until_settled(SHARDS as usize).await;
    let client = cluster.client().await;
    let asked: BTreeSet<String> = names_in("dashboard.json")
        .union(&names_in("alerts.yml"))
        .cloned()
        .collect();
    assert!(asked.len() > 30, "{asked:?}");
    eventually("everything is told", || async {
        // Forecasts come with the first window that has accesses.
        write_all(&client, &keys(4), "v").await;
        let told: BTreeSet<String> = monitors.iter().flat_map(|at| names_of(&samples(at))).collect();
        let missing: Vec<&String> = asked.difference(&told).collect();
        match missing.is_empty() {
            true => Ok(()),
            false => Err(format!("{missing:?}")),
        }
    })
    .await;
}

/// A Prometheus that ends with the test.
struct Prometheus(Child);

impl Drop for Prometheus {
    fn drop(&mut self) {
        self.0.kill().ok();
        self.0.wait().ok();
    }
}

/// A program of the package `prometheus`, in the folder that `PROMETHEUS_BIN` names or in the search path.
fn program(name: &str) -> Command {
    match std::env::var_os("PROMETHEUS_BIN") {
        Some(folder) => Command::new(Path::new(&folder).join(name)),
        None => Command::new(name),
    }
}

fn query(prometheus: &str, path: &str) -> Result<Value, String> {
    let (_, _, body) = ask(prometheus, "GET", path).map_err(|e| e.to_string())?;
    serde_json::from_str(&body).map_err(|e| format!("{e}: {body}"))
}

fn percent(text: &str) -> String {
    text.bytes().map(|byte| format!("%{byte:02X}")).collect()
}

/// The rules load, every rule and every query of the dashboard is evaluated, and what a host tells is well-formed.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs Prometheus: apt install prometheus"]
async fn a_real_prometheus_takes_the_rules_and_the_metrics() {
    let (cluster, monitors) = hosts();
    cluster.init(SHARDS).await;
    cluster.wait_until_settled(SHARDS as usize).await;
    let client = cluster.client().await;
    let (_, text) = get(&monitors[0], "/metrics");
    let mut lint = program("promtool")
        .args(["check", "metrics"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    lint.stdin.take().unwrap().write_all(text.as_bytes()).unwrap();
    let linted = lint.wait_with_output().unwrap();
    assert!(
        linted.status.success(),
        "{}",
        String::from_utf8_lossy(&linted.stderr)
    );

    let temp = tempfile::tempdir().unwrap();
    let config = temp.path().join("prometheus.yml");
    let rules = monitoring("alerts.yml");
    let targets = format!("{monitors:?}");
    let text = format!(
        "global: {{scrape_interval: 1s, evaluation_interval: 1s}}\nrule_files: [{rules:?}]\nscrape_configs:\n  - job_name: \
         godwit\n    static_configs: [{{targets: {targets}}}]\n"
    );
    std::fs::write(&config, text).unwrap();
    let listen = free_address();
    let prometheus = program("prometheus")
        .arg(format!("--config.file={}", config.display()))
        .arg(format!(
            "--storage.tsdb.path={}",
            temp.path().join("tsdb").display()
        ))
        .arg(format!("--web.listen-address={listen}"))
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let _prometheus = Prometheus(prometheus);
    eventually("every rule is evaluated and none complains", || async {
        write_all(&client, &keys(4), "v").await;
        let answer = query(&listen, "/api/v1/rules")?;
        let rules = answer["data"]["groups"][0]["rules"]
            .as_array()
            .cloned()
            .unwrap_or_default();
        let well = rules.iter().filter(|rule| rule["health"] == "ok").count();
        match well >= 10 && well == rules.len() {
            true => Ok(()),
            false => Err(answer.to_string()),
        }
    })
    .await;
    eventually("every host is scraped", || async {
        let up = query(&listen, &format!("/api/v1/query?query={}", percent("sum(up)")))?;
        let value = &up["data"]["result"][0]["value"][1];
        (value == "3").then_some(()).ok_or(up.to_string())
    })
    .await;
    for asked in queries() {
        let answer = query(&listen, &format!("/api/v1/query?query={}", percent(&asked))).unwrap();
        assert_eq!(answer["status"], "success", "{asked}: {answer}");
    }
    let firing = query(&listen, "/api/v1/alerts").unwrap();
    let firing = firing["data"]["alerts"].as_array().unwrap().iter();
    let firing: Vec<&Value> = firing.filter(|alert| alert["state"] == "firing").collect();
    assert!(firing.is_empty(), "of a sound cluster: {firing:?}");
}
