//! What the rows come to: forecasters against the best simple rule, policies against the best EWMA, bars met or not.

use std::collections::BTreeMap;
use std::fmt;

use ml::field::family;
use serde::Serialize;

use super::maps::ShardMap;
use super::row::{BEST_EWMA, ForecastRow, PolicyRow};

/// A difference of costs below this is none.
const TIE: f64 = 0.001;
/// A loss beyond this part of the baseline's cost is one.
const LOSS_PART: f64 = 0.01;
const SHORTFALL_POINTS_MAX: f64 = 0.5;
const ECE_MAX: f64 = 0.03;
const ECE_AFFINITY_MAX: f64 = 0.05;

/// A policy against the EWMA with hysteresis that is best in hindsight, over all cuts, at one cost of a move.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Comparison {
    /// The policy.
    pub policy: String,
    /// What a move costs, in remote accesses.
    pub move_cost: f64,
    /// Cuts compared.
    pub cuts: usize,
    /// Where it costs less, by more than 0.001 and the interval.
    pub wins: usize,
    /// Where it costs more, by as much.
    pub losses: usize,
    /// Where it costs more by over one part in a hundred.
    pub losses_over_1_percent: usize,
    /// Its cost over the baseline's, minus 1, where that is largest.
    pub worst_excess: f64,
    /// The same in the mean.
    pub mean_excess: f64,
}

/// A cut's forecasters.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct HeadRoomVerdict {
    /// The trace.
    pub trace: String,
    /// Hours of a window.
    pub window_h: u64,
    /// From keys to shards.
    pub map: ShardMap,
    /// The simple rule that was best in hindsight.
    pub best_rule: String,
    /// The model's local-access ratio above its, in points.
    pub above_best_points: f64,
    /// The same above the best EWMA.
    pub above_ewma_points: f64,
    /// The model's expected calibration error.
    pub ece: f64,
    /// Whether both are within the bars.
    pub met: bool,
}

/// All of it.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Verdict {
    /// A cut each.
    pub head_room: Vec<HeadRoomVerdict>,
    /// A policy and a cost each.
    pub comparisons: Vec<Comparison>,
}

type CutKey<'a> = (&'a str, u64, ShardMap);

impl Verdict {
    pub(super) fn of(forecasts: &[ForecastRow], policies: &[PolicyRow]) -> Self {
        let mut by_cut: BTreeMap<CutKey<'_>, Vec<&ForecastRow>> = BTreeMap::new();
        for row in forecasts {
            by_cut
                .entry((&row.trace, row.window_h, row.map))
                .or_default()
                .push(row);
        }
        let mut comparisons: BTreeMap<(u64, &str), Comparison> = BTreeMap::new();
        for row in policies.iter().filter(|row| row.map != ShardMap::Cut) {
            let Some(baseline) = baseline_of(row, policies) else {
                continue;
            };
            let key = ((row.move_cost * 1e6) as u64, row.policy.as_str());
            comparisons.entry(key).or_default().add(row, baseline);
        }
        Self {
            head_room: by_cut
                .into_values()
                .filter_map(|rows| head_room_of(&rows))
                .collect(),
            comparisons: comparisons.into_values().collect(),
        }
    }
}

fn baseline_of<'a>(row: &PolicyRow, policies: &'a [PolicyRow]) -> Option<&'a PolicyRow> {
    let same = |other: &&PolicyRow| {
        other.policy == BEST_EWMA
            && other.trace == row.trace
            && (other.window_h, other.map) == (row.window_h, row.map)
            && other.move_cost == row.move_cost
    };
    policies.iter().find(same)
}

impl Comparison {
    fn add(&mut self, row: &PolicyRow, baseline: &PolicyRow) {
        let difference = row.cost.mean - baseline.cost.mean;
        let beyond = TIE.max(row.cost.half_width);
        let excess = difference / baseline.cost.mean.max(f64::MIN_POSITIVE);
        self.policy.clone_from(&row.policy);
        self.move_cost = row.move_cost;
        self.mean_excess = (self.mean_excess * self.cuts as f64 + excess) / (self.cuts + 1) as f64;
        self.worst_excess = if self.cuts == 0 {
            excess
        } else {
            self.worst_excess.max(excess)
        };
        self.cuts += 1;
        self.wins += usize::from(difference < -beyond);
        self.losses += usize::from(difference > beyond);
        self.losses_over_1_percent += usize::from(excess > LOSS_PART);
    }
}

fn head_room_of(rows: &[&ForecastRow]) -> Option<HeadRoomVerdict> {
    let ratio = |row: &&&ForecastRow| row.local_access_ratio.mean;
    let best = |wanted: &dyn Fn(&str) -> bool| {
        let of = rows.iter().filter(|row| wanted(&row.forecaster));
        of.max_by(|a, b| ratio(a).total_cmp(&ratio(b)))
    };
    let model = best(&|name| name == family::MODEL)?;
    let rule = best(&|name| name != family::MODEL && name != "per-window oracle")?;
    let ewma = best(&|name| name.starts_with("EWMA"))?;
    let above = |row: &&ForecastRow| 100.0 * (model.local_access_ratio.mean - row.local_access_ratio.mean);
    let ece = model.ece.map_or(0.0, |ece| ece.mean);
    let ece_max = match model.map {
        ShardMap::Affinity => ECE_AFFINITY_MAX,
        _ => ECE_MAX,
    };
    Some(HeadRoomVerdict {
        trace: model.trace.clone(),
        window_h: model.window_h,
        map: model.map,
        best_rule: rule.forecaster.clone(),
        above_best_points: above(rule),
        above_ewma_points: above(ewma),
        ece,
        met: above(rule) >= -SHORTFALL_POINTS_MAX && ece <= ece_max,
    })
}

impl fmt::Display for Comparison {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "c = {}: {} against the best EWMA: {} wins, {} losses ({} over 1 %) of {}, {:+.2} % in the mean, {:+.2} % at worst",
            self.move_cost,
            self.policy,
            self.wins,
            self.losses,
            self.losses_over_1_percent,
            self.cuts,
            100.0 * self.mean_excess,
            100.0 * self.worst_excess
        )
    }
}
