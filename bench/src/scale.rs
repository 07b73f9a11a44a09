//! What more shards and more keys cost: throughput, latency, and what a cluster uses that nobody asks anything.
//!
//! Each point is a cluster of its own. The cost of an idle replica is the slope between two points that differ in their
//! shards: so what a process takes anyway does not count.

use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::Context;
use comfy_table::Table;
use serde::{Deserialize, Serialize};

use crate::load::{Load, Pace, run};
use crate::peer::{Cluster, Godwit, Peer, Route};
use crate::workload::{Keys, Kind, Workload};

const CLIENTS: usize = 256;
const CONNECTIONS: usize = 16;
const VALUE_BYTES: usize = 256;
const WARM_UP_S: f64 = 1.0;
/// How long a cluster is left alone before its idleness is measured: checkpoints of what was written come to an end.
const SETTLE: Duration = Duration::from_secs(10);

/// What is measured.
#[derive(Clone, Debug)]
pub struct ScaleOptions {
    /// Numbers of shards, with `keys` keys each time.
    pub shards: Vec<u32>,
    /// Numbers of keys, with `base_shards` shards.
    pub keys: Vec<u64>,
    /// Keys where the shards vary.
    pub base_keys: u64,
    /// Shards where the keys vary.
    pub base_shards: u32,
    /// Hosts of each cluster, each with a replica of every shard.
    pub hosts: usize,
    /// Seconds that each load, and the idleness, is measured.
    pub seconds: f64,
    /// Where the clusters' data lies meanwhile.
    pub folder: PathBuf,
    /// More settings of the hosts, as `field=value`.
    pub settings: Vec<String>,
    /// Of every random choice.
    pub seed: u64,
}

/// All points.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct ScaleReport {
    /// Of godwit.
    pub version: String,
    /// Hosts of each cluster.
    pub hosts: usize,
    /// A row a point.
    pub points: Vec<ScalePoint>,
    /// What an idle replica takes, between the two points with most shards and the same keys.
    pub idle_replica: Option<IdleReplica>,
}

/// A cluster of so many shards and keys.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct ScalePoint {
    /// Shards.
    pub shards: u32,
    /// Keys.
    pub keys: u64,
    /// Seconds until all keys were written.
    pub fill_s: f64,
    /// Puts of 256 bytes by 256 clients.
    pub put: LoadFigures,
    /// Linearizable gets by 256 clients.
    pub get: LoadFigures,
    /// Cores that the hosts take together when nobody asks them anything.
    pub idle_cores: f64,
    /// Bytes that the hosts hold in memory together then.
    pub resident_bytes: u64,
}

/// What a load came to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct LoadFigures {
    /// Operations a second.
    pub ops_s: f64,
    /// Half of the operations took no longer, in microseconds.
    pub p50_us: f64,
    /// 99 of 100 took no longer.
    pub p99_us: f64,
    /// Seconds of processor time of all hosts, an operation.
    pub cpu_s_per_op: f64,
    /// Operations that failed.
    pub failures: u64,
}

/// What one more replica takes while it is idle.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct IdleReplica {
    /// Share of a core.
    pub cores: f64,
    /// Bytes of memory.
    pub resident_bytes: f64,
}

/// Measures every point; `told` hears of each.
///
/// # Errors
/// When a cluster does not start, or a key cannot be written.
pub async fn scale(options: &ScaleOptions, mut told: impl FnMut(&ScalePoint)) -> anyhow::Result<ScaleReport> {
    let by_shards = options.shards.iter().map(|shards| (*shards, options.base_keys));
    let by_keys = options.keys.iter().map(|keys| (options.base_shards, *keys));
    let mut report = ScaleReport {
        version: Godwit::own(1, Route::Stream)?.version()?,
        hosts: options.hosts,
        ..ScaleReport::default()
    };
    for (shards, keys) in by_shards.chain(by_keys) {
        if report
            .points
            .iter()
            .any(|point| (point.shards, point.keys) == (shards, keys))
        {
            continue;
        }
        let point = measure(options, shards, keys).await?;
        told(&point);
        report.points.push(point);
    }
    report.idle_replica = slope(&report.points, options.hosts);
    Ok(report)
}

