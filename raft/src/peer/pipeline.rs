//! Appends to one replica, many in flight, and which of their replies openraft may hear.
//!
//! openraft takes a reply that matches up to entry `m` for the answer to every append in flight that ends at or before
//! `m`, and dates it by the latest of them; reads and leases rest on that date. An append without entries, which only
//! tells of a new commit, ends where the one before it ended. So the reply to an append from before a pause, read after
//! it, would be dated by an empty append sent after it, and a leader deposed during the pause would serve a stale read
//! (openraft 0.10.0-alpha.37, `InflightAppendQueue::drain_acked`; DESIGN section 23).
//!
//! A reply is therefore left out as long as the append behind it ends no later than what the reply matches: that one's
//! own reply says as much, and is dated rightly.
//!
//! An append that only tells of a new commit waits a moment when nothing is in flight: the next entries tell it too, and
//! under load they follow at once, so it need not be sent at all. It is dated by when openraft gave it, which is not later
//! than when it is sent; one that is left out is answered by the reply to the entries behind it.

use std::collections::VecDeque;
use std::future::Future;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use futures_util::{Stream, StreamExt, stream};
use openraft::raft::{AppendEntriesRequest, StreamAppendResult};
use tokio::sync::Notify;

use super::network::Lane;
use crate::types::{LogId, TypeConfig};

/// Bytes of commands in flight to one replica beyond which the next append waits. They must be answered within the time that
/// an append may stay unanswered, also by a replica that is far behind and slow: all that are not are sent again.
const IN_FLIGHT_BYTES_MAX: usize = 8 << 20;

/// An append that was sent.
struct Sent {
    /// The last entry that it sends or builds upon.
    end: Option<LogId>,
    /// Bytes of its commands.
    bytes: usize,
}

/// The appends in flight.
#[derive(Clone, Default)]
struct InFlight(Arc<Window>);

#[derive(Default)]
struct Window {
    /// Oldest first.
    sent: Mutex<VecDeque<Sent>>,
    /// Told when one is answered.
    answered: Notify,
}

impl InFlight {
    fn lock(&self) -> MutexGuard<'_, VecDeque<Sent>> {
        self.0.sent.lock().expect("no panic under this lock")
    }

    fn is_empty(&self) -> bool {
        self.lock().is_empty()
    }

    fn bytes(&self) -> usize {
        self.lock().iter().map(|sent| sent.bytes).sum()
    }

    fn push(&self, request: &AppendEntriesRequest<TypeConfig>) {
        self.lock().push_back(Sent {
            end: last_of(request),
            bytes: command_bytes(request),
        });
    }

    /// Takes the oldest append off. Whether its reply, which matches up to `matching`, says nothing about later ones.
    fn pop(&self, matching: Option<&Option<LogId>>) -> bool {
        let mut sent = self.lock();
        sent.pop_front();
        self.0.answered.notify_one();
        match (matching, sent.front()) {
            (Some(matching), Some(next)) => next.end > *matching,
            _ => true,
        }
    }
}

/// The last entry of an append, or the one it builds upon.
pub(super) fn last_of(request: &AppendEntriesRequest<TypeConfig>) -> Option<LogId> {
    let last = request.entries.last().map(|entry| entry.log_id);
    last.or(request.prev_log_id)
}

/// Bytes of an append's commands.
pub(super) fn command_bytes(request: &AppendEntriesRequest<TypeConfig>) -> usize {
    let commands = request
        .entries
        .iter()
        .filter_map(|entry| entry.payload.command.as_ref());
    commands.map(|command| command.0.len()).sum()
}

/// The same appends, each once there is room for it in flight.
fn within_bytes<'s, S>(
    input: S,
    in_flight: InFlight,
) -> impl Stream<Item = AppendEntriesRequest<TypeConfig>> + Send + 's
where
    S: Stream<Item = AppendEntriesRequest<TypeConfig>> + Send + 's,
{
    stream::unfold(Box::pin(input), move |mut input| {
        let in_flight = in_flight.clone();
        async move {
            // Before it is asked for: it is dated by then.
            while in_flight.bytes() >= IN_FLIGHT_BYTES_MAX {
                in_flight.0.answered.notified().await;
            }
            Some((input.next().await?, input))
        }
    })
}

/// How long an append that only tells of a new commit waits for entries that tell it too.
const COMMIT_PAUSE: Duration = Duration::from_millis(1);

