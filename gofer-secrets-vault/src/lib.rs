#![doc = include_str!("../README.md")]

mod check;
mod client;
mod config;
mod credentials;
mod endpoints;
mod error;
mod key;
mod list;
mod retry;
mod session;
mod tls;
mod token;
mod vault;

pub use config::{AuthConfig, AuthMethod, VaultConfig};
pub use vault::VaultSecretStore;
