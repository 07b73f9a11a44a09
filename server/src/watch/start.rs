//! The start of a watch: whether it can be had here, and from where.

use client::KeyRange;
use client::proto::start_watch::From;
use client::proto::{Code, Error, StartWatch};
use placement::ShardId;
use storage::shard::ShardRange;

use super::catch_up::catch_up;
use super::feed::{Feed, Watch};
use super::outbox::Outbox;
use super::pump::{is_led_here, pump};
use crate::host::{Host, LocalShard};
use crate::service::{home, home_in_map, led_elsewhere, problem};

/// Why a watch does not start.
#[derive(Debug)]
pub(crate) struct NotStarted {
    pub(crate) error: Error,
    /// Where what it asks for was forgotten: the oldest revision to start after.
    pub(crate) oldest: u64,
}

impl NotStarted {
    pub(crate) fn new(error: Error) -> Self {
        Self { error, oldest: 0 }
    }
}

/// A watch that was started.
pub(crate) struct Started {
    feed: Feed,
    number: u64,
}

impl Started {
    /// Whether it has not ended by itself.
    pub(crate) fn is_running(&self) -> bool {
        self.feed.has(self.number)
    }

    /// Ends it without a word to its client.
    pub(crate) fn stop(&self) {
        self.feed.stop(self.number);
    }
}

/// Starts a watch, which the client calls `id`.
pub(crate) fn start(host: &Host, outbox: &Outbox, id: u64, call: StartWatch) -> Result<Started, NotStarted> {
    let shard = shard_of(host, &call)?;
    let not_led = |home| NotStarted::new(led_elsewhere(home));
    let local = host
        .shard(shard)
        .ok_or_else(|| not_led(home_in_map(host, shard)))?;
    if !is_led_here(host, &local) {
        return Err(not_led(home(host, &local, None)));
    }
    let shard_range = local.store.range();
    let range = range_of(&shard_range, &call)?;
    if local.store.is_frozen() {
        let message = "the shard is about to be merged with the one before it";
        return Err(NotStarted::new(problem(Code::StaleRoute, message)));
    }
    let watch = Watch {
        id,
        generation: shard_range.r#gen,
        with_previous: call.previous,
        outbox: outbox.clone(),
        after: after_of(&local, &range, call.from)?,
        range,
    };
    let feed = local.feed.clone();
    let (number, must_pump) = feed.join(&watch, local.store.revision());
    if must_pump {
        host.spawn(pump(host.clone(), local.clone()));
    }
    if !feed.arrive(number, &watch) {
        host.spawn(catch_up(host.clone(), local, number, watch));
    }
    Ok(Started { feed, number })
}

fn shard_of(host: &Host, call: &StartWatch) -> Result<ShardId, NotStarted> {
    if call.shard_id > 0 {
        return Ok(ShardId(call.shard_id));
    }
    match host.map().shard_of(&call.start) {
        Some(route) => Ok(ShardId(route.shard_id)),
        None => Err(NotStarted::new(problem(
            Code::Unavailable,
            "the cluster has no shards yet",
        ))),
    }
}

/// The keys to watch, which the shard must hold.
fn range_of(shard: &ShardRange, call: &StartWatch) -> Result<KeyRange, NotStarted> {
    let shard_end = shard.end.clone().unwrap_or_default();
    let end = match call.end.is_empty() {
        true => shard_end.clone(),
        false => call.end.clone(),
    };
    let is_stale = call.r#gen > 0 && call.r#gen != shard.r#gen;
    let ends_beyond = !shard_end.is_empty() && (end.is_empty() || end > shard_end);
    if is_stale || ends_beyond || call.start < shard.start {
        let message = "the range lies outside the shard, or the shard's range has another version";
        return Err(NotStarted::new(problem(Code::StaleRoute, message)));
    }
    if !end.is_empty() && end <= call.start {
        return Err(NotStarted::new(problem(Code::Invalid, "a range without a key")));
    }
    Ok(KeyRange {
        start: call.start.clone(),
        end,
    })
}

fn after_of(local: &LocalShard, range: &KeyRange, from: Option<From>) -> Result<u64, NotStarted> {
    let end = (!range.end.is_empty()).then_some(&range.end[..]);
    let oldest = local.store.oldest_revision(&range.start, end);
    match from {
        Some(From::After(after)) if after < oldest => Err(NotStarted {
            error: problem(
                Code::Compacted,
                format!(
                    "changes after revision {after} are compacted, the oldest to start after is {oldest}"
                ),
            ),
            oldest,
        }),
        Some(From::After(after)) => Ok(after),
        Some(From::Now(true)) => Ok(local.store.revision()),
        Some(From::Now(false)) | None => {
            Err(NotStarted::new(problem(Code::Invalid, "a watch says from where")))
        }
    }
}
