//! The names of the placement policies, as configuration, command line and reports spell them.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// A placement policy. Written in kebab case everywhere (`last-window`).
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, clap::ValueEnum,
)]
#[serde(rename_all = "kebab-case")]
pub enum PolicyName {
    /// Homes spread by shard id, whatever the load; never moves.
    StaticHash,
    /// Each home where most of its past accesses came from; never moves.
    StaticMajority,
    /// Each home follows the majority of the window that just ended.
    LastWindow,
    /// Each home follows an exponentially weighted average, once the gain exceeds a margin.
    EwmaHysteresis,
    /// Each home goes where that hour of the day was served from in the past.
    HourOfDay,
    /// Each home goes where the trained model expects the next window's accesses.
    BurnModel,
}

impl PolicyName {
    /// Every policy, simplest first; the order reports use.
    pub const ALL: [PolicyName; 6] = [
        PolicyName::StaticHash,
        PolicyName::StaticMajority,
        PolicyName::LastWindow,
        PolicyName::EwmaHysteresis,
        PolicyName::HourOfDay,
        PolicyName::BurnModel,
    ];

    /// The name in kebab case.
    pub fn as_str(self) -> &'static str {
        match self {
            PolicyName::StaticHash => "static-hash",
            PolicyName::StaticMajority => "static-majority",
            PolicyName::LastWindow => "last-window",
            PolicyName::EwmaHysteresis => "ewma-hysteresis",
            PolicyName::HourOfDay => "hour-of-day",
            PolicyName::BurnModel => "burn-model",
        }
    }
}

impl fmt::Display for PolicyName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// A policy name nobody knows.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("no policy is called {0:?}")]
pub struct UnknownPolicy(pub String);

impl FromStr for PolicyName {
    type Err = UnknownPolicy;

    fn from_str(name: &str) -> Result<Self, UnknownPolicy> {
        PolicyName::ALL
            .into_iter()
            .find(|policy| policy.as_str() == name)
            .ok_or_else(|| UnknownPolicy(name.to_owned()))
    }
}

#[cfg(test)]
mod tests {
    use clap::ValueEnum;

    use super::*;

    #[test]
    fn one_spelling_everywhere() {
        for policy in PolicyName::ALL {
            let flag = policy.to_possible_value().unwrap();
            assert_eq!(flag.get_name(), policy.as_str());
            assert_eq!(serde_json::to_value(policy).unwrap(), policy.as_str());
            assert_eq!(policy.as_str().parse(), Ok(policy));
        }
        assert_eq!(PolicyName::value_variants().len(), PolicyName::ALL.len());
        assert!("last_window".parse::<PolicyName>().is_err());
    }
}
