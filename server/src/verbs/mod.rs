//! The verbs that ask a running cluster: [`init`], [`kv`], [`admin`], [`top`] and [`backup`], over the SDK; and [`partition`],
//! [`model`] and [`plan`], which read files alone.
//!
//! A verb makes its calls and prints one answer to the writer that the caller hands in: lines and tables for people, or
//! with `--json` one JSON document, whose field names are an interface and only grow. What went wrong is returned as a
//! [`VerbError`], not printed here. Words and layout are apart from the calls: `listing`, `pairs` and `documents` take
//! what was answered and nothing else.

mod admin;
mod backup;
mod connect;
mod departure;
mod documents;
mod explain;
mod health;
mod help;
mod history;
mod init;
mod kv;
mod lease;
mod leaving;
mod limits;
mod listing;
mod model;
mod models;
mod outcome;
mod pairs;
mod partition;
mod recover;
mod simulate;
mod text;
mod top;
mod training_log;
mod transaction;
mod trust;
mod watch;
mod windows;

pub use admin::admin;
pub use backup::backup;
pub use help::{completions, man};
pub use init::{SplitFileError, init};
pub use kv::kv;
pub use model::{ModelError, model};
pub use models::models;
pub use outcome::{Exit, VerbError};
pub use partition::{PartitionError, partition};
pub use simulate::{SimulateError, plan};
pub use top::top;
pub use training_log::TrainingLogError;
