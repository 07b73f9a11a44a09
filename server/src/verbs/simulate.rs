//! `godwit plan simulate`: plays a trace under each policy, and prints what it came to. No cluster is asked.

use std::fs::File;
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use ml::{
    Forecaster, GuardedModel, HostAffinityModel, LastWindow, ModelFileError, RuleForecaster, TrainedModel,
    WindowLength, ZoneMap, ZoneMapError,
};
use placement::planner::{Mode, Objective, PlanOptions, RttMatrix};
use placement::{Limits, Rules, Zone};
use serde_json::{Value, json};

use super::outcome::Exit;
use super::text::{self, numbers, words};
use crate::cli::{OfflinePlanArgs, OfflinePlanVerb, SimulateArgs};
use crate::config::PolicyName;
use crate::controller::{plan_costs, plan_options, slow_average};
use crate::net::{DistanceError, read_rtt_matrix};
use crate::simulator::{
    HostsError, Played, Player, Score, Settings, Site, TraceError, play, read, read_hosts,
};

const MINUTE_MS: u64 = 60_000;

/// Why nothing was played.
#[derive(Debug, thiserror::Error)]
pub enum SimulateError {
    /// A file cannot be opened.
    #[error("{}: cannot be read: {source}", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// A file makes no sense, or no cluster can be made of it.
    #[error("{}: {reason}", path.display())]
    Input {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// The model cannot be read.
    #[error(transparent)]
    Model(#[from] ModelFileError),
    /// The answer cannot be printed.
    #[error("the answer cannot be printed: {0}")]
    Print(#[from] io::Error),
}

/// Runs a verb of `godwit plan`.
///
/// # Errors
/// When a file cannot be used.
pub fn plan(args: &OfflinePlanArgs, out: &mut dyn Write) -> Result<Exit, SimulateError> {
    let OfflinePlanVerb::Simulate(args) = &args.verb;
    let stage = Stage::read(args)?;
    let scores = stage.play(args)?;
    match args.json {
        true => writeln!(out, "{:#}", document(&stage.played, &scores))?,
        false => writeln!(out, "{}", listing(&stage.played, &scores))?,
    }
    Ok(Exit::Ok)
}

/// All that is played on.
struct Stage {
    sites: Vec<Site>,
    zones: Vec<Zone>,
    rtt: RttMatrix,
    played: Played,
}

impl Stage {
    fn read(args: &SimulateArgs) -> Result<Self, SimulateError> {
        let (sites, own) = read_hosts(open(&args.hosts)?).map_err(|e: HostsError| input(&args.hosts, &e))?;
        let zones = match &args.zones {
            Some(path) => ZoneMap::read(open(path)?).map_err(|e: ZoneMapError| input(path, &e))?,
            None => own.clone(),
        };
        if let Some(lost) = own.zones().iter().find(|zone| zones.site(zone).is_none()) {
            let path = args.zones.as_ref().unwrap_or(&args.hosts);
            return Err(SimulateError::Input {
                path: path.clone(),
                reason: format!("zone {lost} has hosts, but no place"),
            });
        }
        let rtt = match &args.rtt_matrix {
            Some(path) => read_rtt_matrix(path).map_err(|e: DistanceError| input(path, &e))?,
            None => by_distance(&zones),
        };
        let length = WindowLength::from_ms(args.window_min * MINUTE_MS);
        let shards = usize::try_from(args.shards).unwrap_or(usize::MAX);
        let played = read(&args.trace, &zones, length, shards, args.history)
            .map_err(|e: TraceError| input(&args.trace, &e))?;
        Ok(Self {
            sites,
            zones: own.zones(),
            rtt,
            played,
        })
    }

    fn play(&self, args: &SimulateArgs) -> Result<Vec<(String, Score)>, SimulateError> {
        let settings = Settings {
            sites: &self.sites,
            rtt: &self.rtt,
            rules: Rules {
                replication_factor: args.voters,
                ..Rules::default()
            },
            limits: Limits::default(),
            costs: plan_costs(),
            lease_reads_ppm: args.lease_reads,
        };
        let mut scores = Vec::new();
        for player in self.players(args)? {
            let name = player.name.clone();
            let score = play(player, &self.played, &settings).map_err(|reason| SimulateError::Input {
                path: args.hosts.clone(),
                reason,
            })?;
            scores.push((name, score));
        }
        Ok(scores)
    }

    fn players(&self, args: &SimulateArgs) -> Result<Vec<Player>, SimulateError> {
        let options = |policy| {
            let mode = match args.replicas {
                true => Mode::HomesAndReplicas,
                false => Mode::Homes,
            };
            plan_options(policy, mode, args.lease_reads)
        };
        let greedy = PlanOptions {
            objective: Objective::ExpectedRtt,
            ..options(PolicyName::LastWindow)
        };
        let last = RuleForecaster::new("last-window", &self.zones, LastWindow::default());
        let plays = |name: &str, forecaster: Box<dyn Forecaster + Send + Sync>, options| Player {
            name: name.to_owned(),
            plans: Some((forecaster, options)),
        };
        let mut players = vec![
            Player {
                name: "static".to_owned(),
                plans: None,
            },
            plays("greedy", Box::new(last), greedy),
            plays(
                PolicyName::EwmaHysteresis.as_str(),
                Box::new(slow_average(&self.zones)),
                options(PolicyName::EwmaHysteresis),
            ),
        ];
        if let Some(path) = &args.model {
            let model = HostAffinityModel::new(TrainedModel::load(path)?, &self.zones);
            let guarded = GuardedModel::new(Box::new(model), Box::new(slow_average(&self.zones)));
            let policy = PolicyName::BurnModel;
            players.push(plays(policy.as_str(), Box::new(guarded), options(policy)));
        }
        Ok(players)
    }
}

fn by_distance(zones: &ZoneMap) -> RttMatrix {
    let mut rtt = RttMatrix::default();
    for from in zones.zones() {
        for to in zones.zones() {
            if let Some(micros) = zones.rtt_micros(&from, &to) {
                let micros = u32::try_from(micros).unwrap_or(u32::MAX);
                rtt.insert(from.clone(), to, micros);
            }
        }
    }
    rtt
}

fn open(path: &Path) -> Result<File, SimulateError> {
    File::open(path).map_err(|source| SimulateError::File {
        path: path.to_owned(),
        source,
    })
}

fn input(path: &Path, reason: &dyn std::error::Error) -> SimulateError {
    SimulateError::Input {
        path: path.to_owned(),
        reason: reason.to_string(),
    }
}

fn listing(played: &Played, scores: &[(String, Score)]) -> String {
    let columns = [
        words("policy"),
        numbers("local"),
        numbers("mean"),
        numbers("p99"),
        numbers("homes moved"),
        numbers("replicas moved"),
        numbers("bytes moved"),
        numbers("violations"),
    ];
    let row = |(name, score): &(String, Score)| {
        [
            name.clone(),
            format!("{:.2} %", score.local_ratio() * 100.0),
            format!("{:.3} ms", score.mean_micros() / 1e3),
            format!("{:.3} ms", score.p99_micros() as f64 / 1e3),
            score.home_moves.to_string(),
            score.replica_moves.to_string(),
            text::bytes(score.bytes_moved),
            score.violations().to_string(),
        ]
    };
    let unplaced = match played.unplaced {
        0 => String::new(),
        count => format!("; {count} accesses came from nowhere that is known, and are left out"),
    };
    format!(
        "{}\n\n{} of {} windows scored, {} shards{unplaced}",
        text::table(columns, scores.iter().map(row)),
        played.windows.len() - played.from,
        played.windows.len(),
        played.ranges.shards().count(),
    )
}

/// Latencies are in microseconds.
fn document(played: &Played, scores: &[(String, Score)]) -> Value {
    let policy = |(name, score): &(String, Score)| {
        json!({
            "policy": name,
            "accesses": score.accesses,
            "local_access_ratio": score.local_ratio(),
            "mean_micros": score.mean_micros(),
            "p99_micros": score.p99_micros(),
            "home_moves": score.home_moves,
            "replica_moves": score.replica_moves,
            "bytes_moved": score.bytes_moved,
            "over_capacity": score.over_capacity,
            "crowded": score.crowded,
        })
    };
    json!({
        "windows": played.windows.len(),
        "windows_scored": played.windows.len() - played.from,
        "window_ms": played.length.as_ms(),
        "shards": played.ranges.shards().count(),
        "unplaced": played.unplaced,
        "policies": scores.iter().map(policy).collect::<Vec<_>>(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOUR_MS: u64 = 3_600_000;

    /// Two days of accesses: key `a` from the east, key `b` from the west, and one from nowhere.
    fn write_files(folder: &Path) -> SimulateArgs {
        let mut trace = "timestamp_ms,user_id,data_id,origin,op,size\n".to_owned();
        for hour in 0..48 {
            for (key, origin) in [("a", "east"), ("b", "west")] {
                for second in 0..5 {
                    let at_ms = hour * HOUR_MS + second * 1_000;
                    trace.push_str(&format!("{at_ms},u,{key},{origin},read,100\n"));
                }
            }
        }
        trace.push_str(&format!("{},u,a,nowhere,read,100\n", 48 * HOUR_MS - 1));
        let hosts = "host,zone,region,lat,lon,capacity_bytes\n\
                     h1,east,e,0,0,1000000\nh2,west,w,0,50,1000000\nh3,mid,m,0,25,1000000\n";
        let (trace_file, hosts_file) = (folder.join("trace.csv"), folder.join("hosts.csv"));
        std::fs::write(&trace_file, trace).unwrap();
        std::fs::write(&hosts_file, hosts).unwrap();
        SimulateArgs {
            trace: trace_file,
            hosts: hosts_file,
            zones: None,
            rtt_matrix: None,
            model: None,
            shards: 2,
            voters: 3,
            window_min: 60,
            history: 50,
            lease_reads: 1_000_000,
            replicas: false,
            json: true,
        }
    }

    fn answer(args: SimulateArgs) -> Result<String, SimulateError> {
        let mut out = Vec::new();
        let verb = OfflinePlanVerb::Simulate(args);
        plan(&OfflinePlanArgs { verb }, &mut out)?;
        Ok(String::from_utf8(out).unwrap())
    }

    #[test]
    fn policies_that_move_serve_a_steady_trace_at_home() {
        let folder = tempfile::tempdir().unwrap();
        let args = write_files(folder.path());
        let told: Value = serde_json::from_str(&answer(args.clone()).unwrap()).unwrap();
        assert_eq!(
            (told["shards"].as_u64(), told["unplaced"].as_u64()),
            (Some(2), Some(1)),
            "{told}"
        );
        let policies = told["policies"].as_array().unwrap();
        let named = |name: &str| policies.iter().find(|policy| policy["policy"] == name).unwrap();
        assert_eq!(named("greedy")["local_access_ratio"], 1.0, "{told}");
        assert_eq!(named("greedy")["p99_micros"], 500);
        for policy in policies {
            assert_eq!(policy["accesses"], named("static")["accesses"]);
            assert_eq!(
                policy["over_capacity"].as_u64().unwrap() + policy["crowded"].as_u64().unwrap(),
                0
            );
        }
        let local = |name: &str| named(name)["local_access_ratio"].as_f64().unwrap();
        assert!(local("ewma-hysteresis") >= local("static"), "{told}");
        assert_eq!(
            answer(args.clone()).unwrap(),
            answer(args.clone()).unwrap(),
            "it is the same again"
        );
        let shown = answer(SimulateArgs { json: false, ..args }).unwrap();
        for part in ["100.00 %", "0.500 ms", "2 shards", "from nowhere that is known"] {
            assert!(shown.contains(part), "{part}: {shown}");
        }
    }

    #[test]
    fn files_that_make_no_sense_are_named() {
        let folder = tempfile::tempdir().unwrap();
        let args = write_files(folder.path());
        let lost = SimulateArgs {
            trace: folder.path().join("none.csv"),
            ..args.clone()
        };
        assert!(answer(lost).unwrap_err().to_string().contains("none.csv"));
        let zones = folder.path().join("zones.csv");
        std::fs::write(&zones, "origin,zone,region,lat,lon\neast,east,e,0,0\n").unwrap();
        let unplaced = SimulateArgs {
            zones: Some(zones),
            ..args
        };
        let error = answer(unplaced).unwrap_err().to_string();
        assert!(error.contains("has hosts, but no place"), "{error}");
    }
}
