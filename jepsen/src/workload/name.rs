//! The workloads, and the keys that belong to them.

use std::fmt;
use std::str::FromStr;

use clap::ValueEnum;
use serde::{Deserialize, Serialize};
use thiserror::Error;

/// What clients do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum WorkloadName {
    /// Gets, puts, compare-and-sets and deletes of single keys.
    Register,
    /// Lists that grow by get and compare-and-set.
    Append,
    /// Elements that are put once each, and read together by a scan.
    Set,
    /// Numbers that grow by compare-and-set.
    Counter,
    /// Keys on both sides of a shard's end that are put and deleted while others scan them.
    Scan,
    /// Accounts whose sum stays the same while transactions move money between them.
    Bank,
    /// Locks that hang on leases.
    Lease,
}

/// Why a name names no workload.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum UnknownWorkload {
    /// Nothing has this name.
    #[error("no workload is named {name}; there are register, append, set, counter, scan, bank and lease")]
    NoSuch {
        /// The name.
        name: String,
    },
}

impl WorkloadName {
    /// Every workload.
    pub const ALL: [Self; 7] = [
        Self::Register,
        Self::Append,
        Self::Set,
        Self::Counter,
        Self::Scan,
        Self::Bank,
        Self::Lease,
    ];

    /// As on the command line and in keys.
    pub fn name(self) -> &'static str {
        match self {
            Self::Register => "register",
            Self::Append => "append",
            Self::Set => "set",
            Self::Counter => "counter",
            Self::Scan => "scan",
            Self::Bank => "bank",
            Self::Lease => "lease",
        }
    }

    /// The workload that made `key`: its name follows the last slash, up to a dash.
    pub fn of_key(key: &str) -> Option<Self> {
        let (_, tail) = key.rsplit_once('/')?;
        let (name, _) = tail.split_once('-')?;
        Self::ALL.into_iter().find(|workload| workload.name() == name)
    }
}

impl fmt::Display for WorkloadName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for WorkloadName {
    type Err = UnknownWorkload;

    fn from_str(text: &str) -> Result<Self, UnknownWorkload> {
        let name = text.to_lowercase();
        let known = Self::ALL.into_iter().find(|workload| workload.name() == name);
        known.ok_or(UnknownWorkload::NoSuch { name })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_go_both_ways() {
        for workload in WorkloadName::ALL {
            assert_eq!(workload.to_string().parse(), Ok(workload));
            assert_eq!(WorkloadName::of_key(&format!("//{workload}-3.7")), Some(workload));
        }
        assert_eq!(
            WorkloadName::of_key("K/register-3!/scan-1-2"),
            Some(WorkloadName::Scan)
        );
        assert_eq!(WorkloadName::of_key("k1"), None);
    }

    #[test]
    fn what_nothing_is_named_is_said() {
        let refused = "registr".parse::<WorkloadName>().unwrap_err();
        assert!(refused.to_string().contains("register, append"), "{refused}");
    }
}
