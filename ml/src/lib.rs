//! Forecasts where each shard will be accessed from next, from what was accessed before.
//!
//! The path of a forecast: an access log ([`AccessLogReader`]) or a host's profiler gives [`WindowCounts`]; a
//! [`Forecaster`] observes them one by one and forecasts the next window; the forecast leaves this crate as integers
//! (`placement::planner::Forecast`). The forecasters are the simple rules ([`Ewma`], [`HourOfDay`] and others) and
//! [`HostAffinityModel`], which [`train`] fits with burn. [`partition`] cuts keys into shards, and [`replay`] scores a
//! policy offline on windows that have passed; [`run_tournament`] plays many, with what moves cost and the time they
//! take.
//!
//! What it does not know: hosts, Raft, the wall clock, where files come from. Zones are labels; time is the log's;
//! chance comes from a seed that is handed in. Nothing that is replicated depends on a float made here.

mod access_log;
mod affinity;
mod baselines;
mod evaluate;
mod forecaster;
pub mod partition;
mod profile;
mod window;
mod zone_map;

pub use access_log::{AccessLogEntry, AccessLogError, AccessLogReader, COLUMNS};
pub use affinity::{
    GuardedModel, HostAffinityModel, ModelFileError, PAIR_FEATURE_NAMES, PairFeatures, RATE_FEATURE_NAMES,
    Scorer, ScorerError, ScorerWeights, ShardFeatures, TrainConfig, TrainDevice, TrainError, TrainedModel,
    TrainingMetrics, TrainingSampler, TrainingSet, TrainingSpan, train,
};
pub use baselines::{
    Ewma, HourOfDay, LastAccess, LastWindow, Rule, RuleForecaster, SeasonalNaive, StaticHash, StaticMajority,
};
pub use evaluate::field;
pub use evaluate::{
    Bounds, CalibrationScore, Cell, Contender, Contestant, Forecasts, Gate, GateConfig, GateError,
    GateReport, Ground, HeadRoom, HeadRoomScore, Ledger, MOVE_DELAY_WINDOWS, Mixture, Mover, ORIGINS_MAX,
    Objective, Prices, ReplayConfig, ReplayScore, Standing, Standings, Terms, Tournament, VoterChoice,
    Voters, head_room, optimum, replay, replay_oracle, run_tournament, run_tournament_observed,
};
pub use forecaster::{Expectation, Forecaster, OriginNames, shares_ppm};
pub use partition::{KeyLoad, KeyLoads, KeyRanges};
pub use profile::{Counts, WindowLength};
pub use window::{
    OriginCount, TOUCHES_MAX, Touch, WindowAggregator, WindowCounts, WindowError, digest, each_window,
    windows_of,
};
pub use zone_map::{ZoneFileError, ZoneMap, ZoneMapError, ZoneSite};
