//! Memory implementations of the four traits, and a wrapper that makes any implementation fail.
//!
//! They keep nothing on disk, need no server, and behave the same under a paused, single-threaded
//! tokio clock.

mod faulty;
mod memory_journal;
mod memory_object_store;
mod memory_scheduler;
mod memory_secret_store;
mod random;

pub use faulty::{Faults, Faulty};
pub use memory_journal::MemoryJournal;
pub use memory_object_store::MemoryObjectStore;
pub use memory_scheduler::{MemoryScheduler, MemoryWorkloads};
pub use memory_secret_store::MemorySecretStore;
pub use random::Random;

use std::sync::{Mutex, MutexGuard, PoisonError};

/// Locks, also after another test's assertion failed while it held the lock.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
