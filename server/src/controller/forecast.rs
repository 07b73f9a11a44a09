//! What each policy is: how it forecasts, and what the planner may do with its forecast.

use std::path::{Path, PathBuf};

use ml::{
    AccessLogError, AccessLogReader, Ewma, Forecaster, GuardedModel, HostAffinityModel, HourOfDay, KeyRanges,
    LastWindow, ModelFileError, RuleForecaster, StaticMajority, TrainedModel, WindowAggregator, WindowError,
    WindowLength, ZoneFileError, ZoneMap, each_window,
};
use placement::planner::{Hysteresis, Mode, Objective, PlanCosts, PlanOptions, SkiRental};
use placement::{WindowId, Zone};

use crate::config::{BalancerConfig, PolicyName};
use crate::host::Host;
use crate::profiler::archived_windows;

/// The slow average's weight of the newest window: the best of its grid on most traces.
const EWMA_ALPHA: f32 = 0.02;

/// How much replica sets are chosen for homes that follow their accesses, against homes that stay. Half: the planner
/// cannot know how well the forecasts to come will follow.
const FOLLOW_PPM: u32 = 500_000;

/// Why a policy cannot start.
#[derive(Debug, thiserror::Error)]
pub(crate) enum PolicyError {
    #[error(
        "the policy burn-model needs balancer.model_file, an active model, or balancer.retrain_interval_ms"
    )]
    NoModel,
    #[error(transparent)]
    Model(#[from] ModelFileError),
    #[error("{path}: {source}")]
    Log { path: PathBuf, source: AccessLogError },
    #[error(transparent)]
    Zones(#[from] ZoneFileError),
    #[error("{path}: {source}")]
    Window { path: PathBuf, source: WindowError },
}

/// A policy's forecaster; `None` for the one that forecasts nothing.
pub(crate) fn forecaster(
    policy: PolicyName,
    config: &BalancerConfig,
    zones: &[Zone],
    length: WindowLength,
    opened: WindowId,
    active: Option<TrainedModel>,
) -> Result<Option<Box<dyn Forecaster + Send + Sync>>, PolicyError> {
    Ok(Some(match policy {
        PolicyName::StaticHash => return Ok(None),
        PolicyName::StaticMajority => Box::new(RuleForecaster::new(
            policy.as_str(),
            zones,
            StaticMajority::new(opened),
        )),
        PolicyName::LastWindow => {
            Box::new(RuleForecaster::new(policy.as_str(), zones, LastWindow::default()))
        }
        PolicyName::EwmaHysteresis => Box::new(slow_average(zones)),
        PolicyName::HourOfDay => Box::new(RuleForecaster::new(
            policy.as_str(),
            zones,
            HourOfDay::new(length),
        )),
        PolicyName::BurnModel => {
            let configured = || config.model_file.as_deref().map(TrainedModel::load).transpose();
            let model = match active {
                Some(active) => Some(active),
                None => configured()?,
            };
            let rule = Box::new(slow_average(zones));
            match model {
                Some(model) => {
                    let model = HostAffinityModel::new(model, zones);
                    Box::new(GuardedModel::new(Box::new(model), rule))
                }
                // Until one is trained.
                None if config.retrain_interval_ms > 0 && !config.external_windows => rule,
                None => return Err(PolicyError::NoModel),
            }
        }
    }))
}

/// What a model falls back on as well.
pub(crate) fn slow_average(zones: &[Zone]) -> RuleForecaster<Ewma> {
    RuleForecaster::new(format!("ewma-{EWMA_ALPHA}"), zones, Ewma::new(EWMA_ALPHA))
}

/// What the planner may do for a policy.
pub(crate) fn plan_options(policy: PolicyName, mode: Mode, lease_reads_ppm: u32) -> PlanOptions {
    let objective = match policy {
        PolicyName::LastWindow => Objective::MostLikely,
        _ => Objective::ExpectedRtt,
    };
    let hysteresis = match policy {
        PolicyName::EwmaHysteresis => Hysteresis::SkiRental(SkiRental {
            bar_ppm: 1_000_000,
            return_bar_ppm: 2_000_000,
            return_windows: 24,
        }),
        _ => Hysteresis::None,
    };
    PlanOptions {
        mode,
        objective,
        hysteresis,
        lease_reads_ppm,
        follow_ppm: FOLLOW_PPM,
        horizon_windows: 24 * 7,
        fair_share_max_ppm: None,
        home_moves_max: u32::MAX,
        replica_moves_max: u32::MAX,
    }
}

/// What moves are taken to cost. A transfer pauses one shard for a round trip or two; a copy has the rate that hosts send
/// moves at by default.
pub(crate) fn plan_costs() -> PlanCosts {
    PlanCosts {
        home_move_micros: 2_000,
        replica_move_micros: 200_000,
        copy_bytes_per_s: 8 << 20,
        copy_weight_ppm: 10_000,
    }
}

/// Whether a policy plans again after each window.
pub(crate) fn follows_windows(policy: PolicyName) -> bool {
    !matches!(policy, PolicyName::StaticHash | PolicyName::StaticMajority)
}

/// Shows a forecaster the windows of the configured history before `open`, counted over the given shards; the last of them.
pub(crate) fn learn(
    forecaster: &mut dyn Forecaster,
    config: &BalancerConfig,
    ranges: KeyRanges,
    length: WindowLength,
    open: WindowId,
) -> Result<Option<WindowId>, PolicyError> {
    let (Some(log), Some(zones)) = (&config.history, &config.history_zones) else {
        return Ok(None);
    };
    let zones = ZoneMap::open(zones)?;
    let until_ms = match config.history_until_ms {
        0 => u64::MAX,
        until_ms => until_ms,
    };
    let entries = open_log(log)?.map(|entry| entry.map_err(HistoryError::Log));
    let early = entries.take_while(|entry| !matches!(entry, Ok(entry) if entry.timestamp_ms >= until_ms));
    let aggregator = WindowAggregator::new(length.as_ms(), ranges, zones);
    let mut last = None;
    let learnt = each_window(early, aggregator, |counts| {
        if counts.window < open {
            last = Some(counts.window);
            forecaster.observe(&counts);
        }
    });
    learnt.map(|()| last).map_err(|error| match error {
        HistoryError::Log(source) => PolicyError::Log {
            path: log.clone(),
            source,
        },
        HistoryError::Window(source) => PolicyError::Window {
            path: log.clone(),
            source,
        },
    })
}

/// Shows a forecaster the windows that were collected on this host, after those that it knows and before `open`.
pub(crate) fn learn_kept(
    forecaster: &mut dyn Forecaster,
    host: &Host,
    known: Option<WindowId>,
    open: WindowId,
) {
    match archived_windows(&*host.disk(), &host.windows_folder()) {
        Ok(windows) => {
            let news = |window: WindowId| known.is_none_or(|known| known < window) && window < open;
            windows
                .filter(|counts| news(counts.window))
                .for_each(|counts| forecaster.observe(&counts));
        }
        Err(error) => tracing::warn!(%error, "the windows kept here cannot be read"),
    }
}

/// What is wrong with a history, before its file is named.
enum HistoryError {
    Log(AccessLogError),
    Window(WindowError),
}

impl From<WindowError> for HistoryError {
    fn from(error: WindowError) -> Self {
        Self::Window(error)
    }
}

fn open_log(path: &Path) -> Result<AccessLogReader, PolicyError> {
    AccessLogReader::open(path).map_err(|source| PolicyError::Log {
        path: path.to_owned(),
        source,
    })
}
