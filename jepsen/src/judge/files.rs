//! A run's folder: `history.jsonl`, `events.jsonl`, `watches.jsonl` and `placement.jsonl` if there are any, `verdict.json` and
//! `timeline.html`; all times on one clock.

use std::fs::{self, File};
use std::io::{self, BufReader, BufWriter};
use std::path::{Path, PathBuf};

use serde::Serialize;
use serde::de::DeserializeOwned;
use thiserror::Error;

use super::demands::Demands;
use super::evidence::Evidence;
use super::judgement::Judgement;
use super::verdict_of::judge;
use crate::history::{LineReader, LineWriter, ReadError};
use crate::record::Recorded;
use crate::timeline::{Page, render};

const HISTORY: &str = "history.jsonl";
const EVENTS: &str = "events.jsonl";
const WATCHES: &str = "watches.jsonl";
const PLACEMENT: &str = "placement.jsonl";
const VERDICT: &str = "verdict.json";
const TIMELINE: &str = "timeline.html";

/// Why a run's folder cannot be read or written.
#[derive(Debug, Error)]
pub enum FilesError {
    /// The file system refuses.
    #[error("{}: {source}", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// What it says.
        source: io::Error,
    },
    /// A line is bad.
    #[error("{}: {source}", path.display())]
    Line {
        /// The file.
        path: PathBuf,
        /// Which line, and what is wrong with it.
        source: ReadError,
    },
    /// The verdict is bad.
    #[error("{}: {source}", path.display())]
    Verdict {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        source: serde_json::Error,
    },
}

/// Writes what a run leaves behind into `folder`, which is made if it is not there.
///
/// # Errors
/// Those of the file system.
pub fn write_files(folder: &Path, evidence: &Evidence, judgement: &Judgement) -> Result<(), FilesError> {
    let at = |path: PathBuf| move |source| FilesError::Io { path, source };
    fs::create_dir_all(folder).map_err(at(folder.to_owned()))?;
    write_lines(&folder.join(HISTORY), &evidence.recorded.operations)?;
    write_lines(&folder.join(EVENTS), &evidence.recorded.events)?;
    if !evidence.recorded.watches.is_empty() {
        write_lines(&folder.join(WATCHES), &evidence.recorded.watches)?;
    }
    if !evidence.placement.is_empty() {
        write_lines(&folder.join(PLACEMENT), &evidence.placement)?;
    }
    let path = folder.join(VERDICT);
    let mut text = serde_json::to_string_pretty(judgement).map_err(|source| FilesError::Verdict {
        path: path.clone(),
        source,
    })?;
    text.push('\n');
    fs::write(&path, text).map_err(at(path.clone()))?;
    let path = folder.join(TIMELINE);
    fs::write(&path, page_of(evidence, judgement)).map_err(at(path.clone()))
}

/// Judges what a run left in `folder` once more, with what `verdict.json` knows of the run if it is there. Writes
/// nothing.
///
/// # Errors
/// When a file is missing (but for the watches', the placement's and the verdict's) or has a line that makes no sense.
pub fn judge_files(folder: &Path, demands: Demands) -> Result<Judgement, FilesError> {
    let operations = read_lines(&folder.join(HISTORY))?;
    let events = read_lines(&folder.join(EVENTS))?;
    let watches = read_lines_if_any(&folder.join(WATCHES))?;
    let placement = read_lines_if_any(&folder.join(PLACEMENT))?;
    let verdict = folder.join(VERDICT);
    let facts = if verdict.exists() {
        read_verdict(&verdict)?.facts
    } else {
        None
    };
    Ok(judge(&Evidence {
        recorded: Recorded {
            operations,
            events,
            watches,
        },
        placement,
        facts,
        demands,
    }))
}

fn page_of(evidence: &Evidence, judgement: &Judgement) -> String {
    let title = match judgement.seed {
        Some(seed) => format!("seed {seed}: {}", judgement.verdict),
        None => judgement.verdict.to_string(),
    };
    let checks: Vec<(String, String)> = judgement
        .checks
        .iter()
        .map(|check| (check.name.clone(), check.verdict.to_string()))
        .collect();
    render(&Page {
        title: &title,
        history: &evidence.recorded.operations,
        events: &evidence.recorded.events,
        checks: &checks,
        violations: &judgement.violations,
    })
}

fn write_lines<T: Serialize>(path: &Path, lines: &[T]) -> Result<(), FilesError> {
    let at = |source| FilesError::Io {
        path: path.to_owned(),
        source,
    };
    let mut writer = LineWriter::new(BufWriter::new(File::create(path).map_err(at)?));
    for line in lines {
        writer.write(line).map_err(at)?;
    }
    writer.finish().map(drop).map_err(at)
}

fn read_lines<T: DeserializeOwned>(path: &Path) -> Result<Vec<T>, FilesError> {
    let file = File::open(path).map_err(|source| FilesError::Io {
        path: path.to_owned(),
        source,
    })?;
    let lines: Result<Vec<T>, ReadError> = LineReader::new(BufReader::new(file)).collect();
    lines.map_err(|source| FilesError::Line {
        path: path.to_owned(),
        source,
    })
}

/// Nothing where there is no file.
fn read_lines_if_any<T: DeserializeOwned>(path: &Path) -> Result<Vec<T>, FilesError> {
    match path.exists() {
        true => read_lines(path),
        false => Ok(Vec::new()),
    }
}

fn read_verdict(path: &Path) -> Result<Judgement, FilesError> {
    let text = fs::read_to_string(path).map_err(|source| FilesError::Io {
        path: path.to_owned(),
        source,
    })?;
    serde_json::from_str(&text).map_err(|source| FilesError::Verdict {
        path: path.to_owned(),
        source,
    })
}
