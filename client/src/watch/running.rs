//! The handle of a watch, which drives its parts.
//!
//! There is no task behind it: whatever is to be done about a part is done while the application waits in
//! [`Watch::next`]. What must hold: a part's `after` moves only with what is handed out or, before that, waits in `ready`.

use std::{
    collections::{BTreeMap, VecDeque},
    sync::Arc,
    time::Duration,
};

use bytes::Bytes;
use tokio::sync::{Notify, mpsc};

use super::{
    attempt::{Listener, Missed, Told},
    options::{Event, WatchError, WatchFrom, WatchOptions, WatchPosition, WatchUpdate, common},
    part::{Attempt, Part, State},
};
use crate::{
    cluster::Cluster,
    operation::KeyRange,
    proto::{self, StartWatch, WatchEvents, start_watch::From},
    retry::Backoff,
    routes::Shard,
    seam::within,
    setback::{Kind, Setback},
};

/// A range of keys that is watched. Dropping it ends the watch.
///
/// It goes on over lost connections, new leaders, moved and changed shards, for as long as it takes: only what a
/// [`WatchError`] names ends it.
pub struct Watch {
    cluster: Arc<Cluster>,
    with_previous: bool,
    /// By their first keys; together they are the watched range.
    parts: BTreeMap<Bytes, Part>,
    /// The first key of the part that an attempt is for.
    attempts: BTreeMap<u64, Bytes>,
    next_attempt: u64,
    told: mpsc::Receiver<(u64, Told)>,
    queue: mpsc::Sender<(u64, Told)>,
    wake: Arc<Notify>,
    /// Told and not yet handed out, while the watch was being made.
    ready: VecDeque<WatchUpdate>,
    over: Option<WatchError>,
    last_cause: String,
}

impl Watch {
    /// Begins to watch; ends when every part is told by some host.
    pub(crate) async fn begin(
        cluster: &Arc<Cluster>,
        range: KeyRange,
        options: WatchOptions,
        deadline: Duration,
    ) -> Result<Self, WatchError> {
        let mut watch = Self::new(cluster, range, options)?;
        let clock = Arc::clone(&cluster.shared.config.clock);
        match within(&clock, deadline, watch.started()).await {
            Ok(started) => started.map(|()| watch),
            Err(_) => Err(WatchError::Deadline {
                cause: watch.last_cause,
            }),
        }
    }

    fn new(cluster: &Arc<Cluster>, range: KeyRange, options: WatchOptions) -> Result<Self, WatchError> {
        let parts = first_parts(cluster, &range, options.from).map_err(|why| WatchError::Invalid {
            message: why.to_owned(),
        })?;
        let (queue, told) = mpsc::channel(cluster.shared.config.limits.watch_updates_max.max(1));
        let part = |(range, after): (KeyRange, Option<u64>)| {
            let part = Part::new(range, after, Backoff::new(&cluster.shared));
            (part.range.start.clone(), part)
        };
        Ok(Self {
            with_previous: options.previous,
            parts: parts.into_iter().map(part).collect(),
            attempts: BTreeMap::new(),
            next_attempt: 0,
            told,
            queue,
            wake: Arc::default(),
            ready: VecDeque::new(),
            over: None,
            last_cause: "no host has answered".to_owned(),
            cluster: Arc::clone(cluster),
        })
    }

    async fn started(&mut self) -> Result<(), WatchError> {
        while !self.parts.values().all(Part::is_running) {
            if let Some(update) = self.step().await? {
                self.ready.push_back(update);
            }
        }
        Ok(())
    }

    /// The next changes, or a note of progress. Waits until there is something to tell; giving up waiting loses nothing.
    ///
    /// # Errors
    /// The watch is over; every further call says the same.
    pub async fn next(&mut self) -> Result<WatchUpdate, WatchError> {
        loop {
            if let Some(update) = self.ready.pop_front() {
                return Ok(update);
            }
            if let Some(update) = self.step().await? {
                return Ok(update);
            }
        }
    }

    /// How far the watch has come, with all that [`next`](Self::next) has handed out.
    #[must_use]
    pub fn position(&self) -> WatchPosition {
        let part = |part: &Part| proto::WatchedPart {
            start: part.range.start.clone(),
            end: part.range.end.clone(),
            shard_id: part.shard_id,
            revision: part.after.unwrap_or(0),
        };
        let mut position = WatchPosition(proto::WatchPosition {
            parts: self.parts.values().map(part).collect(),
        });
        // What is ready counts as told in its part.
        position.take_back(self.ready.iter());
        position
    }

