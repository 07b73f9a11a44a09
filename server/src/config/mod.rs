//! What a host is told before it starts: one [`HostConfig`], layered from defaults, a TOML file,
//! `GODWIT_*` environment variables and flags, each overriding the one before.
//!
//! Nothing here reads the process environment or opens a socket: the caller hands the variables and
//! the flags in, so a test can load any combination. A key nobody knows is an error, never ignored,
//! and every error names the field and where its value came from.

mod host;
mod load;
mod policy;
mod validate;

pub use host::{
    BalancerConfig, CheckpointConfig, EmulationConfig, HostConfig, Limits, LogConfig, MonitoringConfig,
    ProfilerConfig, RaftTimings, ScrubConfig, ShardsConfig, SnapshotConfig, StorageConfig, TracingConfig,
    TracingFormat, WatchConfig,
};
pub use load::{ConfigError, Fault, Setting, load};
pub use policy::{PolicyName, UnknownPolicy};
