//! The closing segment, kept out of the comparison: what a home move and a replica move do to the writes of their
//! shard, and a host killed under load and restarted.

use std::time::Duration;

use client::Client;
use client::proto::ShardStatus;
use hdrhistogram::Histogram;
use tokio::sync::watch;
use tokio::time::Instant;

use super::DemoError;
use super::cluster::Cluster;
use super::ledger::Ledger;
use super::prepare::Prepared;
use super::replayer::Replayer;
use crate::cli::DemoArgs;
use crate::report::{DemoReport, ReplicaMoves, WritePauses};

/// Home moves measured, and in a quick demo.
const HOME_MOVES: usize = 12;
const HOME_MOVES_QUICK: usize = 4;
/// Replica moves measured, and in a quick demo.
const REPLICA_MOVES: usize = 3;
const REPLICA_MOVES_QUICK: usize = 1;
/// How long a shard is written before anything is done to it.
const BEFORE: Duration = Duration::from_secs(2);
/// Windows replayed with a host missing, and after its return.
const WINDOWS_WITHOUT: usize = 3;
const WINDOWS_AFTER: usize = 2;
const LATENCY_MAX_US: u64 = 60_000_000;

/// Runs the segment and adds its figures to the report.
pub(crate) async fn measure(
    args: &DemoArgs,
    cluster: &Cluster,
    replayer: &Replayer<'_>,
    prepared: &Prepared,
    ledger: &mut Ledger,
    report: &mut DemoReport,
) -> Result<(), DemoError> {
    println!("\nClosing segment");
    let (homes, replicas) = match args.quick {
        true => (HOME_MOVES_QUICK, REPLICA_MOVES_QUICK),
        false => (HOME_MOVES, REPLICA_MOVES),
    };
    report.details.home_move_pauses = Some(home_moves(cluster, replayer, prepared, homes).await?);
    report.details.replica_moves = Some(replica_moves(cluster, replayer, prepared, replicas).await?);
    kill_and_return(cluster, replayer, prepared, ledger).await
}

/// Replays on while a host is gone, and after it came back with its data.
async fn kill_and_return(
    cluster: &Cluster,
    replayer: &Replayer<'_>,
    prepared: &Prepared,
    ledger: &mut Ledger,
) -> Result<(), DemoError> {
    let victim = cluster.busiest_home().await?;
    println!("  killing host {} with SIGKILL", victim + 1);
    cluster.kill(victim).await?;
    let mut windows = prepared.plan.windows.iter();
    for window in windows.by_ref().take(WINDOWS_WITHOUT) {
        let measured = replayer.replay(window, ledger).await?;
        println!(
            "  without it: {} operations, reads p99 {:.0} ms",
            measured.operations(),
            measured.reads.value_at_quantile(0.99) as f64 / 1000.0
        );
    }
    cluster.spawn(victim)?;
    for window in windows.take(WINDOWS_AFTER) {
        let measured = replayer.replay(window, ledger).await?;
        println!(
            "  with it again: {} operations, reads p99 {:.0} ms",
            measured.operations(),
            measured.reads.value_at_quantile(0.99) as f64 / 1000.0
        );
    }
    cluster
        .wait_until_served(prepared.ranges.splits().len() + 1)
        .await
}

/// Writes one key of a shard as fast as answers come, and remembers when each was answered.
struct Probe {
    stop: watch::Sender<bool>,
    task: tokio::task::JoinHandle<Vec<(Instant, Instant)>>,
}

impl Probe {
    fn start(client: Client, key: String) -> Self {
        let (stop, stopped) = watch::channel(false);
        let task = tokio::spawn(async move {
            let mut writes = Vec::new();
            while !*stopped.borrow() {
                let begun = Instant::now();
                if client.put(key.clone(), "probe").await.is_ok() {
                    writes.push((begun, Instant::now()));
                }
            }
            writes
        });
        Self { stop, task }
    }

    async fn end(self) -> Result<Vec<(Instant, Instant)>, DemoError> {
        self.stop.send_replace(true);
        self.task
            .await
            .map_err(|e| DemoError::Cluster(format!("a probe ended: {e}")))
    }
}

/// A key of the shard that no record of the trace has.
fn probe_key(shard: &ShardStatus) -> String {
    format!("{}\u{1}probe", String::from_utf8_lossy(&shard.start))
}

/// The client in the zone of a shard's home.
async fn client_at_home(cluster: &Cluster, replayer: &Replayer<'_>, key: &str) -> Result<Client, DemoError> {
    let site = cluster
        .sites()
        .next()
        .ok_or_else(|| DemoError::Cluster("no zones".into()))?;
    let any = replayer.client(&site.zone).await?;
    match cluster.zone_of(any.locate(key.as_bytes()).home) {
        Some(zone) => replayer.client(&zone).await,
        None => Ok(any),
    }
}

