//! Shards that have become too large are split where their data has two halves.
//!
//! The controller knows how many bytes a shard holds from what hosts say; which key parts them only the shard's home knows.
//! What it says may be old by the time the split is applied: then the halves are uneven, and nothing else.

use std::time::Duration;

use bytes::Bytes;
use placement::{Command, HostId, Origin, Proposal, ProposalKind, Reasons, ShardId};
use tonic::{Request, Status};

use super::Controller;
use crate::control::MiddleKeyRequest;
use crate::host::Host;

const MIDDLE_KEY_TIMEOUT: Duration = Duration::from_secs(10);
/// A proposal that could not start after this long is rejected; the shard will still be too large.
const PROPOSAL_LIFE_MS: u64 = 60_000;
/// Splits that are proposed in one round.
const SPLITS_MAX: usize = 4;

/// A shard that is too large, and where to ask for the key.
struct Large {
    shard: ShardId,
    bytes: u64,
    home: HostId,
    address: String,
}

impl Controller {
    /// Proposes to split the largest of the shards that hold more than they should.
    pub(super) async fn split_large(&self) {
        for large in self.large() {
            match middle_key(&self.host, large.shard, large.home, &large.address).await {
                Ok(key) if key.is_empty() => {}
                Ok(key) => self.propose_split(&large, &key).await,
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
        let room = usize::try_from(config.count_max).unwrap_or(usize::MAX);
        let room = room.saturating_sub(state.data_shards().count());
        let too_large = |bytes: &u64| config.bytes_max > 0 && *bytes > config.bytes_max;
        let idle = state
            .data_shards()
            .filter(|shard| shard.ready && shard.active.is_none());
        let large = idle.filter_map(|shard| {
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
        large.truncate(room.min(SPLITS_MAX));
        large
    }

    async fn propose_split(&self, large: &Large, key: &Bytes) {
        let now_ms = self.clock.now_ms();
        let (basis, window) = {
            let state = self.local.machine.state();
            let Some(known) = state.shard(large.shard) else {
                return;
            };
            (known.epoch, state.window())
        };
        let text = format!(
            "it holds {} bytes, and should hold {} at most",
            large.bytes,
            self.host.config().shards.bytes_max
        );
        tracing::info!(shard = %large.shard, bytes = large.bytes, "a shard is to be split");
        self.write(&Command::Propose(Proposal {
            shard: large.shard,
            kind: ProposalKind::Split { at: key.to_vec() },
            basis,
            origin: Origin::Rule,
            expires_ms: now_ms + PROPOSAL_LIFE_MS,
            reasons: Reasons {
                policy: "size".into(),
                text,
                ..Reasons::default()
            },
            window,
            now_ms,
        }))
        .await;
    }
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
