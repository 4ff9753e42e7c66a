//! Bytes that may be in memory at once on behalf of callers: of all together, of each caller, and
//! where wanted of each connection. A caller's share ends before the whole does, so that nobody can
//! take all of it.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::Duration;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::error::ApiError;

/// One caller may have this part of the whole.
const CALLER_SHARE: usize = 4;
/// How long bytes may be waited for: long enough for others' requests to be handled, short enough
/// to call again.
const CHARGE_TIMEOUT: Duration = Duration::from_secs(5);
/// Shares of callers that are gone are forgotten when there are this many.
const SHARES_TIDY_COUNT: usize = 1024;

/// The bytes of all callers.
#[derive(Debug)]
pub(crate) struct Budget {
    whole: Pool,
    shares: Mutex<HashMap<String, Weak<Semaphore>>>,
}

/// Bytes, and how many there are when nobody has any.
#[derive(Debug, Clone)]
struct Pool {
    free: Arc<Semaphore>,
    size_bytes: usize,
}

impl Pool {
    fn new(size_bytes: usize) -> Self {
        Self { free: Arc::new(Semaphore::new(size_bytes)), size_bytes }
    }
}

/// From where one caller's bytes are taken, the narrowest first.
#[derive(Debug, Clone)]
pub(crate) struct Account(Vec<Pool>);

/// Bytes that are taken; dropped, they are free again.
#[derive(Debug, Default)]
pub(crate) struct Charge {
    permits: Vec<OwnedSemaphorePermit>,
    bytes: usize,
}

impl Budget {
    /// So many bytes for all callers.
    pub(crate) fn new(size_bytes: usize) -> Self {
        Self { whole: Pool::new(size_bytes), shares: Mutex::default() }
    }

    /// The account of a caller, by its name.
    pub(crate) fn account(&self, caller: &str) -> Account {
        Account(vec![self.share(caller), self.whole.clone()])
    }

    /// The same, within what a connection may have.
    pub(crate) fn account_on(
        &self,
        connection: &Arc<Semaphore>,
        size_bytes: usize,
        caller: &str,
    ) -> Account {
        let connection = Pool { free: connection.clone(), size_bytes };
        Account(vec![connection, self.share(caller), self.whole.clone()])
    }

    fn share(&self, caller: &str) -> Pool {
        let size_bytes = self.whole.size_bytes / CALLER_SHARE;
        let mut shares = self.shares.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(free) = shares.get(caller).and_then(Weak::upgrade) {
            return Pool { free, size_bytes };
        }
        if shares.len() >= SHARES_TIDY_COUNT {
            shares.retain(|_, share| share.strong_count() > 0);
        }
        let share = Pool::new(size_bytes);
        shares.insert(caller.to_owned(), Arc::downgrade(&share.free));
        share
    }
}

impl Account {
    /// Makes the charge at least this large. Waits for its turn, not for long.
    ///
    /// # Errors
    /// When others, or the same caller's other calls, have everything.
    pub(crate) async fn raise(&self, charge: &mut Charge, bytes: usize) -> Result<(), ApiError> {
        let more = self.missing(charge, bytes);
        if more == 0 {
            return Ok(());
        }

        // With room for all there is nothing to wait for, and no timer to set.
        if let Ok(permits) =
            self.0.iter().map(|pool| pool.free.clone().try_acquire_many_owned(more)).collect()
        {
            charge.add(permits, more);
            return Ok(());
        }

        let waiting = tokio::time::timeout(CHARGE_TIMEOUT, self.wait(more));
        match waiting.await {
            Ok(permits) => {
                charge.add(permits, more);
                Ok(())
            }
            Err(_) if self.is_spent(more) => {
                Err(ApiError::ShareSpent { limit_bytes: self.0[0].size_bytes as u64 })
            }
            Err(_) => Err(ApiError::NoMemory),
        }
    }

    /// The same without a time limit: other means end the caller that waits.
    pub(crate) async fn take(&self, bytes: usize) -> Charge {
        let mut charge = Charge::default();
        let more = self.missing(&charge, bytes);
        let permits = self.wait(more).await;
        charge.add(permits, more);
        charge
    }

    /// What a charge lacks. One never takes more than half of a pool: what needs more than that has
    /// to do with it.
    fn missing(&self, charge: &Charge, bytes: usize) -> u32 {
        let most = self.0.iter().map(|pool| pool.size_bytes / 2).min().unwrap_or(bytes);
        u32::try_from(bytes.min(most).saturating_sub(charge.bytes)).unwrap_or(u32::MAX)
    }

    async fn wait(&self, bytes: u32) -> Vec<OwnedSemaphorePermit> {
        let mut permits = Vec::with_capacity(self.0.len());
        for pool in &self.0 {
            // Nobody closes these semaphores, so that each answers with a permit.
            permits.extend(pool.free.clone().acquire_many_owned(bytes).await);
        }
        permits
    }

    /// Whether it is the caller's own share that is too small.
    fn is_spent(&self, bytes: u32) -> bool {
        let whole = self.0.len() - 1;
        self.0[..whole].iter().any(|pool| pool.free.available_permits() < bytes as usize)
    }
}

impl Charge {
    fn add(&mut self, permits: Vec<OwnedSemaphorePermit>, bytes: u32) {
        self.bytes += bytes as usize;
        if self.permits.is_empty() {
            self.permits = permits;
            return;
        }
        for (held, more) in self.permits.iter_mut().zip(permits) {
            held.merge(more);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn nobody_takes_all_of_it_and_what_is_dropped_is_free() {
        let budget = Budget::new(4000);
        let (red, blue) = (budget.account("red"), budget.account("blue"));
        let (mut first, mut second, mut third) =
            (Charge::default(), Charge::default(), Charge::default());
        red.raise(&mut first, 500).await.unwrap();
        red.raise(&mut second, 500).await.unwrap();
        let spent = red.raise(&mut third, 1).await;
        assert!(matches!(spent, Err(ApiError::ShareSpent { limit_bytes: 1000 })), "{spent:?}");
        blue.raise(&mut third, 500).await.unwrap();
        drop(first);
        // What is there already is not taken a second time.
        red.raise(&mut second, 400).await.unwrap();
        red.raise(&mut Charge::default(), 500).await.unwrap();
    }

    #[tokio::test(start_paused = true)]
    async fn a_full_server_is_not_the_callers_fault() {
        let budget = Budget::new(4000);
        let mut charges = Vec::new();
        for caller in ["a", "a", "b", "b", "c", "c", "d", "d"] {
            let mut charge = Charge::default();
            budget.account(caller).raise(&mut charge, 500).await.unwrap();
            charges.push(charge);
        }
        let full = budget.account("e").raise(&mut Charge::default(), 1).await;
        assert!(matches!(full, Err(ApiError::NoMemory)), "{full:?}");
        let account = budget.account("e");
        let mut charge = Charge::default();
        let (raised, ()) = tokio::join!(account.raise(&mut charge, 1), async { drop(charges) });
        raised.unwrap();
    }
}
