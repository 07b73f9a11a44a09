//! A whole cluster in one process: real hosts and real clients on simulated time, network and disks.
//!
//! One seed is one schedule (`plan`): how many hosts and shards, how fast clocks, disks and links are, which faults
//! strike and when. The same seed gives the same run, to the last message, in any process of the same build; so a
//! failure is replayed by its number. Faults go on for some twenty simulated seconds, beside migrations; then all is
//! healed and the cluster must make progress. After every step of a millisecond the replicas' logs are held against each
//! other (`invariants`); at the end the clients' histories are judged like those of real processes.
//!
//! One process runs one seed: thread-local generators of the libraries would carry over from one run to the next. A
//! campaign starts a process a seed.

mod campaign;
mod chronicle;
mod invariants;
mod links;
mod nodes;
mod plan;
mod schedule;
mod seams;
mod spoil;
mod weather;
mod world;

pub use campaign::{Campaign, Summary};
pub use plan::{FaultClass, Plan};
pub use schedule::Report;

use std::path::Path;

use crate::judge::write_files;

/// Runs the schedule of `plan` in this process, and writes what it left into `folder`, if one is given. Once a
/// process: see above.
///
/// # Errors
/// When the files cannot be written.
pub fn simulate(plan: &Plan, folder: Option<&Path>) -> anyhow::Result<Report> {
    // A name that no bug has must not pass for a bug that nothing found.
    storage::seeded_bug::chosen();
    let (report, evidence, judgement) = schedule::run(plan).judge();
    if let Some(folder) = folder {
        write_files(folder, &evidence, &judgement)?;
    }
    Ok(report)
}
