//! `godwit partition`: reads access logs and proposes a cut of the key space, with its reasons.
//!
//! No cluster is asked, and nothing is read twice: memory is bounded by the number of keys held.

use std::io::{self, Write};
use std::path::{Path, PathBuf};

use ml::partition::{Births, CutScore, Proposal, ProposedRange, TooManyOrigins};
use ml::{AccessLogEntry, AccessLogError, AccessLogReader, KeyLoads, ZoneFileError, ZoneMap};
use serde_json::{Value, json};
use storage::disk::RealDisk;

use super::outcome::Exit;
use super::text::{self, numbers, words};
use crate::cli::PartitionArgs;
use crate::profiler::{AccessLogFileError, access_log_files, read_access_log_file};

/// Why no cut is proposed.
#[derive(Debug, thiserror::Error)]
pub enum PartitionError {
    /// A trace cannot be read.
    #[error("{}: {source}", path.display())]
    Trace {
        /// The file.
        path: PathBuf,
        /// Where and how.
        source: AccessLogError,
    },
    /// A host's access log cannot be read.
    #[error(transparent)]
    Log(#[from] AccessLogFileError),
    /// A folder without access logs.
    #[error("{} holds no access log; hosts write one when profiler.access_log_sample_ppm is set", path.display())]
    NoLog {
        /// The folder.
        path: PathBuf,
    },
    /// The zone file cannot be used.
    #[error(transparent)]
    Zones(#[from] ZoneFileError),
    /// An origin without a zone.
    #[error("{}: the zone file does not name the origin {origin:?}", path.display())]
    UnknownOrigin {
        /// The log that names it.
        path: PathBuf,
        /// The origin.
        origin: String,
    },
    /// More origins than can be told apart.
    #[error("{}: {source} with --zones", path.display())]
    Origins {
        /// The log that names one too many.
        path: PathBuf,
        /// How many there may be.
        source: TooManyOrigins,
    },
    /// Nothing was accessed.
    #[error("the logs hold no access: there is nothing to cut by")]
    NoAccess,
    /// A birth prefix that no line of a file can begin with.
    #[error("--birth-prefix must not be empty and must not hold a line break")]
    BirthPrefix,
    /// Everything is in one range.
    #[error("the cut is one range, which needs no split keys: begin the cluster with `godwit init`")]
    OneRange,
    /// The split keys cannot be written.
    #[error("{}: the split keys cannot be written: {source}", path.display())]
    Out {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The answer cannot be printed.
    #[error("the proposal cannot be printed: {0}")]
    Print(#[source] io::Error),
}

/// Reads the logs, prints the proposal, and writes the split keys where they are asked for.
///
/// # Errors
/// When a log or the zone file cannot be read, or a file cannot be written.
pub fn partition(args: &PartitionArgs, out: &mut dyn Write) -> Result<Exit, PartitionError> {
    let births = births_of(args)?;
    let mut counting = Counting {
        zones: args.zones.as_deref().map(ZoneMap::open).transpose()?,
        loads: KeyLoads::new(args.keys_max as usize),
    };
    args.sources
        .trace
        .iter()
        .try_for_each(|path| counting.trace(path))?;
    args.sources.log.iter().try_for_each(|dir| counting.log(dir))?;
    if counting.loads.accesses() == 0 {
        return Err(PartitionError::NoAccess);
    }
    let proposal = Proposal::new(&counting.loads, args.shards as usize, births.as_ref());
    if let Some(path) = &args.out {
        write_splits(&proposal, path)?;
    }
    let printed = match args.json {
        true => serde_json::to_string_pretty(&document(&proposal, &counting.loads)).map_err(io::Error::from),
        false => Ok(listing(&proposal, &counting.loads)),
    };
    printed
        .and_then(|printed| writeln!(out, "{printed}"))
        .map_err(PartitionError::Print)?;
    Ok(Exit::Ok)
}

fn births_of(args: &PartitionArgs) -> Result<Option<Births>, PartitionError> {
    let Some(prefix) = &args.birth_prefix else {
        return Ok(None);
    };
    if prefix.is_empty() || prefix.contains(['\n', '\r']) {
        return Err(PartitionError::BirthPrefix);
    }
    Ok(Some(Births {
        prefix: prefix.clone().into_bytes(),
    }))
}

struct Counting {
    zones: Option<ZoneMap>,
    loads: KeyLoads,
}

impl Counting {
    fn trace(&mut self, path: &Path) -> Result<(), PartitionError> {
        let failed = |source| PartitionError::Trace {
            path: path.to_owned(),
            source,
        };
        for entry in AccessLogReader::open(path).map_err(failed)? {
            self.count(path, &entry.map_err(failed)?)?;
        }
        Ok(())
    }

    fn log(&mut self, dir: &Path) -> Result<(), PartitionError> {
        let files = access_log_files(&RealDisk, dir)?;
        if files.is_empty() {
            return Err(PartitionError::NoLog { path: dir.to_owned() });
        }
        for path in files {
            for entry in read_access_log_file(&RealDisk, &path)? {
                self.count(&path, &entry)?;
            }
        }
        Ok(())
    }

    fn count(&mut self, path: &Path, entry: &AccessLogEntry) -> Result<(), PartitionError> {
        let origin = match &self.zones {
            None => entry.origin.as_str(),
            Some(zones) => match zones.zone_of(&entry.origin) {
                Some(zone) => &zone.0,
                None => {
                    return Err(PartitionError::UnknownOrigin {
                        path: path.to_owned(),
                        origin: entry.origin.clone(),
                    });
                }
            },
        };
        let (reads, writes) = entry.accesses();
        self.loads
            .add(entry.data_id.as_bytes(), origin, reads + writes)
            .map_err(|source| PartitionError::Origins {
                path: path.to_owned(),
                source,
            })
    }
}

fn write_splits(proposal: &Proposal, path: &Path) -> Result<(), PartitionError> {
    let mut file = Vec::new();
    for split in proposal.splits() {
        file.extend_from_slice(split);
        file.push(b'\n');
    }
    if file.is_empty() {
        return Err(PartitionError::OneRange);
    }
    std::fs::write(path, file).map_err(|source| PartitionError::Out {
        path: path.to_owned(),
        source,
    })
}

fn listing(proposal: &Proposal, loads: &KeyLoads) -> String {
    let columns = [
        words("FROM"),
        numbers("LOAD"),
        words("MOSTLY FROM"),
        numbers("SHARE"),
        numbers("ENTROPY"),
        numbers("FROM ABOVE"),
    ];
    let ranges = text::table(columns, proposal.ranges.iter().map(row));
    let joined = match loads.joined() {
        true => "\nneighbouring keys were counted together: more were accessed than --keys-max",
        false => "",
    };
    format!(
        "{ranges}\n\n{} accesses, {} ranges. Of the accesses a range's dominant origin makes, and what is left to know \
         of an access's origin:\n{}\n{}\n{}{joined}",
        loads.accesses(),
        proposal.ranges.len(),
        score("in one piece", &proposal.whole),
        score("in ranges of equal load", &proposal.equal_load),
        score("in these ranges", &proposal.proposed),
    )
}

fn row(range: &ProposedRange) -> [String; 6] {
    let from = match range.first.as_slice() {
        [] => "the beginning".to_owned(),
        first => text::escaped(first),
    };
    let dominant = match (&range.birth_of, &range.dominant) {
        (Some(origin), _) => format!("{origin} (new keys)"),
        (None, Some(origin)) => origin.clone(),
        (None, None) => "-".to_owned(),
    };
    [
        from,
        percent(range.load_share),
        dominant,
        percent(range.dominant_share),
        format!("{:.2}", range.entropy_bits),
        format!("{:.2}", range.divergence_bits),
    ]
}

fn score(of: &str, score: &CutScore) -> String {
    format!(
        "  {of}: {}, {:.3} bits; the heaviest range has {:.1} times the mean load",
        percent(score.dominant_share),
        score.entropy_bits,
        score.load_max_over_mean
    )
}

fn percent(share: f64) -> String {
    format!("{:.1} %", 100.0 * share)
}

/// Field names are an interface and only grow. Keys are text with escapes, as in every document.
fn document(proposal: &Proposal, loads: &KeyLoads) -> Value {
    let range = |range: &ProposedRange| {
        json!({
            "first_key": text::escaped(&range.first),
            "accesses": range.accesses,
            "load_share": range.load_share,
            "dominant_origin": range.dominant,
            "dominant_share": range.dominant_share,
            "entropy_bits": range.entropy_bits,
            "divergence_bits": range.divergence_bits,
            "birth_of": range.birth_of,
        })
    };
    json!({
        "accesses": loads.accesses(),
        "origins": loads.origins(),
        "keys_joined": loads.joined(),
        "split_at": proposal.splits().map(text::escaped).collect::<Vec<_>>(),
        "ranges": proposal.ranges.iter().map(range).collect::<Vec<_>>(),
        "whole": proposal.whole,
        "equal_load": proposal.equal_load,
        "proposed": proposal.proposed,
    })
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;
    use crate::cli::{Cli, Command};

    const HEADER: &str = "timestamp_ms,user_id,data_id,origin,op,size\n";

    fn args(line: &[&str]) -> PartitionArgs {
        let line = [&["godwit", "partition"], line].concat();
        match Cli::try_parse_from(line).unwrap().command {
            Command::Partition(args) => args,
            other => panic!("{other:?}"),
        }
    }

    fn run(line: &[&str]) -> Result<String, String> {
        let mut out = Vec::new();
        match partition(&args(line), &mut out) {
            Ok(_) => Ok(String::from_utf8(out).unwrap()),
            Err(error) => Err(error.to_string()),
        }
    }

    /// Twenty keys: the first ten accessed from `ewr`, the others from `jfk`.
    fn trace() -> String {
        let line = |at: usize| format!("{at},u,k/{at:02},{},get,1\n", if at < 10 { "ewr" } else { "jfk" });
        format!("{HEADER}{}", (0..20).map(line).collect::<String>())
    }

    #[test]
    fn a_trace_gives_split_keys_that_init_takes() {
        let folder = tempfile::tempdir().unwrap();
        let file = |name: &str| folder.path().join(name).to_string_lossy().into_owned();
        std::fs::write(file("trace.csv"), trace()).unwrap();
        let printed = run(&[
            "--trace",
            &file("trace.csv"),
            "--shards",
            "2",
            "--out",
            &file("keys"),
        ])
        .unwrap();
        assert!(
            printed.contains("in these ranges: 100.0 %, 0.000 bits"),
            "{printed}"
        );
        assert_eq!(std::fs::read(file("keys")).unwrap(), b"k/1\n");
        assert_eq!(
            super::super::init::read_split_keys(Path::new(&file("keys"))).unwrap(),
            ["k/1"]
        );
    }

    #[test]
    fn the_document_has_the_reasons() {
        let folder = tempfile::tempdir().unwrap();
        let file = |name: &str| folder.path().join(name).to_string_lossy().into_owned();
        std::fs::write(
            file("zones.csv"),
            "origin,zone,region,lat,lon\newr,a,r,0,0\njfk,b,r,1,1\n",
        )
        .unwrap();
        let log = trace().replace("k/", "m/");
        std::fs::write(file("access-0000000003.csv"), format!("{log}99,u,torn")).unwrap();
        let logs = folder.path().to_string_lossy().into_owned();
        let line = [
            "--log",
            &logs,
            "--zones",
            &file("zones.csv"),
            "--shards",
            "2",
            "--json",
        ];
        let births = [&line[..], &["--birth-prefix", "new/"]].concat();
        let document: Value = serde_json::from_str(&run(&births).unwrap()).unwrap();
        assert_eq!(document["split_at"], json!(["m/1", "new/a/", "new/b/"]));
        assert_eq!(document["ranges"][2]["birth_of"], "a");
        assert_eq!(document["ranges"][0]["dominant_origin"], "a");
        assert_eq!(document["whole"]["entropy_bits"], 1.0);
    }

    #[test]
    fn what_cannot_be_used_is_named() {
        let folder = tempfile::tempdir().unwrap();
        let file = |name: &str| folder.path().join(name).to_string_lossy().into_owned();
        let logs = folder.path().to_string_lossy().into_owned();
        assert!(
            run(&["--log", &logs])
                .unwrap_err()
                .contains("holds no access log")
        );
        std::fs::write(file("trace.csv"), HEADER).unwrap();
        assert!(
            run(&["--trace", &file("trace.csv")])
                .unwrap_err()
                .contains("no access")
        );
        std::fs::write(file("trace.csv"), trace()).unwrap();
        std::fs::write(file("zones.csv"), "origin,zone,region,lat,lon\newr,a,r,0,0\n").unwrap();
        let error = run(&["--trace", &file("trace.csv"), "--zones", &file("zones.csv")]).unwrap_err();
        assert!(error.contains("does not name the origin \"jfk\""), "{error}");
        let one = run(&[
            "--trace",
            &file("trace.csv"),
            "--shards",
            "1",
            "--out",
            &file("keys"),
        ])
        .unwrap_err();
        assert!(one.contains("`godwit init`"), "{one}");
        assert!(run(&["--trace", &file("trace.csv"), "--birth-prefix", ""]).is_err());
        assert!(Cli::try_parse_from(["godwit", "partition"]).is_err());
    }
}
