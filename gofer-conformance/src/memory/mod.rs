//! The four traits in memory.
//!
//! They keep nothing on disk, need no server, and behave the same under a paused, single-threaded
//! tokio clock.

mod journal;
mod object_store;
mod scheduler;
mod secret_store;

pub use journal::MemoryJournal;
pub use object_store::MemoryObjectStore;
pub use scheduler::{MemoryScheduler, MemoryWorkloads};
pub use secret_store::MemorySecretStore;

use std::sync::{Mutex, MutexGuard, PoisonError};

/// Locks, also after another test's assertion failed while it held the lock.
pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
