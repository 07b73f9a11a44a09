//! `godwit model`: training, judging and looking at models, from logs alone.

use std::path::PathBuf;

use clap::{Args, Subcommand};

/// `godwit model` and its verb.
#[derive(Debug, Clone, PartialEq, Args)]
pub struct ModelArgs {
    /// What to do.
    #[command(subcommand)]
    pub verb: ModelVerb,
}

/// What can be done with models.
#[derive(Debug, Clone, PartialEq, Subcommand)]
pub enum ModelVerb {
    /// Train a model on a log, judge it by the log's latest windows, and keep it if it passes
    Train(Box<ModelTrainArgs>),
    /// Judge a trained model by the latest windows of a log
    Eval(Box<ModelEvalArgs>),
    /// Show what models were trained on, and how they did
    Status(ModelStatusArgs),
}

/// What is played on.
#[derive(Debug, Clone, PartialEq, Args)]
pub struct ModelLogArgs {
    /// Logs in order of time (CSV or CSV.zst: timestamp_ms,user_id,data_id,origin,op,size)
    #[arg(long, value_name = "FILE", num_args = 1.., required = true)]
    pub trace: Vec<PathBuf>,
    /// Zone and place of each origin (CSV: origin,zone,region,lat,lon)
    #[arg(long, value_name = "FILE")]
    pub zones: PathBuf,
    /// The shards' first keys, as `init --split-at` takes them
    #[arg(long, value_name = "FILE")]
    pub split_at: PathBuf,
    /// Minutes of a window
    #[arg(long, value_name = "MIN", default_value_t = 60, value_parser = clap::value_parser!(u64).range(1..=1_440))]
    pub window_min: u64,
    /// One in this many windows, the latest, is held to judge by
    #[arg(long, value_name = "N", default_value_t = 10, value_parser = clap::value_parser!(u64).range(2..=100))]
    pub held_part: u64,
    /// Voters of a shard
    #[arg(long, value_name = "R", default_value_t = 3, value_parser = clap::value_parser!(u64).range(1..=7))]
    pub voters: u64,
    /// What a move of a home costs, in microseconds of accesses' waiting
    #[arg(long, value_name = "US", default_value_t = 2_000)]
    pub move_cost_us: u64,
    /// The model that serves; the one judged must be no worse
    #[arg(long, value_name = "FILE")]
    pub active: Option<PathBuf>,
    /// Print one JSON document
    #[arg(long)]
    pub json: bool,
}

/// Flags of `godwit model train`.
#[derive(Debug, Clone, PartialEq, Args)]
#[command(
    after_help = "The model is trained on all windows but the held ones. It passes if, over those, no simple rule and not \
                        the model that serves would have had a lower mean round trip with moves paid, each with \
                        the hesitation that suited it best in hindsight. Only then is --out written."
)]
pub struct ModelTrainArgs {
    /// What to train on and to judge by.
    #[command(flatten)]
    pub log: ModelLogArgs,
    /// Where the model goes if it passes
    #[arg(long, value_name = "FILE")]
    pub out: PathBuf,
    /// Seed of the first weights and of the order of samples
    #[arg(long, default_value_t = 1)]
    pub seed: u64,
    /// Passes over the samples
    #[arg(long, default_value_t = 6, value_parser = clap::value_parser!(u64).range(1..=100))]
    pub epochs: u64,
}

/// Flags of `godwit model eval`.
#[derive(Debug, Clone, PartialEq, Args)]
pub struct ModelEvalArgs {
    /// The model to judge
    #[arg(value_name = "FILE")]
    pub model: PathBuf,
    /// What to judge by.
    #[command(flatten)]
    pub log: ModelLogArgs,
}

/// Flags of `godwit model status`.
#[derive(Debug, Clone, PartialEq, Eq, Args)]
pub struct ModelStatusArgs {
    /// Models
    #[arg(value_name = "FILE", required = true)]
    pub models: Vec<PathBuf>,
    /// Print a JSON list
    #[arg(long)]
    pub json: bool,
}