async fn measure(options: &ScaleOptions, shards: u32, keys: u64) -> anyhow::Result<ScalePoint> {
    std::fs::create_dir_all(&options.folder)?;
    let folder = tempfile::tempdir_in(&options.folder).context("a folder for the cluster")?;
    let mut godwit = Godwit::own(shards, Route::Stream)?;
    godwit.settings.clone_from(&options.settings);
    let cluster = godwit.start(folder.path(), options.hosts).await?;
    let mut accesses = godwit.accesses(&cluster, CONNECTIONS).await?;
    let load = Load {
        access: accesses.pop().context("a peer without a way to reach it")?,
        workload: Workload {
            kind: Kind::Put,
            keys: Keys::Uniform,
            key_count: keys,
            value_bytes: VALUE_BYTES,
        },
        pace: Pace::Fill { clients: CLIENTS },
        warm_up_s: WARM_UP_S,
        seconds: options.seconds,
        slice_s: 0.0,
        seed: options.seed,
        steps: None,
    };
    let (filled, _) = run(&load, || cluster.usage()).await?;
    if let Some(failure) = filled.first_failure {
        anyhow::bail!("{} keys were not written: {failure}", filled.failures);
    }
    let put = figures(&cluster, &load, Kind::Put).await?;
    let get = figures(&cluster, &load, Kind::Get).await?;
    tokio::time::sleep(SETTLE).await;
    let before = cluster.usage()?;
    tokio::time::sleep(Duration::from_secs_f64(options.seconds)).await;
    let idle = cluster.usage()? - before;
    Ok(ScalePoint {
        shards,
        keys,
        fill_s: filled.seconds,
        put,
        get,
        idle_cores: idle.cpu_s / options.seconds,
        resident_bytes: idle.resident_bytes,
    })
}

async fn figures(cluster: &Cluster, fill: &Load, kind: Kind) -> anyhow::Result<LoadFigures> {
    let load = Load {
        workload: Workload {
            kind,
            ..fill.workload.clone()
        },
        pace: Pace::Closed { clients: CLIENTS },
        ..fill.clone()
    };
    let (measured, used) = run(&load, || cluster.usage()).await?;
    Ok(LoadFigures {
        ops_s: measured.operations as f64 / measured.seconds,
        p50_us: measured.latencies.quantile_us(0.5),
        p99_us: measured.latencies.quantile_us(0.99),
        cpu_s_per_op: used.cpu_s / measured.operations.max(1) as f64,
        failures: measured.failures,
    })
}

/// Between the two points with most shards among those with the keys of the point with most.
fn slope(points: &[ScalePoint], hosts: usize) -> Option<IdleReplica> {
    let most = points.iter().max_by_key(|point| point.shards)?;
    let alike = points.iter().filter(|point| point.keys == most.keys);
    let fewer = alike
        .filter(|point| point.shards < most.shards)
        .max_by_key(|point| point.shards)?;
    let replicas = f64::from(most.shards - fewer.shards) * hosts as f64;
    Some(IdleReplica {
        cores: (most.idle_cores - fewer.idle_cores) / replicas,
        resident_bytes: (most.resident_bytes as f64 - fewer.resident_bytes as f64) / replicas,
    })
}

impl fmt::Display for ScaleReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut table = Table::new();
        table.load_style(comfy_table::presets::NOTHING);
        table.set_header([
            "shards",
            "keys",
            "fill s",
            "put/s",
            "p50 us",
            "p99 us",
            "cpu us",
            "get/s",
            "p50 us",
            "p99 us",
            "cpu us",
            "idle cores",
            "MiB",
        ]);
        for point in &self.points {
            let mut row = vec![
                point.shards.to_string(),
                point.keys.to_string(),
                format!("{:.1}", point.fill_s),
            ];
            for load in [&point.put, &point.get] {
                row.extend([
                    format!("{:.0}", load.ops_s),
                    format!("{:.0}", load.p50_us),
                    format!("{:.0}", load.p99_us),
                    format!("{:.1}", load.cpu_s_per_op * 1e6),
                ]);
            }
            row.push(format!("{:.3}", point.idle_cores));
            row.push((point.resident_bytes >> 20).to_string());
            table.add_row(row);
        }
        writeln!(
            f,
            "{}, {} hosts, 256 clients, values of 256 bytes\n{table}",
            self.version, self.hosts
        )?;
        match &self.idle_replica {
            Some(idle) => writeln!(
                f,
                "one more idle replica: {:.4} % of a core, {:.0} KiB",
                idle.cores * 100.0,
                idle.resident_bytes / 1024.0
            ),
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn point(shards: u32, keys: u64, idle_cores: f64, mebibytes: u64) -> ScalePoint {
        ScalePoint {
            shards,
            keys,
            fill_s: 0.0,
            put: LoadFigures::default(),
            get: LoadFigures::default(),
            idle_cores,
            resident_bytes: mebibytes << 20,
        }
    }

    #[test]
    fn a_slope_is_taken_between_the_points_with_most_shards() {
        let points = [
            point(1, 1_000, 0.5, 900),
            point(64, 1_000, 0.1, 100),
            point(256, 1_000, 0.1 + 0.576, 100 + 144),
            point(16, 5, 9.0, 9),
        ];
        let idle = slope(&points, 3).expect("two points");
        assert!((idle.cores - 0.001).abs() < 1e-9, "{idle:?}");
        assert!(
            (idle.resident_bytes - f64::from(256 << 10)).abs() < 1.0,
            "{idle:?}"
        );
        assert_eq!(slope(&points[..1], 3), None);
    }
}
