//! Pauses between attempts: exponential, with jitter drawn from the client's seed.

use std::time::Duration;

use backon::{BackoffBuilder, ExponentialBuilder};

use crate::shared::Shared;

/// The pauses of one operation.
pub(crate) struct Backoff {
    pauses: <ExponentialBuilder as BackoffBuilder>::Backoff,
    longest: Duration,
}

impl Backoff {
    pub(crate) fn new(shared: &Shared) -> Self {
        let retry = &shared.config.retry;
        let pauses = ExponentialBuilder::new()
            .with_min_delay(retry.backoff_min)
            .with_max_delay(retry.backoff_max)
            .with_jitter()
            .with_jitter_seed(shared.random())
            .without_max_times()
            .build();
        Self {
            pauses,
            longest: retry.backoff_max,
        }
    }

    /// How long to wait before the next attempt.
    pub(crate) fn next(&mut self) -> Duration {
        self.pauses.next().unwrap_or(self.longest)
    }
}
