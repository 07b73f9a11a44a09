//! Counting accesses: every request into the profiler, a sample of them into the access log.
//!
//! The log is written by a task of its own; a request never waits for it. Samples that come faster than the disk takes
//! them are dropped and counted.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use ml::AccessLogEntry;
use placement::ShardId;
use storage::disk::Disk;
use tokio::sync::mpsc;

use super::state::Host;
use crate::profiler::{Access, AccessLog, AccessLogOptions, AccessSampler, Op, OriginId, key_text};

/// Samples waiting for the disk.
const SAMPLES_MAX: usize = 4096;

/// One served request.
#[derive(Debug, Clone, Copy)]
pub(crate) struct AccessOf<'a> {
    pub(crate) shard: ShardId,
    pub(crate) origin: &'a str,
    /// The origin's number, if the caller has asked for it.
    pub(crate) origin_id: Option<OriginId>,
    pub(crate) op: Op,
    pub(crate) by_lease: bool,
    pub(crate) key: &'a [u8],
    pub(crate) user: &'a str,
    pub(crate) bytes: u64,
}

/// Where sampled accesses go.
pub(crate) struct AccessSamples {
    sampler: AccessSampler,
    entries: mpsc::Sender<AccessLogEntry>,
    dropped: AtomicU64,
}

impl AccessSamples {
    fn offer(&self, access: AccessOf<'_>, at_ms: u64) {
        if !self.sampler.pick() {
            return;
        }
        let entry = AccessLogEntry {
            timestamp_ms: at_ms,
            user_id: access.user.to_owned(),
            data_id: key_text(access.key),
            origin: access.origin.to_owned(),
            op: access.op.as_str().to_owned(),
            size: access.bytes,
        };
        if self.entries.try_send(entry).is_err() && self.dropped.fetch_add(1, Ordering::Relaxed) == 0 {
            tracing::warn!("sampled accesses come faster than the disk takes them; dropping some");
        }
    }
}

impl Host {
    /// Counts one served request. `workload_ms` 0 means now.
    pub(crate) fn record_access(&self, access: AccessOf<'_>, workload_ms: u64) {
        let Some(profiler) = self.profiler() else { return };
        let at_ms = if workload_ms == 0 {
            self.now_ms()
        } else {
            workload_ms
        };
        let AccessOf {
            shard,
            origin,
            origin_id,
            op,
            by_lease,
            key,
            user,
            bytes,
        } = access;
        let origin = origin_id.unwrap_or_else(|| profiler.origin(origin));
        profiler.record(Access {
            shard,
            origin,
            op,
            by_lease,
            key,
            user,
            bytes,
            at_ms,
        });
        if let Some(samples) = self.shared.access_samples.get() {
            samples.offer(access, at_ms);
        }
    }

    /// The folder of windows that were collected here.
    pub(crate) fn windows_folder(&self) -> PathBuf {
        self.shared.folder.windows()
    }

    /// Where retraining works.
    pub(crate) fn retraining_folder(&self) -> PathBuf {
        self.shared.folder.retraining()
    }

    /// The disk that the data folder lies on.
    pub(crate) fn disk(&self) -> Arc<dyn Disk> {
        self.shared.env.disk.clone()
    }

    /// Opens the access log and starts its writer. Without a log the host serves all the same.
    pub(crate) fn start_access_log(&self) {
        let config = &self.config().profiler;
        if config.access_log_sample_ppm == 0 {
            return;
        }
        let options = AccessLogOptions {
            bytes_max: config.access_log_bytes_max,
        };
        let opened = AccessLog::open(
            self.shared.env.disk.clone(),
            &self.shared.folder.access_log(),
            options,
        );
        match opened {
            Ok(log) => {
                let (entries, queue) = mpsc::channel(SAMPLES_MAX);
                let seed = self.shared.env.raft.context.next_u64();
                let sampler = AccessSampler::new(seed, config.access_log_sample_ppm);
                let samples = AccessSamples {
                    sampler,
                    entries,
                    dropped: AtomicU64::new(0),
                };
                self.shared.access_samples.get_or_init(|| samples);
                self.spawn(write_samples(self.clone(), log, queue));
            }
            Err(e) => tracing::error!(error = %e, "no access log"),
        }
    }
}

async fn write_samples(host: Host, mut log: AccessLog, mut queue: mpsc::Receiver<AccessLogEntry>) {
    loop {
        let mut entries = Vec::new();
        if queue.recv_many(&mut entries, SAMPLES_MAX).await == 0 {
            return;
        }
        let (back, written) = host
            .shared
            .env
            .raft
            .blocking(move || {
                let written = entries
                    .iter()
                    .try_for_each(|entry| log.append(entry))
                    .and_then(|()| log.flush());
                (log, written)
            })
            .await;
        log = back;
        if let Err(e) = written {
            tracing::warn!(error = %e, "sampled accesses were lost");
        }
    }
}
