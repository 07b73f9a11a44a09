//! A watch that is behind: it walks by itself, as fast as its client reads, until it has arrived.

use client::proto::{Error, Event};
use storage::shard::{ChangePage, ReadError};

use super::event::{events, page, told};
use super::feed::{Watch, range_changed};
use super::pump::is_led_here;
use crate::host::{Host, LocalShard};
use crate::service::{home, led_elsewhere, unreadable};

/// Why a watch that is behind ends.
enum End {
    /// Nobody listens any more.
    Unwanted,
    /// Its client is told.
    Told { error: Error, oldest: u64 },
}

/// Tells a watch what it has missed.
pub(super) async fn catch_up(host: Host, local: LocalShard, number: u64, mut watch: Watch) {
    while !local.feed.arrive(number, &watch) {
        match step(&host, &local, number, &mut watch).await {
            Ok(()) => {}
            Err(End::Unwanted) => return local.feed.stop(number),
            Err(End::Told { error, oldest }) => {
                local.feed.stop(number);
                return watch.outbox.ended(watch.id, error, oldest);
            }
        }
    }
}

async fn step(host: &Host, local: &LocalShard, number: u64, watch: &mut Watch) -> Result<(), End> {
    if !local.feed.is_behind(number) {
        return Err(End::Unwanted);
    }
    if !is_led_here(host, local) {
        let error = led_elsewhere(home(host, local, None));
        return Err(End::Told { error, oldest: 0 });
    }
    let (missed, events) = missed(host, local, watch).map_err(end)?;
    if !watch.is_within(&missed.range) {
        return Err(End::Told {
            error: range_changed(),
            oldest: 0,
        });
    }
    watch.generation = missed.range.r#gen;
    if !events.is_empty() && !watch.outbox.send(told(watch.id, events, missed.through)).await {
        return Err(End::Unwanted);
    }
    watch.after = missed.through;
    // Others are served between two pages of a long past.
    tokio::task::yield_now().await;
    Ok(())
}

fn missed(host: &Host, local: &LocalShard, watch: &Watch) -> Result<(ChangePage, Vec<Event>), ReadError> {
    let end = (!watch.range.end.is_empty()).then_some(&watch.range.end[..]);
    let query = page(&host.config().watch, watch.after, &watch.range.start, end);
    let page = local.store.changes(query)?;
    let events = events(&local.store, &page, watch.with_previous)?;
    Ok((page, events))
}

fn end(error: ReadError) -> End {
    let oldest = match &error {
        ReadError::Compacted { oldest, .. } => *oldest,
        _ => 0,
    };
    End::Told {
        error: unreadable(&error),
        oldest,
    }
}
