//! All workloads against a real host in this process, on a simulated disk; and what the judge says of it.

use std::sync::Arc;
use std::time::Duration;

use client::proto::InitRequest;
use client::{AdminClient, Client, ClientConfig, TcpConnector};
use server::config::HostConfig;
use server::host;
use server::serve::env_over;
use storage::sim_disk::SimDisk;
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;

use super::*;
use crate::judge::{Evidence, Facts, Finding, judge};
use crate::record::{MonotonicClock, Recorder};
use crate::testing::get;

const PATIENCE: Duration = Duration::from_secs(60);

/// Starts a host that is a cluster by itself, and answers with its address.
async fn host(stop: CancellationToken) -> String {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let config = HostConfig {
        data_dir: "/host".into(),
        listen: address.clone(),
        zone: "z".to_owned(),
        join: Vec::new(),
        ..HostConfig::default()
    };
    let env = env_over(Arc::new(TcpConnector), Arc::new(SimDisk::new(1)), 1);
    tokio::spawn(host::run(config, address.clone(), listener, env, stop, |_| {}));
    let admin = AdminClient::new(ClientConfig::new([address.clone()])).unwrap();
    let request = InitRequest {
        shards: 0,
        split_at: vec!["@".into(), "`".into()],
        replication_factor: 1,
        hosts: 1,
    };
    while admin.init(request.clone()).await.is_err() {
        sleep(Duration::from_millis(50)).await;
    }
    address
}

fn connect_to(address: String) -> Connect {
    Arc::new(move |_| {
        let mut config = ClientConfig::new([address.clone()]);
        config.limits.scan_page_pairs = 5;
        Box::pin(Client::connect(config))
    })
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_sound_store_passes_and_a_stale_read_does_not() {
    let stop = CancellationToken::new();
    let address = timeout(PATIENCE, host(stop.clone())).await.unwrap();
    let recorder = Recorder::new(Arc::new(MonotonicClock::new()));
    let plan = WorkloadPlan {
        seed: 3,
        clients: 6,
        operations_per_s: 0,
        key_operations_max: 60,
        keys_live: 2,
        ..WorkloadPlan::default()
    };
    let connect = connect_to(address);
    let running = start(
        plan.clone(),
        recorder.clone(),
        connect.clone(),
        CancellationToken::new(),
    );
    let enough = async {
        while recorder.operations() < 3_000 {
            sleep(Duration::from_millis(20)).await;
        }
    };
    timeout(PATIENCE, enough).await.unwrap();
    let used = running.finish().await;
    let client = connect(99).await.unwrap();
    let read_all = read_all(&used, &client, &recorder).await;
    stop.cancel();

    let written: u64 = used.outcomes.values().map(|outcomes| outcomes.ok).sum();
    assert!(written >= 1_000 && read_all.unread.is_empty(), "{read_all:?}");
    assert_eq!(used.keys.len(), 4);
    let mut evidence = Evidence {
        recorded: recorder.recorded(),
        facts: Some(Facts::new(plan.seed, &plan.names, &used, &read_all)),
        ..Evidence::default()
    };
    let judgement = judge(&evidence);
    assert!(judgement.is_ok(), "{judgement}");
    assert_eq!(judgement.counts.by_workload.len(), WorkloadName::ALL.len());

    // A key that has just taken another's place may stand at 1 rightly.
    let operations = &evidence.recorded.operations;
    let used_for = |key: &&String| operations.iter().filter(|op| op.key() == key.as_str()).count();
    let keys = used.keys[&WorkloadName::Counter].iter();
    let key = keys.max_by_key(used_for).unwrap();
    let late_ns = recorder.now_ns();
    evidence
        .recorded
        .operations
        .push(get(key, Some("1"), late_ns, late_ns + 1));
    let judgement = judge(&evidence);
    assert_eq!(judgement.verdict, Finding::Violation);
    assert_eq!(
        judgement.check("linearizability").unwrap().verdict,
        Finding::Violation
    );
    assert_eq!(judgement.check("counters").unwrap().verdict, Finding::Violation);
}

#[tokio::test(start_paused = true)]
async fn clients_that_never_connect_still_end() {
    let recorder = Recorder::new(Arc::new(MonotonicClock::new()));
    let connect: Connect = Arc::new(|_| {
        let refused = client::ConnectError::Invalid {
            message: "nobody is there".to_owned(),
        };
        Box::pin(std::future::ready(Err(refused)))
    });
    let running = start(
        WorkloadPlan::default(),
        recorder.clone(),
        connect,
        CancellationToken::new(),
    );
    sleep(Duration::from_secs(1)).await;
    let used = running.finish().await;
    assert_eq!((recorder.operations(), used.keys.len()), (0, 0));
}
