//! `godwit model`: trains, judges and shows models, from logs or from windows that were kept. No cluster is asked.

use std::io::{self, Write};
use std::path::Path;

use ml::{
    Contestant, Gate, GateConfig, GateError, GateReport, ModelFileError, TrainConfig, TrainError,
    TrainedModel, TrainingSampler, VoterChoice, Voters,
};
use serde_json::{Value, json};

use super::outcome::Exit;
use super::text::{self, numbers, words};
use super::training_log::{TrainingLog, TrainingLogError};
use crate::cli::{ModelArgs, ModelEvalArgs, ModelLogArgs, ModelStatusArgs, ModelTrainArgs, ModelVerb};

const MINUTE_MS: u64 = 60_000;
/// Windows of so many hours only fill the histories, of a log that is long enough.
const WARM_UP_HOURS: u64 = 24 * 14;

/// Why there is no model, or none that may serve.
#[derive(Debug, thiserror::Error)]
pub enum ModelError {
    /// A model cannot be read or written.
    #[error(transparent)]
    Model(#[from] ModelFileError),
    /// The log cannot be used.
    #[error(transparent)]
    Log(#[from] TrainingLogError),
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
    let log = TrainingLog::open(&args.log)?;
    let warm_up = log.length.windows_in_hours(WARM_UP_HOURS) as usize;
    let config = TrainConfig {
        seed: args.seed,
        epochs: args.epochs as usize,
        samples_max: args.samples_max as usize,
        warm_up_windows: warm_up.min(log.history_windows() / 4),
        ..TrainConfig::default()
    };
    let mut sampler = TrainingSampler::new(&log.zones, log.length, &config)?;
    let voters = voters(&log, &args.log, |window| sampler.observe(window))?;
    let model = sampler.finish()?.train(&config)?;
    let report = report(&model, &log, &voters, &args.log)?;
    if report.passes() {
        model.save(&args.out)?;
    }
    print(&model, &report, args.log.json, out)?;
    verdict(&model, report)
}

fn judged(args: &ModelEvalArgs, out: &mut dyn Write) -> Result<Exit, ModelError> {
    let model = TrainedModel::load(&args.model)?;
    let log = TrainingLog::open(&args.log)?;
    let voters = voters(&log, &args.log, |_| ())?;
    let report = report(&model, &log, &voters, &args.log)?;
    print(&model, &report, args.log.json, out)?;
    verdict(&model, report)
}

/// The voters that suit the windows that are not held; each of these is shown to `also` as well.
fn voters(
    log: &TrainingLog,
    args: &ModelLogArgs,
    mut also: impl FnMut(&ml::WindowCounts),
) -> Result<Voters, ModelError> {
    let held_from = log.held_from();
    let mut choice = VoterChoice::new(&log.zones);
    log.each(|window| {
        if window.window < held_from {
            choice.observe(window);
            also(window);
        }
    })?;
    Ok(choice.nearest(&log.rtt, args.voters as usize))
}

/// How a model does in the windows that are held.
fn report(
    model: &TrainedModel,
    log: &TrainingLog,
    voters: &Voters,
    args: &ModelLogArgs,
) -> Result<GateReport, ModelError> {
    let active = args.active.as_deref().map(TrainedModel::load).transpose()?;
    let config = GateConfig {
        zones: &log.zones,
        rtt_micros: &log.rtt,
        voters,
        move_cost_micros: args.move_cost_us,
        length: log.length,
        held_from: log.held_from(),
    };
    let mut gate = Gate::new(model, active.as_ref(), config)?;
    log.each(|window| gate.observe(window))?;
    Ok(gate.report()?)
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
