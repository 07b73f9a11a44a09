//! Clients that watch everything and take down what they are told.
//!
//! Now and then a watcher lets go and begins again from the position that it kept, as a program that was restarted does.
//! When the others have stopped it asks every shard how far it has come, and goes on until it has been told as much.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use client::{Client, KeyRange, Watch, WatchError, WatchFrom, WatchOptions, WatchPosition, WatchUpdate};
use tokio_util::sync::CancellationToken;

use super::keys::letters;
use super::worker::{Shared, connected};
use crate::generate::Chance;
use crate::watch::{Change, WatchLine, WatchStep};

/// After what did not work: so as not to spin where nothing answers.
const REST: Duration = Duration::from_millis(50);
/// Of a thousand updates, so many are the last before the watcher begins again.
const RESUMES_PERMILLE: u64 = 5;
/// How long a watcher may take to be told of the last write.
const PATIENCE: Duration = Duration::from_secs(60);

struct Watcher {
    shared: Arc<Shared>,
    number: u64,
    chance: Chance,
    client: Client,
}

/// Watches as client `number` until it was told of everything, once `over` says that there is no more.
pub(super) async fn watch_all(shared: Arc<Shared>, number: u64, over: CancellationToken) {
    let Some(client) = connected(&shared, number).await else {
        return;
    };
    let mut watcher = Watcher {
        chance: Chance::new(shared.plan.seed ^ number.wrapping_mul(0xd1b5_4a32_d192_ed03)),
        shared,
        number,
        client,
    };
    let stop = watcher.shared.stop.clone();
    let Some(watch) = stop.run_until_cancelled(watcher.begin(WatchFrom::Now)).await else {
        return;
    };
    watcher.note(WatchStep::Made);
    let too_late = async {
        over.cancelled().await;
        tokio::time::sleep(PATIENCE).await;
    };
    let complete = tokio::select! {
        biased;
        complete = watcher.run(watch, &over) => complete,
        () = too_late => false,
    };
    watcher.note(WatchStep::Ended { complete });
}

impl Watcher {
    /// Whether it was told of everything.
    async fn run(&mut self, mut watch: Watch, over: &CancellationToken) -> bool {
        while let Some(update) = over.run_until_cancelled(watch.next()).await {
            if !self.take(update) {
                return false;
            }
            if self.chance.permille(RESUMES_PERMILLE) {
                watch = self.resume(&watch).await;
            }
        }
        let due = self.revisions().await;
        let is_told = |watch: &Watch| {
            let position = watch.position();
            let mut due = due.iter();
            due.all(|(key, revision)| position.revision_of(key.as_bytes()) >= Some(*revision))
        };
        while !is_told(&watch) {
            if !self.take(watch.next().await) {
                return false;
            }
        }
        true
    }

    async fn begin(&self, from: WatchFrom) -> Watch {
        loop {
            let options = WatchOptions {
                from: from.clone(),
                previous: true,
            };
            match self.client.watch(KeyRange::all(), options).await {
                Ok(watch) => return watch,
                Err(e) => tracing::debug!("watcher {} does not watch: {e}", self.number),
            }
            tokio::time::sleep(REST).await;
        }
    }

    async fn resume(&self, watch: &Watch) -> Watch {
        let kept = watch.position().to_bytes();
        let position = WatchPosition::from_bytes(&kept).expect("a position is read back");
        self.note(WatchStep::Resumed);
        self.begin(WatchFrom::Position(position)).await
    }

    /// Takes an update down; false: the watch is over.
    fn take(&self, update: Result<WatchUpdate, WatchError>) -> bool {
        match update {
            Ok(update) => {
                let (part, shard) = (update.part, update.shard_id);
                let events = update.events.into_iter();
                events.for_each(|event| self.note(WatchStep::Event(change(&part, shard, event))));
                true
            }
            Err(e) => {
                self.note(WatchStep::Broken { why: e.to_string() });
                false
            }
        }
    }

    /// Where the shards that may hold keys stand, each by one of its keys.
    async fn revisions(&self) -> BTreeMap<String, u64> {
        let keys = letters().map(|letter| (self.client.locate(letter.as_bytes()).shard_id, letter));
        let of_shards: BTreeMap<u64, String> = keys.collect();
        let mut revisions = BTreeMap::new();
        for key in of_shards.into_values() {
            let read = loop {
                match self.client.get(key.clone()).await {
                    Ok(read) => break read,
                    Err(_) => tokio::time::sleep(REST).await,
                }
            };
            revisions.insert(key, read.revision);
        }
        revisions
    }

    fn note(&self, step: WatchStep) {
        let line = WatchLine {
            watcher: self.number,
            at_ns: self.shared.recorder.now_ns(),
            step,
        };
        self.shared.recorder.watched(line);
    }
}

fn change(part: &[u8], shard: u64, event: client::Event) -> Change {
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    Change {
        part: text(part),
        shard,
        version: event.pair.mod_revision,
        key: text(&event.pair.key),
        value: (!event.is_deletion()).then(|| text(&event.pair.value)),
        replaced: event.previous.map(|previous| previous.mod_revision),
    }
}
