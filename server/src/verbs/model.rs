//! `godwit model`: trains, judges and shows models, from logs or from windows that were kept. No cluster is asked.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use ml::{
    AccessLogError, AccessLogReader, Contestant, GateConfig, GateError, GateReport, KeyRanges,
    ModelFileError, TrainConfig, TrainError, TrainedModel, WindowAggregator, WindowCounts, WindowError,
    WindowLength, ZoneMap, ZoneMapError, each_window, judge, train,
};
use placement::{WindowId, Zone};
use serde_json::{Value, json};
use storage::disk::RealDisk;

use super::init::{SplitFileError, read_split_keys};
use super::outcome::Exit;
use super::text::{self, numbers, words};
use crate::cli::{ModelArgs, ModelEvalArgs, ModelLogArgs, ModelStatusArgs, ModelTrainArgs, ModelVerb};
use crate::net::{DistanceError, read_rtt_matrix};
use crate::profiler::archived_windows;

const MINUTE_MS: u64 = 60_000;
/// What was collected before a longer gap is of another time.
const GAP_MAX: u64 = 4_032;
/// Windows of so many hours only fill the histories, of a log that is long enough.
const WARM_UP_HOURS: u64 = 24 * 14;

/// Why there is no model, or none that may serve.
#[derive(Debug, thiserror::Error)]
pub enum ModelError {
    /// A model cannot be read or written.
    #[error(transparent)]
    Model(#[from] ModelFileError),
    /// A log cannot be read.
    #[error("{}: {source}", path.display())]
    Log {
        /// The file.
        path: PathBuf,
        /// Where and how.
        source: AccessLogError,
    },
    /// A log cannot be counted into windows.
    #[error("the logs cannot be counted into windows: {0}")]
    Window(#[from] WindowError),
    /// A file cannot be opened.
    #[error("{}: cannot be read: {source}", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The zone file makes no sense.
    #[error("{}: {source}", path.display())]
    Zones {
        /// The file.
        path: PathBuf,
        /// Where and how.
        source: ZoneMapError,
    },
    /// The split keys make no sense.
    #[error("{}: {source}", path.display())]
    SplitKeys {
        /// The file.
        path: PathBuf,
        /// Where and how.
        source: SplitFileError,
    },
    /// Round trips make no sense.
    #[error(transparent)]
    Distance(#[from] DistanceError),
    /// Neither logs nor windows were named.
    #[error("either --trace with --zones and --split-at, or --windows with --rtt")]
    NoSource,
    /// The verb is one of [`super::models`].
    #[error("this verb asks a cluster")]
    AsksCluster,
    /// The model cannot be trained.
    #[error("no model was trained: {0}")]
    Train(#[from] TrainError),
    /// Nobody can be judged.
    #[error("the model cannot be judged: {0}")]
    Gate(#[from] GateError),
    /// The model is worse than something that is to be had without it.
    #[error("{model} may not serve: better in the held windows: {}", better.join(", "))]
    Refused {
        /// Its version.
        model: String,
        /// What is better.
        better: Vec<String>,
    },
    /// The answer cannot be printed.
    #[error("the answer cannot be printed: {0}")]
    Print(#[from] io::Error),
}

/// Runs a verb of `godwit model`.
///
/// # Errors
/// When a file cannot be used, or the model does not pass.
pub fn model(args: &ModelArgs, out: &mut dyn Write) -> Result<Exit, ModelError> {
    match &args.verb {
        ModelVerb::Train(args) => trained(args, out),
        ModelVerb::Eval(args) => judged(args, out),
        ModelVerb::Status(args) => status(args, out),
        ModelVerb::List(_) | ModelVerb::Keep(_) | ModelVerb::Activate(_) | ModelVerb::Rollback(_) => {
            Err(ModelError::AsksCluster)
        }
    }
}

fn trained(args: &ModelTrainArgs, out: &mut dyn Write) -> Result<Exit, ModelError> {
    let log = Log::read(&args.log)?;
    let history = &log.windows[..log.windows.len() - log.held_windows];
    let config = TrainConfig {
        seed: args.seed,
        epochs: args.epochs as usize,
        warm_up_windows: (log.length.windows_in_hours(WARM_UP_HOURS) as usize).min(history.len() / 4),
        ..TrainConfig::default()
    };
    let model = train(history, &log.zones, log.length, &config)?;
    let report = log.judge(&model, &args.log)?;
    let passes = report.passes();
    if passes {
        model.save(&args.out)?;
    }
    print(&model, &report, args.log.json, out)?;
    verdict(&model, report)
}

fn judged(args: &ModelEvalArgs, out: &mut dyn Write) -> Result<Exit, ModelError> {
    let model = TrainedModel::load(&args.model)?;
    let report = Log::read(&args.log)?.judge(&model, &args.log)?;
    print(&model, &report, args.log.json, out)?;
    verdict(&model, report)
}

fn verdict(model: &TrainedModel, report: GateReport) -> Result<Exit, ModelError> {
    match report.passes() {
        true => Ok(Exit::Ok),
        false => Err(ModelError::Refused {
            model: model.version(),
            better: report.better,
        }),
    }
}

fn status(args: &ModelStatusArgs, out: &mut dyn Write) -> Result<Exit, ModelError> {
    let models: Vec<TrainedModel> = args
        .models
        .iter()
        .map(|path| TrainedModel::load(path))
        .collect::<Result<_, _>>()?;
    let listed = models.iter().zip(&args.models);
    let printed = match args.json {
        true => format!(
            "{:#}",
            Value::from(
                listed
                    .map(|(model, path)| document(model, path))
                    .collect::<Vec<_>>()
            )
        ),
        false => text::table(
            [
                words("MODEL"),
                words("TRAINED ON"),
                numbers("WINDOW MIN"),
                numbers("AHEAD"),
                numbers("SEED"),
                numbers("SAMPLES"),
                numbers("NLL"),
                numbers("EWMA'S"),
                numbers("ECE"),
            ],
            listed.map(|(model, _)| row(model)),
        ),
    };
    writeln!(out, "{printed}")?;
    Ok(Exit::Ok)
}

fn row(model: &TrainedModel) -> [String; 9] {
    let (span, metrics) = (model.span(), model.metrics());
    [
        model.version(),
        format!("{} to {}", text::utc(span.from_ms), text::utc(span.to_ms)),
        (span.window_ms / MINUTE_MS).to_string(),
        span.horizon_windows.to_string(),
        span.seed.to_string(),
        metrics.samples.to_string(),
        format!("{:.4}", metrics.nll),
        format!("{:.4}", metrics.ewma_nll),
        format!("{:.4}", metrics.ece),
    ]
}

fn document(model: &TrainedModel, path: &Path) -> Value {
    json!({
        "file": path.display().to_string(),
        "model": model.version(),
        "span": model.span(),
        "metrics": model.metrics(),
    })
}

/// What a log says, in windows.
struct Log {
    zones: Vec<Zone>,
    /// Microseconds, in the order of the zones.
    rtt: Vec<Vec<u64>>,
    windows: Vec<WindowCounts>,
    length: WindowLength,
    held_windows: usize,
}

/// What is wrong with a log, before its file is named.
enum LogError {
    Read(PathBuf, AccessLogError),
    Window(WindowError),
}

impl From<WindowError> for LogError {
    fn from(error: WindowError) -> Self {
        Self::Window(error)
    }
}

impl Log {
    fn read(args: &ModelLogArgs) -> Result<Self, ModelError> {
        let length = WindowLength::from_ms(args.window_ms.unwrap_or(args.window_min * MINUTE_MS));
        let (zones, rtt, windows) = match (&args.windows, &args.rtt, &args.zones, &args.split_at) {
            (Some(windows), Some(rtt), ..) => collected(windows, rtt)?,
            (_, _, Some(zones), Some(split_at)) => counted(args, zones, split_at, length)?,
            _ => return Err(ModelError::NoSource),
        };
        Ok(Self {
            zones,
            rtt,
            held_windows: windows.len() / args.held_part as usize,
            windows,
            length,
        })
    }

    fn judge(&self, model: &TrainedModel, args: &ModelLogArgs) -> Result<GateReport, ModelError> {
        let active = args.active.as_deref().map(TrainedModel::load).transpose()?;
        let config = GateConfig {
            zones: &self.zones,
            rtt_micros: &self.rtt,
            voters: args.voters as usize,
            move_cost_micros: args.move_cost_us,
            held_windows: self.held_windows,
        };
        Ok(judge(
            model,
            active.as_ref(),
            &self.windows,
            self.length,
            &config,
        )?)
    }
}

/// Zones, the round trips between them, and windows.
type Told = (Vec<Zone>, Vec<Vec<u64>>, Vec<WindowCounts>);

/// What logs say.
fn counted(
    args: &ModelLogArgs,
    zones: &Path,
    split_at: &Path,
    length: WindowLength,
) -> Result<Told, ModelError> {
    let zones = read_zones(zones)?;
    let splits = read_split_keys(split_at).map_err(|source| ModelError::SplitKeys {
        path: split_at.to_owned(),
        source,
    })?;
    let ranges = KeyRanges::new(splits.iter().map(|key| key.to_vec()).collect());
    let mut windows = Vec::new();
    let aggregator = WindowAggregator::new(length.as_ms(), ranges, zones.clone());
    each_window(entries(&args.trace), aggregator, |counts| windows.push(counts)).map_err(
        |error| match error {
            LogError::Read(path, source) => ModelError::Log { path, source },
            LogError::Window(error) => ModelError::Window(error),
        },
    )?;
    Ok((zones.zones(), zones.rtt_matrix_micros(), windows))
}

/// What a controller has collected. A window that is missing is one in which nothing was seen.
fn collected(dir: &Path, rtt: &Path) -> Result<Told, ModelError> {
    let rtt = read_rtt_matrix(rtt)?;
    let found = archived_windows(&RealDisk, dir).map_err(|source| ModelError::File {
        path: dir.to_owned(),
        source,
    })?;
    let mut zones: BTreeSet<Zone> = rtt.zones().cloned().collect();
    zones.extend(
        found
            .iter()
            .flat_map(|counts| counts.shards.values())
            .flat_map(BTreeMap::keys)
            .cloned(),
    );
    let zones: Vec<Zone> = zones.into_iter().collect();
    let row = |from: &Zone| zones.iter().map(|to| u64::from(rtt.micros(from, to))).collect();
    let matrix = zones.iter().map(row).collect();
    let mut windows: Vec<WindowCounts> = Vec::with_capacity(found.len());
    for counts in found {
        if let Some(last) = windows.last() {
            let missing = last.window.0 + 1..counts.window.0;
            if missing.end - missing.start > GAP_MAX {
                windows.clear();
                windows.push(counts);
                continue;
            }
            windows.extend(missing.map(|window| WindowCounts::empty(WindowId(window))));
        }
        windows.push(counts);
    }
    Ok((zones, matrix, windows))
}

/// All entries of the files, one after the other.
fn entries(files: &[PathBuf]) -> impl Iterator<Item = Result<ml::AccessLogEntry, LogError>> {
    files.iter().flat_map(|path| {
        let failed = |error| LogError::Read(path.clone(), error);
        let (reader, error) = match AccessLogReader::open(path) {
            Ok(reader) => (Some(reader), None),
            Err(error) => (None, Some(Err(failed(error)))),
        };
        let read = reader.into_iter().flatten();
        error
            .into_iter()
            .chain(read.map(move |entry| entry.map_err(failed)))
    })
}

fn read_zones(path: &Path) -> Result<ZoneMap, ModelError> {
    let file = std::fs::File::open(path).map_err(|source| ModelError::File {
        path: path.to_owned(),
        source,
    })?;
    ZoneMap::read(file).map_err(|source| ModelError::Zones {
        path: path.to_owned(),
        source,
    })
}

fn print(model: &TrainedModel, report: &GateReport, json: bool, out: &mut dyn Write) -> io::Result<()> {
    if json {
        let document = json!({
            "model": model.version(),
            "passes": report.passes(),
            "report": report,
            "span": model.span(),
            "metrics": model.metrics(),
        });
        return writeln!(out, "{document:#}");
    }
    let contestants = std::iter::once(&report.challenger)
        .chain(&report.active)
        .chain(&report.rules);
    let columns = [
        words("IN THE HELD WINDOWS"),
        numbers("COST MS"),
        numbers("MEAN MS"),
        numbers("LOCAL"),
        numbers("MOVES"),
    ];
    writeln!(out, "{}", text::table(columns, contestants.map(contestant)))?;
    writeln!(
        out,
        "\n{}, trained on {} samples, NLL {:.4} (EWMA {:.4}), ECE {:.4}; {} accesses in the held windows: {}",
        model.version(),
        model.metrics().samples,
        model.metrics().nll,
        model.metrics().ewma_nll,
        model.metrics().ece,
        report.accesses,
        if report.passes() {
            "it may serve"
        } else {
            "it may not serve"
        }
    )
}

fn contestant(contestant: &Contestant) -> [String; 5] {
    [
        contestant.name.clone(),
        format!("{:.3}", contestant.cost_micros / 1e3),
        format!("{:.3}", contestant.mean_rtt_micros / 1e3),
        format!("{:.1} %", 100.0 * contestant.local_access_ratio),
        contestant.home_moves.to_string(),
    ]
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;
    use crate::cli::{Cli, Command};

    const HEADER: &str = "timestamp_ms,user_id,data_id,origin,op,size\n";
    const HOUR_MS: u64 = 3_600_000;
    const DAYS: u64 = 40;

    struct Folder(tempfile::TempDir);

    impl Folder {
        /// Two shards for forty days; `origin` says from where a shard is accessed in an hour.
        fn new(origin: impl Fn(u64, u64) -> usize) -> Self {
            let folder = Self(tempfile::tempdir().unwrap());
            let line = |hour: u64, minute: u64, shard: u64| {
                let key = ["a", "m"][shard as usize];
                let origin = ["east", "west"][origin(hour, shard)];
                format!("{},u,{key},{origin},get,1\n", hour * HOUR_MS + 60_000 * minute)
            };
            let of_hour = |hour: u64| (0..8).map(move |at| (hour, 5 * at, at % 2));
            let lines: String = (0..DAYS * 24)
                .flat_map(of_hour)
                .map(|(hour, minute, shard)| line(hour, minute, shard))
                .collect();
            std::fs::write(folder.path("log.csv"), format!("{HEADER}{lines}")).unwrap();
            std::fs::write(folder.path("keys"), "m\n").unwrap();
            let zones = "origin,zone,region,lat,lon\neast,e,us,40,-74\nwest,w,us,37,-122\n";
            std::fs::write(folder.path("zones.csv"), zones).unwrap();
            folder
        }

        fn path(&self, name: &str) -> String {
            self.0.path().join(name).to_string_lossy().into_owned()
        }

        fn run(&self, line: &[&str]) -> Result<String, String> {
            let files = [self.path("log.csv"), self.path("zones.csv"), self.path("keys")];
            let log = [
                "--trace",
                &files[0],
                "--zones",
                &files[1],
                "--split-at",
                &files[2],
            ];
            let log: &[&str] = if line[0] == "status" { &[] } else { &log };
            let line = [&["godwit", "model"], line, log].concat();
            let Command::Model(args) = Cli::try_parse_from(line).unwrap().command else {
                panic!("another verb");
            };
            let mut out = Vec::new();
            match model(&args, &mut out) {
                Ok(_) => Ok(String::from_utf8(out).unwrap()),
                Err(error) => Err(error.to_string()),
            }
        }
    }

    #[test]
    fn a_model_that_no_rule_beats_is_kept_and_can_be_looked_at_and_judged() {
        // In the last tenth the rhythm is turned round: rules go by it, the model sees that it does not hold any more.
        let held = DAYS * 24 * 9 / 10;
        let folder = Folder::new(|hour, shard| match hour < held {
            true => ((hour % 24 / 12 + shard) % 2) as usize,
            false => 1 - ((hour % 24 / 12 + shard) % 2) as usize,
        });
        let model = folder.path("model");
        let printed = folder.run(&["train", "--out", &model]).unwrap();
        assert!(printed.contains("it may serve"), "{printed}");
        let listed = folder.run(&["status", &model, "--json"]).unwrap();
        let listed: Value = serde_json::from_str(&listed).unwrap();
        assert_eq!(listed[0]["span"]["window_ms"], 3_600_000);
        let version = listed[0]["model"].as_str().unwrap();
        let judged = folder
            .run(&["eval", &model, "--active", &model, "--json"])
            .unwrap();
        let judged: Value = serde_json::from_str(&judged).unwrap();
        assert_eq!(
            (judged["model"].as_str(), judged["passes"].as_bool()),
            (Some(version), Some(true))
        );
        assert!(folder.run(&["status", &model]).unwrap().contains(version));
        let leaks = folder.run(&["eval", &model, "--held-part", "5"]).unwrap_err();
        assert!(
            leaks.contains("was trained on windows that it would be judged by"),
            "{leaks}"
        );
    }

    #[test]
    fn a_model_that_a_rule_beats_is_refused_and_not_kept() {
        // Half a day here and half a day there: what was a day ago is all there is to know.
        let folder = Folder::new(|hour, shard| ((hour % 24 / 12 + shard) % 2) as usize);
        let model = folder.path("model");
        let refused = folder.run(&["train", "--out", &model]).unwrap_err();
        assert!(
            refused.contains("may not serve: better in the held windows: hour of day"),
            "{refused}"
        );
        assert!(!Path::new(&model).exists());
    }
}
