//! The ground that plans are made on: ranges, zones, and the round trips between them.

use std::collections::BTreeSet;

use ml::KeyRanges;
use placement::planner::RttMatrix;
use placement::{Host, Zone};

use super::Controller;
use super::balance::BalanceError;
use crate::net::read_rtt_matrix;

/// Round trips assumed where none are configured, by whether zone or region are shared.
const SAME_ZONE_MICROS: u32 = 500;
const SAME_REGION_MICROS: u32 = 2_000;
const OTHER_REGION_MICROS: u32 = 40_000;

impl Controller {
    /// The shards' ranges, numbered as the placement state numbers them: from 1 in key order.
    pub(super) fn ranges(&self) -> KeyRanges {
        let state = self.local.machine.state();
        KeyRanges::new(
            state
                .data_shards()
                .map(|shard| shard.range.start.clone())
                .filter(|key| !key.is_empty())
                .collect(),
        )
    }

    pub(super) fn zones(&self) -> Vec<Zone> {
        let state = self.local.machine.state();
        state
            .hosts()
            .values()
            .map(|host| host.zone.clone())
            .collect::<BTreeSet<_>>()
            .into_iter()
            .collect()
    }

    pub(super) fn rtt(&self) -> Result<RttMatrix, BalanceError> {
        let config = self.host.config();
        let named = config
            .balancer
            .rtt_matrix
            .as_ref()
            .or(config.emulation.rtt_matrix.as_ref());
        if let Some(path) = named {
            return Ok(read_rtt_matrix(path)?);
        }
        let state = self.local.machine.state();
        let mut rtt = RttMatrix::default();
        for from in state.hosts().values() {
            for to in state.hosts().values() {
                rtt.insert(from.zone.clone(), to.zone.clone(), assumed_micros(from, to));
            }
        }
        Ok(rtt)
    }
}

fn assumed_micros(from: &Host, to: &Host) -> u32 {
    match (from.zone == to.zone, from.region == to.region) {
        (true, _) => SAME_ZONE_MICROS,
        (false, true) => SAME_REGION_MICROS,
        (false, false) => OTHER_REGION_MICROS,
    }
}
