//! What one attempt to watch a part is told, and how that reaches its watch.

use std::sync::{
    Arc,
    atomic::{AtomicBool, Ordering},
};

use tokio::sync::{Notify, mpsc};

use crate::{
    proto::{Error, WatchEnded, WatchEvents, watch_reply::Reply},
    setback::Setback,
};

/// News of one attempt.
#[derive(Debug)]
pub(super) enum Told {
    /// The host tells from this revision on.
    Started(u64),
    /// Changes.
    Events(WatchEvents),
    /// The attempt is over, by the host's word; and the oldest revision to start after, where others were forgotten.
    Ended(Setback, u64),
    /// The stream has ended.
    Lost(Setback),
}

impl From<Reply> for Told {
    fn from(reply: Reply) -> Self {
        match reply {
            Reply::Started(started) => Self::Started(started.revision),
            Reply::Events(events) => Self::Events(events),
            Reply::Ended(WatchEnded { error, oldest }) => {
                let error = error.unwrap_or_else(Error::default);
                Self::Ended(error.into(), oldest)
            }
        }
    }
}

/// Where the news of an attempt go: the queue of its watch.
#[derive(Debug, Clone)]
pub(super) struct Listener {
    pub(super) attempt: u64,
    pub(super) queue: mpsc::Sender<(u64, Told)>,
    pub(super) missed: Missed,
}

impl Listener {
    /// False: there was no room, or nobody listens; the attempt is over.
    pub(super) fn tell(&self, told: Told) -> bool {
        let is_told = self.queue.try_send((self.attempt, told)).is_ok();
        if !is_told {
            self.missed.mark();
        }
        is_told
    }
}

/// Whether news of an attempt were dropped because its watch's queue was full.
#[derive(Debug, Clone)]
pub(super) struct Missed {
    flag: Arc<AtomicBool>,
    wake: Arc<Notify>,
}

impl Missed {
    /// Of an attempt whose watch waits on `wake`.
    pub(super) fn new(wake: Arc<Notify>) -> Self {
        Self {
            flag: Arc::default(),
            wake,
        }
    }

    fn mark(&self) {
        self.flag.store(true, Ordering::Release);
        self.wake.notify_one();
    }

    pub(super) fn is_marked(&self) -> bool {
        self.flag.load(Ordering::Acquire)
    }
}
