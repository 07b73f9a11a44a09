//! Before the cluster: reading the trace, cutting the key space, training the model, and what there is to gain.

use std::path::{Path, PathBuf};

use ml::{
    Ewma, Forecaster, HostAffinityModel, HourOfDay, KeyLoad, KeyRanges, LastWindow, Objective, ReplayConfig,
    RuleForecaster, StaticHash, StaticMajority, TrainConfig, TrainedModel, Voters, WindowAggregator,
    WindowCounts, WindowLength, ZoneMap, partition, replay, replay_oracle, train, windows_of,
};
use placement::planner::RttMatrix;
use placement::{WindowId, Zone};

use super::{DemoError, HOUR_MS, REPLICATION_FACTOR};
use crate::cli::DemoArgs;
use crate::config::PolicyName;
use crate::replay::{ReplayPlan, Trace, TraceLimits};
use crate::report::HeadRoom;

const TRACE: &str = "traces/flights-nyc13/trace.csv.zst";
const ZONES: &str = "traces/flights-nyc13/zones.csv";
/// A quick demo trains for fewer passes.
const QUICK_EPOCHS: usize = 3;

/// A zone with its host.
#[derive(Debug, Clone)]
pub(crate) struct Site {
    pub(crate) zone: Zone,
    pub(crate) region: String,
}

/// Everything that is known before a host runs.
pub(crate) struct Prepared {
    pub(crate) name: String,
    pub(crate) trace_file: PathBuf,
    pub(crate) zones_file: PathBuf,
    pub(crate) trace: Trace,
    pub(crate) plan: ReplayPlan,
    pub(crate) sites: Vec<Site>,
    pub(crate) rtt: RttMatrix,
    pub(crate) ranges: KeyRanges,
    pub(crate) model: TrainedModel,
    pub(crate) head_room: Vec<HeadRoom>,
}

impl Prepared {
    /// The first window of the slice.
    pub(crate) fn open_window(&self) -> WindowId {
        WindowId(self.plan.slice.from_ms / HOUR_MS)
    }
}

/// Finds a file of the repository from where the user is: there, or in the sources this was built from.
fn repository_file(relative: &str) -> PathBuf {
    let here = PathBuf::from(relative);
    match here.exists() {
        true => here,
        false => Path::new(env!("CARGO_MANIFEST_DIR")).join("..").join(relative),
    }
}

pub(crate) fn prepare(args: &DemoArgs, days: u32) -> Result<Prepared, DemoError> {
    let trace_file = args.trace.clone().unwrap_or_else(|| repository_file(TRACE));
    let zones_file = args.zones.clone().unwrap_or_else(|| repository_file(ZONES));
    let zones = ZoneMap::open(&zones_file)?;
    let limits = TraceLimits {
        key_bytes_max: 4 << 10,
        value_bytes_max: 1 << 20,
    };
    let trace = Trace::read(&trace_file, &zones, limits)?;
    let plan = ReplayPlan::from_the_middle(&trace, days, HOUR_MS)?;
    println!(
        "{}: {} accesses, {} keys; the {} before the measured {days} days train, {} are replayed under each policy",
        trace_file.display(),
        trace.rows().len(),
        trace.keys().len(),
        plan.training.len(),
        plan.rows()
    );
    let loads = training_loads(&trace, &plan, &zones.zones());
    let sites = sites(&zones, &loads);
    let ranges = partition::affinity_aware(&loads, args.shards as usize);
    let windows = windows(&trace, &plan, &ranges, &zones)?;
    let open = WindowId(plan.slice.from_ms / HOUR_MS);
    let training = windows.partition_point(|window| window.window < open);
    let config = TrainConfig {
        seed: args.seed,
        epochs: if args.quick {
            QUICK_EPOCHS
        } else {
            TrainConfig::default().epochs
        },
        ..TrainConfig::default()
    };
    println!("Training the model on {training} windows of one hour ...");
    let model = train(&windows[..training], &zones.zones(), WindowLength::HOUR, &config)
        .map_err(|e| DemoError::Train(e.to_string()))?;
    println!("  {}: {:?}", model.version(), model.metrics());
    let head_room = head_room(&windows, training, &zones, &model, open);
    let name = trace_file.parent().and_then(Path::file_name).map_or_else(
        || trace_file.display().to_string(),
        |folder| folder.to_string_lossy().into_owned(),
    );
    Ok(Prepared {
        name,
        sites,
        rtt: rtt(&zones),
        trace_file,
        zones_file,
        trace,
        plan,
        ranges,
        model,
        head_room,
    })
}

