//! Shards that hold too much, or are asked for too much or from places that differ, are split.
//!
//! The controller knows how many bytes a shard holds from what hosts say; which key parts them only the shard's home knows.
//! Where the accesses lie it knows itself, from the windows that have ended. What it knows may be old by the time the split
//! is applied: then the halves are uneven, and nothing else.

use std::sync::PoisonError;
use std::time::Duration;

use bytes::Bytes;
use placement::{Command, HostId, Origin, Proposal, ProposalKind, Reasons, Shard, ShardId};
use tonic::{Request, Status};

use super::Controller;
use super::loads::DueCut;
use crate::control::MiddleKeyRequest;
use crate::host::Host;

const MIDDLE_KEY_TIMEOUT: Duration = Duration::from_secs(10);
/// A proposal that could not start after this long is rejected; the shard will still be as it is.
const PROPOSAL_LIFE_MS: u64 = 60_000;
/// Splits that are proposed in one round for one reason.
const SPLITS_MAX: usize = 4;

/// A shard that holds too much, and where to ask for the key.
struct Large {
    shard: ShardId,
    bytes: u64,
    home: HostId,
    address: String,
}

/// Why a shard is to be split.
struct SplitReasons {
    policy: &'static str,
    origin: Origin,
    text: String,
}

impl Controller {
    /// Proposes to split the largest of the shards that hold more than they should.
    pub(super) async fn split_large(&self) {
        for large in self.large() {
            match middle_key(&self.host, large.shard, large.home, &large.address).await {
                Ok(key) if key.is_empty() => {}
                Ok(key) => {
                    let text = format!(
                        "it holds {} bytes, and should hold {} at most",
                        large.bytes,
                        self.host.config().shards.bytes_max
                    );
                    let reasons = SplitReasons {
                        policy: "size",
                        origin: Origin::Rule,
                        text,
                    };
                    self.propose_split(large.shard, &key, reasons).await;
                }
                Err(status) => {
                    tracing::debug!(shard = %large.shard, error = status.message(), "no key to split a large shard at");
                }
            }
        }
    }

    fn large(&self) -> Vec<Large> {
        let config = &self.host.config().shards;
        let sizes = self.observer.shard_bytes();
        let state = self.local.machine.state();
        let too_large = |bytes: &u64| config.bytes_max > 0 && *bytes > config.bytes_max;
        let large = state
            .data_shards()
            .filter(|shard| is_idle(shard))
            .filter_map(|shard| {
                let home = shard.home_host()?;
                Some(Large {
                    shard: shard.id,
                    bytes: sizes.get(&shard.id).copied().filter(too_large)?,
                    home,
                    address: state.host(home)?.address.clone(),
                })
            });
        let mut large: Vec<Large> = large.collect();
        large.sort_by_key(|large| std::cmp::Reverse(large.bytes));
        large.truncate(self.splits_left(state.data_shards().count()));
        large
    }

    /// Proposes to split the shards that are asked for more than they should be, or from places that differ.
    pub(super) async fn split_by_access(&self) {
        for (shard, cut) in self.due_cuts() {
            let config = &self.host.config().shards;
            let sides = format!(
                "{:.0} % of its accesses are before the cut; sides tell {:.2} bits of where accesses come from, and homes of \
                 their own bring {:.0} % more home",
                cut.halves.left * 100.0,
                cut.halves.divergence,
                cut.halves.gain * 100.0
            );
            let text = match cut.policy {
                "load" => format!(
                    "it is accessed {:.0} times a second, and should be {} times at most; {sides}",
                    cut.per_second, config.accesses_max_per_s
                ),
                _ => format!("its two sides are accessed from different places; {sides}"),
            };
            let reasons = SplitReasons {
                policy: cut.policy,
                origin: Origin::Balance,
                text,
            };
            self.loads
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .forget(shard);
            self.propose_split(shard, &Bytes::from(cut.halves.at), reasons)
                .await;
        }
    }

    /// Those asked for most first.
    fn due_cuts(&self) -> Vec<(ShardId, DueCut)> {
        let config = &self.host.config().shards;
        let state = self.local.machine.state();
        let loads = self.loads.lock().unwrap_or_else(PoisonError::into_inner);
        let idle = state.data_shards().filter(|shard| is_idle(shard));
        let due = idle.filter_map(|shard| {
            let cut = loads.due(shard.id, config)?;
            let at = cut.halves.at.as_slice();
            let inside = shard.range.contains(at) && shard.range.start.as_slice() < at;
            inside.then_some((shard.id, cut))
        });
        let mut due: Vec<(ShardId, DueCut)> = due.collect();
        due.sort_by(|(_, a), (_, b)| b.per_second.total_cmp(&a.per_second));
        due.truncate(self.splits_left(state.data_shards().count()));
        due
    }

    /// How many more shards may be made now by splits that nobody asked for.
    fn splits_left(&self, shards: usize) -> usize {
        let count_max = usize::try_from(self.host.config().shards.count_max).unwrap_or(usize::MAX);
        count_max.saturating_sub(shards).min(SPLITS_MAX)
    }

    async fn propose_split(&self, shard: ShardId, key: &Bytes, reasons: SplitReasons) {
        let now_ms = self.clock.now_ms();
        let (basis, window) = {
            let state = self.local.machine.state();
            let Some(known) = state.shard(shard) else {
                return;
            };
            (known.epoch, state.window())
        };
        tracing::info!(%shard, policy = reasons.policy, reason = reasons.text, "a shard is to be split");
        self.write(&Command::Propose(Proposal {
            shard,
            kind: ProposalKind::Split { at: key.to_vec() },
            basis,
            origin: reasons.origin,
            expires_ms: now_ms + PROPOSAL_LIFE_MS,
            reasons: Reasons {
                policy: reasons.policy.into(),
                text: reasons.text,
                ..Reasons::default()
            },
            window,
            now_ms,
        }))
        .await;
    }
}

fn is_idle(shard: &Shard) -> bool {
    shard.ready && shard.active.is_none()
}

/// Where the data of a shard parts in two halves, as its home says; empty: nowhere.
pub(crate) async fn middle_key(
    host: &Host,
    shard: ShardId,
    home: HostId,
    address: &str,
) -> Result<Bytes, Status> {
    let control = host.channels().control(address);
    let mut control = control.map_err(|e| Status::unavailable(e.to_string()))?;
    let mut request = Request::new(MiddleKeyRequest {
        cluster_id: host.cluster_id().unwrap_or_default(),
        to_host: home.0,
        shard_id: shard.0,
    });
    request.set_timeout(MIDDLE_KEY_TIMEOUT);
    Ok(control.middle_key(request).await?.into_inner().key)
}
