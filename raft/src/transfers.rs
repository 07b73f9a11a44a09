//! Snapshots on their way: how many at once, at what rate, and how far each has come.
//!
//! A host sends a few snapshots at once, at the rates of [`pacing`](crate::pacing); whoever comes later waits. It receives a few at
//! once and tells others to come again. Both are waited for as long as it takes: what is told of a transfer that waits or
//! moves ([`SnapshotProgress`]) is what keeps a migration from being given up for standing still.
//!
//! The placement group's snapshot is small, and every migration waits for its entries, so it waits for nobody.
//!
//! Time is the host's own ([`HostContext::uptime`]), and a pause is one of the runtime's, so both are virtual in a
//! simulation.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use placement::ShardId;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::pacing::{Pacing, SnapshotRates};
use crate::runtime::HostContext;

/// How long a replica that was sent a snapshot, and is not held back, may take to get the log behind it.
const CATCH_UP: Duration = Duration::from_secs(30);

/// What snapshots may take from a host.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SnapshotLimits {
    /// Snapshots that leave a host at once.
    pub sends_max: usize,
    /// Snapshots that a host receives at once.
    pub receives_max: usize,
    /// At what rates they leave it.
    pub rates: SnapshotRates,
}

impl Default for SnapshotLimits {
    fn default() -> Self {
        Self {
            sends_max: 2,
            receives_max: 2,
            rates: SnapshotRates::default(),
        }
    }
}

/// How far the transfer of a snapshot has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SnapshotProgress {
    /// It waits for its turn, here or at the receiver.
    Waiting,
    /// It is being sent: this many bytes so far.
    Sending {
        /// Bytes of frames, of this attempt.
        bytes: u64,
    },
}

/// What a host's snapshots have come to, since it was started.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct SnapshotCounts {
    /// Under way to other hosts.
    pub sending: u64,
    /// Waiting to be sent.
    pub waiting: u64,
    /// Under way to this host.
    pub receiving: u64,
    /// Bytes sent.
    pub sent_bytes: u64,
    /// Bytes received.
    pub received_bytes: u64,
    /// Transfers that were told to come again.
    pub turned_away: u64,
    /// For how long frames, and the log behind them, were held back by the rate.
    pub held_back_ms: u64,
}

/// All snapshots that leave or reach one host. A cheap handle.
#[derive(Clone)]
pub(crate) struct Transfers {
    shared: Arc<Shared>,
}

struct Shared {
    context: HostContext,
    sends: Arc<Semaphore>,
    receives: Arc<Semaphore>,
    receives_max: usize,
    pacing: Mutex<Pacing>,
    under_way: Mutex<BTreeMap<Target, SnapshotProgress>>,
    /// Of each group, when a snapshot was installed last by whom it was sent to, or the log behind it held back.
    arrived: Mutex<BTreeMap<u64, Duration>>,
    totals: Totals,
}

#[derive(Default)]
struct Totals {
    sent_bytes: AtomicU64,
    received_bytes: AtomicU64,
    turned_away: AtomicU64,
    held_back_us: AtomicU64,
}

/// The group, and the replica that is to be brought up to date.
type Target = (u64, u64);

impl Transfers {
    pub(crate) fn new(limits: SnapshotLimits, context: HostContext) -> Self {
        let shared = Shared {
            context,
            sends: Arc::new(Semaphore::new(limits.sends_max)),
            receives: Arc::new(Semaphore::new(limits.receives_max)),
            receives_max: limits.receives_max,
            pacing: Mutex::new(Pacing::new(limits.rates)),
            under_way: Mutex::default(),
            arrived: Mutex::default(),
            totals: Totals::default(),
        };
        Self {
            shared: Arc::new(shared),
        }
    }

    /// Announces a transfer to a replica, a voter or not yet one, which waits until [`Transfer::begin`].
    pub(crate) fn announce(&self, group: u64, to: u64, is_voter: bool) -> Transfer {
        let transfer = Transfer {
            transfers: self.clone(),
            target: (group, to),
            is_voter,
        };
        transfer.note(SnapshotProgress::Waiting);
        transfer
    }

