//! Hosts under faults, without clients: which faults happen on this machine, and does the cluster come back?
//!
//! `cargo run -p jepsen --example torment -- PROGRAM NETWORK HOSTS SECONDS SEED [FAULT...]`, where PROGRAM is the path
//! of `jepsen` and NETWORK is `namespaces` or `proxy`. Without faults, all that are available.

use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use jepsen::nemesis::{DEFAULT_MIX, available, torment};
use jepsen::process::{Cluster, ClusterOptions, Entry, NetworkKind, enter_client_namespace};
use jepsen::record::{MonotonicClock, Recorder};
use tokio_util::sync::CancellationToken;

fn main() -> anyhow::Result<ExitCode> {
    tracing_subscriber::fmt().with_writer(std::io::stderr).init();
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let network = match arguments.get(1).map(String::as_str) {
        Some("proxy") => NetworkKind::Proxy,
        _ => NetworkKind::Namespaces,
    };
    if network == NetworkKind::Namespaces
        && let Entry::Ended(code) = enter_client_namespace(std::env::args_os().skip(1))?
    {
        return Ok(code);
    }
    tokio::runtime::Runtime::new()?.block_on(run(&arguments, network))
}

async fn run(arguments: &[String], network: NetworkKind) -> anyhow::Result<ExitCode> {
    let number = |at: usize| arguments.get(at).and_then(|text| text.parse::<u64>().ok());
    let program = arguments.first().context("PROGRAM is missing")?.clone();
    let folder = std::env::temp_dir().join(format!("jepsen-torment-{}", std::process::id()));
    let seed = number(4).unwrap_or(1);
    let options = ClusterOptions {
        hosts: usize::try_from(number(2).unwrap_or(5))?,
        shards: 6,
        seed,
        network: Some(network),
        ..ClusterOptions::new(vec![program, "godwit".to_owned()], folder.clone())
    };
    let cluster = Cluster::start(options).await?;
    let names: Vec<String> = match arguments.get(5..) {
        Some(names @ [_, ..]) => names.to_vec(),
        _ => {
            let mix = DEFAULT_MIX
                .into_iter()
                .filter(|name| available(&cluster, name).is_none());
            mix.map(str::to_owned).collect()
        }
    };
    let recorder = Recorder::new(Arc::new(MonotonicClock::new()));
    let stop = CancellationToken::new();
    let (ending, length) = (stop.clone(), Duration::from_secs(number(3).unwrap_or(60)));
    tokio::spawn(async move {
        tokio::time::sleep(length).await;
        ending.cancel();
    });
    let writing = write(&cluster, &stop);
    let (tally, written) = tokio::join!(torment(&cluster, &recorder, &names, seed, stop.clone()), writing);
    for event in recorder.recorded().events {
        println!("{event:?}");
    }
    let recovered = cluster
        .recover(Duration::from_secs(30), Duration::from_secs(60))
        .await;
    println!("tally {:#?}", tally.map(|tally| tally.0));
    println!("written {written:?}\nrecovered {recovered:?}");
    println!("complaints {:#?}", cluster.complaints());
    println!("left {:?}\nlogs in {}", cluster.stop().await, folder.display());
    Ok(ExitCode::SUCCESS)
}

/// Puts keys of all shards until stopped: how many were acknowledged, how many not.
async fn write(cluster: &Cluster, stop: &CancellationToken) -> anyhow::Result<(u64, u64)> {
    let client = cluster.connect().await?;
    let (mut acknowledged, mut not) = (0, 0);
    for number in 0_u64.. {
        if stop.is_cancelled() {
            break;
        }
        let key = vec![u8::try_from(number * 37 % 256)?, b'k'];
        match client.put(key, format!("{number:0500}")).await {
            Ok(_) => acknowledged += 1,
            Err(_) => not += 1,
        }
    }
    Ok((acknowledged, not))
}
