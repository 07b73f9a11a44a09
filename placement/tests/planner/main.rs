//! The planner, seen from outside: exact against brute force, stable, within limits, and told as stories.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on should stop")]

mod accounts;
mod exact;
mod hysteresis;
mod limits;
mod log;
mod scripts;
mod stability;
mod world;
