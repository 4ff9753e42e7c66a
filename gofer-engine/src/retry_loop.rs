//! Repeats a call to something outside until it answers. The waits between double, with jitter, so
//! that many waiters spread out.
//!
//! The jitter comes from the waiter's name and how often it has waited: it spreads as well as a
//! random one, and a simulation sees the same wait each time.

use std::hash::{DefaultHasher, Hash, Hasher};
use std::ops::ControlFlow;
use std::pin::pin;
use std::time::Duration;

const FIRST_WAIT: Duration = Duration::from_millis(50);
const LONGEST_WAIT: Duration = Duration::from_secs(5);

/// Calls until one breaks off with an answer. Each that does not has said why.
pub(crate) async fn retry<T, F>(waiter: impl Hash, mut call: impl FnMut() -> F) -> T
where
    F: Future<Output = ControlFlow<T>>,
{
    let mut backoff = Backoff::new(waiter);
    loop {
        if let ControlFlow::Break(answer) = call().await {
            return answer;
        }
        backoff.wait().await;
    }
}

/// The same, until `cancelled`: that ends a wait, but no call. `None` then.
pub(crate) async fn retry_until<T, F>(
    waiter: impl Hash,
    cancelled: impl Future<Output = ()>,
    mut call: impl FnMut() -> F,
) -> Option<T>
where
    F: Future<Output = ControlFlow<T>>,
{
    let mut backoff = Backoff::new(waiter);
    let mut cancelled = pin!(cancelled);
    loop {
        if let ControlFlow::Break(answer) = call().await {
            return Some(answer);
        }
        tokio::select! {
            biased;
            () = &mut cancelled => return None,
            () = backoff.wait() => {}
        }
    }
}

/// The waits of a loop that goes on after an answer.
#[derive(Debug)]
pub(crate) struct Backoff {
    next: Duration,
    jitter: DefaultHasher,
}

impl Backoff {
    /// For this waiter, whatever tells it from others.
    pub(crate) fn new(waiter: impl Hash) -> Self {
        let mut jitter = DefaultHasher::new();
        waiter.hash(&mut jitter);
        Self { next: FIRST_WAIT, jitter }
    }

    /// The next wait: between half of and the whole current step.
    fn next_delay(&mut self) -> Duration {
        let step = self.next;
        self.next = (step * 2).min(LONGEST_WAIT);
        step.hash(&mut self.jitter);
        let fraction = f64::from((self.jitter.finish() >> 32) as u32) / f64::from(u32::MAX);
        step.mul_f64(0.5 + fraction / 2.0)
    }

    pub(crate) async fn wait(&mut self) {
        tokio::time::sleep(self.next_delay()).await;
    }

    pub(crate) fn reset(&mut self) {
        self.next = FIRST_WAIT;
    }
}
