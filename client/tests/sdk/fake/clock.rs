//! Time that passes only when a test says so.

use std::time::Duration;

use client::{BoxFuture, Clock};
use tokio::sync::watch;

pub(crate) struct ManualClock {
    now: watch::Sender<Duration>,
}

impl Default for ManualClock {
    fn default() -> Self {
        Self {
            now: watch::Sender::new(Duration::ZERO),
        }
    }
}

impl ManualClock {
    pub(crate) fn advance(&self, length: Duration) {
        self.now.send_modify(|now| *now += length);
    }

    /// Lets time pass in steps until `operation` ends. Between the steps everybody else may run.
    pub(crate) async fn drive<F: Future>(&self, step: Duration, operation: F) -> F::Output {
        let mut operation = std::pin::pin!(operation);
        loop {
            tokio::select! {
                biased;
                output = &mut operation => return output,
                () = tokio::task::yield_now() => self.advance(step),
            }
        }
    }
}

impl Clock for ManualClock {
    fn now(&self) -> Duration {
        *self.now.borrow()
    }

    fn sleep(&self, length: Duration) -> BoxFuture<()> {
        let mut time = self.now.subscribe();
        let until = self.now() + length;
        Box::pin(async move {
            // The clock lives as long as the client that sleeps on it.
            let _ = time.wait_for(|now| *now >= until).await;
        })
    }
}
