#![doc = include_str!("../README.md")]

mod clock;
mod commit;
mod config;
mod engine;
mod error;
mod execution;
mod inbox;
pub mod layout;
mod lease;
mod logs;
mod metrics;
mod ports;
mod retention;
mod retry_loop;
pub mod rules;
mod run;
mod run_token;
mod slots;
pub mod timeline;
mod timeouts;

use std::sync::{Mutex, MutexGuard, PoisonError};

pub(crate) use gofer_core::error::chain;

pub use config::{Backends, EngineConfig};
pub use engine::{Engine, StartRun};
pub use error::EngineError;
pub use logs::mask;
pub use metrics::{EngineMetrics, EngineStats};
pub use run_token::run_token_hash;

/// Locks, also after a panic under the lock: what it guards is whole between any two statements.
pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
