//! One shard's watches on this host.
//!
//! `position` is how far all watches that keep up have been told. A watch that is ahead of it, which asked for what is to
//! come, is told nothing up to where it starts.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard};

use client::KeyRange;
use client::proto::{Code, Error, Event};
use storage::seeded_bug;
use storage::shard::{ChangePage, ShardRange};
use tokio::sync::watch;

use super::event::told;
use super::outbox::Outbox;
use super::ranges::Ranges;
use crate::service::problem;

/// A watch of one range.
#[derive(Debug, Clone)]
pub(super) struct Watch {
    /// The client's number for it.
    pub(super) id: u64,
    pub(super) range: KeyRange,
    pub(super) with_previous: bool,
    pub(super) outbox: Outbox,
    /// Told up to here, or nothing before.
    pub(super) after: u64,
    /// The version of the shard's range, when the range was found to hold all that is watched.
    pub(super) generation: u64,
}

/// The watches of one shard.
#[derive(Clone)]
pub(crate) struct Feed {
    shared: Arc<Shared>,
}

struct Shared {
    /// The shard's revision, whenever it changes.
    revision: watch::Sender<u64>,
    inner: Mutex<Inner>,
}

#[derive(Default)]
struct Inner {
    next: u64,
    position: u64,
    is_pumped: bool,
    /// Those that keep up.
    watches: BTreeMap<u64, Watch>,
    ranges: Ranges,
    with_previous: usize,
    /// Those that are behind; each has a task that holds it.
    behind: BTreeSet<u64>,
    /// The version of the shard's range, as far as those that keep up have been told.
    generation: u64,
}

impl Feed {
    /// Of a shard that has no watches yet.
    pub(crate) fn new(revision: u64) -> Self {
        let shared = Shared {
            revision: watch::Sender::new(revision),
            inner: Mutex::default(),
        };
        Self {
            shared: Arc::new(shared),
        }
    }

    /// Takes note that the shard has come to a revision.
    pub(crate) fn advance(&self, revision: u64) {
        self.shared.revision.send_if_modified(|known| {
            let is_new = revision > *known;
            *known = revision.max(*known);
            is_new
        });
    }

    /// Has whoever pumps look, though the revision may be the same: the shard's range has changed.
    pub(crate) fn look_again(&self) {
        self.shared.revision.send_modify(|_| {});
    }

    /// The shard's revision, whenever it changes.
    pub(super) fn revisions(&self) -> watch::Receiver<u64> {
        self.shared.revision.subscribe()
    }

    fn inner(&self) -> MutexGuard<'_, Inner> {
        self.shared.inner.lock().expect("no holder of this lock panics")
    }

    /// Gives the right to pump back, unless there is somebody to pump for.
    pub(super) fn rest(&self) -> bool {
        let mut inner = self.inner();
        let is_needed = !inner.watches.is_empty() || !inner.behind.is_empty();
        inner.is_pumped = is_needed;
        !is_needed
    }

    /// Adds a watch, and says so to its client before anything else is said to it; until it arrives it is behind. Answers
    /// with its number, and whether its caller is to pump: then from `revision` on, which the shard has come to. All in one
    /// step, or the pump could rest between the two.
    pub(super) fn join(&self, watch: &Watch, revision: u64) -> (u64, bool) {
        let mut inner = self.inner();
        inner.next += 1;
        let number = inner.next;
        inner.behind.insert(number);
        watch.outbox.started(watch.id, watch.after);
        let must_pump = !inner.is_pumped;
        if must_pump {
            inner.is_pumped = true;
            inner.position = revision;
            inner.generation = watch.generation;
        }
        (number, must_pump)
    }

    /// Counts a watch that was behind among those that keep up, if it has been told all that they have.
    pub(super) fn arrive(&self, number: u64, watch: &Watch) -> bool {
        self.inner().arrive(number, watch)
    }

    /// Whether a watch that is behind is still wanted.
    pub(super) fn is_behind(&self, number: u64) -> bool {
        self.inner().behind.contains(&number)
    }

    /// Whether a watch is still wanted.
    pub(super) fn has(&self, number: u64) -> bool {
        let inner = self.inner();
        inner.watches.contains_key(&number) || inner.behind.contains(&number)
    }

    /// How many watches there are.
    pub(crate) fn count(&self) -> usize {
        let inner = self.inner();
        inner.watches.len() + inner.behind.len()
    }

    /// Ends a watch without a word to its client.
    pub(super) fn stop(&self, number: u64) {
        let mut inner = self.inner();
        inner.remove(number);
        inner.behind.remove(&number);
    }

    /// Ends all watches that keep up; those that are behind end themselves.
    pub(super) fn end_all(&self, error: &Error) {
        let watches: Vec<Watch> = {
            let mut inner = self.inner();
            let numbers: Vec<u64> = inner.watches.keys().copied().collect();
            numbers
                .into_iter()
                .filter_map(|number| inner.remove(number))
                .collect()
        };
        for watch in watches {
            watch.outbox.ended(watch.id, error.clone(), 0);
        }
    }

    /// Ends every watch, and begins anew at a revision: the shard is frozen, or has absorbed another, whose changes were
    /// counted apart. Whoever watches goes on from where it was, each part of the range by its own numbers.
    pub(crate) fn begin_anew(&self, revision: u64) {
        self.end_all(&range_changed());
        self.inner().position = revision;
        self.advance(revision);
    }

    /// How far those that keep up have been told, and whether one of them asks for what was before.
    pub(super) fn position(&self) -> (u64, bool) {
        let inner = self.inner();
        (inner.position, inner.with_previous > 0)
    }

    /// Tells a page of changes, which begins where the last one ended; `events` are the page's. The watches that have no
    /// room for theirs are behind from then on. `None`: meanwhile somebody came who asks for what was before, and the
    /// events have to be made again.
    pub(super) fn tell(
        &self,
        page: &ChangePage,
        events: Vec<Event>,
        have_previous: bool,
    ) -> Option<Vec<(u64, Watch)>> {
        let mut inner = self.inner();
        if inner.with_previous > 0 && !have_previous {
            return None;
        }
        if page.range.r#gen != inner.generation {
            inner.generation = page.range.r#gen;
            inner.end_outside(&page.range);
        }
        let mut told_to: BTreeMap<u64, Vec<Event>> = BTreeMap::new();
        for (change, event) in page.changes.iter().zip(events) {
            for number in inner.ranges.holding(&change.key) {
                let watch = &inner.watches[&number];
                if change.mod_revision > watch.after {
                    let event = watch.view(event.clone());
                    told_to.entry(number).or_default().push(event);
                }
            }
        }
        let before = inner.position;
        inner.position = page.through;
        let mut behind = Vec::new();
        for (number, events) in told_to {
            let Some(watch) = inner.watches.get_mut(&number) else {
                continue;
            };
            if watch.outbox.offer(told(watch.id, events, page.through)) {
                watch.after = page.through;
            } else if let Some(mut watch) = inner.remove(number) {
                watch.after = watch.after.max(before);
                inner.behind.insert(number);
                behind.push((number, watch));
            }
        }
        Some(behind)
    }

    /// Tells everybody who has not heard of it how far they have come.
    pub(super) fn tell_progress(&self) {
        let mut inner = self.inner();
        let position = inner.position;
        for watch in inner.watches.values_mut().filter(|watch| watch.after < position) {
            if watch.outbox.offer(told(watch.id, Vec::new(), position)) {
                watch.after = position;
            }
        }
    }
}

