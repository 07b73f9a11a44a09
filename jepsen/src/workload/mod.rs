//! Clients that do something to the store and take down what they were told.
//!
//! [`start`] lets a number of logical processes loose on a store; each draws a workload and a key, makes one operation
//! at a time and records it. The clients run on tokio's clock and on a seed alone, so that they are the same against
//! real processes and inside a simulation. What holds for every record:
//!
//! - an operation is `fail` only where the SDK says that it certainly had no effect, or where it is a read;
//! - after an unknown outcome the client goes on under a new process number;
//! - every value is written once (but for counters), and a key is given up for a fresh one before checking it gets dear;
//! - the key says which workload it belongs to ([`WorkloadName::of_key`]), so a history can be judged by itself.
//!
//! - `name`: the workloads. `plan`: how much of what. `keys`: which keys are in use.
//! - `recording`: one operation, and its record. `worker`: one logical process. `running`: all of them.
//! - `bank`: the workload of transactions. `lease`: that of leases. `watcher`: clients that watch what the others do.
//! - `used`: what was touched. `read_all`: the last look at all of it.

mod bank;
mod keys;
mod lease;
mod name;
mod plan;
mod read_all;
mod recording;
mod running;
#[cfg(test)]
mod tests;
mod used;
mod watcher;
mod worker;

pub use name::{UnknownWorkload, WorkloadName};
pub use plan::{Connect, WorkloadPlan};
pub use read_all::{ReadAll, read_all};
pub use running::{Running, start};
pub use used::{Outcomes, Used, UsedRange};
