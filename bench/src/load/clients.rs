//! Clients of one process.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use bytes::Bytes;
use tokio::task::JoinSet;
use tokio::time::Instant;

use super::{Latencies, Load, Measured, Pace, Slice};
use crate::peer::Store;
use crate::workload::{Draw, Operation, key, random_bytes};

/// Counts are kept apart for so many groups of clients, so that few of them wait for each other.
const TALLIES: usize = 8;
/// Operations of an open loop under way at once; what is due beyond them is dropped, and counted.
const UNDER_WAY_MAX: u64 = 20_000;
/// How often an open loop looks which operations are due.
const TICK: Duration = Duration::from_micros(500);

#[derive(Default)]
struct Tally {
    operations: u64,
    failures: u64,
    first_failure: Option<String>,
    latencies: Latencies,
}

/// What all clients share.
struct Shared {
    tallies: Vec<Mutex<Tally>>,
    under_way: AtomicU64,
    dropped: AtomicU64,
}

impl Shared {
    fn tally(&self, client: usize) -> MutexGuard<'_, Tally> {
        let tally = &self.tallies[client % TALLIES];
        tally.lock().expect("no holder of a tally panics")
    }

    async fn perform(&self, client: usize, store: &dyn Store, operation: Operation, began: Instant) {
        let performed = store.perform(operation).await;
        let latency = began.elapsed();
        let mut tally = self.tally(client);
        match performed {
            Ok(()) => {
                tally.operations += 1;
                tally.latencies.record(latency);
            }
            Err(e) => {
                tally.failures += 1;
                tally.first_failure.get_or_insert_with(|| format!("{e:#}"));
            }
        }
    }

    /// What was counted since the last time.
    fn take(&self) -> Measured {
        let mut sum = Measured {
            dropped: self.dropped.swap(0, Relaxed),
            ..Measured::default()
        };
        for number in 0..TALLIES {
            let tally = std::mem::take(&mut *self.tally(number));
            sum.operations += tally.operations;
            sum.failures += tally.failures;
            sum.first_failure = sum.first_failure.or(tally.first_failure);
            sum.latencies.add(&tally.latencies);
        }
        sum
    }
}

/// Clients that have their connections.
pub(super) struct Clients {
    shared: Arc<Shared>,
    stores: Vec<Arc<dyn Store>>,
    bytes: Bytes,
}

/// Clients at work.
pub(super) struct Running {
    shared: Arc<Shared>,
    tasks: JoinSet<()>,
    /// Whether they end by themselves.
    ends: bool,
}

impl Clients {
    pub(super) fn new(load: &Load, stores: Vec<Arc<dyn Store>>) -> anyhow::Result<Self> {
        anyhow::ensure!(!stores.is_empty(), "a load needs a connection");
        Ok(Self {
            shared: Arc::new(Shared {
                tallies: (0..TALLIES).map(|_| Mutex::default()).collect(),
                under_way: AtomicU64::new(0),
                dropped: AtomicU64::new(0),
            }),
            stores,
            bytes: random_bytes(load.seed),
        })
    }

    fn draw(&self, load: &Load, client: usize) -> anyhow::Result<Draw> {
        Draw::new(&load.workload, load.seed, client as u64, self.bytes.clone())
    }

    pub(super) fn start(self, load: &Load) -> anyhow::Result<Running> {
        let mut tasks = JoinSet::new();
        match load.pace {
            Pace::Closed { clients } => {
                for client in 0..clients {
                    tasks.spawn(self.closed(client, self.draw(load, client)?));
                }
            }
            Pace::Fill { clients } => {
                let next = Arc::new(AtomicU64::new(0));
                for client in 0..clients {
                    tasks.spawn(self.fill(
                        client,
                        self.draw(load, client)?,
                        next.clone(),
                        load.workload.key_count,
                    ));
                }
            }
            Pace::Open { per_s } => {
                anyhow::ensure!(per_s > 0.0, "an open loop needs a rate");
                tasks.spawn(self.open(self.draw(load, 0)?, per_s));
            }
        }
        Ok(Running {
            shared: self.shared,
            tasks,
            ends: matches!(load.pace, Pace::Fill { .. }),
        })
    }

