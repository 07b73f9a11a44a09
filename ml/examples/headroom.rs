//! Prints what there is to gain on a trace: every policy and the optimum, from the trace alone.
//!
//! The trace's first half trains; the days after it are replayed window by window, for several cuts into shards.
//! Run it from the repository's root:
//!
//!     cargo run --release -p ml --example headroom -- [--trace FILE] [--zones FILE] [--shards 64,128,256]
//!         [--cut equal,affinity] [--days 7] [--window-min 60] [--lead 0] [--voters 3] [--objective likely|rtt|quorum]
//!         [--start-part 50] [--seed 1] [--without FEATURE,FEATURE]
//!
//! The cuts `hash` and `object` are no ranges a store could have; they are there to compare with studies that used them.

use std::collections::BTreeMap;
use std::error::Error;
use std::path::Path;

use ml::{
    AccessLogEntry, AccessLogReader, Ewma, Forecaster, HostAffinityModel, HourOfDay, KeyLoad, KeyRanges,
    LastAccess, LastWindow, Objective, ReplayConfig, ReplayScore, RuleForecaster, SeasonalNaive, StaticHash,
    StaticMajority, TrainConfig, TrainedModel, Voters, WindowAggregator, WindowCounts, WindowLength, ZoneMap,
    digest, partition, replay, replay_oracle, train, windows_of,
};
use placement::{WindowId, Zone};

const MINUTE_MS: u64 = 60_000;
/// One remote access, in the units of a replay's move cost. Staying must have cost this, or a tenth of it with the
/// model, before a patient policy moves a home.
const REMOTE_MILLI: u64 = 1_000;
const FAR_MICROS: u64 = 20_000;

struct Options(BTreeMap<String, String>);

impl Options {
    fn from_args() -> Self {
        let args: Vec<String> = std::env::args().skip(1).collect();
        Self(
            args.chunks(2)
                .filter(|pair| pair.len() == 2)
                .map(|pair| (pair[0].clone(), pair[1].clone()))
                .collect(),
        )
    }

    fn text<'a>(&'a self, name: &str, default: &'a str) -> &'a str {
        self.0.get(name).map_or(default, String::as_str)
    }

    fn number(&self, name: &str, default: u64) -> Result<u64, Box<dyn Error>> {
        self.0.get(name).map_or(Ok(default), |text| {
            text.parse().map_err(|_| format!("{name} {text}").into())
        })
    }
}

struct Study {
    log: Vec<AccessLogEntry>,
    zone_map: ZoneMap,
    zones: Vec<Zone>,
    rtt_micros: Vec<Vec<u64>>,
    length: WindowLength,
    from: WindowId,
    to: WindowId,
    lead_windows: u64,
    voters: usize,
    objective: Objective,
    train: TrainConfig,
}

fn main() -> Result<(), Box<dyn Error>> {
    let options = Options::from_args();
    let study = Study::read(&options)?;
    println!(
        "zones {:?}",
        study.zones.iter().map(|zone| zone.0.as_str()).collect::<Vec<_>>()
    );
    println!(
        "windows {} to {} of {} ms, objective {:?}, {} voters, lead {}",
        study.from,
        study.to,
        study.length.as_ms(),
        study.objective,
        study.voters,
        study.lead_windows
    );
    for cut in options.text("--cut", "equal,affinity").split(',') {
        for shards in options.text("--shards", "64,128,256").split(',') {
            study.print(cut, shards.parse()?)?;
        }
    }
    Ok(())
}

