//! Who reads what from where: the access profiler of a host.
//!
//! [`Profiler::record`] counts every access a host serves, in bounded memory and about the time of a
//! hash look-up. At the end of a window [`Profiler::take_window`] hands out what was counted as a
//! [`WindowReport`]; the placement leader merges the reports of all hosts into one [`ClusterWindow`],
//! the balancer's input. A sample of single accesses goes to the [`AccessLog`] on disk, which is what
//! a model is trained on.
//!
//! Nothing here reads a clock: windows are named and accesses are stamped by the caller, in workload
//! time. Chance comes from a seed. Every bound is a constant with a name in the file that keeps it.

mod access;
mod access_log;
mod key_sample;
mod origins;
mod profile;
mod report;
mod sampler;
mod shard_profile;
mod top;
mod window_archive;

pub use access::{Access, Op};
pub use access_log::{
    AccessLog, AccessLogFileError, AccessLogOptions, access_log_files, key_text, read_access_log_file,
};
pub use key_sample::{KEY_SAMPLE_MAX, KeySample, MERGED_SAMPLE_MAX, SampledAccess};
pub use origins::{ORIGINS_MAX, OTHER_ORIGIN, OriginId};
pub use profile::{Profiler, SHARDS_MAX, TRAIL_MAX};
pub use report::{
    ClusterWindow, HotKey, HotUser, MergeError, OpUse, OriginUse, ShardWindow, Touch, WindowReport,
};
pub use sampler::AccessSampler;
pub use shard_profile::{HOT_KEYS_MAX, HOT_USERS_MAX};
pub use window_archive::{WindowArchive, archived_windows};
