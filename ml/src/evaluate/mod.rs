//! Offline evaluation: what a policy would have got on windows that have passed.

mod replay;
mod voters;

pub use replay::{Objective, ReplayConfig, ReplayScore, replay, replay_oracle};
pub use voters::Voters;
