#![doc = include_str!("../README.md")]

mod archive;
mod archiver;
mod backoff;
mod begun;
mod clock;
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
mod listen;
mod logs;
pub mod machine;
pub mod mask;
mod pieces;
mod places;
mod reasons;
mod reports;
mod resolve;
mod retention;
pub mod retry;
pub mod timeline;
mod token;
mod writer;

pub use engine::{Backends, Engine, EngineConfig, EngineStats, StartRun};
pub use error::EngineError;
pub use token::run_token_hash;

/// An error and its causes, joined by `: `.
pub(crate) fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text.push_str(": ");
        text.push_str(&error.to_string());
        cause = error.source();
    }
    text
}
