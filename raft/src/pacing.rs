//! When the frames of snapshots, and the log behind them, may leave a host.
//!
//! All that leave share one rate. Those that bring a shard to a host that is to have it, while its replicas are well, share a
//! lower one within that: nothing is lost by their taking longer, and what is written meanwhile waits for the same disks. A
//! voter that fell behind is never one of them, nor is a replica that is to replace a lost one.

use std::collections::BTreeSet;
use std::time::Duration;

/// How far a bucket may run ahead of its rate after a pause.
pub(crate) const BURST: Duration = Duration::from_millis(100);

/// How much faster than a move's snapshot the log behind it may go: until it is there, the log grows.
const LOG_SHARE: u64 = 2;

/// At what rates snapshots leave a host.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SnapshotRates {
    /// Bytes a second of all of them together; 0: as many as go.
    pub bytes_per_s: u64,
    /// Bytes a second of those that are part of a move, together, or twice what the shard's log grows by if that is more; 0: as
    /// many as the other rate lets go. The log behind one may take twice that.
    pub move_bytes_per_s: u64,
}

impl Default for SnapshotRates {
    fn default() -> Self {
        Self {
            bytes_per_s: 64 << 20,
            move_bytes_per_s: 8 << 20,
        }
    }
}

/// What has left a host lately, and what may next.
#[derive(Debug, Default)]
pub(crate) struct Pacing {
    rates: SnapshotRates,
    /// Replicas that are to replace lost ones.
    repairs: BTreeSet<u64>,
    all: Bucket,
    moves: Bucket,
}

/// A token bucket, kept as the time at which everything that was taken so far is paid for.
#[derive(Debug, Default, Clone, Copy)]
struct Bucket {
    paid_at: Duration,
}

impl Bucket {
    /// Takes `bytes` out at `now`: how long to wait before they may be used.
    fn take(&mut self, now: Duration, bytes: u64, bytes_per_s: u64) -> Duration {
        let nanos = u128::from(bytes) * 1_000_000_000;
        let Some(nanos) = nanos.checked_div(u128::from(bytes_per_s)) else {
            return Duration::ZERO;
        };
        let cost = Duration::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX));
        self.paid_at = self.paid_at.max(now).saturating_add(cost);
        self.paid_at.saturating_sub(now).saturating_sub(BURST)
    }
}

impl Pacing {
    pub(crate) fn new(rates: SnapshotRates) -> Self {
        Self {
            rates,
            ..Self::default()
        }
    }

    /// Changes the rates, and which replicas are to replace lost ones, for frames that are yet to be sent.
    pub(crate) fn set(&mut self, rates: SnapshotRates, repairs: BTreeSet<u64>) {
        (self.rates, self.repairs) = (rates, repairs);
    }

    /// Takes out a frame for a replica at `now`: how long to wait before it may be sent. What is part of a move is sent at no
    /// fewer than `least` bytes a second, as far as all snapshots together may.
    pub(crate) fn take(
        &mut self,
        now: Duration,
        bytes: u64,
        to: u64,
        is_voter: bool,
        least: u64,
    ) -> Duration {
        let wait = self.all.take(now, bytes, self.rates.bytes_per_s);
        match is_voter || self.repairs.contains(&to) {
            true => wait,
            false => match self.rates.move_bytes_per_s {
                0 => wait,
                of_moves => wait.max(self.moves.take(now, bytes, of_moves.max(least))),
            },
        }
    }

    /// Takes out a part of the log behind a move's snapshot at `now`: how long to wait before the next may be sent, at no
    /// fewer than `least` bytes a second.
    pub(crate) fn take_log(&mut self, now: Duration, bytes: u64, to: u64, least: u64) -> Duration {
        let of_moves = self.rates.move_bytes_per_s.saturating_mul(LOG_SHARE);
        match of_moves == 0 || self.repairs.contains(&to) {
            true => Duration::ZERO,
            false => self.moves.take(now, bytes, of_moves.max(least)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: u64 = 1 << 20;

    /// The wait before the last of ten mebibytes.
    fn ten(pacing: &mut Pacing, to: u64, is_voter: bool) -> Duration {
        let waits = (0..10).map(|_| pacing.take(Duration::ZERO, MIB, to, is_voter, 0));
        waits.last().unwrap()
    }

    /// A state whose log grows faster than it is copied would bring a log longer than itself.
    #[test]
    fn a_move_is_no_slower_than_it_must_be_nor_faster_than_all_may() {
        let rates = SnapshotRates {
            bytes_per_s: 10 * MIB,
            move_bytes_per_s: 2 * MIB,
        };
        let wait = |least| Pacing::new(rates).take(Duration::ZERO, 20 * MIB, 7, false, least) + BURST;
        assert_eq!(wait(MIB), Duration::from_secs(10));
        assert_eq!(wait(5 * MIB), Duration::from_secs(4));
        assert_eq!(wait(50 * MIB), Duration::from_secs(2));
    }

    #[test]
    fn what_is_moved_waits_longer_than_what_is_repaired() {
        let rates = SnapshotRates {
            bytes_per_s: 10 * MIB,
            move_bytes_per_s: 2 * MIB,
        };
        let paced = || Pacing::new(rates);
        let (slow, fast) = (Duration::from_secs(5) - BURST, Duration::from_secs(1) - BURST);
        assert_eq!(ten(&mut paced(), 7, false), slow);
        assert_eq!(ten(&mut paced(), 7, true), fast, "a voter");
        let mut repairing = paced();
        repairing.set(rates, [7].into());
        assert_eq!(ten(&mut repairing, 7, false), fast, "in place of a lost one");
        // What is moved takes its part of the whole, and no more.
        assert_eq!(
            ten(&mut repairing, 8, false),
            slow,
            "{:?} are paid for",
            repairing.all
        );
        assert_eq!(ten(&mut repairing, 7, false), Duration::from_secs(3) - BURST);
        repairing.set(
            SnapshotRates {
                move_bytes_per_s: 0,
                ..rates
            },
            BTreeSet::new(),
        );
        assert_eq!(
            ten(&mut repairing, 7, false),
            Duration::from_secs(4) - BURST,
            "only the rate of all"
        );
    }
}
