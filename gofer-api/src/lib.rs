#![doc = include_str!("../README.md")]

mod auth;
mod call;
mod changes;
mod check;
mod compose;
pub mod config;
mod context;
mod convert;
mod cut;
mod disk;
mod error;
mod executions;
mod health;
mod in_flight;
mod operations;
mod page;
mod permissions;
mod server;
mod services;
mod status;
mod transport;

pub use check::{CheckLine, check, rotate_secrets_key};
pub use compose::{Owner, supervisor};
pub use server::{Activity, Launcher, Server, ServerError};

/// The version of Gofer this is.
pub const VERSION: &str = env!("CARGO_PKG_VERSION");
