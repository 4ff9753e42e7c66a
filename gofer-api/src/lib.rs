#![doc = include_str!("../README.md")]

mod auth;
mod bootstrap;
mod boundary;
mod call;
mod changes;
mod check;
mod compose;
pub mod config;
mod context;
mod convert;
mod credential_file;
mod cut;
mod data_dir;
mod disk;
mod error;
mod executions;
mod health;
mod in_flight;
mod intake;
mod operations;
mod own_token;
mod page;
mod permissions;
mod provenance;
mod reload;
mod server;
mod services;
mod standing;
mod status;
mod transport;

pub use bootstrap::reset_bootstrap;
pub use check::{CheckLine, check, rotate_secrets_key};
pub use compose::{Owner, close_process, supervisor};
pub use server::{Activity, Launcher, Server, ServerError};
pub use transport::TlsError;

/// The version of Gofer this is.
pub const VERSION: &str = env!("CARGO_PKG_VERSION");