    fn store(&self, client: usize) -> Arc<dyn Store> {
        self.stores[client % self.stores.len()].clone()
    }

    fn closed(&self, client: usize, draw: Draw) -> impl Future<Output = ()> + Send + use<> {
        let (shared, store) = (self.shared.clone(), self.store(client));
        async move {
            for operation in draw {
                shared.perform(client, &*store, operation, Instant::now()).await;
            }
        }
    }

    fn fill(
        &self,
        client: usize,
        mut draw: Draw,
        next: Arc<AtomicU64>,
        key_count: u64,
    ) -> impl Future<Output = ()> + Send + use<> {
        let (shared, store) = (self.shared.clone(), self.store(client));
        async move {
            loop {
                let number = next.fetch_add(1, Relaxed);
                if number >= key_count {
                    return;
                }
                let put = Operation::Put(key(number), draw.value());
                shared.perform(client, &*store, put, Instant::now()).await;
            }
        }
    }

    fn open(&self, mut draw: Draw, per_s: f64) -> impl Future<Output = ()> + Send + use<> {
        let (shared, stores) = (self.shared.clone(), self.stores.clone());
        async move {
            let started = Instant::now();
            let mut begun = 0_u64;
            let mut ticks = tokio::time::interval(TICK);
            loop {
                ticks.tick().await;
                let due = (started.elapsed().as_secs_f64() * per_s) as u64;
                for number in begun..due {
                    let Some(operation) = draw.next() else { return };
                    if shared.under_way.load(Relaxed) >= UNDER_WAY_MAX {
                        shared.dropped.fetch_add(1, Relaxed);
                        continue;
                    }
                    shared.under_way.fetch_add(1, Relaxed);
                    let should_begin = started + Duration::from_secs_f64((number + 1) as f64 / per_s);
                    let client = usize::try_from(number).unwrap_or(0);
                    let (shared, store) = (shared.clone(), stores[client % stores.len()].clone());
                    tokio::spawn(async move {
                        shared.perform(client, &*store, operation, should_begin).await;
                        shared.under_way.fetch_sub(1, Relaxed);
                    });
                }
                begun = due;
            }
        }
    }
}

impl Running {
    /// Counts for so long, or until the clients end by themselves; in slices, if there are to be any.
    pub(super) async fn measure(
        mut self,
        length: Duration,
        slice: Option<Duration>,
    ) -> anyhow::Result<Measured> {
        let began = Instant::now();
        let mut measured = Measured::default();
        if self.ends {
            while let Some(ended) = self.tasks.join_next().await {
                ended?;
            }
        } else {
            // What ended during the warm-up.
            drop(self.shared.take());
            while began.elapsed() < length {
                let left = length.saturating_sub(began.elapsed());
                tokio::time::sleep(slice.unwrap_or(length).min(left)).await;
                let taken = self.shared.take();
                measured.add(&taken);
                measured.slices.extend(slice.map(|_| Slice {
                    until_s: began.elapsed().as_secs_f64(),
                    operations: taken.operations,
                    failures: taken.failures,
                    latencies: taken.latencies,
                }));
            }
        }
        measured.add(&self.shared.take());
        measured.seconds = began.elapsed().as_secs_f64();
        Ok(measured)
    }
}

#[cfg(test)]
mod tests {
    use async_trait::async_trait;

    use super::*;
    use crate::peer::{Access, Route};
    use crate::workload::{Keys, Kind, Workload};

    /// Answers after a while; every tenth operation fails.
    struct Slow {
        pause: Duration,
        count: AtomicU64,
    }

