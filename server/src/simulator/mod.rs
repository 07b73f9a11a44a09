//! `godwit plan simulate`: what placement policies would have made of a trace, on hosts that need not exist.
//!
//! The planner and the forecasters are those that serve; the first placement is the one that the placement state machine
//! gives to a new cluster of these hosts. The first part of the trace is history, which forecasters observe and which the
//! key space is cut by; the rest is played window by window: a policy has seen the windows before, plans, its moves are
//! made at once, and then the window's accesses pay for where the homes are.
//!
//! Must hold: before a window no policy has seen it; the same files give the same figures. Left out: the time that moves
//! take, queues at hosts, and accesses of origins that lie in no zone (they are counted, and told).

mod hosts;
mod play;
mod score;
mod trace;

pub(crate) use hosts::{HostsError, Site, read_hosts};
pub(crate) use play::{Player, Settings, play};
pub(crate) use score::Score;
pub(crate) use trace::{Played, TraceError, read};
