//! Anomalies of lists that are appended to and read whole, after Elle (Kingsbury and Alvaro 2020).
//!
//! A list that was read names every write before it, in order, so who must come before whom can be read off:
//!
//! - ww: whose element follows whose;
//! - wr: whose element is the last that a read saw;
//! - rw: whose element is the first that a read did not see.
//!
//! A transaction is the operations that share a `txn`, or one operation without. A circle of these edges means that no
//! order of the transactions explains the reads. Real time is not an edge here: the linearizability checker and the
//! lost writes of this one judge it.
//!
//! - `lists`: what every key's reads say of its order, and what is wrong with single reads.
//! - `graph`: edges, circles.
//! - `check`: the verdict.

mod check;
mod graph;
mod lists;

pub use check::check;
