//! Offline evaluation: what a policy would have got on windows that have passed.

mod arena;
mod capacity;
mod experts;
pub mod field;
mod gate;
mod ground;
mod head_room;
mod ledger;
mod mover;
mod optimum;
mod outlook;
mod prices;
mod replay;
mod replicas;
mod seat;
mod sets;
mod terms;
mod tournament;
mod voters;

pub use gate::{Contestant, Gate, GateConfig, GateError, GateReport};
pub use ground::{Cell, Ground};
pub use head_room::{CalibrationScore, HeadRoom, HeadRoomScore, head_room};
pub use ledger::Ledger;
pub use mover::{Mover, ORIGINS_MAX};
pub use optimum::optimum;
pub use prices::Prices;
pub use replay::{Objective, ReplayConfig, ReplayScore, replay, replay_oracle};
pub use terms::{Bounds, Terms};
pub use tournament::{
    Contender, Forecasts, MOVE_DELAY_WINDOWS, Mixture, Standing, Standings, Tournament,
    run as run_tournament, run_observed as run_tournament_observed,
};
pub use voters::{VoterChoice, Voters};
