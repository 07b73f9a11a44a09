//! openraft's runtime: tokio's tasks and channels, with this host's own clock and random numbers.
//!
//! openraft asks its runtime for the time and for election jitter through static functions, so each host's
//! [`HostContext`] travels with its tasks as a task-local and is inherited by every task they spawn. The clock may
//! run fast or slow, and ahead or behind, to test that correctness does not hang on it.

use std::fmt;
use std::future::Future;
use std::ops::{Add, AddAssign, Sub, SubAssign};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use openraft::{AsyncRuntime, OptionalSend};
use rand::rand_core::{Infallible, SeedableRng, TryRng};
use rand_chacha::ChaCha8Rng;

tokio::task_local! {
    static CONTEXT: HostContext;
}

/// The rate of true time, in parts per million.
const MILLION: u64 = 1_000_000;

/// How a host's clock differs from the one its process runs on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ClockSkew {
    /// Speed in parts per million: 1,000,000 is true time.
    pub rate_ppm: u64,
    /// How far ahead the clock stands.
    pub ahead: Duration,
}

impl Default for ClockSkew {
    fn default() -> Self {
        Self {
            rate_ppm: MILLION,
            ahead: Duration::ZERO,
        }
    }
}

/// One host's clock and random numbers.
#[derive(Clone)]
pub struct HostContext {
    skew: ClockSkew,
    base: tokio::time::Instant,
    random: Arc<Mutex<ChaCha8Rng>>,
}

impl HostContext {
    /// A context whose random numbers follow from `seed`. Must be made inside a tokio runtime, whose time it uses.
    pub fn new(seed: u64, skew: ClockSkew) -> Self {
        Self {
            skew,
            base: tokio::time::Instant::now(),
            random: Arc::new(Mutex::new(ChaCha8Rng::seed_from_u64(seed))),
        }
    }

    /// Runs `task` in this context; tasks that openraft spawns from it inherit the context.
    pub fn scope<F: Future>(&self, task: F) -> impl Future<Output = F::Output> + use<F> {
        CONTEXT.scope(self.clone(), task)
    }

    /// A random number below `bound` (which must not be 0).
    pub fn random_below(&self, bound: u64) -> u64 {
        self.next_u64() % bound
    }

    /// A random number.
    pub fn next_u64(&self) -> u64 {
        let mut random = self.random.lock().expect("no panic while drawing");
        match random.try_next_u64() {
            Ok(drawn) => drawn,
        }
    }

    /// How long this host's clock has run: it never goes back, and does not know of the time of day.
    pub fn uptime(&self) -> Duration {
        self.now()
            .0
            .saturating_duration_since(self.base + self.skew.ahead)
    }

    fn current() -> Option<Self> {
        CONTEXT.try_with(Clone::clone).ok()
    }

    fn now(&self) -> HostInstant {
        let elapsed = shown(self.base.elapsed(), self.skew.rate_ppm);
        HostInstant(self.base + elapsed + self.skew.ahead)
    }

    /// When this clock shows `local`, and no sooner: a sleeper that woke a nanosecond early would never go on where time
    /// stands still while it is awake.
    fn real(&self, local: HostInstant) -> tokio::time::Instant {
        let elapsed = local.0.saturating_duration_since(self.base + self.skew.ahead);
        self.base + self.real_duration(elapsed)
    }

    fn real_duration(&self, local: Duration) -> Duration {
        if self.skew.rate_ppm == MILLION {
            return local;
        }
        from_nanos((local.as_nanos() * u128::from(MILLION)).div_ceil(u128::from(self.skew.rate_ppm.max(1))))
    }
}

/// What a clock of this rate shows of `real`, rounded down to the nanosecond.
fn shown(real: Duration, rate_ppm: u64) -> Duration {
    if rate_ppm == MILLION {
        return real;
    }
    from_nanos(real.as_nanos() * u128::from(rate_ppm) / u128::from(MILLION))
}

fn from_nanos(nanos: u128) -> Duration {
    Duration::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX))
}

impl fmt::Debug for HostContext {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("HostContext")
            .field("skew", &self.skew)
            .finish_non_exhaustive()
    }
}

/// A moment on the current host's clock.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct HostInstant(tokio::time::Instant);

impl openraft_rt::Instant for HostInstant {
    fn now() -> Self {
        match HostContext::current() {
            Some(context) => context.now(),
            None => Self(tokio::time::Instant::now()),
        }
    }
}

impl Add<Duration> for HostInstant {
    type Output = Self;
    fn add(self, rhs: Duration) -> Self {
        Self(self.0 + rhs)
    }
}

impl AddAssign<Duration> for HostInstant {
    fn add_assign(&mut self, rhs: Duration) {
        self.0 += rhs;
    }
}

impl Sub<Duration> for HostInstant {
    type Output = Self;
    fn sub(self, rhs: Duration) -> Self {
        Self(self.0 - rhs)
    }
}