impl Study {
    fn read(options: &Options) -> Result<Self, Box<dyn Error>> {
        let trace = options.text("--trace", "traces/flights-nyc13/trace.csv.zst");
        let log = AccessLogReader::open(Path::new(trace))?.collect::<Result<Vec<_>, _>>()?;
        let zone_file = options.text("--zones", "traces/flights-nyc13/zones.csv");
        let zone_map = ZoneMap::read(std::fs::File::open(zone_file)?)?;
        let length = WindowLength::from_ms(options.number("--window-min", 60)? * MINUTE_MS);
        let (first, last) = (
            log.first().ok_or("an empty trace")?,
            log.last().ok_or("an empty trace")?,
        );
        let part = options.number("--start-part", 50)?;
        let middle_ms = first.timestamp_ms + (last.timestamp_ms - first.timestamp_ms) / 100 * part;
        let from = WindowId(middle_ms / length.as_ms() + 1);
        Ok(Self {
            zones: zone_map.zones(),
            rtt_micros: zone_map.rtt_matrix_micros(),
            from,
            to: WindowId(from.0 + length.windows_in_hours(24 * options.number("--days", 7)?)),
            lead_windows: options.number("--lead", 0)?,
            voters: options.number("--voters", 3)? as usize,
            objective: match options.text("--objective", "likely") {
                "likely" => Objective::MostLikely,
                "rtt" => Objective::ExpectedRtt,
                "quorum" => Objective::ExpectedQuorumRtt,
                other => return Err(format!("unknown objective {other}").into()),
            },
            train: TrainConfig {
                seed: options.number("--seed", 1)?,
                horizon_windows: options.number("--lead", 0)? as usize + 1,
                without: options
                    .text("--without", "")
                    .split(',')
                    .filter(|name| !name.is_empty())
                    .map(str::to_owned)
                    .collect(),
                ..TrainConfig::default()
            },
            log,
            zone_map,
            length,
        })
    }

    fn print(&self, cut: &str, shards: usize) -> Result<(), Box<dyn Error>> {
        let loads = self.training_loads();
        let ranges = match cut {
            "equal" => partition::equal_load(&loads, shards),
            "affinity" => partition::affinity_aware(&loads, shards),
            "object" => KeyRanges::new(
                self.log
                    .iter()
                    .map(|entry| entry.data_id.clone().into_bytes())
                    .collect(),
            ),
            "hash" => KeyRanges::new((1..shards).map(|at| format!("{at:04}/").into_bytes()).collect()),
            other => return Err(format!("unknown cut {other}").into()),
        };
        let windows = if cut == "hash" {
            self.windows(&ranges, |key| bucket(key, shards))?
        } else {
            self.windows(&ranges, str::to_owned)?
        };
        let training = windows.partition_point(|window| window.window < self.from);
        let begun = clock();
        let model = train(&windows[..training], &self.zones, self.length, &self.train)?;
        let trained_s = clock() - begun;
        println!(
            "\n{cut} cut, {} shards; trained in {trained_s:.1} s: {:?}",
            ranges.splits().len() + 1,
            model.metrics()
        );
        for voters in [
            self.chosen_voters(&windows[..training]),
            Voters::everywhere(self.zones.len()),
        ] {
            self.print_policies(&model, &windows, &voters);
        }
        Ok(())
    }

    fn chosen_voters(&self, training: &[WindowCounts]) -> Voters {
        match self.objective {
            Objective::MostLikely => Voters::busiest(training, &self.zones, self.voters),
            _ => Voters::nearest(training, &self.zones, &self.rtt_micros, self.voters),
        }
    }

    fn print_policies(&self, model: &TrainedModel, windows: &[WindowCounts], voters: &Voters) {
        let mut policies = self.policies();
        policies.push(Box::new(HostAffinityModel::new(model.clone(), &self.zones)));
        let places = if *voters == Voters::everywhere(self.zones.len()) {
            "any zone"
        } else {
            "voters only"
        };
        println!(
            "  {places:24} {:>7} {:>9} {:>9} {:>7}",
            "LAR", "RTT ms", "+quorum", "moves"
        );
        for mut policy in policies {
            let name = policy.name().to_owned();
            print_row(&name, replay(policy.as_mut(), windows, &self.config(voters, 0)));
        }
        let likely = self.objective == Objective::MostLikely;
        let remote = if likely { REMOTE_MILLI } else { FAR_MICROS };
        let patient: [(&str, Box<dyn Forecaster>, u64); 2] = [
            ("ewma-0.05, patient", self.ewma(0.05), remote),
            (
                "burn, patient",
                Box::new(HostAffinityModel::new(model.clone(), &self.zones)),
                remote / 10,
            ),
        ];
        for (name, mut policy, cost) in patient {
            print_row(name, replay(policy.as_mut(), windows, &self.config(voters, cost)));
        }
        print_row("oracle", replay_oracle(windows, &self.config(voters, 0)));
    }

