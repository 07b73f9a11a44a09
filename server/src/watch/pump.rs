//! The walk that the watches of a shard share as long as they keep up.

use std::time::Duration;

use storage::shard::ReadError;
use tokio::time::{Instant, MissedTickBehavior};

use super::catch_up::catch_up;
use super::event::{events, page};
use crate::host::{Host, LocalShard};
use crate::service::{home, led_elsewhere, unreadable};

/// How often a shard without changes is asked whether it is still led here.
const LOOK_AROUND: Duration = Duration::from_millis(250);

/// Tells a shard's watches its changes, until there is no watch left. The caller has the right to.
pub(super) async fn pump(host: Host, local: LocalShard) {
    let feed = &local.feed;
    let mut revisions = feed.revisions();
    // What was applied between the beginning and now is a change, too.
    revisions.mark_changed();
    let progress_interval = Duration::from_millis(host.config().watch.progress_interval_ms);
    let mut progress_at = Instant::now() + progress_interval;
    let mut look_around = tokio::time::interval(LOOK_AROUND);
    look_around.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            // The feed itself sends, so there is always somebody who may.
            _ = revisions.changed() => {}
            _ = look_around.tick() => {}
        }
        if !is_led_here(&host, &local) {
            feed.end_all(&led_elsewhere(home(&host, &local, None)));
        } else if let Err(error) = tell_news(&host, &local) {
            tracing::warn!(shard = %local.group.id(), %error, "watches end");
            feed.end_all(&unreadable(&error));
        } else if Instant::now() >= progress_at {
            progress_at = Instant::now() + progress_interval;
            feed.tell_progress();
        }
        if feed.rest() {
            return;
        }
    }
}

/// Whether this host leads a shard with the replica that is meant.
pub(super) fn is_led_here(host: &Host, local: &LocalShard) -> bool {
    let current = host.shard(local.group.id());
    local.group.is_leader() && current.is_some_and(|current| current.group.replica() == local.group.replica())
}

fn tell_news(host: &Host, local: &LocalShard) -> Result<(), ReadError> {
    loop {
        let (position, with_previous) = local.feed.position();
        let query = page(&host.config().watch, position, b"", None);
        let news = local.store.changes(query)?;
        let events = events(&local.store, &news, with_previous)?;
        let Some(behind) = local.feed.tell(&news, events, with_previous) else {
            continue;
        };
        for (number, watch) in behind {
            host.spawn(catch_up(host.clone(), local.clone(), number, watch));
        }
        if news.through >= news.newest {
            return Ok(());
        }
    }
}
