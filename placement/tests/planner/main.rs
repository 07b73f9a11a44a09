//! The planner, seen from outside: exact against brute force, stable, within limits, and told as stories.

mod exact;
mod hysteresis;
mod limits;
mod scripts;
mod stability;
mod world;
