//! Ends answers that nobody reads. A caller that opens no window, or does not read its socket,
//! makes no error: the connection just never asks for more of the answer.

use std::future::Future;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

tokio::task_local! {
    /// Of the task that sends the answer: a stream of HTTP/2, or a connection of HTTP/1.
    static CURRENT: Arc<Stall>;
}

/// Since when a piece of an answer has not been taken.
#[derive(Debug, Default)]
pub(crate) struct Stall(Mutex<Option<Instant>>);

impl Stall {
    /// Of the task this is called in.
    pub(crate) fn current() -> Option<Arc<Self>> {
        CURRENT.try_with(Arc::clone).ok()
    }

    /// A piece has been handed to the connection.
    pub(crate) fn begin(&self) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(Instant::now());
    }

    /// The connection asks for more.
    pub(crate) fn end(&self) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = None;
    }

    /// Waits until a piece has not been taken for so long.
    async fn lasts(&self, limit: Duration) {
        loop {
            let since = *self.0.lock().unwrap_or_else(PoisonError::into_inner);
            let end = since.unwrap_or_else(Instant::now) + limit;
            if since.is_some() && end <= Instant::now() {
                return;
            }
            tokio::time::sleep_until(end).await;
        }
    }
}

/// Does the work of sending, unless its reader stalls for so long; then the work is dropped, which
/// resets the stream.
pub(super) async fn unless_stalled<T>(limit: Duration, work: impl Future<Output = T>) -> Option<T> {
    let stall = Arc::new(Stall::default());
    let work = CURRENT.scope(stall.clone(), work);
    tokio::select! {
        biased;
        done = work => Some(done),
        () = stall.lasts(limit) => {
            tracing::debug!(limit_s = limit.as_secs(), "nobody reads an answer; it is given up");
            None
        }
    }
}

/// Runs the streams of a connection.
#[derive(Debug, Clone)]
pub(super) struct Streams(pub(super) Duration);

impl<F> hyper::rt::Executor<F> for Streams
where
    F: Future + Send + 'static,
    F::Output: Send + 'static,
{
    fn execute(&self, stream: F) {
        tokio::spawn(unless_stalled(self.0, stream));
    }
}