/// The appends that are worth sending.
fn without_idle_commits<'s, S>(
    input: S,
    lane: Lane,
    in_flight: InFlight,
) -> impl Stream<Item = AppendEntriesRequest<TypeConfig>> + Send + 's
where
    S: Stream<Item = AppendEntriesRequest<TypeConfig>> + Send + 's,
{
    // It may end while it is looked at for what follows, and is looked at again then.
    stream::unfold(Box::pin(input.fuse()), move |mut input| {
        let in_flight = in_flight.clone();
        async move {
            let mut request = input.next().await?;
            // A heartbeat asks whether this leader still leads: its answer is waited for.
            while lane == Lane::Append && request.entries.is_empty() && in_flight.is_empty() {
                match tokio::time::timeout(COMMIT_PAUSE, input.next()).await {
                    Ok(Some(next)) => request = next,
                    Ok(None) | Err(_) => break,
                }
            }
            Some((request, input))
        }
    })
}

/// Starts each append as it comes, up to `in_flight_max` of them and some bytes before the first reply, and gives the replies that openraft may
/// hear, in order. The first that is not a success is the last: what was queued behind it is void.
pub(super) fn pipeline<'s, S, F, Reply, E>(
    input: S,
    lane: Lane,
    in_flight_max: usize,
    mut start: F,
) -> impl Stream<Item = Result<StreamAppendResult<TypeConfig>, E>> + Send + 's
where
    S: Stream<Item = AppendEntriesRequest<TypeConfig>> + Send + 's,
    F: FnMut(AppendEntriesRequest<TypeConfig>) -> Reply + Send + 's,
    Reply: Future<Output = Result<StreamAppendResult<TypeConfig>, E>> + Send + 's,
    E: Send + 's,
{
    let in_flight = InFlight::default();
    let sent = in_flight.clone();
    let input = without_idle_commits(input, lane, in_flight.clone());
    let replies = within_bytes(input, in_flight.clone())
        .map(move |request| {
            sent.push(&request);
            start(request)
        })
        .buffered(in_flight_max);
    let dated = replies.filter_map(move |reply| {
        let matching = reply.as_ref().ok().and_then(|result| result.as_ref().ok());
        let heard = in_flight.pop(matching);
        std::future::ready(heard.then_some(reply))
    });
    dated.scan(false, |failed, reply| {
        let item = (!*failed).then_some(reply);
        *failed |= !matches!(item, Some(Ok(Ok(_))));
        std::future::ready(item)
    })
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;

    use futures_util::FutureExt;
    use futures_util::future::BoxFuture;
    use openraft::raft::StreamAppendError;
    use openraft::vote::RaftLeaderId;
    use tokio::sync::{mpsc, oneshot};
    use tokio_stream::wrappers::ReceiverStream;

    use super::*;
    use crate::types::{Command, LeaderId, Payload, Vote};

    type Replied = Result<StreamAppendResult<TypeConfig>, Infallible>;

    fn id(index: u64) -> LogId {
        LogId::new(LeaderId::new(1, 1), index)
    }

    /// The append of entries `from..to`.
    fn append(from: u64, to: u64) -> AppendEntriesRequest<TypeConfig> {
        let entry = |index| openraft::Entry {
            log_id: id(index),
            payload: Payload::default(),
        };
        AppendEntriesRequest {
            vote: Vote::new_committed(1, 1),
            prev_log_id: Some(id(from - 1)),
            entries: (from..to).map(entry).collect(),
            leader_commit: None,
        }
    }

    /// The ends of a pipeline: what openraft feeds, what the network answers, what openraft hears.
    struct Ends {
        requests: mpsc::Sender<AppendEntriesRequest<TypeConfig>>,
        started: mpsc::UnboundedReceiver<oneshot::Sender<Replied>>,
        heard: std::pin::Pin<Box<dyn Stream<Item = Replied> + Send>>,
    }

    impl Ends {
        fn new(lane: Lane) -> Self {
            let (requests, queue) = mpsc::channel(8);
            let (starting, started) = mpsc::unbounded_channel();
            let start = move |_| -> BoxFuture<'static, Replied> {
                let (answer, reply) = oneshot::channel();
                starting.send(answer).unwrap();
                async move { reply.await.unwrap() }.boxed()
            };
            Self {
                requests,
                started,
                heard: Box::pin(pipeline(ReceiverStream::new(queue), lane, 8, start)),
            }
        }

        async fn send(&mut self, request: AppendEntriesRequest<TypeConfig>) -> oneshot::Sender<Replied> {
            self.requests.send(request).await.unwrap();
            assert!(self.heard.next().now_or_never().is_none(), "nothing was answered");
            self.started.recv().await.unwrap()
        }

        fn hear(&mut self) -> Option<Replied> {
            self.heard.next().now_or_never().flatten()
        }
    }

    #[tokio::test]
    async fn a_reply_is_not_heard_while_an_empty_append_behind_it_waits() {
        let mut ends = Ends::new(Lane::Append);
        let first = ends.send(append(1, 3)).await;
        let empty = ends.send(append(3, 3)).await;
        first.send(Ok(Ok(Some(id(2))))).unwrap();
        assert_eq!(ends.hear(), None, "dated by an append that was not answered");
        empty.send(Ok(Ok(Some(id(2))))).unwrap();
        assert_eq!(ends.hear(), Some(Ok(Ok(Some(id(2))))));
    }

    #[tokio::test]
    async fn appends_with_entries_behind_it_hold_nothing_up() {
        let mut ends = Ends::new(Lane::Append);
        let first = ends.send(append(1, 3)).await;
        let second = ends.send(append(3, 5)).await;
        let _empty = ends.send(append(5, 5)).await;
        first.send(Ok(Ok(Some(id(2))))).unwrap();
        assert_eq!(ends.hear(), Some(Ok(Ok(Some(id(2))))));
        // In part: it says nothing of the empty one.
        second.send(Ok(Ok(Some(id(3))))).unwrap();
        assert_eq!(ends.hear(), Some(Ok(Ok(Some(id(3))))));
    }

    /// A replica that is far behind and slow would answer none in time of all that there is for it.
    #[tokio::test]
    async fn appends_wait_for_room_in_bytes() {
        let large = |index| AppendEntriesRequest {
            entries: vec![openraft::Entry {
                log_id: id(index),
                payload: Payload {
                    command: Some(Command(vec![0; IN_FLIGHT_BYTES_MAX / 2].into())),
                    ..Payload::default()
                },
            }],
            ..append(index, index)
        };
        let mut ends = Ends::new(Lane::Append);
        let first = ends.send(large(1)).await;
        let _second = ends.send(large(2)).await;
        ends.requests.send(large(3)).await.unwrap();
        assert_eq!(ends.hear(), None);
        assert!(ends.started.try_recv().is_err(), "there is no room");
        first.send(Ok(Ok(Some(id(1))))).unwrap();
        assert_eq!(ends.hear(), Some(Ok(Ok(Some(id(1))))));
        assert_eq!(ends.hear(), None);
        assert!(ends.started.try_recv().is_ok(), "the first made room");
    }

    /// Under load entries follow at once: what tells of a commit alone is left out then.
    #[tokio::test(start_paused = true)]
    async fn a_commit_travels_with_the_next_entries_or_a_moment_later() {
        let mut ends = Ends::new(Lane::Append);
        ends.requests.send(append(3, 3)).await.unwrap();
        assert!(ends.heard.next().now_or_never().is_none());
        assert!(ends.started.try_recv().is_err(), "it waits");
        let entries = ends.send(append(3, 5)).await;
        assert!(ends.started.try_recv().is_err(), "one append was started");
        entries.send(Ok(Ok(Some(id(4))))).unwrap();
        assert_eq!(ends.hear(), Some(Ok(Ok(Some(id(4))))));
        ends.requests.send(append(5, 5)).await.unwrap();
        assert!(ends.heard.next().now_or_never().is_none());
        tokio::time::advance(COMMIT_PAUSE * 2).await;
        assert!(ends.heard.next().now_or_never().is_none());
        let alone = ends.started.try_recv().expect("nothing followed it");
        alone.send(Ok(Ok(Some(id(4))))).unwrap();
        assert_eq!(ends.hear(), Some(Ok(Ok(Some(id(4))))));
    }

    /// The last commit is told, and an input that has ended is left alone: openraft's breaks down otherwise.
    #[tokio::test(start_paused = true)]
    async fn an_input_that_ends_behind_a_commit_is_not_asked_again() {
        let mut left = vec![append(3, 3)];
        let input = stream::unfold((), move |()| {
            std::future::ready(left.pop().map(|append| (append, ())))
        });
        let answered = |_| std::future::ready(Ok::<_, Infallible>(Ok(Some(id(2)))));
        let heard = pipeline(input, Lane::Append, 8, answered);
        assert_eq!(heard.collect::<Vec<_>>().await, [Ok(Ok(Some(id(2))))]);
    }

    #[tokio::test(start_paused = true)]
    async fn a_heartbeat_does_not_wait() {
        let mut ends = Ends::new(Lane::Heartbeat);
        let heartbeat = ends.send(append(3, 3)).await;
        heartbeat.send(Ok(Ok(Some(id(2))))).unwrap();
        assert_eq!(ends.hear(), Some(Ok(Ok(Some(id(2))))));
    }

    #[tokio::test]
    async fn a_failure_ends_the_stream_and_takes_what_waited_for_it_along() {
        let mut ends = Ends::new(Lane::Append);
        let first = ends.send(append(1, 3)).await;
        let empty = ends.send(append(3, 3)).await;
        first.send(Ok(Ok(Some(id(2))))).unwrap();
        let higher = StreamAppendError::HigherVote(Vote::new_committed(2, 2));
        empty.send(Ok(Err(higher.clone()))).unwrap();
        assert_eq!(ends.hear(), Some(Ok(Err(higher))));
        drop(ends.requests);
        assert!(ends.heard.next().await.is_none());
    }
}
