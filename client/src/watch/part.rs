//! One part of a watch: keys of one shard, and how far they have been told.

use std::{sync::Arc, time::Duration};

use super::{attempt::Missed, stream::WatchStream};
use crate::{operation::KeyRange, retry::Backoff};

/// A part and what is being done about it.
pub(super) struct Part {
    pub(super) range: KeyRange,
    /// The shard that it was told of last; 0: none yet.
    pub(super) shard_id: u64,
    /// Told up to here; `None`: it begins with what comes.
    pub(super) after: Option<u64>,
    pub(super) state: State,
    pub(super) backoff: Backoff,
    /// Attempts since the last one that was told anything.
    pub(super) failures: usize,
}

/// Whether a part is told.
pub(super) enum State {
    /// To be started, on the client's clock.
    Waiting { until: Duration },
    /// Asked for, with a time limit.
    Starting { attempt: Attempt, until: Duration },
    /// Told by a host.
    Running { attempt: Attempt },
}

/// A watch on a host's stream, which ends when this is dropped.
pub(super) struct Attempt {
    pub(super) number: u64,
    pub(super) missed: Missed,
    pub(super) stream: Arc<WatchStream>,
    pub(super) id: u64,
}

impl Drop for Attempt {
    fn drop(&mut self) {
        self.stream.stop(self.id);
    }
}

impl Part {
    pub(super) fn new(range: KeyRange, after: Option<u64>, backoff: Backoff) -> Self {
        Self {
            range,
            shard_id: 0,
            after,
            state: State::Waiting {
                until: Duration::ZERO,
            },
            backoff,
            failures: 0,
        }
    }

    pub(super) fn attempt(&self) -> Option<&Attempt> {
        match &self.state {
            State::Waiting { .. } => None,
            State::Starting { attempt, .. } | State::Running { attempt } => Some(attempt),
        }
    }

    pub(super) fn is_running(&self) -> bool {
        matches!(self.state, State::Running { .. })
    }

    /// When something is to be done about it, on the client's clock.
    pub(super) fn due(&self) -> Option<Duration> {
        match &self.state {
            State::Waiting { until } | State::Starting { until, .. } => Some(*until),
            State::Running { .. } => None,
        }
    }

    /// The host tells it.
    pub(super) fn start(&mut self, revision: u64, backoff: Backoff) {
        self.after.get_or_insert(revision);
        self.failures = 0;
        self.backoff = backoff;
        let waiting = State::Waiting {
            until: Duration::ZERO,
        };
        self.state = match std::mem::replace(&mut self.state, waiting) {
            State::Starting { attempt, .. } => State::Running { attempt },
            other => other,
        };
    }

    /// To be started again, after a pause.
    pub(super) fn retry(&mut self, now: Duration) {
        let pause = match self.failures {
            // A home that has just moved is told of at once.
            0 => Duration::ZERO,
            _ => self.backoff.next(),
        };
        self.failures += 1;
        self.state = State::Waiting { until: now + pause };
    }
}
