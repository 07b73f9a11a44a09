//! How fast a replica that was sent a state gets the log behind it.
//!
//! While a state is copied the log behind it grows, and the new replica is fed that log as fast as it takes it: the receiver's
//! processor and disk are then at it alone, and whoever shares them waits. So the log of a replica that is not a voter and far
//! behind is held to the rate of moves as well ([`pacing`](crate::pacing)), but never below twice the rate at which the log
//! grows, or it would not end; and not at all once this host's log is nearly as long as it may be, since the log that such a
//! replica still needs is what makes it long.

use std::time::Duration;

use futures_util::{Stream, StreamExt, stream};
use openraft::raft::AppendEntriesRequest;

use super::growth::Growth;
use super::pipeline::{command_bytes, last_of};
use crate::transfers::Transfers;
use crate::types::{LogId, TypeConfig};

/// Bytes by which a replica may be behind without being far behind.
const BEHIND_MIN: u64 = 2 << 20;
/// How much of its longest the log may have while a replica is held back.
pub(super) const LOG_FILL_MAX: f64 = 0.875;

/// What one append brings a replica, of what was committed before.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Step {
    /// Entries in it.
    entries: u64,
    /// Bytes of their commands.
    bytes: u64,
    /// Committed entries behind the last one in it.
    left: u64,
}

impl Step {
    /// None of an append that brings the last committed entry, as nearly all do.
    fn of(request: &AppendEntriesRequest<TypeConfig>) -> Option<Self> {
        let index = |id: Option<LogId>| id.map_or(0, |id| id.index());
        let committed = index(request.leader_commit);
        let left = committed.checked_sub(index(last_of(request)))?;
        (left > 0).then(|| Self {
            entries: request.entries.len() as u64,
            bytes: command_bytes(request) as u64,
            left,
        })
    }

    /// Whether much is left to send, if what is left is like what was sent: an entry holds one mutation, or hundreds.
    fn is_far_behind(&self) -> bool {
        u128::from(self.left) * u128::from(self.bytes) > u128::from(BEHIND_MIN) * u128::from(self.entries)
    }
}

/// What the sender knows of its host.
pub(super) trait OwnHost {
    /// Whether the replica gets its log as fast as it takes it.
    fn is_exempt(&self) -> bool;
    /// Bytes that were ever appended to the group's log here.
    fn appended_bytes(&self) -> u64;
}

/// What holds one replica's log back.
pub(super) struct CatchUp {
    transfers: Transfers,
    group: u64,
    to: u64,
    growth: Option<Growth>,
}

impl CatchUp {
    pub(super) fn new(transfers: Transfers, group: u64, to: u64) -> Self {
        Self {
            transfers,
            group,
            to,
            growth: None,
        }
    }

    /// How long to wait before the replica gets more. The host is asked only where it is far behind.
    fn wait(&mut self, now: Duration, step: Option<Step>, host: &impl OwnHost) -> Duration {
        let Some(step) = step.filter(|step| step.is_far_behind() && !host.is_exempt()) else {
            self.growth = None;
            return Duration::ZERO;
        };
        let appended_bytes = host.appended_bytes();
        let growth = *self.growth.get_or_insert(Growth::begin(now, appended_bytes));
        let least = growth.outpaced(now, appended_bytes);
        self.transfers.catches_up(self.group, self.to, step.bytes, least)
    }

