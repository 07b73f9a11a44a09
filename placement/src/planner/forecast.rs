//! What the planner is told about the next window: how many accesses each shard will see, and from where.
//!
//! A forecast is produced outside this crate (by a simple rule or by a trained model) and arrives as integers, so that
//! a plan is the same on every machine. Shares are parts per million of a shard's accesses by origin zone; counts are
//! thousandths of an access, because an hour of a quiet shard is expected to see less than one.
//!
//! Must hold, and checked by [`Forecast::validate`]: the shares of a shard sum to [`PPM`], or the shard is absent.
//! Left out: host scores. Hosts of one zone are equally far from an origin, so scores by zone decide.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use thiserror::Error;

use super::shares::OriginShares;
use crate::ids::{ShardId, WindowId, Zone};

/// One million: the whole of a quantity given in parts per million.
pub const PPM: u32 = 1_000_000;

/// The forecast of one window of workload time.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Forecast {
    /// The window that is forecast; it has not begun when the forecast is made.
    pub window: WindowId,
    /// Name and version of what made it, for example `ewma-0.05` or `burn-3f2a91`.
    pub model: String,
    /// The shards that a forecast exists for; a missing shard is expected to be idle.
    pub shards: BTreeMap<ShardId, ShardForecast>,
}

/// What one shard is expected to see in the window.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ShardForecast {
    /// Expected reads, in thousandths of a read.
    pub reads_milli: u64,
    /// Expected writes, in thousandths of a write.
    pub writes_milli: u64,
    /// Share of the accesses by the origin's zone, in parts per million; sums to [`PPM`].
    pub shares: OriginShares,
    /// How little the shares are to be trusted: 0 is certain, [`PPM`] is a guess. Gains are discounted by it.
    pub uncertainty_ppm: u32,
}

/// Why a forecast cannot be planned with.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum ForecastError {
    /// The shares of a shard do not sum to one million.
    #[error("the shares of {shard:?} sum to {sum_ppm} ppm, not to 1000000")]
    Shares {
        /// The shard.
        shard: ShardId,
        /// What its shares sum to.
        sum_ppm: u64,
    },
    /// An uncertainty above one million.
    #[error("the uncertainty of {shard:?} is {ppm} ppm, above 1000000")]
    Uncertainty {
        /// The shard.
        shard: ShardId,
        /// The value given.
        ppm: u32,
    },
}

impl Forecast {
    /// Checks every shard's shares and uncertainty.
    pub fn validate(&self) -> Result<(), ForecastError> {
        for (&shard, forecast) in &self.shards {
            let sum_ppm = forecast.shares.total_ppm();
            if sum_ppm != u64::from(PPM) {
                return Err(ForecastError::Shares { shard, sum_ppm });
            }
            if forecast.uncertainty_ppm > PPM {
                return Err(ForecastError::Uncertainty {
                    shard,
                    ppm: forecast.uncertainty_ppm,
                });
            }
        }
        Ok(())
    }
}

impl ShardForecast {
    /// Expected accesses of both kinds, in thousandths.
    pub fn accesses_milli(&self) -> u64 {
        self.reads_milli.saturating_add(self.writes_milli)
    }

    /// The origin with the largest share; of equal ones the first by name.
    pub fn likeliest_origin(&self) -> Option<&Zone> {
        let best = self.shares.iter().map(|(_, share)| share).max()?;
        self.shares
            .iter()
            .find(|(_, share)| *share == best)
            .map(|(zone, _)| zone)
    }
}
