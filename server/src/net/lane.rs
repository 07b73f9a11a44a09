//! One direction of a delayed connection: bytes in flight, each with the moment it arrives.
//!
//! The writer puts bytes with a due time, the reader takes them once it has come. Due times never
//! decrease, because every byte of a lane is delayed by the same length; so the front of the queue
//! is always the next to arrive and order is kept. A full lane holds its writer back, as a full
//! socket buffer does.
//!
//! One task writes and one task reads: each side has one waker.

use std::collections::VecDeque;
use std::io;
use std::pin::Pin;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker, ready};
use std::time::Duration;

use bytes::Bytes;
use tokio::time::{Instant, Sleep};

/// Tokio's timer fires at the first whole millisecond at or after a deadline, and the operating system's
/// wake-up rounds up once more. Asking this much early takes most of that back: measured on a busy 2-core
/// machine, round trips of 2 to 20 ms came out 0.4 to 0.8 ms too long, against 1.7 to 2 ms when asking half
/// a millisecond early. Below one millisecond, so whole milliseconds stay exact under a paused clock.
const TIMER_LEAD: Duration = Duration::from_micros(900);

/// What arrives at the end of a lane.
#[derive(Debug)]
pub(super) enum Arrival {
    /// Bytes, never empty.
    Bytes(Bytes),
    /// The writer has ended the stream.
    End,
    /// The stream broke.
    Fault(io::Error),
}

#[derive(Debug)]
pub(super) struct Lane {
    bytes_max: usize,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    in_flight: VecDeque<(Instant, Arrival)>,
    bytes: usize,
    outcome: Option<Result<(), io::ErrorKind>>,
    reader: Option<Waker>,
    writer: Option<Waker>,
}

impl Lane {
    pub(super) fn new(bytes_max: usize) -> Self {
        Lane {
            bytes_max,
            state: Mutex::default(),
        }
    }

    /// Puts as much of `bytes` as there is room for and returns how much that was; pending while full.
    pub(super) fn poll_put(
        &self,
        cx: &mut Context<'_>,
        due: Instant,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let mut state = self.lock();
        if let Some(outcome) = state.outcome {
            return Poll::Ready(Err(outcome.err().unwrap_or(io::ErrorKind::BrokenPipe).into()));
        }
        let taken = bytes.len().min(self.bytes_max - state.bytes);
        if taken == 0 && !bytes.is_empty() {
            state.writer = Some(cx.waker().clone());
            return Poll::Pending;
        }
        if taken > 0 {
            state.bytes += taken;
            state.push(due, Arrival::Bytes(Bytes::copy_from_slice(&bytes[..taken])));
        }
        Poll::Ready(Ok(taken))
    }

    /// Puts the last arrival of the stream; there is always room for it.
    pub(super) fn put_last(&self, due: Instant, last: Arrival) {
        self.lock().push(due, last);
    }

    /// Waits until there is room, and says for how many bytes.
    pub(super) fn poll_room(&self, cx: &mut Context<'_>) -> Poll<usize> {
        let mut state = self.lock();
        if state.bytes < self.bytes_max {
            return Poll::Ready(self.bytes_max - state.bytes);
        }
        state.writer = Some(cx.waker().clone());
        Poll::Pending
    }

    /// Takes at most `bytes_max` bytes, or the end, once due.
    pub(super) fn poll_take(
        &self,
        cx: &mut Context<'_>,
        timer: &mut Pin<Box<Sleep>>,
        bytes_max: usize,
    ) -> Poll<Arrival> {
        let Some(due) = self.front_or_wait(cx) else {
            return Poll::Pending;
        };
        let release = due - TIMER_LEAD;
        if release > Instant::now() {
            timer.as_mut().reset(release);
            ready!(timer.as_mut().poll(cx));
        }
        Poll::Ready(self.take_front(bytes_max))
    }

    /// The writer's side learns how delivery ended: everything handed on, or broken.
    pub(super) fn finish(&self, outcome: Result<(), io::ErrorKind>) {
        let mut state = self.lock();
        state.outcome = Some(outcome);
        state.in_flight.clear();
        state.bytes = 0;
        wake(&mut state.writer);
    }

    /// Waits until [`Lane::finish`] was called.
    pub(super) fn poll_finished(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let mut state = self.lock();
        if let Some(outcome) = state.outcome {
            return Poll::Ready(outcome.map_err(io::Error::from));
        }
        state.writer = Some(cx.waker().clone());
        Poll::Pending
    }

    fn front_or_wait(&self, cx: &mut Context<'_>) -> Option<Instant> {
        let mut state = self.lock();
        let due = state.in_flight.front().map(|(due, _)| *due);
        if due.is_none() {
            state.reader = Some(cx.waker().clone());
        }
        due
    }

    fn take_front(&self, bytes_max: usize) -> Arrival {
        let mut state = self.lock();
        let (due, arrival) = state
            .in_flight
            .pop_front()
            .expect("only the reader takes, and it saw a front");
        let Arrival::Bytes(mut bytes) = arrival else {
            return arrival;
        };
        if bytes.len() > bytes_max {
            let rest = bytes.split_off(bytes_max);
            state.in_flight.push_front((due, Arrival::Bytes(rest)));
        }
        state.bytes -= bytes.len();
        wake(&mut state.writer);
        Arrival::Bytes(bytes)
    }

    /// A panic elsewhere leaves the queue whole: every change above is a single push or pop.
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn push(&mut self, due: Instant, arrival: Arrival) {
        self.in_flight.push_back((due, arrival));
        wake(&mut self.reader);
    }
}

fn wake(waker: &mut Option<Waker>) {
    if let Some(waker) = waker.take() {
        waker.wake();
    }
}