/// The zones, the one nearest to all accesses first: there the cluster begins, and from there it is controlled.
fn sites(zones: &ZoneMap, loads: &KeyLoad) -> Vec<Site> {
    let names = zones.zones();
    let load = |at: usize| loads.values().filter_map(|load| load.get(at)).sum::<u64>();
    let load: Vec<u64> = (0..names.len()).map(load).collect();
    let distance = |from: &Zone| -> u64 {
        let ways = names.iter().zip(&load);
        ways.map(|(to, load)| load.saturating_mul(zones.rtt_micros(from, to).unwrap_or(0)))
            .sum()
    };
    let region = |zone: &Zone| {
        zones
            .site(zone)
            .map_or_else(String::new, |site| site.region.clone())
    };
    let mut sites: Vec<Site> = names
        .iter()
        .map(|zone| Site {
            region: region(zone),
            zone: zone.clone(),
        })
        .collect();
    sites.sort_by_key(|site| distance(&site.zone));
    sites
}

fn rtt(zones: &ZoneMap) -> RttMatrix {
    let mut rtt = RttMatrix::default();
    for from in zones.zones() {
        for to in zones.zones() {
            let micros = zones.rtt_micros(&from, &to).unwrap_or(0);
            rtt.insert(from.clone(), to, u32::try_from(micros).unwrap_or(u32::MAX));
        }
    }
    rtt
}

fn training_loads(trace: &Trace, plan: &ReplayPlan, zones: &[Zone]) -> KeyLoad {
    let mut loads = KeyLoad::new();
    for row in &trace.rows()[plan.training.clone()] {
        let Some(at) = zones.iter().position(|zone| zone == trace.zone(row)) else {
            continue;
        };
        let load = loads
            .entry(trace.key(row).as_bytes().to_vec())
            .or_insert_with(|| vec![0; zones.len()]);
        let (reads, writes) = trace.entry(row).accesses();
        load[at] += reads + writes;
    }
    loads
}

/// The windows of training and slice, counted offline.
fn windows(
    trace: &Trace,
    plan: &ReplayPlan,
    ranges: &KeyRanges,
    zones: &ZoneMap,
) -> Result<Vec<WindowCounts>, DemoError> {
    let rows = &trace.rows()[..plan.windows.last().map_or(0, |window| window.rows.end)];
    let entries: Vec<_> = rows.iter().map(|row| trace.entry(row)).collect();
    let aggregator = WindowAggregator::new(HOUR_MS, ranges.clone(), named_by_zone(zones)?);
    windows_of(&entries, aggregator).map_err(|e| DemoError::Train(e.to_string()))
}

/// A trace's rows name their zone already, so each zone is an origin of its own name.
fn named_by_zone(zones: &ZoneMap) -> Result<ZoneMap, DemoError> {
    let mut lines = "origin,zone,region,lat,lon\n".to_owned();
    for zone in zones.zones() {
        if let Some(site) = zones.site(&zone) {
            let line = format!("{zone},{zone},{},{},{}\n", site.region, site.lat, site.lon);
            lines.push_str(&line);
        }
    }
    Ok(ZoneMap::read(lines.as_bytes())?)
}

fn head_room(
    windows: &[WindowCounts],
    training: usize,
    zone_map: &ZoneMap,
    model: &TrainedModel,
    from: WindowId,
) -> Vec<HeadRoom> {
    let zones = zone_map.zones();
    let rtt = zone_map.rtt_matrix_micros();
    let voters = Voters::nearest(&windows[..training], &zones, &rtt, REPLICATION_FACTOR as usize);
    let to = WindowId(windows.last().map_or(0, |window| window.window.0) + 1);
    let config = ReplayConfig {
        zones: &zones,
        rtt_micros: &rtt,
        voters: &voters,
        objective: Objective::ExpectedRtt,
        from,
        to,
        lead_windows: 0,
        move_cost: 0,
    };
    let rule = |name: &str, forecaster: &mut dyn Forecaster| {
        let score = replay(forecaster, windows, &config);
        HeadRoom {
            name: name.to_owned(),
            local_access_ratio: score.local_access_ratio(),
            rtt_mean_us: score.mean_rtt_micros(),
            is_optimum: false,
        }
    };
    let best = replay_oracle(windows, &config);
    vec![
        rule(
            "static-hash",
            &mut RuleForecaster::new("static-hash", &zones, StaticHash),
        ),
        rule(
            "static-majority",
            &mut RuleForecaster::new("static-majority", &zones, StaticMajority::new(from)),
        ),
        rule(
            "last-window",
            &mut RuleForecaster::new("last-window", &zones, LastWindow::default()),
        ),
        rule(
            "ewma-0.02",
            &mut RuleForecaster::new("ewma-0.02", &zones, Ewma::new(0.02)),
        ),
        rule(
            "hour-of-day",
            &mut RuleForecaster::new("hour-of-day", &zones, HourOfDay::new(WindowLength::HOUR)),
        ),
        rule(
            PolicyName::BurnModel.as_str(),
            &mut HostAffinityModel::new(model.clone(), &zones),
        ),
        HeadRoom {
            name: "per-window oracle".to_owned(),
            local_access_ratio: best.local_access_ratio(),
            rtt_mean_us: best.mean_rtt_micros(),
            is_optimum: true,
        },
    ]
}
