//! `godwit top`: a live view of a cluster.

use clap::Args;

/// Flags of `godwit top`.
#[derive(Debug, Clone, PartialEq, Eq, Args)]
#[command(
    after_help = "Ctrl-C ends it. Rates and latencies are those of the time between two looks, of the hosts that answered \
                        both. A latency is from when a request was read to when its answer was ready; the p99 is an \
                        upper bound, from the same buckets as godwit_request_duration_seconds."
)]
pub struct TopArgs {
    /// Milliseconds between two looks
    #[arg(long, value_name = "MS", default_value_t = 2_000, value_parser = clap::value_parser!(u64).range(100..=600_000))]
    pub interval: u64,
    /// Migrations shown at most
    #[arg(long, value_name = "N", default_value_t = 10, value_parser = clap::value_parser!(u32).range(1..=1_000))]
    pub migrations: u32,
    /// Print one frame as text, after two looks, and end
    #[arg(long)]
    pub once: bool,
}
