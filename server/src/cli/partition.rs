//! `godwit partition`: where to cut the key space, from what was accessed.

use std::path::PathBuf;

use clap::Args;

/// Flags of `godwit partition`.
#[derive(Debug, Clone, PartialEq, Eq, Args)]
#[command(
    after_help = "Reads every log as a stream, cuts keys into ranges that are balanced in load and alike in where \
                        their accesses come from, and says what each range is for. No cluster is asked. \
                        The keys in --out are what `godwit init --split-at` takes. With --birth-prefix, \
                        an application that names a new key PREFIX, its origin, a slash and the rest creates \
                        it in a range of that origin's own."
)]
pub struct PartitionArgs {
    /// What was accessed.
    #[command(flatten)]
    pub sources: PartitionSources,
    /// Zone of each origin (CSV: origin,zone,region,lat,lon) [default: each origin is a zone]
    #[arg(long, value_name = "FILE")]
    pub zones: Option<PathBuf>,
    /// Ranges to cut into, at most; those for new keys come on top
    #[arg(long, value_name = "N", default_value_t = 64, value_parser = clap::value_parser!(u32).range(1..=65_536))]
    pub shards: u32,
    /// Also make a range for the new keys of each origin, named PREFIX, the origin and a slash
    #[arg(long, value_name = "PREFIX")]
    pub birth_prefix: Option<String>,
    /// Keys held in memory; of more, neighbours are counted together
    #[arg(long, value_name = "N", default_value_t = 250_000, value_parser = clap::value_parser!(u32).range(1_000..=10_000_000))]
    pub keys_max: u32,
    /// Write the split keys to FILE, one a line
    #[arg(long, value_name = "FILE")]
    pub out: Option<PathBuf>,
    /// Print one JSON document
    #[arg(long)]
    pub json: bool,
}

/// At least one.
#[derive(Debug, Clone, PartialEq, Eq, Args)]
#[group(required = true, multiple = true)]
pub struct PartitionSources {
    /// A host's folder of access logs; may be given for several hosts
    #[arg(long, value_name = "DIR")]
    pub log: Vec<PathBuf>,
    /// Traces (CSV or CSV.zst: timestamp_ms,user_id,data_id,origin,op,size)
    #[arg(long, value_name = "FILE", num_args = 1..)]
    pub trace: Vec<PathBuf>,
}
