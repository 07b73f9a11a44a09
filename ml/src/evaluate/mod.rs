//! Offline evaluation: what a policy would have got on windows that have passed.

mod experts;
pub mod field;
mod ground;
mod head_room;
mod ledger;
mod mover;
mod optimum;
mod outlook;
mod replay;
mod tournament;
mod voters;

pub use ground::{Cell, Ground};
pub use head_room::{CalibrationScore, HeadRoom, HeadRoomScore, head_room};
pub use ledger::Ledger;
pub use mover::Mover;
pub use optimum::optimum;
pub use replay::{Objective, ReplayConfig, ReplayScore, replay, replay_oracle};
pub use tournament::{
    Contender, Forecasts, MOVE_DELAY_WINDOWS, Mixture, Standing, Standings, Tournament,
    run as run_tournament, run_observed as run_tournament_observed,
};
pub use voters::Voters;
