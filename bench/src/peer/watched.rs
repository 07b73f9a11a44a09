//! Changes that those who make them wait to be told of, by one watch of all keys.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use anyhow::Context;
use bytes::Bytes;
use futures_util::{Stream, StreamExt};
use tokio::sync::oneshot;
use tokio::task::JoinSet;

/// What is told at a time: keys and what they came to hold.
pub(super) type Changes = Vec<(Bytes, Bytes)>;

/// A change that is not told within this will not be.
const PATIENCE: Duration = Duration::from_secs(10);

/// Who waits for which change; `None` once the watch is over.
type Waiters = Option<HashMap<(Bytes, Bytes), Vec<oneshot::Sender<()>>>>;

/// A watch of all keys, and who waits to be told of what by it.
pub(super) struct Watched {
    waiters: Arc<Mutex<Waiters>>,
    /// Reads the watch; ends with this.
    _reading: JoinSet<()>,
}

fn lock(waiters: &Mutex<Waiters>) -> MutexGuard<'_, Waiters> {
    waiters.lock().expect("no holder of this lock panics")
}

impl Watched {
    /// Reads a watch that was made.
    pub(super) fn by(watch: impl Stream<Item = anyhow::Result<Changes>> + Send + 'static) -> Self {
        let waiters = Arc::new(Mutex::new(Some(HashMap::new())));
        let mut reading = JoinSet::new();
        reading.spawn(read(watch, waiters.clone()));
        Self {
            waiters,
            _reading: reading,
        }
    }

    /// Makes a change, and waits until the watch has told of it.
    ///
    /// # Errors
    /// When it cannot be made, or is not told.
    pub(super) async fn tell(
        &self,
        key: Bytes,
        value: Bytes,
        change: impl Future<Output = anyhow::Result<()>>,
    ) -> anyhow::Result<()> {
        let (teller, told) = oneshot::channel();
        lock(&self.waiters)
            .as_mut()
            .context("the watch is over")?
            .entry((key, value))
            .or_default()
            .push(teller);
        change.await?;
        let told = tokio::time::timeout(PATIENCE, told).await;
        told.context("a change was not told")?
            .context("the watch ended first")
    }
}

async fn read(watch: impl Stream<Item = anyhow::Result<Changes>>, waiters: Arc<Mutex<Waiters>>) {
    let mut watch = std::pin::pin!(watch);
    while let Some(Ok(changes)) = watch.next().await {
        let mut waiters = lock(&waiters);
        let Some(waiters) = waiters.as_mut() else { return };
        for change in changes {
            // Two may have written the same: each is told of one.
            if let Some(waiting) = waiters.get_mut(&change) {
                if let Some(teller) = waiting.pop() {
                    // Who gave up does not hear it.
                    let _ = teller.send(());
                }
                if waiting.is_empty() {
                    waiters.remove(&change);
                }
            }
        }
    }
    *lock(&waiters) = None;
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt;
    use tokio::sync::mpsc;
    use tokio_stream::wrappers::UnboundedReceiverStream;

    use super::*;

    fn change(key: &'static str) -> (Bytes, Bytes) {
        (Bytes::from_static(key.as_bytes()), Bytes::from_static(b"value"))
    }

    #[tokio::test(start_paused = true)]
    async fn each_waits_for_its_own_change() {
        let (watch, told) = mpsc::unbounded_channel();
        let watched = Watched::by(UnboundedReceiverStream::new(told));
        let write = |key| {
            let (key, value) = change(key);
            watched.tell(key, value, async { Ok(()) })
        };
        let (mut one, mut same, mut other) =
            (Box::pin(write("a")), Box::pin(write("a")), Box::pin(write("b")));
        for waiting in [&mut one, &mut same, &mut other] {
            assert!(waiting.now_or_never().is_none(), "nothing was told");
        }
        watch.send(Ok(vec![change("c"), change("a")])).unwrap();
        same.await.unwrap();
        watch.send(Ok(vec![change("b"), change("a")])).unwrap();
        one.await.unwrap();
        other.await.unwrap();
        let untold = write("a").await.unwrap_err();
        assert!(untold.to_string().contains("not told"), "{untold:#}");
    }

    #[tokio::test(start_paused = true)]
    async fn nobody_waits_for_a_watch_that_is_over() {
        let (watch, told) = mpsc::unbounded_channel();
        let watched = Watched::by(UnboundedReceiverStream::new(told));
        let (key, value) = change("a");
        let mut waiting = Box::pin(watched.tell(key.clone(), value.clone(), async { Ok(()) }));
        assert!((&mut waiting).now_or_never().is_none());
        watch.send(Err(anyhow::anyhow!("a host is gone"))).unwrap();
        let ended = waiting.await.unwrap_err();
        assert!(ended.to_string().contains("ended first"), "{ended:#}");
        let over = watched.tell(key, value, async { Ok(()) }).await.unwrap_err();
        assert!(over.to_string().contains("is over"), "{over:#}");
    }
}
