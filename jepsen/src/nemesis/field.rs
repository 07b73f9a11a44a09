//! What faults work on: the cluster, the chance, and the books of who holds what.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Mutex, MutexGuard};
use std::time::Duration;

use super::Tally;
use crate::events::Happening;
use crate::generate::Chance;
use crate::process::{Cluster, Layout};
use crate::record::Recorder;

/// One torment's state. Locks are held for a moment each, never across an await.
#[derive(Debug)]
pub(super) struct Field<'a> {
    pub(super) cluster: &'a Cluster,
    recorder: &'a Recorder,
    books: Mutex<Books>,
}

#[derive(Debug)]
struct Books {
    chance: Chance,
    tally: BTreeMap<String, u64>,
    /// Faults that hold.
    open: BTreeSet<String>,
    /// Hosts that a fault has stopped, or is about to.
    taken: BTreeSet<usize>,
    /// Whether some host's disk is struck: never two at a time.
    disk_taken: bool,
}

impl<'a> Field<'a> {
    pub(super) fn new(cluster: &'a Cluster, recorder: &'a Recorder, seed: u64) -> Self {
        let books = Books {
            chance: Chance::new(seed),
            tally: BTreeMap::new(),
            open: BTreeSet::new(),
            taken: BTreeSet::new(),
            disk_taken: false,
        };
        Self {
            cluster,
            recorder,
            books: Mutex::new(books),
        }
    }

    /// Takes down that a fault begins. To be called before it can be felt.
    pub(super) fn begin(&self, name: &str, targets: Vec<String>) {
        self.books().open.insert(name.to_owned());
        self.recorder.event(Happening::FaultStart {
            fault: name.to_owned(),
            targets,
        });
    }

    /// Takes down that a fault is over.
    pub(super) fn end(&self, name: &str) {
        if self.books().open.remove(name) {
            self.recorder.event(Happening::FaultStop {
                fault: name.to_owned(),
            });
        }
    }

    /// Ends what is still open.
    pub(super) fn end_all(&self) {
        let open = self.books().open.clone();
        open.iter().for_each(|name| self.end(name));
    }

    pub(super) fn is_open(&self, name: &str) -> bool {
        self.books().open.contains(name)
    }

    /// Counts that it happened.
    pub(super) fn count(&self, name: &str) {
        *self.books().tally.entry(name.to_owned()).or_default() += 1;
    }

    pub(super) fn counted(&self, name: &str) -> u64 {
        self.books().tally.get(name).copied().unwrap_or(0)
    }

    pub(super) fn tally(&self) -> Tally {
        Tally(self.books().tally.clone())
    }

    /// A number below `bound`.
    pub(super) fn below(&self, bound: u64) -> u64 {
        self.chance(|chance| chance.below(bound))
    }

    /// A number of an index's range.
    pub(super) fn index(&self, length: usize) -> usize {
        usize::try_from(self.below(length as u64)).unwrap_or(0)
    }

    /// One of these.
    pub(super) fn pick<T: Clone>(&self, from: &[T]) -> Option<T> {
        from.get(self.index(from.len())).cloned()
    }

    /// In a new order.
    pub(super) fn shuffled<T>(&self, items: Vec<T>) -> Vec<T> {
        self.chance(|chance| shuffled(chance, items))
    }

    /// Draws.
    pub(super) fn chance<T>(&self, draw: impl FnOnce(&mut Chance) -> T) -> T {
        draw(&mut self.books().chance)
    }

    /// A time of at least `range.0` ms, and up to `range.1` ms more.
    pub(super) fn length(&self, range: (u64, u64)) -> Duration {
        Duration::from_millis(range.0 + self.below(range.1))
    }

    /// Rests for a drawn time.
    pub(super) async fn pause(&self, range: (u64, u64)) {
        tokio::time::sleep(self.length(range)).await;
    }

    /// Takes up to `count` of these hosts, such as run and are free.
    pub(super) fn take(&self, candidates: &[usize], count: usize) -> Vec<usize> {
        let running = self.cluster.running();
        let candidates = self.shuffled(candidates.to_vec());
        let mut books = self.books();
        let free = candidates
            .into_iter()
            .filter(|host| running.contains(host) && !books.taken.contains(host));
        let taken: Vec<usize> = free.take(count).collect();
        books.taken.extend(&taken);
        taken
    }

    /// Takes one host, if it runs and is free.
    pub(super) fn take_one(&self, candidates: &[usize]) -> Option<usize> {
        self.take(candidates, 1).pop()
    }

    pub(super) fn release(&self, hosts: &[usize]) {
        let mut books = self.books();
        books.taken.retain(|host| !hosts.contains(host));
    }

    /// Starts hosts that may have written what they read wrong, and ended since, unless some fault holds them.
    pub(super) fn revive_doubted(&self) -> anyhow::Result<()> {
        let taken = self.books().taken.clone();
        self.cluster.revive_doubted(|host| !taken.contains(&host))
    }

    /// Whether this fault is now the one that may strike a disk.
    pub(super) fn take_disk(&self) -> bool {
        !std::mem::replace(&mut self.books().disk_taken, true)
    }

    pub(super) fn release_disk(&self) {
        self.books().disk_taken = false;
    }

    /// How many hosts are less than half of all.
    pub(super) fn minority(&self) -> usize {
        (self.cluster.numbers().len().saturating_sub(1)) / 2
    }

    /// What the cluster says of itself; `None`: it says nothing at the moment.
    pub(super) async fn layout(&self) -> Option<Layout> {
        self.cluster.layout().await.ok()
    }

    fn books(&self) -> MutexGuard<'_, Books> {
        self.books.lock().expect("no panic with the lock held")
    }
}

/// The items in an order that is drawn.
pub(super) fn shuffled<T>(chance: &mut Chance, mut items: Vec<T>) -> Vec<T> {
    for last in (1..items.len()).rev() {
        let other = chance.below(last as u64 + 1);
        items.swap(last, usize::try_from(other).unwrap_or(0));
    }
    items
}

/// A host's name in events.
pub(super) fn host_name(number: usize) -> String {
    format!("h{number}")
}

/// Their names in events.
pub(super) fn host_names(numbers: &[usize]) -> Vec<String> {
    numbers.iter().map(|number| host_name(*number)).collect()
}
