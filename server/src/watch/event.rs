//! Changes as their watchers get them.

use client::proto::watch_reply::Reply;
use client::proto::{Event, WatchEvents, WatchReply};
use storage::shard::{ChangePage, ChangeQuery, KeyValue, ReadError, ShardStore};

use crate::config::WatchConfig;
use crate::service::key_value;

/// A page's changes as they are told, with what they replaced if that is asked for.
pub(super) fn events(
    store: &ShardStore,
    page: &ChangePage,
    with_previous: bool,
) -> Result<Vec<Event>, ReadError> {
    let changes = page.changes.iter();
    changes
        .map(|change| event(store, change, with_previous))
        .collect()
}

fn event(store: &ShardStore, change: &KeyValue, with_previous: bool) -> Result<Event, ReadError> {
    let previous = match with_previous {
        true => store.version_before(&change.key, change.mod_revision)?,
        false => None,
    };
    Ok(Event {
        pair: Some(key_value(change.clone())),
        previous: previous.map(key_value),
    })
}

/// Events of whole revisions up to `revision`, or the news that there were none.
pub(super) fn told(id: u64, events: Vec<Event>, revision: u64) -> WatchReply {
    WatchReply {
        id,
        reply: Some(Reply::Events(WatchEvents { events, revision })),
    }
}

/// A page of changes after a revision, as large as the host allows.
pub(super) fn page<'a>(
    config: &WatchConfig,
    after: u64,
    start: &'a [u8],
    end: Option<&'a [u8]>,
) -> ChangeQuery<'a> {
    ChangeQuery {
        after,
        start,
        end,
        rows_max: usize::try_from(config.page_rows_max).unwrap_or(usize::MAX),
        bytes_max: usize::try_from(config.page_bytes_max).unwrap_or(usize::MAX),
    }
}
