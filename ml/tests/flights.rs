//! The trace in the repository: that its files agree, and that the model earns its place on it.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use ml::{
    AccessLogEntry, AccessLogReader, HostAffinityModel, HourOfDay, KeyLoad, KeyRanges, Objective,
    ReplayConfig, ReplayScore, RuleForecaster, TrainConfig, Voters, WindowAggregator, WindowCounts,
    WindowLength, ZoneMap, partition, replay, train, windows_of,
};
use placement::{WindowId, Zone};

const SHARDS: usize = 64;
const TRAINING_DAYS: u64 = 42;
const SLICE_DAYS: u64 = 2;

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../traces/flights-nyc13")
}

fn log() -> impl Iterator<Item = AccessLogEntry> {
    let reader = AccessLogReader::open(&folder().join("trace.csv.zst")).expect("the trace is committed");
    reader.map(|entry| entry.expect("the committed trace has no bad line"))
}

fn zone_map() -> ZoneMap {
    let file = std::fs::File::open(folder().join("zones.csv")).expect("the zone file is committed");
    ZoneMap::read(file).expect("the zone file is well formed")
}

#[test]
fn every_origin_of_the_trace_has_a_zone() {
    let map = zone_map();
    let (mut rows, mut before) = (0, 0);
    for entry in log() {
        assert!(map.zone_of(&entry.origin).is_some(), "{entry:?}");
        assert!(entry.timestamp_ms >= before, "{entry:?}");
        (rows, before) = (rows + 1, entry.timestamp_ms);
    }
    assert_eq!(rows, 435_933);
}

#[test]
fn new_york_lies_in_three_of_six_zones_in_three_regions() {
    let map = zone_map();
    let zones = map.zones();
    let regions: BTreeSet<&str> = zones
        .iter()
        .map(|zone| map.site(zone).unwrap().region.as_str())
        .collect();
    assert_eq!((zones.len(), regions.len()), (6, 3));
    let airports: BTreeSet<&Zone> = ["ewr", "jfk", "lga"]
        .iter()
        .filter_map(|origin| map.zone_of(origin))
        .collect();
    assert_eq!(airports.len(), 3);
}

/// The slice's windows after the training windows, cut into shards by the training part alone.
fn windows(map: &ZoneMap) -> (Vec<WindowCounts>, WindowId) {
    let zones = map.zones();
    let first_ms = log().next().expect("the trace has lines").timestamp_ms;
    let from = WindowId(first_ms / WindowLength::HOUR.as_ms() + TRAINING_DAYS * 24);
    let from_ms = WindowLength::HOUR.start_ms(from);
    let used: Vec<AccessLogEntry> = log()
        .take_while(|entry| entry.timestamp_ms < from_ms + SLICE_DAYS * 24 * 3_600_000)
        .collect();
    let mut loads = KeyLoad::new();
    for entry in used.iter().filter(|entry| entry.timestamp_ms < from_ms) {
        let at = zones
            .iter()
            .position(|zone| Some(zone) == map.zone_of(&entry.origin))
            .expect("every origin has a zone");
        loads
            .entry(entry.data_id.clone().into_bytes())
            .or_insert_with(|| vec![0; zones.len()])[at] += 1;
    }
    let ranges: KeyRanges = partition::affinity_aware(&loads, SHARDS);
    let aggregator = WindowAggregator::new(WindowLength::HOUR.as_ms(), ranges, map.clone());
    (
        windows_of(&used, aggregator).expect("the trace is in order"),
        from,
    )
}

#[test]
fn the_model_beats_the_best_simple_rule_on_days_it_has_not_seen() {
    let map = zone_map();
    let (zones, rtt_micros) = (map.zones(), map.rtt_matrix_micros());
    let (windows, from) = windows(&map);
    let training = &windows[..windows.partition_point(|window| window.window < from)];
    let config = TrainConfig {
        epochs: 2,
        ..TrainConfig::default()
    };
    let model = train(training, &zones, WindowLength::HOUR, &config).unwrap();
    assert!(
        model.metrics().nll < model.metrics().ewma_nll - 0.2,
        "{:?}",
        model.metrics()
    );
    assert!(model.metrics().ece < 0.05, "{:?}", model.metrics());

    let voters = Voters::nearest(training, &zones, &rtt_micros, 3);
    let replayed = |forecaster: &mut dyn ml::Forecaster| -> ReplayScore {
        let config = ReplayConfig {
            zones: &zones,
            rtt_micros: &rtt_micros,
            voters: &voters,
            objective: Objective::ExpectedRtt,
            from,
            to: WindowId(from.0 + SLICE_DAYS * 24),
            lead_windows: 0,
            move_cost: 0,
        };
        replay(forecaster, &windows, &config)
    };
    let learned = replayed(&mut HostAffinityModel::new(model, &zones));
    let rule = HourOfDay::new(WindowLength::HOUR);
    let profile = replayed(&mut RuleForecaster::new("hour-of-day", &zones, rule));
    let (ours, theirs) = (learned.local_access_ratio(), profile.local_access_ratio());
    assert!(ours > theirs + 0.04, "model {ours}, hour of day {theirs}");
    assert!(learned.mean_rtt_micros() < profile.mean_rtt_micros());
    println!("model {ours:.3}, hour of day {theirs:.3}");
}
