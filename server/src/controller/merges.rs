//! Neighbours that hold little are merged, where an operator asks for that.
//!
//! Neighbours that would soon be split again for what they are asked stay apart.
//!
//! One merge is proposed in a round: it takes three entries and a copy of the smaller half's rows, and with the next round
//! the sizes are known anew.

use std::sync::PoisonError;

use placement::{Command, Origin, Placement, Proposal, ProposalKind, Reasons, Shard, ShardId};

use super::Controller;

/// A proposal that could not start after this long is rejected; the shards will still be small.
const PROPOSAL_LIFE_MS: u64 = 60_000;

/// Two shards that hold little together.
struct Small<'a> {
    shard: &'a Shard,
    next: ShardId,
    bytes: u64,
}

impl Controller {
    /// Proposes to merge the smallest of the neighbours that hold less together than a shard should.
    pub(super) async fn merge_small(&self) {
        let bytes_min = self.host.config().shards.bytes_min;
        let now_ms = self.clock.now_ms();
        let proposal = {
            let state = self.local.machine.state();
            let sizes = self.observer.shard_bytes();
            let bytes = |shard: &Shard| sizes.get(&shard.id).copied();
            let loads = self.loads.lock().unwrap_or_else(PoisonError::into_inner);
            let config = &self.host.config().shards;
            let apart = |shard, next| loads.would_part(shard, next, config);
            smallest(&state, bytes_min, bytes, apart).map(|small| {
                let text = format!(
                    "{} and {} hold {} bytes together, and a shard should hold {bytes_min}",
                    small.shard.id, small.next, small.bytes
                );
                Proposal {
                    shard: small.shard.id,
                    kind: ProposalKind::Merge { next: small.next },
                    basis: small.shard.epoch,
                    origin: Origin::Rule,
                    expires_ms: now_ms + PROPOSAL_LIFE_MS,
                    reasons: Reasons {
                        policy: "size".into(),
                        text,
                        ..Reasons::default()
                    },
                    window: state.window(),
                    now_ms,
                }
            })
        };
        if let Some(proposal) = proposal {
            tracing::info!(shard = %proposal.shard, reason = proposal.reasons.text, "shards are to be merged");
            self.write(&Command::Propose(proposal)).await;
        }
    }
}

/// Of the neighbours that could be merged now, those that hold the least, if that is less than `bytes_min`.
fn smallest(
    state: &Placement,
    bytes_min: u64,
    bytes: impl Fn(&Shard) -> Option<u64>,
    stay_apart: impl Fn(ShardId, ShardId) -> bool,
) -> Option<Small<'_>> {
    let idle = |shard: &&Shard| shard.ready && shard.active.is_none();
    let mut ordered: Vec<&Shard> = state.data_shards().collect();
    ordered.sort_by(|a, b| a.range.start.cmp(&b.range.start));
    let pairs = ordered.windows(2).filter_map(|pair| {
        let [shard, next] = [pair[0], pair[1]];
        let hosts = |shard: &Shard| {
            let mut hosts: Vec<_> = shard.voters().map(|(_, host)| host).collect();
            hosts.sort();
            hosts
        };
        let fits = idle(&shard) && idle(&next) && hosts(shard) == hosts(next);
        let bytes = bytes(shard)? + bytes(next)?;
        (fits && bytes < bytes_min && !stay_apart(shard.id, next.id)).then_some(Small {
            shard,
            next: next.id,
            bytes,
        })
    });
    pairs.min_by_key(|small| small.bytes)
}
