//! How long a store takes no writes after its leader is lost.
//!
//! Each trial loses the leader, and from then on begins a put every few milliseconds on every connection, whether the
//! ones before have ended or not. The first of them that is acknowledged ends the outage: so neither a client's own
//! patience nor its back-off counts, as long as it tries at all.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use bytes::Bytes;
use clap::ValueEnum;
use serde::{Deserialize, Serialize};
use tokio::sync::mpsc;
use tokio::time::Instant;

use crate::load::Latencies;
use crate::peer::{Access, Cluster, Peer, Store, connect};
use crate::workload::{Operation, key};

/// Between two puts of a connection.
const PUT_EVERY: Duration = Duration::from_millis(10);
/// Puts under way on one connection.
const UNDER_WAY_MAX: usize = 1_000;
/// An outage that is longer fails the run.
const OUTAGE_MAX: Duration = Duration::from_secs(60);
/// How long the lost host has to come back before the next one is lost.
const SETTLE: Duration = Duration::from_secs(4);
/// Keys that are put.
const KEYS: u64 = 1_000;
const HOSTS: usize = 3;

/// How a leader is lost.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ValueEnum)]
#[serde(rename_all = "snake_case")]
pub enum Loss {
    /// By SIGKILL: its connections are reset.
    Kill,
    /// By SIGSTOP: it falls silent.
    Stop,
}

/// The outages of one store.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Outages {
    /// The store.
    pub store: String,
    /// How its leaders were lost.
    pub loss: Loss,
    /// Each outage, in milliseconds, in the order of the trials.
    pub millis: Vec<f64>,
    /// The median, in milliseconds.
    pub p50_ms: f64,
    /// 90 of 100 were no longer.
    pub p90_ms: f64,
    /// The longest.
    pub max_ms: f64,
}

impl Outages {
    fn of(store: &str, loss: Loss, outages: &[Duration]) -> Self {
        let mut latencies = Latencies::default();
        outages.iter().for_each(|outage| latencies.record(*outage));
        Self {
            store: store.to_owned(),
            loss,
            millis: outages.iter().map(|outage| outage.as_secs_f64() * 1e3).collect(),
            p50_ms: latencies.quantile_us(0.5) / 1e3,
            p90_ms: latencies.quantile_us(0.9) / 1e3,
            max_ms: latencies.quantile_us(1.0) / 1e3,
        }
    }
}

/// Loses the leader of a fresh cluster `trials` times; `told` hears of each outage.
///
/// # Errors
/// When the cluster does not start, or takes no writes for a minute.
pub async fn failover(
    peer: &dyn Peer,
    folder: &Path,
    loss: Loss,
    trials: u32,
    mut told: impl FnMut(Duration),
) -> anyhow::Result<Outages> {
    std::fs::create_dir_all(folder)?;
    let folder = tempfile::tempdir_in(folder).context("a folder for the cluster")?;
    let mut cluster = peer.start(folder.path(), HOSTS).await?;
    let mut outages = Vec::new();
    for _ in 0..trials {
        let lost = leader(peer, &cluster).await?;
        let stores = stores(peer, &cluster, lost).await?;
        let warm = stores.iter().map(|store| store.perform(put(0)));
        for warmed in warm {
            warmed.await?;
        }
        match loss {
            Loss::Kill => cluster.hosts[lost].kill()?,
            Loss::Stop => cluster.hosts[lost].signal("STOP")?,
        }
        let outage = outage(&stores).await?;
        told(outage);
        outages.push(outage);
        match loss {
            Loss::Kill => cluster.hosts[lost].restart()?,
            Loss::Stop => cluster.hosts[lost].signal("CONT")?,
        }
        tokio::time::sleep(SETTLE).await;
    }
    Ok(Outages::of(peer.name(), loss, &outages))
}

async fn leader(peer: &dyn Peer, cluster: &Cluster) -> anyhow::Result<usize> {
    let ends = Instant::now() + OUTAGE_MAX;
    loop {
        match peer.leader(cluster).await {
            Err(_) if Instant::now() < ends => tokio::time::sleep(PUT_EVERY).await,
            led => return led,
        }
    }
}

/// A connection to each host that stays.
async fn stores(peer: &dyn Peer, cluster: &Cluster, lost: usize) -> anyhow::Result<Vec<Arc<dyn Store>>> {
    let accesses = peer.accesses(cluster, 1).await?;
    let route = accesses
        .first()
        .context("a peer without a way to reach it")?
        .route;
    let staying = cluster
        .endpoints
        .iter()
        .enumerate()
        .filter(|(place, _)| *place != lost);
    let access = Access {
        route,
        endpoints: staying.map(|(_, endpoint)| endpoint.clone()).collect(),
        connections: cluster.endpoints.len() - 1,
    };
    connect(&access).await
}

fn put(number: u64) -> Operation {
    Operation::Put(key(number % KEYS), Bytes::from_static(b"after"))
}

/// Until the first put that is acknowledged.
async fn outage(stores: &[Arc<dyn Store>]) -> anyhow::Result<Duration> {
    let began = Instant::now();
    let (acknowledged, mut first) = mpsc::channel(1);
    let mut under_way = tokio::task::JoinSet::new();
    let mut ticks = tokio::time::interval(PUT_EVERY);
    let mut number = 0;
    loop {
        tokio::select! {
            Some(after) = first.recv() => return Ok(after),
            _ = ticks.tick() => {
                anyhow::ensure!(began.elapsed() < OUTAGE_MAX, "no put was acknowledged for {OUTAGE_MAX:?}");
                for store in stores {
                    while under_way.try_join_next().is_some() {}
                    if under_way.len() >= UNDER_WAY_MAX * stores.len() {
                        continue;
                    }
                    number += 1;
                    let (store, acknowledged) = (store.clone(), acknowledged.clone());
                    under_way.spawn(async move {
                        if store.perform(put(number)).await.is_ok() {
                            // Only the first is waited for.
                            let _ = acknowledged.try_send(began.elapsed());
                        }
                    });
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use async_trait::async_trait;

    use super::*;

    /// Fails until a moment.
    struct Down {
        until: Instant,
    }

    #[async_trait]
    impl Store for Down {
        async fn perform(&self, _: Operation) -> anyhow::Result<()> {
            anyhow::ensure!(Instant::now() >= self.until, "down");
            Ok(())
        }
    }

    #[tokio::test(start_paused = true)]
    async fn an_outage_ends_with_the_first_acknowledgement() {
        let down = |millis| -> Arc<dyn Store> {
            Arc::new(Down {
                until: Instant::now() + Duration::from_millis(millis),
            })
        };
        let measured = outage(&[down(5_000), down(1_234)]).await.expect("it ends");
        assert_eq!(measured, Duration::from_millis(1_240));
    }

    #[test]
    fn outages_are_summed_up() {
        let outages: Vec<Duration> = (1..=10).map(|step| Duration::from_millis(step * 100)).collect();
        let summed = Outages::of("x", Loss::Kill, &outages);
        assert!(
            (summed.p50_ms - 500.0).abs() < 1.0 && (summed.max_ms - 1_000.0).abs() < 2.0,
            "{summed:?}"
        );
    }
}
