//! The command line of `godwit`: its verbs, their flags and the help an operator reads.
//!
//! Parsing only. Nothing here connects, reads a file or decides; `--connect` falls back to
//! `GODWIT_CONNECT`, which clap reads. Flags nobody knows end the program before anything happens.

mod admin;
mod backup;
mod cluster;
mod demo;
mod kv;
mod model;
mod moment;
mod partition;
mod plan;
mod serve;
mod top;
mod windows;

pub use admin::{
    AdminArgs, AdminVerb, BetArg, CancelArgs, ExplainArgs, HistoryArgs, HostArgs, HostsArgs, LeaveArgs,
    LimitsArgs, MergeArgs, MigrationsArgs, MoveArgs, MoveHomeArgs, OriginArg, PauseArgs, PlanArgs, RateArg,
    RecoverArgs, ReplicasArgs, ScrubArgs, ShadowArgs, ShardsArgs, SplitArgs, TrustArgs,
};
pub use backup::{BackupArgs, BackupCreateArgs, BackupRestoreArgs, BackupVerb, BackupVerifyArgs};
pub use cluster::{Cli, Command, CompletionsArgs, ConnectArgs, InitArgs, InitRanges, ManArgs};
pub use demo::DemoArgs;
pub use kv::{
    CasArgs, CasExpect, CompactArgs, DeleteArgs, GetArgs, KeyHistoryArgs, KvArgs, KvVerb, LeaseArgs, LeaseOf,
    LeaseVerb, PutArgs, ReadChoice, ScanArgs, TxnArgs, WatchArgs,
};
pub use model::{
    ClusterModelVerb, ModelActivateArgs, ModelArgs, ModelEvalArgs, ModelKeepArgs, ModelListArgs,
    ModelLogArgs, ModelRollbackArgs, ModelStatusArgs, ModelTrainArgs, ModelVerb,
};
pub use moment::Moment;
pub use partition::{PartitionArgs, PartitionSources};
pub use plan::{OfflinePlanArgs, OfflinePlanVerb, SimulateArgs};
pub use serve::ServeArgs;
pub use top::TopArgs;
pub use windows::{DayArg, WindowAddArgs, WindowArgs, WindowRemoveArgs, WindowVerb};
