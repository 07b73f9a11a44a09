//! Answers on their way to one client.
//!
//! Whoever answers never waits for the client: a shard's turn answers many clients, and a slow one must not hold up the
//! rest. Instead a client that leaves answers unread is not read from any more.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use client::proto::{Reply, ServerFrame};
use futures_util::{Stream, stream};
use tokio::sync::{Notify, mpsc};
use tonic::Status;

/// Requests of one client that are unanswered, or whose answers are unread, beyond which no more are read.
const UNREAD_MAX: usize = 8 * 1024;
/// Batches of answers in one frame.
const FRAME_BATCHES_MAX: usize = 256;

/// Where answers go.
#[derive(Clone)]
pub(crate) struct Replies(mpsc::UnboundedSender<Vec<Reply>>);

impl Replies {
    /// A way for answers, and where they come out.
    pub(crate) fn channel() -> (Self, mpsc::UnboundedReceiver<Vec<Reply>>) {
        let (sender, queue) = mpsc::unbounded_channel();
        (Self(sender), queue)
    }

    /// Answers. A client that has gone hears nothing.
    pub(crate) fn send(&self, replies: Vec<Reply>) {
        if !replies.is_empty() {
            drop(self.0.send(replies));
        }
    }
}

/// How many requests of a client are unanswered or their answers unread.
#[derive(Clone, Default)]
pub(crate) struct Unread(Arc<Count>);

#[derive(Default)]
struct Count {
    requests: AtomicUsize,
    fewer: Notify,
}

impl Unread {
    /// Counts requests that were read.
    pub(crate) fn add(&self, requests: usize) {
        self.0.requests.fetch_add(requests, Ordering::Relaxed);
    }

    fn remove(&self, replies: usize) {
        self.0.requests.fetch_sub(replies, Ordering::Relaxed);
        self.0.fewer.notify_one();
    }

    /// Waits until the client may be read from.
    pub(crate) async fn room(&self) {
        while self.0.requests.load(Ordering::Relaxed) >= UNREAD_MAX {
            // A notification that comes before this one waits is kept for it: there is one who waits.
            self.0.fewer.notified().await;
        }
    }
}

/// The frames that answer a client: as many answers in each as are ready.
pub(crate) fn frames(
    queue: mpsc::UnboundedReceiver<Vec<Reply>>,
    unread: Unread,
) -> impl Stream<Item = Result<ServerFrame, Status>> {
    stream::unfold(queue, move |mut queue| {
        let unread = unread.clone();
        async move {
            let mut batches = Vec::new();
            let received = queue.recv_many(&mut batches, FRAME_BATCHES_MAX).await;
            if received == 0 {
                return None;
            }
            let replies = match received {
                1 => batches.pop().unwrap_or_default(),
                _ => batches.into_iter().flatten().collect(),
            };
            unread.remove(replies.len());
            tracing::trace!(target: "godwit::steps", count = replies.len() as u64, "replies sent");
            Some((Ok(ServerFrame { replies }), queue))
        }
    })
}

#[cfg(test)]
mod tests {
    use futures_util::{FutureExt, StreamExt};

    use super::*;

    fn replies(ids: std::ops::Range<u64>) -> Vec<Reply> {
        ids.map(|id| Reply {
            id,
            ..Reply::default()
        })
        .collect()
    }

    #[tokio::test]
    async fn what_is_ready_travels_together() {
        let (sender, queue) = Replies::channel();
        let unread = Unread::default();
        unread.add(5);
        sender.send(Vec::new());
        sender.send(replies(0..2));
        sender.send(replies(2..5));
        let mut frames = std::pin::pin!(frames(queue, unread));
        let frame = frames.next().await.expect("a frame").expect("no error");
        let ids: Vec<u64> = frame.replies.iter().map(|reply| reply.id).collect();
        assert_eq!(ids, [0, 1, 2, 3, 4]);
        assert!(frames.next().now_or_never().is_none());
        drop(sender);
        assert!(frames.next().await.is_none());
    }

    #[tokio::test]
    async fn a_client_that_does_not_read_is_not_read_from() {
        let (sender, queue) = Replies::channel();
        let unread = Unread::default();
        unread.add(UNREAD_MAX);
        assert!(unread.room().now_or_never().is_none());
        sender.send(replies(0..1));
        let mut frames = std::pin::pin!(frames(queue, unread.clone()));
        assert!(unread.room().now_or_never().is_none(), "the answer is unread");
        let waiting = tokio::spawn({
            let unread = unread.clone();
            async move { unread.room().await }
        });
        tokio::task::yield_now().await;
        frames.next().await.expect("a frame").expect("no error");
        waiting.await.expect("no panic");
    }
}
