//! Snapshots that are put off while a new replica is brought up to date from here.
//!
//! openraft purges the log behind each snapshot that it has taken. A replica that was sent a state goes on with the log behind
//! that state: were it purged meanwhile, the whole state would be sent again, and under load again and again. So a snapshot
//! that is due only for its policy waits until none is being sent, and for a moment after one has arrived. It waits no longer
//! once the host's log has become too long, or somebody asks for the snapshot itself.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use storage::log::LogHub;

use crate::transfers::Transfers;

/// Pause between two looks.
const LOOK_PAUSE: Duration = Duration::from_millis(200);

/// Whether a group's snapshots wait.
pub(crate) struct PutOff {
    group: u64,
    transfers: Transfers,
    log: LogHub,
    is_asked: AtomicBool,
}

impl PutOff {
    pub(crate) fn new(group: u64, transfers: Transfers, log: LogHub) -> Self {
        Self {
            group,
            transfers,
            log,
            is_asked: AtomicBool::new(false),
        }
    }

    /// The next snapshot, or one that waits, is not put off.
    pub(crate) fn ask(&self) {
        self.is_asked.store(true, Ordering::Relaxed);
    }

    /// Waits for as long as a snapshot is put off.
    pub(crate) async fn over(&self) {
        while !self.is_asked.load(Ordering::Relaxed)
            && self.transfers.is_bringing(self.group)
            && self.log.pinning_groups().is_empty()
        {
            tokio::time::sleep(LOOK_PAUSE).await;
        }
        self.is_asked.store(false, Ordering::Relaxed);
    }
}