    /// One thing that happens; an update if it is one.
    async fn step(&mut self) -> Result<Option<WatchUpdate>, WatchError> {
        if let Some(over) = &self.over {
            return Err(over.clone());
        }
        let heard = match self.told.try_recv() {
            Ok(told) => Some(told),
            Err(_) => {
                self.restart_what_missed_something();
                self.start_what_is_due().await;
                self.wait().await
            }
        };
        let Some((attempt, told)) = heard else {
            return Ok(None);
        };
        self.take(attempt, told)
            .inspect_err(|error| self.over = Some(error.clone()))
    }

    /// Waits for news, or until something is to be done.
    async fn wait(&mut self) -> Option<(u64, Told)> {
        let clock = Arc::clone(&self.cluster.shared.config.clock);
        let due = self.parts.values().filter_map(Part::due).min();
        let pause = async {
            match due {
                Some(due) => clock.sleep(due.saturating_sub(clock.now())).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            biased;
            told = self.told.recv() => told,
            () = self.wake.notified() => None,
            () = pause => None,
        }
    }

    fn restart_what_missed_something(&mut self) {
        for part in self.parts.values_mut() {
            if part.attempt().is_some_and(|attempt| attempt.missed.is_marked()) {
                // There is room now: what the queue held has been handed out.
                part.state = State::Waiting {
                    until: Duration::ZERO,
                };
            }
        }
    }

    async fn start_what_is_due(&mut self) {
        let now = self.now();
        let is_due = |part: &&Part| part.due().is_some_and(|due| due <= now);
        let due: Vec<Bytes> = self
            .parts
            .values()
            .filter(is_due)
            .map(|part| part.range.start.clone())
            .collect();
        for start in due {
            self.start(&start).await;
        }
    }

    /// Starts the part that begins with a key on the host that is taken for its shard's home.
    async fn start(&mut self, start: &Bytes) {
        let now = self.now();
        let Some(part) = self.parts.get_mut(start) else {
            return;
        };
        let (mut shard, seen) = self.cluster.routes.shard_of(start);
        if matches!(part.state, State::Starting { .. }) {
            self.last_cause = "no answer within the time limit".to_owned();
            part.retry(now);
            return;
        }
        if part.failures > 1 {
            // Nobody has said where to go: the map may know by now.
            if let Err(setback) = self.cluster.refresh(seen).await {
                self.last_cause = setback.cause;
            }
            (shard, _) = self.cluster.routes.shard_of(start);
        }
        self.cut(start, &shard);
        if let Err(setback) = self.ask(start, &shard) {
            self.last_cause = setback.cause;
            let now = self.now();
            if let Some(part) = self.parts.get_mut(start) {
                part.retry(now);
            }
        }
    }

    /// Cuts a part where its shard ends.
    fn cut(&mut self, start: &Bytes, shard: &Shard) {
        let Some(part) = self.parts.get_mut(start) else {
            return;
        };
        let ends_here = shard.end.is_empty() || !part.range.end.is_empty() && part.range.end <= shard.end;
        if ends_here {
            return;
        }
        let rest = KeyRange {
            start: shard.end.clone(),
            end: std::mem::replace(&mut part.range.end, shard.end.clone()),
        };
        let rest = Part::new(rest, part.after, Backoff::new(&self.cluster.shared));
        self.parts.insert(rest.range.start.clone(), rest);
    }

    fn ask(&mut self, start: &Bytes, shard: &Arc<Shard>) -> Result<(), Setback> {
        let shared = &self.cluster.shared;
        let Some(part) = self.parts.get_mut(start) else {
            return Ok(());
        };
        let address =
            address(shard, part.failures).ok_or_else(|| Setback::host_failed("no host is known"))?;
        let channel = || Ok(self.cluster.pool.link(&address)?.channel());
        let stream = self.cluster.watches.to(&address, shared, channel)?;
        self.next_attempt += 1;
        let number = self.next_attempt;
        let missed = Missed::new(Arc::clone(&self.wake));
        let listener = Listener {
            attempt: number,
            queue: self.queue.clone(),
            missed: missed.clone(),
        };
        let call = StartWatch {
            shard_id: shard.id,
            r#gen: shard.generation,
            start: part.range.start.clone(),
            end: part.range.end.clone(),
            previous: self.with_previous,
            from: Some(part.after.map_or(From::Now(true), From::After)),
        };
        let id = stream.start(call, listener)?;
        self.attempts.retain(|_, first| first != start);
        self.attempts.insert(number, start.clone());
        part.shard_id = shard.id;
        part.state = State::Starting {
            attempt: Attempt {
                number,
                missed,
                stream,
                id,
            },
            until: shared.config.clock.now() + shared.config.retry.attempt_timeout,
        };
        Ok(())
    }

    /// What an attempt tells. That of an earlier one does not count any more.
    fn take(&mut self, attempt: u64, told: Told) -> Result<Option<WatchUpdate>, WatchError> {
        let now = self.now();
        let part = self
            .attempts
            .get(&attempt)
            .and_then(|start| self.parts.get_mut(start));
        let current = |part: &&mut Part| part.attempt().is_some_and(|current| current.number == attempt);
        let Some(part) = part.filter(current) else {
            return Ok(None);
        };
        let (setback, oldest) = match told {
            Told::Started(revision) => {
                part.start(revision, Backoff::new(&self.cluster.shared));
                return Ok(None);
            }
            Told::Events(events) => return Ok(part.update(events)),
            Told::Ended(setback, oldest) => (setback, oldest),
            Told::Lost(setback) => (setback, 0),
        };
        self.last_cause.clone_from(&setback.cause);
        match setback.kind {
            Kind::Refused(refusal) => return Err(WatchError::refused(refusal, setback.cause, oldest)),
            Kind::NotHome(Some(home)) => {
                let (shard, _) = self.cluster.routes.shard_of(&part.range.start);
                self.cluster
                    .routes
                    .correct_home(shard.id, shard.generation, &home.address);
            }
            // The map is asked for.
            _ => part.failures = part.failures.max(1),
        }
        part.retry(now);
        Ok(None)
    }

    fn now(&self) -> Duration {
        self.cluster.shared.config.clock.now()
    }
}

impl Part {
    /// Events as an update, without what was told before.
    fn update(&mut self, told: WatchEvents) -> Option<WatchUpdate> {
        let after = self.after.unwrap_or(0);
        if told.revision <= after {
            return None;
        }
        self.after = Some(told.revision);
        let events = told.events.into_iter().filter_map(|event| {
            let pair = event.pair.filter(|pair| pair.mod_revision > after)?;
            let previous = event.previous;
            Some(Event { pair, previous })
        });
        Some(WatchUpdate {
            part: self.range.start.clone(),
            shard_id: self.shard_id,
            events: events.collect(),
            revision: told.revision,
        })
    }
}

/// The host to ask: the home, or where that is not known or was of no use each replica in turn.
fn address(shard: &Shard, failures: usize) -> Option<Arc<str>> {
    match &shard.home {
        Some(home) if failures.is_multiple_of(2) || shard.replicas.is_empty() => Some(Arc::clone(home)),
        _ => shard
            .replicas
            .get((failures / 2) % shard.replicas.len().max(1))
            .cloned(),
    }
}

/// The parts that a watch begins with, or why there is no such watch.
fn first_parts(
    cluster: &Cluster,
    range: &KeyRange,
    from: WatchFrom,
) -> Result<Vec<(KeyRange, Option<u64>)>, &'static str> {
    if !range.end.is_empty() && range.end <= range.start {
        return Err("the range has no keys");
    }
    match from {
        WatchFrom::Now => Ok(vec![(range.clone(), None)]),
        WatchFrom::After(after) => {
            let (shard, _) = cluster.routes.shard_of(&range.start);
            let shard = KeyRange {
                start: shard.start.clone(),
                end: shard.end.clone(),
            };
            match common(range, &shard).as_ref() == Some(range) {
                true => Ok(vec![(range.clone(), Some(after))]),
                false => Err("the range lies in several shards, and each counts revisions of its own"),
            }
        }
        WatchFrom::Position(position) => {
            let parts = position.within(range);
            let parts = parts.ok_or("the position does not cover the range")?;
            Ok(parts
                .into_iter()
                .map(|(range, after)| (range, Some(after)))
                .collect())
        }
    }
}

impl std::fmt::Debug for Watch {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Watch")
            .field("position", &self.position())
            .field("over", &self.over)
            .finish_non_exhaustive()
    }
}