impl Sub<Self> for HostInstant {
    type Output = Duration;
    fn sub(self, rhs: Self) -> Duration {
        self.0 - rhs.0
    }
}

impl SubAssign<Duration> for HostInstant {
    fn sub_assign(&mut self, rhs: Duration) {
        self.0 -= rhs;
    }
}

/// Draws from the current host's generator.
#[derive(Debug)]
pub(crate) struct HostRng(HostContext);

impl TryRng for HostRng {
    type Error = Infallible;

    fn try_next_u32(&mut self) -> Result<u32, Infallible> {
        Ok(self.0.next_u64() as u32)
    }

    fn try_next_u64(&mut self) -> Result<u64, Infallible> {
        Ok(self.0.next_u64())
    }

    fn try_fill_bytes(&mut self, dst: &mut [u8]) -> Result<(), Infallible> {
        for chunk in dst.chunks_mut(8) {
            chunk.copy_from_slice(&self.0.next_u64().to_le_bytes()[..chunk.len()]);
        }
        Ok(())
    }
}

/// The runtime that openraft's tasks run on.
#[derive(Debug)]
pub(crate) struct HostRuntime {
    runtime: tokio::runtime::Runtime,
}

impl AsyncRuntime for HostRuntime {
    type JoinError = tokio::task::JoinError;
    type JoinHandle<T: OptionalSend + 'static> = tokio::task::JoinHandle<T>;
    type Sleep = tokio::time::Sleep;
    type Instant = HostInstant;
    type TimeoutError = tokio::time::error::Elapsed;
    type Timeout<R, T: Future<Output = R> + OptionalSend> = tokio::time::Timeout<T>;
    type ThreadLocalRng = HostRng;
    type Mpsc = openraft_rt_tokio::TokioMpsc;
    type Watch = openraft_rt_tokio::TokioWatch;
    type Oneshot = openraft_rt_tokio::TokioOneshot;
    type Mutex<T: OptionalSend + 'static> = openraft_rt_tokio::TokioMutex<T>;

    fn spawn<T>(future: T) -> Self::JoinHandle<T::Output>
    where
        T: Future + OptionalSend + 'static,
        T::Output: OptionalSend + 'static,
    {
        match HostContext::current() {
            Some(context) => tokio::spawn(context.scope(future)),
            None => tokio::spawn(future),
        }
    }

    fn sleep(duration: Duration) -> Self::Sleep {
        match HostContext::current() {
            Some(context) => tokio::time::sleep(context.real_duration(duration)),
            None => tokio::time::sleep(duration),
        }
    }

    fn sleep_until(deadline: HostInstant) -> Self::Sleep {
        match HostContext::current() {
            Some(context) => tokio::time::sleep_until(context.real(deadline)),
            None => tokio::time::sleep_until(deadline.0),
        }
    }

    fn timeout<R, F: Future<Output = R> + OptionalSend>(
        duration: Duration,
        future: F,
    ) -> Self::Timeout<R, F> {
        match HostContext::current() {
            Some(context) => tokio::time::timeout(context.real_duration(duration), future),
            None => tokio::time::timeout(duration, future),
        }
    }

    fn timeout_at<R, F: Future<Output = R> + OptionalSend>(
        deadline: HostInstant,
        future: F,
    ) -> Self::Timeout<R, F> {
        match HostContext::current() {
            Some(context) => tokio::time::timeout_at(context.real(deadline), future),
            None => tokio::time::timeout_at(deadline.0, future),
        }
    }

    fn is_panic(join_error: &Self::JoinError) -> bool {
        join_error.is_panic()
    }

    fn thread_rng() -> HostRng {
        // Outside a host (openraft's own storage suite) the sequence is fixed; a host always has a context.
        HostRng(HostContext::current().unwrap_or_else(|| HostContext::new(0, ClockSkew::default())))
    }

    fn new(threads: usize) -> Self {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(threads)
            .enable_all()
            .build()
            .expect("a tokio runtime can be built");
        Self { runtime }
    }

    fn block_on<F, T>(&mut self, future: F) -> T
    where
        F: Future<Output = T>,
    {
        self.runtime.block_on(future)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_sleeper_does_not_wake_before_its_clock_shows_the_time() {
        for rate_ppm in [955_000, 960_001, 999_999, 1_000_000, 1_000_003, 1_044_999] {
            let skew = ClockSkew {
                rate_ppm,
                ahead: Duration::from_millis(7),
            };
            let context = HostContext::new(1, skew);
            for local in (1..5_000).map(|step| Duration::from_nanos(step * 1_000_003)) {
                let real = context.real_duration(local);
                assert!(shown(real, rate_ppm) >= local, "{rate_ppm} {local:?}");
                let sooner = real - Duration::from_nanos(2);
                assert!(shown(sooner, rate_ppm) < local, "{rate_ppm} {local:?}");
            }
        }
    }
}
