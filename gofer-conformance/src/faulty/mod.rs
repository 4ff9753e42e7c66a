//! A wrapper that makes an implementation fail.

mod journal;
mod object_store;
mod scheduler;
mod secret_store;

use std::fmt;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use futures::StreamExt;
use futures::stream::{self, BoxStream};
use gofer_core::error::{BackendError, ErrorKind};

use crate::memory::lock;
use crate::random::Random;

/// How often calls fail. Probabilities are from 0.0 (never) to 1.0 (always).
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct Faults {
    /// The call fails and has had no effect.
    pub before: f64,
    /// The call has taken effect, and fails nevertheless: its answer is lost.
    pub after: f64,
    /// Each further item of a stream is an error instead, and the last.
    pub stream: f64,
    /// Every call takes a random time up to this long, half of it before it takes effect; in
    /// tokio's time.
    pub latency: Duration,
}

/// Wraps an `Arc<dyn Scheduler>`, `ObjectStore`, `SecretStore` or `Journal`, and makes calls fail
/// as a seed says.
///
/// The errors are retryable, and do not tell whether the call took effect. The same seed and the
/// same order of calls give the same faults.
pub struct Faulty<T: ?Sized> {
    inner: Arc<T>,
    dice: Mutex<Dice>,
}

struct Dice {
    random: Random,
    faults: Faults,
    injected: u64,
}

impl<T: ?Sized> Faulty<T> {
    /// Makes `inner` fail.
    pub fn new(inner: Arc<T>, seed: u64, faults: Faults) -> Self {
        Self { inner, dice: Mutex::new(Dice { random: Random::new(seed), faults, injected: 0 }) }
    }

    /// From now on calls fail as often as this; `Faults::default()` is never.
    pub fn set_faults(&self, faults: Faults) {
        lock(&self.dice).faults = faults;
    }

    /// How many calls failed so; streams that broke are not counted.
    #[must_use]
    pub fn injected(&self) -> u64 {
        lock(&self.dice).injected
    }

    /// Makes the call, with its faults.
    async fn call<R, E: From<BackendError>>(
        &self,
        name: &str,
        call: impl Future<Output = Result<R, E>> + Send,
    ) -> Result<R, E> {
        self.wait().await;
        self.roll(name, |faults| faults.before)?;
        let answer = call.await?;
        self.wait().await;
        self.roll(name, |faults| faults.after)?;
        Ok(answer)
    }

    async fn wait(&self) {
        let pause = {
            let mut dice = lock(&self.dice);
            let longest_micros =
                u64::try_from(dice.faults.latency.as_micros() / 2).unwrap_or(u64::MAX);
            Duration::from_micros(dice.random.below(longest_micros))
        };
        if !pause.is_zero() {
            tokio::time::sleep(pause).await;
        }
    }

    fn roll(&self, name: &str, probability: impl Fn(&Faults) -> f64) -> Result<(), BackendError> {
        let mut dice = lock(&self.dice);
        let probability = probability(&dice.faults);
        if !dice.random.chance(probability) {
            return Ok(());
        }
        dice.injected += 1;
        let kind =
            if dice.random.chance(0.5) { ErrorKind::Timeout } else { ErrorKind::Unavailable };
        Err(BackendError::new(kind, format!("injected fault {} in `{name}`", dice.injected)))
    }
}

impl<T: ?Sized> Faulty<T> {
    /// The stream, until a fault ends it. Its faults are drawn from a seed of its own, so that how
    /// fast it is read changes nothing for others.
    fn breaking<I: Send + 'static>(
        &self,
        name: &'static str,
        items: BoxStream<'static, Result<I, BackendError>>,
    ) -> BoxStream<'static, Result<I, BackendError>> {
        let (random, probability) = {
            let mut dice = lock(&self.dice);
            (Random::new(dice.random.next_u64()), dice.faults.stream)
        };

        let next = move |state: Option<(BoxStream<'static, _>, Random)>| async move {
            let (mut items, mut random) = state?;
            let item = items.next().await?;
            if random.chance(probability) {
                let error = BackendError::new(
                    ErrorKind::Unavailable,
                    format!("injected fault in a stream of `{name}`"),
                );
                return Some((Err(error), None));
            }

            Some((item, Some((items, random))))
        };

        stream::unfold(Some((items, random)), next).boxed()
    }
}

impl<T: ?Sized + fmt::Debug> fmt::Debug for Faulty<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Faulty").field("inner", &self.inner).finish_non_exhaustive()
    }
}
