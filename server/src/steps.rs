//! When a request passed each layer, for profiles.
//!
//! Every crate of the data path names its steps by events of the target [`TARGET`]: the message is the step, `count` how
//! many requests, entries or messages took it together. Nobody listens but a [`StepLayer`]; without one a step costs a
//! look at one variable.

use std::fmt;
use std::fs::File;
use std::io::{self, BufWriter, Write};
use std::path::Path;
use std::sync::Mutex;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use tracing::field::{Field, Visit};
use tracing::{Event, Level, Metadata, Subscriber};
use tracing_subscriber::Layer;
use tracing_subscriber::filter::{FilterFn, Filtered, filter_fn};
use tracing_subscriber::layer::Context;

/// The target of all steps.
pub const TARGET: &str = "godwit::steps";
/// The file's name in a data folder.
pub const FILE: &str = "steps.csv";
/// The file's first line: nanoseconds since 1970, what happened, to how many at once.
pub const HEADER: &str = "at_ns,step,count";

/// Steps wait in memory no longer than this, as long as others follow.
const FLUSH_PAUSE: Duration = Duration::from_millis(200);

/// Writes steps down. What was written last may be missing if the process is killed.
pub struct StepLayer(Mutex<Out>);

struct Out {
    file: BufWriter<File>,
    flushed: Instant,
}

/// A [`StepLayer`] that hears of steps only.
pub type OnlySteps<S> = Filtered<StepLayer, FilterFn<fn(&Metadata<'_>) -> bool>, S>;

impl StepLayer {
    /// Begins the file in a data folder, which is made if need be.
    ///
    /// # Errors
    /// When the file cannot be made.
    pub fn create<S>(data_dir: &Path) -> io::Result<OnlySteps<S>>
    where
        S: Subscriber + for<'span> tracing_subscriber::registry::LookupSpan<'span>,
    {
        std::fs::create_dir_all(data_dir)?;
        let mut file = BufWriter::new(File::create(data_dir.join(FILE))?);
        writeln!(file, "{HEADER}")?;
        let out = Out {
            file,
            flushed: Instant::now(),
        };
        let is_step: fn(&Metadata<'_>) -> bool =
            |metadata| metadata.target() == TARGET && *metadata.level() == Level::TRACE;
        Ok(Self(Mutex::new(out)).with_filter(filter_fn(is_step)))
    }
}

/// What an event says.
#[derive(Default)]
struct Step {
    name: String,
    count: u64,
}

impl Visit for Step {
    fn record_u64(&mut self, field: &Field, value: u64) {
        if field.name() == "count" {
            self.count = value;
        }
    }

    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        if field.name() == "message" {
            self.name = format!("{value:?}");
        }
    }
}

impl<S: Subscriber> Layer<S> for StepLayer {
    fn on_event(&self, event: &Event<'_>, _: Context<'_, S>) {
        let at = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let mut step = Step::default();
        event.record(&mut step);
        let Ok(mut out) = self.0.lock() else { return };
        // A profile that lacks steps shows it; the host goes on.
        let _ = writeln!(out.file, "{},{},{}", at.as_nanos(), step.name, step.count);
        if out.flushed.elapsed() > FLUSH_PAUSE {
            out.flushed = Instant::now();
            let _ = out.file.flush();
        }
    }
}

#[cfg(test)]
mod tests {
    use tracing_subscriber::layer::SubscriberExt;

    use super::*;

    #[test]
    fn steps_are_written_and_nothing_else() {
        let folder = tempfile::tempdir().expect("a folder");
        let layer = StepLayer::create(&folder.path().join("data")).expect("a file");
        let subscriber = tracing_subscriber::registry().with(layer);
        tracing::subscriber::with_default(subscriber, || {
            tracing::trace!(target: TARGET, count = 3_u64, "frame received");
            tracing::info!("something else");
            tracing::trace!(target: TARGET, count = 1_u64, "proposed");
        });
        let written = std::fs::read_to_string(folder.path().join("data").join(FILE)).expect("the file");
        let mut lines = written.lines();
        assert_eq!(lines.next(), Some(HEADER));
        let steps: Vec<&str> = lines
            .filter_map(|line| line.split_once(','))
            .map(|(_, step)| step)
            .collect();
        assert_eq!(steps, ["frame received,3", "proposed,1"]);
    }
}