    #[async_trait]
    impl Store for Slow {
        async fn perform(&self, _: Operation) -> anyhow::Result<()> {
            tokio::time::sleep(self.pause).await;
            let number = self.count.fetch_add(1, Relaxed);
            anyhow::ensure!(number % 10 != 9, "the tenth");
            Ok(())
        }
    }

    async fn measured(pace: Pace, pause: Duration, seconds: f64) -> Measured {
        measured_in(pace, pause, seconds, None).await
    }

    async fn measured_in(pace: Pace, pause: Duration, seconds: f64, slice: Option<Duration>) -> Measured {
        let load = Load {
            access: Access {
                route: Route::Stream,
                endpoints: Vec::new(),
                connections: 1,
            },
            workload: Workload {
                kind: Kind::Put,
                keys: Keys::Uniform,
                key_count: 500,
                value_bytes: 1,
            },
            pace,
            warm_up_s: 0.0,
            seconds,
            slice_s: 0.0,
            seed: 1,
            steps: None,
        };
        let store = Slow {
            pause,
            count: AtomicU64::new(0),
        };
        let clients = Clients::new(&load, vec![Arc::new(store)]).expect("a store");
        let running = clients.start(&load).expect("a load");
        running
            .measure(Duration::from_secs_f64(seconds), slice)
            .await
            .expect("no panic")
    }

    #[tokio::test(start_paused = true)]
    async fn a_closed_loop_waits_for_answers() {
        let pace = Pace::Closed { clients: 10 };
        let measured = measured(pace, Duration::from_millis(10), 1.005).await;
        assert_eq!(measured.operations + measured.failures, 1_000);
        assert_eq!(measured.failures, 100);
        assert_eq!(measured.first_failure.as_deref(), Some("the tenth"));
        assert!((9_900.0..10_100.0).contains(&measured.latencies.quantile_us(0.5)));
    }

    #[tokio::test(start_paused = true)]
    async fn slices_hold_what_the_whole_holds() {
        let slice = Some(Duration::from_millis(250));
        let pace = Pace::Closed { clients: 10 };
        let measured = measured_in(pace, Duration::from_millis(10), 1.005, slice).await;
        let until: Vec<f64> = measured.slices.iter().map(|slice| slice.until_s).collect();
        assert_eq!(until.len(), 5, "{until:?}");
        assert!(
            (until[1] - 0.5).abs() < 1e-6 && (until[4] - 1.005).abs() < 1e-6,
            "{until:?}"
        );
        let operations: u64 = measured.slices.iter().map(|slice| slice.operations).sum();
        let failures: u64 = measured.slices.iter().map(|slice| slice.failures).sum();
        assert_eq!((operations, failures), (measured.operations, measured.failures));
        assert_eq!(operations + failures, 1_000);
    }

    #[tokio::test(start_paused = true)]
    async fn an_open_loop_counts_from_when_an_operation_was_due() {
        // Each takes 50 ms, and more are under way than any closed loop of ten would have.
        let pace = Pace::Open { per_s: 1_000.0 };
        let measured = measured(pace, Duration::from_millis(50), 1.0).await;
        let ended = measured.operations + measured.failures;
        assert!((940..=952).contains(&ended), "{ended}");
        assert!(measured.latencies.quantile_us(0.0) >= 50_000.0 * 0.999);
        assert_eq!(measured.dropped, 0);
    }

    /// At a low rate an operation must not count from when the one before it was due.
    #[tokio::test(start_paused = true)]
    async fn an_open_loop_begins_an_operation_when_it_is_due() {
        let pace = Pace::Open { per_s: 100.0 };
        let measured = measured(pace, Duration::from_millis(50), 1.0).await;
        let longest = measured.latencies.quantile_us(1.0);
        assert!((49_950.0..55_000.0).contains(&longest), "{longest}");
    }

    #[tokio::test(start_paused = true)]
    async fn a_fill_writes_every_key_once() {
        let measured = measured(Pace::Fill { clients: 7 }, Duration::from_millis(1), 0.0).await;
        assert_eq!(measured.operations + measured.failures, 500);
    }
}