    /// The same appends, held back unless the replica is exempt.
    pub(super) fn held_back<'s, S>(
        self,
        input: S,
        host: impl OwnHost + Send + 's,
    ) -> impl Stream<Item = AppendEntriesRequest<TypeConfig>> + Send + 's
    where
        S: Stream<Item = AppendEntriesRequest<TypeConfig>> + Send + Unpin + 's,
    {
        let begin = (self, input, host, Duration::ZERO);
        stream::unfold(begin, |(mut this, mut input, host, wait)| async move {
            // Before the next is asked for, not before it is sent: it is dated by when it was asked for.
            if !wait.is_zero() {
                tokio::time::sleep(wait).await;
            }
            let request = input.next().await?;
            let wait = this.wait(this.transfers.uptime(), Step::of(&request), &host);
            Some((request, (this, input, host, wait)))
        })
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use openraft::vote::RaftLeaderId;

    use super::*;
    use crate::pacing::{BURST, SnapshotRates};
    use crate::runtime::{ClockSkew, HostContext};
    use crate::transfers::SnapshotLimits;
    use crate::types::{Command, LeaderId, Payload, Vote};

    const KIB: u64 = 1 << 10;
    const TO: u64 = 9;
    /// The log's rate is twice that of moves.
    const RATE: u64 = 2 * 512 * KIB;

    fn catch_up(transfers: &Transfers) -> CatchUp {
        CatchUp::new(transfers.clone(), 7, TO)
    }

    fn transfers() -> Transfers {
        let rates = SnapshotRates {
            move_bytes_per_s: RATE / 2,
            ..SnapshotRates::default()
        };
        let limits = SnapshotLimits {
            rates,
            ..SnapshotLimits::default()
        };
        Transfers::new(limits, HostContext::new(1, ClockSkew::default()))
    }

    /// A host of which this much was appended to the group's log.
    struct Host {
        is_exempt: bool,
        appended_bytes: u64,
    }

    impl OwnHost for Host {
        fn is_exempt(&self) -> bool {
            self.is_exempt
        }

        fn appended_bytes(&self) -> u64 {
            self.appended_bytes
        }
    }

    const EXEMPT: Host = Host {
        is_exempt: true,
        appended_bytes: 0,
    };
    const HELD_BACK: Host = Host {
        is_exempt: false,
        appended_bytes: 0,
    };

    /// Feeds a replica that begins `behind` entries of a kibibyte behind a log that grows by `growth` such a second, for at
    /// most `most`: how long until it is not far behind.
    async fn feed(mut catch_up: CatchUp, behind: u64, growth: u64, most: Duration) -> Option<Duration> {
        let began = tokio::time::Instant::now();
        let (mut last, batch) = (0, 64);
        while began.elapsed() < most {
            let committed = behind + (began.elapsed().as_secs_f64() * growth as f64) as u64;
            let step = Step {
                entries: batch,
                bytes: batch * KIB,
                left: committed.saturating_sub(last),
            };
            if !step.is_far_behind() {
                return Some(began.elapsed());
            }
            let host = Host {
                appended_bytes: committed * KIB,
                ..HELD_BACK
            };
            let wait = catch_up.wait(catch_up.transfers.uptime(), Some(step), &host);
            // However fast the replica is: a millisecond.
            tokio::time::sleep(wait.max(Duration::from_millis(1))).await;
            last += batch;
        }
        None
    }

    #[tokio::test(start_paused = true)]
    async fn the_log_behind_a_snapshot_goes_at_its_rate() {
        let transfers = transfers();
        let took = feed(catch_up(&transfers), 22 * KIB, 0, Duration::from_secs(60)).await;
        let expected = Duration::from_secs_f64((22 * KIB * KIB - BEHIND_MIN) as f64 / RATE as f64);
        let took = took.expect("it got there");
        assert!(took + BURST * 2 > expected && took < expected + BURST, "{took:?}");
        assert!(transfers.counts().held_back_ms > 15_000);
        assert!(transfers.is_bringing(7), "the log is still needed");
    }

    /// At its rate alone it would never get there.
    #[tokio::test(start_paused = true)]
    async fn a_log_that_grows_faster_than_the_rate_is_caught_up_with() {
        let growth = 3 * RATE / KIB;
        let took = feed(
            catch_up(&transfers()),
            20 * growth,
            growth,
            Duration::from_secs(60),
        )
        .await;
        let took = took.expect("it got there");
        assert!(took > Duration::from_secs(15), "{took:?}");
    }

    /// Entries from when hundreds of writes came in each say nothing of how fast the log grows by those of now.
    #[tokio::test(start_paused = true)]
    async fn old_entries_that_are_large_do_not_make_a_log_grow() {
        let transfers = transfers();
        let (mut catch_up, began) = (catch_up(&transfers), tokio::time::Instant::now());
        let mut bytes = 0;
        while began.elapsed() < Duration::from_secs(20) {
            let step = Step {
                entries: 1,
                bytes: 256 * KIB,
                left: 100_000,
            };
            let host = Host {
                appended_bytes: (began.elapsed().as_secs_f64() * (RATE / 4) as f64) as u64,
                ..HELD_BACK
            };
            let wait = catch_up.wait(transfers.uptime(), Some(step), &host);
            tokio::time::sleep(wait.max(Duration::from_millis(1))).await;
            bytes += step.bytes;
        }
        assert!(bytes < 21 * RATE, "{bytes} bytes in 20 s");
    }

    #[tokio::test(start_paused = true)]
    async fn nobody_waits_who_is_exempt_or_near_or_repaired() {
        let transfers = transfers();
        let step = Step {
            entries: 10_000,
            bytes: 10_000 * KIB,
            left: BEHIND_MIN / KIB + 1,
        };
        let mut held = catch_up(&transfers);
        let near = Step {
            left: step.left - 1,
            ..step
        };
        assert_eq!(held.wait(Duration::ZERO, Some(near), &HELD_BACK), Duration::ZERO);
        assert_eq!(held.wait(Duration::ZERO, None, &HELD_BACK), Duration::ZERO);
        assert_eq!(held.wait(Duration::ZERO, Some(step), &EXEMPT), Duration::ZERO);
        transfers.set_pace(
            SnapshotRates {
                move_bytes_per_s: 1,
                ..SnapshotRates::default()
            },
            [TO].into(),
        );
        assert_eq!(held.wait(Duration::ZERO, Some(step), &HELD_BACK), Duration::ZERO);
        let mut other = CatchUp::new(transfers, 7, TO + 1);
        assert!(other.wait(Duration::ZERO, Some(step), &HELD_BACK) > Duration::from_secs(1));
    }

    /// Appends as openraft makes them, of which all but the last few leave much behind them.
    #[tokio::test(start_paused = true)]
    async fn appends_are_held_back_until_little_is_left() {
        let id = |index| LogId::new(LeaderId::new(1, 1), index);
        let mebibyte = Bytes::from(vec![0; 1 << 20]);
        let append = |index| AppendEntriesRequest::<TypeConfig> {
            vote: Vote::new_committed(1, 1),
            prev_log_id: Some(id(index - 1)),
            entries: vec![openraft::Entry {
                log_id: id(index),
                payload: Payload {
                    command: Some(Command(mebibyte.clone())),
                    ..Payload::default()
                },
            }],
            leader_commit: Some(id(12)),
        };
        let took = async |is_exempt: bool| {
            let (transfers, began) = (transfers(), tokio::time::Instant::now());
            let input = stream::iter((1..=12).map(append));
            let host = Host {
                is_exempt,
                ..HELD_BACK
            };
            let held_back = catch_up(&transfers).held_back(input, host);
            let last: Vec<u64> = held_back
                .map(|append| last_of(&append).map_or(0, |id| id.index()))
                .collect()
                .await;
            assert_eq!(last, (1..=12).collect::<Vec<_>>(), "in order, and none is lost");
            began.elapsed()
        };
        // Behind the ninth there are three, which is far behind still: nine are paid for, at a mebibyte a second.
        let expected = Duration::from_secs(9) - BURST;
        let held = took(false).await;
        assert!(held >= expected && held < expected + BURST, "{held:?}");
        assert_eq!(took(true).await, Duration::ZERO, "exempt");
    }
}
