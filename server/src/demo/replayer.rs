//! Driving a window: each row as its client would, from its zone.
//!
//! Rows of one key run one after another, in the trace's order, so that what a key must hold is known; different keys
//! run at once.

use std::collections::BTreeMap;
use std::time::Duration;

use client::{Client, ReadMode, RequestOptions};
use futures_util::future::join_all;
use futures_util::{StreamExt, stream};
use hdrhistogram::Histogram;
use placement::Zone;
use tokio::time::Instant;

use super::DemoError;
use super::cluster::Cluster;
use super::ledger::Ledger;
use super::prepare::Prepared;
use crate::replay::{PlannedWindow, Row, RowKind, Stamp};

/// How long an operation may take, retries included.
const DEADLINE: Duration = Duration::from_secs(20);
/// Keys served at once.
const LANES: usize = 128;
/// A window's rows begin spread over this time, as the trace spreads them over the hour.
const WINDOW_TAKES: Duration = Duration::from_millis(40);
/// Bytes of a record before its first write in the slice.
const RECORD_BYTES: usize = 256;
const LATENCY_MAX_US: u64 = 60_000_000;

/// What clients saw.
pub(crate) struct Measured {
    pub(crate) accesses: u64,
    pub(crate) local: u64,
    pub(crate) reads: Histogram<u64>,
    pub(crate) writes: Histogram<u64>,
    rtt_sum_us: u64,
}

impl Measured {
    pub(crate) fn new() -> Self {
        let histogram = || Histogram::new_with_bounds(1, LATENCY_MAX_US, 3).expect("bounds are constant");
        Self {
            accesses: 0,
            local: 0,
            reads: histogram(),
            writes: histogram(),
            rtt_sum_us: 0,
        }
    }

    pub(crate) fn add(&mut self, other: &Self) {
        self.accesses += other.accesses;
        self.local += other.local;
        self.rtt_sum_us += other.rtt_sum_us;
        // Both have the same bounds.
        self.reads.add(&other.reads).expect("equal bounds");
        self.writes.add(&other.writes).expect("equal bounds");
    }

    pub(crate) fn operations(&self) -> u64 {
        self.reads.len() + self.writes.len()
    }

    pub(crate) fn local_access_ratio(&self) -> f64 {
        self.local as f64 / self.accesses.max(1) as f64
    }

    pub(crate) fn latency_mean_us(&self) -> f64 {
        let sum = self.reads.mean() * self.reads.len() as f64 + self.writes.mean() * self.writes.len() as f64;
        sum / self.operations().max(1) as f64
    }

    pub(crate) fn rtt_mean_us(&self) -> f64 {
        self.rtt_sum_us as f64 / self.accesses.max(1) as f64
    }
}

/// One key's rows in a window, with the writes they will make.
struct Lane<'a> {
    /// When it begins, after the window's begin.
    after: Duration,
    key: &'a str,
    rows: Vec<(&'a Row, Option<Stamp>)>,
}

/// What one lane did.
struct LaneResult {
    measured: Measured,
    acknowledged: Vec<Stamp>,
    failed: Vec<String>,
}

/// Clients in every zone.
pub(crate) struct Replayer<'a> {
    cluster: &'a Cluster,
    prepared: &'a Prepared,
    clients: tokio::sync::OnceCell<BTreeMap<Zone, Client>>,
    keys: BTreeMap<&'a str, usize>,
}

impl<'a> Replayer<'a> {
    pub(crate) fn new(cluster: &'a Cluster, prepared: &'a Prepared) -> Self {
        let keys = prepared
            .trace
            .keys()
            .iter()
            .enumerate()
            .map(|(at, key)| (key.as_str(), at))
            .collect();
        Self {
            cluster,
            prepared,
            clients: tokio::sync::OnceCell::new(),
            keys,
        }
    }

    /// The client that stands in a zone.
    pub(crate) async fn client(&self, zone: &Zone) -> Result<Client, DemoError> {
        let connect = || async {
            let mut clients = BTreeMap::new();
            for site in self.cluster.sites() {
                clients.insert(site.zone.clone(), self.cluster.client(site, DEADLINE).await?);
            }
            Ok::<_, DemoError>(clients)
        };
        let clients = self.clients.get_or_try_init(connect).await?;
        clients
            .get(zone)
            .cloned()
            .ok_or_else(|| DemoError::Cluster(format!("no client stands in {zone}")))
    }

    /// Has every client ask for the shard map. One that cannot is sent on by the hosts.
    pub(crate) async fn refresh_maps(&self) {
        let clients = self.clients.get().into_iter().flat_map(BTreeMap::values);
        join_all(clients.map(Client::refresh_map)).await;
    }

    /// Writes each record of the slice once.
    pub(crate) async fn load(&self, ledger: &mut Ledger) -> Result<(), DemoError> {
        let rows = self
            .prepared
            .plan
            .windows
            .iter()
            .flat_map(|window| window.rows.clone());
        let mut keys: Vec<usize> = rows
            .map(|row| self.keys[self.prepared.trace.key(&self.prepared.trace.rows()[row])])
            .collect();
        keys.sort_unstable();
        keys.dedup();
        println!("Loading {} records ...", keys.len());
        let zone = self.cluster.sites().next().map(|site| site.zone.clone());
        let zone = zone.ok_or_else(|| DemoError::Cluster("no zones".into()))?;
        let client = self.client(&zone).await?;
        let stamps: Vec<Stamp> = keys.into_iter().map(|key| ledger.attempt(key)).collect();
        let writes = stream::iter(stamps).map(|stamp| {
            let client = client.clone();
            let key = self.prepared.trace.keys()[stamp.key as usize].clone();
            async move { (stamp, client.put(key, stamp.value(RECORD_BYTES)).await) }
        });
        let mut writes = writes.buffer_unordered(LANES);
        while let Some((stamp, written)) = writes.next().await {
            match written {
                Ok(_) => ledger.acknowledge(stamp),
                Err(e) => return Err(DemoError::Cluster(format!("a record could not be loaded: {e}"))),
            }
        }
        Ok(())
    }

