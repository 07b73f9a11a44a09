//! Counts of what a client did, for people who watch it: the demo, the load generator, a curious application.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

/// What a client did since it was connected. All its handles count together.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Stats {
    /// Gets begun.
    pub gets: u64,
    /// Pages of scans begun.
    pub scan_pages: u64,
    /// Puts begun.
    pub puts: u64,
    /// Deletes begun.
    pub deletes: u64,
    /// Compare-and-sets begun.
    pub compare_and_sets: u64,
    /// Transactions begun.
    pub transactions: u64,
    /// Operations that ended with an error.
    pub failures: u64,
    /// Among the failures, mutations of which it is not known whether they took effect.
    pub unknown_outcomes: u64,
    /// Attempts after the first, of all operations, redirects included.
    pub retries: u64,
    /// Attempts that went where a host's hint pointed.
    pub redirects: u64,
    /// Shard maps fetched.
    pub refreshes: u64,
    /// Sessions opened on shards.
    pub sessions_opened: u64,
    /// Sessions that a shard had forgotten.
    pub sessions_expired: u64,
    /// Connections begun.
    pub connections: u64,
    /// Frames sent...
    pub frames: u64,
    /// ... and the requests in them: divided, the mean batch.
    pub requests: u64,
}

/// The running counts behind [`Stats`].
#[derive(Debug, Default)]
pub(crate) struct Counters {
    pub(crate) gets: Counter,
    pub(crate) scan_pages: Counter,
    pub(crate) puts: Counter,
    pub(crate) deletes: Counter,
    pub(crate) compare_and_sets: Counter,
    pub(crate) transactions: Counter,
    pub(crate) failures: Counter,
    pub(crate) unknown_outcomes: Counter,
    pub(crate) retries: Counter,
    pub(crate) redirects: Counter,
    pub(crate) refreshes: Counter,
    pub(crate) sessions_opened: Counter,
    pub(crate) sessions_expired: Counter,
    pub(crate) connections: Counter,
    pub(crate) frames: Counter,
    pub(crate) requests: Counter,
}

/// A count that only grows.
#[derive(Debug, Default)]
pub(crate) struct Counter(AtomicU64);

impl Counter {
    pub(crate) fn add(&self, count: u64) {
        self.0.fetch_add(count, Relaxed);
    }

    fn count(&self) -> u64 {
        self.0.load(Relaxed)
    }
}

impl Counters {
    /// The counts now. Not one instant: an operation under way may be in one count and not yet in another.
    pub(crate) fn read(&self) -> Stats {
        Stats {
            gets: self.gets.count(),
            scan_pages: self.scan_pages.count(),
            puts: self.puts.count(),
            deletes: self.deletes.count(),
            compare_and_sets: self.compare_and_sets.count(),
            transactions: self.transactions.count(),
            failures: self.failures.count(),
            unknown_outcomes: self.unknown_outcomes.count(),
            retries: self.retries.count(),
            redirects: self.redirects.count(),
            refreshes: self.refreshes.count(),
            sessions_opened: self.sessions_opened.count(),
            sessions_expired: self.sessions_expired.count(),
            connections: self.connections.count(),
            frames: self.frames.count(),
            requests: self.requests.count(),
        }
    }
}
