//! Trains the same model from the same seed on the processor and on an accelerator, and compares what comes out.
//!
//! The trace's first half trains, the week after it is replayed. For each device: seconds, likelihood, calibration and
//! local-access ratio; then the largest difference of weights and of scores. From the repository's root, on a machine
//! with a graphics card and its driver for Vulkan, Metal or DirectX 12:
//!
//!     cargo run --release -p ml --features gpu --example train_device -- [--trace FILE] [--zones FILE] [--shards 256]
//!         [--window-min 60] [--epochs 6] [--batch 1024] [--hidden 24] [--devices cpu,gpu] [--repeat 1]
//!
//! Without the feature `gpu` only `--devices cpu` runs.

use std::collections::BTreeMap;
use std::error::Error;
use std::path::Path;
use std::time::Instant;

use ml::{
    AccessLogEntry, AccessLogReader, Forecaster, HostAffinityModel, KeyLoad, Objective, ReplayConfig,
    TrainConfig, TrainDevice, TrainedModel, Voters, WindowAggregator, WindowCounts, WindowLength, ZoneMap,
    partition, replay, train, windows_of,
};
use placement::{ShardId, WindowId, Zone};

const MINUTE_MS: u64 = 60_000;
const REPLAYED_HOURS: u64 = 24 * 7;

struct Options(BTreeMap<String, String>);

impl Options {
    fn from_args() -> Self {
        let args: Vec<String> = std::env::args().skip(1).collect();
        let pairs = args.chunks_exact(2);
        Self(pairs.map(|pair| (pair[0].clone(), pair[1].clone())).collect())
    }

    fn text<'a>(&'a self, name: &str, default: &'a str) -> &'a str {
        self.0.get(name).map_or(default, String::as_str)
    }

    fn number(&self, name: &str, default: usize) -> Result<usize, Box<dyn Error>> {
        let text = self.0.get(name);
        text.map_or(Ok(default), |text| {
            text.parse().map_err(|_| format!("{name} {text}").into())
        })
    }
}

struct Study {
    windows: Vec<WindowCounts>,
    zones: Vec<Zone>,
    rtt_micros: Vec<Vec<u64>>,
    length: WindowLength,
    from: WindowId,
}

fn main() -> Result<(), Box<dyn Error>> {
    let options = Options::from_args();
    let study = Study::read(&options)?;
    let mut models: Vec<TrainedModel> = Vec::new();
    for _ in 0..options.number("--repeat", 1)? {
        for name in options.text("--devices", "cpu,gpu").split(',') {
            let config = TrainConfig {
                epochs: options.number("--epochs", TrainConfig::default().epochs)?,
                batch: options.number("--batch", TrainConfig::default().batch)?,
                hidden: options.number("--hidden", TrainConfig::default().hidden)?,
                device: device(name)?,
                ..TrainConfig::default()
            };
            models.push(study.measure(&config)?);
        }
    }
    if let [first, others @ ..] = models.as_slice() {
        others.iter().for_each(|other| study.compare(first, other));
    }
    Ok(())
}

fn device(name: &str) -> Result<TrainDevice, Box<dyn Error>> {
    match name {
        "cpu" => Ok(TrainDevice::Cpu),
        "gpu" => Ok(TrainDevice::Gpu),
        other => Err(format!("--devices {other} is neither cpu nor gpu").into()),
    }
}

impl Study {
    fn read(options: &Options) -> Result<Self, Box<dyn Error>> {
        let trace = options.text("--trace", "traces/flights-nyc13/trace.csv.zst");
        let log = AccessLogReader::open(Path::new(trace))?.collect::<Result<Vec<_>, _>>()?;
        let zone_file = options.text("--zones", "traces/flights-nyc13/zones.csv");
        let zone_map = ZoneMap::read(std::fs::File::open(zone_file)?)?;
        let length = WindowLength::from_ms(options.number("--window-min", 60)? as u64 * MINUTE_MS);
        let (Some(first), Some(last)) = (log.first(), log.last()) else {
            return Err("an empty trace".into());
        };
        let middle_ms = first.timestamp_ms.midpoint(last.timestamp_ms);
        let from = WindowId(middle_ms / length.as_ms() + 1);
        let ranges = partition::equal_load(
            &loads(&log, &zone_map, length.start_ms(from)),
            options.number("--shards", 256)?,
        );
        let aggregator = WindowAggregator::new(length.as_ms(), ranges, zone_map.clone());
        Ok(Self {
            windows: windows_of(&log, aggregator)?,
            zones: zone_map.zones(),
            rtt_micros: zone_map.rtt_matrix_micros(),
            length,
            from,
        })
    }

