//! Which model forecasts, and how it comes to be replaced: windows are kept, a model is trained on them now and then, and the
//! placement log is told.
//!
//! Training is another process at the lowest priority, with one thread, so that serving does not notice it. It is the same
//! `godwit model train` that an operator may run, with the same gate: what does not pass leaves no file.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::{Output, Stdio};
use std::sync::PoisonError;
use std::time::Duration;

use ml::{TrainedModel, WindowCounts, WindowLength};
use placement::planner::RttMatrix;
use placement::{Command, ModelChange, ModelRecord, Origin, Zone};
use serde_json::json;

use super::{Controller, write};
use crate::config::PolicyName;
use crate::profiler::WindowArchive;
use crate::program;

/// A part of the interval after which a model that has fallen behind is trained anew.
const DRIFT_PART: u64 = 8;
/// Bytes of what a failed training said that are logged.
const SAID_MAX: usize = 400;

/// What a controller remembers of models.
#[derive(Default)]
pub(super) struct ModelKeeper {
    archive: Option<WindowArchive>,
    /// When training was begun last, in this term of control.
    tried_ms: Option<u64>,
    is_training: bool,
}

/// A model as it is handed to the placement log.
pub(crate) fn record_of(model: &TrainedModel, file: String) -> ModelRecord {
    let (span, metrics) = (model.span(), model.metrics());
    let millionths = |value: f32| (f64::from(value.clamp(0.0, 1e9)) * 1e6).round();
    ModelRecord {
        version: model.version(),
        from_ms: span.from_ms,
        to_ms: span.to_ms,
        window_ms: span.window_ms,
        nll_micronats: millionths(metrics.nll) as u64,
        ewma_nll_micronats: millionths(metrics.ewma_nll) as u64,
        ece_ppm: millionths(metrics.ece).min(1e6) as u32,
        file,
    }
}

impl Controller {
    /// The active model, if there is one that fits the cluster's windows.
    pub(super) fn active_model(&self, length: WindowLength) -> Option<TrainedModel> {
        let (version, file) = {
            let state = self.local.machine.state();
            let record = &state.models().active()?.record;
            (record.version.clone(), record.file.clone())
        };
        match TrainedModel::from_bytes(file.as_bytes(), Path::new(&version)) {
            Ok(model) if model.span().window_ms == length.as_ms() => Some(model),
            Ok(model) => {
                let found = model.span().window_ms;
                tracing::warn!(
                    version,
                    found,
                    windows = length.as_ms(),
                    "the active model is for other windows"
                );
                None
            }
            Err(error) => {
                tracing::error!(version, %error, "the active model cannot be used");
                None
            }
        }
    }

    /// The version that is active now.
    pub(super) fn active_version(&self) -> Option<String> {
        let state = self.local.machine.state();
        state.models().active().map(|kept| kept.record.version.clone())
    }

    /// Keeps a window that was collected by the clock. One that cannot be kept is missing from later training.
    pub(super) async fn archive_window(&self, counts: &WindowCounts) {
        let config = &self.host.config().balancer;
        if config.external_windows || config.archive_bytes_max == 0 {
            return;
        }
        let (counts, keeper, host) = (counts.clone(), self.models.clone(), self.host.clone());
        let bytes_max = config.archive_bytes_max;
        let keeping = move || {
            let mut keeper = keeper.lock().unwrap_or_else(PoisonError::into_inner);
            let archive = match &mut keeper.archive {
                Some(archive) => archive,
                none => none.insert(WindowArchive::open(
                    host.disk(),
                    &host.windows_folder(),
                    bytes_max,
                )?),
            };
            archive.keep(&counts)
        };
        if let Err(error) = self.host.background(keeping).await {
            tracing::warn!(%error, "a window is not kept");
        }
    }

    /// Begins to train a model, if one is due; `serving` is the name of who forecasts now.
    pub(super) fn retrain_if_due(&self, policy: PolicyName, serving: &str) {
        let config = &self.host.config().balancer;
        if policy != PolicyName::BurnModel || config.retrain_interval_ms == 0 || config.external_windows {
            return;
        }
        let now_ms = self.clock.now_ms();
        let active = {
            let state = self.local.machine.state();
            state
                .models()
                .active()
                .map(|kept| (kept.record.version.clone(), kept.kept_ms))
        };
        let mut keeper = self.models.lock().unwrap_or_else(PoisonError::into_inner);
        let windows = keeper.archive.as_ref().map_or(0, |archive| archive.len() as u64);
        if keeper.is_training || windows < config.retrain_windows_min {
            return;
        }
        let is_behind = active.as_ref().is_none_or(|(version, _)| version != serving);
        let interval_ms = match is_behind {
            true => config.retrain_interval_ms / DRIFT_PART,
            false => config.retrain_interval_ms,
        };
        let since_ms = keeper.tried_ms.max(active.map(|(_, kept_ms)| kept_ms));
        if since_ms.is_some_and(|since_ms| now_ms < since_ms.saturating_add(interval_ms)) {
            return;
        }
        (keeper.is_training, keeper.tried_ms) = (true, Some(now_ms));
        drop(keeper);
        let controller = self.clone();
        self.host.spawn(async move {
            if let Err(reason) = controller.retrain().await {
                tracing::info!(reason, "no new model");
            }
            let mut keeper = controller.models.lock().unwrap_or_else(PoisonError::into_inner);
            keeper.is_training = false;
        });
    }

