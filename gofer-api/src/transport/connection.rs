//! What a server knows of one connection.

use std::net::{IpAddr, Ipv4Addr};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::Waker;
use std::time::Duration;

use futures::task::AtomicWaker;
use tokio::sync::Semaphore;
use tokio::time::{Instant, sleep};
use tokio_util::sync::CancellationToken;

use super::CONNECTION_ANSWERS_MAX_BYTES;
use super::budget::{Account, Budget};
use crate::error::ApiError;

/// Calls without a token at once on one connection: health, reflection, and the one that makes the
/// first token.
const ANONYMOUS_CALLS_MAX: usize = 16;

/// What a server knows of one connection.
#[derive(Debug)]
pub(crate) struct Connection {
    /// Whose it is.
    pub(super) address: IpAddr,
    pub(super) close: CancellationToken,
    pub(super) has_sent_head: AtomicBool,
    authenticated: AtomicBool,
    waiting_reader: AtomicWaker,
    anonymous_calls: AtomicUsize,
    /// Calls in flight, and since when there are none.
    calls: Mutex<(usize, Instant)>,
    answers: Arc<Semaphore>,
}

/// A call in flight on a connection.
#[derive(Debug)]
pub(crate) struct InFlight {
    connection: Arc<Connection>,
    anonymous: bool,
}

impl Default for Connection {
    fn default() -> Self {
        Self::new(Ipv4Addr::UNSPECIFIED.into())
    }
}

impl Connection {
    pub(super) fn new(address: IpAddr) -> Self {
        Self {
            address,
            close: CancellationToken::new(),
            has_sent_head: AtomicBool::new(false),
            authenticated: AtomicBool::new(false),
            waiting_reader: AtomicWaker::new(),
            anonymous_calls: AtomicUsize::new(0),
            calls: Mutex::new((0, Instant::now())),
            answers: Arc::new(Semaphore::new(CONNECTION_ANSWERS_MAX_BYTES)),
        }
    }

    /// Whose it is.
    pub(crate) fn address(&self) -> IpAddr {
        self.address
    }

    /// Counts a call that begins. One by somebody with a token vouches for the connection.
    ///
    /// # Errors
    /// When there are too many calls without a token.
    pub(crate) fn begin_call(self: &Arc<Self>, authenticated: bool) -> Result<InFlight, ApiError> {
        if authenticated && !self.authenticated.swap(true, Ordering::AcqRel) {
            self.waiting_reader.wake();
        }
        if !authenticated
            && self.anonymous_calls.fetch_add(1, Ordering::AcqRel) >= ANONYMOUS_CALLS_MAX
        {
            self.anonymous_calls.fetch_sub(1, Ordering::AcqRel);
            return Err(ApiError::TooManyCalls { limit: ANONYMOUS_CALLS_MAX });
        }
        self.lock_calls().0 += 1;
        Ok(InFlight { connection: self.clone(), anonymous: !authenticated })
    }

    /// What a caller's answers on this connection may hold.
    pub(crate) fn answers(&self, budget: &Budget, caller: &str) -> Account {
        budget.account_on(&self.answers, CONNECTION_ANSWERS_MAX_BYTES, caller)
    }

    /// Whether a call with a token was made on it.
    pub(super) fn is_authenticated(&self) -> bool {
        self.authenticated.load(Ordering::Acquire)
    }

    /// Whom to wake when one is made.
    pub(super) fn wake_when_authenticated(&self, waker: &Waker) {
        self.waiting_reader.register(waker);
    }

    /// For how long there has been no call; `None` while there is one.
    pub(super) fn idle_for(&self) -> Option<Duration> {
        let calls = self.lock_calls();
        (calls.0 == 0).then(|| calls.1.elapsed())
    }

    /// Ends it at once.
    pub(super) fn close(&self) {
        self.close.cancel();
    }

    #[cfg(test)]
    pub(super) fn is_closed(&self) -> bool {
        self.close.is_cancelled()
    }

    fn lock_calls(&self) -> std::sync::MutexGuard<'_, (usize, Instant)> {
        self.calls.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Returns once a connection without a token has had no call for so long.
    pub(super) async fn is_abandoned(&self, limit: Duration) {
        loop {
            let idle = if self.is_authenticated() { None } else { self.idle_for() };
            let left = idle.map_or(limit, |idle| limit.saturating_sub(idle));
            if left.is_zero() {
                return;
            }
            sleep(left).await;
        }
    }
}

impl Drop for InFlight {
    fn drop(&mut self) {
        if self.anonymous {
            self.connection.anonymous_calls.fetch_sub(1, Ordering::AcqRel);
        }
        let mut calls = self.connection.lock_calls();
        calls.0 -= 1;
        calls.1 = Instant::now();
    }
}
