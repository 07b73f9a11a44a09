//! `godwit plan`: what placement would do, from files alone.

use std::path::PathBuf;

use clap::{Args, Subcommand};

/// `godwit plan` and its verb.
#[derive(Debug, Clone, PartialEq, Eq, Args)]
pub struct OfflinePlanArgs {
    /// What to do.
    #[command(subcommand)]
    pub verb: OfflinePlanVerb,
}

/// What can be planned without a cluster.
#[derive(Debug, Clone, PartialEq, Eq, Subcommand)]
pub enum OfflinePlanVerb {
    /// Play a trace of accesses under several policies on hosts that need not exist: what would it have been like?
    Simulate(SimulateArgs),
}

/// Flags of `godwit plan simulate`.
#[derive(Debug, Clone, PartialEq, Eq, Args)]
#[command(
    after_help = "The first part of the trace is history: the key space is cut by it into shards of equal load, and \
                        forecasters learn from it. The rest is scored. Every policy begins with the placement that a new \
                        cluster of these hosts is given; before each window it has seen the windows before, and its \
                        moves are made at once. A shard holds, for each of its keys, the bytes of the key's last access. \
                        A violation is a window in which a host holds more than it offers, or in which voters of a \
                        shard share a zone for no need; each host and each shard is counted."
)]
pub struct SimulateArgs {
    /// A log in order of time (CSV or CSV.zst: timestamp_ms,user_id,data_id,origin,op,size)
    #[arg(long, value_name = "FILE")]
    pub trace: PathBuf,
    /// The hosts (CSV: host,zone,region,lat,lon,capacity_bytes); zones are as far apart as their places
    #[arg(long, value_name = "FILE")]
    pub hosts: PathBuf,
    /// Zone and place of each origin (CSV: origin,zone,region,lat,lon); without it, origins are the hosts' zones
    #[arg(long, value_name = "FILE")]
    pub zones: Option<PathBuf>,
    /// Measured round trips between zones (CSV zone,zone,micros or JSON), instead of those by distance
    #[arg(long, value_name = "FILE")]
    pub rtt_matrix: Option<PathBuf>,
    /// A trained model, which is played as well
    #[arg(long, value_name = "FILE")]
    pub model: Option<PathBuf>,
    /// Shards that the key space is cut into
    #[arg(long, value_name = "N", default_value_t = 64, value_parser = clap::value_parser!(u32).range(1..=16_384))]
    pub shards: u32,
    /// Voters of a shard
    #[arg(long, value_name = "R", default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..=7))]
    pub voters: u32,
    /// Minutes of a window
    #[arg(long, value_name = "MIN", default_value_t = 60, value_parser = clap::value_parser!(u64).range(1..=1_440))]
    pub window_min: u64,
    /// How much of the trace's time is history, in percent
    #[arg(long, value_name = "PERCENT", default_value_t = 50, value_parser = clap::value_parser!(u64).range(1..=99))]
    pub history: u64,
    /// The share of reads by lease, in parts per million: they need no majority
    #[arg(long, value_name = "PPM", default_value_t = 0, value_parser = clap::value_parser!(u32).range(0..=1_000_000))]
    pub lease_reads: u32,
    /// Move replicas as well as homes
    #[arg(long)]
    pub replicas: bool,
    /// Print one JSON document
    #[arg(long)]
    pub json: bool,
}