    async fn retrain(&self) -> Result<(), String> {
        let folder = self.host.retraining_folder();
        let preparing = {
            let (folder, controller) = (folder.clone(), self.clone());
            move || controller.prepare(&folder)
        };
        let inputs = self.host.background(preparing).await?;
        let began = tokio::time::Instant::now();
        let output = self.train(&inputs).await?;
        if !output.status.success() {
            let said = String::from_utf8_lossy(&output.stderr);
            return Err(said.trim().chars().take(SAID_MAX).collect());
        }
        let file = std::fs::read_to_string(&inputs.out).map_err(|e| e.to_string())?;
        let model = TrainedModel::from_bytes(file.as_bytes(), &inputs.out).map_err(|e| e.to_string())?;
        let reason = format!(
            "trained anew on {} samples in {:.1} s, and no rule was better in the latest windows",
            model.metrics().samples,
            began.elapsed().as_secs_f64()
        );
        tracing::info!(version = model.version(), reason, "a model was trained");
        let command = Command::ChangeModel {
            change: ModelChange::Keep {
                record: Box::new(record_of(&model, file)),
                activate: true,
            },
            origin: Origin::Model,
            reason,
            now_ms: self.clock.now_ms(),
        };
        let response = write(&self.local, self.raft_term, &command).await;
        response
            .map(drop)
            .ok_or_else(|| "this host no longer controls the cluster".to_owned())
    }

    /// Writes what training reads beside the windows.
    fn prepare(&self, folder: &Path) -> Result<Inputs, String> {
        let failed = |e: std::io::Error| e.to_string();
        std::fs::create_dir_all(folder).map_err(failed)?;
        let inputs = Inputs {
            windows: self.host.windows_folder(),
            rtt: folder.join("rtt.json"),
            out: folder.join("model"),
            active: None,
        };
        let rtt = self.rtt().map_err(|e| e.to_string())?;
        std::fs::write(&inputs.rtt, rtt_json(&rtt, &self.zones())).map_err(failed)?;
        if inputs.out.exists() {
            std::fs::remove_file(&inputs.out).map_err(failed)?;
        }
        let Some(model) = self.active_model(self.window_length()) else {
            return Ok(inputs);
        };
        let active = folder.join("active");
        model.save(&active).map_err(|e| e.to_string())?;
        Ok(Inputs {
            active: Some(active),
            ..inputs
        })
    }

    async fn train(&self, inputs: &Inputs) -> Result<Output, String> {
        let config = self.host.config();
        let own = program::own_command().map_err(|e| e.to_string())?;
        let mut command = tokio::process::Command::new("nice");
        command
            .args(["-n", "19"])
            .args(own)
            .args(["model", "train"])
            .arg(format!("--windows={}", inputs.windows.display()))
            .arg(format!("--rtt={}", inputs.rtt.display()))
            .arg(format!("--out={}", inputs.out.display()))
            .arg(format!("--window-ms={}", config.profiler.window_ms))
            .env("RAYON_NUM_THREADS", "1")
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .kill_on_drop(true);
        if let Some(active) = &inputs.active {
            command.arg(format!("--active={}", active.display()));
        }
        let limit = Duration::from_millis(config.balancer.retrain_timeout_ms);
        let ended = tokio::time::timeout(limit, command.output()).await;
        let ended = ended.map_err(|_| format!("training took longer than {} s", limit.as_secs()))?;
        ended.map_err(|e| format!("training cannot be started: {e}"))
    }
}

/// Files that training reads and writes.
struct Inputs {
    windows: PathBuf,
    rtt: PathBuf,
    out: PathBuf,
    active: Option<PathBuf>,
}

/// Round trips as `read_rtt_matrix` takes them.
fn rtt_json(rtt: &RttMatrix, zones: &[Zone]) -> String {
    let row = |from: &Zone| -> BTreeMap<String, u32> {
        let to = zones.iter().filter(|to| *to >= from);
        to.map(|to| (to.to_string(), rtt.micros(from, to))).collect()
    };
    let rows: BTreeMap<String, _> = zones.iter().map(|from| (from.to_string(), row(from))).collect();
    json!(rows).to_string()
}