    fn config<'a>(&'a self, voters: &'a Voters, move_cost: u64) -> ReplayConfig<'a> {
        ReplayConfig {
            zones: &self.zones,
            rtt_micros: &self.rtt_micros,
            voters,
            objective: self.objective,
            from: self.from,
            to: self.to,
            lead_windows: self.lead_windows,
            move_cost,
        }
    }

    fn policies(&self) -> Vec<Box<dyn Forecaster>> {
        let zones = &self.zones;
        let season = |hours| SeasonalNaive::new(self.length.windows_in_hours(hours));
        let mut policies: Vec<Box<dyn Forecaster>> = vec![
            Box::new(RuleForecaster::new("static-hash", zones, StaticHash)),
            Box::new(RuleForecaster::new(
                "static-majority",
                zones,
                StaticMajority::new(self.from),
            )),
            Box::new(RuleForecaster::new("last-window", zones, LastWindow::default())),
            Box::new(RuleForecaster::new("last-access", zones, LastAccess::default())),
        ];
        policies.extend([0.02, 0.05, 0.4].map(|alpha| self.ewma(alpha)));
        policies.push(Box::new(RuleForecaster::new("seasonal-24h", zones, season(24))));
        policies.push(Box::new(RuleForecaster::new("seasonal-168h", zones, season(168))));
        policies.push(Box::new(RuleForecaster::new(
            "hour-of-day",
            zones,
            HourOfDay::new(self.length),
        )));
        policies
    }

    fn ewma(&self, alpha: f32) -> Box<dyn Forecaster> {
        Box::new(RuleForecaster::new(
            format!("ewma-{alpha}"),
            &self.zones,
            Ewma::new(alpha),
        ))
    }

    fn training_loads(&self) -> KeyLoad {
        let until_ms = self.length.start_ms(self.from);
        let mut loads = KeyLoad::new();
        for entry in self.log.iter().take_while(|entry| entry.timestamp_ms < until_ms) {
            let Some(zone) = self.zone_map.zone_of(&entry.origin) else {
                continue;
            };
            let Some(at) = self.zones.iter().position(|known| known == zone) else {
                continue;
            };
            let load = loads
                .entry(entry.data_id.clone().into_bytes())
                .or_insert_with(|| vec![0; self.zones.len()]);
            let (reads, writes) = entry.accesses();
            load[at] += reads + writes;
        }
        loads
    }

    fn windows(
        &self,
        ranges: &KeyRanges,
        key_of: impl Fn(&str) -> String,
    ) -> Result<Vec<WindowCounts>, Box<dyn Error>> {
        let end_ms = self.length.start_ms(self.to);
        let renamed = |entry: &AccessLogEntry| AccessLogEntry {
            data_id: key_of(&entry.data_id),
            ..entry.clone()
        };
        let used: Vec<AccessLogEntry> = self
            .log
            .iter()
            .take_while(|entry| entry.timestamp_ms < end_ms)
            .map(renamed)
            .collect();
        let aggregator = WindowAggregator::new(self.length.as_ms(), ranges.clone(), self.zone_map.clone());
        Ok(windows_of(&used, aggregator)?)
    }
}

/// The key behind the number of its hash bucket.
fn bucket(key: &str, buckets: usize) -> String {
    format!("{:04}/{key}", digest(key.as_bytes()) % buckets as u64)
}

fn print_row(name: &str, score: ReplayScore) {
    println!(
        "  {name:24} {:7.4} {:9.3} {:9.3} {:7}",
        score.local_access_ratio(),
        score.mean_rtt_micros() / 1000.0,
        score.mean_quorum_rtt_micros() / 1000.0,
        score.home_moves
    );
}

/// Seconds on some clock. An example is a composition root: it may read one.
fn clock() -> f64 {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    since.map_or(0.0, |since| since.as_secs_f64())
}
