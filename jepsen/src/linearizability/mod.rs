//! Whether every key behaved like one register that does one thing at a time.
//!
//! Linearizability is local: a history is linearizable if and only if each key's part is (Herlihy and Wing 1990), so
//! keys are judged apart, on several threads.
//!
//! - `model`: one key's operations as demands on, and effects upon, a small state; sound reductions of unknown ones.
//! - `names`: from texts to the numbers of that state.
//! - `search`: Wing and Gong's search with Lowe's memo; `calls`: the list it walks; `left`: counts of what is left;
//!   `memo`: configurations that were tried.
//! - `zones`: contradictions that are found without a search.
//! - `check`: the bounds, the threads, the verdict.
//! - `explain`: the shortest prefix that is wrong, and the operations that show it.
//!
//! A key is taken to be absent when its history begins. Unknown is never taken for Ok.

mod calls;
mod check;
mod explain;
mod left;
mod memo;
mod model;
mod names;
mod search;
#[cfg(test)]
mod tests;
mod zones;

pub use check::{Bounds, check, check_key};
