#![doc = include_str!("../README.md")]

mod added;
mod archive;
mod archiver;
mod backoff;
mod begun;
mod clock;
mod cluster;
mod driver;
mod drivers;
mod end;
mod engine;
mod error;
mod exec;
mod execution;
mod freshness;
mod guard;
mod inbox;
pub mod layout;
mod lead;
mod leases;
mod lines;
mod listen;
mod logs;
pub mod machine;
pub mod mask;
mod pieces;
mod places;
mod reasons;
mod repeated;
mod reports;
mod resolve;
mod retention;
pub mod retry;
pub mod timeline;
mod token;
mod writer;

use std::sync::{Mutex, MutexGuard, PoisonError};

pub(crate) use gofer_core::error::chain;

pub use engine::{Backends, Engine, EngineConfig, EngineStats, StartRun};
pub use error::EngineError;
pub use token::run_token_hash;

/// Locks, also after a panic under the lock: what it guards is whole between any two statements.
pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
