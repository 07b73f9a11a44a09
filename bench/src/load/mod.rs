//! Load from a process of its own: what it is told, what it measured.
//!
//! [`Load`] goes in as JSON, one line; two lines of `Word` come out: when the measured part begins, and what came of
//! it. So whoever starts the process can look at the servers' usage at the very ends of the measured part.

mod clients;
mod latency;

use std::path::PathBuf;
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context, bail};
use serde::{Deserialize, Serialize};
use server::steps::StepLayer;
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;

pub use latency::Latencies;

use crate::peer::{Access, connect};
use crate::process::{Usage, usage_of};
use crate::workload::Workload;

/// For a process of load that is late: connections are made, and the figures put together, in this time.
const PATIENCE: Duration = Duration::from_secs(60);

/// When clients begin their operations.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Pace {
    /// So many clients, each of which begins its next operation when the last one has ended.
    Closed {
        /// Clients.
        clients: usize,
    },
    /// So many operations a second, whether the ones before have ended or not. Latency counts from the moment at which
    /// an operation should have begun, so an answer that is late delays no clock (no coordinated omission).
    Open {
        /// Operations begun a second.
        per_s: f64,
    },
    /// Writes every key once, with so many clients; seconds and distribution count for nothing.
    Fill {
        /// Clients.
        clients: usize,
    },
}

/// What a process of load is told.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Load {
    /// Whom to ask, and how.
    pub access: Access,
    /// What to ask for.
    pub workload: Workload,
    /// When.
    pub pace: Pace,
    /// Seconds that are not measured, at first.
    pub warm_up_s: f64,
    /// Seconds that are.
    pub seconds: f64,
    /// Seconds of a slice, each of which is also counted by itself; 0: none.
    #[serde(default)]
    pub slice_s: f64,
    /// Of every random choice.
    pub seed: u64,
    /// The folder that takes the clients' steps ([`server::steps`]), if they are to be written down.
    #[serde(default)]
    pub steps: Option<PathBuf>,
}

/// What a process of load says.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Word {
    /// The measured part begins.
    Begin,
    /// It has ended.
    End(Box<Measured>),
}

/// What clients saw in the measured part.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Measured {
    /// Operations that ended well within it.
    pub operations: u64,
    /// Operations that failed within it.
    pub failures: u64,
    /// What the first of them said.
    pub first_failure: Option<String>,
    /// Operations that were due but not begun, for there were too many under way.
    pub dropped: u64,
    /// Its length, in seconds.
    pub seconds: f64,
    /// How long the operations took that ended well.
    pub latencies: Latencies,
    /// The same of each slice, in order, where slices were asked for.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub slices: Vec<Slice>,
    /// What this process used.
    pub usage: Usage,
}

/// What clients saw in a part of the measured part.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Slice {
    /// When it ended, in seconds since the measured part began.
    pub until_s: f64,
    /// Operations that ended well within it.
    pub operations: u64,
    /// Operations that failed within it.
    pub failures: u64,
    /// How long the operations took that ended well.
    pub latencies: Latencies,
}

impl Load {
    /// The longest silence of a process that does as told; `None`: nobody knows.
    fn longest(&self) -> Option<Duration> {
        let told = Duration::from_secs_f64(self.warm_up_s + self.seconds);
        match self.pace {
            Pace::Fill { .. } => None,
            Pace::Closed { .. } | Pace::Open { .. } => Some(told + PATIENCE),
        }
    }
}

impl Measured {
    /// Counts what another part of the load saw.
    pub fn add(&mut self, other: &Measured) {
        self.operations += other.operations;
        self.failures += other.failures;
        self.dropped += other.dropped;
        self.latencies.add(&other.latencies);
        if self.first_failure.is_none() {
            self.first_failure.clone_from(&other.first_failure);
        }
    }
}

/// Does as told, and says so on standard output: what the process of load runs.
///
/// # Errors
/// When standard input tells no [`Load`], or the store cannot be reached.
pub async fn serve() -> anyhow::Result<()> {
    // Operations that wait for a late answer take memory, and whole huge pages are cleared for it, on processors that the
    // stores need to come out of being late.
    server::process::do_without_huge_pages().context("huge pages")?;
    let mut line = String::new();
    BufReader::new(tokio::io::stdin()).read_line(&mut line).await?;
    let load: Load = serde_json::from_str(&line).context("no load was told")?;
    if let Some(folder) = &load.steps {
        let steps = StepLayer::create(folder).context("the file of steps")?;
        tracing_subscriber::registry().with(steps).try_init()?;
    }
    let stores = connect(&load.access).await?;
    let clients = clients::Clients::new(&load, stores)?;
    let say = |word: &Word| -> anyhow::Result<()> {
        println!("{}", serde_json::to_string(word)?);
        Ok(())
    };
    let running = clients.start(&load)?;
    if !matches!(load.pace, Pace::Fill { .. }) {
        tokio::time::sleep(Duration::from_secs_f64(load.warm_up_s)).await;
    }
    say(&Word::Begin)?;
    let before = usage_of(std::process::id())?;
    let slice = (load.slice_s > 0.0).then(|| Duration::from_secs_f64(load.slice_s));
    let length = Duration::from_secs_f64(load.seconds);
    let mut measured = running.measure(length, slice).await?;
    measured.usage = usage_of(std::process::id())? - before;
    say(&Word::End(Box::new(measured)))
}

/// Runs a load in a process of its own. `usage` is asked when the measured part begins and when it has ended: the
/// difference comes back beside what the clients saw.
///
/// # Errors
/// When the process fails (its own words come first) or `usage` does.
pub async fn run(
    load: &Load,
    usage: impl Fn() -> anyhow::Result<Usage>,
) -> anyhow::Result<(Measured, Usage)> {
    let mut child = tokio::process::Command::new(std::env::current_exe()?)
        .arg("load")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .context("the process of load")?;
    let mut input = child.stdin.take().context("its input")?;
    input
        .write_all((serde_json::to_string(load)? + "\n").as_bytes())
        .await?;
    drop(input);
    let mut lines = BufReader::new(child.stdout.take().context("its output")?).lines();
    let mut before = None;
    loop {
        let line = match load.longest() {
            Some(longest) => tokio::time::timeout(longest, lines.next_line())
                .await
                .with_context(|| format!("a load hangs: {load:?}"))??,
            None => lines.next_line().await?,
        };
        let Some(line) = line else { break };
        match serde_json::from_str(&line)? {
            Word::Begin => before = Some(usage()?),
            Word::End(measured) => {
                let used = usage()? - before.context("an end without a begin")?;
                // It has told all that it knows, and ends on being dropped if not before.
                return Ok((*measured, used));
            }
        }
    }
    bail!("the process of load said nothing: {}", child.wait().await?)
}
