//! `godwit model`: training, judging and looking at models, from logs alone; and the models of a cluster.

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
    /// List the models that a cluster keeps
    List(ModelListArgs),
    /// Hand a trained model to a cluster
    Keep(ModelKeepArgs),
    /// Let a model forecast that the cluster keeps
    Activate(ModelActivateArgs),
    /// Let the model forecast that did before the active one
    Rollback(ModelRollbackArgs),
}

/// The verbs that ask a cluster.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ClusterModelVerb<'a> {
    /// `list`
    List(&'a ModelListArgs),
    /// `keep`
    Keep(&'a ModelKeepArgs),
    /// `activate`
    Activate(&'a ModelActivateArgs),
    /// `rollback`
    Rollback(&'a ModelRollbackArgs),
}

impl ModelVerb {
    /// The verb, if it asks a cluster.
    pub fn of_cluster(&self) -> Option<ClusterModelVerb<'_>> {
        match self {
            ModelVerb::List(args) => Some(ClusterModelVerb::List(args)),
            ModelVerb::Keep(args) => Some(ClusterModelVerb::Keep(args)),
            ModelVerb::Activate(args) => Some(ClusterModelVerb::Activate(args)),
            ModelVerb::Rollback(args) => Some(ClusterModelVerb::Rollback(args)),
            ModelVerb::Train(_) | ModelVerb::Eval(_) | ModelVerb::Status(_) => None,
        }
    }
}

/// Flags of `godwit model list`.
#[derive(Debug, Clone, PartialEq, Eq, Args)]
pub struct ModelListArgs {
    /// Print a JSON list
    #[arg(long)]
    pub json: bool,
}

/// Flags of `godwit model keep`.
#[derive(Debug, Clone, PartialEq, Eq, Args)]
pub struct ModelKeepArgs {
    /// The model
    #[arg(value_name = "FILE")]
    pub model: PathBuf,
    /// Let it forecast at once
    #[arg(long)]
    pub activate: bool,
    /// Why, kept in the history
    #[arg(long, default_value = "")]
    pub reason: String,
    /// Print a JSON list
    #[arg(long)]
    pub json: bool,
}

/// Flags of `godwit model activate`.
#[derive(Debug, Clone, PartialEq, Eq, Args)]
pub struct ModelActivateArgs {
    /// Its version, as listed
    #[arg(value_name = "VERSION")]
    pub model: String,
    /// Why, kept in the history
    #[arg(long, default_value = "")]
    pub reason: String,
    /// Print a JSON list
    #[arg(long)]
    pub json: bool,
}

/// Flags of `godwit model rollback`.
#[derive(Debug, Clone, PartialEq, Eq, Args)]
pub struct ModelRollbackArgs {
    /// Why, kept in the history
    #[arg(long, default_value = "")]
    pub reason: String,
    /// Print a JSON list
    #[arg(long)]
    pub json: bool,
}

/// What is played on.
#[derive(Debug, Clone, PartialEq, Args)]
pub struct ModelLogArgs {
    /// Logs in order of time (CSV or CSV.zst: timestamp_ms,user_id,data_id,origin,op,size)
    #[arg(long, value_name = "FILE", num_args = 1.., required_unless_present = "windows", requires_all = ["zones", "split_at"])]
    pub trace: Vec<PathBuf>,
    /// Zone and place of each origin (CSV: origin,zone,region,lat,lon)
    #[arg(long, value_name = "FILE")]
    pub zones: Option<PathBuf>,
    /// The shards' first keys, as `init --split-at` takes them
    #[arg(long, value_name = "FILE")]
    pub split_at: Option<PathBuf>,
    /// Instead of logs, the windows that a controller has collected (`windows` in its data folder)
    #[arg(long, value_name = "DIR", conflicts_with = "trace", requires = "rtt")]
    pub windows: Option<PathBuf>,
    /// Round trips between the zones of those windows (CSV: zone,zone,micros)
    #[arg(long, value_name = "FILE")]
    pub rtt: Option<PathBuf>,
    /// Minutes of a window
    #[arg(long, value_name = "MIN", default_value_t = 60, value_parser = clap::value_parser!(u64).range(1..=1_440))]
    pub window_min: u64,
    /// The same in milliseconds
    #[arg(long, value_name = "MS", hide = true, conflicts_with = "window_min", value_parser = clap::value_parser!(u64).range(100..=86_400_000))]
    pub window_ms: Option<u64>,
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
    /// Most samples to train on; of a log that has more, an even part is drawn
    #[arg(long, value_name = "N", default_value_t = 400_000, value_parser = clap::value_parser!(u64).range(1_000..=100_000_000))]
    pub samples_max: u64,
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