    /// Replays a window's rows.
    pub(crate) async fn replay(
        &self,
        window: &PlannedWindow,
        ledger: &mut Ledger,
    ) -> Result<Measured, DemoError> {
        let lanes = self.lanes(window, ledger);
        let begun = Instant::now();
        let running = stream::iter(lanes)
            .map(|lane| self.run(lane, begun))
            .buffer_unordered(LANES);
        let results: Vec<Result<LaneResult, DemoError>> = running.collect().await;
        let mut total = Measured::new();
        for result in results {
            let result = result?;
            total.add(&result.measured);
            result
                .acknowledged
                .into_iter()
                .for_each(|stamp| ledger.acknowledge(stamp));
            for reason in result.failed {
                eprintln!("  an operation failed: {reason}");
                ledger.fail();
            }
        }
        Ok(total)
    }

    fn lanes(&self, window: &PlannedWindow, ledger: &mut Ledger) -> Vec<Lane<'a>> {
        let mut lanes: BTreeMap<usize, Lane<'a>> = BTreeMap::new();
        for row in &self.prepared.trace.rows()[window.rows.clone()] {
            let key = self.prepared.trace.key(row);
            let number = self.keys[key];
            let stamp = (row.kind != RowKind::Read).then(|| ledger.attempt(number));
            let passed = row.at_ms.saturating_sub(window.starts_at_ms) as f64 / super::HOUR_MS as f64;
            let after = WINDOW_TAKES.mul_f64(passed.min(1.0));
            let lane = lanes.entry(number).or_insert_with(|| Lane {
                after,
                key,
                rows: Vec::new(),
            });
            lane.rows.push((row, stamp));
        }
        let mut lanes: Vec<Lane<'a>> = lanes.into_values().collect();
        lanes.sort_by_key(|lane| lane.after);
        lanes
    }

    async fn run(&self, lane: Lane<'a>, window_begun: Instant) -> Result<LaneResult, DemoError> {
        tokio::time::sleep_until(window_begun + lane.after).await;
        let mut result = LaneResult {
            measured: Measured::new(),
            acknowledged: Vec::new(),
            failed: Vec::new(),
        };
        for (row, stamp) in lane.rows {
            let zone = self.prepared.trace.zone(row);
            let client = self.client(zone).await?.with_options(RequestOptions {
                deadline: DEADLINE,
                user_id: Some(self.prepared.trace.user(row).into()),
                workload_ms: Some(row.at_ms),
                read_mode: ReadMode::Lease,
            });
            if row.kind != RowKind::Write {
                let begun = Instant::now();
                match client.get(lane.key.to_owned()).await {
                    Ok(_) => {
                        record(&mut result.measured.reads, begun);
                        self.locate(&client, lane.key, zone, &mut result.measured);
                    }
                    Err(e) => result.failed.push(format!("get {}: {e}", lane.key)),
                }
            }
            if let Some(stamp) = stamp {
                let begun = Instant::now();
                match client
                    .put(lane.key.to_owned(), stamp.value(row.bytes as usize))
                    .await
                {
                    Ok(_) => {
                        record(&mut result.measured.writes, begun);
                        result.acknowledged.push(stamp);
                        self.locate(&client, lane.key, zone, &mut result.measured);
                    }
                    Err(e) => result.failed.push(format!("put {}: {e}", lane.key)),
                }
            }
        }
        Ok(result)
    }

    /// Counts where the operation that has just succeeded was served: the client's map names the home that answered.
    fn locate(&self, client: &Client, key: &str, zone: &Zone, measured: &mut Measured) {
        let Some(home) = self.cluster.zone_of(client.locate(key.as_bytes()).home) else {
            return;
        };
        measured.accesses += 1;
        measured.local += u64::from(home == *zone);
        measured.rtt_sum_us += u64::from(self.prepared.rtt.micros(zone, &home));
    }

    /// Reads every key that has an acknowledged write, and counts those that do not hold what they must.
    pub(crate) async fn verify(&self, ledger: &mut Ledger) -> Result<u64, DemoError> {
        let mut clients = Vec::new();
        for site in self.cluster.sites() {
            clients.push(self.client(&site.zone).await?);
        }
        let keys: Vec<usize> = ledger.acknowledged().collect();
        let mut lost = 0;
        for part in keys.chunks(LANES) {
            let reads = part.iter().map(|key| {
                let client = clients[key % clients.len()].clone();
                let name = self.prepared.trace.keys()[*key].clone();
                async move { (*key, client.get(name).await) }
            });
            for (key, read) in join_all(reads).await {
                match read {
                    Ok(read) => {
                        let stamp = read.pair.and_then(|pair| Stamp::of(&pair.value));
                        lost += u64::from(!ledger.admits(key, stamp));
                    }
                    Err(e) => {
                        eprintln!("  a record could not be read back: {e}");
                        ledger.fail();
                        lost += 1;
                    }
                }
            }
        }
        Ok(lost)
    }
}

fn record(histogram: &mut Histogram<u64>, begun: Instant) {
    let micros = u64::try_from(begun.elapsed().as_micros()).unwrap_or(LATENCY_MAX_US);
    histogram.saturating_record(micros.clamp(1, LATENCY_MAX_US));
}