    /// The right to receive a snapshot of a group; `None` while as many as may be are received.
    pub(crate) fn receive(&self, group: u64) -> Option<Receiving> {
        if is_placement(group) {
            return Some(Receiving {
                transfers: self.clone(),
                _slot: None,
            });
        }
        let slot = self.shared.receives.clone().try_acquire_owned();
        let Ok(slot) = slot else {
            self.shared.totals.turned_away.fetch_add(1, Ordering::Relaxed);
            return None;
        };
        Some(Receiving {
            transfers: self.clone(),
            _slot: Some(slot),
        })
    }

    /// Changes the rates, and which replicas are to replace lost ones, for frames that are yet to be sent.
    pub(crate) fn set_pace(&self, rates: SnapshotRates, repairs: BTreeSet<u64>) {
        self.pacing().set(rates, repairs);
    }

    fn pacing(&self) -> MutexGuard<'_, Pacing> {
        self.shared.pacing.lock().expect("no panic under this lock")
    }

    /// How far the snapshot for this replica has come; `None` where there is none under way.
    pub(crate) fn progress(&self, group: u64, to: u64) -> Option<SnapshotProgress> {
        self.under_way().get(&(group, to)).copied()
    }

    /// Whether a snapshot of the group has its turn, or has arrived so lately that its replica may still need the log behind it,
    /// or is about to be sent with another state.
    pub(crate) fn is_bringing(&self, group: u64) -> bool {
        let is_sent = |(target, progress): (&Target, &SnapshotProgress)| {
            target.0 == group && matches!(progress, SnapshotProgress::Sending { .. })
        };
        let arrived = self.arrived().get(&group).copied();
        let is_fresh = arrived.is_some_and(|at| self.shared.context.uptime() < at + CATCH_UP);
        is_fresh || self.under_way().iter().any(is_sent)
    }

    fn arrived(&self) -> MutexGuard<'_, BTreeMap<u64, Duration>> {
        self.shared.arrived.lock().expect("no panic under this lock")
    }

    /// A replica that is not a voter gets `bytes` of the log behind a snapshot: how long to wait before it gets more, where
    /// `least` bytes a second are what it needs.
    pub(crate) fn catches_up(&self, group: u64, to: u64, bytes: u64, least: u64) -> Duration {
        if is_placement(group) {
            return Duration::ZERO;
        }
        let now = self.uptime();
        self.arrived().insert(group, now);
        self.held_back(self.pacing().take_log(now, bytes, to, least))
    }

    /// The time by which snapshots are paced.
    pub(crate) fn uptime(&self) -> Duration {
        self.shared.context.uptime()
    }

    /// Counts a wait.
    fn held_back(&self, wait: Duration) -> Duration {
        let wait_us = u64::try_from(wait.as_micros()).unwrap_or(u64::MAX);
        let total = &self.shared.totals.held_back_us;
        total.fetch_add(wait_us, Ordering::Relaxed);
        wait
    }

    pub(crate) fn counts(&self) -> SnapshotCounts {
        let totals = &self.shared.totals;
        let (under_way, waiting) = {
            let known = self.under_way();
            let waiting = known
                .values()
                .filter(|progress| **progress == SnapshotProgress::Waiting);
            (known.len() as u64, waiting.count() as u64)
        };
        let free = self.shared.receives.available_permits();
        SnapshotCounts {
            sending: under_way - waiting,
            waiting,
            receiving: self.shared.receives_max.saturating_sub(free) as u64,
            sent_bytes: totals.sent_bytes.load(Ordering::Relaxed),
            received_bytes: totals.received_bytes.load(Ordering::Relaxed),
            turned_away: totals.turned_away.load(Ordering::Relaxed),
            held_back_ms: totals.held_back_us.load(Ordering::Relaxed) / 1_000,
        }
    }

    /// Waits until `bytes` may be sent to a replica, at no fewer than `least` bytes a second for all moves.
    async fn pace(&self, bytes: u64, to: u64, is_voter: bool, least: u64) {
        let now = self.uptime();
        let wait = self.held_back(self.pacing().take(now, bytes, to, is_voter, least));
        if !wait.is_zero() {
            tokio::time::sleep(wait).await;
        }
    }

    fn under_way(&self) -> MutexGuard<'_, BTreeMap<Target, SnapshotProgress>> {
        self.shared.under_way.lock().expect("no panic under this lock")
    }
}