async fn home_moves(
    cluster: &Cluster,
    replayer: &Replayer<'_>,
    prepared: &Prepared,
    moves: usize,
) -> Result<WritePauses, DemoError> {
    let shards = cluster.shards().await?;
    let mut pauses: Vec<u64> = Vec::new();
    for shard in shards.iter().take(moves) {
        let Some(to) = shard
            .replicas
            .iter()
            .find(|replica| replica.host_id != shard.home)
        else {
            continue;
        };
        let key = probe_key(shard);
        let client = client_at_home(cluster, replayer, &key).await?;
        let probe = Probe::start(client, key);
        tokio::time::sleep(BEFORE / 4).await;
        let begun = Instant::now();
        let migration = cluster.move_home(shard.shard_id, to.host_id).await?;
        let state = cluster.wait_for(migration).await?;
        tokio::time::sleep(BEFORE / 2).await;
        let writes = probe.end().await?;
        if state == "Done" {
            let farthest = Duration::from_micros(u64::from(prepared.rtt.micros_max()));
            pauses.push(pause_after(&writes, begun, farthest));
        }
    }
    pauses.sort_unstable();
    let (p50_us, max_us) = (pauses.get(pauses.len() / 2), pauses.last());
    let (p50_us, max_us) = (p50_us.copied().unwrap_or(0), max_us.copied().unwrap_or(0));
    println!(
        "  {} home moves: writes paused for {:.0} ms in the median and {:.0} ms at most, beyond the emulated round trips",
        pauses.len(),
        p50_us as f64 / 1000.0,
        max_us as f64 / 1000.0
    );
    Ok(WritePauses {
        count: pauses.len() as u64,
        p50_us,
        max_us,
    })
}

/// The longest time without an answered write from shortly before the move on, less what a write takes anyway (the slower
/// of before and after) and the round trip of the redirect.
fn pause_after(writes: &[(Instant, Instant)], moved: Instant, farthest: Duration) -> u64 {
    let ends: Vec<Instant> = writes.iter().map(|(_, end)| *end).collect();
    let longest = ends
        .windows(2)
        .filter(|pair| pair[1] >= moved)
        .map(|pair| pair[1] - pair[0])
        .max()
        .unwrap_or_default();
    let usual = |after: bool| {
        let mut taken: Vec<Duration> = writes
            .iter()
            .filter(|(begin, _)| (*begin >= moved) == after)
            .map(|(begin, end)| *end - *begin)
            .collect();
        taken.sort_unstable();
        taken.get(taken.len() / 2).copied().unwrap_or_default()
    };
    let anyway = usual(false).max(usual(true)) + farthest;
    u64::try_from(longest.saturating_sub(anyway).as_micros()).unwrap_or(u64::MAX)
}

async fn replica_moves(
    cluster: &Cluster,
    replayer: &Replayer<'_>,
    prepared: &Prepared,
    moves: usize,
) -> Result<ReplicaMoves, DemoError> {
    let shards = cluster.shards().await?;
    let zones = cluster.host_zones().await?;
    let distance = |from: u64, to: u64| Some(prepared.rtt.micros(zones.get(&from)?, zones.get(&to)?));
    let mut ratios: Vec<f64> = Vec::new();
    for shard in shards.iter().rev().take(moves) {
        let held: Vec<u64> = shard.replicas.iter().map(|replica| replica.host_id).collect();
        // To the nearest host: with a voter farther off every write is slower, however the replica came there.
        let ways = held.iter().filter(|host| **host != shard.home).flat_map(|from| {
            let targets = zones.keys().filter(|host| !held.contains(host));
            targets.map(move |to| (*from, *to))
        });
        let Some((from, to)) = ways.min_by_key(|(from, to)| distance(*from, *to)) else {
            continue;
        };
        let key = probe_key(shard);
        let client = client_at_home(cluster, replayer, &key).await?;
        let probe = Probe::start(client, key);
        tokio::time::sleep(BEFORE).await;
        let begun = Instant::now();
        let migration = cluster.move_replica(shard.shard_id, from, to).await?;
        let state = cluster.wait_for(migration).await?;
        let ended = Instant::now();
        let writes = probe.end().await?;
        if state == "Done" {
            ratios.push(p99(&writes, begun, ended) / p99(&writes, begun - BEFORE, begun).max(1.0));
        }
    }
    let p99_ratio = ratios.iter().copied().fold(0.0, f64::max);
    println!(
        "  {} replica moves: the p99 of their shard's writes was at most {p99_ratio:.2} times that before",
        ratios.len()
    );
    Ok(ReplicaMoves {
        count: ratios.len() as u64,
        p99_ratio,
    })
}

fn p99(writes: &[(Instant, Instant)], from: Instant, to: Instant) -> f64 {
    let mut histogram = Histogram::<u64>::new_with_bounds(1, LATENCY_MAX_US, 3).expect("bounds are constant");
    for (begin, end) in writes.iter().filter(|(begin, _)| (from..to).contains(begin)) {
        let micros = u64::try_from((*end - *begin).as_micros()).unwrap_or(LATENCY_MAX_US);
        histogram.saturating_record(micros.clamp(1, LATENCY_MAX_US));
    }
    histogram.value_at_quantile(0.99) as f64
}
