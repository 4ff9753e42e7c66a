#![doc = include_str!("../README.md")]

mod auth;
mod bootstrap;
mod call;
mod changes;
mod check;
mod compose;
pub mod config;
mod context;
mod convert;
mod credential_file;
mod cut;
mod error;
mod executions;
mod health;
mod operations;
mod own_token;
mod page;
mod permissions;
mod provenance;
mod server;
mod services;
mod standing;
mod status;
mod transport;

pub use bootstrap::reset_bootstrap;
pub use check::{CheckLine, check, rotate_secrets_key};
pub use compose::{Owner, supervisor};
pub use server::{Activity, Launcher, Server, ServerError};

/// The version of Gofer this is.
pub const VERSION: &str = env!("CARGO_PKG_VERSION");