fn is_placement(group: u64) -> bool {
    group == ShardId::PLACEMENT.0
}

/// A transfer that was announced; over when it is dropped.
pub(crate) struct Transfer {
    transfers: Transfers,
    target: Target,
    is_voter: bool,
}

impl Transfer {
    /// Waits for its turn.
    pub(crate) async fn begin(self: &Arc<Self>) -> Sending {
        let slot = match is_placement(self.target.0) {
            true => None,
            // The semaphore is never closed.
            false => self.transfers.shared.sends.clone().acquire_owned().await.ok(),
        };
        self.note(SnapshotProgress::Sending { bytes: 0 });
        Sending {
            transfer: self.clone(),
            sent: AtomicU64::new(0),
            _slot: slot,
        }
    }

    /// The other side has installed it.
    pub(crate) fn arrives(&self) {
        self.puts_off();
    }

    /// It is begun again at once, with a state that is known to openraft: until then no later one is taken.
    pub(crate) fn comes_again(&self) {
        self.puts_off();
    }

    fn puts_off(&self) {
        let now = self.transfers.shared.context.uptime();
        self.transfers.arrived().insert(self.target.0, now);
    }

    /// It was told to come again.
    pub(crate) fn waits(&self) {
        self.note(SnapshotProgress::Waiting);
    }

    fn note(&self, progress: SnapshotProgress) {
        self.transfers.under_way().insert(self.target, progress);
    }
}

impl Drop for Transfer {
    fn drop(&mut self) {
        self.transfers.under_way().remove(&self.target);
    }
}

/// A turn to send.
pub(crate) struct Sending {
    transfer: Arc<Transfer>,
    sent: AtomicU64,
    _slot: Option<OwnedSemaphorePermit>,
}

impl Sending {
    /// The time by which snapshots are paced.
    pub(crate) fn uptime(&self) -> Duration {
        self.transfer.transfers.uptime()
    }

    /// Waits until a frame of this size may be sent, and counts it. Of a move it is sent at no fewer than `least` bytes a
    /// second, as far as all snapshots together may.
    pub(crate) async fn pace(&self, bytes: usize, least: u64) {
        let (bytes, transfers) = (bytes as u64, &self.transfer.transfers);
        let (group, to) = self.transfer.target;
        if !is_placement(group) {
            transfers.pace(bytes, to, self.transfer.is_voter, least).await;
        }
        transfers
            .shared
            .totals
            .sent_bytes
            .fetch_add(bytes, Ordering::Relaxed);
        let sent = self.sent.fetch_add(bytes, Ordering::Relaxed) + bytes;
        self.transfer.note(SnapshotProgress::Sending { bytes: sent });
    }
}

/// The right to receive one snapshot.
pub(crate) struct Receiving {
    transfers: Transfers,
    _slot: Option<OwnedSemaphorePermit>,
}

