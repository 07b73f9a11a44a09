//! What one client's watches are told, on its way there.
//!
//! It has room for so many bytes. Whoever tells many clients offers, and goes on where there is no room; whoever tells one
//! waits for room. Room comes back when HTTP/2 takes a frame, which it does as fast as the client reads.

use std::sync::Arc;

use client::proto::watch_reply::Reply;
use client::proto::{Error, WatchEnded, WatchReplies, WatchReply, WatchStarted};
use futures_util::{Stream, stream};
use prost::Message;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};
use tonic::Status;

/// Replies in one frame, at most.
const FRAME_REPLIES_MAX: usize = 256;
/// What a reply takes beside its encoded length, in bytes, roughly.
const REPLY_OVERHEAD_BYTES: usize = 128;

/// The way to one client.
#[derive(Debug, Clone)]
pub(crate) struct Outbox {
    queue: mpsc::UnboundedSender<Queued>,
    room: Arc<Semaphore>,
    bytes_max: u32,
}

#[derive(Debug)]
struct Queued {
    reply: WatchReply,
    /// Given back when the reply leaves.
    _room: Option<OwnedSemaphorePermit>,
}

/// Where the replies come out.
pub(crate) struct Outgoing(mpsc::UnboundedReceiver<Queued>);

impl Outbox {
    /// A way with room for `bytes_max` bytes; a single larger reply has room when there is nothing else.
    pub(crate) fn new(bytes_max: u64) -> (Self, Outgoing) {
        let (queue, outgoing) = mpsc::unbounded_channel();
        let most = u32::try_from(Semaphore::MAX_PERMITS).unwrap_or(u32::MAX);
        let bytes_max = u32::try_from(bytes_max).unwrap_or(most).clamp(1, most);
        let outbox = Self {
            queue,
            room: Arc::new(Semaphore::new(bytes_max as usize)),
            bytes_max,
        };
        (outbox, Outgoing(outgoing))
    }

    /// Sends if there is room; false: there is none, or the client has gone.
    pub(super) fn offer(&self, reply: WatchReply) -> bool {
        let room = self.room.clone().try_acquire_many_owned(self.cost(&reply));
        room.is_ok_and(|room| self.queue(reply, Some(room)))
    }

    /// Sends as soon as there is room; false: the client has gone.
    pub(super) async fn send(&self, reply: WatchReply) -> bool {
        let acquiring = self.room.clone().acquire_many_owned(self.cost(&reply));
        tokio::select! {
            () = self.queue.closed() => false,
            room = acquiring => room.is_ok_and(|room| self.queue(reply, Some(room))),
        }
    }

    /// Says where a watch starts; small, and one a watch, so it needs no room.
    pub(super) fn started(&self, id: u64, revision: u64) {
        let reply = Reply::Started(WatchStarted { revision });
        self.queue(
            WatchReply {
                id,
                reply: Some(reply),
            },
            None,
        );
    }

    /// Says that a watch is over; small, and one a watch, so it needs no room.
    pub(crate) fn ended(&self, id: u64, error: Error, oldest: u64) {
        let reply = Reply::Ended(WatchEnded {
            error: Some(error),
            oldest,
        });
        self.queue(
            WatchReply {
                id,
                reply: Some(reply),
            },
            None,
        );
    }

    /// Completes when the client has gone.
    pub(crate) async fn gone(&self) {
        self.queue.closed().await;
    }

    fn queue(&self, reply: WatchReply, room: Option<OwnedSemaphorePermit>) -> bool {
        self.queue.send(Queued { reply, _room: room }).is_ok()
    }

    fn cost(&self, reply: &WatchReply) -> u32 {
        let bytes = reply.encoded_len() + REPLY_OVERHEAD_BYTES;
        u32::try_from(bytes).unwrap_or(u32::MAX).min(self.bytes_max)
    }
}

/// The frames for a client: as many replies in each as are ready.
pub(crate) fn replies(outgoing: Outgoing) -> impl Stream<Item = Result<WatchReplies, Status>> {
    stream::unfold(outgoing.0, |mut queue| async move {
        let mut ready = Vec::new();
        if queue.recv_many(&mut ready, FRAME_REPLIES_MAX).await == 0 {
            return None;
        }
        let replies = ready.into_iter().map(|queued| queued.reply).collect();
        Some((Ok(WatchReplies { replies }), queue))
    })
}

#[cfg(test)]
mod tests {
    use client::proto::WatchEvents;
    use futures_util::{FutureExt, StreamExt};

    use super::*;

    fn told(id: u64) -> WatchReply {
        let events = WatchEvents {
            events: Vec::new(),
            revision: 1,
        };
        WatchReply {
            id,
            reply: Some(Reply::Events(events)),
        }
    }

    #[tokio::test]
    async fn a_full_way_takes_no_offer_and_has_room_once_it_is_read() {
        let (outbox, outgoing) = Outbox::new(300);
        let mut frames = std::pin::pin!(replies(outgoing));
        assert!(outbox.offer(told(1)) && outbox.offer(told(2)));
        assert!(!outbox.offer(told(3)), "no room for a third");
        outbox.started(4, 9);
        assert!(outbox.send(told(5)).now_or_never().is_none());
        let frame = frames.next().await.unwrap().unwrap();
        let ids: Vec<u64> = frame.replies.iter().map(|reply| reply.id).collect();
        assert_eq!(ids, [1, 2, 4]);
        assert!(outbox.send(told(5)).await);
    }

    #[tokio::test]
    async fn a_client_that_has_gone_is_noticed() {
        let (outbox, outgoing) = Outbox::new(1);
        assert!(outbox.send(told(1)).await, "larger than the way, which is empty");
        let waiting = outbox.send(told(2));
        drop(outgoing);
        assert!(!waiting.await);
        assert!(!outbox.offer(told(3)));
    }
}
