#![doc = include_str!("../README.md")]

mod auth;
mod compose;
pub mod config;
mod convert;
mod error;
mod files;
mod hex;
mod intake;
mod metrics;
mod operations;
mod rpc;
mod server;
mod services;
mod transport;

pub use compose::{Launcher, Owner, close_process, supervisor};
pub use server::{
    Activity, CheckLine, Server, ServerError, check, reset_bootstrap, rotate_secrets_key,
};
pub use transport::TlsError;

/// The version of Gofer this is.
pub const VERSION: &str = env!("CARGO_PKG_VERSION");