impl Receiving {
    /// Counts a frame.
    pub(crate) fn note(&self, bytes: usize) {
        let received = &self.transfers.shared.totals.received_bytes;
        received.fetch_add(bytes as u64, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use tokio::time::Instant;

    use super::*;
    use crate::pacing::BURST;
    use crate::runtime::ClockSkew;

    const MIB: usize = 1 << 20;

    fn transfers(limits: SnapshotLimits) -> Transfers {
        Transfers::new(limits, HostContext::new(1, ClockSkew::default()))
    }

    fn all(bytes_per_s: u64) -> SnapshotRates {
        SnapshotRates {
            bytes_per_s,
            ..SnapshotRates::default()
        }
    }

    async fn send(transfers: Transfers, to: u64, frames: usize) {
        let transfer = Arc::new(transfers.announce(7, to, true));
        let sending = transfer.begin().await;
        for _ in 0..frames {
            sending.pace(MIB, 0).await;
        }
    }

    /// Two at once do not get twice the rate, and what the first leaves unused is not saved up.
    #[tokio::test(start_paused = true)]
    async fn all_snapshots_of_a_host_share_one_rate() {
        let transfers = transfers(SnapshotLimits {
            rates: all(10 << 20),
            ..SnapshotLimits::default()
        });
        tokio::time::sleep(Duration::from_secs(60)).await;
        let began = Instant::now();
        tokio::join!(send(transfers.clone(), 1, 50), send(transfers.clone(), 2, 50));
        let took = began.elapsed();
        let expected = Duration::from_secs(10) - BURST;
        assert!(took >= expected && took < expected + BURST, "{took:?}");
        let counts = transfers.counts();
        assert_eq!(counts.sent_bytes, 100 * MIB as u64);
        assert_eq!((counts.sending, counts.waiting), (0, 0));
        assert!(counts.held_back_ms > 9_000, "{counts:?}");
    }

    #[tokio::test(start_paused = true)]
    async fn without_a_limit_nothing_waits_and_a_new_rate_counts_at_once() {
        let transfers = transfers(SnapshotLimits {
            rates: all(0),
            ..SnapshotLimits::default()
        });
        let began = Instant::now();
        send(transfers.clone(), 1, 1_000).await;
        assert_eq!(began.elapsed(), Duration::ZERO);
        transfers.set_pace(all(1 << 20), BTreeSet::new());
        send(transfers.clone(), 1, 3).await;
        assert_eq!(began.elapsed(), Duration::from_secs(3) - BURST);
    }

    #[tokio::test(start_paused = true)]
    async fn the_third_snapshot_waits_for_one_of_the_first_two() {
        let transfers = transfers(SnapshotLimits::default());
        let first: Vec<_> = [1, 2, 3]
            .map(|to| Arc::new(transfers.announce(7, to, true)))
            .into();
        let (one, two) = (first[0].begin().await, first[1].begin().await);
        let early = tokio::time::timeout(Duration::from_secs(3_600), first[2].begin()).await;
        assert!(early.is_err(), "three at once");
        assert_eq!(transfers.progress(7, 3), Some(SnapshotProgress::Waiting));
        assert_eq!(transfers.counts().sending, 2);
        // The placement group's does not wait behind them.
        let placement = Arc::new(transfers.announce(ShardId::PLACEMENT.0, 9, true));
        drop(placement.begin().await);
        drop(one);
        let three = first[2].begin().await;
        three.pace(10, 0).await;
        assert_eq!(
            transfers.progress(7, 3),
            Some(SnapshotProgress::Sending { bytes: 10 })
        );
        first[0].waits();
        assert_eq!(transfers.progress(7, 1), Some(SnapshotProgress::Waiting));
        drop((two, three, first, placement));
        assert_eq!(transfers.progress(7, 3), None);
    }

    #[tokio::test(start_paused = true)]
    async fn a_group_is_brought_up_to_date_until_a_moment_after_its_snapshot_arrived() {
        let transfers = transfers(SnapshotLimits::default());
        let transfer = Arc::new(transfers.announce(7, 1, true));
        assert!(!transfers.is_bringing(7), "it waits for its turn");
        let sending = transfer.begin().await;
        assert!(transfers.is_bringing(7) && !transfers.is_bringing(8));
        drop(sending);
        transfer.waits();
        assert!(!transfers.is_bringing(7), "it was turned away");
        transfer.comes_again();
        assert!(transfers.is_bringing(7), "it is begun again at once");
        transfer.arrives();
        drop(transfer);
        tokio::time::sleep(CATCH_UP - Duration::from_millis(1)).await;
        assert!(transfers.is_bringing(7));
        tokio::time::sleep(Duration::from_millis(2)).await;
        assert!(!transfers.is_bringing(7));
    }

    #[tokio::test]
    async fn who_cannot_be_received_is_told_to_come_again() {
        let transfers = transfers(SnapshotLimits {
            receives_max: 1,
            ..SnapshotLimits::default()
        });
        let receiving = transfers.receive(7).expect("the first");
        receiving.note(5);
        assert!(transfers.receive(8).is_none());
        assert!(transfers.receive(ShardId::PLACEMENT.0).is_some());
        let counts = transfers.counts();
        assert_eq!(
            (counts.receiving, counts.turned_away, counts.received_bytes),
            (1, 1, 5)
        );
        drop(receiving);
        assert!(transfers.receive(8).is_some());
    }
}