/// What a watch is told whose shard has another range now.
pub(super) fn range_changed() -> Error {
    problem(Code::StaleRoute, "the shard's range has another version")
}

impl Watch {
    /// Whether a range holds all that is watched.
    pub(super) fn is_within(&self, range: &ShardRange) -> bool {
        let end = (!self.range.end.is_empty()).then_some(&self.range.end[..]);
        range.covers(&self.range.start, end)
    }

    fn view(&self, event: Event) -> Event {
        match self.with_previous {
            true => event,
            false => Event {
                previous: None,
                ..event
            },
        }
    }
}

impl Inner {
    fn arrive(&mut self, number: u64, watch: &Watch) -> bool {
        // Seeded bug B21: a watch that was behind keeps up without what the others were told meanwhile.
        let has_arrived = watch.after >= self.position || seeded_bug::is_on("B21");
        // Checked against an older range than the pages are of by now: its own next page tells it.
        let has_arrived = has_arrived && watch.generation >= self.generation;
        if !has_arrived || !self.behind.remove(&number) {
            return false;
        }
        self.ranges.insert(number, &watch.range);
        self.with_previous += usize::from(watch.with_previous);
        self.watches.insert(number, watch.clone());
        true
    }

    /// Ends the watches whose keys the shard does not hold any more: what it tells of them is not all.
    fn end_outside(&mut self, range: &ShardRange) {
        let outside = self.watches.iter().filter(|(_, watch)| !watch.is_within(range));
        let outside: Vec<u64> = outside.map(|(number, _)| *number).collect();
        for watch in outside.into_iter().filter_map(|number| self.remove(number)) {
            watch.outbox.ended(watch.id, range_changed(), 0);
        }
    }

    fn remove(&mut self, number: u64) -> Option<Watch> {
        let watch = self.watches.remove(&number)?;
        self.ranges.remove(number, &watch.range);
        self.with_previous -= usize::from(watch.with_previous);
        Some(watch)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn watch(outbox: &Outbox, after: u64) -> Watch {
        Watch {
            id: 1,
            range: KeyRange::all(),
            with_previous: false,
            outbox: outbox.clone(),
            after,
            generation: 1,
        }
    }

    /// A watch that came while the pump was about to rest would be told nothing for ever.
    #[test]
    fn whoever_finds_nobody_pumping_pumps() {
        let (outbox, _outgoing) = Outbox::new(1 << 20);
        let feed = Feed::new(5);
        let (first, must_pump) = feed.join(&watch(&outbox, 5), 5);
        assert!(
            must_pump && !feed.rest(),
            "one that is behind is somebody to pump for"
        );
        assert!(feed.arrive(first, &watch(&outbox, 5)) && !feed.rest());
        let (second, must_pump) = feed.join(&watch(&outbox, 3), 9);
        assert!(
            !must_pump && !feed.arrive(second, &watch(&outbox, 3)),
            "it has not been told all"
        );
        feed.stop(first);
        feed.stop(second);
        assert!(feed.rest());
        assert!(feed.join(&watch(&outbox, 9), 9).1);
        assert_eq!(feed.position().0, 9);
    }
}