    fn training(&self) -> &[WindowCounts] {
        &self.windows[..self.windows.partition_point(|window| window.window < self.from)]
    }

    fn measure(&self, config: &TrainConfig) -> Result<TrainedModel, Box<dyn Error>> {
        let begun = Instant::now();
        let model = train(self.training(), &self.zones, self.length, config)?;
        let seconds = begun.elapsed().as_secs_f64();
        let metrics = model.metrics();
        println!(
            "{}: trained in {seconds:.2} s ({} samples x {} epochs, batch {}, hidden {}), nll {:.5}, ece {:.4}, LAR {:.4}, {}",
            config.device,
            metrics.samples,
            config.epochs,
            config.batch,
            config.hidden,
            metrics.nll,
            metrics.ece,
            self.local_access_ratio(&model),
            model.version()
        );
        Ok(model)
    }

    fn local_access_ratio(&self, model: &TrainedModel) -> f64 {
        let voters = Voters::everywhere(self.zones.len());
        let config = ReplayConfig {
            zones: &self.zones,
            rtt_micros: &self.rtt_micros,
            voters: &voters,
            objective: Objective::MostLikely,
            from: self.from,
            to: WindowId(self.from.0 + self.length.windows_in_hours(REPLAYED_HOURS)),
            lead_windows: 0,
            move_cost: 0,
        };
        let mut forecaster = HostAffinityModel::new(model.clone(), &self.zones);
        replay(&mut forecaster, &self.windows, &config).local_access_ratio()
    }

    fn compare(&self, one: &TrainedModel, two: &TrainedModel) {
        println!(
            "{} against {}: largest difference of a weight {:.2e}, of a score {:.2e}",
            one.version(),
            two.version(),
            largest_difference(&weights(one), &weights(two)),
            largest_difference(&self.scores(one), &self.scores(two)),
        );
    }

    /// Every shard's shares by zone in the first window that was not trained on.
    fn scores(&self, model: &TrainedModel) -> Vec<f32> {
        let mut forecaster = HostAffinityModel::new(model.clone(), &self.zones);
        self.training()
            .iter()
            .for_each(|window| forecaster.observe(window));
        let forecast = forecaster.forecast(self.from);
        let share = |shard: &ShardId, zone: &Zone| {
            let ppm = forecast.shards[shard].shares.of(zone);
            ppm as f32 / 1e6
        };
        let shards = forecast.shards.keys();
        shards
            .flat_map(|shard| self.zones.iter().map(move |zone| share(shard, zone)))
            .collect()
    }
}

fn weights(model: &TrainedModel) -> Vec<f32> {
    let weights = model.scorer().weights();
    [
        &weights.hidden_weight,
        &weights.hidden_bias,
        &weights.output_weight,
        &weights.skip_weight,
        &weights.rate_weight,
    ]
    .into_iter()
    .flatten()
    .copied()
    .collect()
}

fn largest_difference(one: &[f32], two: &[f32]) -> f32 {
    one.iter()
        .zip(two)
        .map(|(one, two)| (one - two).abs())
        .fold(0.0, f32::max)
}

fn loads(log: &[AccessLogEntry], zone_map: &ZoneMap, until_ms: u64) -> KeyLoad {
    let zones = zone_map.zones();
    let mut loads = KeyLoad::new();
    for entry in log.iter().take_while(|entry| entry.timestamp_ms < until_ms) {
        let zone = zone_map.zone_of(&entry.origin);
        let Some(at) = zones.iter().position(|known| Some(known) == zone) else {
            continue;
        };
        let load = loads
            .entry(entry.data_id.clone().into_bytes())
            .or_insert_with(|| vec![0; zones.len()]);
        let (reads, writes) = entry.accesses();
        load[at] += reads + writes;
    }
    loads
}
