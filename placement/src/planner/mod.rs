//! The planner: where the homes and the replicas of all shards should be in the next window.
//!
//! [`plan`] is a pure function of the placement, a [`Forecast`] of the accesses by origin, the round trips between
//! zones, the rules and limits in force, and a [`PlanMemory`] that it returns changed. It runs on one host; the moves
//! it returns become proposals in the placement log, where they are checked again.
//!
//! What is minimised is the forecast latency of a window's accesses (`cost`): each access pays the round trip from
//! its origin's zone to the home's zone, and a write, or a read that is not by lease, also the home's round to its
//! nearest majority. There are two levels. Homes move among a shard's voters and move no bytes (`homes`); voters move
//! seldom, and are chosen together with the home that they make possible (`replicas`). Both are greedy by gain, then
//! improve by swaps, and start from the present placement, so that what does not move is free.
//!
//! Against flapping: a move waits until the latency lost by staying has paid for it (ski rental, `memory`).
//!
//! Must hold: the same input and memory give the same plan; no float, clock, chance or unordered map is used; a plan
//! never brings a host above its capacity nor a shard to fewer zones than it had.
//!
//! Left out: repairs, splits and merges (the placement machine proposes repairs itself), follower reads (no access
//! mode reports them yet), and bytes still to be written by the shards.

mod account;
mod alternatives;
mod cost;
mod explain;
mod forecast;
mod homes;
mod input;
mod loads;
mod measured;
mod memory;
mod output;
mod replicas;
mod rtt;
mod search;
mod shares;
mod solve;
mod topology;

pub use account::{Account, Place, account};
pub use forecast::{Forecast, ForecastError, PPM, ShardForecast};
pub use input::{
    HostView, Hysteresis, Mode, Objective, PlacementView, PlanCosts, PlanInput, PlanOptions, ReplicaView,
    ShardView, SkiRental,
};
pub use measured::Counted;
pub use memory::PlanMemory;
pub use output::{Blocked, Constraint, MoveCause, MoveKind, Plan, PlannedMove, RunnerUp};
pub use rtt::RttMatrix;
pub use shares::OriginShares;
pub use solve::plan;
