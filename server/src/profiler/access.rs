//! One access, as the data path reports it.

use std::fmt;

use placement::ShardId;
use serde::{Deserialize, Serialize};

use super::OriginId;

/// What an access did.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Op {
    /// A read of one key.
    Get,
    /// One page of a range read.
    Scan,
    /// A write.
    Put,
    /// A deletion.
    Delete,
    /// A conditional write, whether or not its condition held.
    CompareAndSet,
}

impl Op {
    /// The name in access logs.
    pub fn as_str(self) -> &'static str {
        match self {
            Op::Get => "get",
            Op::Scan => "scan",
            Op::Put => "put",
            Op::Delete => "delete",
            Op::CompareAndSet => "cas",
        }
    }

    /// Whether it goes through the shard's log.
    pub fn is_write(self) -> bool {
        !matches!(self, Op::Get | Op::Scan)
    }
}

impl fmt::Display for Op {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// One served request. Borrowed: recording copies only what it keeps.
#[derive(Debug, Clone, Copy)]
pub struct Access<'a> {
    /// The shard that served it.
    pub shard: ShardId,
    /// Where the client stands; see [`Profiler::origin`](super::Profiler::origin).
    pub origin: OriginId,
    /// What it did.
    pub op: Op,
    /// Whether it is a read that relied on the leader's lease.
    pub by_lease: bool,
    /// The key, or the first key of a scan's page.
    pub key: &'a [u8],
    /// The application's user.
    pub user: &'a str,
    /// Bytes of keys and values it carried, either way.
    pub bytes: u64,
    /// When it was served, in milliseconds of workload time.
    pub at_ms: u64,
}
